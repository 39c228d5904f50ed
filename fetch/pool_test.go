package fetch_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"iter"
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

// A Doer that calls runtime.Goexit (t.FailNow does) takes a worker with it, which
// has to be replaced: else the last one's end would hold the loop up for ever.
func TestDoerCallsGoexit(t *testing.T) {
	for _, s := range []fetch.Strategy{
		fetch.Pool{Workers: 1}, fetch.Pool{Workers: 3}, fetch.Semaphore{Limit: 3}, fetch.Threads{Limit: 3}, fetch.Batch{Size: 10, Limit: 3},
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
				limit, _ := s.(fetch.Bounded).Bounds()
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

// A limit that is not sensible is a mistake in the program: it shows where it is made.
func TestStrategyFields(t *testing.T) {
	for _, c := range []struct {
		strategy fetch.Bounded
		want     string
	}{
		{fetch.Threads{Limit: -1}, "fetch: Threads.Limit is -1"},
		{fetch.Threads{Limit: 8193}, "fetch: Threads.Limit is 8193: at most 8192"},
		{fetch.Pool{Workers: -3}, "fetch: Pool.Workers is -3"},
		{fetch.Pool{Workers: 1<<20 + 1}, "fetch: Pool.Workers is 1048577: at most 1048576"},
		{fetch.Semaphore{Limit: -1}, "fetch: Semaphore.Limit is -1"},
		{fetch.Semaphore{Limit: 1<<20 + 1}, "fetch: Semaphore.Limit is 1048577: at most 1048576"},
		{fetch.Batch{Size: -1}, "fetch: Batch.Size is -1"},
		{fetch.Batch{Size: 1<<20 + 1}, "fetch: Batch.Size is 1048577: at most 1048576"},
		{fetch.Batch{Limit: -1}, "fetch: Batch.Limit is -1"},
		{fetch.Batch{Limit: 1<<20 + 1}, "fetch: Batch.Limit is 1048577: at most 1048576"},
		{fetch.Batch{Pipeline: -1}, "fetch: Batch.Pipeline is -1"},
		{fetch.Batch{Pipeline: 1<<20 + 1}, "fetch: Batch.Pipeline is 1048577: at most 1048576"},
	} {
		t.Run(c.want, func(t *testing.T) {
			none := func(func(*fetch.Request) bool) {}
			assert.PanicsWithValue(t, c.want, func() { c.strategy.Run(t.Context(), api, none) }, "Run, before its result is ranged over")
			assert.PanicsWithValue(t, c.want, func() { _ = c.strategy.String() }, "String")
			assert.PanicsWithValue(t, c.want, func() { c.strategy.Bounds() }, "Bounds")
			assert.PanicsWithValue(t, c.want, func() { (&fetch.Fetcher{Strategy: c.strategy, Doer: api}).Get(t.Context()) }, "Get")
		})
	}
}

// Strategies are plain data: map keys, values of a flag, a message to another process.
func TestStrategyIsPlainData(t *testing.T) {
	seen := make(map[fetch.Strategy]bool)
	for _, c := range []struct {
		strategy        fetch.Bounded
		name            string
		inFlight, ahead int
	}{
		{fetch.Serial{}, "serial", 1, 1},
		{fetch.Threads{}, "threads(64)", 64, 128},
		{fetch.Threads{Limit: 8192}, "threads(8192)", 8192, 16384},
		{fetch.Pool{}, "pool(64)", 64, 128},
		{fetch.Pool{Workers: 1 << 20}, "pool(1048576)", 1 << 20, 1 << 21},
		{fetch.Semaphore{}, "semaphore(64)", 64, 128},
		{fetch.Semaphore{Limit: 5}, "semaphore(5)", 5, 10},
		{fetch.Batch{}, "batch(10000,64)", 64, 128},
		{fetch.Batch{Size: 100, Limit: 7}, "batch(100,7)", 7, 14},
		{fetch.Batch{Size: 10, Limit: 20}, "batch(10,20)", 10, 10},
		{fetch.Batch{Size: 100, Limit: 16, Pipeline: 4}, "batch(100,16,4)", 16, 100},
		{fetch.Batch{Size: 100, Limit: 2, Pipeline: 4}, "batch(100,2,2)", 2, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.name, c.strategy.String())
			assert.Equal(t, c.name, fmt.Sprint(c.strategy))
			inFlight, ahead := c.strategy.Bounds()
			assert.Equal(t, c.inFlight, inFlight, "requests under way")
			assert.Equal(t, c.ahead, ahead, "requests ahead")

			gob.Register(c.strategy)
			var buf bytes.Buffer
			sent := fetch.Strategy(c.strategy)
			require.NoError(t, gob.NewEncoder(&buf).Encode(&sent))
			var received fetch.Strategy
			require.NoError(t, gob.NewDecoder(&buf).Decode(&received))
			assert.True(t, sent == received, "%v came as %v", sent, received)
			seen[received] = true
			assert.True(t, seen[c.strategy], "as the key of a map")
		})
	}
	assert.Len(t, seen, 12)
}

