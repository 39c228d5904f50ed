package fetchtest

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/time/rate"

	"fetchbench/fetch"
)

// TestFetcher checks that a [fetch.Fetcher] with s keeps the contract that is stated there, without
// policies and with all of them. The subtests bear the numbers of its rules. What it needs is said
// at [TestStrategy], which checks s alone: run that first, since it says better what is wrong with
// a strategy. -race is the best check of rule 6.
func TestFetcher(t *testing.T, s fetch.Strategy) {
	c := newContract(t, s)
	plain := &caller{contract: c, window: c.ahead, fetcher: func() *fetch.Fetcher { return &fetch.Fetcher{Strategy: s} }}
	plain.test(t)
	window := max(c.ahead, 2*c.inFlight) + 3
	polite := &caller{contract: c, window: window, fetcher: func() *fetch.Fetcher {
		return &fetch.Fetcher{
			Strategy: s,
			Retry:    &fetch.Retry{Backoff: time.Millisecond},
			PerHost:  &fetch.PerHost{Limit: c.inFlight, Lookahead: window},
			Rate:     rate.NewLimiter(1e6, 100),
		}
	}}
	t.Run("with policies", func(t *testing.T) {
		polite.test(t)
		t.Run("failures", plain.failures)
		t.Run("cancel", plain.cancelWaiting)
	})
}

func (c *caller) test(t *testing.T) {
	t.Run("1 exactly one result", func(t *testing.T) {
		t.Run("Fetch", c.exactlyOne)
		t.Run("Stream", c.stream)
		t.Run("FetchQueue", c.queue)
	})
	t.Run("2 bounded", func(t *testing.T) {
		t.Run("input and goroutines", c.bounded)
		t.Run("memory", c.memory)
	})
	t.Run("3 the limit holds", c.limit)
	t.Run("4 nothing is left running", c.nothingLeft)
	t.Run("5 cancel is quick", func(t *testing.T) {
		t.Run("under way", c.cancel)
		t.Run("from the loop", c.cancelFromLoop)
		t.Run("beforehand", c.canceledBefore)
	})
	t.Run("6 one goroutine", c.oneGoroutine)
	t.Run("7 panics", func(t *testing.T) {
		t.Run("in the Doer", c.doerPanics)
		t.Run("in the input", c.inputPanics)
	})
	t.Run("8 ordered", func(t *testing.T) {
		t.Run("order", c.ordered)
		t.Run("window", c.heldUp)
		t.Run("cancel", c.orderedCancel)
	})
}

// A caller is a contract as the caller of a Fetcher sees it.
type caller struct {
	*contract
	fetcher func() *fetch.Fetcher // without a Doer
	window  int                   // requests taken and not handed out, at most
}

// load is a number of requests that fills the window some times.
func (c *caller) load() int { return 3*c.window + 7 }

// An input is what a Fetch takes; url is that of the request with a number.
type input func(url func(i int) string) iter.Seq[fetch.Request]

// fetch is a Fetch through d.
func (c *caller) fetch(ctx context.Context, d fetch.DoerFunc, in input) iter.Seq[fetch.Result] {
	return c.run(c.fetcher(), d, func(f *fetch.Fetcher, url func(i int) string) iter.Seq[fetch.Result] { return f.Fetch(ctx, in(url)) })
}

// orderedFetch is a Fetch with Ordered set.
func (c *caller) orderedFetch(ctx context.Context, d fetch.DoerFunc, in input) iter.Seq[fetch.Result] {
	f := c.fetcher()
	f.Ordered = true
	return c.run(f, d, func(f *fetch.Fetcher, url func(i int) string) iter.Seq[fetch.Result] { return f.Fetch(ctx, in(url)) })
}

// run returns the results of what start starts, whose requests d performs: by way of Remote if the
// strategy has them performed elsewhere.
func (c *caller) run(f *fetch.Fetcher, d fetch.DoerFunc, start func(f *fetch.Fetcher, url func(i int) string) iter.Seq[fetch.Result]) iter.Seq[fetch.Result] {
	return func(yield func(fetch.Result) bool) {
		if c.remote {
			server := asked(d)
			defer server.Close()
			start(f, func(int) string { return server.URL })(yield)
			return
		}
		f.Doer = batcher{d, new(atomic.Bool)}
		start(f, otherHost)(yield)
	}
}

// tooMany ends the inputs that no run should come to the end of: one that goes on after a cancel
// fails its test, and does not hang it.
const tooMany = 100_000

