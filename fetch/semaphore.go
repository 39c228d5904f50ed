package fetch

import (
	"context"
	"fmt"
	"iter"
	"sync"
)

// Semaphore fetches each URL on a goroutine of its own, at most Limit at once:
// what asyncio does with a task for each URL, and errgroup with SetLimit. While a request
// only waits, in a [Retry] or a [PerHost], another takes its place.
type Semaphore struct {
	// Limit is how many requests are under way at the most. 0 means 64.
	Limit int
}

// Run implements [Strategy].
func (s Semaphore) Run(ctx context.Context, d Doer, reqs iter.Seq[*Request]) iter.Seq[Result] {
	limit, ahead := s.Bounds()
	return perURL(ctx, d, reqs, limit, ahead, true, answer)
}

// Bounds implements [Bounded].
func (s Semaphore) Bounds() (inFlight, ahead int) {
	n := limit("Semaphore.Limit", s.Limit, defaultLimit, maxLimit)
	return n, 2 * n
}

func (s Semaphore) String() string {
	n, _ := s.Bounds()
	return fmt.Sprintf("semaphore(%d)", n)
}

// perURL runs answer on a fresh goroutine for each request, at most limit at once. If places
// is set, a request that only waits is not counted.
func perURL(ctx context.Context, d Doer, reqs iter.Seq[*Request], limit, ahead int, places bool, answer func(context.Context, Doer, *Request, chan<- Result)) iter.Seq[Result] {
	return func(yield func(Result) bool) {
		ctx, cancel := context.WithCancel(ctx)
		tokens := make(chan struct{}, limit)
		results := make(chan Result, ahead) // room for every request ahead: no send blocks

		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()

		give := func() { <-tokens }
		take := func(ctx context.Context) bool {
			select {
			case tokens <- struct{}{}:
				return true
			case <-ctx.Done():
				return false
			}
		}
		start := func(r *Request) {
			// Blocks until one of the goroutines is done, or waits. They always get there,
			// since their sends do not block, and soon after ctx is done, since the Doer returns.
			tokens <- struct{}{}
			running.Go(func() {
				p := &place{Context: ctx, give: give, take: take}
				defer func() {
					if !p.isLost() {
						give()
					}
				}()
				doing := ctx
				if places {
					doing = p
				}
				answer(doing, d, r, results)
			})
		}
		flow(ctx, ahead, reqs, start, results, yield)
	}
}
