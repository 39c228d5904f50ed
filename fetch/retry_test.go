package fetch_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
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

// script is a Doer whose responses are these, one after another, and then the last for ever.
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

// status returns a response with this status and header.
func status(code int, pairs ...string) fetch.Result {
	res := fetch.Result{Status: code, Attempts: 1}
	if len(pairs) > 0 {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		res.SetHeader(func() http.Header { return h })
	}
	return res
}

// failure returns an attempt that ended in an error of this kind.
func failure(kind fetch.Kind, cause error) fetch.Result {
	return fetch.Result{Attempts: 1, Err: &fetch.Error{Kind: kind, URL: "http://a.invalid/", Err: cause}}
}

// inputs yields n requests, the i-th for url(i).
func inputs(n int, url func(i int) string) iter.Seq[fetch.Request] {
	return func(yield func(fetch.Request) bool) {
		for i := range n {
			if !yield(fetch.Request{URL: url(i)}) {
				return
			}
		}
	}
}

// fetchOne returns the result of one request, the only one of a run of f.
func fetchOne(ctx context.Context, f *fetch.Fetcher, r fetch.Request) (last fetch.Result) {
	for res := range f.Fetch(ctx, func(yield func(fetch.Request) bool) { yield(r) }) {
		last = res
	}
	return last
}

// eventsOf returns a Fetcher's Trace that appends the events of these kinds to list.
func eventsOf(list *[]fetch.Event, kinds ...fetch.EventKind) func(fetch.Event) {
	return func(e fetch.Event) {
		if slices.Contains(kinds, e.Kind) {
			*list = append(*list, e)
		}
	}
}

// Retry sends again what may succeed then, and nothing else.
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
	late := &net.DNSError{Err: "i/o timeout", IsTimeout: true}
	outcomes = append(outcomes,
		outcome{"dial", failure(fetch.ErrDial, nil), true},
		outcome{"reset", failure(fetch.ErrReset, nil), true},
		outcome{"timeout", failure(fetch.ErrTimeout, nil), true},
		outcome{"truncated", failure(fetch.ErrTruncated, nil), true},
		outcome{"temporary DNS", failure(fetch.ErrDNS, busy), true},
		outcome{"DNS timeout", failure(fetch.ErrDNS, late), true},
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
		outcome{"lost", failure(fetch.ErrLost, nil), false},
		outcome{"of no kind", fetch.Result{Err: errors.New("odd")}, false},
		outcome{"files", failure(fetch.ErrDial, syscall.EMFILE), false}, // the engine has waited for that
	)
	synctest.Test(t, func(t *testing.T) {
		for _, o := range outcomes {
			d := &script{answers: []fetch.Result{o.res, status(200)}}
			f := fetch.Fetcher{Doer: d, Retry: &fetch.Retry{}}
			res := fetchOne(t.Context(), &f, fetch.Request{URL: "http://a.invalid/"})
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
			"get": true, "Head": true, "put": true, "Delete": true,
			"POST": false, "PATCH": false, "CONNECT": false, "PROPFIND": false, "post": false,
		} {
			for _, res := range []fetch.Result{status(503), failure(fetch.ErrReset, nil), failure(fetch.ErrDial, nil)} {
				f := fetch.Fetcher{Doer: &script{answers: []fetch.Result{res}}, Retry: &fetch.Retry{}}
				r := fetchOne(t.Context(), &f, fetch.Request{Method: method})
				want := 1
				if again {
					want = 3
				}
				assert.Equal(t, want, r.Attempts, method)
				for _, name := range []string{"Idempotency-Key", "idempotency-key"} {
					r = fetchOne(t.Context(), &f, fetch.Request{Method: method, Header: http.Header{name: {"1"}}})
					assert.Equal(t, 3, r.Attempts, "%s with %s", method, name)
				}
			}
		}
	})
}

