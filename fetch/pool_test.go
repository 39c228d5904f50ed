package fetch_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// A Doer that calls runtime.Goexit (t.FailNow does) takes a worker with it, which has to be
// replaced: else the last one's end would hold up the loop for ever.
func TestDoerCallsGoexit(t *testing.T) {
	for _, s := range []fetch.Strategy{
		fetch.Pool{Workers: 1}, fetch.Pool{Workers: 3}, fetch.Semaphore{Limit: 3}, fetch.Threads{Limit: 3}, fetch.Pipeline{Limit: 3},
		fetch.Batch{Size: 10, Each: fetch.Pool{Workers: 3}},
	} {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const bad, good = 10, 30
				var g, after fetchtest.Gauge
				doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
					if r.Index < bad {
						runtime.Goexit()
					}
					defer after.Enter()()
					return asleep(time.Second)(ctx, r)
				})
				begun := time.Now()
				failed, ok := 0, 0
				for r := range (&fetch.Fetcher{Strategy: s, Doer: g.Doer(doer)}).Fetch(t.Context(), pings(bad+good)) {
					if r.OK() {
						ok++
						continue
					}
					failed++
					var p *fetch.PanicError
					require.ErrorAs(t, r.Err, &p)
					assert.Less(t, r.Request.Index, bad)
					assert.ErrorIs(t, r.Err, fetch.ErrPanic)
					assert.ErrorContains(t, r.Err, "runtime.Goexit")
				}
				assert.Equal(t, bad, failed)
				assert.Equal(t, good, ok)
				limit := s.Limits().InFlight
				assert.Equal(t, limit, after.Peak(), "workers afterwards")
				assert.LessOrEqual(t, g.Peak(), limit)
				rounds := good / limit
				if _, ok := s.(fetch.Batch); ok {
					rounds = 3 * 4 // each batch of 10 has a round of one
				}
				assert.Equal(t, time.Duration(rounds)*time.Second, time.Since(begun))
			})
		})
	}
}

// A limit that makes no sense is a mistake in the program: it shows where it is made.
func TestStrategyFields(t *testing.T) {
	for _, c := range []struct {
		strategy fetch.Strategy
		want     string
	}{
		{fetch.Threads{Limit: -1}, "fetch: Threads.Limit is -1"},
		{fetch.Threads{Limit: 8193}, "fetch: Threads.Limit is 8193: at most 8192"},
		{fetch.Pool{Workers: -3}, "fetch: Pool.Workers is -3"},
		{fetch.Pool{Workers: 1<<20 + 1}, "fetch: Pool.Workers is 1048577: at most 1048576"},
		{fetch.Semaphore{Limit: -1}, "fetch: Semaphore.Limit is -1"},
		{fetch.Semaphore{Limit: 1<<20 + 1}, "fetch: Semaphore.Limit is 1048577: at most 1048576"},
		{fetch.Pipeline{Limit: -1}, "fetch: Pipeline.Limit is -1"},
		{fetch.Pipeline{Limit: 1<<20 + 1}, "fetch: Pipeline.Limit is 1048577: at most 1048576"},
		{fetch.Pipeline{Depth: -1}, "fetch: Pipeline.Depth is -1"},
		{fetch.Pipeline{Depth: 1<<20 + 1}, "fetch: Pipeline.Depth is 1048577: at most 1048576"},
		{fetch.Batch{Size: -1}, "fetch: Batch.Size is -1"},
		{fetch.Batch{Size: 1<<20 + 1}, "fetch: Batch.Size is 1048577: at most 1048576"},
		{fetch.Batch{Each: fetch.Pool{Workers: -3}}, "fetch: Pool.Workers is -3"},
		{fetch.Batch{Each: fetch.Batch{Size: 10}}, "fetch: Batch.Each is a batch itself: batch(10,pool(64))"},
		{fetch.Shard{Processes: -1}, "fetch: Shard.Processes is -1"},
		{fetch.Shard{Processes: 1025}, "fetch: Shard.Processes is 1025: at most 1024"},
		{fetch.Shard{Attempts: -1}, "fetch: Shard.Attempts is -1"},
		{fetch.Shard{Restarts: -1}, "fetch: Shard.Restarts is -1"},
		{fetch.Shard{Hang: -time.Second}, "fetch: Shard.Hang is -1s"},
		{fetch.Shard{Each: fetch.Pool{Workers: -3}}, "fetch: Pool.Workers is -3"},
		{fetch.Shard{Each: fetch.Batch{Size: 10}}, "fetch: Shard.Each is batch(10,pool(64)): put the Shard into the Batch, as its Each"},
		{fetch.Shard{Each: fetch.Shard{Processes: 2}}, "fetch: Shard.Each is shard(2,pool(64)): children have no children"},
		{fetch.Shard{Processes: 1024, Each: fetch.Pool{Workers: 1025}},
			"fetch: Shard's requests at once, Processes times those of Each, is 1049600: at most 1048576"},
		{fetch.Batch{Each: fetch.Shard{Processes: -1}}, "fetch: Shard.Processes is -1"},
	} {
		t.Run(fmt.Sprintf("%#v", c.strategy), func(t *testing.T) {
			assert.PanicsWithValue(t, c.want, func() { c.strategy.Limits() }, "Limits")
			assert.PanicsWithValue(t, c.want, func() { _ = c.strategy.String() }, "String")
			assert.PanicsWithValue(t, c.want, func() { c.strategy.Start(t.Context(), api) }, "Start")
			f := fetch.Fetcher{Strategy: c.strategy}
			assert.PanicsWithValue(t, c.want, func() { f.Get(t.Context()) }, "Get, before its results are ranged over")
			assert.PanicsWithValue(t, c.want, func() { f.Stream(t.Context(), make(chan fetch.Request)) }, "Stream")
			assert.PanicsWithValue(t, c.want, func() { f.FetchQueue(t.Context(), new(fetch.Queue)) }, "FetchQueue")
		})
	}
}

