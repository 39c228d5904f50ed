package fetch

import (
	"context"
	"time"
)

// A Trace is a set of functions that are told what is happening in a Fetch; any
// of them may be nil. It travels in the context, as net/http/httptrace's does.
type Trace struct {
	// BatchDone is called when all requests of a [Batch] have been answered and
	// received by the loop, on the loop's goroutine. A batch that the end of the input
	// or of the context cut short counts; one that a break left does not.
	BatchDone func(BatchInfo)
}

// BatchInfo describes a batch that is done.
type BatchInfo struct {
	// Number counts the batches of one Fetch, from 0.
	Number int
	// Size is the number of requests in it; the last batch's is smaller as a rule.
	Size int
	// Failed is how many of them ended in an error. A status is not an error.
	Failed int
	// Duration is the time from the first request taken to the last result received.
	Duration time.Duration
}

type traceKey struct{}

// WithTrace returns a context that carries t: a Fetch with it calls t's functions,
// and after them those of a Trace that ctx carries already. t must not be changed afterwards.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	if t == nil {
		panic("fetch: WithTrace of a nil Trace")
	}
	if outer := traceFrom(ctx); outer != nil {
		inner := t
		t = &Trace{BatchDone: func(b BatchInfo) {
			inner.batchDone(b)
			outer.batchDone(b)
		}}
	}
	return context.WithValue(ctx, traceKey{}, t)
}

func traceFrom(ctx context.Context) *Trace {
	t, _ := ctx.Value(traceKey{}).(*Trace)
	return t
}

func (t *Trace) batchDone(b BatchInfo) {
	if t != nil && t.BatchDone != nil {
		t.BatchDone(b)
	}
}
