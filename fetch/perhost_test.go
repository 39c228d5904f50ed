package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
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

// hosts yields n requests for so many hosts in turn: http://0.test/, http://1.test/, …
func hosts(n, hosts int) iter.Seq[fetch.Request] {
	return inputs(n, func(i int) string { return fmt.Sprintf("http://%d.test/", i%hosts) })
}

// hostOf returns the host of a URL as it is written.
func hostOf(url string) string { return strings.Split(url, "/")[2] }

func okay(res fetch.Result) bool { return res.OK() }

// byHost is a Doer that keeps a gauge, and the times of the beginnings, for each host.
type byHost struct {
	do     func(ctx context.Context, r *fetch.Request) fetch.Result
	mu     sync.Mutex
	gauges map[string]*fetchtest.Gauge
	begun  map[string][]time.Time
}

func (d *byHost) Do(ctx context.Context, r *fetch.Request) fetch.Result {
	host := hostOf(r.URL)
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

// together is a BatchDoer that performs all requests of a batch at once.
type together struct{ fetch.Doer }

func (d together) DoBatch(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
	results := make(chan fetch.Result, len(reqs))
	for _, r := range reqs {
		go func() {
			res := d.Do(ctx, r)
			res.Request = r
			results <- res
		}()
	}
	for range reqs {
		yield(<-results)
	}
}

// A session is a run of a Fetcher that a test feeds one request after another.
type session chan<- fetch.Request

// newSession starts a run, which ends with the test.
func newSession(t *testing.T, f *fetch.Fetcher) session {
	requests, done := make(chan fetch.Request), make(chan struct{})
	go func() {
		defer close(done)
		for res := range f.Stream(context.Background(), requests) {
			res.Request.Tag.(chan fetch.Result) <- res
		}
	}()
	t.Cleanup(func() {
		close(requests)
		<-done
	})
	return requests
}

// do returns the result of r.
func (s session) do(r fetch.Request) fetch.Result {
	result := make(chan fetch.Result, 1)
	r.Tag = result
	s <- r
	return <-result
}

func (s session) get(url string) fetch.Result { return s.do(fetch.Request{URL: url}) }

// A host gets Limit requests at once, at most and under load, and all hosts together what the strategy has.
func TestPerHostLimit(t *testing.T) {
	for _, s := range []fetch.Strategy{
		fetch.Pool{Workers: 20}, fetch.Semaphore{Limit: 20}, fetch.Threads{Limit: 20}, fetch.Batch{Each: fetch.Pool{Workers: 20}},
		fetch.Batch{Size: 100, Each: fetch.Threads{Limit: 20}}, fetch.Pipeline{Limit: 20, Depth: 5},
	} {
		for _, c := range []struct{ limit, want int }{{0, 8}, {1, 1}, {3, 3}} {
			t.Run(fmt.Sprint(s, c.limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var all fetchtest.Gauge
					d := &byHost{do: func(_ context.Context, r *fetch.Request) fetch.Result {
						defer all.Enter()()
						time.Sleep(time.Second)
						return status(200)
					}}
					f := fetch.Fetcher{Strategy: s, Doer: together{d}, PerHost: &fetch.PerHost{Limit: c.limit}}
					n := 0
					for r := range f.Fetch(t.Context(), hosts(400, 4)) {
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
	synctest.Test(t, func(t *testing.T) {
		d := &byHost{do: func(context.Context, *fetch.Request) fetch.Result { return status(200) }}
		f := fetch.Fetcher{Strategy: fetch.Serial{}, Doer: d, PerHost: &fetch.PerHost{}}
		for range f.Fetch(t.Context(), hosts(100, 2)) {
		}
		assert.Equal(t, 1, d.gauges["0.test"].Peak())
	})
}

// The requests of one host start in the order of the input, and hosts take turns.
func TestPerHostOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var started []string
		f := fetch.Fetcher{Strategy: fetch.Serial{}, PerHost: &fetch.PerHost{}, Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			started = append(started, r.URL)
			return status(200)
		})}
		urls := []string{"http://a.test/1", "http://a.test/2", "http://a.test/3", "http://b.test/1", "http://b.test/2", "http://c.test/1"}
		for range f.Get(t.Context(), urls...) {
		}
		assert.Len(t, started, len(urls))
		for _, host := range []string{"a.test", "b.test"} {
			var of []string
			for _, u := range started {
				if hostOf(u) == host {
					of = append(of, u)
				}
			}
			assert.IsIncreasing(t, of)
		}
		assert.Less(t, slices.Index(started, "http://b.test/1"), slices.Index(started, "http://a.test/3"))
	})
}

// Requests of a host start Spacing apart; those of others do not wait for that.
func TestPerHostSpacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &byHost{do: func(context.Context, *fetch.Request) fetch.Result {
			time.Sleep(300 * time.Millisecond)
			return status(200)
		}}
		begun := time.Now()
		f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: d, PerHost: &fetch.PerHost{Spacing: 100 * time.Millisecond}}
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
				var told []fetch.Event
				s := newSession(t, &fetch.Fetcher{
					Doer:    &script{answers: []fetch.Result{c.answer, status(200)}},
					PerHost: &fetch.PerHost{MaxPark: c.maxPark},
					Trace:   eventsOf(&told, fetch.EventHostParked),
				})
				s.get("http://a.test/")
				begun := time.Now()
				assert.True(t, okay(s.get("http://b.test/")))
				assert.Zero(t, time.Since(begun), "another host")
				assert.True(t, okay(s.get("http://a.test/")))
				assert.Equal(t, c.want, time.Since(begun))
				assert.True(t, okay(s.get("http://a.test/")))
				assert.Equal(t, c.want, time.Since(begun), "once it is over")
				var want []fetch.Event
				if c.want > 0 {
					want = append(want, fetch.Event{Kind: fetch.EventHostParked, Host: "a.test:80", Duration: c.want})
				}
				assert.Equal(t, want, told)
			})
		})
	}
}

