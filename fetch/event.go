package fetch

import (
	"context"
	"fmt"
	"strings"
	"time"

	"fetchbench/fetch/internal/rules"
)

// An EventKind says what an [Event] is about.
type EventKind string

// The kinds of events. Each names the fields of Event that are set.
const (
	// EventStart: an attempt of Request was submitted to the strategy, which starts it at once or,
	// without PerHost and Rate, when it has a worker free.
	EventStart EventKind = "start"
	// EventRetry: an attempt of Request ended in Status and Err, and Retry wants another one after
	// Duration. Attempts counts those made so far. If the host goes down meanwhile and stays down,
	// the other attempt is not made. A refused request that PerHost holds is not reported.
	EventRetry EventKind = "retry"
	// EventEnd: Request has its result, which is about to be handed out: Status, Err, Attempts, and
	// Duration, its service time.
	EventEnd EventKind = "end"
	// EventBatch: Batch, a number from 0, of Size requests is done: Failed of them ended in an error,
	// and Duration passed from the first request taken to the last result handed out. A batch that
	// the end of the input or of ctx cut short counts, one that a break left does not.
	EventBatch EventKind = "batch"
	// EventHostParked: Host asked to be left alone, and no request to it starts for Duration.
	EventHostParked EventKind = "host parked"
	// EventHostDown: Host gives no sign of life; Err is why. Its requests are held.
	EventHostDown EventKind = "host down"
	// EventHostUp: Host has answered again, Duration after EventHostDown.
	EventHostUp EventKind = "host up"
	// EventShardUp: a child process, number Shard of a [Shard], is ready. PID is its own, and
	// Duration the time that its start took.
	EventShardUp EventKind = "shard up"
	// EventShardDown: a child process has ended, or could not be started (PID 0). It left Unanswered
	// requests without a result. Err is why, nil if it was told to end.
	EventShardDown EventKind = "shard down"
	// EventPipelineOff: Host does not get on with several requests in one write: Unanswered of them
	// had no response because of Err. It gets one at a time for Duration. In a Shard, it is the child
	// number Shard that found it.
	EventPipelineOff EventKind = "pipeline off"
)

// An Event is something that happened in a run: see [Fetcher].Trace. Which fields are set depends
// on its Kind.
type Event struct {
	Kind       EventKind
	Request    *Request
	Status     int
	Err        error
	Attempts   int
	Duration   time.Duration
	Host       string // name and port, or scheme, name and port
	Batch      int
	Size       int
	Failed     int
	Shard      int
	PID        int
	Unanswered int
}

// String returns one line of key=value pairs that shows no secrets.
func (e Event) String() string {
	var b strings.Builder
	b.WriteString(string(e.Kind))
	add := func(key string, set bool, value any) {
		if set {
			fmt.Fprintf(&b, " %s=%v", key, value)
		}
	}
	if e.Request != nil {
		add("index", true, e.Request.Index)
		add("url", true, rules.SafeURL(e.Request.URL))
	}
	add("host", e.Host != "", rules.Shorten(e.Host, 256))
	add("batch", e.Kind == EventBatch, e.Batch)
	add("size", e.Size > 0, e.Size)
	add("failed", e.Failed > 0, e.Failed)
	add("shard", e.Kind == EventShardUp || e.Kind == EventShardDown, e.Shard)
	add("pid", e.PID > 0, e.PID)
	add("status", e.Status > 0, e.Status)
	add("attempts", e.Attempts > 0, e.Attempts)
	add("unanswered", e.Unanswered > 0, e.Unanswered)
	add("duration", e.Duration > 0, e.Duration)
	if e.Err != nil {
		add("error", true, rules.Shorten(e.Err.Error(), 1024))
	}
	return b.String()
}

// Emit tells the [Fetcher].Trace of the run that ctx belongs to, if there is one. It is for those
// who write a [Strategy] or a [Doer]; ctx is the one that Start or Do was given.
func Emit(ctx context.Context, e Event) {
	if trace, _ := ctx.Value(traceKey{}).(func(Event)); trace != nil {
		trace(e)
	}
}

type traceKey struct{}

// withTrace returns ctx with trace, and without that of a run whose Doer makes this one.
func withTrace(ctx context.Context, trace func(Event)) context.Context {
	if trace == nil && ctx.Value(traceKey{}) == nil {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, trace)
}
