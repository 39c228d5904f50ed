package fetch_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"fetchbench/fetch"
)

// As many requests start in a second as the limiter allows, with every strategy.
func TestRate(t *testing.T) {
	for _, s := range append(policyStrategies, fetch.Pool{}, fetch.Pipeline{}, fetch.Batch{Size: 7}) {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var starts []time.Time
				d := fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
					mu.Lock()
					starts = append(starts, time.Now())
					mu.Unlock()
					time.Sleep(20 * time.Millisecond)
					return status(200)
				})
				f := fetch.Fetcher{Strategy: s, Doer: together{d}, Rate: rate.NewLimiter(10, 3)}
				begun := time.Now()
				n := 0
				for r := range f.Fetch(t.Context(), hosts(103, 3)) {
					require.True(t, r.OK())
					n++
				}
				assert.Equal(t, 103, n)
				assert.InDelta(t, 10, time.Since(begun).Seconds(), 0.1)
				for i := range starts[:100] {
					assert.GreaterOrEqual(t, starts[i+3].Sub(starts[i]), 99*time.Millisecond)
				}
			})
		})
	}
}

// Without a limit, or with an infinite one, nothing waits.
func TestRateUnlimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, limiter := range []*rate.Limiter{nil, rate.NewLimiter(rate.Inf, 0)} {
			f := fetch.Fetcher{Doer: &script{answers: []fetch.Result{status(200)}}, Rate: limiter}
			begun := time.Now()
			for r := range f.Fetch(t.Context(), hosts(100, 3)) {
				require.True(t, r.OK())
			}
			assert.Zero(t, time.Since(begun))
		}
	})
}

// A limiter may be shared: by runs of one Fetcher, of several, and with code that uses it itself.
func TestRateShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := rate.NewLimiter(10, 1)
		begun := time.Now()
		var wg sync.WaitGroup
		for i := range 3 {
			f := fetch.Fetcher{Doer: &script{answers: []fetch.Result{status(200)}}, Rate: limiter}
			if i == 1 {
				f.Strategy = fetch.Serial{}
			}
			wg.Go(func() {
				for r := range f.Fetch(t.Context(), hosts(30, 3)) {
					assert.True(t, r.OK())
				}
			})
		}
		wg.Go(func() {
			for range 10 {
				assert.NoError(t, limiter.Wait(t.Context()))
			}
		})
		wg.Wait()
		assert.InDelta(t, 9.9, time.Since(begun).Seconds(), 0.01)
	})
}

// Retries count too.
func TestRateOfRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &script{answers: []fetch.Result{status(503)}}
		f := fetch.Fetcher{Doer: d, Rate: rate.NewLimiter(10, 1), Retry: &fetch.Retry{Budget: 10}}
		begun := time.Now()
		n := 0
		for r := range f.Fetch(t.Context(), hosts(20, 3)) {
			assert.Equal(t, 3, r.Attempts)
			n++
		}
		assert.Equal(t, 20, n)
		assert.EqualValues(t, 60, d.calls.Load())
		assert.InDelta(t, 5.9, time.Since(begun).Seconds(), 0.2)
	})
}

// A request that cannot start before the context's deadline fails at once, and says so.
func TestRateDeadline(t *testing.T) {
	for _, s := range append(policyStrategies, fetch.Pool{}) {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &script{answers: []fetch.Result{status(200)}}
				f := fetch.Fetcher{Strategy: s, Doer: d, Rate: rate.NewLimiter(rate.Every(40*time.Second), 1)}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begun := time.Now()
				n, ok := 0, 0
				for r := range f.Fetch(ctx, inputs(50, func(i int) string { return fmt.Sprintf("http://a.test/?%s", secret) })) {
					if n++; r.OK() {
						ok++
						continue
					}
					assert.ErrorIs(t, r.Err, fetch.ErrTimeout)
					assert.ErrorIs(t, r.Err, context.DeadlineExceeded)
					assert.EqualError(t, r.Err, "fetch: http://a.test/: timeout: Fetcher.Rate would not let it start before the context's deadline")
					assert.Zero(t, r.Attempts)
				}
				assert.Equal(t, 50, n)
				assert.Equal(t, 2, ok, "at 0 s and 40 s")
				assert.EqualValues(t, 2, d.calls.Load())
				assert.Equal(t, 40*time.Second, time.Since(begun), "the third would be at 80 s")
			})
		})
	}
}

// A limiter without a burst lets nothing start, ever.
func TestRateNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, p := range []*fetch.PerHost{nil, {}} {
			f := fetch.Fetcher{Doer: &script{answers: []fetch.Result{status(200)}}, Rate: rate.NewLimiter(10, 0), Retry: &fetch.Retry{}, PerHost: p}
			begun := time.Now()
			n := 0
			for r := range f.Fetch(t.Context(), hosts(100, 3)) {
				assert.EqualError(t, r.Err, "fetch: "+r.Request.URL+": timeout: Fetcher.Rate lets no request start: its limit or its burst is 0")
				n++
			}
			assert.Equal(t, 100, n)
			assert.Zero(t, time.Since(begun))
		}
	})
}

// A request that waits for the limiter ends with the context, and what was reserved for it is given back.
func TestRateEnds(t *testing.T) {
	for _, s := range append(policyStrategies, fetch.Pool{}) {
		for _, end := range []string{"cancel", "break"} {
			t.Run(s.String()+" "+end, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					limiter := rate.NewLimiter(rate.Every(time.Hour), 1)
					f := fetch.Fetcher{Strategy: s, Doer: &script{answers: []fetch.Result{status(200)}}, Rate: limiter}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					time.AfterFunc(time.Second, cancel)
					begun := time.Now()
					for r := range f.Fetch(ctx, hosts(100, 3)) {
						if r.OK() {
							if end == "break" {
								break
							}
						} else {
							assert.ErrorIs(t, r.Err, fetch.ErrCanceled)
							assert.Zero(t, r.Attempts)
						}
					}
					if end == "cancel" {
						assert.Equal(t, time.Second, time.Since(begun))
					} else {
						assert.Zero(t, time.Since(begun))
					}
					assert.InDelta(t, time.Since(begun).Hours(), limiter.Tokens(), 1e-6, "one was used")
				})
			})
		}
	}
}
