package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// traced has f.Trace append the events of these kinds to the slice.
func traced(f *fetch.Fetcher, kinds ...fetch.EventKind) *[]fetch.Event {
	var events []fetch.Event
	f.Trace = func(e fetch.Event) { // without a lock: it is called one at a time
		if slices.Contains(kinds, e.Kind) {
			events = append(events, e)
		}
	}
	return &events
}

// batched is a Fetcher with batches of size and n workers.
func batched(size, n int, d fetch.Doer) *fetch.Fetcher {
	return &fetch.Fetcher{Strategy: fetch.Batch{Size: size, Each: fetch.Pool{Workers: n}}, Doer: d}
}

func TestEventBatch(t *testing.T) {
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
	batch := func(number, size, failed int, d time.Duration) fetch.Event {
		return fetch.Event{Kind: fetch.EventBatch, Batch: number, Size: size, Failed: failed, Duration: d}
	}
	for name, c := range map[string]struct {
		n    int
		want []fetch.Event
	}{
		"none":             {0, nil},
		"one":              {1, []fetch.Event{batch(0, 1, 1, time.Second)}},
		"a complete batch": {6, []fetch.Event{batch(0, 6, 2, 2*time.Second)}},
		"a smaller last":   {8, []fetch.Event{batch(0, 6, 2, 2*time.Second), batch(1, 2, 0, time.Second)}},
		"several batches":  {12, []fetch.Event{batch(0, 6, 2, 2*time.Second), batch(1, 6, 1, 2*time.Second)}},
	} {
		for _, ordered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s ordered=%v", name, ordered), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := batched(6, 3, doer)
					f.Ordered = ordered
					batches := traced(f, fetch.EventBatch)
					assert.Equal(t, c.n, drain(f.Fetch(t.Context(), pings(c.n))))
					assert.Equal(t, c.want, *batches)
				})
			})
		}
	}
	t.Run("not without batches", func(t *testing.T) {
		f := &fetch.Fetcher{Doer: asleep(0)}
		batches := traced(f, fetch.EventBatch)
		drain(f.Fetch(t.Context(), pings(1000)))
		assert.Empty(t, *batches)
	})
}

// Retries belong to the batch of their request, and nothing of the next batch starts before.
func TestEventBatchWithRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
			res := asleep(time.Second)(ctx, r)
			if r.Index == 1 {
				res.Status = 503
			}
			return res
		})
		f := batched(4, 4, doer)
		f.Retry = &fetch.Retry{}
		events := traced(f, fetch.EventBatch, fetch.EventStart)
		drain(f.Fetch(t.Context(), pings(8)))
		var starts []int
		for _, e := range *events {
			if e.Kind == fetch.EventBatch {
				starts = append(starts, -1)
			} else {
				starts = append(starts, e.Request.Index)
			}
		}
		assert.Equal(t, []int{0, 1, 2, 3, 1, 1, -1, 4, 5, 6, 7, -1}, starts)
	})
}

// A program that writes a checkpoint at EventBatch relies on this.
func TestEventBatchBetweenBatches(t *testing.T) {
	received, events := 0, 0
	f := batched(10, 4, asleep(0))
	f.Trace = func(e fetch.Event) {
		if e.Kind == fetch.EventBatch {
			assert.Equal(t, 10*(events+1), received, "the loop has received the batch, and nothing of the next")
			events++
		}
	}
	for range f.Fetch(t.Context(), pings(50)) {
		received++ // without a lock: all on one goroutine
	}
	assert.Equal(t, 5, events)
}

func TestEventBatchOfEachRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := batched(2, 2, asleep(time.Second))
		batches := traced(f, fetch.EventBatch)
		results := f.Fetch(t.Context(), pings(2))
		drain(results)
		drain(results)
		one := fetch.Event{Kind: fetch.EventBatch, Batch: 0, Size: 2, Duration: time.Second}
		assert.Equal(t, []fetch.Event{one, one}, *batches, "each range is a run of its own")
	})
}

