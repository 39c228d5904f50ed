package fetch

import (
	"context"
	"fmt"
	"sync"
)

// Semaphore fetches each URL on a goroutine of its own, at most Limit at once: what asyncio does
// with a task for each URL, and errgroup with SetLimit.
type Semaphore struct {
	// Limit is how many requests are under way at most. 0 means 64.
	Limit int
}

// Limits implements [Strategy].
func (s Semaphore) Limits() Limits {
	n := limit("Semaphore.Limit", s.Limit, defaultLimit, maxLimit)
	return Limits{InFlight: n, Ahead: n}
}

func (s Semaphore) String() string { return fmt.Sprintf("semaphore(%d)", s.Limits().InFlight) }

// Start implements [Strategy].
func (s Semaphore) Start(ctx context.Context, d Doer) Executor {
	return newPerURL(ctx, s.Limits(), func(ctx context.Context, r *Request, results chan<- Result) {
		Perform(ctx, d, r, results)
	})
}

// A perURL performs each request on a goroutine of its own. It needs no semaphore: requests that
// are out are under way, or have sent their result, for which there is room.
type perURL struct {
	ctx     context.Context
	cancel  context.CancelFunc
	perform func(context.Context, *Request, chan<- Result)
	results chan Result
	running sync.WaitGroup
}

func newPerURL(ctx context.Context, l Limits, perform func(context.Context, *Request, chan<- Result)) *perURL {
	x := &perURL{perform: perform, results: make(chan Result, l.Ahead)}
	x.ctx, x.cancel = context.WithCancel(ctx)
	return x
}

func (x *perURL) Submit(r *Request)      { x.running.Go(func() { x.perform(x.ctx, r, x.results) }) }
func (x *perURL) Flush()                 {}
func (x *perURL) Results() <-chan Result { return x.results }

func (x *perURL) Close() {
	x.cancel()
	x.running.Wait()
}
