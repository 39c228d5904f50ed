package fetch_test

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// drain takes all of results, and returns how many there were.
func drain(results iter.Seq[fetch.Result]) int {
	n := 0
	for range results {
		n++
	}
	return n
}

// tally returns the Snapshot after results have passed.
func tally(results ...fetch.Result) fetch.Snapshot {
	var s fetch.Stats
	drain(s.Observe(slices.Values(results)))
	return s.Snapshot()
}

func TestStatsCounts(t *testing.T) {
	failure := func(k fetch.Kind) error { return &fetch.Error{Kind: k, Err: errors.New("cause")} }
	s := tally(
		fetch.Result{Status: 200, Body: []byte("12345"), Attempts: 1},
		fetch.Result{Status: 204, Attempts: 1},
		fetch.Result{Status: 200, Body: []byte("123"), Attempts: 3},
		fetch.Result{Status: 301, Attempts: 1},
		fetch.Result{Status: 503, Body: []byte("1"), Attempts: 2},
		fetch.Result{Err: failure(fetch.ErrTimeout), Attempts: 2},
		fetch.Result{Err: failure(fetch.ErrTimeout), Attempts: 1},
		fetch.Result{Err: failure(fetch.ErrBadURL)}, // nothing was sent
		fetch.Result{Status: 200, Err: failure(fetch.ErrTruncated), Attempts: 1},
		fetch.Result{Err: &fetch.PanicError{Value: "a bug"}, Attempts: 1},
		fetch.Result{Err: errors.New("of another package"), Attempts: 1},
	)
	assert.EqualValues(t, 11, s.URLs)
	assert.EqualValues(t, 3, s.OK)
	assert.Equal(t, map[fetch.Kind]int64{fetch.ErrTimeout: 2, fetch.ErrBadURL: 1, fetch.ErrTruncated: 1, fetch.ErrPanic: 1, "": 1}, s.Errors)
	assert.Equal(t, map[int]int64{200: 3, 204: 1, 301: 1, 503: 1}, s.Statuses, "that of a truncated response too")
	assert.EqualValues(t, 4, s.Retries, "a request that was never sent does not count as -1")
	assert.EqualValues(t, 9, s.Bytes)
}

// A page that has not changed since is what a conditional request hopes for.
func TestStatsNotModified(t *testing.T) {
	asked := func(fields ...string) *fetch.Request {
		r := &fetch.Request{Header: make(http.Header)}
		for _, f := range fields {
			r.Header[f] = []string{"x"}
		}
		return r
	}
	for name, c := range map[string]struct {
		result fetch.Result
		ok     int64
	}{
		"If-None-Match":      {fetch.Result{Status: 304, Request: asked("If-None-Match")}, 1},
		"If-Modified-Since":  {fetch.Result{Status: 304, Request: asked("Accept", "If-Modified-Since")}, 1},
		"in any case":        {fetch.Result{Status: 304, Request: asked("if-none-match")}, 1},
		"not conditional":    {fetch.Result{Status: 304, Request: asked("Accept", "If")}, 0},
		"no header":          {fetch.Result{Status: 304, Request: &fetch.Request{}}, 0},
		"no request":         {fetch.Result{Status: 304}, 0},
		"another status":     {fetch.Result{Status: 412, Request: asked("If-Match")}, 0},
		"an error after all": {fetch.Result{Status: 304, Err: fetch.ErrTruncated, Request: asked("If-None-Match")}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := tally(c.result)
			assert.EqualValues(t, 1, s.URLs)
			assert.Equal(t, c.ok, s.OK)
			assert.Equal(t, map[int]int64{c.result.Status: 1}, s.Statuses)
		})
	}
}

func TestStatsPercentiles(t *testing.T) {
	results := func(durations ...time.Duration) []fetch.Result {
		var rs []fetch.Result
		for _, d := range durations {
			rs = append(rs, fetch.Result{Status: 200, Duration: d})
		}
		return rs
	}
	t.Run("1 to 1000 ms", func(t *testing.T) {
		var ds []time.Duration
		for i := range 1000 {
			ds = append(ds, time.Duration(1000-i)*time.Millisecond)
		}
		s := tally(results(ds...)...)
		assert.InEpsilon(t, 500*time.Millisecond, s.P50, 0.001)
		assert.InEpsilon(t, 900*time.Millisecond, s.P90, 0.001)
		assert.InEpsilon(t, 990*time.Millisecond, s.P99, 0.001)
		assert.Equal(t, time.Second, s.Max, "exact")
	})
	t.Run("one", func(t *testing.T) {
		s := tally(results(12345 * time.Microsecond)...)
		assert.Equal(t, 12345*time.Microsecond, s.Max)
		for _, p := range []time.Duration{s.P50, s.P90, s.P99} {
			assert.Equal(t, s.Max, p, "no percentile is beyond the longest")
		}
	})
	t.Run("short", func(t *testing.T) {
		s := tally(results(time.Nanosecond, 10*time.Microsecond, 20*time.Microsecond)...)
		assert.InDelta(t, 10*time.Microsecond, s.P50, 512)
		assert.Equal(t, 20*time.Microsecond, s.Max)
	})
	t.Run("hours", func(t *testing.T) {
		s := tally(results(time.Second, 50*time.Hour)...)
		assert.Equal(t, 50*time.Hour, s.Max)
		assert.GreaterOrEqual(t, s.P99, time.Hour)
	})
	t.Run("none", func(t *testing.T) {
		s := tally(results(0, 0, 0)...)
		assert.EqualValues(t, 3, s.URLs)
		assert.Zero(t, s.P50)
		assert.Zero(t, s.Max)
	})
	// Requests that were never sent would pull the median down.
	t.Run("without a Duration", func(t *testing.T) {
		s := tally(results(0, 0, time.Second)...)
		assert.InEpsilon(t, time.Second, s.P50, 0.001)
	})
}

