package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/time/rate"

	"fetchbench/fetch"
)

// refusing returns a Doer that takes 5 ms, and whose requests are refused while down says so of
// their host, at this time since the call of refusing.
func refusing(down func(host string, at time.Duration) bool) fetch.DoerFunc {
	begun := time.Now()
	return func(_ context.Context, r *fetch.Request) fetch.Result {
		time.Sleep(5 * time.Millisecond)
		if down(hostOf(r.URL), time.Since(begun)) {
			return failure(fetch.ErrDial, syscall.ECONNREFUSED)
		}
		return status(200)
	}
}

// failedOf returns how many results there are for URLs with this prefix, and how many are not OK.
func failedOf(results iter.Seq[fetch.Result], prefix string) (n, failed int) {
	for r := range results {
		if strings.HasPrefix(r.Request.URL, prefix) {
			if n++; !r.OK() {
				failed++
			}
		}
	}
	return n, failed
}

// late yields n requests to one host, the first of them a millisecond after the run began.
func late(n int) iter.Seq[fetch.Request] {
	return inputs(n, func(i int) string {
		if i == 0 {
			time.Sleep(time.Millisecond)
		}
		return "http://a.test/"
	})
}

// A limiter of no requests a second lets its burst start. If the time of the next one overflowed,
// all requests would start.
func TestRateOfZero(t *testing.T) {
	for _, limit := range []rate.Limit{0, 1e-11} {
		for _, deadline := range []bool{true, false} {
			t.Run(fmt.Sprint(limit, deadline), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					if deadline {
						ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
					}
					defer cancel()
					time.AfterFunc(time.Hour, cancel)
					d := &script{answers: []fetch.Result{status(200)}}
					f := fetch.Fetcher{Doer: d, Rate: rate.NewLimiter(limit, 1)}
					n, failed := failedOf(f.Fetch(ctx, late(100)), "")
					assert.Equal(t, 100, n)
					assert.Equal(t, 99, failed)
					assert.EqualValues(t, 1, d.calls.Load())
				})
			})
		}
	}
}

// The longest Patience is a long one. If its end overflowed, a restart would cost all requests.
func TestPatienceForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		d := refusing(func(_ string, at time.Duration) bool { return at < 3*time.Second })
		f := fetch.Fetcher{Doer: d, Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{Patience: math.MaxInt64}}
		n, failed := failedOf(f.Fetch(ctx, late(100)), "")
		assert.Equal(t, 100, n)
		assert.Zero(t, failed)
	})
}

// The longest Spacing is a long one. If its end overflowed, there would be none.
func TestSpacingForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		d := &script{answers: []fetch.Result{status(200)}}
		f := fetch.Fetcher{Doer: d, PerHost: &fetch.PerHost{Spacing: math.MaxInt64}}
		n, failed := failedOf(f.Fetch(ctx, late(100)), "")
		assert.Equal(t, 100, n)
		assert.Equal(t, 99, failed)
		assert.EqualValues(t, 1, d.calls.Load())
	})
}

// A body that takes its time loses no held requests. If Patience ended while the loop was in the
// body, requests would fail though their host was back, and had not been asked.
func TestSlowBodyLosesNoHeldRequests(t *testing.T) {
	for _, c := range []struct {
		retry *fetch.Retry
		most  int
	}{{nil, 2}, {&fetch.Retry{}, 0}} {
		t.Run(fmt.Sprint(c.retry != nil), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := refusing(func(host string, at time.Duration) bool { return host == "a.test" && at < 2*time.Second })
				f := fetch.Fetcher{Doer: d, Retry: c.retry, PerHost: &fetch.PerHost{}}
				n, failed := 0, 0
				for r := range f.Fetch(t.Context(), inputs(400, func(i int) string {
					if i%4 == 0 {
						return "http://a.test/"
					}
					return fmt.Sprintf("http://b%d.test/", i%16)
				})) {
					time.Sleep(300 * time.Millisecond)
					if n++; !r.OK() {
						failed++
					}
				}
				assert.Equal(t, 400, n)
				assert.LessOrEqual(t, failed, c.most, "those before the host was known to be down")
			})
		})
	}
}

// A body that takes its time keeps the Spacing of what starts after it. If the loop went on with
// the time before the body, two requests would start in a row.
func TestSlowBodyKeepsSpacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const spacing = 600 * time.Millisecond
		d := &byHost{do: func(_ context.Context, r *fetch.Request) fetch.Result {
			time.Sleep(500 * time.Millisecond)
			if hostOf(r.URL) == "a.test" {
				return failure(fetch.ErrDial, syscall.ECONNREFUSED)
			}
			return status(200)
		}}
		f := fetch.Fetcher{Doer: d, PerHost: &fetch.PerHost{Failures: 1, Patience: -1, Spacing: spacing}}
		for r := range f.Fetch(t.Context(), inputs(20, func(i int) string { return []string{"http://a.test/", "http://b.test/"}[i/10] })) {
			if !r.OK() {
				time.Sleep(time.Second)
			}
		}
		starts := d.begun["b.test"]
		assert.Len(t, starts, 10)
		for i := range len(starts) - 1 {
			assert.GreaterOrEqual(t, starts[i+1].Sub(starts[i]), spacing, "start %d", i+1)
		}
	})
}

