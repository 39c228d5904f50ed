package fetch

import (
	"context"

	"golang.org/x/time/rate"
)

// A Rate is a [Doer] that begins no more requests than its limiter lets through. Requests wait for
// their turn, and keep their places with the strategy meanwhile: all are held up alike. A
// limiter may be shared.
//
// A request that the context's deadline does not leave the time for, or that the
// limiter would never let through, ends in an [ErrTimeout] at once.
type Rate struct {
	// Doer performs the requests. nil means [DefaultClient].
	Doer Doer
	// Limit says how many requests a second begin on average, and how many at once.
	// nil means no limit.
	Limit *rate.Limiter
}

// CloseIdleConnections calls the method of the same name that the Doer has, if it has one.
func (r Rate) CloseIdleConnections() { closeIdle(r.Doer) }

// Do implements [Doer].
func (r Rate) Do(ctx context.Context, req *Request) Result {
	if r.Limit != nil {
		if err := r.Limit.Wait(ctx); err != nil {
			if ctx.Err() != nil {
				return Result{Request: req, Err: contextError(ctx, req)}
			}
			return Result{Request: req, Err: newError(ErrTimeout, req, unsentError{err})}
		}
	}
	return doerOr(r.Doer).Do(ctx, req)
}
