package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"
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

// hosts yields n requests for so many hosts in turn: http://0.test/, http://1.test/, …
func hosts(n, hosts int) iter.Seq[fetch.Request] {
	return func(yield func(fetch.Request) bool) {
		for i := range n {
			if !yield(fetch.Request{URL: fmt.Sprintf("http://%d.test/", i%hosts)}) {
				return
			}
		}
	}
}

func okay(res fetch.Result) bool { return res.OK() }

// byHost is a Doer that keeps a gauge, and the times of the beginnings, for each host.
type byHost struct {
	do     func(ctx context.Context, r *fetch.Request) fetch.Result
	mu     sync.Mutex
	gauges map[string]*fetchtest.Gauge
	begun  map[string][]time.Time
}

func (d *byHost) Do(ctx context.Context, r *fetch.Request) fetch.Result {
	host := strings.Split(r.URL, "/")[2]
	d.mu.Lock()
	if d.gauges == nil {
		d.gauges, d.begun = make(map[string]*fetchtest.Gauge), make(map[string][]time.Time)
	}
	if d.gauges[host] == nil {
		d.gauges[host] = new(fetchtest.Gauge)
	}
	g := d.gauges[host]
	d.begun[host] = append(d.begun[host], time.Now())
	d.mu.Unlock()
	defer g.Enter()()
	return d.do(ctx, r)
}

// At most Limit at a host, and as many as that; and all of what the strategy has for all hosts.
func TestPerHostLimit(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Pool{Workers: 20}, fetch.Semaphore{Limit: 20}, fetch.Threads{Limit: 20}} {
		for _, c := range []struct{ limit, want int }{{0, 8}, {1, 1}, {3, 3}} {
			t.Run(fmt.Sprint(s, c.limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var all fetchtest.Gauge
					d := &byHost{do: func(_ context.Context, r *fetch.Request) fetch.Result {
						defer all.Enter()()
						time.Sleep(time.Second)
						return status(200)
					}}
					n := 0
					for r := range (&fetch.Fetcher{Strategy: s, Doer: &fetch.PerHost{Doer: d, Limit: c.limit}}).Fetch(t.Context(), hosts(400, 4)) {
						require.True(t, r.OK())
						n++
					}
					assert.Equal(t, 400, n)
					for host, g := range d.gauges {
						peak := min(c.want, 5) // 20 among 4 hosts
						assert.GreaterOrEqual(t, g.Peak(), peak, host)
						assert.LessOrEqual(t, g.Peak(), c.want, host)
					}
					assert.LessOrEqual(t, all.Peak(), 20)
				})
			})
		}
	}
}

// Requests of a host begin Spacing apart; those of others do not wait for that.
func TestPerHostSpacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &byHost{do: func(context.Context, *fetch.Request) fetch.Result {
			time.Sleep(300 * time.Millisecond)
			return status(200)
		}}
		begun := time.Now()
		f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: &fetch.PerHost{Doer: d, Spacing: 100 * time.Millisecond}}
		for r := range f.Fetch(t.Context(), hosts(100, 10)) {
			require.True(t, r.OK())
		}
		for host, times := range d.begun {
			require.Len(t, times, 10)
			for i := range times[1:] {
				assert.GreaterOrEqual(t, times[i+1].Sub(times[i]), 100*time.Millisecond, host)
			}
		}
		// 100 of 300 ms, 8 at once, are 3.75 s.
		assert.Less(t, time.Since(begun), 6*time.Second)
	})
}