// An input of which nine tenths are for one slow host does not keep the others waiting.
func TestPerHostLookahead(t *testing.T) {
	url := func(i int) string {
		if i%10 > 0 {
			return "http://slow.test/"
		}
		return fmt.Sprintf("http://%d.test/", i%50)
	}
	for _, s := range []fetch.Strategy{fetch.Pool{}, fetch.Semaphore{}, fetch.Threads{}, fetch.Pipeline{Limit: 64}, fetch.Batch{Size: 10_000}} {
		t.Run(s.String(), func(t *testing.T) {
			for _, c := range []struct {
				n, lookahead int
				others       time.Duration // until they are done
			}{
				{1000, 0, 2 * time.Second},                  // 100 of 100 ms each, 40 of them at once
				{5000, 10_000, 2 * time.Second},             // 500
				{5000, 0, 4500 / 8 * time.Second},           // that many cannot be looked past
				{1000, s.Limits().Ahead, 900 * time.Second}, // nor can so few
			} {
				synctest.Test(t, func(t *testing.T) {
					f := fetch.Fetcher{Strategy: s, PerHost: &fetch.PerHost{Lookahead: c.lookahead}, Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
						if hostOf(r.URL) == "slow.test" {
							time.Sleep(time.Second)
						} else {
							time.Sleep(100 * time.Millisecond)
						}
						return status(200)
					})}
					begun := time.Now()
					taken, handedOut, most := 0, 0, 0
					var others time.Duration
					for r := range f.Fetch(t.Context(), inputs(c.n, func(i int) string {
						taken++
						most = max(most, taken-handedOut)
						return url(i)
					})) {
						require.True(t, r.OK())
						handedOut++
						if hostOf(r.Request.URL) != "slow.test" {
							others = time.Since(begun)
						}
					}
					assert.Equal(t, c.n, handedOut)
					assert.LessOrEqual(t, others, c.others, "%v", c)
					slow := time.Duration(c.n*9/10) * time.Second / 8
					assert.Less(t, time.Since(begun), slow+2*time.Second, "the slow host always has as many as it may have")
					bound := c.lookahead
					if bound == 0 {
						bound = 16 * s.Limits().InFlight
					}
					assert.Equal(t, min(c.n, max(bound, s.Limits().Ahead)), most, "%v", c)
				})
			}
		})
	}
}

