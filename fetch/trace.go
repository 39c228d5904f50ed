package fetch

import (
	"context"
	"time"
)

// A Trace is a set of functions that are told what is happening in a Fetch; any
// of them may be nil. It travels in the context, as net/http/httptrace's does.
// What they are called on is not the loop's goroutine, unless it says so; they
// have to return soon, since the Fetch waits for them.
type Trace struct {
	// BatchDone is called when all requests of a [Batch] have been answered and
	// received by the loop, on the loop's goroutine. A batch that the end of the input
	// or of the context cut short counts; one that a break left does not. Within a
	// [Shard] it is called on the Shard's goroutine, when the child has answered them all.
	BatchDone func(BatchInfo)
	// ShardStarted is called when a child process of a [Shard] is ready for requests.
	// All events of one Shard come one after another, on a goroutine of its own.
	ShardStarted func(ShardInfo)
	// ShardGone is called when a child process of a [Shard] has ended, or could not be started:
	// also for one that was never ready.
	ShardGone func(ShardInfo)
	// Retrying is called when a [Retry] is about to wait before another attempt, by several
	// goroutines at once. Of one within a [Shard] it is called on the Shard's goroutine.
	Retrying func(RetryInfo)
	// PipelineOff is called when an engine that pipelines, such as [fetchbench/fetch/wire.Client],
	// ceases to do so with a host for a while: for each connection on which that went wrong, by several goroutines
	// at once. Within a [Shard] it is called on the Shard's goroutine.
	PipelineOff func(PipelineInfo)
}

// BatchInfo describes a batch that is done.
type BatchInfo struct {
	// Number counts the batches of one Fetch, or of one child process of a [Shard], from 0.
	Number int
	// Size is the number of requests in it; the last batch's is smaller as a rule.
	Size int
	// Failed is how many of them ended in an error. A status is not an error.
	Failed int
	// Duration is the time from the first request taken to the last result received.
	Duration time.Duration
	// Shard is the number of the [Shard]'s child, from 0, whose batch it is.
	Shard int
}

// ShardInfo describes a child process of a [Shard].
type ShardInfo struct {
	// Shard is its number, from 0 to Processes-1. One that replaces another has the same.
	Shard int
	// PID is the process's, 0 if it could not be started.
	PID int
	// Startup is the time from the start of the process until it was ready, 0 if it never was.
	Startup time.Duration
	// Unanswered is how many requests a child that is gone left without a result.
	Unanswered int
	// Err is why a child is gone, nil if it was told to end.
	Err error
}

// RetryInfo describes an attempt that has failed, and after which there will be another.
type RetryInfo struct {
	// Index is the request's.
	Index int
	// URL is the request's, safe to show, as in [Error].
	URL string
	// Attempts counts those that there were.
	Attempts int
	// Status and Err are the outcome of the last one.
	Status int
	Err    error
	// Wait is the time until the next one.
	Wait time.Duration
	// Shard is the number of the [Shard]'s child, from 0, that it happens in.
	Shard int
}

// PipelineInfo describes a host that does not get on with several requests in one write.
type PipelineInfo struct {
	// Host is the scheme and host of the requests' URLs, with the port if it is written.
	Host string
	// Unanswered is how many requests of the write had no answer. They are sent again, one at a time.
	Unanswered int
	// Err is what went wrong.
	Err error
	// Off is how long the host gets one request at a time now.
	Off time.Duration
	// Shard is the number of the [Shard]'s child, from 0, that it happens in.
	Shard int
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
		t = &Trace{
			BatchDone: func(b BatchInfo) {
				inner.batchDone(b)
				outer.batchDone(b)
			},
			ShardStarted: func(i ShardInfo) {
				inner.shardStarted(i)
				outer.shardStarted(i)
			},
			ShardGone: func(i ShardInfo) {
				inner.shardGone(i)
				outer.shardGone(i)
			},
			Retrying: func(i RetryInfo) {
				inner.retrying(i)
				outer.retrying(i)
			},
			PipelineOff: func(i PipelineInfo) {
				inner.pipelineOff(i)
				outer.pipelineOff(i)
			},
		}
	}
	return context.WithValue(ctx, traceKey{}, t)
}

// ContextTrace returns the Trace that ctx carries, or nil. It is for those who write a [Doer] that has
// something to tell.
func ContextTrace(ctx context.Context) *Trace { return traceFrom(ctx) }

func traceFrom(ctx context.Context) *Trace {
	t, _ := ctx.Value(traceKey{}).(*Trace)
	return t
}

func (t *Trace) batchDone(b BatchInfo) {
	if t != nil && t.BatchDone != nil {
		t.BatchDone(b)
	}
}

func (t *Trace) shardStarted(i ShardInfo) {
	if t != nil && t.ShardStarted != nil {
		t.ShardStarted(i)
	}
}

func (t *Trace) shardGone(i ShardInfo) {
	if t != nil && t.ShardGone != nil {
		t.ShardGone(i)
	}
}

func (t *Trace) retrying(i RetryInfo) {
	if t != nil && t.Retrying != nil {
		t.Retrying(i)
	}
}

func (t *Trace) pipelineOff(i PipelineInfo) {
	if t != nil && t.PipelineOff != nil {
		t.PipelineOff(i)
	}
}