// A host that asks to be left alone is, and others are not.
func TestPerHostParks(t *testing.T) {
	for _, c := range []struct {
		answer  fetch.Result
		maxPark time.Duration
		want    time.Duration
	}{
		{status(503, "Retry-After", "5"), 0, 5 * time.Second},
		{status(429, "Retry-After", "5"), 0, 5 * time.Second},
		{status(503, "Retry-After", "86400"), 0, time.Minute},
		{status(503, "Retry-After", "5"), time.Second, time.Second},
		{status(503), 0, 0},
		{status(429, "Retry-After", "soon"), 0, 0},
		{status(500, "Retry-After", "5"), 0, 0},
		{status(200, "Retry-After", "5"), 0, 0},
	} {
		t.Run(fmt.Sprint(c.answer.Status, c.answer.Header(), c.maxPark), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := true
				p := &fetch.PerHost{MaxPark: c.maxPark, Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
					if first {
						first = false
						return c.answer
					}
					return status(200)
				})}
				get(t, p, "http://a.test/")
				begun := time.Now()
				assert.True(t, okay(get(t, p, "http://b.test/")))
				assert.Zero(t, time.Since(begun), "another host")
				assert.True(t, okay(get(t, p, "http://a.test/")))
				assert.Equal(t, c.want, time.Since(begun))
				assert.True(t, okay(get(t, p, "http://a.test/")))
				assert.Equal(t, c.want, time.Since(begun), "once it is over")
			})
		})
	}
}

// A dead host among 100, of which each request takes its timeout, must not slow the others down.
func TestPerHostDeadHost(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Pool{}, fetch.Semaphore{}, fetch.Batch{Size: 100_000}} {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				others := func(dead bool) time.Duration {
					d := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
						if dead && r.URL == "http://17.test/" {
							time.Sleep(10 * time.Second)
							return failure(fetch.ErrTimeout, nil)
						}
						time.Sleep(50 * time.Millisecond)
						return status(200)
					})
					begun := time.Now()
					var last time.Duration
					n := 0
					for r := range (&fetch.Fetcher{Strategy: s, Doer: &fetch.PerHost{Doer: d}}).Fetch(t.Context(), hosts(100_000, 100)) {
						n++
						if r.OK() {
							last = time.Since(begun)
						} else {
							require.ErrorIs(t, r.Err, fetch.ErrTimeout)
						}
					}
					assert.Equal(t, 100_000, n)
					return last
				}
				healthy, slowed := others(false), others(true)
				assert.LessOrEqual(t, slowed.Seconds(), 1.2*healthy.Seconds())
			})
		})
	}
}

// A host that is down costs nothing, and is found again when it is back.
func TestPerHostDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := false
		calls := 0
		p := &fetch.PerHost{Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			calls++
			time.Sleep(time.Second)
			if back {
				return status(200)
			}
			return failure(fetch.ErrDial, syscall.ECONNREFUSED)
		})}
		for range 3 {
			res := get(t, p, "http://a.test/")
			assert.ErrorIs(t, res.Err, syscall.ECONNREFUSED)
		}
		down := func() bool {
			t.Helper()
			begun := time.Now()
			res := get(t, p, "http://a.test/path?"+secret)
			if res.Attempts == 0 && time.Since(begun) == 0 {
				assert.Equal(t, fetch.ErrDial, fetch.KindOf(res.Err))
				assert.ErrorIs(t, res.Err, syscall.ECONNREFUSED)
				assert.ErrorContains(t, res.Err, "http://a.test/path: dial: the host is down")
				assert.NotContains(t, res.Err.Error(), secret)
				return true
			}
			return false
		}
		assert.Equal(t, 3, calls)
		for _, pause := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			time.Sleep(pause*time.Second - 1)
			require.True(t, down(), "not yet tried again, after %v s", pause)
			time.Sleep(time.Nanosecond)
			require.False(t, down(), "tried again, after %v s", pause)
		}
		time.Sleep(time.Minute)
		back = true
		assert.True(t, okay(get(t, p, "http://a.test/")))
		assert.True(t, okay(get(t, p, "http://a.test/")))
	})
}

