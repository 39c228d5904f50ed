package fetchtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fetchbench/fetch"
)

// unstated is the bound that a strategy is held to if it is not a [fetch.Bounded].
const unstated = 4096

// TestStrategy checks that s keeps the contract that [fetch.Strategy] states. The
// subtests bear the numbers of its rules. A strategy that is a [fetch.Bounded] is held
// to the bounds that it tells, and has to reach its limit.
//
// It needs no network: the Doers are made of memory, and time is testing/synctest's. But
// a strategy that has requests performed by other processes needs [Remote] there; it is tested
// over loopback, and in real time. Run it with -race too, since the race detector is the best
// check of rule 6. Small limits make it quick.
func TestStrategy(t *testing.T, s fetch.Strategy) {
	c := &contract{Strategy: s, inFlight: unstated, ahead: 2 * unstated, remote: isRemote(t, s)}
	if b, ok := s.(fetch.Bounded); ok {
		c.stated = true
		c.inFlight, c.ahead = b.Bounds()
		require.Positive(t, c.inFlight, "Bounds")
		require.GreaterOrEqual(t, c.ahead, c.inFlight, "Bounds: requests under way are ahead of the loop")
	}
	t.Run("0 named", func(t *testing.T) { assert.NotEmpty(t, s.String()) })
	t.Run("1 exactly one result", c.exactlyOne)
	t.Run("2 bounded", func(t *testing.T) {
		t.Run("input and goroutines", c.bounded)
		t.Run("memory", c.memory)
	})
	t.Run("3 the limit holds", c.limit)
	t.Run("4 nothing runs on", c.nothingRunsOn)
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
		t.Run("window", c.window)
		t.Run("cancel", c.orderedCancel)
	})
}

type contract struct {
	fetch.Strategy
	inFlight, ahead int
	stated          bool
	remote          bool // requests are performed outside of this process
}

// isRemote finds out where s has requests performed.
func isRemote(t *testing.T, s fetch.Strategy) bool {
	var here, there atomic.Bool
	note := func(called *atomic.Bool) fetch.DoerFunc {
		return func(ctx context.Context, r *fetch.Request) fetch.Result {
			called.Store(true)
			return ok(ctx, r)
		}
	}
	f := fetch.Fetcher{Strategy: s, Doer: note(&here)}
	for range f.Get(t.Context(), "http://127.0.0.1:1/") {
	}
	if here.Load() {
		return false
	}
	answer := "no result"
	for r := range remotely(t.Context(), &f, note(&there), fetch.URLs("")) {
		answer = fmt.Sprintf("status %d, error %v", r.Status, r.Err)
	}
	require.True(t, there.Load(), "requests are not performed by the Doer that Run is given (%s); "+
		"if another process performs them, the Doer there has to be fetchtest.Remote", answer)
	return true
}

// fetch is a Fetch of s through d.
func (c *contract) fetch(ctx context.Context, d fetch.DoerFunc, reqs iter.Seq[fetch.Request]) iter.Seq[fetch.Result] {
	return c.run(ctx, &fetch.Fetcher{Strategy: c.Strategy}, d, reqs)
}

// orderedFetch is a Fetch with Ordered set.
func (c *contract) orderedFetch(ctx context.Context, d fetch.DoerFunc, reqs iter.Seq[fetch.Request]) iter.Seq[fetch.Result] {
	return c.run(ctx, &fetch.Fetcher{Strategy: c.Strategy, Ordered: true}, d, reqs)
}

func (c *contract) run(ctx context.Context, f *fetch.Fetcher, d fetch.Doer, reqs iter.Seq[fetch.Request]) iter.Seq[fetch.Result] {
	if c.remote {
		return remotely(ctx, f, d, reqs)
	}
	f.Doer = d
	return f.Fetch(ctx, reqs)
}

// timed runs a test in synctest's time or, since other processes do not live in that, in real time.
func (c *contract) timed(t *testing.T, test func(t *testing.T)) {
	if c.remote {
		test(t)
		return
	}
	synctest.Test(t, test)
}

