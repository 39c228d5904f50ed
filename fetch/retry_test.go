package fetch_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// script is a Doer whose answers are these, one after another, the last for ever.
type script struct {
	answers []fetch.Result
	calls   atomic.Int64
}

func (s *script) Do(_ context.Context, r *fetch.Request) fetch.Result {
	n := int(s.calls.Add(1))
	res := s.answers[min(n, len(s.answers))-1]
	res.Request, res.Attempts = r, 1
	return res
}

func status(code int, pairs ...string) fetch.Result {
	res := fetch.Result{Status: code}
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	res.SetHeader(h)
	return res
}

func failure(kind fetch.Kind, cause error) fetch.Result {
	return fetch.Result{Err: &fetch.Error{Kind: kind, URL: "http://a.invalid/", Err: cause}}
}

// What is tried again, and what never is.
func TestRetryWhat(t *testing.T) {
	type outcome struct {
		name  string
		res   fetch.Result
		again bool
	}
	var outcomes []outcome
	for code := 100; code <= 999; code++ {
		again := slices.Contains([]int{408, 425, 429, 500, 502, 503, 504}, code)
		outcomes = append(outcomes, outcome{fmt.Sprint(code), status(code), again})
	}
	noHost := &net.DNSError{Err: "no such host", IsNotFound: true}
	busy := &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	outcomes = append(outcomes,
		outcome{"dial", failure(fetch.ErrDial, nil), true},
		outcome{"reset", failure(fetch.ErrReset, nil), true},
		outcome{"timeout", failure(fetch.ErrTimeout, nil), true},
		outcome{"truncated", failure(fetch.ErrTruncated, nil), true},
		outcome{"temporary DNS", failure(fetch.ErrDNS, busy), true},
		outcome{"no such host", failure(fetch.ErrDNS, noHost), false},
		outcome{"DNS", failure(fetch.ErrDNS, nil), false},
		outcome{"certificate", failure(fetch.ErrTLS, &tls.CertificateVerificationError{}), false},
		outcome{"bad URL", failure(fetch.ErrBadURL, nil), false},
		outcome{"address", failure(fetch.ErrAddress, nil), false},
		outcome{"protocol", failure(fetch.ErrProtocol, nil), false},
		outcome{"too large", failure(fetch.ErrTooLarge, nil), false},
		outcome{"decode", failure(fetch.ErrDecode, nil), false},
		outcome{"redirect", failure(fetch.ErrRedirect, nil), false},
		outcome{"canceled", failure(fetch.ErrCanceled, nil), false},
		outcome{"panic", fetch.Result{Err: &fetch.PanicError{}}, false},
		outcome{"shard", failure(fetch.ErrShard, nil), false},
		outcome{"of no kind", fetch.Result{Err: errors.New("odd")}, false},
		outcome{"files", failure(fetch.ErrDial, syscall.EMFILE), false}, // the Client has waited for that
	)
	synctest.Test(t, func(t *testing.T) {
		for _, o := range outcomes {
			d := &script{answers: []fetch.Result{o.res, status(200)}}
			res := (&fetch.Retry{Doer: d}).Do(t.Context(), &fetch.Request{URL: "http://a.invalid/"})
			want := 1
			if o.again {
				want = 2
				assert.True(t, res.OK(), o.name)
			} else {
				assert.Equal(t, o.res.Err, res.Err, o.name)
				assert.Equal(t, o.res.Status, res.Status, o.name)
			}
			assert.EqualValues(t, want, d.calls.Load(), o.name)
			assert.Equal(t, want, res.Attempts, o.name)
		}
	})
}

// A request that may have had its effect is not sent again.
func TestRetryMethods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for method, again := range map[string]bool{
			"": true, "GET": true, "HEAD": true, "OPTIONS": true, "TRACE": true, "PUT": true, "DELETE": true,
			"POST": false, "PATCH": false, "CONNECT": false, "PROPFIND": false,
		} {
			for _, res := range []fetch.Result{status(503), failure(fetch.ErrReset, nil)} {
				d := &script{answers: []fetch.Result{res}}
				r := (&fetch.Retry{Doer: d}).Do(t.Context(), &fetch.Request{Method: method})
				assert.Equal(t, again, r.Attempts > 1, method)
				key := &script{answers: []fetch.Result{res}}
				r = (&fetch.Retry{Doer: key}).Do(t.Context(), &fetch.Request{Method: method, Header: http.Header{"Idempotency-Key": {"1"}}})
				assert.Equal(t, 3, r.Attempts, method)
			}
		}
	})
}