// A dead host among 100, whose requests take 10 s each, does not slow the others down.
func TestPerHostDeadHost(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 20_000
	}
	for _, s := range []fetch.Strategy{fetch.Pool{}, fetch.Semaphore{}, fetch.Threads{}, fetch.Batch{Size: 100_000}, fetch.Pipeline{}, fetch.Pipeline{Limit: 64}} {
		for _, p := range []fetch.PerHost{{}, {Patience: -1}} {
			n := n
			if _, ok := s.(fetch.Threads); ok {
				n = min(n, 30_000) // each costs a thread
			}
			if p.Patience < 0 && s != (fetch.Pool{}) {
				continue
			}
			t.Run(fmt.Sprint(s, p.Patience), func(t *testing.T) {
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
						f := fetch.Fetcher{Strategy: s, Doer: together{d}, PerHost: &p, Retry: &fetch.Retry{}}
						begun := time.Now()
						var last time.Duration
						ok := 0
						for r := range f.Fetch(t.Context(), hosts(n, 100)) {
							if r.OK() {
								ok++
								last = time.Since(begun)
							} else {
								require.ErrorIs(t, r.Err, fetch.ErrTimeout)
								require.Equal(t, "http://17.test/", r.Request.URL)
							}
						}
						if dead {
							assert.Equal(t, n*99/100, ok)
						} else {
							assert.Equal(t, n, ok)
						}
						return last
					}
					healthy, slowed := others(false), others(true)
					if n > 20_000 {
						assert.LessOrEqual(t, slowed.Seconds(), 1.1*healthy.Seconds())
					}
				})
			})
		}
	}
}

// A host that is down for longer than Patience costs nothing, and is found again when it is back.
func TestPerHostDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := false
		calls := 0
		s := newSession(t, &fetch.Fetcher{PerHost: &fetch.PerHost{Patience: -1}, Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			calls++
			time.Sleep(time.Second)
			if back {
				return status(200)
			}
			return failure(fetch.ErrDial, syscall.ECONNREFUSED)
		})})
		for range 3 {
			res := s.get("http://a.test/")
			assert.ErrorIs(t, res.Err, syscall.ECONNREFUSED)
			assert.Equal(t, 1, res.Attempts)
		}
		down := func() bool {
			t.Helper()
			begun := time.Now()
			res := s.get("http://a.test/path?" + secret)
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
		assert.True(t, okay(s.get("http://a.test/")))
		assert.True(t, okay(s.get("http://a.test/")))
	})
}

// The requests of a host that is down are held, while one of them a second asks whether it is back.
func TestPerHostHolds(t *testing.T) {
	for _, s := range append(policyStrategies, fetch.Pool{}, fetch.Pipeline{}) {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				var asked []time.Duration // while it was down
				var mu sync.Mutex
				var told []fetch.Event
				d := fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
					at := time.Since(begun)
					if at < 5*time.Second {
						mu.Lock()
						defer mu.Unlock()
						asked = append(asked, at)
						return failure(fetch.ErrDial, syscall.ECONNREFUSED)
					}
					time.Sleep(time.Millisecond)
					return status(200)
				})
				f := fetch.Fetcher{Strategy: s, Doer: together{d}, Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{Limit: 3}, Trace: eventsOf(&told, fetch.EventHostDown, fetch.EventHostUp)}
				attempts, taken := 0, 0
				for r := range f.Fetch(t.Context(), inputs(100, func(int) string { taken++; return "http://a.test/" })) {
					require.NoError(t, r.Err)
					attempts += r.Attempts
				}
				assert.Equal(t, 100, taken)
				assert.Equal(t, 100+len(asked), attempts, "what was sent in vain is counted")
				// 3 that find it down, up to 2 that were under way then, and the probes.
				probes := asked[len(asked)-4:]
				assert.GreaterOrEqual(t, len(asked), 3+4)
				assert.LessOrEqual(t, len(asked), 3+2+4)
				assert.Less(t, asked[len(asked)-5], time.Second)
				for i, at := range probes {
					assert.Equal(t, probes[0]+time.Duration(i)*time.Second, at)
				}
				require.Len(t, told, 2)
				assert.ErrorIs(t, told[0].Err, syscall.ECONNREFUSED)
				told[0].Err = nil
				assert.Equal(t, fetch.Event{Kind: fetch.EventHostDown, Host: "a.test:80"}, told[0])
				assert.Equal(t, fetch.EventHostUp, told[1].Kind)
				assert.Equal(t, "a.test:80", told[1].Host)
				assert.InDelta(t, 5, told[1].Duration.Seconds(), 0.3)
				assert.Less(t, time.Since(begun), 6*time.Second)
			})
		})
	}
}