// Retry waits for as long as its fields and the server say, and tells of each wait.
func TestRetryWaits(t *testing.T) {
	inAnHour := time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC).Format(http.TimeFormat)
	for _, c := range []struct {
		name        string
		retry       fetch.Retry
		answer      fetch.Result
		attempts    int
		least, most time.Duration // of all waits together
	}{
		{"default", fetch.Retry{}, status(500), 3, 0, 300 * time.Millisecond},
		{"Attempts", fetch.Retry{Attempts: 5}, status(500), 5, 0, 1500 * time.Millisecond},
		{"1 attempt", fetch.Retry{Attempts: 1}, status(500), 1, 0, 0},
		{"Backoff", fetch.Retry{Backoff: time.Second}, status(500), 3, 0, 3 * time.Second},
		{"MaxWait", fetch.Retry{Backoff: time.Minute, MaxWait: time.Second}, status(500), 3, 0, 2 * time.Second},
		{"Retry-After", fetch.Retry{}, status(503, "Retry-After", "5"), 3, 10 * time.Second, 10200 * time.Millisecond},
		{"Retry-After of 429", fetch.Retry{}, status(429, "Retry-After", " 5 "), 3, 10 * time.Second, 10200 * time.Millisecond},
		{"Retry-After 0", fetch.Retry{}, status(503, "Retry-After", "0"), 3, 0, 200 * time.Millisecond},
		{"Retry-After of 500", fetch.Retry{}, status(500, "Retry-After", "5"), 3, 0, 300 * time.Millisecond},
		{"long Retry-After", fetch.Retry{}, status(503, "Retry-After", "86400"), 3, 20 * time.Second, 20 * time.Second},
		{"endless Retry-After", fetch.Retry{}, status(503, "Retry-After", strings.Repeat("9", 100)), 3, 20 * time.Second, 20 * time.Second},
		{"negative Retry-After", fetch.Retry{}, status(503, "Retry-After", "-5"), 3, 0, 300 * time.Millisecond},
		{"Retry-After of nonsense", fetch.Retry{}, status(503, "Retry-After", "soon"), 3, 0, 300 * time.Millisecond},
		{"date, clamped", fetch.Retry{}, status(503, "Retry-After", inAnHour), 3, 20 * time.Second, 20 * time.Second},
		// The server's clock need not be ours.
		{"date by the server's clock", fetch.Retry{}, status(503, "Retry-After", "Sat, 01 Jan 2050 00:00:05 GMT", "Date", "Sat, 01 Jan 2050 00:00:00 GMT"), 3, 10 * time.Second, 10200 * time.Millisecond},
		{"date that has passed", fetch.Retry{}, status(503, "Retry-After", "Sat, 01 Jan 1994 00:00:05 GMT"), 3, 0, 200 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told []fetch.Event
				f := fetch.Fetcher{Doer: &script{answers: []fetch.Result{c.answer}}, Retry: &c.retry, Trace: eventsOf(&told, fetch.EventRetry)}
				begun := time.Now()
				res := fetchOne(t.Context(), &f, fetch.Request{Tag: "mine", URL: "http://u:p@a.invalid/?" + secret})
				took := time.Since(begun)
				assert.Equal(t, c.attempts, res.Attempts)
				assert.Equal(t, c.answer.Status, res.Status)
				assert.NoError(t, res.Err)
				assert.GreaterOrEqual(t, took, c.least)
				assert.LessOrEqual(t, took, c.most)
				require.Len(t, told, c.attempts-1)
				for i, e := range told {
					took -= e.Duration
					assert.LessOrEqual(t, e.Duration, 10*time.Second)
					assert.NotContains(t, e.String(), secret)
					assert.Equal(t, "mine", e.Request.Tag)
					e.Duration, e.Request = 0, nil
					assert.Equal(t, fetch.Event{Kind: fetch.EventRetry, Attempts: i + 1, Status: c.answer.Status}, e)
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
		f := fetch.Fetcher{
			Doer:  &script{answers: []fetch.Result{status(503, "Retry-After", "1")}},
			Retry: &fetch.Retry{Attempts: 2, Budget: 10},
			Trace: func(e fetch.Event) {
				if e.Kind == fetch.EventRetry {
					waits[e.Duration] = true
				}
			},
		}
		for range f.Get(t.Context(), slices.Repeat([]string{"http://a.invalid/"}, 50)...) {
		}
		assert.Greater(t, len(waits), 40)
	})
}

