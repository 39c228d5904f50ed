package fetch

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"fetchbench/fetch/internal/rules"
)

// A Strategy decides how many requests are under way at once, and what carries them. It does not
// take input or order results: the [Fetcher] does. The ones in this package are plain data:
// comparable, printable and encodable by encoding/gob. Their zero values are ready to use; their
// methods panic if a field is negative.
//
// To write one is to write an [Executor]; the contract is there.
type Strategy interface {
	// Limits returns how many requests may be under way and submitted, always the same.
	Limits() Limits
	// Start begins a run whose requests are performed by d, through [Perform]. It returns at once.
	Start(ctx context.Context, d Doer) Executor
	// String names the strategy and its limits: "pool(64)".
	String() string
}

// Limits are the bounds of a [Strategy].
type Limits struct {
	// InFlight is how many requests are under way at once, at most: the Doer has been called, and
	// has not returned. It is at least 1.
	InFlight int
	// Ahead is how many requests are submitted whose results have not been received, at most; at
	// least InFlight. Those that are not under way wait for a place.
	Ahead int
	// Batch, if not 0, is after how many requests the loop waits until all have been handed out.
	Batch int
}

// An Executor carries the requests of one run of a [Strategy]. Its methods are called by one
// goroutine at a time. The contract, which [fetchbench/fetch/fetchtest.TestStrategy] checks:
//
//  1. One Result for each Submit, on success, failure, panic in the Doer (as a [*PanicError]) and
//     after the end of ctx. Its Request is the one submitted. [Perform] sees to all of that.
//  2. At most Limits.InFlight requests are under way, and as many as that while so many are
//     submitted, to hosts that differ.
//  3. Submit does not block while no more than Limits.Ahead are out: submitted, their results not
//     received.
//  4. After the end of Start's ctx requests under way are aborted, and the others, later ones
//     included, answered without the Doer, by what Perform returns for them.
//  5. Close leaves nothing running.
//  6. Goroutines and memory grow with Limits, never with the number of requests.
//
// It may have more methods, which the loop calls if they are there:
//
//   - Err() error is called after a Result with an error. If it returns why the Executor cannot go
//     on, no more is taken from the input, and what is not out fails with it.
//   - Full() bool reports whether nothing more should be submitted until a Result comes, though
//     fewer than Limits.Ahead are out: the requests are large, say.
//   - InputEnded() is called when the input has ended. Requests that wait for a policy are submitted
//     after it.
type Executor interface {
	// Submit hands over a request, which starts when there is a place for it.
	Submit(*Request)
	// Flush is called before the loop waits for a result: start what is held back. It may perform
	// requests itself, and has nothing to do if Submit holds nothing back.
	Flush()
	// Results returns the channel of the results, always the same. It has room for Limits.Ahead, so
	// that sending to it never blocks. It is never closed.
	Results() <-chan Result
	// Close aborts what is under way, and returns when nothing is left running. Requests that have not
	// started, and results that have not been received, are dropped. It is called once, and last.
	Close()
}

// A RemoteStrategy is a [Strategy] whose requests may be performed elsewhere than by the Doer that
// Start is given: in other processes, which have a Doer of their own.
type RemoteStrategy interface {
	Strategy
	// Remote returns a sentence that says where the Doer belongs, or "" if Start's is used.
	Remote() string
}

// performsElsewhere returns where the Doer of s belongs, "" if that is the Fetcher.
func performsElsewhere(s Strategy) string {
	if r, ok := s.(RemoteStrategy); ok {
		return r.Remote()
	}
	return ""
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

// limitsOf returns s.Limits(), and panics if a run cannot keep to them.
func limitsOf(s Strategy) Limits {
	l := s.Limits()
	if l.InFlight < 1 || l.Ahead < l.InFlight || l.Batch < 0 {
		panic(fmt.Sprintf("fetch: the limits of %v are %+v", s, l))
	}
	return l
}

// twice is the Limits of a strategy with n requests under way. While the loop's body handles one
// result, n more can come without one of the places being idle.
func twice(n int) Limits { return Limits{InFlight: n, Ahead: 2 * n} }

// Perform sends to results what d makes of r, exactly once: a [*PanicError] if d panics or calls
// [runtime.Goexit], and an error of kind [ErrCanceled] or [ErrTimeout], without d, if ctx is done.
// It is for those who write an [Executor]. After a Goexit it does not return: the goroutine ends,
// and runs its deferred calls.
func Perform(ctx context.Context, d Doer, r *Request, results chan<- Result) {
	returned := false
	var res Result
	defer func() {
		if !returned {
			v := recover()
			if v == nil {
				v = errGoexit
			}
			res = Result{Err: newPanicError(r, v)}
		}
		res.Request = r
		results <- res
	}()
	if ctx.Err() != nil {
		res.Err = contextError(ctx, r)
	} else {
		res = d.Do(ctx, r)
	}
	returned = true
}

// performBatch is Perform for requests that go together. It calls send for each.
func performBatch(ctx context.Context, d BatchDoer, group []*Request, send func(Result)) {
	owed := slices.Clone(group)
	fail := func(err func(r *Request) error) {
		for _, r := range owed {
			send(Result{Request: r, Err: err(r)})
		}
		owed = nil
	}
	if ctx.Err() != nil {
		fail(func(r *Request) error { return contextError(ctx, r) })
		return
	}
	returned := false
	defer func() {
		v := recover()
		if v == nil && !returned {
			v = errGoexit
		}
		if v == nil {
			v = errors.New("DoBatch returned without a result for this request")
		}
		fail(func(r *Request) error { return newPanicError(r, v) })
	}()
	d.DoBatch(ctx, group, func(res Result) {
		if i := slices.Index(owed, res.Request); i >= 0 {
			owed = slices.Delete(owed, i, i+1)
			send(res)
		}
	})
	returned = true
}

var errGoexit = errors.New("the Doer called runtime.Goexit")

func newPanicError(r *Request, value any) *PanicError {
	return &PanicError{URL: rules.SafeURL(r.URL), Value: value, Stack: debug.Stack()}
}
