package nethttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/rules"
)

// newTransport returns a Transport that keeps 100 connections to a host, made by dial unless that is nil.
func newTransport(dial rules.DialFunc) *Transport {
	return New(&http.Transport{MaxIdleConnsPerHost: 100, DialContext: dial}, Options{MaxHead: 1 << 20})
}

// get performs a GET request within an attempt of its own, follows redirects, and reads at most
// 1000 bytes of the body.
func get(ctx context.Context, tr *Transport, url string) (*http.Response, error) {
	a := NewAttempt(ctx, 30*time.Second, 15*time.Second)
	defer a.Stop()
	for {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		resp, _, err := tr.RoundTrip(a, req)
		if err != nil {
			return nil, err
		}
		_, err = io.CopyN(io.Discard, resp.Body, 1000)
		resp.Body.Close()
		resp.Body.Close() // once more, which must not count
		if url = resp.Header.Get("Location"); url == "" {
			if err == io.EOF {
				err = nil
			}
			return resp, err
		}
	}
}

type numbers struct{ requests, conns int }

// hostsOf returns what tr counts for each host.
func hostsOf(tr *Transport) map[string]numbers {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	hosts := make(map[string]numbers)
	for o, h := range tr.hosts {
		hosts[o.String()] = numbers{h.requests, h.conns}
	}
	return hosts
}

// forgets checks that nothing is left of the hosts once their connections are closed.
func forgets(t *testing.T, tr *Transport) {
	t.Helper()
	tr.CloseIdle()
	require.Eventually(t, func() bool { return tr.Hosts() == 0 }, 10*time.Second, time.Millisecond, "%v", hostsOf(tr))
}

// A crawl sees millions of hosts: each has to be forgotten with its last connection.
func TestTransportForgetsEachHost(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "http://redirected-"+r.Host+"/", http.StatusFound)
		case "/cut":
			panic(http.ErrAbortHandler)
		case "/large":
			w.Write(make([]byte, 1<<20))
		}
		io.WriteString(w, "hello")
	}))
	defer server.Close()
	tr := newTransport(func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "refused") {
			return nil, errors.New("refused")
		}
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	})
	defer tr.CloseIdle()

	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for _, path := range []string{"/", "/away", "/cut", "/large", "/"} {
				get(t.Context(), tr, fmt.Sprintf("http://host%d.invalid%s", i/2, path))
			}
			get(t.Context(), tr, fmt.Sprintf("http://refused%d.invalid/", i))
		})
	}
	wg.Wait()
	for host, h := range hostsOf(tr) {
		assert.Zero(t, h.requests, host)
		assert.NotContains(t, host, "refused")
	}
	assert.NotEmpty(t, hostsOf(tr), "connections were kept")
	forgets(t, tr)
}

// Nothing is left of a request that was canceled while its dial was under way, or waited for its
// turn.
func TestTransportForgetsCanceled(t *testing.T) {
	const n = 10
	dialing := make(chan bool, n)
	tr := newTransport(func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialing <- true
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			_, err := get(ctx, tr, "http://black-hole.invalid/")
			assert.ErrorIs(t, err, context.Canceled)
		})
	}
	for range n {
		<-dialing
	}
	assert.Equal(t, n, hostsOf(tr)["http://black-hole.invalid"].conns)
	cancel()
	wg.Wait()
	forgets(t, tr)
}

// Nothing is left of a request in which a function of the caller's has panicked.
func TestTransportForgetsPanicked(t *testing.T) {
	tr := New(&http.Transport{Proxy: func(*http.Request) (*url.URL, error) { panic("no proxy") }}, Options{})
	assert.PanicsWithValue(t, "no proxy", func() { get(t.Context(), tr, "http://a.invalid/") })
	assert.Zero(t, tr.Hosts())
}

// toNobody dials a connection whose other end is closed.
func toNobody(context.Context, string, string) (net.Conn, error) {
	conn, other := net.Pipe()
	other.Close()
	return conn, nil
}

var aInvalid = rules.Origin{Scheme: "http", Host: "a.invalid"}

// dialFor dials as net/http does for the request x: its context's values, and no end.
func dialFor(x *exchange, ctx context.Context) (net.Conn, error) {
	return x.t.dial(context.WithValue(ctx, exchangeKey{}, x), "tcp", "a.invalid:80")
}

// With one request under way there is never a second connection on order: its dial waits for a
// while until there is room, or until it is wanted no more.
func TestDialWaitsForItsTurn(t *testing.T) {
	tr := newTransport(toNobody)
	begin := func() *exchange { return tr.begin(NewAttempt(t.Context(), 0, 0), aInvalid) }
	first := begin()
	// waiting begins a further dial, and returns where its connection will arrive.
	waiting := func() <-chan net.Conn {
		dialed := make(chan net.Conn, 1)
		go func() {
			conn, _ := dialFor(first, context.Background())
			dialed <- conn
		}()
		require.Eventually(t, func() bool {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			return first.host.changed != nil
		}, 10*time.Second, time.Millisecond, "it does not wait")
		return dialed
	}

	conn, err := dialFor(first, context.Background())
	require.NoError(t, err)
	next := waiting()
	conn.Close()
	conn.Close() // once more, which must not count
	conn = <-next
	require.NotNil(t, conn, "a connection has been closed")

	next = waiting()
	second := begin()
	surplus := <-next
	require.NotNil(t, surplus, "a request has come")
	surplus.Close()
	second.end()
	second.end() // once more, which must not count

	ended, end := context.WithCancel(context.Background())
	end()
	_, err = dialFor(first, ended)
	assert.ErrorIs(t, err, context.Canceled, "the transport gave the dial up")
	late := begin()
	late.end()
	late.Stop()
	_, err = dialFor(late, context.Background())
	assert.ErrorIs(t, err, context.Canceled, "its request has ended")

	conn.Close()
	first.end()
	assert.Empty(t, tr.hosts)
}

// A connection that never comes free must not hold a request up for longer than a dial takes.
func TestDialLosesPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTransport(toNobody).begin(NewAttempt(t.Context(), 0, 0), aInvalid)
		defer x.end()
		begun := time.Now()
		for range 2 {
			conn, err := dialFor(x, context.Background())
			require.NoError(t, err)
			defer conn.Close()
		}
		assert.Positive(t, time.Since(begun), "the second one did not wait")
		assert.LessOrEqual(t, time.Since(begun), 5*time.Second)
	})
}