// requests is an input of n requests, tooMany if n is negative. It counts those it was asked for.
func requests(n int, taken *int) input {
	if n < 0 {
		n = tooMany
	}
	return func(url func(i int) string) iter.Seq[fetch.Request] {
		return func(yield func(fetch.Request) bool) {
			for i := range n {
				*taken++
				if !yield(fetch.Request{URL: url(i)}) {
					return
				}
			}
		}
	}
}

func (c *caller) exactlyOne(t *testing.T) {
	for _, n := range []int{0, 1, 2, max(1, c.inFlight-1), c.inFlight + 1, c.load()} {
		c.timed(t, func(t *testing.T) {
			doer := func(ctx context.Context, r *fetch.Request) fetch.Result {
				time.Sleep(time.Duration(r.Index%7) * time.Millisecond)
				switch r.Index % 5 {
				case 1:
					return fetch.Result{Status: 500, Attempts: 1}
				case 2:
					return fetch.Result{Err: errFake, Attempts: 1}
				case 3:
					panicking(errFake)
				}
				return ok(ctx, r)
			}
			taken := 0
			seen := make([]int, n)
			for r := range c.fetch(t.Context(), doer, requests(n, &taken)) {
				require.NotNil(t, r.Request, "a Result names its Request")
				require.Less(t, r.Request.Index, n)
				seen[r.Request.Index]++
				switch r.Request.Index % 5 {
				case 1:
					assert.Equal(t, 500, r.Status, "a status is not an error")
					assert.NoError(t, r.Err)
				case 2, 3:
					c.assertFake(t, r.Err)
				default:
					assert.True(t, r.OK())
					assert.Equal(t, Pong, string(r.Body))
				}
			}
			assert.Equal(t, n, taken, "the whole input is taken")
			for i, times := range seen {
				require.Equal(t, 1, times, "results for request %d of %d", i, n)
			}
		})
	}
}

func (c *caller) bounded(t *testing.T) {
	for name, pause := range map[string]time.Duration{"quick loop": 0, "slow loop": time.Second} {
		t.Run(name, func(t *testing.T) {
			c.timed(t, func(t *testing.T) {
				taken, received, peak := 0, 0, 0
				goroutines := runtime.NumGoroutine()
				for range c.fetch(t.Context(), sleepy(time.Millisecond), requests(c.load(), &taken)) {
					time.Sleep(c.span(pause))
					require.LessOrEqual(t, taken-received, c.window, "requests taken ahead of the loop")
					c.settle() // one that has done its request may take a moment to end
					peak = max(peak, runtime.NumGoroutine()-goroutines)
					received++
				}
				assert.LessOrEqual(t, peak, c.mostGoroutines(), "goroutines")
			})
		})
	}
}

func (c *caller) memory(t *testing.T) {
	c.real(t, func(t *testing.T) {
		taken := 0
		m := newMemory(c.window, c.inFlight)
		for r := range c.fetch(t.Context(), ok, requests(m.n, &taken)) {
			m.see(t, r)
		}
	})
}

func (c *caller) limit(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		var g Gauge
		taken := 0
		for range c.fetch(t.Context(), measured(&g, sleepy(c.span(5*time.Second))), requests(c.load(), &taken)) {
		}
		assert.LessOrEqual(t, g.Peak(), c.inFlight, "requests under way")
		assert.Equal(t, c.inFlight, g.Peak(), "the limit is reached under load")
	})
}

