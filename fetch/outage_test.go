package fetch_test

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// A world is a Doer over servers that it imitates, in virtual time. The path of a URL says what its
// server does: /hang is silent, /500 is a server error, /404 is not found, /reset closes the
// connection, and others are good.
type world struct {
	latency func(r *fetch.Request) time.Duration
	timeout time.Duration // the engine's
	// down tells when the servers of a host are not running, nil if never. What is under way when
	// it goes down is reset.
	down func(host string, at time.Duration) (until time.Duration, down bool)

	begun time.Time
	mu    sync.Mutex
	sent  int // all requests
	asked map[string]int
}

func (w *world) Do(ctx context.Context, r *fetch.Request) fetch.Result {
	host, path := hostOf(r.URL), r.URL[strings.LastIndexByte(r.URL, '/'):]
	w.mu.Lock()
	w.sent++
	if w.asked != nil {
		w.asked[host]++
	}
	w.mu.Unlock()
	takes := w.latency(r)
	if strings.HasPrefix(path, "/hang") {
		takes = w.timeout
	}
	if w.down != nil {
		if _, down := w.down(host, time.Since(w.begun)); down {
			return failure(fetch.ErrDial, syscall.ECONNREFUSED)
		}
		for at := time.Since(w.begun); takes > 0; { // in steps, so that it notices an end of the server
			step := min(takes, 10*time.Millisecond)
			time.Sleep(step)
			takes, at = takes-step, at+step
			if _, down := w.down(host, at); down {
				return failure(fetch.ErrReset, syscall.ECONNRESET)
			}
		}
	}
	timer := time.NewTimer(takes)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return failure(fetch.ErrCanceled, ctx.Err())
	}
	switch {
	case strings.HasPrefix(path, "/hang"):
		return failure(fetch.ErrTimeout, nil)
	case strings.HasPrefix(path, "/500"):
		return status(500)
	case strings.HasPrefix(path, "/404"):
		return status(404)
	case strings.HasPrefix(path, "/reset"):
		return failure(fetch.ErrReset, nil)
	}
	return status(200)
}

// run fetches reqs through f and w, and returns how many results are not OK and how many of those
// were for good URLs; there must be n results.
func (w *world) run(t *testing.T, f fetch.Fetcher, n int, reqs iter.Seq[fetch.Request]) (failed, lost int) {
	t.Helper()
	w.begun = time.Now()
	f.Doer = together{w}
	results, attempts := 0, 0
	for r := range f.Fetch(t.Context(), reqs) {
		results++
		attempts += r.Attempts
		if r.OK() {
			continue
		}
		if failed++; strings.HasSuffix(r.Request.URL, "/good") {
			if lost++; lost <= 3 {
				t.Log(r.Attempts, r.Failure())
			}
		}
	}
	assert.Equal(t, n, results)
	assert.Equal(t, w.sent, attempts)
	return failed, lost
}

// around returns a latency of this much on average, with jitter.
func around(d time.Duration) func(*fetch.Request) time.Duration {
	return func(*fetch.Request) time.Duration { return d/2 + rand.N(d) }
}

// recommended are the settings that README recommends, and others that must not lose a good URL either.
var recommended = []fetch.PerHost{{}, {Limit: 1}, {Limit: 3}, {Limit: 64}}

// One host, of whose URLs one in 200 hangs: none of the good ones is lost.
func TestHangingURLs(t *testing.T) {
	n := 40_000
	if testing.Short() {
		n = 4000
	}
	for _, p := range recommended {
		for _, retry := range []*fetch.Retry{{}, nil} {
			for _, s := range []fetch.Strategy{fetch.Pool{Workers: 64}, fetch.Batch{}, fetch.Batch{Size: 1000}} {
				t.Run(fmt.Sprint(s, p.Limit, retry != nil), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						for _, latency := range []func(*fetch.Request) time.Duration{
							around(10 * time.Millisecond),
							around(100 * time.Millisecond),
							func(*fetch.Request) time.Duration { return 20 * time.Millisecond }, // in step
						} {
							w := &world{latency: latency, timeout: time.Second}
							failed, lost := w.run(t, fetch.Fetcher{Strategy: s, Retry: retry, PerHost: &p}, n, inputs(n, func(i int) string {
								if i%200 == 0 {
									return "http://a.test/hang"
								}
								return "http://a.test/good"
							}))
							assert.Zero(t, lost, "of 199 in 200 URLs")
							assert.Equal(t, n/200, failed)
						}
					})
				})
			}
		}
	}
}