// One request at a time finds out whether a host is back, and one that is canceled is no proof.
func TestPerHostProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := true
		var gauge fetchtest.Gauge
		p := &fetch.PerHost{Doer: gauge.Doer(fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
			select {
			case <-time.After(10 * time.Second):
			case <-ctx.Done():
			}
			if dead {
				return failure(fetch.ErrTimeout, nil)
			}
			return status(200)
		}))}
		var wg sync.WaitGroup
		for range 20 { // 8 at once, and 12 that wait
			wg.Go(func() { assert.ErrorIs(t, get(t, p, "http://a.test/").Err, fetch.ErrTimeout) })
		}
		wg.Wait()
		assert.Equal(t, 10, gauge.Total(), "8 at once, and what began before the third failed")
		time.Sleep(time.Second)
		for range 20 {
			wg.Go(func() { assert.ErrorIs(t, get(t, p, "http://a.test/").Err, fetch.ErrTimeout) })
		}
		wg.Wait()
		assert.Equal(t, 11, gauge.Total())

		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p.Do(ctx, &fetch.Request{URL: "http://a.test/"})
		assert.Equal(t, 12, gauge.Total())
		dead = false
		assert.True(t, okay(get(t, p, "http://a.test/")), "the next one is the probe")
	})
}

// What means that a host is down, and what does not.
func TestPerHostSignsOfDeath(t *testing.T) {
	timeoutInBody := failure(fetch.ErrTimeout, nil)
	timeoutInBody.Status = 200
	afterRedirect := failure(fetch.ErrDial, nil)
	afterRedirect.Status = 302
	for name, c := range map[string]struct {
		failures int
		answers  []fetch.Result
		down     bool
	}{
		"dial":                {0, []fetch.Result{failure(fetch.ErrDial, nil)}, true},
		"DNS":                 {0, []fetch.Result{failure(fetch.ErrDNS, nil)}, true},
		"timeout":             {0, []fetch.Result{failure(fetch.ErrTimeout, nil)}, true},
		"timeout in a body":   {0, []fetch.Result{timeoutInBody}, false},
		"after a redirect":    {0, []fetch.Result{afterRedirect}, false},
		"reset":               {0, []fetch.Result{failure(fetch.ErrReset, nil)}, false},
		"TLS":                 {0, []fetch.Result{failure(fetch.ErrTLS, nil)}, false},
		"protocol":            {0, []fetch.Result{failure(fetch.ErrProtocol, nil)}, false},
		"500":                 {0, []fetch.Result{status(500)}, false},
		"a bare kind":         {0, []fetch.Result{{Err: fetch.ErrTimeout}}, true},
		"a wrapped one":       {0, []fetch.Result{{Err: fmt.Errorf("odd: %w", fetch.ErrDial)}}, true},
		"an error of no kind": {0, []fetch.Result{{Err: errors.New("odd")}}, false},
		"bad URL":             {0, []fetch.Result{failure(fetch.ErrBadURL, nil)}, false},
		"files":               {0, []fetch.Result{failure(fetch.ErrDial, syscall.EMFILE)}, false},
		"not in a row":        {0, []fetch.Result{failure(fetch.ErrDial, nil), failure(fetch.ErrDial, nil), status(500), failure(fetch.ErrDial, nil), failure(fetch.ErrDial, nil)}, false},
		"others in between":   {0, []fetch.Result{failure(fetch.ErrDial, nil), failure(fetch.ErrBadURL, nil), failure(fetch.ErrDial, nil), failure(fetch.ErrDial, nil)}, true},
		"fewer than allowed":  {6, []fetch.Result{failure(fetch.ErrDial, nil)}, false},
		"never":               {-1, []fetch.Result{failure(fetch.ErrDial, nil)}, false},
		"one is enough":       {1, []fetch.Result{failure(fetch.ErrDial, nil), status(200)}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &fetch.PerHost{Failures: c.failures, Doer: &script{answers: c.answers}}
			var last fetch.Result
			for range 5 {
				last = get(t, p, "http://a.test/")
			}
			assert.Equal(t, c.down, last.Err != nil && last.Attempts == 0, name)
		})
	}
	// That a limiter lets a request through too late says nothing about the host. Nor does another PerHost.
	for name, d := range map[string]fetch.Doer{
		"Rate":    fetch.Rate{Limit: rate.NewLimiter(0, 0)},
		"PerHost": &fetch.PerHost{Failures: 1, Doer: &script{answers: []fetch.Result{failure(fetch.ErrDial, nil)}}},
	} {
		p := &fetch.PerHost{Doer: d}
		for range 10 {
			res := get(t, p, "http://a.test/")
			assert.Error(t, res.Err)
			assert.NotContains(t, res.Err.Error(), "3 times", name)
			assert.Equal(t, name == "PerHost", strings.Contains(res.Err.Error(), "1 times") || res.Attempts == 1, name)
		}
	}
}

