package fetchtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fetchbench/fetch"
)

// TestStrategy checks that the executors of s keep the contract that [fetch.Executor] states,
// without a [fetch.Fetcher]. The subtests bear the numbers of its rules. [TestFetcher] checks what
// a caller gets.
//
// It needs no network: the Doers are in memory, and time is testing/synctest's. But a
// [fetch.RemoteStrategy] that performs requests elsewhere needs [Remote] there; it is tested over
// loopback, and in real time. Run it with -race too. Small limits make it quick.
func TestStrategy(t *testing.T, s fetch.Strategy) {
	c := newContract(t, s)
	t.Run("1 one result each", func(t *testing.T) {
		t.Run("outcomes", c.with(c.outcomes))
		t.Run("panics", c.with(c.panics))
		t.Run("one host", c.oneHost)
		t.Run("orders", c.with(c.orders))
	})
	t.Run("2 the limit holds", func(t *testing.T) {
		t.Run("under load", c.with(c.limit))
		t.Run("one by one", c.with(c.oneByOne))
	})
	t.Run("3 Submit does not block", func(t *testing.T) {
		t.Run("requests under way", c.with(c.submitWhileUnderWay))
		t.Run("results not received", c.with(c.submitWhileDone))
	})
	t.Run("4 the end of ctx", func(t *testing.T) {
		t.Run("cancel", c.with(c.cancelUnderWay))
		t.Run("deadline", c.with(c.deadlineUnderWay))
		t.Run("beforehand", c.with(c.endedBefore))
	})
	t.Run("5 Close leaves nothing running", func(t *testing.T) {
		t.Run("unused", c.with(c.closeAfter(false, nil)))
		t.Run("submitted", c.with(c.closeAfter(false, func(*driver, func()) {})))
		t.Run("under way", c.with(c.closeAfter(true, func(d *driver, _ func()) { d.x.Flush() })))
		t.Run("some received", c.with(c.closeAfter(true, func(d *driver, _ func()) { d.receive() })))
		t.Run("canceled", c.with(c.closeAfter(true, func(d *driver, cancel func()) { d.x.Flush(); c.settle(); cancel() })))
		t.Run("done", c.with(c.closeWhenDone))
	})
	t.Run("6 bounded", func(t *testing.T) {
		t.Run("goroutines", c.with(c.goroutines))
		t.Run("memory", c.with(c.memory))
		t.Run("hosts", c.manyHosts)
	})
}

// A making makes a Doer of a function, and starts an executor with it, which has to be closed.
type making func(t *testing.T, ctx context.Context, d fetch.DoerFunc) *driver

// with runs a test with a Doer and, if that makes a difference, with a BatchDoer.
func (c *contract) with(test func(t *testing.T, start making)) func(t *testing.T) {
	return func(t *testing.T) {
		t.Run("Doer", func(t *testing.T) {
			test(t, func(t *testing.T, ctx context.Context, d fetch.DoerFunc) *driver {
				return c.start(t, ctx, d, otherHost)
			})
		})
		if c.remote {
			return
		}
		t.Run("BatchDoer", func(t *testing.T) {
			if c.batches(t) {
				test(t, func(t *testing.T, ctx context.Context, d fetch.DoerFunc) *driver {
					return c.start(t, ctx, batcher{d, new(atomic.Bool)}, sameHost)
				})
			}
		})
	}
}

// batches reports whether the strategy uses a BatchDoer as one.
func (c *contract) batches(t *testing.T) bool {
	var batched atomic.Bool
	c.timed(t, func(t *testing.T) {
		d := c.start(t, t.Context(), batcher{ok, &batched}, sameHost)
		defer d.close()
		d.fill(c.ahead)
		d.x.Flush()
		c.settle()
	})
	return batched.Load()
}

// A driver uses an Executor as a Fetcher's loop does.
type driver struct {
	t       *testing.T
	x       fetch.Executor
	results <-chan fetch.Result
	url     func(i int) string
	count   int // submitted
	out     map[*fetch.Request]bool
	server  *httptest.Server // performs remote requests
}