func (c *caller) nothingLeft(t *testing.T) {
	errLoop := errors.New("the loop panics")
	run := func(t *testing.T, n, at int, end func(cancel func()) (more bool)) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		before := goleak.IgnoreCurrent()
		var g Gauge
		var waitedOut atomic.Int64
		var ending atomic.Bool
		taken, received := 0, 0
		func() {
			defer func() {
				if v := recover(); v != nil {
					assert.Equal(t, errLoop, v)
				}
			}()
			// Every third request goes on until it is told to end, or as if for ever. The first
			// result comes when there is such a one, if the limit allows that.
			held := make(chan struct{})
			hold := sync.OnceFunc(func() { close(held) })
			sleep := sleepy(5 * time.Second)
			doer := func(ctx context.Context, r *fetch.Request) fetch.Result {
				if n >= 0 {
					return ok(ctx, r)
				}
				if r.Index%3 != 2 {
					if r.Index < 2 && c.inFlight > 2 {
						select {
						case <-held:
						case <-ctx.Done():
						case <-time.After(time.Second):
						}
					}
					return ok(ctx, r)
				}
				if r.Index == 2 {
					hold()
				}
				res := sleep(ctx, r)
				if res.Err == nil && ending.Load() {
					waitedOut.Add(1)
				}
				time.Sleep(10 * time.Millisecond) // an end takes a moment
				return res
			}
			for range c.fetch(ctx, measured(&g, fetch.DoerFunc(doer)), requests(n, &taken)) {
				received++
				if received == at {
					ending.Store(true)
					if !end(cancel) {
						break
					}
				}
				if !assert.LessOrEqual(t, received, c.load(), "results after a cancel") {
					break
				}
			}
		}()
		assert.Zero(t, waitedOut.Load(), "requests that were waited for, and not aborted")
		assert.Zero(t, g.InFlight(), "requests under way after the loop")
		assert.Less(t, taken, tooMany, "the input is taken to its end, though the loop or the context has ended")
		goleak.VerifyNone(t, before)
	}
	late := min(2, c.inFlight) // with one worker, request 2 lasts until it is told to end, so no more results come
	for _, e := range []struct {
		name string
		n    int // requests; negative: without end
		at   int // the result at which end is called
		end  func(cancel func()) (more bool)
	}{
		{"exhausted", c.load(), 0, nil},
		{"break at once", -1, 1, func(func()) bool { return false }},
		{"break later", -1, late, func(func()) bool { return false }},
		{"cancel", -1, 1, func(cancel func()) bool { cancel(); return true }},
		{"cancel and break", -1, 1, func(cancel func()) bool { cancel(); return false }},
		{"panic", -1, 1, func(func()) bool { panic(errLoop) }},
	} {
		t.Run(e.name, func(t *testing.T) {
			c.timed(t, func(t *testing.T) { run(t, e.n, e.at, e.end) })
		})
	}
}

func (c *caller) cancel(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var canceled time.Time
		var startedLate atomic.Int64
		time.AfterFunc(c.span(time.Minute), func() {
			canceled = time.Now()
			cancel()
		})
		doer := func(ctx context.Context, r *fetch.Request) fetch.Result {
			if ctx.Err() != nil {
				startedLate.Add(1)
			}
			return sleepy(forever)(ctx, r)
		}
		taken, received := 0, 0
		for r := range c.fetch(ctx, doer, requests(-1, &taken)) {
			require.ErrorIs(t, r.Err, fetch.ErrCanceled)
			received++
		}
		assert.LessOrEqual(t, time.Since(canceled), c.soon(), "until the loop ended")
		assert.Equal(t, taken, received, "each request taken has a result")
		assert.LessOrEqual(t, taken, c.window, "no more input is taken")
		assert.Zero(t, startedLate.Load(), "requests started after the cancel")
	})
}

func (c *caller) cancelFromLoop(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var canceled time.Time
		taken, received, takenThen := 0, 0, 0
		for range c.fetch(ctx, sleepy(c.span(time.Second)), requests(-1, &taken)) {
			received++
			if received == 2*c.window {
				canceled, takenThen = time.Now(), taken
				cancel()
			}
			if !canceled.IsZero() {
				require.LessOrEqual(t, taken, takenThen+1, "no more input is taken")
			}
		}
		assert.LessOrEqual(t, time.Since(canceled), c.soon(), "until the loop ended")
		assert.Equal(t, taken, received, "each request taken has a result")
	})
}

func (c *caller) canceledBefore(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var g Gauge
		taken, received := 0, 0
		for r := range c.fetch(ctx, measured(&g, fetch.DoerFunc(ok)), requests(-1, &taken)) {
			require.ErrorIs(t, r.Err, fetch.ErrCanceled)
			received++
		}
		assert.Equal(t, taken, received, "each request taken has a result")
		assert.LessOrEqual(t, taken, c.window)
		assert.Zero(t, g.Total(), "requests started")
	})
}

func (c *caller) oneGoroutine(t *testing.T) {
	c.real(t, func(t *testing.T) {
		me := goroutine()
		shared := make(map[int]string) // -race tells if two goroutines touch it
		in := func(url func(i int) string) iter.Seq[fetch.Request] {
			return func(yield func(fetch.Request) bool) {
				for i := range c.load() {
					assert.Equal(t, me, goroutine(), "the input's goroutine")
					shared[i] = "taken"
					if !yield(fetch.Request{URL: url(i)}) {
						return
					}
				}
			}
		}
		for r := range c.fetch(t.Context(), ok, in) {
			assert.Equal(t, me, goroutine(), "the loop's goroutine")
			shared[r.Request.Index] = "received"
		}
		assert.Len(t, shared, c.load())
	})
}