// Held requests fail when their host has been down for Patience.
func TestPerHostPatience(t *testing.T) {
	for _, c := range []struct {
		patience, want time.Duration
		text           string
	}{
		{0, 10 * time.Second, "the host is down, for %v now: see PerHost.Patience: connection refused"},
		{2500 * time.Millisecond, 2500 * time.Millisecond, "the host is down, for %v now: see PerHost.Patience: connection refused"},
		{time.Millisecond, time.Millisecond, "the host is down, for %v now: see PerHost.Patience: connection refused"},
		{-1, 0, "the host is down, for %v now: connection refused"},
	} {
		for _, s := range policyStrategies {
			for _, retry := range []*fetch.Retry{nil, {}} {
				t.Run(fmt.Sprint(c.patience, s, retry != nil), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						var down time.Time
						calls := 0
						f := fetch.Fetcher{
							Strategy: s,
							Retry:    retry,
							PerHost:  &fetch.PerHost{Limit: 1, Patience: c.patience},
							Trace: func(e fetch.Event) {
								if e.Kind == fetch.EventHostDown {
									down = time.Now()
								}
							},
							Doer: fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
								calls++
								time.Sleep(time.Millisecond)
								return failure(fetch.ErrDial, syscall.ECONNREFUSED)
							}),
						}
						n, unsent, attempts := 0, 0, 0
						for r := range f.Fetch(t.Context(), inputs(8, func(int) string { return "http://a.test/p?" + secret })) {
							n++
							attempts += r.Attempts
							assert.Equal(t, fetch.ErrDial, fetch.KindOf(r.Err))
							assert.ErrorIs(t, r.Err, syscall.ECONNREFUSED)
							assert.NotContains(t, r.Err.Error(), secret)
							if strings.Contains(r.Err.Error(), "down") {
								at := time.Since(down)
								text := fmt.Sprintf(c.text, at.Round(time.Millisecond))
								assert.Equal(t, "fetch: http://a.test/p: dial: "+text, r.Err.Error())
								assert.GreaterOrEqual(t, at, c.want)
								if s.Limits().Batch == 0 && retry == nil { // else some come later, and fail then
									assert.LessOrEqual(t, at, c.want+1)
								}
								unsent++
							}
						}
						assert.Equal(t, 8, n)
						assert.Equal(t, calls, attempts)
						assert.GreaterOrEqual(t, unsent, 4)
						assert.Equal(t, 3+max(0, int((c.want-1)/time.Second)), calls, "3, and one each second")
					})
				})
			}
		}
	}
}

// One request each second finds out whether a host is back, though those before it have had no response.
func TestPerHostProbe(t *testing.T) {
	for _, patience := range []time.Duration{-1, 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			dead := true
			var gauge fetchtest.Gauge
			s := newSession(t, &fetch.Fetcher{PerHost: &fetch.PerHost{Patience: patience}, Doer: gauge.Doer(fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
				select {
				case <-time.After(10 * time.Second):
				case <-ctx.Done():
				}
				if dead {
					return failure(fetch.ErrTimeout, nil)
				}
				return status(200)
			}))})
			begun := time.Now()
			var wg sync.WaitGroup
			for range 20 { // 8 at once, and 12 that wait
				wg.Go(func() { assert.ErrorIs(t, s.get("http://a.test/").Err, fetch.ErrTimeout) })
			}
			wg.Wait()
			total := gauge.Total()
			if patience < 0 {
				assert.LessOrEqual(t, total, 10, "8 at once, and what began before the third failed")
				assert.LessOrEqual(t, time.Since(begun), 20*time.Second)
			} else {
				// Down at 10 s, when up to two more have begun. Then one each second, 4 at once: from 11,
				// 21 and 31 s on.
				assert.Equal(t, 20, total)
				assert.InDelta(t, 43, time.Since(begun).Seconds(), 1)
			}
			time.Sleep(time.Until(begun.Add(45 * time.Second)))
			for range 20 {
				wg.Go(func() { assert.ErrorIs(t, s.get("http://a.test/").Err, fetch.ErrTimeout) })
			}
			wg.Wait()
			assert.Equal(t, total+1, gauge.Total())

			time.Sleep(4 * time.Second)
			dead = false
			assert.True(t, okay(s.get("http://a.test/")), "the next one is the probe")
			for range 20 {
				wg.Go(func() { assert.True(t, okay(s.get("http://a.test/"))) })
			}
			wg.Wait()
		})
	}
}