// span is how long what takes d in synctest's time takes in c's.
func (c *contract) span(d time.Duration) time.Duration {
	if c.remote {
		return min(d/50, 300*time.Millisecond)
	}
	return d
}

// soon is the time that the loop may take to end after a cancel. In real time some
// is added, since the machine may be busy with other tests.
func (c *contract) soon() time.Duration {
	if c.remote {
		return 500 * time.Millisecond
	}
	return 100 * time.Millisecond
}

// assertFake asserts that v is, or wraps, errFake. Of an error, its text gets through to another process.
func (c *contract) assertFake(t *testing.T, v any) {
	t.Helper()
	err, _ := v.(error)
	if c.remote {
		assert.ErrorContains(t, err, errFake.Error())
	} else {
		assert.ErrorIs(t, err, errFake)
	}
}

// load is a number of requests that keeps s busy for some rounds.
func (c *contract) load() int { return 3*min(c.ahead, unstated) + 7 }

// tooMany ends the inputs that no strategy should come to the end of: one that goes on
// after a cancel fails its test, and does not hang it.
const tooMany = 100_000

// requests yields n requests, tooMany if n is negative, and counts those that it has
// been asked for.
func requests(n int, taken *int) iter.Seq[fetch.Request] {
	if n < 0 {
		n = tooMany
	}
	return func(yield func(fetch.Request) bool) {
		for range n {
			*taken++
			if !yield(fetch.Request{URL: "http://host.test/ping"}) {
				return
			}
		}
	}
}

var errFake = errors.New("a failure that the test asked for")

// ok is what a Doer that does nothing answers.
func ok(context.Context, *fetch.Request) fetch.Result {
	return fetch.Result{Status: 200, Body: []byte(Pong), Attempts: 1, Duration: time.Millisecond}
}

// sleepy returns a Doer that takes d, or until its context is done.
func sleepy(d time.Duration) fetch.DoerFunc {
	return func(ctx context.Context, r *fetch.Request) fetch.Result {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return ok(ctx, r)
		case <-ctx.Done():
			return fetch.Result{Err: &fetch.Error{Kind: fetch.ErrCanceled, Err: ctx.Err()}}
		}
	}
}

// forever is longer than any test: what takes so long has to be canceled.
const forever = time.Hour

// measured returns d with its requests counted by g.
func measured(g *Gauge, d fetch.Doer) fetch.DoerFunc { return g.Doer(d).Do }

func (c *contract) exactlyOne(t *testing.T) {
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
					panic(errFake)
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
					assert.Equal(t, 500, r.Status, "a status is no error")
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

func (c *contract) bounded(t *testing.T) {
	for name, pause := range map[string]time.Duration{"quick loop": 0, "slow loop": time.Second} {
		t.Run(name, func(t *testing.T) {
			c.timed(t, func(t *testing.T) {
				taken, received, peak := 0, 0, 0
				goroutines := runtime.NumGoroutine()
				for range c.fetch(t.Context(), sleepy(time.Millisecond), requests(c.load(), &taken)) {
					time.Sleep(c.span(pause))
					require.LessOrEqual(t, taken-received, c.ahead, "requests taken ahead of the loop")
					if !c.remote {
						synctest.Wait() // one that has done its request may take a moment to end
					}
					peak = max(peak, runtime.NumGoroutine()-goroutines)
					received++
				}
				most := c.inFlight + 16
				if c.remote {
					most += 4 * c.inFlight // of the server that Remote asks
				}
				assert.LessOrEqual(t, peak, most, "goroutines")
			})
		})
	}
}

// memory looks for requests that nobody needs any more, and that s keeps all the same.
func (c *contract) memory(t *testing.T) {
	taken := 0
	allowed := 2*c.ahead + c.inFlight // what stands in a buffer, and has not been written over yet, is bounded too
	n := allowed + c.load()
	var seen []weak.Pointer[fetch.Request]
	for r := range c.fetch(t.Context(), ok, requests(n, &taken)) {
		seen = append(seen, weak.Make(r.Request))
		if len(seen) < n-1 {
			continue
		}
		runtime.GC()
		kept := 0
		for _, p := range seen {
			if p.Value() != nil {
				kept++
			}
		}
		assert.LessOrEqual(t, kept, allowed, "requests kept after their result was received")
	}
}

func (c *contract) limit(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		var g Gauge
		taken := 0
		for range c.fetch(t.Context(), measured(&g, sleepy(c.span(5*time.Second))), requests(c.load(), &taken)) {
		}
		assert.LessOrEqual(t, g.Peak(), c.inFlight, "requests under way")
		if c.stated {
			assert.Equal(t, c.inFlight, g.Peak(), "the limit is reached under load")
		}
	})
}

