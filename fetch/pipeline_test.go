package fetch_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// A batchDoerFunc is the DoBatch of a BatchDoer that is never asked for one request alone.
type batchDoerFunc func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result))

func (f batchDoerFunc) Do(context.Context, *fetch.Request) fetch.Result { panic("Do was called") }

func (f batchDoerFunc) DoBatch(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
	f(ctx, reqs, yield)
}

// answerTo is a good answer that names its request.
func answerTo(r *fetch.Request) fetch.Result {
	return fetch.Result{Request: r, Status: 200, Body: []byte(r.URL), Attempts: 1}
}

func answerEach(_ context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
	for _, r := range reqs {
		yield(answerTo(r))
	}
}

// overHosts yields n requests, without end if n is negative, in turn to each of hosts.
func overHosts(n, hosts int) iter.Seq[fetch.Request] {
	return func(yield func(fetch.Request) bool) {
		for i := 0; i != n; i++ {
			if !yield(fetch.Request{URL: fmt.Sprintf("http://host%d.test/%d", i%hosts, i)}) {
				return
			}
		}
	}
}

// pipelined is a Fetcher for s over d.
func pipelined(s fetch.Strategy, d fetch.Doer) *fetch.Fetcher {
	return &fetch.Fetcher{Strategy: s, Doer: d}
}

// inGroups is a Pipeline that takes its Doer for a BatchDoer.
type inGroups struct{ fetch.Pipeline }

func (s inGroups) Start(ctx context.Context, d fetch.Doer) fetch.Executor {
	return s.Pipeline.Start(ctx, oneByOne{d})
}

// oneByOne is a BatchDoer that performs each request of a group by itself.
type oneByOne struct{ fetch.Doer }

func (d oneByOne) DoBatch(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
	results := make(chan fetch.Result, len(reqs))
	for _, r := range reqs {
		go fetch.Perform(ctx, d.Doer, r, results)
	}
	for range reqs {
		yield(<-results)
	}
}

// A Pipeline keeps the contract, whether its Doer takes requests in groups or not.
func TestPipelineKeepsTheContract(t *testing.T) {
	p := fetch.Pipeline{Limit: 16, Depth: 4}
	for name, s := range map[string]fetch.Strategy{"one at a time": p, "in groups": inGroups{p}} {
		t.Run(name, func(t *testing.T) {
			fetchtest.TestStrategy(t, s)
			fetchtest.TestFetcher(t, s)
		})
	}
}

func TestPipelineGroups(t *testing.T) {
	for _, c := range []struct{ n, hosts, depth, groups int }{
		{n: 100, hosts: 1, depth: 4, groups: 25},
		{n: 100, hosts: 1, depth: 7, groups: 15}, // 14 of 7, and one of 2
		{n: 100, hosts: 3, depth: 4, groups: 27}, // 34, 33 and 33 requests: 9 each
		{n: 100, hosts: 100, depth: 4, groups: 100},
		{n: 100, hosts: 1, depth: 0, groups: 7}, // 6 of 16, and one of 4
		{n: 3, hosts: 1, depth: 4, groups: 1},
		{n: 0, hosts: 1, depth: 4, groups: 0},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			var groups atomic.Int64
			doer := batchDoerFunc(func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
				groups.Add(1)
				assert.NotEmpty(t, reqs)
				assert.LessOrEqual(t, len(reqs), cmp.Or(c.depth, 16))
				hosts := make(map[string]bool)
				for i, r := range reqs {
					u, err := url.Parse(r.URL)
					require.NoError(t, err)
					hosts[u.Host] = true
					if i > 0 {
						assert.Greater(t, r.Index, reqs[i-1].Index, "the input's order")
					}
				}
				assert.Len(t, hosts, 1, "hosts in a group")
				answerEach(ctx, reqs, yield)
			})
			seen := make(map[int]int)
			for r := range pipelined(fetch.Pipeline{Depth: c.depth}, doer).Fetch(t.Context(), overHosts(c.n, c.hosts)) {
				assert.Equal(t, r.Request.URL, string(r.Body), "an answer goes to its own request")
				seen[r.Request.Index]++
			}
			assertOnce(t, c.n, seen)
			assert.EqualValues(t, c.groups, groups.Load(), "groups")
		})
	}
}

