package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// Under another spelling net/http would send these as they are, beside its own, and the server
// would take a part of the next request for the body of this one.
func TestClientFramingFields(t *testing.T) {
	server := serve(t, answers([]byte("hello")))
	client := tidy(t, &fetch.Client{})
	for name, ok := range map[string]bool{
		"content-length": false, "CONTENT-LENGTH": false, "transfer-encoding": false, "host": false, "trailer": false, "connection": false, "user-agent": false, "authorization": false,
		"x-custom": true, "Content-Length": true, "User-Agent": true, "Connection": true,
	} {
		res := client.Do(t.Context(), &fetch.Request{URL: server.URL, Header: http.Header{name: {"5"}}})
		if ok {
			assert.NoError(t, res.Err, name)
		} else {
			assert.ErrorIs(t, res.Err, fetch.ErrBadURL, name)
			assert.ErrorContains(t, res.Err, "has to be written "+http.CanonicalHeaderKey(name))
			assert.Zero(t, res.Attempts)
		}
	}
}

// A name in a certificate, say, must not forge a line of a log.
func TestErrorTextIsOneLine(t *testing.T) {
	e := &fetch.Error{Kind: fetch.ErrTLS, URL: "http://a.test/", Err: errors.New("valid for a\nFORGED \x1b[31m\u202e" + strings.Repeat("x", 3000))}
	assert.NotContains(t, e.Error(), "\n")
	assert.NotContains(t, e.Error(), "\x1b")
	assert.NotContains(t, e.Error(), "\u202e")
	assert.Less(t, len(e.Error()), 700)
}

// Two hosts may be one to Unicode, in its upper and lower cases. What counts is the name that is asked
// for: UTS 46 makes a k of the Kelvin sign.
func TestRedirectOriginIDN(t *testing.T) {
	server := hopServer(t)
	u, err := url.Parse(server)
	require.NoError(t, err)
	client := tidy(t, &fetch.Client{Dial: dialsTo(u.Host)})
	for _, c := range []struct {
		from, to string
		kept     bool
	}{
		{"http://fa\u00df.test", "http://fa\u1e9e.test", false},
		{"http://\u03b2\u03cc\u03bb\u03bf\u03c2.test", "http://\u03b2\u03cc\u03bb\u03bf\u03c3.test", false},
		{"http://k.test", "http://\u212a.test", true},
		{"http://b\u00fccher.test", "http://b\u00fccher.test", true},
	} {
		a := decoded[arrived](t, client, &fetch.Request{URL: hopTo(c.from, 302, c.to+"/to"), Header: http.Header{"Cookie": {"x=y"}}})
		assert.Equal(t, c.kept, a.Header.Get("Cookie") != "", "%s to %s", c.from, c.to)
		assert.Equal(t, c.kept, a.Host == decoded[arrived](t, client, &fetch.Request{URL: c.from + "/to"}).Host, "%s to %s", c.from, c.to)
	}
}

type nowhereConn struct{ net.Conn }

func (nowhereConn) RemoteAddr() net.Addr { return nil }

func TestClientAllowAddrWithoutAddress(t *testing.T) {
	client := tidy(t, &fetch.Client{AllowAddr: func(netip.AddrPort) error { return nil }, Dial: func(context.Context, string, string) (net.Conn, error) {
		conn, other := net.Pipe()
		other.Close()
		return nowhereConn{conn}, nil
	}})
	assert.ErrorIs(t, get(t, client, "http://a.invalid/").Err, fetch.ErrAddress)
}

// A server that goes away during an upload has reset the connection, whatever net/http makes of it.
func TestClientResetDuringUpload(t *testing.T) {
	server := serveRaw(t, func(conn *net.TCPConn, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 1000)
		conn.SetLinger(0)
	})
	client := tidy(t, &fetch.Client{})
	for range 20 {
		res := client.Do(t.Context(), &fetch.Request{Method: "PUT", URL: server, Body: make([]byte, 8<<20)})
		assert.ErrorIs(t, res.Err, fetch.ErrReset)
	}
}

// While a connection is made, the silence is not the server's.
func TestClientStallTimeoutInBetween(t *testing.T) {
	const idle = 200 * time.Millisecond
	var dials atomic.Int64
	slow := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials.Add(1) > 1 {
			time.Sleep(2 * idle)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	elsewhere := serve(t, answers([]byte("hello")))
	server := serve(t, http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect)) // before it has read the body
	for range 5 {
		dials.Store(0)
		client := tidy(t, &fetch.Client{StallTimeout: idle, Dial: slow})
		res := client.Do(t.Context(), &fetch.Request{Method: "PUT", URL: server.URL, Body: make([]byte, 1<<20)})
		assert.False(t, errors.Is(res.Err, fetch.ErrTimeout), "%v", res.Err)
	}
}

// Spacing is between the beginnings, however many requests wait, and whatever the places are worth.
func TestPerHostSpacingUnderLoad(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Pool{Workers: 2}, fetch.Semaphore{Limit: 2}, fetch.Serial{}} {
		for _, limit := range []int{1, 3} {
			t.Run(fmt.Sprint(s, limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := &byHost{do: func(_ context.Context, r *fetch.Request) fetch.Result {
						if !strings.HasPrefix(r.URL, "http://0.") {
							time.Sleep(time.Second)
						}
						return status(200)
					}}
					f := fetch.Fetcher{Strategy: s, Doer: d, PerHost: &fetch.PerHost{Limit: limit, Spacing: 200 * time.Millisecond}}
					n := 0
					for range f.Fetch(t.Context(), hosts(60, 3)) {
						n++
					}
					assert.Equal(t, 60, n)
					for host, times := range d.begun {
						for i := range times[1:] {
							assert.GreaterOrEqual(t, times[i+1].Sub(times[i]), 200*time.Millisecond, host)
						}
					}
				})
			})
		}
	}
}