func (c *contract) nothingRunsOn(t *testing.T) {
	errLoop := errors.New("the loop panics")
	run := func(t *testing.T, n int, end func(received int, cancel func()) bool) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		before := goleak.IgnoreCurrent()
		var g Gauge
		var waitedOut atomic.Int64
		taken, received := 0, 0
		func() {
			defer func() {
				if v := recover(); v != nil {
					assert.Equal(t, errLoop, v)
				}
			}()
			// Every third request goes on until it is told to end, or as if for ever. The
			// first result comes when there is such a one, if the limit allows that.
			held := make(chan struct{})
			hold := sync.OnceFunc(func() { close(held) })
			doer := func(ctx context.Context, r *fetch.Request) fetch.Result {
				if n >= 0 {
					return ok(ctx, r)
				}
				if r.Index%3 != 2 {
					if r.Index < 2 && c.stated && c.inFlight > 2 {
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
				res := sleepy(5*time.Second)(ctx, r)
				if res.Err == nil {
					waitedOut.Add(1)
				}
				return res
			}
			for range c.fetch(ctx, measured(&g, fetch.DoerFunc(doer)), requests(n, &taken)) {
				received++
				if end(received, cancel) {
					break
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
	// With one worker, request 2 lasts until it is told to end: no more than two results come.
	late := min(2, c.inFlight)
	t.Run("exhausted", func(t *testing.T) { run(t, c.load(), func(int, func()) bool { return false }) })
	t.Run("break at once", func(t *testing.T) { run(t, -1, func(int, func()) bool { return true }) })
	t.Run("break later", func(t *testing.T) { run(t, -1, func(n int, _ func()) bool { return n == late }) })
	t.Run("cancel", func(t *testing.T) { run(t, -1, func(_ int, cancel func()) bool { cancel(); return false }) })
	t.Run("cancel and break", func(t *testing.T) { run(t, -1, func(_ int, cancel func()) bool { cancel(); return true }) })
	t.Run("panic", func(t *testing.T) { run(t, -1, func(int, func()) bool { panic(errLoop) }) })
}

func (c *contract) cancel(t *testing.T) {
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
		assert.Equal(t, taken, received, "each request taken is answered")
		assert.LessOrEqual(t, taken, c.ahead, "no more input is taken")
		assert.Zero(t, startedLate.Load(), "requests started after the cancel")
	})
}

func (c *contract) cancelFromLoop(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var canceled time.Time
		taken, received, takenThen := 0, 0, 0
		for range c.fetch(ctx, sleepy(c.span(time.Second)), requests(-1, &taken)) {
			received++
			if received == 2*c.ahead {
				canceled, takenThen = time.Now(), taken
				cancel()
			}
			if !canceled.IsZero() {
				require.LessOrEqual(t, taken, takenThen+1, "no more input is taken")
			}
		}
		assert.LessOrEqual(t, time.Since(canceled), c.soon(), "until the loop ended")
		assert.Equal(t, taken, received, "each request taken is answered")
	})
}

func (c *contract) canceledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var g Gauge
	taken, received := 0, 0
	for r := range c.fetch(ctx, measured(&g, fetch.DoerFunc(ok)), requests(-1, &taken)) {
		require.ErrorIs(t, r.Err, fetch.ErrCanceled)
		received++
	}
	assert.Equal(t, taken, received, "each request taken is answered")
	assert.LessOrEqual(t, taken, c.ahead)
	assert.Zero(t, g.Total(), "requests started")
}