// How often, and after how long.
func TestRetryWaits(t *testing.T) {
	inAnHour := time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC).Format(http.TimeFormat)
	for _, c := range []struct {
		name        string
		retry       *fetch.Retry
		answer      fetch.Result
		attempts    int
		least, most time.Duration // of all waits together
	}{
		{"default", &fetch.Retry{}, status(500), 3, 0, 300 * time.Millisecond},
		{"Attempts", &fetch.Retry{Attempts: 5}, status(500), 5, 0, 1500 * time.Millisecond},
		{"1 attempt", &fetch.Retry{Attempts: 1}, status(500), 1, 0, 0},
		{"Backoff", &fetch.Retry{Backoff: time.Second}, status(500), 3, 0, 3 * time.Second},
		{"MaxWait", &fetch.Retry{Backoff: time.Minute, MaxWait: time.Second}, status(500), 3, 0, 2 * time.Second},
		{"Retry-After", &fetch.Retry{}, status(503, "Retry-After", "5"), 3, 10 * time.Second, 10200 * time.Millisecond},
		{"Retry-After of 429", &fetch.Retry{}, status(429, "Retry-After", " 5 "), 3, 10 * time.Second, 10200 * time.Millisecond},
		{"Retry-After 0", &fetch.Retry{}, status(503, "Retry-After", "0"), 3, 0, 200 * time.Millisecond},
		{"Retry-After of 500", &fetch.Retry{}, status(500, "Retry-After", "5"), 3, 0, 300 * time.Millisecond},
		{"long Retry-After", &fetch.Retry{}, status(503, "Retry-After", "86400"), 3, 20 * time.Second, 20 * time.Second},
		{"endless Retry-After", &fetch.Retry{}, status(503, "Retry-After", strings.Repeat("9", 100)), 3, 20 * time.Second, 20 * time.Second},
		{"negative Retry-After", &fetch.Retry{}, status(503, "Retry-After", "-5"), 3, 0, 300 * time.Millisecond},
		{"Retry-After of nonsense", &fetch.Retry{}, status(503, "Retry-After", "soon"), 3, 0, 300 * time.Millisecond},
		{"date, clamped", &fetch.Retry{}, status(503, "Retry-After", inAnHour), 3, 20 * time.Second, 20 * time.Second},
		// The server's clock need not be ours.
		{"date by the server's clock", &fetch.Retry{}, status(503, "Retry-After", "Sat, 01 Jan 2050 00:00:05 GMT", "Date", "Sat, 01 Jan 2050 00:00:00 GMT"), 3, 10 * time.Second, 10200 * time.Millisecond},
		{"date that has passed", &fetch.Retry{}, status(503, "Retry-After", "Sat, 01 Jan 1994 00:00:05 GMT"), 3, 0, 200 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &script{answers: []fetch.Result{c.answer}}
				var told []fetch.RetryInfo
				ctx := fetch.WithTrace(t.Context(), &fetch.Trace{Retrying: func(i fetch.RetryInfo) { told = append(told, i) }})
				c.retry.Doer = d
				begun := time.Now()
				res := c.retry.Do(ctx, &fetch.Request{Index: 7, URL: "http://u:p@a.invalid/?" + secret})
				took := time.Since(begun)
				assert.Equal(t, c.attempts, res.Attempts)
				assert.Equal(t, c.answer.Status, res.Status)
				assert.NoError(t, res.Err)
				assert.GreaterOrEqual(t, took, c.least)
				assert.LessOrEqual(t, took, c.most)
				require.Len(t, told, c.attempts-1)
				for i, info := range told {
					took -= info.Wait
					assert.LessOrEqual(t, info.Wait, 10*time.Second)
					info.Wait = 0
					assert.Equal(t, fetch.RetryInfo{Index: 7, URL: "http://a.invalid/", Attempts: i + 1, Status: c.answer.Status}, info)
				}
				assert.Zero(t, took, "not told")
			})
		})
	}
}