// Retry does not wait past the context's deadline: the outcome that there is comes at once.
func TestRetryContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fetch.Fetcher{Doer: &script{answers: []fetch.Result{status(503, "Retry-After", "5")}}, Retry: &fetch.Retry{}}
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		begun := time.Now()
		res := fetchOne(ctx, &f, fetch.Request{})
		assert.NoError(t, res.Err)
		assert.Equal(t, 503, res.Status)
		assert.Equal(t, 2, res.Attempts)
		assert.Less(t, time.Since(begun), 6*time.Second)

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel)
		begun = time.Now()
		res = fetchOne(ctx, &f, fetch.Request{})
		assert.ErrorIs(t, res.Err, fetch.ErrCanceled)
		assert.Zero(t, res.Status)
		assert.Equal(t, 1, res.Attempts)
		assert.Equal(t, 2*time.Second, time.Since(begun))

		ctx, cancel = context.WithCancel(t.Context())
		f.Doer = fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			cancel()
			return failure(fetch.ErrTimeout, nil)
		})
		assert.ErrorIs(t, fetchOne(ctx, &f, fetch.Request{}).Err, fetch.ErrTimeout, "the first attempt's")
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
			f := fetch.Fetcher{Doer: d, Retry: &fetch.Retry{Budget: c.budget}}
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
		var bad atomic.Int64
		f := fetch.Fetcher{Strategy: fetch.Serial{}, Retry: &fetch.Retry{}, Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			if r.Index < 100_000 {
				return status(200)
			}
			bad.Add(1)
			return status(503)
		})}
		for range f.Fetch(t.Context(), inputs(101_000, func(int) string { return "http://a.invalid/" })) {
		}
		assert.InDelta(t, 1000+10+90+200, bad.Load(), 1, "reserve, savings, and what the bad ones have earned")
	})
	// The budget is of one run: the next begins with a new one.
	synctest.Test(t, func(t *testing.T) {
		f := fetch.Fetcher{Doer: &script{answers: []fetch.Result{status(503)}}, Retry: &fetch.Retry{}}
		for range f.Get(t.Context(), slices.Repeat([]string{"http://a.invalid/"}, 100)...) {
		}
		assert.Equal(t, 3, fetchOne(t.Context(), &f, fetch.Request{}).Attempts)
	})
}

// The budget holds for what arrives at a server.
func TestRetryArrives(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	server := fetchtest.NewServer(t, fetchtest.FailStatus(1, 503))
	f := fetch.Fetcher{Doer: tidy(t, &fetch.Client{}), Retry: &fetch.Retry{Backoff: time.Millisecond}}
	received := 0
	for r := range f.Fetch(t.Context(), inputs(n, server.Ping)) {
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
		"fetch: Retry.Attempts is 1001: at most 1000":          {Attempts: 1001},
		"fetch: Retry.Budget is -0.1: it must be from 0 to 10": {Budget: -0.1},
		"fetch: Retry.Budget is 20: it must be from 0 to 10":   {Budget: 20},
		"fetch: Retry.Backoff is -1s":                          {Backoff: -time.Second},
		"fetch: Retry.MaxWait is -1s":                          {MaxWait: -time.Second},
	} {
		f := fetch.Fetcher{Retry: r, Doer: &script{answers: []fetch.Result{status(200)}}}
		for range 2 {
			assert.PanicsWithValue(t, text, func() { f.Get(t.Context(), "http://a.invalid/") })
			assert.PanicsWithValue(t, text, func() { f.Stream(t.Context(), make(chan fetch.Request)) })
			assert.PanicsWithValue(t, text, func() { f.FetchQueue(t.Context(), new(fetch.Queue)) })
		}
	}
}

