package fetch

import (
	"context"
	"fmt"
	"iter"
	"sync"
)

// Pool fetches with a fixed set of goroutines that take requests from one queue.
// It is the default: the least work per URL, and stacks that are grown once. While a
// request only waits, in a [Retry] or a [PerHost], another takes its place.
type Pool struct {
	// Workers is the number of goroutines, and so of requests under way. 0 means 64.
	Workers int
}

// Run implements [Strategy].
func (p Pool) Run(ctx context.Context, d Doer, reqs iter.Seq[*Request]) iter.Seq[Result] {
	workers, ahead := p.Bounds()
	return func(yield func(Result) bool) {
		ctx, cancel := context.WithCancel(ctx)
		// Both have room for every request ahead: no send on them ever blocks.
		queue := make(chan *Request, ahead)
		results := make(chan Result, ahead)

		// On whatever path the loop ends, requests under way are aborted, those in the
		// queue are answered without being started, and the workers run out of work.
		var running sync.WaitGroup
		defer running.Wait()
		defer close(queue)
		defer cancel()

		// A worker whose request only waits for something starts another one in its stead,
		// and goes on when one of them leaves. If it does not wait for that, because
		// its request has ended, it is itself the one that leaves.
		var work func()
		back := make(chan struct{})
		take := func(ctx context.Context) bool {
			// There are as many others as there were workers before it gave its place, until the
			// run ends. Each gets to its select, or gives its place as well.
			select {
			case back <- struct{}{}:
				return true
			case <-ctx.Done():
				return false
			}
		}
		work = func() {
			p := &place{Context: ctx, give: func() { running.Go(work) }, take: take}
			done := false
			defer func() {
				if !done && !p.isLost() { // the Doer called runtime.Goexit
					running.Go(work)
				}
			}()
			for !done {
				select {
				case r, ok := <-queue:
					if ok {
						answer(p, d, r, results)
					}
					done = !ok || p.isLost()
				case <-back:
					done = true
				}
			}
		}
		started := 0
		start := func(r *Request) {
			queue <- r
			if started < workers {
				started++
				running.Go(work)
			}
		}
		flow(ctx, ahead, reqs, start, results, yield)
	}
}

// Bounds implements [Bounded].
func (p Pool) Bounds() (inFlight, ahead int) {
	n := limit("Pool.Workers", p.Workers, defaultLimit, maxLimit)
	return n, 2 * n
}

func (p Pool) String() string {
	n, _ := p.Bounds()
	return fmt.Sprintf("pool(%d)", n)
}
