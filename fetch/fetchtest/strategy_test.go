package fetchtest_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"strings"
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

// A broken is a pool of 3 workers of which something is broken.
type broken struct {
	fetch.Pool
	inFlight, ahead int
	name            string
	run             func(ctx context.Context, d fetch.Doer, reqs iter.Seq[*fetch.Request]) iter.Seq[fetch.Result]
}

func (b broken) Run(ctx context.Context, d fetch.Doer, reqs iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
	return b.run(ctx, d, reqs)
}
func (b broken) Bounds() (inFlight, ahead int) { return b.inFlight, b.ahead }
func (b broken) String() string                { return b.name }

var pool = fetch.Pool{Workers: 3}

// results changes the results of the pool.
func results(change func(res fetch.Result, yield func(fetch.Result) bool) bool) func(context.Context, fetch.Doer, iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
	return func(ctx context.Context, d fetch.Doer, reqs iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
		return func(yield func(fetch.Result) bool) {
			for res := range pool.Run(ctx, d, reqs) {
				if !change(res, yield) {
					return
				}
			}
		}
	}
}

// input changes the input of the pool.
func input(change func(reqs iter.Seq[*fetch.Request], yield func(*fetch.Request) bool)) func(context.Context, fetch.Doer, iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
	return func(ctx context.Context, d fetch.Doer, reqs iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
		return pool.Run(ctx, d, func(yield func(*fetch.Request) bool) { change(reqs, yield) })
	}
}

// brokenStrategies are broken in one way each, with the rule that TestStrategy has to name.
var brokenStrategies = []struct {
	broken
	rule string
}{
	{broken{name: "", run: pool.Run}, "0 named"},
	{broken{name: "loses a result", run: results(func(res fetch.Result, yield func(fetch.Result) bool) bool {
		return res.Request.Index == 1 || yield(res)
	})}, "1 exactly one result"},
	{broken{name: "has a result twice", run: results(func(res fetch.Result, yield func(fetch.Result) bool) bool {
		return yield(res) && (res.Request.Index != 1 || yield(res))
	})}, "1 exactly one result"},
	{broken{name: "takes the whole input first", run: input(func(reqs iter.Seq[*fetch.Request], yield func(*fetch.Request) bool) {
		var all []*fetch.Request
		for r := range reqs {
			if r != nil {
				all = append(all, r)
			}
		}
		for _, r := range all {
			if !yield(r) {
				return
			}
		}
	})}, "2 bounded"},
	{broken{name: "has a goroutine for each request", run: func(ctx context.Context, d fetch.Doer, reqs iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
		return fetch.Pool{Workers: 3}.Run(ctx, fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
			go func() { <-ctx.Done() }()
			return d.Do(ctx, r)
		}), reqs)
	}}, "2 bounded"},
	{broken{name: "keeps what it has fetched", run: func(ctx context.Context, d fetch.Doer, reqs iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
		var kept []fetch.Result
		return func(yield func(fetch.Result) bool) {
			for res := range pool.Run(ctx, d, reqs) {
				kept = append(kept, res)
				if !yield(res) {
					return
				}
			}
			_ = fmt.Sprint(len(kept))
		}
	}}, "2 bounded"},
	{broken{name: "has more under way than it says", inFlight: 2, ahead: 6, run: pool.Run}, "3 the limit holds"},
	{broken{name: "does not reach its limit", inFlight: 4, ahead: 8, run: pool.Run}, "3 the limit holds"},
	{broken{name: "leaves a goroutine", run: func(ctx context.Context, d fetch.Doer, reqs iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
		return func(yield func(fetch.Result) bool) {
			for res := range pool.Run(ctx, d, reqs) {
				if !yield(res) {
					go func() { select {} }()
					return
				}
			}
		}
	}}, "4 nothing runs on"},
	{broken{name: "does not abort", run: func(ctx context.Context, d fetch.Doer, reqs iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
		return pool.Run(ctx, fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result { return d.Do(ctx, r) }), reqs)
	}}, "4 nothing runs on/break at once"},
	{broken{name: "does not hear of a cancel", run: func(ctx context.Context, d fetch.Doer, reqs iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
		return pool.Run(context.WithoutCancel(ctx), d, reqs)
	}}, "5 cancel is quick"},
	{broken{name: "takes its input elsewhere", run: input(func(reqs iter.Seq[*fetch.Request], yield func(*fetch.Request) bool) {
		next, stop := iter.Pull(reqs)
		defer stop()
		for r, ok := next(); ok && yield(r); r, ok = next() {
		}
	})}, "6 one goroutine"},
	{broken{name: "does not know a panic", run: func(ctx context.Context, d fetch.Doer, reqs iter.Seq[*fetch.Request]) iter.Seq[fetch.Result] {
		return func(yield func(fetch.Result) bool) {
			for res := range pool.Run(ctx, d, reqs) {
				if _, ok := res.Err.(*fetch.PanicError); ok {
					res.Err = fetch.ErrPanic
				}
				if !yield(res) {
					return
				}
			}
		}
	}}, "7 panics"},
	{broken{name: "swallows a panic of the input", run: input(func(reqs iter.Seq[*fetch.Request], yield func(*fetch.Request) bool) {
		defer func() { _ = recover() }()
		reqs(yield)
	})}, "7 panics"},
	{broken{name: "does not pause", run: input(func(reqs iter.Seq[*fetch.Request], yield func(*fetch.Request) bool) {
		for r := range reqs {
			if r != nil && !yield(r) {
				return
			}
		}
	})}, "8 ordered"},
}

const brokenEnv = "FETCHTEST_BROKEN"

// A suite that everything passes is worth nothing: it has to fail for each of these, and
// name the rule that is broken. It does so in a process of its own.
func TestTestStrategyOfBrokenOnes(t *testing.T) {
	for i, b := range brokenStrategies {
		t.Run(b.name, func(t *testing.T) {
			name := strings.ReplaceAll(b.rule, " ", "_")
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBroken$/^"+name+"$", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", brokenEnv, i))
			out, err := cmd.CombinedOutput()
			require.Error(t, err, "the suite is content")
			assert.Contains(t, string(out), "    --- FAIL: TestBroken/"+name, "%s", out)
			assert.False(t, bytes.Contains(out, []byte("test timed out")), "it hangs")
		})
	}
}

// TestBroken is what TestTestStrategyOfBrokenOnes runs.
func TestBroken(t *testing.T) {
	for i, b := range brokenStrategies {
		if fmt.Sprint(i) != os.Getenv(brokenEnv) {
			continue
		}
		if b.inFlight == 0 {
			b.inFlight, b.ahead = pool.Bounds()
		}
		fetchtest.TestStrategy(t, b.broken)
	}
}