// Three URLs in a row hang, and the good ones behind them take 100 ms: none is lost.
func TestHangingFirst(t *testing.T) {
	for _, p := range recommended {
		for _, s := range []fetch.Strategy{fetch.Serial{}, fetch.Pool{}, fetch.Pool{Workers: 3}, fetch.Semaphore{}, fetch.Batch{Size: 100}, fetch.Pipeline{}} {
			for _, retry := range []*fetch.Retry{{}, nil} {
				t.Run(fmt.Sprint(p.Limit, s, retry != nil), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := &world{latency: func(*fetch.Request) time.Duration { return 100 * time.Millisecond }, timeout: time.Second}
						failed, lost := w.run(t, fetch.Fetcher{Strategy: s, Retry: retry, PerHost: &p}, 2000, inputs(2000, func(i int) string {
							if i < 3 {
								return "http://a.test/hang"
							}
							return "http://a.test/good"
						}))
						assert.Zero(t, lost, "of 1 997 good URLs")
						assert.Equal(t, 3, failed)
					})
				})
			}
		}
	}
}

// Of 200 000 URLs on 20 healthy hosts 4 000 fail, 500 of them by hanging: exactly those have failed in the end.
func TestTrueFailures(t *testing.T) {
	n := 200_000
	if testing.Short() {
		n = 20_000
	}
	for _, c := range []struct {
		strategy fetch.Strategy
		limit    int
	}{{nil, 0}, {nil, 1}, {nil, 3}, {fetch.Batch{}, 0}, {fetch.Pipeline{}, 0}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(1, 2))
				paths := make([]string, n)
				for i := range paths {
					switch {
					case i < n/400:
						paths[i] = "hang"
					case i < n/50:
						paths[i] = []string{"404", "500", "reset"}[i%3]
					default:
						paths[i] = "good"
					}
				}
				rng.Shuffle(n, func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
				w := &world{latency: around(20 * time.Millisecond), timeout: 30 * time.Second}
				failed, lost := w.run(t, fetch.Fetcher{Strategy: c.strategy, Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{Limit: c.limit}}, n, inputs(n, func(i int) string {
					return fmt.Sprintf("http://%d.test/%s", i%20, paths[i])
				}))
				assert.Zero(t, lost)
				assert.Equal(t, n/50, failed)
			})
		})
	}
}

// A server that restarts in the middle of a run costs no URL, with any strategy, and few requests.
func TestRestart(t *testing.T) {
	n := 30_000
	if testing.Short() {
		n = 10_000
	}
	for _, s := range []fetch.Strategy{
		fetch.Pool{}, fetch.Pool{Workers: 3}, fetch.Semaphore{}, fetch.Threads{Limit: 8}, fetch.Serial{}, fetch.Batch{Size: 1000}, fetch.Batch{Size: 1000, Each: fetch.Semaphore{}},
		fetch.Pipeline{}, fetch.Pipeline{Limit: 32},
	} {
		for _, c := range []struct {
			name   string
			hosts  int
			phases []time.Duration // when it goes down; for 3 s
		}{
			{"once", 1, []time.Duration{5 * time.Second}},
			{"thrice", 1, []time.Duration{2 * time.Second, 8 * time.Second, 11300 * time.Millisecond}},
			{"from the beginning", 1, []time.Duration{0}},
			{"one of two hosts", 2, []time.Duration{5 * time.Second}},
			{"five hosts of one server", 5, []time.Duration{5 * time.Second, 10 * time.Second}},
		} {
			t.Run(s.String()+" "+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := n
					if s.Limits().InFlight < 64 {
						n = min(n, 10_000)
					}
					w := &world{latency: around(10 * time.Millisecond), timeout: time.Second}
					w.down = func(host string, at time.Duration) (time.Duration, bool) {
						for _, from := range c.phases {
							if (c.hosts != 2 || host == "0.test") && from <= at && at < from+3*time.Second {
								return from + 3*time.Second, true
							}
						}
						return 0, false
					}
					failed, _ := w.run(t, fetch.Fetcher{Strategy: s, Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{}}, n, inputs(n, func(i int) string {
						return fmt.Sprintf("http://%d.test/good", i%c.hosts)
					}))
					assert.Zero(t, failed)
					assert.LessOrEqual(t, w.sent, n*12/10)
					t.Log(w.sent-n, "more requests", time.Since(w.begun))
				})
			})
		}
	}
}