// While a request waits for its next attempt, the strategy has another one performed.
func TestRetryGivesItsPlace(t *testing.T) {
	for _, c := range []struct {
		strategy    fetch.Strategy
		least, most time.Duration
	}{
		// 4 of 40 wait for 9 s each; each attempt takes 1 s. 2 at once are 22 s of work.
		{fetch.Pool{Workers: 2}, 0, 24 * time.Second},
		{fetch.Semaphore{Limit: 2}, 0, 24 * time.Second},
		{fetch.Threads{Limit: 2}, 0, 24 * time.Second},
		{fetch.Pipeline{Limit: 2}, 0, 24 * time.Second},
		{fetch.Batch{Each: fetch.Pool{Workers: 2}}, 0, 24 * time.Second},
		// It takes one request at a time, so that the waits are in the way.
		{fetch.Serial{}, 76 * time.Second, 81 * time.Second},
	} {
		t.Run(c.strategy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var gauge fetchtest.Gauge
				f := fetch.Fetcher{Strategy: c.strategy, Retry: &fetch.Retry{Attempts: 2, Backoff: 1}}
				f.Doer = gauge.Doer(fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
					time.Sleep(time.Second)
					if strings.HasSuffix(r.URL, "/bad") {
						return status(503, "Retry-After", "9")
					}
					return status(200)
				}))
				var good time.Duration
				begun := time.Now()
				n := 0
				for r := range f.Fetch(t.Context(), inputs(40, func(i int) string {
					if i%20 < 2 {
						return "http://a.invalid/bad"
					}
					return "http://a.invalid/good"
				})) {
					n++
					if r.OK() {
						good = time.Since(begun)
					}
				}
				assert.Equal(t, 40, n)
				assert.LessOrEqual(t, gauge.Peak(), c.strategy.Limits().InFlight, "requests under way")
				assert.GreaterOrEqual(t, good, c.least)
				assert.LessOrEqual(t, good, c.most)
			})
		})
	}
}

// policyStrategies are those that the tests of policies run with.
var policyStrategies = []fetch.Strategy{
	fetch.Serial{}, fetch.Threads{Limit: 4}, fetch.Pool{Workers: 4}, fetch.Semaphore{Limit: 4},
	fetch.Pipeline{Limit: 4, Depth: 2}, fetch.Batch{Each: fetch.Pool{Workers: 4}}, fetch.Batch{Size: 10, Each: fetch.Serial{}},
}

// Requests that wait for a policy end at once with the loop, whatever ends it, and with the context.
func TestRetryEnds(t *testing.T) {
	for _, s := range policyStrategies {
		for _, end := range []string{"break", "cancel"} {
			t.Run(s.String()+" "+end, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := fetch.Fetcher{
						Strategy: s,
						Retry:    &fetch.Retry{Budget: 10},
						PerHost:  &fetch.PerHost{Limit: 100},
						Rate:     rate.NewLimiter(1000, 1),
						Doer: fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
							if r.Index == 0 {
								return status(200)
							}
							return status(503, "Retry-After", "9")
						}),
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					begun := time.Now()
					taken := 0
					seen := make(map[int]bool)
					for r := range f.Fetch(ctx, inputs(1000, func(i int) string {
						taken++
						return fmt.Sprintf("http://%d.invalid/", i%10)
					})) {
						assert.False(t, seen[r.Request.Index], "another result")
						seen[r.Request.Index] = true
						if r.Request.Index == 0 && end == "break" {
							break
						}
						if r.Request.Index == 0 {
							cancel()
						}
						if r.Request.Index > 0 && r.Status != 503 { // the last outcome, or none
							assert.ErrorIs(t, r.Err, fetch.ErrCanceled)
						}
					}
					assert.Less(t, time.Since(begun), 100*time.Millisecond)
					if end == "cancel" {
						assert.Len(t, seen, taken)
					}
					assert.NotEmpty(t, seen)
				})
			})
		}
	}
}