func TestFetchOfNil(t *testing.T) {
	assert.PanicsWithValue(t, "fetch: Fetch of a nil sequence", func() { new(fetch.Fetcher).Fetch(t.Context(), nil) })
}

// The zero Fetcher is Pool{} and DefaultClient.
func TestZeroFetcher(t *testing.T) {
	dials := new(atomic.Int64)
	transport := fetch.NewTransport()
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return dial(ctx, network, addr)
	}
	former := fetch.DefaultClient
	fetch.DefaultClient = &fetch.Client{Transport: transport}
	defer func() { fetch.DefaultClient = former }()
	defer fetch.DefaultClient.CloseIdleConnections()

	limit, _ := fetch.Pool{}.Bounds()
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

// An absentMinded strategy loses some of the results of another one.
type absentMinded struct {
	fetch.Bounded
	loses func(i int) bool
}

func (s absentMinded) Run(ctx context.Context, d fetch.Doer, reqs iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
	pauses := 0
	patient := func(yield func(*fetch.Request) bool) {
		for r := range reqs {
			// Else the test would run for ever where it should fail.
			if pauses++; r != nil {
				pauses = 0
			}
			if pauses > 100_000 || !yield(r) {
				return
			}
		}
	}
	return func(yield func(fetch.Result) bool) {
		for r := range s.Bounded.Run(ctx, d, patient) {
			if s.loses(r.Request.Index) {
				continue
			}
			if !yield(r) {
				return
			}
		}
	}
}

// The mistake of a strategy must not cost more than the results that it loses.
func TestOrderedWithLostResults(t *testing.T) {
	const n = 1000 // many times the window
	for name, loses := range map[string]func(i int) bool{
		"none":           func(int) bool { return false },
		"the first":      func(i int) bool { return i == 0 },
		"one":            func(i int) bool { return i == 500 },
		"the last":       func(i int) bool { return i == n-1 },
		"every third":    func(i int) bool { return i%3 == 1 },
		"a long stretch": func(i int) bool { return i >= 100 && i < 600 },
		"all":            func(int) bool { return true },
	} {
		for _, s := range []fetch.Bounded{fetch.Serial{}, fetch.Pool{Workers: 4}, fetch.Semaphore{Limit: 4}, fetch.Batch{Size: 50, Limit: 8}} {
			t.Run(fmt.Sprintf("%s, %v", name, s), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var want, got []int
					for i := range n {
						if !loses(i) {
							want = append(want, i)
						}
					}
					f := fetch.Fetcher{Strategy: absentMinded{s, loses}, Doer: asleep(time.Second), Ordered: true}
					for r := range f.Fetch(t.Context(), pings(n)) {
						got = append(got, r.Request.Index)
					}
					assert.Equal(t, want, got)
				})
			})
		}
	}
}

// A few URLs cost a few goroutines, whatever the limit allows.
func TestFewURLsFewGoroutines(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Pool{Workers: 100_000}, fetch.Threads{Limit: 8192}, fetch.Semaphore{Limit: 100_000}, fetch.Batch{Limit: 100_000}} {
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