// assertOnce asserts that each of n requests has one result.
func assertOnce(t *testing.T, n int, seen map[int]int) {
	t.Helper()
	assert.Len(t, seen, n)
	for i, times := range seen {
		assert.Equal(t, 1, times, "results for request %d", i)
	}
}

// Each request of a group counts, not each group: 64 connections with 16 requests
// each must not hide in a Limit of 64.
func TestPipelineLimit(t *testing.T) {
	for _, c := range []struct {
		strategy    fetch.Strategy
		hosts, peak int
	}{
		{fetch.Pipeline{Limit: 16, Depth: 4}, 1, 16},
		{fetch.Pipeline{Limit: 16, Depth: 4}, 3, 16},
		{fetch.Pipeline{Limit: 4, Depth: 100}, 1, 4},
		{fetch.Pipeline{Limit: 10, Depth: 4}, 1, 10}, // a group begins as soon as there is room for it
		{fetch.Batch{Size: 10, Each: fetch.Pipeline{Limit: 100, Depth: 4}}, 1, 10},
		{fetch.Batch{Size: 1000, Each: fetch.Pipeline{Limit: 16, Depth: 4}}, 3, 16},
		{fetch.Pipeline{Limit: 16, Depth: 2}, 1000, 16},
	} {
		t.Run(fmt.Sprintf("%v hosts=%d", c.strategy, c.hosts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g fetchtest.Gauge
				n := drain(pipelined(c.strategy, sleepyBatch(&g)).Fetch(t.Context(), overHosts(300, c.hosts)))
				assert.Equal(t, 300, n)
				assert.Equal(t, c.peak, g.Peak(), "requests under way")
				assert.Zero(t, g.InFlight())
			})
		})
	}
}

// The place of a request is free with its result, though others of its group are not done.
func TestPipelineSlowResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doer := batchDoerFunc(func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			answerEach(ctx, reqs[:len(reqs)-1], yield)
			if last := reqs[len(reqs)-1]; last.Index == 3 {
				time.Sleep(time.Hour)
			}
			answerEach(ctx, reqs[len(reqs)-1:], yield)
		})
		begun, quick := time.Now(), 0
		for range pipelined(fetch.Pipeline{Limit: 5, Depth: 4}, doer).Fetch(t.Context(), overHosts(400, 1)) {
			if time.Since(begun) < time.Hour {
				quick++
			}
		}
		assert.Equal(t, 399, quick, "results that came before the slow one")
	})
}

// The last result of all that is under way leaves room for a group that is not full, which
// nothing else would start.
func TestPipelineStartsTheRest(t *testing.T) {
	for range 300 {
		doer := batchDoerFunc(func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			answerEach(ctx, reqs, yield)
			runtime.Gosched()
		})
		assert.Equal(t, 11, drain(pipelined(fetch.Pipeline{Limit: 4, Depth: 4}, doer).Fetch(t.Context(), overHosts(11, 2))))
	}
}

// sleepyBatch returns a BatchDoer whose answers come one by one after a second,
// or until ctx is done; then the rest is canceled. g counts the requests.
func sleepyBatch(g *fetchtest.Gauge) batchDoerFunc {
	return func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
		var leave []func()
		for range reqs {
			leave = append(leave, g.Enter())
		}
		for i, r := range reqs {
			res := asleep(time.Second)(ctx, r)
			res.Request = r
			leave[i]()
			yield(res)
		}
	}
}

