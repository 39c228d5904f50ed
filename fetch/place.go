package fetch

import (
	"context"
	"sync"
	"time"
)

// A place is one of those that a strategy has for requests under way, and the context of
// those that have it one after another. A Doer that only waits (Retry for the time to try again,
// PerHost for the host) gives the place to another request meanwhile.
//
// That does not change how many requests may be taken ahead of the loop, so no more than half
// of those can be waiting if the rest is to use all places.
//
// A Doer that makes several requests of one at the same time has one place for them all. It is
// given while any of them waits, so that whoever has a place gets on, and nobody who
// waits is in the way of another; the others go on without it.
type place struct {
	context.Context
	give func()
	take func(ctx context.Context) bool // waits until there is a place, or for the end of ctx

	mu      sync.Mutex
	lost    bool // given, and not taken back
	waiting int  // how many step aside
	taking  bool // one of them is back, and takes it
}

type placeKey struct{}

func (p *place) Value(key any) any {
	if key == (placeKey{}) {
		return p
	}
	return p.Context.Value(key)
}

// stepAside calls wait, and gives the place that ctx has, if any, to others meanwhile. It may
// come back without one if ctx is done.
func stepAside(ctx context.Context, wait func()) {
	p, _ := ctx.Value(placeKey{}).(*place)
	if p == nil {
		wait()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting++
	p.leave()
	p.mu.Unlock()
	wait()
	p.mu.Lock()
	p.waiting--
	if p.waiting > 0 || !p.lost || p.taking {
		return
	}
	p.taking = true
	p.mu.Unlock()
	taken := p.take(ctx)
	p.mu.Lock()
	p.taking, p.lost = false, !taken
	p.leave() // another one may have begun to wait
}

// leave gives the place if it has to be given, with mu held.
func (p *place) leave() {
	if p.waiting > 0 && !p.lost {
		p.lost = true
		p.give()
	}
}

// isLost reports whether the request of p has ended without its place.
func (p *place) isLost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
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
