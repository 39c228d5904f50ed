package fetch

import (
	"context"
	"fmt"
	"sync"

	"fetchbench/fetch/internal/queue"
	"fetchbench/fetch/internal/rules"
)

// Pipeline has up to Depth requests of one host share a connection write. It needs a [BatchDoer],
// such as [Client]; with another Doer it is a Pool{Limit}. A slow response
// holds up those that share its write, so it is for hosts that are fast and trusted.
//
// A request waits for others of its host until the loop has nothing else to do.
type Pipeline struct {
	// Limit is how many requests are under way at most, each of those that share a write counted.
	// Up to Depth-1 places may be idle, where the next group does not fit. 0 means 1024.
	Limit int
	// Depth is how many requests share a write at most. 0 means 16.
	Depth int
}

// Limits implements [Strategy].
func (p Pipeline) Limits() Limits {
	n, _ := p.defaults()
	return twice(n)
}

// defaults returns the fields with defaults in place of zeros.
func (p Pipeline) defaults() (n, depth int) {
	n = limit("Pipeline.Limit", p.Limit, 1024, maxLimit)
	depth = limit("Pipeline.Depth", p.Depth, 16, maxLimit)
	return n, min(n, depth)
}

func (p Pipeline) String() string {
	n, depth := p.defaults()
	return fmt.Sprintf("pipeline(%d,%d)", n, depth)
}

// Start implements [Strategy].
func (p Pipeline) Start(ctx context.Context, d Doer) Executor {
	l := p.Limits()
	_, depth := p.defaults()
	batch, ok := d.(BatchDoer)
	if !ok || depth == 1 {
		return Pool{Workers: l.InFlight}.Start(ctx, d)
	}
	x := &pipelineRun{
		d:       batch,
		free:    l.InFlight,
		depth:   depth,
		groups:  make(map[rules.Origin][]*Request),
		results: make(chan Result, l.Ahead),
	}
	x.ctx, x.cancel = context.WithCancel(ctx)
	return x
}

// A pipelineRun performs each group of requests on a goroutine of its own. A group starts when
// there is a place for each of its requests. Nothing else waits: a group is no larger than the
// limit, and results has room.
type pipelineRun struct {
	ctx     context.Context
	cancel  context.CancelFunc
	d       BatchDoer
	depth   int
	results chan Result
	running sync.WaitGroup

	mu      sync.Mutex
	free    int                         // places
	groups  map[rules.Origin][]*Request // by host, those that are not full
	waiting queue.FIFO[[]*Request]
	flushed bool // and nothing was submitted since
}

func (x *pipelineRun) Submit(r *Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.flushed = false
	host := rules.OriginOf(r.URL)
	x.groups[host] = append(x.groups[host], r)
	if len(x.groups[host]) == x.depth {
		x.closeLocked(host)
		x.startLocked()
	}
}

// Flush has groups that are not full start, too, as soon as there are places: nothing may come to
// fill them.
func (x *pipelineRun) Flush() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.flushed = true
	x.startLocked()
}

// closeLocked has host's group wait for its start.
func (x *pipelineRun) closeLocked(host rules.Origin) {
	x.waiting.Push(x.groups[host])
	delete(x.groups, host)
}

func (x *pipelineRun) startLocked() {
	for x.free > 0 {
		if x.waiting.Len() == 0 && x.flushed { // until then, a group can grow
			for host := range x.groups {
				x.closeLocked(host)
				break
			}
		}
		if x.waiting.Len() == 0 || len(x.waiting.Peek()) > x.free {
			return
		}
		group := x.waiting.Pop()
		x.free -= len(group)
		x.running.Go(func() { performBatch(x.ctx, x.d, group, x.done) })
	}
}

// done frees the place of a request, and sends its result then, so that the loop, which has
// received the last of all, finds the places free.
func (x *pipelineRun) done(res Result) {
	x.mu.Lock()
	x.free++
	x.startLocked()
	x.mu.Unlock()
	x.results <- res
}

func (x *pipelineRun) Results() <-chan Result { return x.results }

func (x *pipelineRun) Close() {
	x.cancel()
	x.running.Wait()
}