func TestEventBatchOfARunCutShort(t *testing.T) {
	t.Run("not the batch that a break cut", func(t *testing.T) {
		for _, at := range []int{1, 10, 11, 15, 20} {
			f := batched(10, 4, asleep(0))
			batches := traced(f, fetch.EventBatch)
			received := 0
			for range f.Fetch(t.Context(), pings(-1)) {
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
			// A batch takes 3 s, in rounds of 4, 4 and 2 requests. The cancel comes in the first round of
			// the second batch.
			f := batched(10, 4, asleep(time.Second))
			batches := traced(f, fetch.EventBatch)
			received := drain(f.Fetch(ctx, pings(-1)))
			if assert.Len(t, *batches, 2) {
				assert.Equal(t, fetch.Event{Kind: fetch.EventBatch, Batch: 0, Size: 10, Duration: 3 * time.Second}, (*batches)[0])
				cut := (*batches)[1]
				assert.Equal(t, received-10, cut.Size)
				assert.Equal(t, cut.Size, cut.Failed)
				assert.Equal(t, 500*time.Millisecond, cut.Duration)
			}
		})
	})
	t.Run("nothing after a cancel at EventBatch", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		batches := 0
		f := batched(10, 4, asleep(0))
		f.Trace = func(e fetch.Event) {
			if e.Kind == fetch.EventBatch {
				batches++
				cancel()
			}
		}
		assert.Equal(t, 10, drain(f.Fetch(ctx, pings(-1))))
		assert.Equal(t, 1, batches)
	})
}

// Metrics are made of these: each attempt has a start, each but a request's last a retry, and each
// request an end.
func TestEventsOfRequests(t *testing.T) {
	const n = 30
	for _, s := range []fetch.Strategy{fetch.Serial{}, fetch.Pool{Workers: 4}, fetch.Batch{Size: 7}, fetch.Pipeline{Limit: 8}} {
		for _, f := range []*fetch.Fetcher{
			{Strategy: s, Retry: &fetch.Retry{Budget: 10}},
			{Strategy: s, Retry: &fetch.Retry{Budget: 10}, PerHost: &fetch.PerHost{}, Ordered: true},
		} {
			t.Run(fmt.Sprintf("%v ordered=%v", s, f.Ordered), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var calls [n]atomic.Int64
					f.Doer = fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
						res := asleep(time.Second)(ctx, r)
						if calls[r.Index].Add(1) <= int64(r.Index%3) { // request i fails i%3 times
							return fetch.Result{Err: &fetch.Error{Kind: fetch.ErrReset}, Attempts: 1, Duration: time.Second}
						}
						res.Status = 201
						return res
					})
					of := make(map[int][]fetch.Event)
					f.Trace = func(e fetch.Event) {
						if e.Request != nil { // else it is a batch
							of[e.Request.Index] = append(of[e.Request.Index], e)
						}
					}
					received := 0
					for r := range f.Fetch(t.Context(), pings(n)) {
						received++
						events := of[r.Request.Index]
						end := fetch.Event{Kind: fetch.EventEnd, Request: r.Request, Status: 201, Attempts: r.Request.Index%3 + 1, Duration: time.Second}
						require.NotEmpty(t, events)
						assert.Equal(t, end, events[len(events)-1], "before the result is handed out")
					}
					assert.Equal(t, n, received)
					for i, events := range of {
						require.Len(t, events, 2*(i%3)+2)
						for attempt := range i % 3 {
							start, retry := events[2*attempt], events[2*attempt+1]
							assert.Equal(t, fetch.Event{Kind: fetch.EventStart, Request: start.Request}, start)
							assert.Equal(t, fetch.EventRetry, retry.Kind)
							assert.Equal(t, fetch.ErrReset, fetch.KindOf(retry.Err))
							assert.Equal(t, attempt+1, retry.Attempts)
							assert.Less(t, retry.Duration, time.Second, "until the next attempt")
						}
						assert.Equal(t, fetch.EventStart, events[len(events)-2].Kind)
					}
				})
			})
		}
	}
}

func TestEventEndOfARunCutShort(t *testing.T) {
	for name, end := range map[string]func(cancel func()) (more bool){
		"cancel": func(cancel func()) bool { cancel(); return true },
		"break":  func(func()) bool { return false },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f := &fetch.Fetcher{Strategy: fetch.Pool{Workers: 4}, Doer: asleep(time.Millisecond)}
			ends := traced(f, fetch.EventEnd)
			received := 0
			for range f.Fetch(ctx, pings(-1)) {
				if received++; received == 20 && !end(cancel) {
					break
				}
			}
			assert.Len(t, *ends, received, "one for each result handed out")
		})
	}
}

// A Trace needs no lock, whichever goroutines the events are on.
func TestTraceOneAtATime(t *testing.T) {
	const n = 1000
	doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		fetch.Emit(ctx, fetch.Event{Kind: "of the Doer", Request: r})
		return asleep(0)(ctx, r)
	})
	var g fetchtest.Gauge
	events := make(map[fetch.EventKind]int)
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: doer, Trace: func(e fetch.Event) {
		defer g.Enter()()
		events[e.Kind]++  // -race tells if two do this at once
		runtime.Gosched() // another may begin meanwhile
	}}
	assert.Equal(t, n, drain(f.Fetch(t.Context(), pings(n))))
	assert.Equal(t, 1, g.Peak(), "calls at once")
	assert.Equal(t, map[fetch.EventKind]int{fetch.EventStart: n, fetch.EventEnd: n, "of the Doer": n}, events)
}