// How a URL writes its host does not matter.
func TestPerHostKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			a, b string
			same bool
		}{
			{"http://a.test/", "http://a.test", true},
			{"http://a.test/x", "http://a.test?y", true},
			{"http://a.test/", "http://A.Test:80/", true},
			{"http://a.test/", "HTTP://user:pass@a.test.:/", true},
			{"http://a.test/", "http://a.test#part", true},
			{"https://a.test/", "https://a.test:443/", true},
			{"http://a.test:443/", "https://a.test/", true},
			{"http://[::1]/", "http://[::1]:80/", true},
			{"http://[::1]/", "http://[::2]/", false},
			{"http://a.test/", "https://a.test/", false},
			{"http://a.test/", "http://a.test:81/", false},
			{"http://a.test/", "http://b.a.test/", false},
			{"http://a.test/@b.test", "http://b.test/", false},
		} {
			p := &fetch.PerHost{Doer: &script{answers: []fetch.Result{status(503, "Retry-After", "5"), status(200)}}}
			get(t, p, c.a)
			begun := time.Now()
			get(t, p, c.b)
			assert.Equal(t, c.same, time.Since(begun) > 0, "%s %s", c.a, c.b)
		}
		// What is no URL is for the Doer to refuse.
		p := &fetch.PerHost{Doer: tidy(t, &fetch.Client{})}
		for _, u := range []string{"", "a", "://", "http://", "http://[", "@", "http://:/", "ftp://a.test/"} {
			assert.ErrorIs(t, get(t, p, u).Err, fetch.ErrBadURL, u)
		}
	})
}

// A panic in the Doer, or its Goexit, gives the host's place back.
func TestPerHostPanics(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 4}, Doer: &fetch.PerHost{Limit: 1, Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
		switch r.Index % 3 {
		case 0:
			panic("odd")
		case 1:
			runtime.Goexit()
		}
		return status(200)
	})}}
	n, failed := 0, 0
	for r := range f.Fetch(t.Context(), hosts(99, 1)) {
		n++
		if r.Err != nil {
			assert.ErrorIs(t, r.Err, fetch.ErrPanic)
			failed++
		}
	}
	assert.Equal(t, 99, n)
	assert.Equal(t, 66, failed)
}

// Whoever waits for a host ends with the context, and leaves the others in their order.
func TestPerHostCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fetch.PerHost{Limit: 1, Spacing: time.Second, Doer: fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result { return status(200) })}
		begun := time.Now()
		var mu sync.Mutex
		var ended []time.Duration
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				ctx, cancel := t.Context(), func() {}
				if i%2 == 1 {
					ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
				}
				defer cancel()
				res := p.Do(ctx, &fetch.Request{URL: "http://a.test/"})
				if i%2 == 1 {
					assert.ErrorIs(t, res.Err, fetch.ErrTimeout)
					assert.Equal(t, 500*time.Millisecond, time.Since(begun))
				} else {
					assert.NoError(t, res.Err)
					mu.Lock()
					defer mu.Unlock()
					ended = append(ended, time.Since(begun))
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		assert.Equal(t, []time.Duration{0, time.Second, 2 * time.Second}, ended)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		assert.ErrorIs(t, p.Do(ctx, &fetch.Request{URL: "http://b.test/"}).Err, fetch.ErrCanceled)
	})
}

func TestPerHostMisuse(t *testing.T) {
	for text, p := range map[string]*fetch.PerHost{
		"fetch: PerHost.Limit is -1":    {Limit: -1},
		"fetch: PerHost.Spacing is -1s": {Spacing: -time.Second},
		"fetch: PerHost.MaxPark is -1s": {MaxPark: -time.Second},
	} {
		assert.PanicsWithValue(t, text, func() { p.Do(t.Context(), &fetch.Request{}) })
	}
}