// A server that ends what it has, and refuses the rest meanwhile, costs no URL, however many requests are
// under way: those that it refuses were not sent, so they take nothing from the retry budget.
func TestRestartAfterShutdown(t *testing.T) {
	for _, c := range []struct{ workers, limit, hosts int }{{256, 0, 32}, {256, 256, 1}, {64, 64, 1}, {64, 0, 1}} {
		for _, stop := range []time.Duration{150 * time.Millisecond, 550 * time.Millisecond, 1500 * time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				const n = 8000
				w := &world{latency: around(100 * time.Millisecond), timeout: time.Second}
				draining := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
					if at := time.Since(w.begun); stop <= at && at < stop+3*time.Second {
						w.mu.Lock()
						defer w.mu.Unlock()
						w.sent++
						res := failure(fetch.ErrDial, syscall.ECONNREFUSED)
						res.Attempts = 1
						return res
					}
					return w.Do(ctx, r)
				})
				w.begun = time.Now()
				failed := 0
				f := fetch.Fetcher{Strategy: fetch.Pool{Workers: c.workers}, Doer: draining, Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{Limit: c.limit}}
				for r := range f.Fetch(t.Context(), inputs(n, func(i int) string { return fmt.Sprintf("http://%d.test/good", i%c.hosts) })) {
					if !r.OK() {
						failed++
					}
				}
				assert.Zero(t, failed, "%+v, stopped after %v", c, stop)
				assert.LessOrEqual(t, w.sent, n*12/10, "%+v, stopped after %v", c, stop)
			})
		}
	}
}

// A server that stays away for longer than Patience costs requests in proportion to the time, not to the URLs.
func TestLongOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{latency: around(10 * time.Millisecond), timeout: time.Second}
		w.down = func(_ string, at time.Duration) (time.Duration, bool) { return 0, at >= 5*time.Second }
		failed, lost := w.run(t, fetch.Fetcher{Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{}}, 100_000, inputs(100_000, func(int) string { return "http://a.test/good" }))
		assert.Equal(t, failed, lost)
		assert.InDelta(t, 15, time.Since(w.begun).Seconds(), 1)
		assert.LessOrEqual(t, w.sent, 100_000-failed+100)
	})
}

// A list of which a fifth of the hosts is dead takes at most 1.3 times of what it takes if the
// requests of those fail at once.
func TestDeadList(t *testing.T) {
	nHosts, each := 5000, 20
	if testing.Short() {
		nHosts = 1000
	}
	n := nHosts * each
	url := func(host int) string {
		if host%5 == 0 {
			return fmt.Sprintf("http://dead%d.test/", host)
		}
		return fmt.Sprintf("http://%d.test/good", host)
	}
	shuffled := rand.New(rand.NewPCG(1, 2)).Perm(n)
	for name, order := range map[string]func(i int) string{
		"shuffled":      func(i int) string { return url(shuffled[i] / each) },
		"in host order": func(i int) string { return url(i / each) },
		"in turn":       func(i int) string { return url(i % nHosts) },
	} {
		for _, s := range []fetch.Strategy{fetch.Pool{}, fetch.Semaphore{}, fetch.Batch{}, fetch.Pipeline{}} {
			if testing.Short() && s.Limits().InFlight > 64 {
				continue // its lookahead has room for all requests of so few dead hosts: it waits for them
			}
			t.Run(s.String()+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					took := func(p fetch.PerHost) time.Duration {
						w := &world{latency: around(20 * time.Millisecond)}
						w.down = func(host string, _ time.Duration) (time.Duration, bool) { return 0, host[0] == 'd' }
						failed, lost := w.run(t, fetch.Fetcher{Strategy: s, Retry: &fetch.Retry{}, PerHost: &p}, n, inputs(n, order))
						require.Zero(t, lost)
						require.Equal(t, n/5, failed)
						return time.Since(w.begun)
					}
					hasty, patient := took(fetch.PerHost{Patience: -1}), took(fetch.PerHost{})
					assert.LessOrEqual(t, patient.Seconds(), 1.3*hasty.Seconds())
					t.Log(hasty, patient)
				})
			})
		}
	}
}