// What means that a host is down, and what does not.
func TestPerHostSignsOfDeath(t *testing.T) {
	timeoutInBody := failure(fetch.ErrTimeout, nil)
	timeoutInBody.Status = 200
	afterRedirect := failure(fetch.ErrDial, nil)
	afterRedirect.Status = 302
	dial := failure(fetch.ErrDial, nil)
	for name, c := range map[string]struct {
		failures int
		answers  []fetch.Result
		down     bool
	}{
		"dial":                {0, []fetch.Result{dial}, true},
		"DNS":                 {0, []fetch.Result{failure(fetch.ErrDNS, nil)}, true},
		"timeout":             {0, []fetch.Result{failure(fetch.ErrTimeout, nil)}, true},
		"timeout in a body":   {0, []fetch.Result{timeoutInBody}, false},
		"after a redirect":    {0, []fetch.Result{afterRedirect}, false},
		"reset":               {0, []fetch.Result{failure(fetch.ErrReset, nil)}, false},
		"TLS":                 {0, []fetch.Result{failure(fetch.ErrTLS, nil)}, false},
		"protocol":            {0, []fetch.Result{failure(fetch.ErrProtocol, nil)}, false},
		"truncated":           {0, []fetch.Result{failure(fetch.ErrTruncated, nil)}, false},
		"too large":           {0, []fetch.Result{failure(fetch.ErrTooLarge, nil)}, false},
		"decode":              {0, []fetch.Result{failure(fetch.ErrDecode, nil)}, false},
		"redirect":            {0, []fetch.Result{failure(fetch.ErrRedirect, nil)}, false},
		"500":                 {0, []fetch.Result{status(500)}, false},
		"a bare kind":         {0, []fetch.Result{{Err: fetch.ErrTimeout, Attempts: 1}}, true},
		"a wrapped one":       {0, []fetch.Result{{Err: fmt.Errorf("odd: %w", fetch.ErrDial), Attempts: 1}}, true},
		"an error of no kind": {0, []fetch.Result{{Err: errors.New("odd"), Attempts: 1}}, false},
		"a panic":             {0, []fetch.Result{{Err: &fetch.PanicError{}, Attempts: 1}}, false},
		"lost":                {0, []fetch.Result{failure(fetch.ErrLost, nil)}, false},
		"canceled":            {0, []fetch.Result{failure(fetch.ErrCanceled, nil)}, false},
		"address":             {0, []fetch.Result{failure(fetch.ErrAddress, nil)}, false},
		"bad URL":             {0, []fetch.Result{failure(fetch.ErrBadURL, nil)}, false},
		"files":               {0, []fetch.Result{failure(fetch.ErrDial, syscall.EMFILE)}, false},
		"not in a row":        {0, []fetch.Result{dial, dial, status(500), dial, dial}, false},
		"others in between":   {0, []fetch.Result{dial, failure(fetch.ErrBadURL, nil), dial, dial}, true},
		"fewer than allowed":  {6, []fetch.Result{dial}, false},
		"never":               {-1, []fetch.Result{dial}, false},
		"one is enough":       {1, []fetch.Result{dial, status(200)}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSession(t, &fetch.Fetcher{PerHost: &fetch.PerHost{Failures: c.failures, Patience: -1}, Doer: &script{answers: c.answers}})
			var last fetch.Result
			for range 5 {
				last = s.get("http://a.test/")
			}
			assert.Equal(t, c.down, last.Err != nil && last.Attempts == 0, name)
		})
	}
	// That Rate does not let a request start says nothing about the host.
	synctest.Test(t, func(t *testing.T) {
		d := &script{answers: []fetch.Result{status(200)}}
		f := fetch.Fetcher{PerHost: &fetch.PerHost{Failures: 1}, Rate: rate.NewLimiter(0, 0), Doer: d}
		for r := range f.Fetch(t.Context(), hosts(100, 1)) {
			assert.ErrorIs(t, r.Err, fetch.ErrTimeout)
			assert.NotContains(t, r.Err.Error(), "down")
			assert.Zero(t, r.Attempts)
		}
		assert.Zero(t, d.calls.Load())
	})
}

