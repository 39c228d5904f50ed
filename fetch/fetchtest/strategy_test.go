package fetchtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(brokenEnv) != "" {
		os.Exit(m.Run()) // with the leaks that a broken strategy has
	}
	goleak.VerifyTestMain(m)
}

func TestTestStrategy(t *testing.T) { fetchtest.TestStrategy(t, fetch.Pool{Workers: 3}) }

func TestTestFetcher(t *testing.T) { fetchtest.TestFetcher(t, fetch.Pool{Workers: 3}) }

// A broken strategy is a pool of 3 workers in which one thing is broken.
type broken struct {
	name   string
	limits fetch.Limits // zero: the pool's
	start  func(ctx context.Context, d fetch.Doer) fetch.Executor
}

func (b broken) Start(ctx context.Context, d fetch.Doer) fetch.Executor { return b.start(ctx, d) }
func (b broken) String() string                                         { return b.name }
func (b broken) Limits() fetch.Limits {
	if b.limits == (fetch.Limits{}) {
		return pool.Limits()
	}
	return b.limits
}

var pool = fetch.Pool{Workers: 3}

// An altered executor does some things in its own way.
type altered struct {
	fetch.Executor
	submit  func(*fetch.Request)
	flush   func()
	results chan fetch.Result
	close   func()
}

func (x *altered) Submit(r *fetch.Request) {
	if x.submit == nil {
		x.Executor.Submit(r)
	} else {
		x.submit(r)
	}
}

func (x *altered) Flush() {
	if x.flush == nil {
		x.Executor.Flush()
	} else {
		x.flush()
	}
}

func (x *altered) Results() <-chan fetch.Result {
	if x.results == nil {
		return x.Executor.Results()
	}
	return x.results
}

func (x *altered) Close() {
	if x.close == nil {
		x.Executor.Close()
	} else {
		x.close()
	}
}

// results changes the results of the pool, on a goroutine. size is the room for them.
func results(size int, change func(res fetch.Result, send func(fetch.Result))) func(context.Context, fetch.Doer) fetch.Executor {
	return func(ctx context.Context, d fetch.Doer) fetch.Executor {
		x := &altered{Executor: pool.Start(ctx, d), results: make(chan fetch.Result, size)}
		closed := make(chan struct{})
		send := func(res fetch.Result) {
			select {
			case x.results <- res:
			case <-closed:
			}
		}
		var relay sync.WaitGroup
		relay.Go(func() {
			for {
				select {
				case res := <-x.Executor.Results():
					change(res, send)
				case <-closed:
					return
				}
			}
		})
		x.close = func() {
			x.Executor.Close()
			close(closed)
			relay.Wait()
		}
		return x
	}
}

// doer changes the Doer of the pool.
func doer(do func(ctx context.Context, d fetch.Doer, r *fetch.Request) fetch.Result) func(context.Context, fetch.Doer) fetch.Executor {
	return func(ctx context.Context, d fetch.Doer) fetch.Executor {
		return pool.Start(ctx, fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result { return do(ctx, d, r) }))
	}
}