func TestStatsWhileObserving(t *testing.T) {
	const n = 5000
	var s fetch.Stats
	results := func(yield func(fetch.Result) bool) {
		for i := range n {
			if !yield(fetch.Result{Status: 200 + i%2, Body: []byte("x"), Duration: time.Millisecond, Attempts: 1}) {
				return
			}
		}
	}
	done := make(chan struct{})
	var progress sync.WaitGroup
	progress.Go(func() {
		last := fetch.Snapshot{}
		for {
			now := s.Snapshot()
			assert.GreaterOrEqual(t, now.URLs, last.URLs)
			assert.Equal(t, now.URLs, now.Statuses[200]+now.Statuses[201], "a Snapshot is of one moment")
			assert.Equal(t, now.URLs, now.Bytes)
			_ = now.String()
			if now.Statuses != nil {
				now.Statuses[200] = -1 // the caller's own
			}
			last = now
			select {
			case <-done:
				return
			default:
			}
		}
	})
	drain(s.Observe(results))
	close(done)
	progress.Wait()
	assert.EqualValues(t, n, s.Snapshot().URLs)
	assert.EqualValues(t, n/2, s.Snapshot().Statuses[200])
}

func TestStatsZero(t *testing.T) {
	var s fetch.Stats
	assert.Zero(t, s.Snapshot())
	assert.Zero(t, s.Snapshot().PerSecond())
	assert.Equal(t, `URLs          0  in 0s, 0 URLs/s
ok            0
failed        0
retries       0
bytes         0
service time    p50 0s, p90 0s, p99 0s, max 0s
`, s.Snapshot().String())
}

func TestSnapshotString(t *testing.T) {
	s := fetch.Snapshot{
		URLs: 1000, OK: 985, Elapsed: 2*time.Second + 400*time.Microsecond,
		Errors:   map[fetch.Kind]int64{fetch.ErrTimeout: 4, fetch.ErrReset: 3, "": 1},
		Statuses: map[int]int64{503: 7, 200: 985, 799: 1},
		Retries:  21, Bytes: 18715,
		P50: 1500 * time.Microsecond, P90: 2 * time.Millisecond, P99: 30 * time.Millisecond, Max: time.Second,
	}
	assert.Equal(t, `URLs                1000  in 2s, 500 URLs/s
ok                  985
failed              15
  other error       1
  connection reset  3
  timeout           4
status 200          985  OK
status 503          7    Service Unavailable
status 799          1    
retries             21
bytes               18715
service time          p50 1.5ms, p90 2ms, p99 30ms, max 1s
`, s.String())
	assert.InDelta(t, 499.9, s.PerSecond(), 0.01)
}

func TestStatsElapsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s fetch.Stats
		results := slices.Values(make([]fetch.Result, 3))
		time.Sleep(time.Hour)
		assert.Zero(t, s.Snapshot().Elapsed, "time before the first loop")
		seconds := 0
		for range s.Observe(results) {
			assert.Equal(t, time.Duration(seconds)*time.Second, s.Snapshot().Elapsed, "it goes on in the loop")
			time.Sleep(time.Second)
			seconds++
		}
		time.Sleep(time.Hour)
		assert.Equal(t, 3*time.Second, s.Snapshot().Elapsed, "it stops with the loop")
		assert.InDelta(t, 1, s.Snapshot().PerSecond(), 1e-9)

		for range s.Observe(results) {
			time.Sleep(time.Second)
			break
		}
		time.Sleep(time.Hour)
		assert.Equal(t, time.Hour+4*time.Second, s.Snapshot().Elapsed, "a break ends a loop, and a second one counts from the first")
		assert.EqualValues(t, 4, s.Snapshot().URLs)
	})
}

func TestStatsTwoLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s fetch.Stats
		loop := func(n int) {
			drain(s.Observe((&fetch.Fetcher{Strategy: fetch.Serial{}, Doer: asleep(time.Second)}).Fetch(t.Context(), pings(n))))
		}
		var loops sync.WaitGroup
		loops.Go(func() { loop(2) })
		loops.Go(func() { loop(5) })
		time.Sleep(3500 * time.Millisecond)
		assert.Equal(t, 3500*time.Millisecond, s.Snapshot().Elapsed, "one of the two still runs")
		loops.Wait()
		assert.EqualValues(t, 7, s.Snapshot().URLs)
		assert.Equal(t, 5*time.Second, s.Snapshot().Elapsed)
	})
}

func TestStatsBreak(t *testing.T) {
	var s fetch.Stats
	seen := 0
	for r := range s.Observe(slices.Values(make([]fetch.Result, 9))) {
		require.Zero(t, r.Status)
		if seen++; seen == 3 {
			break
		}
	}
	assert.EqualValues(t, 3, s.Snapshot().URLs, "the one of the break counts: the loop has received it")
}

// asleep returns a Doer that takes d, or until its context is done.
func asleep(d time.Duration) fetch.DoerFunc {
	return func(ctx context.Context, r *fetch.Request) fetch.Result {
		select {
		case <-time.After(d):
			return fetch.Result{Status: 200, Attempts: 1, Duration: d}
		case <-ctx.Done():
			return fetch.Result{Err: &fetch.Error{Kind: fetch.ErrCanceled, Err: ctx.Err()}}
		}
	}
}

// pings yields n requests to one host, without end if n is negative.
func pings(n int) iter.Seq[fetch.Request] {
	return func(yield func(fetch.Request) bool) {
		for i := 0; i != n; i++ {
			if !yield(fetch.Request{URL: "http://host.test/ping"}) {
				return
			}
		}
	}
}