// start starts an executor, which has to be closed.
func (c *contract) start(t *testing.T, ctx context.Context, d fetch.Doer, url func(i int) string) *driver {
	drv := &driver{t: t, url: url, out: make(map[*fetch.Request]bool)}
	if c.remote {
		drv.server = asked(d)
		drv.url, d = func(int) string { return drv.server.URL }, nil
	}
	drv.x = c.Start(ctx, d)
	require.NotNil(t, drv.x, "the Executor")
	drv.results = drv.x.Results()
	require.GreaterOrEqual(t, cap(drv.results), c.ahead, "room in the channel of the results, for Limits.Ahead")
	return drv
}

func (d *driver) close() {
	d.x.Close()
	if d.server != nil {
		d.server.Close()
	}
}

// submit submits one more request.
func (d *driver) submit() {
	r := &fetch.Request{Index: d.count, URL: d.url(d.count)}
	d.count++
	d.out[r] = true
	d.x.Submit(r)
}

// fill submits requests until n are out, or there is no room for more.
func (d *driver) fill(n int) {
	for len(d.out) < n && !d.isFull() {
		d.submit()
	}
}

// isFull asks the executor if it wants no more for now.
func (d *driver) isFull() bool {
	x, ok := d.x.(interface{ Full() bool })
	return ok && len(d.out) > 0 && x.Full()
}

// receive returns the next result, and waits for it if it has to.
func (d *driver) receive() fetch.Result {
	d.t.Helper()
	require.Equal(d.t, d.results, d.x.Results(), "Results returns always the same channel")
	if len(d.results) == 0 {
		d.x.Flush()
	}
	var res fetch.Result
	select {
	case res = <-d.results:
	default:
		limit := time.NewTimer(forever + time.Minute)
		if d.server != nil {
			limit.Reset(20 * time.Second)
		}
		defer limit.Stop()
		var open bool
		select {
		case res, open = <-d.results:
			require.True(d.t, open, "the channel of the results is not closed")
		case <-limit.C:
			require.FailNow(d.t, "a result is missing", "%d submitted, %d not answered", d.count, len(d.out))
		}
	}
	require.NotNil(d.t, res.Request, "a Result names its Request")
	require.True(d.t, d.out[res.Request], "a Result is of a Request that was submitted, and there is one: index %d, status %d, error %v",
		res.Request.Index, res.Status, res.Err)
	delete(d.out, res.Request)
	return res
}

// run submits n requests, and calls each with their results. Again and again it submits until high
// are out, and then receives until low are.
func (d *driver) run(n int, bounds func() (high, low int), each func(fetch.Result)) {
	for d.count < n {
		high, low := bounds()
		d.fill(min(high, len(d.out)+n-d.count))
		if d.isFull() {
			low = min(low, len(d.out)-1)
		}
		for len(d.out) > low {
			each(d.receive())
		}
	}
	if x, ok := d.x.(interface{ InputEnded() }); ok {
		x.InputEnded()
	}
	for len(d.out) > 0 {
		each(d.receive())
	}
}

// full keeps as many requests out as may be.
func (c *contract) full() (high, low int) { return c.ahead, c.ahead - 1 }

// verifyNoMore asserts that no results come that were not asked for.
func (d *driver) verifyNoMore(c *contract) {
	c.settle()
	require.Empty(d.t, len(d.results), "results too many")
}

// takesGoexit reports whether a Doer may call runtime.Goexit: not where that would end the caller.
func (c *contract) takesGoexit(t *testing.T) (takes bool) {
	if c.remote {
		return false
	}
	me := goroutine()
	d := c.start(t, t.Context(), fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		takes = goroutine() != me
		return ok(ctx, r)
	}), otherHost)
	defer d.close()
	d.submit()
	d.receive()
	return takes
}

func (c *contract) outcomes(t *testing.T, start making) {
	for _, n := range []int{1, 2, c.inFlight + 1, c.load()} {
		c.timed(t, func(t *testing.T) {
			goexit := c.takesGoexit(t)
			doer := func(ctx context.Context, r *fetch.Request) fetch.Result {
				time.Sleep(time.Duration(r.Index%7) * time.Millisecond)
				switch r.Index % 6 {
				case 1:
					return fetch.Result{Status: 500, Attempts: 1}
				case 2:
					return fetch.Result{Err: errFake, Attempts: 1}
				case 3:
					panicking(errFake)
				case 4:
					if goexit {
						runtime.Goexit()
					}
				}
				return ok(ctx, r)
			}
			d := start(t, t.Context(), doer)
			defer d.close()
			d.run(n, c.full, func(res fetch.Result) {
				switch i := res.Request.Index % 6; {
				case i == 1:
					assert.Equal(t, 500, res.Status, "a status is not an error")
					assert.NoError(t, res.Err)
				case i == 2:
					c.assertFake(t, res.Err)
				case i == 3:
					c.assertPanic(t, res.Err)
				case i == 4 && goexit:
					assert.ErrorIs(t, res.Err, fetch.ErrPanic)
				default:
					assert.True(t, res.OK())
					assert.Equal(t, Pong, string(res.Body))
					assert.Equal(t, 1, res.Attempts)
					assert.Equal(t, time.Millisecond, res.Duration, "the Doer says how long it took")
				}
			})
			d.verifyNoMore(c)
		})
	}
}

