package fetch

import (
	"context"
	"time"
)

// A place is one of those that a strategy has for requests under way. A Doer that only waits
// (Retry for the time to try again, PerHost for the host) gives the place of its request to
// another one meanwhile. How many requests may be taken ahead of the loop is not changed by
// that, so no more than half of those can be waiting if the rest is to use all places.
type place struct {
	give func()
	take func() // does not return before there is a place, unless the run ends
}

type placeKey struct{}

// withPlace returns a context for the Doers of a run whose places are p's; nil means that they
// have none to give.
func withPlace(ctx context.Context, p *place) context.Context {
	return context.WithValue(ctx, placeKey{}, p)
}

// stepAside calls wait, and gives the place that ctx has to others meanwhile.
func stepAside(ctx context.Context, wait func()) {
	if p, _ := ctx.Value(placeKey{}).(*place); p != nil {
		p.give()
		defer p.take()
	}
	wait()
}

// sleep waits for d, or until ctx is done.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