// Requests that wait for the restart of a host do not count against hosts that were never up. If
// they did, a host that is about to start would be given up for the sake of another.
func TestRestartGivesUpNoOtherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := refusing(func(host string, at time.Duration) bool {
			return at < 4*time.Second && (host == "b.test" || at > time.Second)
		})
		f := fetch.Fetcher{Doer: d, Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{}}
		n, failed := failedOf(f.Fetch(t.Context(), inputs(5000, func(i int) string {
			if i > 1700 && i%100 < 10 {
				return "http://b.test/"
			}
			return "http://a.test/"
		})), "")
		assert.Equal(t, 5000, n)
		assert.Zero(t, failed)
	})
}

// FetchQueue gives up dead hosts at the end of the queue as Fetch does at that of its input. If it
// did not know that end, it would wait for Patience.
func TestFetchQueueDoesNotWaitForDeadHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		reqs := slices.Collect(inputs(n, func(i int) string { return fmt.Sprintf("http://%d.test/", i/20) }))
		took := func(fetchAll func(f *fetch.Fetcher) iter.Seq[fetch.Result]) time.Duration {
			begun := time.Now()
			f := fetch.Fetcher{Doer: refusing(func(string, time.Duration) bool { return true }), PerHost: &fetch.PerHost{}}
			assert.Equal(t, n, drain(fetchAll(&f)))
			return time.Since(begun)
		}
		fetched := took(func(f *fetch.Fetcher) iter.Seq[fetch.Result] { return f.Fetch(t.Context(), slices.Values(reqs)) })
		queued := took(func(f *fetch.Fetcher) iter.Seq[fetch.Result] {
			var q fetch.Queue
			q.Add(reqs...)
			return f.FetchQueue(t.Context(), &q)
		})
		assert.LessOrEqual(t, queued, 2*fetched)
	})
}

// An event is one line. If an error's text could begin another, a server could forge events in a
// log.
func TestEventStringIsOneLine(t *testing.T) {
	forged := "two\nend index=1 url=http://forged.test/\r\n"
	for _, e := range []fetch.Event{
		{Kind: fetch.EventEnd, Request: &fetch.Request{URL: "http://a.test/"}, Err: errors.Join(errors.New("one"), errors.New(forged))},
		{Kind: fetch.EventEnd, Request: &fetch.Request{URL: "http://a.test/" + forged}},
		{Kind: fetch.EventPipelineOff, Host: forged, Err: errors.New(forged)},
	} {
		assert.NotRegexp(t, `[\r\n]`, e.String())
	}
}

// Ordered goes by the order of the input. If it went by Request.Index, a Doer that changes that
// would keep results for ever.
func TestOrderedWhateverADoerDoesToIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fetch.Fetcher{Ordered: true, Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			time.Sleep(time.Duration(10-r.Index) * time.Second)
			r.Index = 7
			return status(200)
		})}
		var got []string
		for r := range f.Fetch(t.Context(), hosts(10, 10)) {
			got = append(got, hostOf(r.Request.URL))
		}
		assert.Len(t, got, 10)
		assert.IsIncreasing(t, got)
	})
}

// liveHeap returns the bytes of live heap.
func liveHeap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Hosts that are parked take bounded memory. If each were remembered until its time, a list of
// hosts that all answer 429 would take as much as it is long.
func TestMemoryOfParkedHosts(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred thousand hosts take a second")
	}
	const n = 100_000
	d := fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result { return status(429, "Retry-After", "3600") })
	f := fetch.Fetcher{Doer: d, PerHost: &fetch.PerHost{}}
	before, most, received := liveHeap(), int64(0), 0
	for range f.Fetch(t.Context(), hosts(n, n)) {
		if received++; received%(n/4) == 0 {
			most = max(most, liveHeap()-before)
		}
	}
	assert.Equal(t, n, received)
	assert.LessOrEqual(t, most, int64(14<<20), "bytes of live heap")
}

// A Patience of less than the time between two attempts at a host ends too. If its end were not
// looked at, the run would wait with nothing under way.
func TestShortPatienceEnds(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Serial{}, fetch.Pool{Workers: 1}, fetch.Pool{Workers: 3}} {
		for _, body := range []time.Duration{0, 2 * time.Millisecond, 600 * time.Millisecond} {
			for _, patience := range []time.Duration{1, time.Millisecond, 500 * time.Millisecond} {
				t.Run(fmt.Sprint(s, body, patience), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
						defer cancel()
						d := fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
							time.Sleep(5 * time.Millisecond)
							return failure(fetch.ErrTimeout, nil)
						})
						f := fetch.Fetcher{Strategy: s, Doer: d, PerHost: &fetch.PerHost{Patience: patience}}
						begun, n := time.Now(), 0
						for range f.Fetch(ctx, pings(20)) {
							n++
							time.Sleep(body)
						}
						assert.Equal(t, 20, n)
						assert.Less(t, time.Since(begun), time.Minute)
					})
				})
			}
		}
	}
}