// A request whose turn it was when its host was parked waits for the end of that.
func TestPerHostParksWhoseTurnItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &byHost{}
		d.do = func(_ context.Context, r *fetch.Request) fetch.Result {
			switch r.Index {
			case 0, 1:
				time.Sleep(time.Second * time.Duration(r.Index+1))
				return status(503, "Retry-After", "30")
			}
			time.Sleep(3 * time.Second)
			return status(200)
		}
		f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 2}, Doer: d, PerHost: &fetch.PerHost{Limit: 2}}
		for range f.Fetch(t.Context(), hosts(4, 1)) {
		}
		times := d.begun["0.test"]
		require.Len(t, times, 4)
		for _, at := range times[2:] {
			assert.GreaterOrEqual(t, at.Sub(times[0]), 31*time.Second)
		}
	})
}

// A Doer that makes several requests of one by a Fetcher of its own has that one's policies for
// them, and one place of the outer one, whose Trace does not hear of them.
func TestFetcherInADoer(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Pool{Workers: 1}, fetch.Semaphore{Limit: 1}, fetch.Serial{}} {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var gauge fetchtest.Gauge
				inner := &fetch.Fetcher{PerHost: &fetch.PerHost{Limit: 1}, Doer: gauge.Doer(fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
					time.Sleep(10 * time.Millisecond)
					return status(200)
				}))}
				several := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
					for res := range inner.Get(ctx, slices.Repeat([]string{r.URL}, 8)...) {
						assert.True(t, res.OK())
					}
					return status(200)
				})
				started, n := 0, 0
				outer := fetch.Fetcher{Strategy: s, Doer: several, Trace: func(e fetch.Event) {
					if e.Kind == fetch.EventStart {
						started++
					}
				}}
				for r := range outer.Fetch(t.Context(), hosts(50, 1)) {
					require.True(t, r.OK())
					n++
				}
				assert.Equal(t, 50, n)
				assert.Equal(t, 50, started, "requests that Trace heard of")
				assert.Equal(t, 1, gauge.Peak(), "requests under way")
				assert.Equal(t, 400, gauge.Total())
			})
		})
	}
}

// A Fetcher in a Doer that gives its requests less time than the run ends in time.
func TestFetcherInADoerWithDeadline(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Pool{Workers: 1}, fetch.Semaphore{Limit: 1}} {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var gauge fetchtest.Gauge
				retrying := &fetch.Fetcher{Retry: &fetch.Retry{Backoff: 1}, Doer: gauge.Doer(fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
					time.Sleep(time.Second / 2)
					res := status(503, "Retry-After", "1")
					res.Attempts = 1
					return res
				}))}
				brief := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) (last fetch.Result) {
					ctx, cancel := context.WithCancel(ctx)
					defer cancel()
					defer time.AfterFunc(2200*time.Millisecond, cancel).Stop()
					begun := time.Now()
					for last = range retrying.Get(ctx, r.URL) {
					}
					assert.LessOrEqual(t, time.Since(begun), 2200*time.Millisecond)
					return last
				})
				n := 0
				for r := range (&fetch.Fetcher{Strategy: s, Doer: brief}).Fetch(t.Context(), hosts(20, 1)) {
					assert.ErrorIs(t, r.Err, fetch.ErrCanceled)
					assert.Equal(t, 2, r.Attempts)
					n++
				}
				assert.Equal(t, 20, n)
				assert.Equal(t, 1, gauge.Peak(), "requests under way")
			})
		})
	}
}

// Waits that no Duration holds are as long as they may be.
func TestRetryLongWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, r := range []*fetch.Retry{
			{Backoff: 10 * time.Second, Attempts: 100},
			{Backoff: math.MaxInt64, MaxWait: math.MaxInt64},
			{MaxWait: math.MaxInt64, Attempts: 100},
		} {
			r.Budget = 10
			f := fetch.Fetcher{Retry: r, Doer: &script{answers: []fetch.Result{status(503)}}}
			n := 0
			for res := range f.Fetch(t.Context(), hosts(20, 1)) {
				assert.Equal(t, 503, res.Status)
				assert.Greater(t, res.Attempts, 1)
				n++
			}
			assert.Equal(t, 20, n)
		}
	})
}

// A host is found again though an old request is still under way there.
func TestPerHostProbesDuringDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		back := begun.Add(2500 * time.Millisecond)
		f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 4}, PerHost: &fetch.PerHost{}, Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			switch {
			case strings.HasSuffix(r.URL, "/long"):
				time.Sleep(time.Hour)
			case time.Now().Before(back):
				return failure(fetch.ErrDial, nil)
			}
			return status(200)
		})}
		urls := append([]string{"http://a.test/long"}, slices.Repeat([]string{"http://a.test/"}, 20)...)
		failed := 0
		for r := range f.Get(t.Context(), urls...) {
			switch {
			case r.Request.Index == 0:
				assert.True(t, r.OK())
				assert.Equal(t, time.Hour, time.Since(begun))
			case r.Err != nil:
				failed++
				assert.Zero(t, time.Since(begun), "one of those that found it down")
			default:
				assert.Equal(t, 3*time.Second, time.Since(begun), "the third time that a probe asks")
			}
		}
		assert.Equal(t, 2, failed, "requests that failed before it was down: the third, and others that had begun, are held")
	})
}