// A host that answers others is not down, however many of its requests time out.
func TestPerHostSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []fetch.Event
		f := fetch.Fetcher{
			PerHost: &fetch.PerHost{Failures: 1},
			Trace:   eventsOf(&told, fetch.EventHostDown),
			Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
				if r.Index%20 == 0 {
					time.Sleep(time.Second)
					return failure(fetch.ErrTimeout, nil)
				}
				time.Sleep(time.Duration(50+r.Index%7) * time.Millisecond)
				return status(500)
			}),
		}
		for r := range f.Fetch(t.Context(), hosts(419, 1)) {
			require.Equal(t, 1, r.Attempts, "sent")
		}
		assert.Empty(t, told)
	})
}

// It does not matter how a URL writes its host.
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
			d := &script{answers: []fetch.Result{status(503, "Retry-After", "5"), status(200)}}
			s := newSession(t, &fetch.Fetcher{PerHost: &fetch.PerHost{}, Doer: d})
			s.get(c.a)
			begun := time.Now()
			s.get(c.b)
			assert.Equal(t, c.same, time.Since(begun) > 0, "%s %s", c.a, c.b)
		}
		// What is not a URL is for the Doer to refuse.
		f := fetch.Fetcher{PerHost: &fetch.PerHost{}, Doer: tidy(t, &fetch.Client{})}
		n := 0
		for r := range f.Get(t.Context(), "", "a", "://", "http://", "http://[", "@", "http://:/", "ftp://a.test/") {
			assert.ErrorIs(t, r.Err, fetch.ErrBadURL, r.Request.URL)
			n++
		}
		assert.Equal(t, 8, n)
	})
}

// A panic in the Doer, or its Goexit, gives the host's place back.
func TestPerHostPanics(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Pool{Workers: 4}, fetch.Semaphore{Limit: 4}, fetch.Threads{Limit: 4}} {
		f := fetch.Fetcher{Strategy: s, PerHost: &fetch.PerHost{Limit: 1}, Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			switch r.Index % 3 {
			case 0:
				panic("odd")
			case 1:
				runtime.Goexit()
			}
			return status(200)
		})}
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
}

// Requests that wait for their host end with the context.
func TestPerHostCancel(t *testing.T) {
	for _, s := range policyStrategies {
		for name, p := range map[string]*fetch.PerHost{
			"limit": {Limit: 1}, "spacing": {Spacing: time.Hour}, "parked": {}, "down": {Failures: 1, Patience: time.Hour, MaxPark: time.Hour},
		} {
			t.Run(s.String()+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var calls atomic.Int64
					f := fetch.Fetcher{Strategy: s, PerHost: p, Doer: fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
						switch n := calls.Add(1); name {
						case "limit":
							<-ctx.Done()
							return failure(fetch.ErrCanceled, nil)
						case "parked":
							return status(503, "Retry-After", "60")
						case "down":
							if n > 1 { // the probes hang
								<-ctx.Done()
								return failure(fetch.ErrCanceled, nil)
							}
							return failure(fetch.ErrDial, nil)
						}
						return status(200)
					})}
					for _, kind := range []fetch.Kind{fetch.ErrCanceled, fetch.ErrTimeout} {
						calls.Store(0)
						ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
						if kind == fetch.ErrCanceled {
							ctx, cancel = context.WithCancel(t.Context())
							time.AfterFunc(2500*time.Millisecond, cancel)
						}
						begun := time.Now()
						taken, ended, handedOut := 0, 0, 0
						for r := range f.Fetch(ctx, inputs(10, func(int) string { taken++; return "http://a.test/" })) {
							handedOut++
							if r.Attempts == 0 {
								assert.ErrorIs(t, r.Err, kind)
								ended++
							}
						}
						assert.Equal(t, 2500*time.Millisecond, time.Since(begun))
						assert.Equal(t, taken, handedOut)
						assert.Positive(t, ended)
						cancel()
					}
				})
			})
		}
	}
}

