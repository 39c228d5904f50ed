package fetch

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// Batch fetches Size URLs, and takes the next Size when all of them are finished.
// Between batches nothing is under way: a place for a checkpoint, at the price of
// waiting for the slowest of each batch. [Trace].BatchDone tells when one is done.
//
// With a [BatchDoer] and Pipeline over 1, up to Pipeline requests of one host
// are handed to DoBatch together, to share a connection write. Fewer go when the batch
// is taken and no more come for that host. [fetchbench/fetch/wire.Client] is a BatchDoer. [Client] is none, nor
// are [Retry], [PerHost] and [Rate], whatever they wrap: with these Pipeline has no effect.
type Batch struct {
	// Size is the number of URLs in a batch. 0 means 10 000.
	Size int
	// Limit is how many requests are under way at the most, each of those that
	// share a write counted: 64 writes of 16 need a Limit of 1024. 0 means 64.
	Limit int
	// Pipeline is how many requests of one host go together. 0 means 1.
	Pipeline int
}

// Run implements [Strategy].
func (b Batch) Run(ctx context.Context, d Doer, reqs iter.Seq[*Request]) iter.Seq[Result] {
	size, limit, pipeline := b.fields()
	return func(yield func(Result) bool) {
		var (
			info  BatchInfo
			begun time.Time
			owed  int // requests of this batch whose result the loop has not received
			trace = traceFrom(ctx)
		)
		done := func() {
			info.Duration = time.Since(begun)
			trace.batchDone(info)
			info = BatchInfo{Number: info.Number + 1}
		}
		// The barrier is a pause (a nil) in the input, until nothing is owed.
		batches := func(yield func(*Request) bool) {
			for r := range reqs {
				if r == nil {
					if !yield(nil) {
						return
					}
					continue
				}
				if info.Size == 0 {
					begun = time.Now()
				}
				info.Size++
				owed++
				if !yield(r) {
					return
				}
				for info.Size == size && owed > 0 {
					if !yield(nil) {
						return
					}
				}
				if info.Size == size {
					done()
					if ctx.Err() != nil { // BatchDone may have canceled it
						return
					}
				}
			}
		}
		var results iter.Seq[Result]
		if bd, ok := d.(BatchDoer); ok && pipeline > 1 {
			results = pipelined(ctx, bd, batches, limit, pipeline)
		} else {
			results = Pool{Workers: limit}.Run(ctx, d, batches)
		}
		for res := range results {
			owed--
			if res.Err != nil {
				info.Failed++
			}
			if !yield(res) {
				return
			}
		}
		if info.Size > 0 {
			done()
		}
	}
}

// fields returns the fields with their defaults in place of zeros.
func (b Batch) fields() (size, inFlight, pipeline int) {
	size = limit("Batch.Size", b.Size, 10_000, maxLimit)
	inFlight = limit("Batch.Limit", b.Limit, defaultLimit, maxLimit)
	pipeline = limit("Batch.Pipeline", b.Pipeline, 1, maxLimit)
	return size, inFlight, min(pipeline, inFlight)
}

// Bounds implements [Bounded].
func (b Batch) Bounds() (inFlight, ahead int) {
	size, limit, pipeline := b.fields()
	if pipeline > 1 {
		return min(limit, size), size
	}
	return min(limit, size), min(2*limit, size)
}

func (b Batch) String() string {
	size, limit, pipeline := b.fields()
	if pipeline > 1 {
		return fmt.Sprintf("batch(%d,%d,%d)", size, limit, pipeline)
	}
	return fmt.Sprintf("batch(%d,%d)", size, limit)
}