// A BatchDoer that breaks its promises costs no more than the results concerned.
func TestPipelineBadDoers(t *testing.T) {
	errBug := errors.New("a bug")
	// Each of these answers the first half of its group as it should.
	half := func(reqs []*fetch.Request, yield func(fetch.Result)) (rest []*fetch.Request) {
		n := (len(reqs) + 1) / 2
		answerEach(t.Context(), reqs[:n], yield)
		return reqs[n:]
	}
	for name, c := range map[string]struct {
		do   batchDoerFunc
		rest error // of the second half; nil if it is answered as well
	}{
		"panics": {func(_ context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			half(reqs, yield)
			panic(errBug)
		}, errBug},
		"panics after the last": {func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			answerEach(ctx, reqs, yield)
			panic(errBug)
		}, nil},
		"calls Goexit": {func(_ context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			half(reqs, yield)
			runtime.Goexit()
		}, fetch.ErrPanic},
		"forgets some": {func(_ context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			half(reqs, yield)
		}, fetch.ErrPanic},
		"answers twice": {func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			answerEach(ctx, reqs, yield)
			answerEach(ctx, reqs, yield)
		}, nil},
		"answers foreign requests": {func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			yield(fetch.Result{Status: 200}) // of no request
			foreign := *reqs[0]
			yield(answerTo(&foreign))
			answerEach(ctx, reqs, yield)
		}, nil},
		"changes the slice": {func(_ context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			half(reqs, yield)
			clear(reqs)
		}, fetch.ErrPanic},
		"answers out of order": {func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			for _, i := range rand.Perm(len(reqs)) {
				yield(answerTo(reqs[i]))
			}
		}, nil},
		"answers from other goroutines": {func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			for _, r := range reqs {
				var one sync.WaitGroup
				one.Go(func() { yield(answerTo(r)) })
				one.Wait()
			}
		}, nil},
	} {
		for _, ordered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, ordered=%t", name, ordered), func(t *testing.T) {
				before := goleak.IgnoreCurrent()
				const n = 101
				var halves atomic.Int64
				doer := batchDoerFunc(func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
					halves.Add(int64(len(reqs) / 2))
					c.do(ctx, reqs, yield)
				})
				f := fetch.Fetcher{Strategy: fetch.Batch{Size: 50, Each: fetch.Pipeline{Limit: 16, Depth: 4}}, Doer: doer, Ordered: ordered}
				seen := make(map[int]int)
				failed, next := 0, 0
				for r := range f.Fetch(t.Context(), overHosts(n, 1)) {
					seen[r.Request.Index]++
					if ordered {
						assert.Equal(t, next, r.Request.Index)
						next++
					}
					if r.Err == nil {
						assert.Equal(t, r.Request.URL, string(r.Body))
						continue
					}
					failed++
					require.Error(t, c.rest)
					assert.ErrorIs(t, r.Err, c.rest)
					var p *fetch.PanicError
					require.ErrorAs(t, r.Err, &p)
					assert.NotEmpty(t, p.Stack)
				}
				assertOnce(t, n, seen)
				if c.rest != nil {
					assert.EqualValues(t, halves.Load(), failed, "the second half of each group")
				}
				goleak.VerifyNone(t, before)
			})
		}
	}
}