func (c *caller) doerPanics(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		taken, received := 0, 0
		doer := func(context.Context, *fetch.Request) fetch.Result {
			panicking(errFake)
			return fetch.Result{}
		}
		for r := range c.fetch(t.Context(), doer, requests(c.load(), &taken)) {
			c.assertPanic(t, r.Err)
			received++
		}
		assert.Equal(t, c.load(), received)
	})
}

func (c *caller) inputPanics(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		before := goleak.IgnoreCurrent()
		taken := 0
		in := func(url func(i int) string) iter.Seq[fetch.Request] {
			return func(yield func(fetch.Request) bool) {
				requests(c.inFlight, &taken)(url)(yield)
				panic(errFake)
			}
		}
		assert.PanicsWithValue(t, errFake, func() {
			for range c.fetch(t.Context(), ok, in) {
			}
		})
		goleak.VerifyNone(t, before)
	})
}

func (c *caller) ordered(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		durations := make([]time.Duration, c.load())
		for i := range durations {
			durations[i] = c.span(time.Duration(rng.IntN(1000)) * time.Millisecond)
		}
		doer := func(ctx context.Context, r *fetch.Request) fetch.Result {
			return sleepy(durations[r.Index])(ctx, r)
		}
		taken, received := 0, 0
		for r := range c.orderedFetch(t.Context(), doer, requests(len(durations), &taken)) {
			require.Equal(t, received, r.Request.Index, "the order of the input")
			require.True(t, r.OK())
			require.LessOrEqual(t, taken-received, c.window, "requests taken ahead of the loop")
			received++
		}
		assert.Equal(t, len(durations), received)
	})
}

// heldUp holds up the first request, and looks at how much is done meanwhile.
func (c *caller) heldUp(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		var taken, takenByThen atomic.Int64
		doer := func(ctx context.Context, r *fetch.Request) fetch.Result {
			if r.Index == 0 {
				time.Sleep(c.span(time.Hour))
				takenByThen.Store(taken.Load())
			}
			return ok(ctx, r)
		}
		in := func(url func(i int) string) iter.Seq[fetch.Request] {
			return func(yield func(fetch.Request) bool) {
				for r := range requests(c.load(), new(int))(url) {
					taken.Add(1)
					if !yield(r) {
						return
					}
				}
			}
		}
		received := 0
		for r := range c.orderedFetch(t.Context(), doer, in) {
			require.Equal(t, received, r.Request.Index)
			received++
		}
		assert.Equal(t, c.load(), received)
		assert.LessOrEqual(t, int(takenByThen.Load()), c.window, "requests taken while the first is held up")
	})
}

func (c *caller) orderedCancel(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var canceled time.Time
		time.AfterFunc(c.span(time.Minute), func() {
			canceled = time.Now()
			cancel()
		})
		doer := func(ctx context.Context, r *fetch.Request) fetch.Result {
			if r.Index == 0 {
				return sleepy(forever)(ctx, r)
			}
			return ok(ctx, r)
		}
		taken, received := 0, 0
		for r := range c.orderedFetch(ctx, doer, requests(-1, &taken)) {
			require.Equal(t, received, r.Request.Index)
			require.LessOrEqual(t, taken, c.window, "no more input is taken")
			received++
		}
		assert.Equal(t, taken, received, "each request taken has a result")
		assert.LessOrEqual(t, time.Since(canceled), c.soon(), "until the loop ended")
	})
}

