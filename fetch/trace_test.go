package fetch_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// recorded returns a context with a Trace that appends each batch to the slice.
func recorded(ctx context.Context) (context.Context, *[]fetch.BatchInfo) {
	var batches []fetch.BatchInfo
	return fetch.WithTrace(ctx, &fetch.Trace{BatchDone: func(b fetch.BatchInfo) { batches = append(batches, b) }}), &batches
}

func batched(b fetch.Batch, d fetch.Doer) *fetch.Fetcher { return &fetch.Fetcher{Strategy: b, Doer: d} }

func TestBatchDone(t *testing.T) {
	// Each request takes a second; every fourth fails, and every fifth is a 500.
	doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		res := asleep(time.Second)(ctx, r)
		switch {
		case r.Index%4 == 0:
			res = fetch.Result{Err: &fetch.Error{Kind: fetch.ErrReset}}
		case r.Index%5 == 0:
			res.Status = 500
		}
		return res
	})
	for name, c := range map[string]struct {
		n    int
		want []fetch.BatchInfo
	}{
		"none":            {0, nil},
		"one":             {1, []fetch.BatchInfo{{Number: 0, Size: 1, Failed: 1, Duration: time.Second}}},
		"a whole batch":   {6, []fetch.BatchInfo{{Number: 0, Size: 6, Failed: 2, Duration: 2 * time.Second}}},
		"a smaller last":  {8, []fetch.BatchInfo{{Number: 0, Size: 6, Failed: 2, Duration: 2 * time.Second}, {Number: 1, Size: 2, Failed: 0, Duration: time.Second}}},
		"several batches": {12, []fetch.BatchInfo{{Number: 0, Size: 6, Failed: 2, Duration: 2 * time.Second}, {Number: 1, Size: 6, Failed: 1, Duration: 2 * time.Second}}},
	} {
		for _, ordered := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, batches := recorded(t.Context())
					f := fetch.Fetcher{Strategy: fetch.Batch{Size: 6, Limit: 3}, Doer: doer, Ordered: ordered}
					assert.Equal(t, c.n, drain(f.Fetch(ctx, pings(c.n))))
					assert.Equal(t, c.want, *batches)
				})
			})
		}
	}
}

// A program that writes a checkpoint in BatchDone relies on this.
func TestBatchDoneBetweenBatches(t *testing.T) {
	received, events := 0, 0
	ctx := fetch.WithTrace(t.Context(), &fetch.Trace{BatchDone: func(b fetch.BatchInfo) {
		assert.Equal(t, 10*(events+1), received, "the loop has received the batch, and nothing of the next")
		events++
	}})
	for range batched(fetch.Batch{Size: 10, Limit: 4}, asleep(0)).Fetch(ctx, pings(50)) {
		received++ // without a lock: all on one goroutine
	}
	assert.Equal(t, 5, events)
}

func TestBatchDoneOfEachRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, batches := recorded(t.Context())
		results := batched(fetch.Batch{Size: 2}, asleep(time.Second)).Fetch(ctx, pings(2))
		drain(results)
		drain(results)
		one := fetch.BatchInfo{Number: 0, Size: 2, Duration: time.Second}
		assert.Equal(t, []fetch.BatchInfo{one, one}, *batches, "each range is a run of its own")
	})
}

func TestBatchDoneCounts(t *testing.T) {
	t.Run("not the batch that a break cut", func(t *testing.T) {
		for _, at := range []int{1, 10, 11, 15, 20} {
			ctx, batches := recorded(t.Context())
			received := 0
			for range batched(fetch.Batch{Size: 10, Limit: 4}, asleep(0)).Fetch(ctx, pings(-1)) {
				if received++; received == at {
					break
				}
			}
			assert.Len(t, *batches, (at-1)/10, "break at result %d", at)
		}
	})
	t.Run("the batch that a cancel cut", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(3500*time.Millisecond, cancel)
			ctx, batches := recorded(ctx)
			// A batch takes 3 s, in rounds of 4, 4 and 2 requests. The cancel comes in the
			// first round of the second batch.
			received := drain(batched(fetch.Batch{Size: 10, Limit: 4}, asleep(time.Second)).Fetch(ctx, pings(-1)))
			if assert.Len(t, *batches, 2) {
				assert.Equal(t, fetch.BatchInfo{Number: 0, Size: 10, Duration: 3 * time.Second}, (*batches)[0])
				cut := (*batches)[1]
				assert.Equal(t, received-10, cut.Size)
				assert.Equal(t, cut.Size, cut.Failed)
				assert.Equal(t, 500*time.Millisecond, cut.Duration)
			}
		})
	})
	t.Run("nothing after a cancel in BatchDone", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var batches []fetch.BatchInfo
		ctx = fetch.WithTrace(ctx, &fetch.Trace{BatchDone: func(b fetch.BatchInfo) {
			batches = append(batches, b)
			cancel()
		}})
		assert.Equal(t, 10, drain(batched(fetch.Batch{Size: 10, Limit: 4}, asleep(0)).Fetch(ctx, pings(-1))))
		assert.Len(t, batches, 1)
	})
}

func TestWithTrace(t *testing.T) {
	one := func(ctx context.Context) { drain(batched(fetch.Batch{}, asleep(0)).Fetch(ctx, pings(1))) }
	t.Run("two compose", func(t *testing.T) {
		var calls []string
		named := func(ctx context.Context, name string) context.Context {
			return fetch.WithTrace(ctx, &fetch.Trace{BatchDone: func(fetch.BatchInfo) { calls = append(calls, name) }})
		}
		outer := named(t.Context(), "outer")
		one(named(fetch.WithTrace(named(outer, "middle"), &fetch.Trace{}), "inner"))
		assert.Equal(t, []string{"inner", "middle", "outer"}, calls)
		calls = nil
		one(outer)
		assert.Equal(t, []string{"outer"}, calls, "the outer context is as it was")
	})
	t.Run("empty", func(t *testing.T) { one(fetch.WithTrace(t.Context(), &fetch.Trace{})) })
	t.Run("none", func(t *testing.T) { one(t.Context()) })
	t.Run("nil", func(t *testing.T) {
		assert.PanicsWithValue(t, "fetch: WithTrace of a nil Trace", func() { fetch.WithTrace(t.Context(), nil) })
	})
}