// Whatever ends a Fetch, and whenever, nothing is left running, and after a cancel each
// request that was taken has its result.
func TestPipelineEnds(t *testing.T) {
	errLoop := errors.New("the loop panics")
	for _, how := range []string{"cancel", "break", "panic"} {
		for _, stage := range []string{"before", "input 0", "input 2", "input 30", "first group", "fifth group", "result 1", "result 3", "result 20", "last of a batch"} {
			if how != "cancel" && stage != "result 1" && stage != "result 3" && stage != "result 20" && stage != "last of a batch" {
				continue // a loop can break where it receives, and nowhere else
			}
			for _, ordered := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, ordered=%t", how, stage, ordered), func(t *testing.T) {
					before := goleak.IgnoreCurrent()
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					at := func(s string) {
						if s == stage && how == "cancel" {
							cancel()
						}
					}
					var g fetchtest.Gauge
					var groups atomic.Int64
					taken, received, late := 0, 0, 0
					input := func(yield func(fetch.Request) bool) {
						for r := range overHosts(-1, 3) {
							if ctx.Err() != nil {
								late++
							}
							at(fmt.Sprintf("input %d", taken))
							taken++
							if !yield(r) {
								return
							}
						}
					}
					doer := batchDoerFunc(func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
						for range reqs {
							defer g.Enter()()
						}
						switch groups.Add(1) {
						case 1:
							at("first group")
						case 5:
							at("fifth group")
						}
						for _, r := range reqs {
							if ctx.Err() != nil {
								yield(fetch.Result{Request: r, Err: &fetch.Error{Kind: fetch.ErrCanceled, Err: ctx.Err()}})
								continue
							}
							yield(answerTo(r))
						}
					})
					at("before")
					f := fetch.Fetcher{Strategy: fetch.Batch{Size: 40, Each: fetch.Pipeline{Limit: 16, Depth: 4}}, Doer: doer, Ordered: ordered}
					loop := func() {
						for range f.Fetch(ctx, input) {
							received++
							here := fmt.Sprintf("result %d", received)
							if received == 40 {
								here = "last of a batch"
							}
							at(here)
							if here == stage && how == "break" {
								return
							}
							if here == stage && how == "panic" {
								panic(errLoop)
							}
						}
					}
					if how == "panic" {
						assert.PanicsWithValue(t, errLoop, loop)
					} else {
						loop()
					}
					if how == "cancel" {
						assert.Equal(t, taken, received, "each request taken is answered")
					}
					if stage == "before" {
						assert.Zero(t, groups.Load())
						assert.Zero(t, taken)
					}
					if !strings.HasSuffix(stage, "group") { // else the cancel is concurrent, and any order is right
						assert.LessOrEqual(t, late, 1, "requests taken after the cancel")
					}
					assert.Zero(t, g.InFlight(), "requests under way after the loop")
					goleak.VerifyNone(t, before)
				})
			}
		}
	}
}

// A cancel reaches the groups that are under way.
func TestPipelineCancelIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(1500*time.Millisecond, cancel)
		var g fetchtest.Gauge
		begun := time.Now()
		ok, canceled := 0, 0
		for r := range pipelined(fetch.Pipeline{Limit: 16, Depth: 4}, sleepyBatch(&g)).Fetch(ctx, overHosts(-1, 1)) {
			if r.OK() {
				ok++
				continue
			}
			assert.ErrorIs(t, r.Err, fetch.ErrCanceled)
			canceled++
		}
		assert.Equal(t, 1500*time.Millisecond, time.Since(begun))
		assert.Equal(t, 4, ok, "the first of each group")
		assert.GreaterOrEqual(t, canceled, 12)
		assert.Zero(t, g.InFlight())
	})
}

// While the loop is slow, the input waits too: never more than Ahead.
func TestPipelineIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g fetchtest.Gauge
		taken, received := 0, 0
		input := func(yield func(fetch.Request) bool) {
			for r := range overHosts(500, 7) {
				taken++
				if !yield(r) {
					return
				}
			}
		}
		before := runtime.NumGoroutine()
		for range pipelined(fetch.Pipeline{Limit: 16, Depth: 4}, sleepyBatch(&g)).Fetch(t.Context(), input) {
			time.Sleep(time.Second)
			synctest.Wait() // for goroutines that are done, and have not quite ended
			require.LessOrEqual(t, taken-received, 32, "requests taken ahead of the loop")
			require.LessOrEqual(t, runtime.NumGoroutine()-before, 16, "goroutines")
			received++
		}
		assert.Equal(t, 500, received)
	})
}

func TestPipelineOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Groups, and the requests in them, end in any order.
		doer := batchDoerFunc(func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
			for _, i := range rand.Perm(len(reqs)) {
				time.Sleep(rand.N(time.Second))
				yield(answerTo(reqs[i]))
			}
		})
		f := fetch.Fetcher{Strategy: fetch.Pipeline{Limit: 16, Depth: 4}, Doer: doer, Ordered: true}
		next := 0
		for r := range f.Fetch(t.Context(), overHosts(333, 5)) {
			require.Equal(t, next, r.Request.Index)
			next++
		}
		assert.Equal(t, 333, next)
	})
}