// panics has every request panic, so that a strategy that loses its workers by that has none left.
func (c *contract) panics(t *testing.T, start making) {
	c.timed(t, func(t *testing.T) {
		d := start(t, t.Context(), func(context.Context, *fetch.Request) fetch.Result {
			panicking(errFake)
			return fetch.Result{}
		})
		defer d.close()
		d.run(c.load(), c.full, func(res fetch.Result) { c.assertPanic(t, res.Err) })
	})
}

// oneHost has requests of one host go on behind some that take their goroutines along, so that a
// strategy that orders them by host loses one that it needs.
func (c *contract) oneHost(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		if !c.takesGoexit(t) {
			return
		}
		d := c.start(t, t.Context(), fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
			if r.Index%3 == 0 {
				runtime.Goexit()
			}
			return ok(ctx, r)
		}), sameHost)
		defer d.close()
		d.run(c.load(), c.full, func(res fetch.Result) {
			assert.Equal(t, res.Request.Index%3 != 0, res.OK(), "request %d: %v", res.Request.Index, res.Err)
		})
	})
}

// orders submits and receives in different orders.
func (c *contract) orders(t *testing.T, start making) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, bounds := range map[string]func() (high, low int){
		"in turns": func() (high, low int) { return 1, 0 },
		"in waves": func() (high, low int) { return c.ahead, 0 },
		"at random": func() (high, low int) {
			high = 1 + rng.IntN(c.ahead)
			return high, rng.IntN(high)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.timed(t, func(t *testing.T) {
				d := start(t, t.Context(), sleepy(time.Millisecond))
				defer d.close()
				d.x.Flush() // with nothing to start
				d.run(c.load(), bounds, func(res fetch.Result) { require.NoError(t, res.Err) })
				d.x.Flush()
				d.verifyNoMore(c)
			})
		})
	}
}

func (c *contract) limit(t *testing.T, start making) {
	c.timed(t, func(t *testing.T) {
		var g Gauge
		me, inline := goroutine(), false
		sleep := sleepy(c.span(5 * time.Second))
		d := start(t, t.Context(), measured(&g, fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
			if goroutine() == me {
				inline = true // and nothing is under way while the test looks
			}
			return sleep(ctx, r)
		})))
		defer d.close()
		d.fill(c.ahead)
		for d.count < c.load() {
			d.x.Flush()
			c.settle()
			if !inline && !c.remote {
				require.Equal(t, min(c.inFlight, len(d.out)-len(d.results)), g.InFlight(), "requests under way, with %d out", len(d.out))
			}
			d.receive()
			for len(d.results) > 0 {
				d.receive()
			}
			d.fill(c.ahead)
		}
		for len(d.out) > 0 {
			d.receive()
		}
		assert.LessOrEqual(t, g.Peak(), c.inFlight, "requests under way")
		assert.Equal(t, c.inFlight, g.Peak(), "the limit is reached under load")
	})
}

// oneByOne looks whether each request starts though no other comes.
func (c *contract) oneByOne(t *testing.T, start making) {
	c.timed(t, func(t *testing.T) {
		var g Gauge
		release := make(chan struct{})
		started := make(chan struct{}, c.inFlight)
		d := start(t, t.Context(), measured(&g, fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
			started <- struct{}{}
			select {
			case <-release:
			case <-time.After(c.span(time.Minute)): // if it is performed by Flush
			}
			return ok(ctx, r)
		})))
		defer d.close()
		for n := range c.inFlight {
			d.submit()
			d.x.Flush()
			select {
			case <-started:
			case <-time.After(20 * time.Second):
				require.FailNow(t, "a request does not start after Flush", "%d are under way, the limit is %d", n, c.inFlight)
			}
			if c.remote {
				break // the others would have to start within the span
			}
		}
		close(release)
		for len(d.out) > 0 {
			d.receive()
		}
	})
}

