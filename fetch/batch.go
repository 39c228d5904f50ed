package fetch

import (
	"context"
	"fmt"
)

// Batch fetches Size URLs, and takes the next Size when all of them have been handed out. Between
// batches nothing is under way: a place for a checkpoint, at the price of waiting for the slowest
// request of each batch. [EventBatch] tells when one is done. It is a barrier around any strategy.
type Batch struct {
	// Size is the number of URLs in a batch. 0 means 10 000.
	Size int
	// Each is the strategy that carries the requests. nil means Pool{}.
	Each Strategy
}

// Limits implements [Strategy].
func (b Batch) Limits() Limits {
	size := limit("Batch.Size", b.Size, 10_000, maxLimit)
	l := b.each().Limits()
	if l.Batch > 0 {
		panic("fetch: Batch.Each is a batch itself: " + b.Each.String())
	}
	return Limits{InFlight: min(l.InFlight, size), Ahead: min(l.Ahead, size), Batch: size}
}

func (b Batch) String() string { return fmt.Sprintf("batch(%d,%v)", b.Limits().Batch, b.each()) }

// Start implements [Strategy].
func (b Batch) Start(ctx context.Context, d Doer) Executor {
	limits, each := b.Limits(), b.each()
	if p, ok := each.(Pool); ok {
		p.Workers = limits.InFlight // no more than a batch has requests
		each = p
	}
	return each.Start(ctx, d)
}

// Remote implements [RemoteStrategy].
func (b Batch) Remote() string { return performsElsewhere(b.each()) }

func (b Batch) each() Strategy {
	if b.Each == nil {
		return Pool{}
	}
	return b.Each
}
