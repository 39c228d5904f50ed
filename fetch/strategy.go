package fetch

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"

	"fetchbench/fetch/internal/wake"
)

// A Strategy decides how many requests are under way at once, and what carries
// them. The ones in this package are plain data: comparable, printable and
// encodable by encoding/gob. Their zero values are ready to use; a negative field makes
// their methods panic.
//
// Its contract, which [fetchbench/fetch/fetchtest.TestStrategy] checks:
//
//  1. Exactly one Result for each Request taken from the input: on success,
//     failure, panic in the Doer, cancellation and the death of a child process.
//  2. Bounded: memory and goroutines grow with the strategy's limit, never with the
//     number of requests. The input is taken lazily: never more than twice the limit
//     (a [Batch]: its size) ahead of what the caller's loop has received.
//  3. The limit holds: requests under way never exceed it, and reach it under load.
//  4. Nothing runs on: when the loop over the results ends (exhausted, break, panic
//     or cancellation), every goroutine, thread and child process of the run has ended.
//  5. Cancel is quick: after ctx is done no more input is taken, no request starts,
//     those under way are aborted, and the loop ends, each request taken answered:
//     one that has not started, by an error of kind [ErrCanceled] and without the Doer.
//  6. One goroutine, the caller's, runs the loop's body and the input sequence:
//     callers need no locks.
//  7. A panic in a Doer becomes a [*PanicError] on that Result; a panic in the input
//     sequence is the caller's.
//  8. Ordered changes only the order, and holds back a bounded number of results. To
//     that end a nil in reqs is no request but a pause: the strategy hands out one more
//     Result, if it owes any, before it goes on with the input.
//
// Rules 4 and 5 need a Doer that returns soon after its context is done.
type Strategy interface {
	// Run performs reqs through d while the sequence that it returns is ranged over.
	Run(ctx context.Context, d Doer, reqs iter.Seq[*Request]) iter.Seq[Result]
	// String names the strategy and its limits: "pool(64)".
	String() string
}

// Bounded is a [Strategy] that tells its bounds. All strategies of this package do.
type Bounded interface {
	Strategy
	// Bounds returns how many requests are under way at the most, and how many
	// may be taken from the input ahead of the results that the loop has received.
	Bounds() (inFlight, ahead int)
}

const (
	defaultLimit = 64
	maxLimit     = 1 << 20
)

// limit returns the value of a strategy's field, or its default if that is zero.
func limit(field string, value, zero, most int) int {
	if value < 0 {
		panic(fmt.Sprintf("fetch: %s is %d", field, value))
	}
	if value > most {
		panic(fmt.Sprintf("fetch: %s is %d: at most %d", field, value, most))
	}
	if value == 0 {
		return zero
	}
	return value
}

// flow is what the caller's goroutine does in every strategy that has several
// requests out at once: it takes requests from reqs, hands each to start, which
// must not block for long, and hands on what comes back on results.
//
// Each request that is started must send exactly one Result, and results must
// have room for most of them. Then no send ever blocks; a receive waits only for
// a request that is out; and at most most requests are ahead of the caller's loop.
// So whatever ends the loop, started requests end by themselves.
func flow(ctx context.Context, most int, reqs iter.Seq[*Request], start func(*Request), results <-chan Result, yield func(Result) bool) {
	if ctx.Err() != nil {
		return
	}
	ahead, wake := 0, wake.From(ctx)
	for r := range reqs {
		if r != nil {
			ahead++
			start(r)
		} else if ahead > 0 {
			select {
			case res := <-results:
				ahead--
				if !yield(res) {
					return
				}
			case <-wake:
			}
		}
		// Hand out what is ready, and wait for results where the input has to.
		for ahead == most || len(results) > 0 {
			res := <-results
			ahead--
			if !yield(res) {
				return
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	for ; ahead > 0; ahead-- {
		if !yield(<-results) {
			return
		}
	}
}

// do performs r, or answers in d's place if ctx is done or d panics.
func do(ctx context.Context, d Doer, r *Request) (res Result) {
	if ctx.Err() != nil {
		return Result{Request: r, Err: contextError(ctx, r)}
	}
	defer func() {
		if v := recover(); v != nil {
			res = Result{Request: r, Err: newPanicError(r, v)}
		}
	}()
	res = d.Do(ctx, r)
	res.Request = r
	return res
}

// answer sends what do returns, and a Result even if d calls [runtime.Goexit].
func answer(ctx context.Context, d Doer, r *Request, results chan<- Result) {
	returned := false
	var res Result
	defer func() {
		if !returned {
			res = Result{Request: r, Err: newPanicError(r, errGoexit)}
		}
		results <- res
	}()
	res = do(ctx, d, r)
	returned = true
}

var errGoexit = errors.New("the Doer called runtime.Goexit")

func newPanicError(r *Request, value any) *PanicError {
	return &PanicError{URL: safeURL(r.URL), Value: value, Stack: debug.Stack()}
}