// What the Doer of one run fetches is another run: it tells its own Trace, if it has one.
func TestTraceOfARunWithinADoer(t *testing.T) {
	inner := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		fetch.Emit(ctx, fetch.Event{Kind: "inner"})
		return asleep(0)(ctx, r)
	})
	for _, ownTrace := range []bool{false, true} {
		innerEvents := make(map[fetch.EventKind]int)
		outer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
			f := fetch.Fetcher{Strategy: fetch.Serial{}, Doer: inner}
			if ownTrace {
				f.Trace = func(e fetch.Event) { innerEvents[e.Kind]++ }
			}
			drain(f.Fetch(ctx, pings(3)))
			fetch.Emit(ctx, fetch.Event{Kind: "outer"})
			return asleep(0)(ctx, r)
		})
		events := make(map[fetch.EventKind]int)
		f := fetch.Fetcher{Strategy: fetch.Serial{}, Doer: outer, Trace: func(e fetch.Event) { events[e.Kind]++ }}
		drain(f.Fetch(t.Context(), pings(2)))
		assert.Equal(t, map[fetch.EventKind]int{fetch.EventStart: 2, fetch.EventEnd: 2, "outer": 2}, events)
		if ownTrace {
			assert.Equal(t, map[fetch.EventKind]int{fetch.EventStart: 6, fetch.EventEnd: 6, "inner": 6}, innerEvents)
		} else {
			assert.Empty(t, innerEvents)
		}
	}
}

func TestEmitWithoutTrace(t *testing.T) {
	fetch.Emit(t.Context(), fetch.Event{Kind: fetch.EventBatch}) // no run
	doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		fetch.Emit(ctx, fetch.Event{Kind: fetch.EventBatch})
		return asleep(0)(ctx, r)
	})
	assert.Equal(t, 1, drain((&fetch.Fetcher{Doer: doer}).Fetch(t.Context(), pings(1))), "a run without a Trace")
}

// Events go to logs.
func TestEventString(t *testing.T) {
	r := &fetch.Request{URL: "https://me:secret@api.test/ada?key=secret#secret"}
	refused := &fetch.Error{Kind: fetch.ErrDial, URL: "https://me:secret@api.test/ada?key=secret", Err: errors.New("connection refused")}
	for _, c := range []struct {
		event fetch.Event
		want  string
	}{
		{fetch.Event{Kind: fetch.EventStart, Request: r}, "start index=0 url=https://api.test/ada"},
		{fetch.Event{Kind: fetch.EventRetry, Request: r, Status: 503, Attempts: 1, Duration: time.Second},
			"retry index=0 url=https://api.test/ada status=503 attempts=1 duration=1s"},
		{fetch.Event{Kind: fetch.EventEnd, Request: r, Err: refused, Attempts: 3},
			"end index=0 url=https://api.test/ada attempts=3 error=fetch: https://api.test/ada: dial: connection refused"},
		{fetch.Event{Kind: fetch.EventBatch, Batch: 0, Size: 10, Failed: 2, Duration: 3 * time.Second}, "batch batch=0 size=10 failed=2 duration=3s"},
		{fetch.Event{Kind: fetch.EventHostParked, Host: "api.test:443", Duration: time.Minute}, "host parked host=api.test:443 duration=1m0s"},
		{fetch.Event{Kind: fetch.EventHostDown, Host: "api.test:443", Err: refused},
			"host down host=api.test:443 error=fetch: https://api.test/ada: dial: connection refused"},
		{fetch.Event{Kind: fetch.EventHostUp, Host: "api.test:443", Duration: 5 * time.Second}, "host up host=api.test:443 duration=5s"},
		{fetch.Event{Kind: fetch.EventShardUp, Shard: 0, PID: 42, Duration: 30 * time.Millisecond}, "shard up shard=0 pid=42 duration=30ms"},
		{fetch.Event{Kind: fetch.EventShardDown, Shard: 3, PID: 42, Unanswered: 7, Err: errors.New("signal: killed")},
			"shard down shard=3 pid=42 unanswered=7 error=signal: killed"},
		{fetch.Event{Kind: fetch.EventPipelineOff, Host: "http://api.test:80", Unanswered: 2, Duration: time.Minute, Err: refused},
			"pipeline off host=http://api.test:80 unanswered=2 duration=1m0s error=fetch: https://api.test/ada: dial: connection refused"},
	} {
		assert.Equal(t, c.want, c.event.String())
		assert.Equal(t, c.want, fmt.Sprint(c.event))
	}
}
