package fetchtest

import (
	"context"
	"sync/atomic"

	"fetchbench/fetch"
)

// A Gauge measures how many requests are in flight. The zero value is ready, and
// its methods may be called concurrently.
type Gauge struct{ now, peak, total atomic.Int64 }

// Enter counts one in, and returns the function that counts it out again.
func (g *Gauge) Enter() (leave func()) {
	g.total.Add(1)
	now := g.now.Add(1)
	for peak := g.peak.Load(); now > peak && !g.peak.CompareAndSwap(peak, now); peak = g.peak.Load() {
	}
	return g.leave
}

func (g *Gauge) leave() { g.now.Add(-1) }

// InFlight returns how many are in.
func (g *Gauge) InFlight() int { return int(g.now.Load()) }

// Peak returns the most that were in at once.
func (g *Gauge) Peak() int { return int(g.peak.Load()) }

// Total returns how many have entered.
func (g *Gauge) Total() int { return int(g.total.Load()) }

// Doer returns a [fetch.Doer] that measures the requests through d.
func (g *Gauge) Doer(d fetch.Doer) fetch.Doer {
	return fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		defer g.Enter()()
		return d.Do(ctx, r)
	})
}
