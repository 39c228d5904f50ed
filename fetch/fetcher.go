package fetch

import (
	"context"
	"iter"

	"golang.org/x/time/rate"
)

// A Fetcher fetches URLs with a [Strategy] through a [Doer]. The zero value is ready: it uses
// [Pool] and [DefaultClient]. A Fetcher may be used by several goroutines at once if its Doer may;
// those of this module may. Its fields must not change while it is in use.
//
// It owns the loop: it takes the input, decides which request may start, submits it to the
// strategy, and hands the results to the caller. Its policies (Retry, PerHost, Rate) are part of
// that loop, so they work with every strategy, and hold over all child processes of a [Shard].
// Their state lives for one run.
//
// What a caller gets, checked by [fetchbench/fetch/fetchtest.TestFetcher]:
//
//  1. Exactly one Result for each Request taken from the input: on success, failure, panic in the
//     Doer, cancellation and the death of a child process.
//  2. Bounded: memory, goroutines, connections and files grow with the strategy's limit, never with
//     the number of requests. The input is taken lazily: requests taken and not handed out are at
//     most [Limits].Ahead; with Retry, twice InFlight, unless that is 1; with PerHost,
//     [PerHost].Lookahead; whichever is most.
//  3. The limit holds, and is reached under load.
//  4. Nothing is left running when the loop ends: exhausted, break, panic or cancellation.
//  5. Cancel is quick: after ctx is done no more input is taken, no request starts, those under way
//     are aborted, and each request taken has a result; one that had not started, an error of kind
//     [ErrCanceled] (or [ErrTimeout], for a deadline).
//  6. One goroutine, the caller's, runs the loop's body and the input: neither needs a lock.
//  7. A panic in a Doer becomes a [*PanicError]; a panic in the input is the caller's.
//  8. Ordered changes only the order.
//
// Rules 4 and 5 need a Doer that returns soon after its context is done.
type Fetcher struct {
	// Strategy decides how many requests are under way at once, and what carries them. nil means
	// Pool{}.
	Strategy Strategy
	// Doer performs the requests. nil means [DefaultClient]. It has to be nil for a strategy whose
	// requests are performed elsewhere (see [RemoteStrategy]), such as [Shard]: the Doer belongs
	// there. Fetch panics otherwise, and says where.
	Doer Doer
	// Ordered makes the results come in the order of the input. By default they come as they are
	// ready. While a slow request holds the order up, the results behind it are kept, and no more
	// input is taken once rule 2's bound is reached.
	Ordered bool
	// Retry sends requests again that may succeed then. nil means no retries.
	Retry *Retry
	// PerHost limits what each host gets. nil means that hosts are not told apart.
	PerHost *PerHost
	// Rate bounds how many requests start in a second, retries included. It may be shared. nil
	// means no limit. A request that it would never let start, or not before ctx's deadline, is an
	// [ErrTimeout].
	Rate *rate.Limiter
	// Trace is told what happens in a run, one event at a time, on any goroutine. The run waits for
	// it to return; it must not panic, nor call runtime.Goexit. nil means no events.
	Trace func(Event)
}

// Fetch fetches each of reqs and returns the results, under the contract in [Fetcher]. Nothing
// happens until the results are ranged over; each range is a run of its own.
//
// The input and the loop's body share the caller's goroutine, so an input that blocks holds up
// results too: use [Fetcher.Stream] for one that waits for something, and [Fetcher.FetchQueue] for
// one that the loop's body adds to.
//
// When ctx is done the loop just ends: ask ctx.Err() whether the input was fetched to its end.
func (f *Fetcher) Fetch(ctx context.Context, reqs iter.Seq[Request]) iter.Seq[Result] {
	if reqs == nil {
		panic("fetch: Fetch of a nil sequence")
	}
	return f.run(ctx, func(l *loop) {
		for r := range reqs {
			if l.take(&r); !l.settle() {
				return
			}
			if l.stopped {
				break
			}
		}
		l.finish()
	})
}

// Get is [Fetcher.Fetch] of GET requests for urls.
func (f *Fetcher) Get(ctx context.Context, urls ...string) iter.Seq[Result] {
	return f.Fetch(ctx, URLs(urls...))
}

// Stream is [Fetcher.Fetch] of requests that come from elsewhere: input and results do not wait for
// each other. The loop ends when reqs is closed and all results have been handed out. After a break
// or a cancel nothing more is received from reqs, so a sender must also watch ctx.
func (f *Fetcher) Stream(ctx context.Context, reqs <-chan Request) iter.Seq[Result] {
	if reqs == nil {
		panic("fetch: Stream of a nil channel")
	}
	return f.run(ctx, func(l *loop) {
		for l.input = reqs; l.input != nil; {
			if !l.advance() {
				return
			}
			if l.input != nil { // else a stop has ended it
				l.wait()
			}
		}
		l.finish()
	})
}

// FetchQueue is [Fetcher.Fetch] of the requests in q, to which the loop's body may add more: the
// links of a page, the next page of a listing. It ends when q is empty and every result has been
// handed out. After a break or a cancel, q keeps what was not taken; what was, and has no result
// yet, is not put back.
func (f *Fetcher) FetchQueue(ctx context.Context, q *Queue) iter.Seq[Result] {
	if q == nil {
		panic("fetch: FetchQueue of a nil Queue")
	}
	return f.run(ctx, func(l *loop) {
		for !l.stopped && (q.Len() > 0 || l.pending > 0) {
			if l.exhausted = q.Len() == 0; l.exhausted {
				l.wait()
				if !l.advance() {
					return
				}
				continue
			}
			r := q.requests.Pop()
			if l.take(&r); !l.settle() {
				return
			}
		}
		l.finish()
	})
}

// run returns the sequence whose ranging runs drive over a loop. It panics if a field of f cannot
// be used.
func (f *Fetcher) run(ctx context.Context, drive func(*loop)) iter.Seq[Result] {
	strategy := f.Strategy
	if strategy == nil {
		strategy = Pool{}
	}
	if where := performsElsewhere(strategy); where != "" && f.Doer != nil {
		panic("fetch: Fetcher.Doer does not perform the requests of " + strategy.String() + ", and has to be nil: " + where)
	}
	limits := limitsOf(strategy)
	f.Retry.check()
	f.PerHost.check()
	return func(yield func(Result) bool) {
		if ctx.Err() != nil {
			return
		}
		l := newLoop(ctx, f, strategy, limits, yield)
		defer l.close()
		drive(l)
	}
}