// Strategies are plain data: map keys, values of a flag, a message to another process.
func TestStrategyIsPlainData(t *testing.T) {
	procs := runtime.GOMAXPROCS(0)
	gob.Register(fetch.Shard{})
	seen := make(map[fetch.Strategy]bool)
	cases := []struct {
		strategy               fetch.Strategy
		name                   string
		inFlight, ahead, batch int
	}{
		{fetch.Serial{}, "serial", 1, 1, 0},
		{fetch.Threads{}, "threads(64)", 64, 64, 0},
		{fetch.Threads{Limit: 8192}, "threads(8192)", 8192, 8192, 0},
		{fetch.Pool{}, "pool(64)", 64, 128, 0},
		{fetch.Pool{Workers: 1 << 20}, "pool(1048576)", 1 << 20, 1 << 21, 0},
		{fetch.Semaphore{}, "semaphore(64)", 64, 64, 0},
		{fetch.Semaphore{Limit: 5}, "semaphore(5)", 5, 5, 0},
		{fetch.Pipeline{}, "pipeline(1024,16)", 1024, 2048, 0},
		{fetch.Pipeline{Limit: 16, Depth: 4}, "pipeline(16,4)", 16, 32, 0},
		{fetch.Pipeline{Limit: 2, Depth: 4}, "pipeline(2,2)", 2, 4, 0},
		{fetch.Batch{}, "batch(10000,pool(64))", 64, 128, 10_000},
		{fetch.Batch{Size: 100, Each: fetch.Pool{Workers: 7}}, "batch(100,pool(7))", 7, 14, 100},
		{fetch.Batch{Size: 10, Each: fetch.Pool{Workers: 20}}, "batch(10,pool(20))", 10, 10, 10},
		{fetch.Batch{Size: 10, Each: fetch.Serial{}}, "batch(10,serial)", 1, 1, 10},
		{fetch.Batch{Size: 100, Each: fetch.Semaphore{}}, "batch(100,semaphore(64))", 64, 64, 100},
		{fetch.Batch{Size: 100, Each: fetch.Pipeline{Limit: 16, Depth: 4}}, "batch(100,pipeline(16,4))", 16, 32, 100},
		{fetch.Batch{Size: 100, Each: fetch.Shard{Processes: 2}}, "batch(100,shard(2,pool(64)))", 100, 100, 100},
		{fetch.Shard{}, fmt.Sprintf("shard(%d,pool(64))", procs), 64 * procs, 128 * procs, 0},
		{fetch.Shard{Processes: 3, Each: fetch.Serial{}}, "shard(3,serial)", 3, 6, 0},
		{fetch.Shard{Processes: 2, Each: fetch.Pipeline{Limit: 8}, Hang: time.Minute}, "shard(2,pipeline(8,8))", 16, 32, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.name, c.strategy.String())
			assert.Equal(t, c.name, fmt.Sprint(c.strategy))
			assert.Equal(t, fetch.Limits{InFlight: c.inFlight, Ahead: c.ahead, Batch: c.batch}, c.strategy.Limits())

			gob.Register(c.strategy)
			var buf bytes.Buffer
			sent := c.strategy
			require.NoError(t, gob.NewEncoder(&buf).Encode(&sent))
			var received fetch.Strategy
			require.NoError(t, gob.NewDecoder(&buf).Decode(&received))
			assert.True(t, sent == received, "%v came as %v", sent, received)
			seen[received] = true
			assert.True(t, seen[c.strategy], "as the key of a map")
		})
	}
	assert.Len(t, seen, len(cases))
}

