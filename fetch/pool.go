package fetch

import (
	"context"
	"fmt"
	"sync"
)

// Pool fetches with a fixed set of goroutines that take requests from one queue. It is the default:
// the least work per URL, and stacks that grow once.
type Pool struct {
	// Workers is the number of goroutines, and so of requests under way. 0 means 64.
	Workers int
}

// Limits implements [Strategy].
func (p Pool) Limits() Limits {
	return twice(limit("Pool.Workers", p.Workers, defaultLimit, maxLimit))
}

func (p Pool) String() string { return fmt.Sprintf("pool(%d)", p.Limits().InFlight) }

// Start implements [Strategy].
func (p Pool) Start(ctx context.Context, d Doer) Executor {
	l := p.Limits()
	x := &poolRun{d: d, idle: l.InFlight, queue: make(chan *Request, l.Ahead), results: make(chan Result, l.Ahead)}
	x.ctx, x.cancel = context.WithCancel(ctx)
	return x
}

// A poolRun cannot block: both channels have room for all that is out. Its workers end when the
// queue is closed and empty, soon after ctx is done.
type poolRun struct {
	ctx     context.Context
	cancel  context.CancelFunc
	d       Doer
	idle    int // workers that have not been started
	queue   chan *Request
	results chan Result
	running sync.WaitGroup
}

func (x *poolRun) Submit(r *Request) {
	x.queue <- r
	if x.idle > 0 {
		x.idle--
		x.running.Go(x.work)
	}
}

func (x *poolRun) work() {
	done := false
	defer func() {
		if !done { // the Doer called runtime.Goexit, and has taken the goroutine with it
			x.running.Go(x.work)
		}
	}()
	for r := range x.queue {
		Perform(x.ctx, x.d, r, x.results)
	}
	done = true
}

func (x *poolRun) Flush()                 {}
func (x *poolRun) Results() <-chan Result { return x.results }

func (x *poolRun) Close() {
	x.cancel()
	close(x.queue)
	x.running.Wait()
}