func TestPerHostMisuse(t *testing.T) {
	for text, p := range map[string]*fetch.PerHost{
		"fetch: PerHost.Limit is -1":                           {Limit: -1},
		"fetch: PerHost.Limit is 2000000: at most 1048576":     {Limit: 2_000_000},
		"fetch: PerHost.Spacing is -1s":                        {Spacing: -time.Second},
		"fetch: PerHost.MaxPark is -1s":                        {MaxPark: -time.Second},
		"fetch: PerHost.Lookahead is -1":                       {Lookahead: -1},
		"fetch: PerHost.Lookahead is 1048577: at most 1048576": {Lookahead: 1<<20 + 1},
	} {
		f := fetch.Fetcher{PerHost: p}
		assert.PanicsWithValue(t, text, func() { f.Get(t.Context(), "http://a.test/") })
		assert.PanicsWithValue(t, text, func() { f.Stream(t.Context(), make(chan fetch.Request)) })
		assert.PanicsWithValue(t, text, func() { f.FetchQueue(t.Context(), new(fetch.Queue)) })
	}
}

// A request that asks whether its host is back, and is refused, is held again. One that times out
// may have had its effect: it is not sent again, unless Retry may do that.
func TestPerHostProbeByPost(t *testing.T) {
	for _, c := range []struct {
		kind   fetch.Kind
		header http.Header
		retry  *fetch.Retry
		again  bool
	}{
		{fetch.ErrTimeout, nil, nil, false},
		{fetch.ErrTimeout, nil, &fetch.Retry{Attempts: 9}, false},
		{fetch.ErrTimeout, http.Header{"Idempotency-Key": {"1"}}, &fetch.Retry{Attempts: 9}, true},
		{fetch.ErrDial, nil, nil, true},
		{fetch.ErrDial, nil, &fetch.Retry{Attempts: 1}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			sent := make(map[int]int)
			begun := time.Now()
			f := fetch.Fetcher{Strategy: fetch.Serial{}, Retry: c.retry, PerHost: &fetch.PerHost{Failures: 1}, Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
				sent[r.Index]++
				if time.Since(begun) < 3500*time.Millisecond { // 3 probes
					return failure(c.kind, nil)
				}
				return status(200)
			})}
			failed := 0
			for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
				for range 10 {
					if !yield(fetch.Request{Method: "POST", URL: "http://a.test/", Header: c.header}) {
						return
					}
				}
			}) {
				assert.Equal(t, sent[r.Request.Index], r.Attempts)
				if !r.OK() {
					failed++
				}
			}
			if c.again {
				assert.Zero(t, failed)
			} else {
				assert.Equal(t, 1+3, failed)
				for _, n := range sent {
					assert.Equal(t, 1, n)
				}
			}
		})
	}
}

// At the end of a run in which too many hosts are down, the rest does not wait for those that have
// never answered, but for the others.
func TestPerHostCrowded(t *testing.T) {
	for _, c := range []struct {
		dead    int // hosts
		patient bool
	}{{2, true}, {40, false}} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			// Of the host "seldom", the requests are refused from 1 s to 4 s.
			d := fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
				switch at := time.Since(begun); {
				case hostOf(r.URL) != "seldom.test":
					return failure(fetch.ErrDial, syscall.ECONNREFUSED)
				case at >= time.Second && at < 4*time.Second:
					return failure(fetch.ErrDial, nil)
				}
				time.Sleep(250 * time.Millisecond)
				return status(200)
			})
			f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: d, Retry: &fetch.Retry{Budget: 10}, PerHost: &fetch.PerHost{Limit: 1, Lookahead: 100}}
			good, crowded := 0, 0
			for r := range f.Fetch(t.Context(), inputs(12*c.dead, func(i int) string {
				if i < 20 {
					return "http://seldom.test/"
				}
				return fmt.Sprintf("http://%d.test/", i%c.dead)
			})) {
				if hostOf(r.Request.URL) == "seldom.test" {
					assert.True(t, r.OK(), "%v", r.Err)
					good++
				} else if strings.HasSuffix(r.Err.Error(), "and too many requests wait for such hosts: see PerHost.Lookahead: connection refused") {
					crowded++
				}
			}
			assert.Equal(t, 20, good)
			took := time.Since(begun)
			if c.patient {
				assert.Zero(t, crowded)
				assert.GreaterOrEqual(t, took, 10*time.Second)
			} else {
				assert.Positive(t, crowded)
				assert.Less(t, took, 9*time.Second)
				assert.GreaterOrEqual(t, took, 4*time.Second)
			}
		})
	}
}