// The backoff is random: requests that failed together do not come back together.
func TestRetryJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waits := make(map[time.Duration]bool)
		ctx := fetch.WithTrace(t.Context(), &fetch.Trace{Retrying: func(i fetch.RetryInfo) { waits[i.Wait] = true }})
		for range 50 {
			r := fetch.Retry{Attempts: 2, Doer: &script{answers: []fetch.Result{status(503, "Retry-After", "1")}}}
			r.Do(ctx, &fetch.Request{})
		}
		assert.Greater(t, len(waits), 40)
	})
}

// No wait that ends after the context does: the outcome that there is comes at once.
func TestRetryContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fetch.Retry{Doer: &script{answers: []fetch.Result{status(503, "Retry-After", "5")}}}
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		begun := time.Now()
		res := r.Do(ctx, &fetch.Request{})
		assert.NoError(t, res.Err)
		assert.Equal(t, 503, res.Status)
		assert.Equal(t, 2, res.Attempts)
		assert.Less(t, time.Since(begun), 6*time.Second)

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel)
		begun = time.Now()
		res = r.Do(ctx, &fetch.Request{})
		assert.ErrorIs(t, res.Err, fetch.ErrCanceled)
		assert.Zero(t, res.Status)
		assert.Equal(t, 1, res.Attempts)
		assert.Equal(t, 2*time.Second, time.Since(begun))

		ctx, cancel = context.WithCancel(t.Context())
		d := fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			cancel()
			return failure(fetch.ErrTimeout, nil)
		})
		assert.ErrorIs(t, (&fetch.Retry{Doer: d}).Do(ctx, &fetch.Request{}).Err, fetch.ErrTimeout, "the first attempt's")
	})
}

// A server that always fails sees at most 1.2 times the requests, and the reserve.
func TestRetryBudget(t *testing.T) {
	for _, c := range []struct {
		budget    float64
		n, most   int
		leastMore int
	}{
		{0, 10_000, 12_010, 12_000}, {0.01, 10_000, 10_110, 10_100}, {1, 1000, 2010, 2000}, {10, 1000, 3000, 3000}, {0, 5, 15, 15},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &script{answers: []fetch.Result{status(503)}}
			f := fetch.Fetcher{Doer: &fetch.Retry{Doer: d, Budget: c.budget}}
			attempts := 0
			for r := range f.Get(t.Context(), slices.Repeat([]string{"http://a.invalid/"}, c.n)...) {
				attempts += r.Attempts
				assert.Equal(t, 503, r.Status)
			}
			assert.LessOrEqual(t, attempts, c.most, "%v", c)
			assert.GreaterOrEqual(t, attempts, c.leastMore, "%v", c)
			assert.EqualValues(t, attempts, d.calls.Load())
		})
	}
	// Good times save up for bad ones, but not without end.
	synctest.Test(t, func(t *testing.T) {
		good, bad := &script{answers: []fetch.Result{status(200)}}, &script{answers: []fetch.Result{status(503)}}
		r := &fetch.Retry{Doer: good}
		for range 100_000 {
			r.Do(t.Context(), &fetch.Request{})
		}
		r.Doer = bad
		for range 1000 {
			r.Do(t.Context(), &fetch.Request{})
		}
		assert.LessOrEqual(t, bad.calls.Load(), int64(1000+100+200))
	})
}

// The same over HTTP: that is what arrives at the server.
func TestRetryArrives(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	server := fetchtest.NewServer(t, fetchtest.FailStatus(1, 503))
	f := fetch.Fetcher{Doer: &fetch.Retry{Doer: tidy(t, &fetch.Client{}), Backoff: time.Millisecond}}
	received := 0
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for i := range n {
			if !yield(fetch.Request{URL: server.Ping(i)}) {
				return
			}
		}
	}) {
		require.NoError(t, r.Err)
		received++
	}
	assert.Equal(t, n, received)
	assert.LessOrEqual(t, server.Requests(), n*12/10+100)
	assert.Greater(t, server.Requests(), n*11/10)
}