func (c *contract) submitWhileUnderWay(t *testing.T, start making) {
	c.timed(t, func(t *testing.T) {
		d := start(t, t.Context(), sleepy(forever))
		defer d.close()
		for len(d.out) < c.ahead && !d.isFull() {
			begun := time.Now()
			d.submit()
			require.Less(t, time.Since(begun), c.soon(), "time in Submit, with %d out of %d", len(d.out), c.ahead)
		}
	})
}

func (c *contract) submitWhileDone(t *testing.T, start making) {
	c.timed(t, func(t *testing.T) {
		d := start(t, t.Context(), ok)
		defer d.close()
		for range 3 {
			for len(d.out) < c.ahead && !d.isFull() {
				begun := time.Now()
				d.submit()
				d.x.Flush()
				require.Less(t, time.Since(begun), c.soon(), "time in Submit, with %d out of %d", len(d.out), c.ahead)
				c.settle()
			}
			assert.Eventually(t, func() bool { return len(d.results) == len(d.out) }, 20*time.Second, time.Millisecond,
				"results that wait to be received: a send blocks")
			for len(d.out) > c.ahead/2 {
				d.receive()
			}
		}
	})
}

func (c *contract) cancelUnderWay(t *testing.T, start making) {
	c.end(t, start, fetch.ErrCanceled, func(ctx context.Context, after time.Duration) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancelCause(ctx)
		time.AfterFunc(after, func() { cancel(errFake) })
		return ctx, func() { cancel(nil) }
	})
}

func (c *contract) deadlineUnderWay(t *testing.T, start making) {
	c.end(t, start, fetch.ErrTimeout, func(ctx context.Context, after time.Duration) (context.Context, context.CancelFunc) {
		return context.WithDeadlineCause(ctx, time.Now().Add(after), errFake)
	})
}

// end has a context end while requests are under way.
func (c *contract) end(t *testing.T, start making, kind fetch.Kind, within func(context.Context, time.Duration) (context.Context, context.CancelFunc)) {
	c.timed(t, func(t *testing.T) {
		ctx, cancel := within(t.Context(), c.span(time.Minute))
		defer cancel()
		var late atomic.Int64
		sleep := sleepy(forever)
		d := start(t, ctx, func(ctx context.Context, r *fetch.Request) fetch.Result {
			if ctx.Err() != nil {
				late.Add(1)
			}
			res := sleep(ctx, r)
			if res.Err != nil {
				res.Err = &fetch.Error{Kind: kind} // and not with the cause
			}
			return res
		})
		defer d.close()
		d.fill(c.ahead)
		d.x.Flush()
		<-ctx.Done()
		ended := time.Now()
		var untouched int
		d.run(c.load(), c.full, func(res fetch.Result) {
			require.Equal(t, kind, fetch.KindOf(res.Err), "%v", res.Err)
			if errors.Is(res.Err, errFake) { // as Perform says, without the Doer
				untouched++
			}
		})
		assert.GreaterOrEqual(t, untouched, c.load()-c.inFlight, "requests answered with the context's cause")
		assert.LessOrEqual(t, time.Since(ended), c.soon(), "until all were answered")
		assert.Zero(t, late.Load(), "requests started after the end of the context")
	})
}

func (c *contract) endedBefore(t *testing.T, start making) {
	c.timed(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var g Gauge
		d := start(t, ctx, measured(&g, fetch.DoerFunc(ok)))
		defer d.close()
		cancel()
		d.run(c.load(), c.full, func(res fetch.Result) {
			require.ErrorIs(t, res.Err, fetch.ErrCanceled)
			require.Zero(t, res.Attempts)
		})
		assert.Zero(t, g.Total(), "requests started")
	})
}

