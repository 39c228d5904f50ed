//go:build linux && !race

// What is measured here the race detector would change.

package jetstream_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
	"fetchbench/fetch/jetstream"
)

// By way of the broker, with 1000 URLs a shard, a strategy has at least 0.7 of the URLs/s that it has
// without. Both run in turns, and the median of the ratios of neighbours counts. A noisy machine gets
// up to 15 pairs to show it.
func TestOverhead(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	server := fetchtest.NewServer(t)
	client := &fetch.Client{}
	defer client.CloseIdleConnections()
	const n = 100_000
	run := func(s fetch.Strategy) float64 {
		f := fetch.Fetcher{Strategy: s, Doer: client}
		begun := time.Now()
		got := 0
		for r := range f.Fetch(t.Context(), urls(server, n)) {
			if r.OK() {
				got++
			}
		}
		require.Equal(t, n, got)
		return n / time.Since(begun).Seconds()
	}
	run(fetch.Pool{}) // which opens the connections
	var ratios []float64
	median := 0.0
	for pair := 0; pair < 15 && (pair < 5 || median < 0.7); pair++ {
		var without, with float64
		if pair%2 == 0 {
			without = run(fetch.Pool{})
			with = run(jetstream.Strategy{})
		} else {
			with = run(jetstream.Strategy{})
			without = run(fetch.Pool{})
		}
		ratios = append(ratios, with/without)
		slices.Sort(ratios)
		median = ratios[len(ratios)/2]
	}
	t.Logf("URLs/s by way of the broker / without it: %.2f, of %d pairs (%.2f to %.2f)", median, len(ratios), ratios[0], ratios[len(ratios)-1])
	assert.GreaterOrEqual(t, median, 0.7)
}

// A million URLs over four worker processes: each has one result, and the memory of no process grows with their
// number. (That of the broker is that of nats-server: it keeps for some seconds what was written.)
func TestMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("a million URLs take half a minute")
	}
	server := fetchtest.NewServer(t)
	// run returns the most memory that a worker had, and the most that was live here, in KiB.
	run := func(n int) (workers, here int) {
		broker := startBroker(t)
		job := jetstream.Job{Name: fmt.Sprint("many", n), Address: broker.address()}
		var processes []*process
		for range 4 {
			processes = append(processes, start(t, role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 16}))
		}
		seen := make([]uint64, n/64+1)
		f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job}}
		got := 0
		for r := range f.Fetch(t.Context(), urls(server, n)) {
			if !r.OK() {
				require.FailNow(t, "a request failed", "%d %v", r.Status, r.Err)
			}
			i := r.Request.Index
			if seen[i/64]&(1<<(i%64)) != 0 {
				require.FailNow(t, "a second result", "for %d", i)
			}
			seen[i/64] |= 1 << (i % 64)
			if got++; got%(n/10) == 0 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				here = max(here, int(m.HeapAlloc>>10))
			}
		}
		require.Equal(t, n, got)
		for _, p := range processes {
			require.Equal(t, "ended: <nil>", p.next(t))
			var live, peak int
			_, err := fmt.Sscanf(p.next(t), "live %d peak %d", &live, &peak)
			require.NoError(t, err)
			workers = max(workers, peak)
		}
		t.Logf("%d URLs: a worker had at most %d KiB, here %d KiB were live, the broker had at most %d KiB", n, workers, here, peakRSS(broker.Process.Pid)>>10)
		return workers, here
	}
	fewWorkers, fewHere := run(100_000)
	manyWorkers, manyHere := run(1_000_000)
	assert.LessOrEqual(t, float64(manyWorkers), 1.5*float64(fewWorkers)+16<<10, "KiB of a worker")
	assert.LessOrEqual(t, float64(manyHere), 1.5*float64(fewHere)+16<<10, "KiB live here")
}
