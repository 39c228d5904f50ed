package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/rules"
)

type numbers struct{ requests, conns int }

// hostsOf returns what c's dialer counts for each host.
func hostsOf(c *Client) map[string]numbers {
	c.dialer.mu.Lock()
	defer c.dialer.mu.Unlock()
	hosts := make(map[string]numbers)
	for o, h := range c.dialer.hosts {
		hosts[o.scheme+"://"+o.host] = numbers{h.requests, h.conns}
	}
	return hosts
}

// forgets checks that nothing is left of the hosts once their connections are closed.
func forgets(t *testing.T, c *Client) {
	t.Helper()
	c.CloseIdleConnections()
	require.Eventually(t, func() bool { return len(hostsOf(c)) == 0 }, 10*time.Second, time.Millisecond, "%v", hostsOf(c))
}

// A crawl sees millions of hosts: each has to be forgotten with its last connection.
func TestDialerForgetsEachHost(t *testing.T) {
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
	c := &Client{MaxBody: 1000, Transport: &http.Transport{MaxIdleConnsPerHost: 100, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "refused") {
			return nil, errors.New("refused")
		}
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}}}
	defer c.CloseIdleConnections()

	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for _, path := range []string{"/", "/away", "/cut", "/large", "/"} {
				c.Do(t.Context(), &Request{URL: fmt.Sprintf("http://host%d.invalid%s", i/2, path)})
			}
			c.Do(t.Context(), &Request{URL: fmt.Sprintf("http://refused%d.invalid/", i)})
		})
	}
	wg.Wait()
	for host, h := range hostsOf(c) {
		assert.Zero(t, h.requests, host)
		assert.NotContains(t, host, "refused")
	}
	assert.NotEmpty(t, hostsOf(c), "connections were kept")
	forgets(t, c)
}

// Nothing is left of a request that was canceled while its dial was under way,
// or waited for its turn.
func TestDialerForgetsCanceled(t *testing.T) {
	const n = 10
	dialing := make(chan bool, n)
	c := &Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialing <- true
		<-ctx.Done()
		return nil, ctx.Err()
	}}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			res := c.Do(ctx, &Request{URL: "http://black-hole.invalid/"})
			assert.ErrorIs(t, res.Err, ErrCanceled)
		})
	}
	for range n {
		<-dialing
	}
	assert.Equal(t, n, hostsOf(c)["http://black-hole.invalid"].conns)
	cancel()
	wg.Wait()
	forgets(t, c)
}

// toNobody dials a connection whose other end is closed.
func toNobody(context.Context, string, string) (net.Conn, error) {
	conn, other := net.Pipe()
	other.Close()
	return conn, nil
}

func hopOf(ctx context.Context) *hop { return &hop{attempt: newAttempt(ctx, 0, 0)} }

// With one request under way there is never a second connection on order: its dial
// waits for a while until there is room, or until it is wanted no more.
func TestDialerWaitsForItsTurn(t *testing.T) {
	d := &dialer{opener: rules.Dialer{Dial: toNobody}}
	host := origin{"http", "a.invalid"}
	first := hopOf(t.Context())
	d.enter(first, host)
	ctx := context.WithValue(context.Background(), hopKey{}, first)
	dial := func() net.Conn {
		conn, err := d.DialContext(ctx, "tcp", "a.invalid:80")
		require.NoError(t, err)
		return conn
	}
	// waiting begins a further dial, and returns where its connection will arrive.
	waiting := func() <-chan net.Conn {
		dialed := make(chan net.Conn, 1)
		go func() {
			conn, _ := d.DialContext(ctx, "tcp", "a.invalid:80")
			dialed <- conn
		}()
		require.Eventually(t, func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return first.host.changed != nil
		}, 10*time.Second, time.Millisecond, "it does not wait")
		return dialed
	}

	conn := dial()
	next := waiting()
	conn.Close()
	conn.Close() // once more, which must not count
	conn = <-next
	require.NotNil(t, conn, "a connection has been closed")

	next = waiting()
	second := hopOf(t.Context())
	d.enter(second, host)
	surplus := <-next
	require.NotNil(t, surplus, "a request has come")
	surplus.Close()
	d.change(second.host, -1, 0)

	ended, end := context.WithCancel(context.Background())
	end()
	_, err := d.DialContext(context.WithValue(ended, hopKey{}, first), "tcp", "a.invalid:80")
	assert.ErrorIs(t, err, context.Canceled, "the transport gave the dial up")
	late := hopOf(t.Context())
	late.host = first.host
	late.stop()
	_, err = d.DialContext(context.WithValue(context.Background(), hopKey{}, late), "tcp", "a.invalid:80")
	assert.ErrorIs(t, err, context.Canceled, "its request has ended")

	conn.Close()
	d.change(first.host, -1, 0)
	assert.Empty(t, d.hosts)
}

// A connection that never comes free must not hold a request up for longer than a dial takes.
func TestDialerLosesPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dialer{opener: rules.Dialer{Dial: toNobody}}
		h := hopOf(t.Context())
		d.enter(h, origin{"http", "a.invalid"})
		ctx := context.WithValue(context.Background(), hopKey{}, h)
		begun := time.Now()
		for range 2 {
			conn, err := d.DialContext(ctx, "tcp", "a.invalid:80")
			require.NoError(t, err)
			defer conn.Close()
		}
		assert.Positive(t, time.Since(begun), "the second one did not wait")
		assert.LessOrEqual(t, time.Since(begun), 5*time.Second)
		d.change(h.host, -1, 0)
	})
}
