package fetch

import (
	"context"
	"fmt"
	"runtime"
)

// Threads fetches each URL on an operating system thread of its own, at most Limit at once, and
// lets the thread die with it. It shows what a thread per URL costs; [Semaphore] does the same with
// goroutines, for a small part of the price.
type Threads struct {
	// Limit is how many threads there are at most. 0 means 64. The Go runtime ends a program that
	// has 10 000 threads (runtime/debug.SetMaxThreads), so at most 8192.
	Limit int
}

// Limits implements [Strategy].
func (t Threads) Limits() Limits {
	n := limit("Threads.Limit", t.Limit, defaultLimit, 8192)
	return Limits{InFlight: n, Ahead: n}
}

func (t Threads) String() string { return fmt.Sprintf("threads(%d)", t.Limits().InFlight) }

// Start implements [Strategy].
func (t Threads) Start(ctx context.Context, d Doer) Executor {
	return newPerURL(ctx, t.Limits(), func(ctx context.Context, r *Request, results chan<- Result) {
		// A goroutine that ends locked to its thread takes it along, so no other ever uses it.
		runtime.LockOSThread()
		Perform(ctx, d, r, results)
	})
}
