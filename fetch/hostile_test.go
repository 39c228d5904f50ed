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
	"strings"
	"sync"
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

// What a proxy says is neither told nor heeded.
func TestClientProxyText(t *testing.T) {
	proxy, err := url.Parse(serveRaw(t, sends("HTTP/1.1 407 tls: "+secret+"\r\n\r\n")))
	require.NoError(t, err)
	var heard atomic.Int64
	for _, hook := range []func(context.Context, *url.URL, *http.Request, *http.Response) error{
		nil,
		func(context.Context, *url.URL, *http.Request, *http.Response) error { heard.Add(1); return nil },
	} {
		client := tidy(t, &fetch.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), OnProxyConnectResponse: hook}})
		res := get(t, client, "https://a.invalid/")
		assert.ErrorIs(t, res.Err, fetch.ErrDial)
		assert.ErrorContains(t, res.Err, "the proxy answered CONNECT with status 407")
		assert.NotContains(t, res.Err.Error(), secret)
	}
	assert.EqualValues(t, 1, heard.Load())
}

// A name in a certificate, say, must not forge a line of a log.
func TestErrorTextIsOneLine(t *testing.T) {
	e := &fetch.Error{Kind: fetch.ErrTLS, URL: "http://a.test/", Err: errors.New("valid for a\nFORGED \x1b[31m\u202e" + strings.Repeat("x", 3000))}
	assert.NotContains(t, e.Error(), "\n")
	assert.NotContains(t, e.Error(), "\x1b")
	assert.NotContains(t, e.Error(), "\u202e")
	assert.Less(t, len(e.Error()), 700)
}

// Two hosts may be one to Unicode, in its upper and lower cases.
func TestRedirectOriginIDN(t *testing.T) {
	server := hopServer(t)
	u, err := url.Parse(server)
	require.NoError(t, err)
	client := tidy(t, &fetch.Client{Transport: dialedBy(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, u.Host)
	})})
	for _, c := range []struct {
		from, to string
		kept     bool
	}{
		{"http://fa\u00df.test", "http://fa\u1e9e.test", false},
		{"http://\u03b2\u03cc\u03bb\u03bf\u03c2.test", "http://\u03b2\u03cc\u03bb\u03bf\u03c3.test", false},
		{"http://k.test", "http://\u212a.test", false},
		{"http://b\u00fccher.test", "http://b\u00fccher.test", true},
	} {
		a := decoded[arrived](t, client, &fetch.Request{URL: hopTo(c.from, 302, c.to+"/to"), Header: http.Header{"Cookie": {"x=y"}}})
		assert.Equal(t, c.kept, a.Header.Get("Cookie") != "", "%s to %s", c.from, c.to)
	}
}

type nowhereConn struct{ net.Conn }

func (nowhereConn) RemoteAddr() net.Addr { return nil }

func TestClientAllowWithoutAddress(t *testing.T) {
	client := tidy(t, &fetch.Client{Allow: func(netip.AddrPort) error { return nil }, Transport: dialedBy(func(context.Context, string, string) (net.Conn, error) {
		conn, other := net.Pipe()
		other.Close()
		return nowhereConn{conn}, nil
	})})
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
func TestClientIdleReadInBetween(t *testing.T) {
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
		client := tidy(t, &fetch.Client{IdleRead: idle, Transport: dialedBy(slow)})
		res := client.Do(t.Context(), &fetch.Request{Method: "PUT", URL: server.URL, Body: make([]byte, 1<<20)})
		assert.False(t, errors.Is(res.Err, fetch.ErrTimeout), "%v", res.Err)
	}
}

// Spacing is between the beginnings, also where a request first has to get its place back.
func TestPerHostSpacingUnderLoad(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Pool{Workers: 2}, fetch.Semaphore{Limit: 2}} {
		for _, limit := range []int{1, 3} {
			t.Run(fmt.Sprint(s, limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := &byHost{do: func(_ context.Context, r *fetch.Request) fetch.Result {
						if !strings.HasPrefix(r.URL, "http://0.") {
							time.Sleep(time.Second)
						}
						return status(200)
					}}
					f := fetch.Fetcher{Strategy: s, Doer: &fetch.PerHost{Doer: d, Limit: limit, Spacing: 200 * time.Millisecond}}
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

// A request that was called before its host was parked waits for the end of that.
func TestPerHostParksWhoWasCalled(t *testing.T) {
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
		f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 2}, Doer: &fetch.PerHost{Doer: d, Limit: 2}}
		for range f.Fetch(t.Context(), hosts(4, 1)) {
		}
		times := d.begun["0.test"]
		require.Len(t, times, 4)
		for _, at := range times[2:] {
			assert.GreaterOrEqual(t, at.Sub(times[0]), 31*time.Second)
		}
	})
}

// A Doer that makes several requests of one has one place for them, which is given once.
func TestPlaceOfSeveral(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Pool{Workers: 1}, fetch.Semaphore{Limit: 1}} {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				polite := &fetch.PerHost{Limit: 1, Doer: fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
					time.Sleep(10 * time.Millisecond)
					return status(200)
				})}
				several := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
					var wg sync.WaitGroup
					for range 8 {
						wg.Go(func() { assert.True(t, okay(polite.Do(ctx, r))) })
					}
					wg.Wait()
					return status(200)
				})
				n := 0
				for r := range (&fetch.Fetcher{Strategy: s, Doer: several}).Fetch(t.Context(), hosts(50, 1)) {
					require.True(t, r.OK())
					n++
				}
				assert.Equal(t, 50, n)
			})
		})
	}
}

// Who gives a request less time than the run gets it back in time, with or without a place.
func TestPlaceWithDeadline(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Pool{Workers: 1}, fetch.Semaphore{Limit: 1}} {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var gauge fetchtest.Gauge
				retry := &fetch.Retry{Backoff: 1, Doer: gauge.Doer(fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
					if r.Index%2 == 0 {
						return status(503, "Retry-After", "1")
					}
					time.Sleep(5 * time.Second)
					return status(200)
				}))}
				brief := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
					if r.Index%2 == 0 {
						var cancel func()
						ctx, cancel = context.WithCancel(ctx)
						defer time.AfterFunc(2*time.Second, cancel).Stop()
						begun := time.Now()
						defer func() { assert.LessOrEqual(t, time.Since(begun), 2*time.Second) }()
					}
					return retry.Do(ctx, r)
				})
				n := 0
				for range (&fetch.Fetcher{Strategy: s, Doer: brief}).Fetch(t.Context(), hosts(20, 1)) {
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
			r.Doer, r.Budget = &script{answers: []fetch.Result{status(503)}}, 10
			for range 20 {
				assert.Equal(t, 503, r.Do(t.Context(), &fetch.Request{}).Status)
			}
		}
	})
}

// A host is found again though an old request is still under way there.
func TestPerHostProbesDuringDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := true
		p := &fetch.PerHost{Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			switch {
			case strings.HasSuffix(r.URL, "/long"):
				time.Sleep(time.Hour)
			case dead:
				return failure(fetch.ErrDial, nil)
			}
			return status(200)
		})}
		var wg sync.WaitGroup
		wg.Go(func() { get(t, p, "http://a.test/long") })
		synctest.Wait()
		for range 3 {
			get(t, p, "http://a.test/")
		}
		dead = false
		assert.Error(t, get(t, p, "http://a.test/").Err)
		time.Sleep(time.Second)
		assert.True(t, okay(get(t, p, "http://a.test/")))
		wg.Wait()
	})
}