// A client with an address policy, say, must not be dropped without a word.
func TestDoerOfRemoteStrategy(t *testing.T) {
	const advice = ", and has to be nil: give it to fetch.ShardMain(doer), first thing in main"
	for _, c := range []struct {
		strategy fetch.Strategy
		want     string
	}{
		{fetch.Shard{Processes: 2}, "fetch: Fetcher.Doer does not perform the requests of shard(2,pool(64))" + advice},
		{fetch.Batch{Size: 9, Each: fetch.Shard{Processes: 2}}, "fetch: Fetcher.Doer does not perform the requests of batch(9,shard(2,pool(64)))" + advice},
	} {
		for name, d := range map[string]fetch.Doer{"a Client": &fetch.Client{AllowAddr: fetch.PublicOnly}, "DefaultClient": fetch.DefaultClient} {
			f := fetch.Fetcher{Strategy: c.strategy, Doer: d}
			assert.PanicsWithValue(t, c.want, func() { f.Get(t.Context()) }, "Get with %s", name)
			assert.PanicsWithValue(t, c.want, func() { f.Fetch(t.Context(), fetch.URLs()) }, "Fetch with %s", name)
			assert.PanicsWithValue(t, c.want, func() { f.Stream(t.Context(), make(chan fetch.Request)) }, "Stream with %s", name)
			assert.PanicsWithValue(t, c.want, func() { f.FetchQueue(t.Context(), new(fetch.Queue)) }, "FetchQueue with %s", name)
		}
		assert.NotPanics(t, func() { (&fetch.Fetcher{Strategy: c.strategy}).Get(t.Context()) })
	}
}

func TestFetchOfNil(t *testing.T) {
	f := new(fetch.Fetcher)
	assert.PanicsWithValue(t, "fetch: Fetch of a nil sequence", func() { f.Fetch(t.Context(), nil) })
	assert.PanicsWithValue(t, "fetch: Stream of a nil channel", func() { f.Stream(t.Context(), nil) })
	assert.PanicsWithValue(t, "fetch: FetchQueue of a nil Queue", func() { f.FetchQueue(t.Context(), nil) })
}

// The zero Fetcher is Pool{} and DefaultClient.
func TestZeroFetcher(t *testing.T) {
	dials := new(atomic.Int64)
	former := fetch.DefaultClient
	fetch.DefaultClient = &fetch.Client{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer func() { fetch.DefaultClient = former }()
	defer fetch.DefaultClient.CloseIdleConnections()

	limit := fetch.Pool{}.Limits().InFlight
	var g fetchtest.Gauge
	full := make(chan struct{}) // closed when there are as many requests as Pool{} has workers
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer g.Enter()()
		if g.Total() == limit {
			close(full)
		}
		select {
		case <-full:
		case <-r.Context().Done():
		}
		fmt.Fprint(w, r.URL.Path)
	}))

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var urls []string
	for i := range 3 * limit {
		urls = append(urls, fmt.Sprintf("%s/%d", server.URL, i))
	}
	n := 0
	for r := range new(fetch.Fetcher).Get(ctx, urls...) {
		require.NoError(t, r.Err)
		assert.Equal(t, fmt.Sprintf("/%d", r.Request.Index), string(r.Body))
		n++
	}
	assert.Equal(t, len(urls), n)
	assert.Equal(t, limit, g.Peak(), "requests under way")
	assert.Positive(t, dials.Load(), "DefaultClient has not been asked")
}

func TestGetOfNothing(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		assert.Zero(t, drain((&fetch.Fetcher{Ordered: ordered}).Get(t.Context())))
		assert.Zero(t, drain((&fetch.Fetcher{Ordered: ordered}).Fetch(t.Context(), fetch.URLs())))
	}
}

// A few URLs cost a few goroutines, whatever the limit allows.
func TestFewURLsFewGoroutines(t *testing.T) {
	for _, s := range []fetch.Strategy{
		fetch.Pool{Workers: 100_000}, fetch.Threads{Limit: 8192}, fetch.Semaphore{Limit: 100_000},
		fetch.Pipeline{Limit: 100_000}, fetch.Batch{Each: fetch.Pool{Workers: 100_000}},
	} {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var peak atomic.Int64
				before := runtime.NumGoroutine()
				doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
					time.Sleep(time.Second) // until all have begun
					peak.Store(int64(runtime.NumGoroutine() - before))
					return api(ctx, r)
				})
				assert.Equal(t, 3, drain((&fetch.Fetcher{Strategy: s, Doer: doer}).Get(t.Context(), people[:3]...)))
				assert.LessOrEqual(t, peak.Load(), int64(3), "goroutines")
			})
		})
	}
}