// A crude executor performs with three goroutines that take requests from a queue: the pool, but
// for what perform does.
type crude struct {
	queue   chan *fetch.Request
	results chan fetch.Result
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func performing(queue int, perform func(ctx context.Context, d fetch.Doer, r *fetch.Request, results chan<- fetch.Result)) func(context.Context, fetch.Doer) fetch.Executor {
	return func(ctx context.Context, d fetch.Doer) fetch.Executor {
		x := &crude{queue: make(chan *fetch.Request, queue), results: make(chan fetch.Result, 6)}
		ctx, x.cancel = context.WithCancel(ctx)
		for range 3 {
			x.running.Go(func() {
				for r := range x.queue {
					perform(ctx, d, r, x.results)
				}
			})
		}
		return x
	}
}

func (x *crude) Submit(r *fetch.Request)      { x.queue <- r }
func (x *crude) Flush()                       {}
func (x *crude) Results() <-chan fetch.Result { return x.results }
func (x *crude) Close()                       { x.cancel(); close(x.queue); x.running.Wait() }

// brokenStrategies are broken in one way each, with the rules that TestStrategy and TestFetcher
// have to name; "" where that one does not see it.
var brokenStrategies = []struct {
	broken
	strategy, fetcher string
}{
	{broken{name: "", start: pool.Start}, "0 limits and name", "0 limits and name"},
	{broken{name: "has no limit", limits: fetch.Limits{Ahead: 1}, start: pool.Start}, "0 limits and name", "0 limits and name"},
	{broken{name: "submits less than is under way", limits: fetch.Limits{InFlight: 3, Ahead: 2}, start: pool.Start},
		"0 limits and name", "0 limits and name"},

	{broken{name: "loses a result", start: results(6, func(res fetch.Result, send func(fetch.Result)) {
		if res.Request.Index != 1 {
			send(res)
		}
	})}, "1 one result each", "1 exactly one result"},
	{broken{name: "has a result twice", start: results(6, func(res fetch.Result, send func(fetch.Result)) {
		send(res)
		if res.Request.Index == 1 {
			send(res)
		}
	})}, "1 one result each", "1 exactly one result"},
	{broken{name: "has a result of another request", start: results(6, func(res fetch.Result, send func(fetch.Result)) {
		r := *res.Request
		res.Request = &r
		send(res)
	})}, "1 one result each", ""},
	{broken{name: "does not name the request", start: results(6, func(res fetch.Result, send func(fetch.Result)) {
		res.Request = nil
		send(res)
	})}, "1 one result each", "1 exactly one result"},
	{broken{name: "mixes up two requests", start: func(ctx context.Context, d fetch.Doer) fetch.Executor {
		var held *fetch.Result
		return results(6, func(res fetch.Result, send func(fetch.Result)) {
			switch {
			case res.Request.Index == 0:
				held = &res
			case held != nil:
				res.Request, held.Request = held.Request, res.Request
				send(res)
				send(*held)
				held = nil
			default:
				send(res)
			}
		})(ctx, d)
	}}, "1 one result each", "1 exactly one result"},
	{broken{name: "makes of a panic an error like others", start: results(6, func(res fetch.Result, send func(fetch.Result)) {
		if _, ok := errors.AsType[*fetch.PanicError](res.Err); ok {
			res.Err = fetch.ErrPanic
		}
		send(res)
	})}, "1 one result each", "7 panics"},
	{broken{name: "loses a worker by a panic", start: performing(6, func(ctx context.Context, d fetch.Doer, r *fetch.Request, results chan<- fetch.Result) {
		outcome := make(chan fetch.Result, 1)
		fetch.Perform(ctx, d, r, outcome)
		res := <-outcome
		results <- res
		if errors.Is(res.Err, fetch.ErrPanic) {
			runtime.Goexit()
		}
	})}, "1 one result each", "7 panics"},
	{broken{name: "does not know Goexit", start: performing(6, func(ctx context.Context, d fetch.Doer, r *fetch.Request, results chan<- fetch.Result) {
		defer func() {
			if v := recover(); v != nil {
				fetch.Perform(ctx, fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result { panic(v) }), r, results)
			}
		}()
		res := d.Do(ctx, r)
		res.Request = r
		results <- res
	})}, "1 one result each", ""},
	{broken{name: "leaves the other requests of a host behind a Goexit", start: func(ctx context.Context, d fetch.Doer) fetch.Executor {
		x := &altered{Executor: pool.Start(ctx, d)}
		var mu sync.Mutex
		wedged := make(map[string]bool)
		inner := x.Executor
		x.Executor = pool.Start(ctx, fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
			mu.Lock()
			stuck := wedged[r.URL]
			mu.Unlock()
			if stuck {
				<-ctx.Done()
			}
			ended := false
			defer func() {
				if v := recover(); v != nil {
					panic(v)
				}
				if !ended {
					mu.Lock()
					defer mu.Unlock()
					wedged[r.URL] = true
				}
			}()
			res := d.Do(ctx, r)
			ended = true
			return res
		}))
		x.close = func() { x.Executor.Close(); inner.Close() }
		return x
	}}, "1 one result each", ""},
	{broken{name: "remembers each host", start: func(ctx context.Context, d fetch.Doer) fetch.Executor {
		x := &altered{Executor: pool.Start(ctx, d)}
		hosts := make(map[string]bool)
		x.submit = func(r *fetch.Request) {
			hosts[r.URL] = true
			x.Executor.Submit(r)
		}
		return x
	}}, "6 bounded", ""},
	{broken{name: "waits for more requests in spite of Flush", start: func(ctx context.Context, d fetch.Doer) fetch.Executor {
		x := &altered{Executor: pool.Start(ctx, d)}
		var held []*fetch.Request
		x.submit = func(r *fetch.Request) {
			if held = append(held, r); len(held) == 2 {
				for _, r := range held {
					x.Executor.Submit(r)
				}
				held = nil
			}
		}
		return x
	}}, "1 one result each", "1 exactly one result"},

	{broken{name: "has more under way than it says", limits: fetch.Limits{InFlight: 2, Ahead: 6}, start: pool.Start}, "2 the limit holds", "3 the limit holds"},
	{broken{name: "does not reach its limit", limits: fetch.Limits{InFlight: 4, Ahead: 6}, start: pool.Start}, "2 the limit holds", "3 the limit holds"},

	{broken{name: "blocks in Submit", start: performing(0, fetch.Perform)}, "3 Submit does not block", ""},
	{broken{name: "performs in Submit", start: func(ctx context.Context, d fetch.Doer) fetch.Executor {
		x := &altered{Executor: pool.Start(ctx, d), results: make(chan fetch.Result, 6)}
		x.submit = func(r *fetch.Request) { fetch.Perform(ctx, d, r, x.results) }
		return x
	}}, "3 Submit does not block", "3 the limit holds"},
	{broken{name: "has no room for the results", start: results(3, func(res fetch.Result, send func(fetch.Result)) { send(res) })}, "3 Submit does not block", ""},
	{broken{name: "performs no more before results are received", start: performing(6, func(ctx context.Context, d fetch.Doer, r *fetch.Request, results chan<- fetch.Result) {
		if len(results) >= 3 {
			<-ctx.Done()
		}
		fetch.Perform(ctx, d, r, results)
	})}, "3 Submit does not block", ""},

	{broken{name: "does not hear of a cancel", start: func(ctx context.Context, d fetch.Doer) fetch.Executor {
		return pool.Start(context.WithoutCancel(ctx), d)
	}}, "4 the end of ctx", "5 cancel is quick"},
	{broken{name: "performs after a cancel", start: performing(6, func(ctx context.Context, d fetch.Doer, r *fetch.Request, results chan<- fetch.Result) {
		fetch.Perform(context.WithoutCancel(ctx), fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result { return d.Do(ctx, r) }), r, results)
	})}, "4 the end of ctx", "5 cancel is quick"},
	{broken{name: "does not answer after a cancel", start: results(6, func(res fetch.Result, send func(fetch.Result)) {
		if fetch.KindOf(res.Err) != fetch.ErrCanceled {
			send(res)
		}
	})}, "4 the end of ctx", "5 cancel is quick"},
	{broken{name: "does not say that it was a cancel", start: results(6, func(res fetch.Result, send func(fetch.Result)) {
		if fetch.KindOf(res.Err) == fetch.ErrCanceled {
			res.Err = fetch.ErrLost
		}
		send(res)
	})}, "4 the end of ctx", "5 cancel is quick"},
	{broken{name: "takes a deadline for a cancel", start: results(6, func(res fetch.Result, send func(fetch.Result)) {
		if fetch.KindOf(res.Err) == fetch.ErrTimeout {
			res.Err = fetch.ErrCanceled
		}
		send(res)
	})}, "4 the end of ctx", ""},

	{broken{name: "waits for what is under way", start: func(ctx context.Context, d fetch.Doer) fetch.Executor {
		return pool.Start(ctx, fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result { return d.Do(ctx, r) }))
	}}, "5 Close leaves nothing running", "4 nothing is left running"},
	{broken{name: "does not wait for the end", start: func(ctx context.Context, d fetch.Doer) fetch.Executor {
		x := performing(6, fetch.Perform)(ctx, d).(*crude)
		return &altered{Executor: x, close: func() { x.cancel(); close(x.queue) }}
	}}, "5 Close leaves nothing running", "4 nothing is left running"},
	{broken{name: "leaves a goroutine", start: func(ctx context.Context, d fetch.Doer) fetch.Executor {
		x := &altered{Executor: pool.Start(ctx, d)}
		x.close = func() {
			x.Executor.Close()
			go func() { select {} }()
		}
		return x
	}}, "5 Close leaves nothing running", "4 nothing is left running"},
	{broken{name: "hangs in Close", start: func(ctx context.Context, d fetch.Doer) fetch.Executor {
		return &altered{Executor: pool.Start(ctx, d), close: func() { select {} }}
	}}, "5 Close leaves nothing running", "4 nothing is left running"},

	{broken{name: "has a goroutine for each request", start: doer(func(ctx context.Context, d fetch.Doer, r *fetch.Request) fetch.Result {
		go func() { <-ctx.Done() }()
		return d.Do(ctx, r)
	})}, "6 bounded", "2 bounded"},
	{broken{name: "keeps what it has fetched", start: func(ctx context.Context, d fetch.Doer) fetch.Executor {
		var kept []fetch.Result
		x := results(6, func(res fetch.Result, send func(fetch.Result)) {
			kept = append(kept, res)
			send(res)
		})(ctx, d)
		return &altered{Executor: x, close: func() {
			x.Close()
			runtime.KeepAlive(kept)
		}}
	}}, "6 bounded", "2 bounded"},
}