func (c *caller) stream(t *testing.T) {
	send := func(ctx context.Context, reqs chan<- fetch.Request, url func(i int) string, n int, sent *atomic.Int64) {
		defer close(reqs)
		for i := range n {
			select {
			case reqs <- fetch.Request{URL: url(i), Tag: i}:
				sent.Add(1)
			case <-ctx.Done():
				return
			}
		}
	}
	// run ranges over a Stream of n requests that are performed by d.
	run := func(ctx context.Context, n int, d fetch.DoerFunc, sent *atomic.Int64) iter.Seq[fetch.Result] {
		return c.run(c.fetcher(), d, func(f *fetch.Fetcher, url func(i int) string) iter.Seq[fetch.Result] {
			return func(yield func(fetch.Result) bool) {
				ctx, cancel := context.WithCancel(ctx)
				reqs := make(chan fetch.Request)
				var sender sync.WaitGroup
				sender.Go(func() { send(ctx, reqs, url, n, sent) })
				defer sender.Wait()
				defer cancel()
				f.Stream(ctx, reqs)(yield)
			}
		})
	}
	t.Run("to its end", func(t *testing.T) {
		c.timed(t, func(t *testing.T) {
			var sent atomic.Int64
			seen := make([]int, c.load())
			received := 0
			for r := range run(t.Context(), c.load(), sleepy(time.Millisecond), &sent) {
				require.True(t, r.OK(), "%v", r.Err)
				require.Equal(t, r.Request.Index, r.Request.Tag)
				seen[r.Request.Index]++
				require.LessOrEqual(t, int(sent.Load())-received, c.window, "requests taken ahead of the loop")
				received++
			}
			for i, times := range seen {
				require.Equal(t, 1, times, "results for request %d", i)
			}
		})
	})
	t.Run("in turns", func(t *testing.T) {
		c.timed(t, func(t *testing.T) {
			received := 0
			for range c.run(c.fetcher(), ok, func(f *fetch.Fetcher, url func(i int) string) iter.Seq[fetch.Result] {
				return func(yield func(fetch.Result) bool) {
					reqs := make(chan fetch.Request, 1)
					reqs <- fetch.Request{URL: url(0)}
					for r := range f.Stream(t.Context(), reqs) {
						if received == c.load() {
							close(reqs)
						} else {
							reqs <- fetch.Request{URL: url(received)} // the next one, only now
						}
						if !yield(r) {
							return
						}
					}
				}
			}) {
				received++
			}
			assert.Equal(t, c.load()+1, received)
		})
	})
	for name, end := range map[string]func(cancel func()) (more bool){
		"cancel": func(cancel func()) bool { cancel(); return true },
		"break":  func(func()) bool { return false },
	} {
		t.Run(name, func(t *testing.T) {
			c.timed(t, func(t *testing.T) {
				before := goleak.IgnoreCurrent()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var g Gauge
				var sent atomic.Int64
				received, broken := 0, false
				for range run(ctx, tooMany, measured(&g, sleepy(time.Millisecond)), &sent) {
					received++
					if received == c.window && !end(cancel) {
						broken = true
						break
					}
				}
				if !broken {
					assert.EqualValues(t, sent.Load(), received, "each request sent has a result")
				}
				assert.LessOrEqual(t, int(sent.Load()), 2*c.window, "requests taken")
				assert.Zero(t, g.InFlight(), "requests under way after the loop")
				goleak.VerifyNone(t, before)
			})
		})
	}
}

// queue crawls a tree: each request leads to some more.
func (c *caller) queue(t *testing.T) {
	for name, end := range map[string]func(cancel func()) (more bool){
		"to its end": nil,
		"cancel":     func(cancel func()) bool { cancel(); return true },
		"break":      func(func()) bool { return false },
	} {
		t.Run(name, func(t *testing.T) {
			c.timed(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var q fetch.Queue
				var g Gauge
				var url func(i int) string
				added, n := 1, c.load()
				seen := make(map[any]bool)
				for r := range c.run(c.fetcher(), measured(&g, sleepy(time.Millisecond)), func(f *fetch.Fetcher, u func(i int) string) iter.Seq[fetch.Result] {
					url = u
					q.Add(fetch.Request{URL: url(0), Tag: 0})
					return f.FetchQueue(ctx, &q)
				}) {
					require.False(t, seen[r.Request.Tag], "a second result")
					require.Equal(t, r.Request.Tag, r.Request.Index, "the order of the queue")
					seen[r.Request.Tag] = true
					for range 3 {
						if added < n {
							q.Add(fetch.Request{URL: url(added), Tag: added})
							added++
						}
					}
					if end != nil && len(seen) == n/2 && !end(cancel) {
						break
					}
				}
				switch name {
				case "to its end":
					assert.Len(t, seen, n)
					assert.Zero(t, q.Len())
				case "cancel":
					assert.Equal(t, added, len(seen)+q.Len(), "each request has a result, or is in the queue")
				default:
					assert.LessOrEqual(t, len(seen)+q.Len(), added)
					assert.GreaterOrEqual(t, len(seen)+q.Len()+c.window, added, "requests lost by the break: those taken")
				}
				assert.Zero(t, g.InFlight(), "requests under way after the loop")
			})
		})
	}
}

