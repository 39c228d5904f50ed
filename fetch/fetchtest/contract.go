package fetchtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// A contract is what [TestStrategy] and [TestFetcher] know of the strategy under test.
type contract struct {
	fetch.Strategy
	inFlight int
	ahead    int
	remote   bool // requests are performed outside this process
}

func newContract(t *testing.T, s fetch.Strategy) *contract {
	limits := s.Limits()
	c := &contract{Strategy: s, inFlight: limits.InFlight, ahead: limits.Ahead}
	if r, ok := s.(fetch.RemoteStrategy); ok {
		c.remote = r.Remote() != ""
	}
	t.Run("0 limits and name", func(t *testing.T) {
		assert.NotEmpty(t, s.String())
		assert.Positive(t, limits.InFlight, "Limits.InFlight")
		assert.GreaterOrEqual(t, limits.Ahead, limits.InFlight, "Limits.Ahead: requests under way have been submitted")
		assert.GreaterOrEqual(t, limits.Batch, 0, "Limits.Batch")
		assert.Equal(t, limits, s.Limits(), "Limits are always the same")
	})
	if t.Failed() {
		t.FailNow()
	}
	return c
}

// sameHost and otherHost return the URL of the request with a number. A strategy for which it
// matters which requests have the same host reaches its limit with one of them.
func sameHost(int) string    { return "http://host.test/ping" }
func otherHost(i int) string { return fmt.Sprintf("http://host%d.test/ping", i) }

// real runs a test in real time.
func (c *contract) real(t *testing.T, test func(t *testing.T)) { guard(t, time.Minute, test) }

// timed runs a test in synctest's time or, if requests are performed by other processes, which do
// not live in that, in real time.
func (c *contract) timed(t *testing.T, test func(t *testing.T)) {
	if c.remote {
		c.real(t, test)
		return
	}
	synctest.Test(t, func(t *testing.T) { guard(t, 1000*forever, test) })
}

// guard runs a test on a goroutine of its own, so that a strategy that panics or hangs fails it,
// and neither ends nor holds up the process.
func guard(t *testing.T, limit time.Duration, test func(t *testing.T)) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() {
			if v := recover(); v != nil {
				t.Errorf("panic: %v\n\n%s", v, debug.Stack())
			}
		}()
		test(t)
	}()
	select {
	case <-ended:
	case <-time.After(limit):
		t.Fatalf("the strategy hangs: a result is lost, or Submit, Flush or Close does not return\n\n%s", stacks())
	}
	if t.Failed() {
		t.FailNow()
	}
}

// stacks returns the stacks of all goroutines, as far as there is room.
func stacks() []byte {
	b := make([]byte, 64<<10)
	return b[:runtime.Stack(b, true)]
}

// settle waits until all goroutines have done what they can, if the time is synctest's.
func (c *contract) settle() {
	if !c.remote {
		synctest.Wait()
	}
}

// span is how long what takes d in synctest's time takes in c's.
func (c *contract) span(d time.Duration) time.Duration {
	if c.remote {
		return min(d/50, 300*time.Millisecond)
	}
	return d
}

// soon is how long a strategy may take to end what is under way. In real time some is added, since
// the machine may be busy with other tests.
func (c *contract) soon() time.Duration {
	if c.remote {
		return 500 * time.Millisecond
	}
	return 100 * time.Millisecond
}

// load is a number of requests that keeps the strategy busy for some rounds.
func (c *contract) load() int { return 3*c.ahead + 7 }

// assertFake asserts that v is, or wraps, errFake. Only an error's text crosses to another process.
func (c *contract) assertFake(t *testing.T, v any) {
	t.Helper()
	err, _ := v.(error)
	if c.remote {
		assert.ErrorContains(t, err, errFake.Error())
	} else {
		assert.ErrorIs(t, err, errFake)
	}
}

// assertPanic asserts that err is the error of a request whose Doer called panicking(errFake).
func (c *contract) assertPanic(t *testing.T, err error) {
	t.Helper()
	p, ok := errors.AsType[*fetch.PanicError](err)
	if !assert.True(t, ok, "the error of a request whose Doer panics is a *PanicError, not: %v", err) {
		return
	}
	assert.ErrorIs(t, err, fetch.ErrPanic)
	c.assertFake(t, p.Value)
	assert.Contains(t, string(p.Stack), "panicking", "the stack is the panic's")
}

var errFake = errors.New("a failure that the test asked for")

// forever is longer than any test: what takes so long has to be canceled.
const forever = time.Hour

// ok is the response of a Doer that does nothing.
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
			return fetch.Result{Err: fetch.NewError(ctx, r, ctx.Err())}
		}
	}
}

// measured returns d with its requests counted by g.
func measured(g *Gauge, d fetch.Doer) fetch.DoerFunc { return g.Doer(d).Do }

// goroutine returns the first words of a stack trace: "goroutine 12".
func goroutine() string {
	buf := make([]byte, 64)
	name, _, _ := bytes.Cut(buf[:runtime.Stack(buf, false)], []byte(" ["))
	return string(name)
}

// A batcher is a [fetch.BatchDoer] that performs the requests of a batch at the same time.
type batcher struct {
	fetch.DoerFunc
	batched *atomic.Bool // set when it is used as such
}

// DoBatch implements [fetch.BatchDoer]. It panics, or calls runtime.Goexit, after the others of the
// batch are done.
func (b batcher) DoBatch(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
	b.batched.Store(true)
	outcomes := make(chan func(), len(reqs))
	var end func()
	for _, r := range reqs {
		go func() {
			outcome := func() {
				if end == nil {
					end = runtime.Goexit
				}
			}
			defer func() {
				if v := recover(); v != nil {
					outcome = func() { end = func() { panicking(v) } }
				}
				outcomes <- outcome
			}()
			res := b.Do(ctx, r)
			res.Request = r
			outcome = func() { yield(res) }
		}()
	}
	for range reqs {
		(<-outcomes)()
	}
	if end != nil {
		end()
	}
}