// No test binary survives this one: TestStrategy lets its panic through.
var uncontained = broken{name: "does not contain panics", start: performing(6, func(ctx context.Context, d fetch.Doer, r *fetch.Request, results chan<- fetch.Result) {
	res := d.Do(ctx, r)
	res.Request = r
	results <- res
})}

const brokenEnv = "FETCHTEST_BROKEN"

// runBroken returns what the suite, TestStrategy or TestFetcher, says of a broken strategy: at a
// rule, or at all of them if that is "".
func runBroken(t *testing.T, suite string, i int, rule string) string {
	pattern := "^TestBroken$"
	if rule != "" {
		pattern += "/^" + strings.ReplaceAll(rule, " ", "_") + "$"
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+pattern, "-test.timeout=60s")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", brokenEnv, suite, i))
	out, err := cmd.CombinedOutput()
	require.Error(t, err, "the suite is content")
	assert.False(t, bytes.Contains(out, []byte("test timed out")), "it hangs")
	return string(out)
}

// A suite that everything passes is worth nothing: it has to fail for each of these, and name the
// rule that is broken. It does so in a process of its own.
func TestBrokenStrategies(t *testing.T) {
	for i, b := range brokenStrategies {
		for suite, rule := range map[string]string{"TestStrategy": b.strategy, "TestFetcher": b.fetcher} {
			if rule == "" {
				continue
			}
			t.Run(suite+" "+b.name, func(t *testing.T) {
				out := runBroken(t, suite, i, rule)
				assert.Contains(t, out, "    --- FAIL: TestBroken/"+strings.ReplaceAll(rule, " ", "_"), "%s", out)
			})
		}
	}
	for _, suite := range []string{"TestStrategy", "TestFetcher"} {
		t.Run(suite+" "+uncontained.name, func(t *testing.T) {
			assert.Contains(t, runBroken(t, suite, len(brokenStrategies), ""), "panic: a failure that the test asked for")
		})
	}
}

// TestBroken is what TestBrokenStrategies runs.
func TestBroken(t *testing.T) {
	suite, number, ok := strings.Cut(os.Getenv(brokenEnv), " ")
	if !ok {
		return
	}
	i, err := strconv.Atoi(number)
	require.NoError(t, err)
	s := uncontained
	if i < len(brokenStrategies) {
		s = brokenStrategies[i].broken
	}
	if suite == "TestStrategy" {
		fetchtest.TestStrategy(t, s)
	} else {
		fetchtest.TestFetcher(t, s)
	}
}