// failures has requests fail once or twice, under all policies.
func (c *caller) failures(t *testing.T) {
	const burst, perHost = 5, 2
	hosts, perSecond := 3, 200.0
	if c.remote {
		hosts, perSecond = 1, 1e4 // there is one server
	}
	for _, ordered := range []bool{false, true} {
		c.timed(t, func(t *testing.T) {
			var mu sync.Mutex
			attempts := make(map[int]int)
			var starts []time.Time
			gauges := make([]Gauge, hosts)
			doer := func(ctx context.Context, r *fetch.Request) fetch.Result {
				defer gauges[r.Index%hosts].Enter()()
				mu.Lock()
				attempts[r.Index]++
				attempt := attempts[r.Index]
				starts = append(starts, time.Now())
				mu.Unlock()
				time.Sleep(time.Duration(r.Index%7) * time.Millisecond)
				switch {
				case attempt > r.Index%3:
					return ok(ctx, r)
				case r.Index%2 == 0 && !c.remote:
					return fetch.Result{Err: &fetch.Error{Kind: fetch.ErrReset}, Attempts: 1}
				}
				return fetch.Result{Status: http.StatusServiceUnavailable, Attempts: 1}
			}
			in := func(url func(i int) string) iter.Seq[fetch.Request] {
				return func(yield func(fetch.Request) bool) {
					for i := range c.load() {
						u := url(i)
						if !c.remote {
							u = otherHost(i % hosts)
						}
						if !yield(fetch.Request{URL: u}) {
							return
						}
					}
				}
			}
			f := &fetch.Fetcher{
				Strategy: c.Strategy,
				Ordered:  ordered,
				Retry:    &fetch.Retry{Budget: 10, Backoff: 2 * time.Millisecond},
				PerHost:  &fetch.PerHost{Limit: perHost},
				Rate:     rate.NewLimiter(rate.Limit(perSecond), burst),
			}
			seen := make([]int, c.load())
			received := 0
			for r := range c.run(f, doer, func(f *fetch.Fetcher, url func(i int) string) iter.Seq[fetch.Result] {
				return f.Fetch(t.Context(), in(url))
			}) {
				i := r.Request.Index
				seen[i]++
				if ordered {
					require.Equal(t, received, i, "the order of the input")
				}
				require.True(t, r.OK(), "status %d, error %v", r.Status, r.Err)
				require.Equal(t, i%3+1, r.Attempts, "attempts of request %d", i)
				received++
			}
			for i, times := range seen {
				require.Equal(t, 1, times, "results for request %d", i)
			}
			for i := range gauges {
				assert.LessOrEqual(t, gauges[i].Peak(), perHost, "requests of a host under way")
			}
			if c.remote {
				return // the way there and back takes its time
			}
			for i := range starts[burst:] {
				least := time.Duration(float64(time.Second) / perSecond)
				require.GreaterOrEqual(t, starts[i+burst].Sub(starts[i]), least-time.Microsecond, "time from a start to the fifth after it")
			}
		})
	}
}

// cancelWaiting ends the context while requests wait for their next attempt.
func (c *caller) cancelWaiting(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		before := goleak.IgnoreCurrent()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var canceled time.Time
		time.AfterFunc(c.span(time.Minute), func() {
			canceled = time.Now()
			cancel()
		})
		unavailable := func(context.Context, *fetch.Request) fetch.Result {
			return fetch.Result{Status: http.StatusServiceUnavailable, Attempts: 1}
		}
		f := &fetch.Fetcher{
			Strategy: c.Strategy,
			Retry:    &fetch.Retry{Attempts: 10, Budget: 10, Backoff: forever, MaxWait: forever},
			PerHost:  &fetch.PerHost{},
			Rate:     rate.NewLimiter(1e6, 100),
		}
		taken, received := 0, 0
		for r := range c.run(f, unavailable, func(f *fetch.Fetcher, url func(i int) string) iter.Seq[fetch.Result] {
			return f.Fetch(ctx, requests(-1, &taken)(url))
		}) {
			if !c.remote || r.Status == 0 { // in real time, a response may come at that moment
				require.ErrorIs(t, r.Err, fetch.ErrCanceled)
			}
			received++
		}
		assert.LessOrEqual(t, time.Since(canceled), c.soon(), "until the loop ended")
		assert.Equal(t, taken, received, "each request taken has a result")
		goleak.VerifyNone(t, before)
	})
}
