package fetch

import (
	"context"
	"fmt"
	"iter"
	"runtime"
)

// Threads fetches each URL on an operating system thread of its own, at most
// Limit at once, and lets the thread die with it. It shows what a thread per URL
// costs; [Semaphore] does the same with goroutines, for a small part of the price. A request
// that only waits, in a [Retry] or a [PerHost], keeps its thread.
type Threads struct {
	// Limit is how many threads there are at the most. 0 means 64. The Go runtime
	// ends a program that has 10 000 threads (runtime/debug.SetMaxThreads), so at most 8192.
	Limit int
}

// Run implements [Strategy].
func (t Threads) Run(ctx context.Context, d Doer, reqs iter.Seq[*Request]) iter.Seq[Result] {
	limit, ahead := t.Bounds()
	return perURL(ctx, d, reqs, limit, ahead, false, answerOnThread)
}

// answerOnThread is answer on a thread that no other goroutine will ever use: one that
// its goroutine has locked, and not unlocked by its end, the runtime ends too.
func answerOnThread(ctx context.Context, d Doer, r *Request, results chan<- Result) {
	runtime.LockOSThread()
	answer(ctx, d, r, results)
}

// Bounds implements [Bounded].
func (t Threads) Bounds() (inFlight, ahead int) {
	n := limit("Threads.Limit", t.Limit, defaultLimit, 8192)
	return n, 2 * n
}

func (t Threads) String() string {
	n, _ := t.Bounds()
	return fmt.Sprintf("threads(%d)", n)
}
