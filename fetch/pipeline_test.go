package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
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

// The fake Doers of the suite are no BatchDoers: this is what Batch tells of itself.
func TestPipelineKeepsTheContract(t *testing.T) {
	fetchtest.TestStrategy(t, fetch.Batch{Size: 100, Limit: 16, Pipeline: 4})
}

func TestPipelineGroups(t *testing.T) {
	for _, c := range []struct{ n, hosts, pipeline, groups int }{
		{n: 100, hosts: 1, pipeline: 4, groups: 25},
		{n: 100, hosts: 1, pipeline: 7, groups: 15}, // 14 of 7, and one of 2
		{n: 100, hosts: 3, pipeline: 4, groups: 27}, // 34, 33 and 33 requests: 9 each
		{n: 100, hosts: 100, pipeline: 4, groups: 100},
		{n: 3, hosts: 1, pipeline: 4, groups: 1},
		{n: 0, hosts: 1, pipeline: 4, groups: 0},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			var groups atomic.Int64
			doer := batchDoerFunc(func(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
				groups.Add(1)
				assert.NotEmpty(t, reqs)
				assert.LessOrEqual(t, len(reqs), c.pipeline)
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
			for r := range batched(fetch.Batch{Pipeline: c.pipeline}, doer).Fetch(t.Context(), overHosts(c.n, c.hosts)) {
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
		batch       fetch.Batch
		hosts, peak int
	}{
		{fetch.Batch{Size: 1000, Limit: 16, Pipeline: 4}, 1, 16},
		{fetch.Batch{Size: 1000, Limit: 16, Pipeline: 4}, 3, 16},
		{fetch.Batch{Size: 1000, Limit: 4, Pipeline: 100}, 1, 4},
		{fetch.Batch{Size: 1000, Limit: 10, Pipeline: 4}, 1, 10}, // a group begins as soon as there is room for it
		{fetch.Batch{Size: 10, Limit: 100, Pipeline: 4}, 1, 10},
		{fetch.Batch{Size: 1000, Limit: 16, Pipeline: 2}, 1000, 16},
	} {
		t.Run(fmt.Sprintf("%v hosts=%d", c.batch, c.hosts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g fetchtest.Gauge
				n := drain(batched(c.batch, sleepyBatch(&g)).Fetch(t.Context(), overHosts(300, c.hosts)))
				assert.Equal(t, 300, n)
				assert.Equal(t, c.peak, g.Peak(), "requests under way")
				assert.Zero(t, g.InFlight())
			})
		})
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
				f := fetch.Fetcher{Strategy: fetch.Batch{Size: 50, Limit: 16, Pipeline: 4}, Doer: c.do, Ordered: ordered}
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
					// 12 groups of 4 and one of 2, twice, and one of 1.
					assert.Equal(t, 2*(12*2+1), failed, "the second half of each group")
				}
				goleak.VerifyNone(t, before)
			})
		}
	}
}

// Whatever ends a Fetch, and whenever, nothing runs on, and after a cancel each
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
					f := fetch.Fetcher{Strategy: fetch.Batch{Size: 40, Limit: 16, Pipeline: 4}, Doer: doer, Ordered: ordered}
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
		for r := range batched(fetch.Batch{Size: 100, Limit: 16, Pipeline: 4}, sleepyBatch(&g)).Fetch(ctx, overHosts(-1, 1)) {
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

// While the loop is slow, the input waits too: never more than a batch ahead.
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
		for range batched(fetch.Batch{Size: 100, Limit: 16, Pipeline: 4}, sleepyBatch(&g)).Fetch(t.Context(), input) {
			time.Sleep(time.Second)
			synctest.Wait() // for goroutines that are done, and have not quite ended
			require.LessOrEqual(t, taken-received, 100, "requests taken ahead of the loop")
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
		f := fetch.Fetcher{Strategy: fetch.Batch{Size: 100, Limit: 16, Pipeline: 4}, Doer: doer, Ordered: true}
		next := 0
		for r := range f.Fetch(t.Context(), overHosts(333, 5)) {
			require.Equal(t, next, r.Request.Index)
			next++
		}
		assert.Equal(t, 333, next)
	})
}

// An engine that cannot pipeline serves a Batch all the same.
func TestPipelineNeedsABatchDoer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g fetchtest.Gauge
		ctx, batches := recorded(t.Context())
		f := batched(fetch.Batch{Size: 20, Limit: 5, Pipeline: 4}, g.Doer(asleep(time.Second)))
		assert.Equal(t, 40, drain(f.Fetch(ctx, overHosts(40, 2))))
		assert.Equal(t, 5, g.Peak())
		assert.Equal(t, 40, g.Total())
		assert.Equal(t, []fetch.BatchInfo{{Number: 0, Size: 20, Duration: 4 * time.Second}, {Number: 1, Size: 20, Duration: 4 * time.Second}}, *batches)
	})
}

// Without Pipeline, a BatchDoer is asked for one request at a time.
// With a Limit of 1 no two requests can share a write.
func TestPipelineOfOne(t *testing.T) {
	for _, b := range []fetch.Batch{{}, {Pipeline: 1}, {Limit: 1, Pipeline: 4}} {
		d := &countingBatchDoer{}
		assert.Equal(t, 10, drain(batched(b, d).Fetch(t.Context(), overHosts(10, 1))), b)
		assert.EqualValues(t, 10, d.single.Load(), b)
		assert.Zero(t, d.batches.Load(), b)
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

// BatchDone tells of pipelined batches as it does of others.
func TestPipelineBatchDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, batches := recorded(t.Context())
		var g fetchtest.Gauge
		// Four groups of 4 take 4 s, with an answer each second. The first answer of each
		// makes room for the fifth, which so ends after 5 s.
		assert.Equal(t, 30, drain(batched(fetch.Batch{Size: 20, Limit: 16, Pipeline: 4}, sleepyBatch(&g)).Fetch(ctx, overHosts(30, 1))))
		require.Len(t, *batches, 2)
		assert.Equal(t, fetch.BatchInfo{Number: 0, Size: 20, Duration: 5 * time.Second}, (*batches)[0])
		assert.Equal(t, fetch.BatchInfo{Number: 1, Size: 10, Duration: 4 * time.Second}, (*batches)[1])
	})
}