// A Rate lets through what its limiter does.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &script{answers: []fetch.Result{status(200)}}
		f := fetch.Fetcher{Doer: fetch.Rate{Doer: d, Limit: rate.NewLimiter(10, 1)}}
		begun := time.Now()
		for r := range f.Fetch(t.Context(), hosts(101, 3)) {
			require.True(t, r.OK())
		}
		assert.InDelta(t, 10, time.Since(begun).Seconds(), 0.01)

		f.Doer = fetch.Rate{Doer: d}
		begun = time.Now()
		for r := range f.Fetch(t.Context(), hosts(100, 3)) {
			require.True(t, r.OK())
		}
		assert.Zero(t, time.Since(begun), "without a limit")

		slow := fetch.Rate{Doer: d, Limit: rate.NewLimiter(rate.Every(time.Hour), 1)}
		get(t, slow, "http://a.test/")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun = time.Now()
		res := slow.Do(ctx, &fetch.Request{URL: "http://a.test/?" + secret})
		assert.ErrorIs(t, res.Err, fetch.ErrTimeout)
		assert.NotContains(t, res.Err.Error(), secret)
		assert.Zero(t, time.Since(begun), "it cannot come in time")

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		begun = time.Now()
		assert.ErrorIs(t, slow.Do(ctx, &fetch.Request{}).Err, fetch.ErrCanceled)
		assert.Equal(t, time.Second, time.Since(begun))
	})
}

// The three of them go together in any order.
func TestDoersCompose(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.FailStatus(0.1, 503))
	client := tidy(t, &fetch.Client{})
	limit := rate.NewLimiter(rate.Inf, 0)
	for name, d := range map[string]fetch.Doer{
		"Retry PerHost Rate": &fetch.Retry{Backoff: 1, Doer: &fetch.PerHost{Doer: fetch.Rate{Limit: limit, Doer: client}}},
		"Retry Rate PerHost": &fetch.Retry{Backoff: 1, Doer: fetch.Rate{Limit: limit, Doer: &fetch.PerHost{Doer: client}}},
		"PerHost Retry Rate": &fetch.PerHost{Doer: &fetch.Retry{Backoff: 1, Doer: fetch.Rate{Limit: limit, Doer: client}}},
		"PerHost Rate Retry": &fetch.PerHost{Doer: fetch.Rate{Limit: limit, Doer: &fetch.Retry{Backoff: 1, Doer: client}}},
		"Rate Retry PerHost": fetch.Rate{Limit: limit, Doer: &fetch.Retry{Backoff: 1, Doer: &fetch.PerHost{Doer: client}}},
		"Rate PerHost Retry": fetch.Rate{Limit: limit, Doer: &fetch.PerHost{Doer: &fetch.Retry{Backoff: 1, Doer: client}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := fetch.Fetcher{Doer: d, Ordered: true}
			n := 0
			for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
				for i := range 500 {
					if !yield(fetch.Request{URL: server.Ping(i)}) {
						return
					}
				}
			}) {
				require.Equal(t, n, r.Request.Index)
				require.NoError(t, r.Err)
				require.Contains(t, []int{200, 503}, r.Status)
				require.Equal(t, r.Status == 503, r.Attempts > 1)
				n++
			}
			assert.Equal(t, 500, n)
		})
	}
	// Their connections are those of the Doer within.
	all := &fetch.Retry{Doer: &fetch.PerHost{Doer: fetch.Rate{Doer: client}}}
	before := server.Conns()
	for range 2 {
		all.CloseIdleConnections()
		require.NoError(t, get(t, all, server.Ping(1)).Err)
	}
	assert.Equal(t, before+2, server.Conns())
	// The zero values use the DefaultClient.
	for _, d := range []fetch.Doer{&fetch.Retry{}, &fetch.PerHost{}, fetch.Rate{}} {
		assert.ErrorIs(t, get(t, d, "ftp://a.test/").Err, fetch.ErrBadURL)
	}
}