// closeAfter returns a test that closes an executor after before; if that is nil, an unused one.
// Every other request takes long, if it is not aborted. settle has all of them start before.
func (c *contract) closeAfter(settle bool, before func(d *driver, cancel func())) func(t *testing.T, start making) {
	return func(t *testing.T, start making) {
		c.timed(t, func(t *testing.T) {
			running := goleak.IgnoreCurrent()
			var g Gauge
			var late, waitedOut atomic.Int64
			var closing atomic.Bool
			sleep := sleepy(5 * time.Second)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d := start(t, ctx, measured(&g, fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
				if ctx.Err() != nil {
					late.Add(1)
				}
				if r.Index%2 == 0 {
					return ok(ctx, r)
				}
				res := sleep(ctx, r)
				if res.Err == nil && closing.Load() {
					waitedOut.Add(1)
				}
				time.Sleep(10 * time.Millisecond) // an end takes a moment
				return res
			})))
			if before != nil {
				d.fill(c.ahead)
				before(d, cancel)
			}
			if settle {
				c.settle()
			}
			closing.Store(true)
			d.close()
			assert.Zero(t, g.InFlight(), "requests under way after Close")
			assert.Zero(t, waitedOut.Load(), "requests that were waited for, and not aborted")
			if settle && !c.remote { // else one may start while it is told to end
				assert.Zero(t, late.Load(), "requests started by Close, or after a cancel")
			}
			goleak.VerifyNone(t, running)
		})
	}
}

func (c *contract) closeWhenDone(t *testing.T, start making) {
	c.timed(t, func(t *testing.T) {
		running := goleak.IgnoreCurrent()
		d := start(t, t.Context(), sleepy(time.Millisecond))
		d.run(c.load(), c.full, func(res fetch.Result) { require.NoError(t, res.Err) })
		d.close()
		goleak.VerifyNone(t, running)
	})
}

func (c *contract) goroutines(t *testing.T, start making) {
	c.timed(t, func(t *testing.T) {
		peak, before := 0, runtime.NumGoroutine()
		d := start(t, t.Context(), sleepy(time.Millisecond))
		defer d.close()
		d.run(c.load(), c.full, func(fetch.Result) {
			c.settle() // one that has done its request may take a moment to end
			peak = max(peak, runtime.NumGoroutine()-before)
		})
		assert.LessOrEqual(t, peak, c.mostGoroutines(), "goroutines")
	})
}

// mostGoroutines is how many goroutines there may be: those of the strategy, and of a batcher or,
// for remote requests, of the server that Remote asks.
func (c *contract) mostGoroutines() int {
	if c.remote {
		return 5*c.inFlight + 16
	}
	return 2*c.inFlight + 16
}

// memory looks for requests that are not needed any more, and are kept all the same.
func (c *contract) memory(t *testing.T, start making) {
	c.real(t, func(t *testing.T) {
		m := newMemory(c.ahead, c.inFlight)
		d := start(t, t.Context(), ok)
		defer d.close()
		d.run(m.n, c.full, func(res fetch.Result) { m.see(t, res) })
	})
}

// manyHosts looks for what is kept of each host: their names are long.
func (c *contract) manyHosts(t *testing.T) {
	if c.remote {
		return // the requests are all for one
	}
	const n, size = 20_000, 1000
	name := strings.Repeat("x", size)
	live := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	c.real(t, func(t *testing.T) {
		d := c.start(t, t.Context(), fetch.DoerFunc(ok), func(i int) string { return fmt.Sprintf("http://%d.%s.test/ping", i, name) })
		defer d.close()
		before, received := live(), 0
		d.run(n, c.full, func(fetch.Result) {
			if received++; received == n-1 {
				assert.Less(t, live()-before, int64(n*size/2+4*size*c.ahead), "bytes kept after %d hosts with names of %d bytes", n, size)
			}
		})
	})
}

// A memory is a test of which requests are still in memory.
type memory struct {
	n       int // requests that it takes
	allowed int // may be kept: those that a buffer has and has not written over yet
	seen    []weak.Pointer[fetch.Request]
}

func newMemory(window, inFlight int) *memory {
	allowed := 2*window + inFlight
	return &memory{n: allowed + 3*window + 7, allowed: allowed}
}

// see notes a request whose result has been received. After the last but one it looks.
func (m *memory) see(t *testing.T, res fetch.Result) {
	m.seen = append(m.seen, weak.Make(res.Request))
	if len(m.seen) != m.n-1 {
		return
	}
	runtime.GC()
	kept := 0
	for _, p := range m.seen {
		if p.Value() != nil {
			kept++
		}
	}
	assert.LessOrEqual(t, kept, m.allowed, "requests kept after their result was received")
}