// An outage takes no more memory the longer it lasts. If each attempt at a host left a timer for
// the end of Patience, a day of them would fill the memory.
func TestMemoryOfALongOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		d := refusing(func(_ string, at time.Duration) bool { return at > time.Second })
		f := fetch.Fetcher{Doer: d, PerHost: &fetch.PerHost{Patience: 48 * time.Hour}}
		var early, after int64
		time.AfterFunc(5*time.Minute, func() { early = liveHeap() })
		time.AfterFunc(25*time.Minute, func() {
			after = liveHeap()
			cancel()
		})
		drain(f.Fetch(ctx, hosts(1<<30, 100)))
		assert.Positive(t, after)
		assert.LessOrEqual(t, after-early, int64(512<<10), "bytes of live heap in 20 minutes")
	})
}

// redirecting starts a server that redirects all but /good to one that is dead, and counts the
// requests of each path. It returns its URL, and engines to test with it.
func redirecting(t *testing.T) (server string, engines map[string]fetch.Doer, asked *sync.Map) {
	asked = new(sync.Map)
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := asked.LoadOrStore(r.URL.Path, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		if r.URL.Path != "/good" {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusSeeOther)
		}
	}))
	return s.URL, map[string]fetch.Doer{
		"Client":     tidy(t, &fetch.Client{}),
		"HTTPClient": tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}}),
	}, asked
}

// A POST that its server redirects to a dead one is sent once. If PerHost took it for one that was
// refused, its effect would be had several times.
func TestPostThatHadItsEffectIsNotRepeated(t *testing.T) {
	server, engines, asked := redirecting(t)
	for name, d := range engines {
		t.Run(name, func(t *testing.T) {
			f := fetch.Fetcher{Doer: d, PerHost: &fetch.PerHost{Patience: time.Second}}
			for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
				for i := range 12 {
					if !yield(fetch.Request{Method: "POST", URL: fmt.Sprint(server, "/", name, i)}) {
						return
					}
				}
			}) {
				assert.False(t, r.OK())
				n, ok := asked.Load(fmt.Sprint("/", name, r.Request.Index))
				if assert.True(t, ok) {
					assert.EqualValues(t, 1, n.(*atomic.Int64).Load(), r.Request.URL)
				}
			}
		})
	}
}

// A host that redirects to a dead one is alive. If those redirects counted as its failures, its
// good URLs would be lost.
func TestRedirectsToADeadHostLoseNoGoodURLs(t *testing.T) {
	server, engines, _ := redirecting(t)
	for name, d := range engines {
		t.Run(name, func(t *testing.T) {
			f := fetch.Fetcher{Doer: d, Retry: &fetch.Retry{Backoff: time.Millisecond}, PerHost: &fetch.PerHost{Patience: time.Second}}
			n, failed := failedOf(f.Fetch(t.Context(), inputs(1012, func(i int) string {
				if i < 12 {
					return server + "/gone"
				}
				return server + "/good"
			})), server+"/good")
			assert.Equal(t, 1000, n)
			assert.Zero(t, failed)
		})
	}
}

// Runs that share a limiter start no more than it allows, whatever their bodies do. If a slow body
// let one take tokens of a time that is past, there would be more.
func TestSharedRateWithASlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		limiter := rate.NewLimiter(10, 5)
		var starts atomic.Int64
		d := fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			starts.Add(1)
			if strings.HasPrefix(r.URL, "http://dead") {
				return failure(fetch.ErrDial, syscall.ECONNREFUSED)
			}
			return status(200)
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			f := fetch.Fetcher{Doer: d, Rate: limiter}
			drain(f.Fetch(ctx, pings(2000)))
		})
		wg.Go(func() {
			f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 4}, Doer: d, Rate: limiter, PerHost: &fetch.PerHost{Failures: 1, Patience: -1}}
			for r := range f.Fetch(ctx, inputs(2000, func(i int) string {
				if i%5 == 0 {
					return "http://a.test/"
				}
				return fmt.Sprintf("http://dead%d.test/", i%7)
			})) {
				if !r.OK() {
					time.Sleep(time.Second)
				}
			}
		})
		wg.Wait()
		assert.LessOrEqual(t, starts.Load(), int64(60*10+5))
		assert.GreaterOrEqual(t, starts.Load(), int64(60*10-5))
	})
}

// A row of URLs that hang for long, fewer than twice Limit, does not pass for a dead host. If it
// did, the good URLs behind it would fail unsent.
func TestHangingRowLosesNoGoodURLs(t *testing.T) {
	for _, retry := range []*fetch.Retry{{}, nil} {
		t.Run(fmt.Sprint(retry != nil), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{latency: func(*fetch.Request) time.Duration { return 20 * time.Millisecond }, timeout: 15 * time.Second}
				failed, lost := w.run(t, fetch.Fetcher{Retry: retry, PerHost: &fetch.PerHost{Limit: 4}}, 5000, inputs(5000, func(i int) string {
					if 1000 <= i && i < 1006 {
						return "http://a.test/hang"
					}
					return "http://a.test/good"
				}))
				assert.Zero(t, lost)
				assert.Equal(t, 6, failed)
			})
		})
	}
}