// All three policies hold at once, with every strategy, in the order of the input or not.
func TestPoliciesTogether(t *testing.T) {
	for _, s := range append(policyStrategies, fetch.Pool{}, fetch.Pipeline{}) {
		for _, ordered := range []bool{false, true} {
			t.Run(fmt.Sprint(s, ordered), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var all fetchtest.Gauge
					var starts []time.Time
					var mu sync.Mutex
					tries := make(map[int]int)
					d := &byHost{do: func(_ context.Context, r *fetch.Request) fetch.Result {
						defer all.Enter()()
						mu.Lock()
						starts = append(starts, time.Now())
						tries[r.Index]++
						try := tries[r.Index]
						mu.Unlock()
						time.Sleep(time.Duration(10+r.Index%7) * time.Millisecond)
						switch {
						case r.Index%10 == 3 && try == 1:
							return status(503)
						case r.Index%50 == 4 && try == 1:
							return status(429, "Retry-After", "2")
						case r.Index%10 == 5 && try == 1:
							return failure(fetch.ErrReset, nil)
						case r.Index%100 == 6:
							return failure(fetch.ErrTimeout, nil)
						}
						return status(200)
					}}
					f := fetch.Fetcher{
						Strategy: s, Doer: together{d}, Ordered: ordered,
						Retry:   &fetch.Retry{Budget: 1},
						PerHost: &fetch.PerHost{Limit: 3, Spacing: 5 * time.Millisecond},
						Rate:    rate.NewLimiter(200, 5),
					}
					seen := make(map[int]bool)
					attempts := 0
					for r := range f.Fetch(t.Context(), hosts(500, 7)) {
						i := r.Request.Index
						if ordered {
							require.Equal(t, len(seen), i)
						}
						require.False(t, seen[i])
						seen[i] = true
						require.Equal(t, i%100 != 6, r.OK(), "%d: %v", i, r.Err)
						mu.Lock()
						require.Equal(t, tries[i], r.Attempts)
						mu.Unlock()
						attempts += r.Attempts
					}
					assert.Len(t, seen, 500)
					assert.Equal(t, 500+50+10+50+2*5, attempts)
					assert.LessOrEqual(t, all.Peak(), s.Limits().InFlight)
					for host, g := range d.gauges {
						assert.LessOrEqual(t, g.Peak(), 3, host)
						for i, at := range d.begun[host][1:] {
							assert.GreaterOrEqual(t, at.Sub(d.begun[host][i]), 5*time.Millisecond, host)
						}
					}
					for i := range starts[:max(0, len(starts)-205)] {
						assert.GreaterOrEqual(t, starts[i+205].Sub(starts[i]), time.Second-time.Microsecond)
					}
				})
			})
		}
	}
}

// The policies work over HTTP, with every engine's own way to fail.
func TestPoliciesOverHTTP(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.FailStatus(0.1, 503), fetchtest.Drop(0.05))
	client := tidy(t, &fetch.Client{})
	for _, s := range append(policyStrategies, fetch.Pool{}) {
		t.Run(s.String(), func(t *testing.T) {
			f := fetch.Fetcher{Strategy: s, Doer: client, Ordered: true, Retry: &fetch.Retry{Backoff: 1, Budget: 1}, PerHost: &fetch.PerHost{}, Rate: rate.NewLimiter(rate.Inf, 0)}
			n := 0
			for r := range f.Fetch(t.Context(), inputs(500, server.Ping)) {
				require.Equal(t, n, r.Request.Index)
				if _, shares := s.(fetch.Pipeline); !shares { // else a request is sent again if one before it in its write was dropped
					require.Equal(t, r.OK(), r.Attempts == 1, "what fails there always does")
				}
				if r.Err != nil {
					require.ErrorIs(t, r.Err, fetch.ErrTruncated)
				}
				n++
			}
			assert.Equal(t, 500, n)
		})
	}
}

// A Fetcher may be used by several goroutines at once: each run has a state of its own.
func TestPoliciesOfSeveralRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		f := fetch.Fetcher{Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{Limit: 1}, Rate: rate.NewLimiter(1000, 1), Doer: fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
			calls.Add(1)
			time.Sleep(time.Millisecond)
			return status(200)
		})}
		begun := time.Now()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				n := 0
				for r := range f.Fetch(t.Context(), hosts(100, 1)) {
					assert.True(t, r.OK())
					n++
				}
				assert.Equal(t, 100, n)
			})
		}
		wg.Wait()
		assert.EqualValues(t, 500, calls.Load())
		assert.InDelta(t, 0.5, time.Since(begun).Seconds(), 0.01, "the Rate is shared")
	})
}