// An engine that cannot pipeline serves a Pipeline all the same, as it would a Pool.
func TestPipelineNeedsABatchDoer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g fetchtest.Gauge
		begun := time.Now()
		f := pipelined(fetch.Pipeline{Limit: 5, Depth: 4}, g.Doer(asleep(time.Second)))
		assert.Equal(t, 40, drain(f.Fetch(t.Context(), overHosts(40, 2))))
		assert.Equal(t, 5, g.Peak())
		assert.Equal(t, 40, g.Total())
		assert.Equal(t, 8*time.Second, time.Since(begun))
	})
}

// Only a Pipeline asks a BatchDoer for several requests at once, and only if two can share a write.
func TestPipelineOfOne(t *testing.T) {
	for _, s := range []fetch.Strategy{
		fetch.Pool{}, fetch.Semaphore{}, fetch.Serial{}, fetch.Threads{}, fetch.Batch{},
		fetch.Pipeline{Depth: 1}, fetch.Pipeline{Limit: 1, Depth: 4},
	} {
		d := &countingBatchDoer{}
		assert.Equal(t, 10, drain(pipelined(s, d).Fetch(t.Context(), overHosts(10, 1))), s)
		assert.EqualValues(t, 10, d.single.Load(), s)
		assert.Zero(t, d.batches.Load(), s)
	}
}

type countingBatchDoer struct{ single, batches atomic.Int64 }

func (d *countingBatchDoer) Do(_ context.Context, r *fetch.Request) fetch.Result {
	d.single.Add(1)
	return answerTo(r)
}

func (d *countingBatchDoer) DoBatch(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
	d.batches.Add(1)
	answerEach(ctx, reqs, yield)
}

// The events tell of pipelined batches as they do of others.
func TestPipelineEventBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g fetchtest.Gauge
		var batches []fetch.Event
		f := pipelined(fetch.Batch{Size: 20, Each: fetch.Pipeline{Limit: 16, Depth: 4}}, sleepyBatch(&g))
		f.Trace = func(e fetch.Event) {
			if e.Kind == fetch.EventBatch {
				batches = append(batches, e)
			}
		}
		// Four groups of 4 take 4 s, with an answer each second. The first answer of each
		// makes room for the fifth, which so ends after 5 s.
		assert.Equal(t, 30, drain(f.Fetch(t.Context(), overHosts(30, 1))))
		assert.Equal(t, []fetch.Event{
			{Kind: fetch.EventBatch, Batch: 0, Size: 20, Duration: 5 * time.Second},
			{Kind: fetch.EventBatch, Batch: 1, Size: 10, Duration: 4 * time.Second},
		}, batches)
	})
}

// A yield that panics, or ends its goroutine, leaves responses on the connection. No other request
// may get one of them.
func TestClientDoBatchYieldPanics(t *testing.T) {
	for name, leave := range map[string]func(){"panic": func() { panic("of yield") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			second, gate := make(chan bool, 1), make(chan bool)
			server, conns := counted(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/2" {
					second <- true
					<-gate
				}
				io.WriteString(w, r.URL.Path)
			}))
			t.Cleanup(func() { close(gate) })
			client := tidy(t, &fetch.Client{Timeout: soon})
			require.NoError(t, get(t, client, server+"/0").Err) // now the connection may be pipelined on
			require.EqualValues(t, 1, conns.Load())
			var running sync.WaitGroup
			running.Go(func() {
				defer func() { recover() }()
				reqs := []*fetch.Request{{URL: server + "/1"}, {URL: server + "/2"}, {URL: server + "/3"}}
				client.DoBatch(t.Context(), reqs, func(r fetch.Result) {
					assert.Equal(t, "/1", string(r.Body))
					select {
					case <-second:
					case <-time.After(soon):
						assert.Fail(t, "the requests were not sent together")
					}
					leave()
				})
			})
			running.Wait()
			res := get(t, client, server+"/next")
			require.NoError(t, res.Err)
			assert.Equal(t, "/next", string(res.Body))
			assert.EqualValues(t, 2, conns.Load(), "connections")
		})
	}
}