func (c *contract) oneGoroutine(t *testing.T) {
	me := goroutine()
	shared := make(map[int]string) // -race tells if two goroutines touch it
	input := func(yield func(fetch.Request) bool) {
		for i := range c.load() {
			assert.Equal(t, me, goroutine(), "the input's goroutine")
			shared[i] = "taken"
			if !yield(fetch.Request{URL: "http://host.test/ping"}) {
				return
			}
		}
	}
	for r := range c.fetch(t.Context(), ok, input) {
		assert.Equal(t, me, goroutine(), "the loop's goroutine")
		shared[r.Request.Index] = "received"
	}
	assert.Len(t, shared, c.load())
}

// goroutine returns the first words of a stack trace: "goroutine 12".
func goroutine() string {
	buf := make([]byte, 64)
	name, _, _ := bytes.Cut(buf[:runtime.Stack(buf, false)], []byte(" ["))
	return string(name)
}

func (c *contract) doerPanics(t *testing.T) {
	taken, received := 0, 0
	n := c.load()
	doer := func(context.Context, *fetch.Request) fetch.Result {
		panicking(errFake)
		return fetch.Result{}
	}
	for r := range c.fetch(t.Context(), doer, requests(n, &taken)) {
		received++
		var p *fetch.PanicError
		require.ErrorAs(t, r.Err, &p)
		require.ErrorIs(t, r.Err, fetch.ErrPanic)
		c.assertFake(t, p.Value)
		assert.Contains(t, string(p.Stack), "panicking", "the stack is the panic's")
	}
	assert.Equal(t, n, received)
}

func (c *contract) inputPanics(t *testing.T) {
	before := goleak.IgnoreCurrent()
	taken := 0
	input := func(yield func(fetch.Request) bool) {
		requests(c.inFlight, &taken)(yield)
		panic(errFake)
	}
	assert.PanicsWithValue(t, errFake, func() {
		for range c.fetch(t.Context(), ok, input) {
		}
	})
	goleak.VerifyNone(t, before)
}

func (c *contract) ordered(t *testing.T) {
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
			require.LessOrEqual(t, taken-received, c.ahead, "requests taken ahead of the loop")
			received++
		}
		assert.Equal(t, len(durations), received)
	})
}

// window holds up the first request, and looks at how much is done meanwhile.
func (c *contract) window(t *testing.T) {
	c.timed(t, func(t *testing.T) {
		var taken, takenByThen atomic.Int64
		doer := func(ctx context.Context, r *fetch.Request) fetch.Result {
			if r.Index == 0 {
				time.Sleep(c.span(time.Hour))
				takenByThen.Store(taken.Load())
			}
			return ok(ctx, r)
		}
		input := func(yield func(fetch.Request) bool) {
			for r := range requests(c.load(), new(int)) {
				taken.Add(1)
				if !yield(r) {
					return
				}
			}
		}
		received := 0
		for r := range c.orderedFetch(t.Context(), doer, input) {
			require.Equal(t, received, r.Request.Index)
			received++
		}
		assert.Equal(t, c.load(), received)
		assert.LessOrEqual(t, int(takenByThen.Load()), c.ahead, "requests taken while the first is held up")
	})
}

func (c *contract) orderedCancel(t *testing.T) {
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
			require.LessOrEqual(t, taken, c.ahead, "no more input is taken")
			received++
		}
		assert.Equal(t, taken, received, "each request taken is answered")
		assert.LessOrEqual(t, time.Since(canceled), c.soon(), "until the loop ended")
	})
}