func TestRetryMisuse(t *testing.T) {
	for text, r := range map[string]*fetch.Retry{
		"fetch: Retry.Attempts is -1":                          {Attempts: -1},
		"fetch: Retry.Budget is -0.1: it must be from 0 to 10": {Budget: -0.1},
		"fetch: Retry.Budget is 20: it must be from 0 to 10":   {Budget: 20},
		"fetch: Retry.Backoff is -1s":                          {Backoff: -time.Second},
		"fetch: Retry.MaxWait is -1s":                          {MaxWait: -time.Second},
	} {
		r.Doer = &script{answers: []fetch.Result{status(200)}}
		for range 2 {
			assert.PanicsWithValue(t, text, func() { r.Do(t.Context(), &fetch.Request{}) })
		}
	}
}

// While a request waits for its next attempt, the strategy has another one performed.
func TestRetryGivesItsPlace(t *testing.T) {
	for _, c := range []struct {
		strategy fetch.Strategy
		took     time.Duration
	}{
		// 4 of 40 wait for 10 s each; the others take 1 s each. 2 at once are 18 s of work.
		{fetch.Pool{Workers: 2}, 0}, {fetch.Semaphore{Limit: 2}, 0}, {fetch.Batch{Limit: 2}, 0},
		// These keep the place, so the waits are in the way.
		{fetch.Threads{Limit: 2}, 30 * time.Second}, {fetch.Serial{}, 76 * time.Second},
	} {
		t.Run(c.strategy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var gauge fetchtest.Gauge
				d := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
					defer gauge.Enter()()
					time.Sleep(time.Second)
					if strings.HasSuffix(r.URL, "/bad") {
						return status(503, "Retry-After", "9")
					}
					return status(200)
				})
				f := fetch.Fetcher{Strategy: c.strategy, Doer: &fetch.Retry{Doer: d, Attempts: 2, Backoff: 1}}
				var good, all time.Duration
				begun := time.Now()
				n := 0
				for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
					for i := range 40 {
						u := "http://a.invalid/good"
						if i%20 < 2 {
							u = "http://a.invalid/bad"
						}
						if !yield(fetch.Request{URL: u}) {
							return
						}
					}
				}) {
					n++
					all = time.Since(begun)
					if r.OK() {
						good = all
					}
				}
				assert.Equal(t, 40, n)
				inFlight, _ := c.strategy.(fetch.Bounded).Bounds()
				assert.LessOrEqual(t, gauge.Peak(), inFlight, "requests under way")
				if c.took > 0 {
					assert.GreaterOrEqual(t, good, c.took)
				} else {
					assert.LessOrEqual(t, good, 24*time.Second)
				}
			})
		})
	}
}

// Waiting requests end at once with the loop, by whatever it ends, and with the context.
func TestRetryEnds(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Serial{}, fetch.Threads{Limit: 4}, fetch.Pool{Workers: 4}, fetch.Semaphore{Limit: 4}, fetch.Batch{Limit: 4}} {
		for _, end := range []string{"break", "cancel"} {
			t.Run(s.String()+" "+end, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
						if r.Index == 0 {
							return status(200)
						}
						return status(503, "Retry-After", "9")
					})
					doer := &fetch.PerHost{Limit: 100, Doer: &fetch.Retry{Doer: fetch.Rate{Doer: d, Limit: rate.NewLimiter(1000, 1)}, Budget: 10}}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					f := fetch.Fetcher{Strategy: s, Doer: doer}
					begun := time.Now()
					seen := make(map[int]bool)
					for r := range f.Fetch(ctx, func(yield func(fetch.Request) bool) {
						for i := range 1000 {
							if !yield(fetch.Request{URL: fmt.Sprintf("http://%d.invalid/", i%10)}) {
								return
							}
						}
					}) {
						seen[r.Request.Index] = true
						if r.Request.Index == 0 && end == "break" {
							break
						}
						if r.Request.Index == 0 {
							cancel()
						}
						if r.Request.Index > 0 {
							assert.ErrorIs(t, r.Err, fetch.ErrCanceled)
						}
					}
					assert.Less(t, time.Since(begun), 100*time.Millisecond)
					assert.NotEmpty(t, seen)
				})
			})
		}
	}
}
