package fetch_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// A server that closes each connection must not make a request wait for ever: its
// dial waits for a place only while the others have their connections.
func TestClientWhenConnectionsClose(t *testing.T) {
	url := serveRaw(t, sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) // and closes, unannounced
	client := tidy(t, &fetch.Client{})
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: client}
	received := 0
	for r := range f.Get(t.Context(), slices.Repeat([]string{url}, 300)...) {
		// A connection that closes just as it is used again is the server's doing.
		if r.Err != nil {
			require.ErrorIs(t, r.Err, fetch.ErrReset)
		}
		received++
	}
	assert.Equal(t, 300, received)
}

// net/http's transport speaks HTTP/2 where it may: its responses are as complete.
func TestHTTPClientHTTP2(t *testing.T) {
	s := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "8")
		io.WriteString(w, r.Proto)
	}))
	f := fetch.Fetcher{Doer: tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: trusting(s, fetch.NewTransport())}})}
	for r := range f.Get(t.Context(), slices.Repeat([]string{s.URL}, 500)...) {
		require.NoError(t, r.Err)
		require.Equal(t, "HTTP/2.0", string(r.Body))
		require.Equal(t, "HTTP/2.0", r.Proto())
	}
}

// Over HTTP/2 responses bear the number of their request.
func TestHTTPClientHTTP2WithoutTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto+r.URL.Path)
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	transport := fetch.NewTransport()
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetUnencryptedHTTP2(true)
	client := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: transport}})
	f := fetch.Fetcher{Doer: client}
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for i := range 2000 {
			if !yield(fetch.Request{URL: fmt.Sprint(s.URL, "/", i)}) {
				return
			}
		}
	}) {
		require.NoError(t, r.Err)
		require.Equal(t, fmt.Sprint("HTTP/2.0/", r.Request.Index), string(r.Body))
		require.Equal(t, 1, r.Attempts)
	}
}

// A connection that is stuck in the handshake must not stand in the way of the next.
func TestClientStuckHandshake(t *testing.T) {
	const short = 300 * time.Millisecond
	for _, c := range []struct {
		client *fetch.Client
		text   string
	}{
		{&fetch.Client{Timeout: short, DialTimeout: -1}, "no complete response within 300ms: see Timeout"},
		{&fetch.Client{Timeout: -1, DialTimeout: short}, "no connection within 300ms, the TLS handshake took too long: see DialTimeout"},
		{&fetch.Client{DialTimeout: short, MaxConnsPerHost: 1}, "no connection within 300ms, the TLS handshake took too long: see DialTimeout"},
	} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
		silent := &firstIsSilent{Listener: s.Listener, done: make(chan struct{})}
		s.Listener = silent
		s.StartTLS()
		t.Cleanup(s.Close)
		client := tidy(t, c.client)
		client.TLS = trust(s)
		res := get(t, client, s.URL)
		assert.ErrorIs(t, res.Err, fetch.ErrTimeout)
		assert.ErrorContains(t, res.Err, c.text)
		<-silent.done // the connection has been closed
		for range 3 {
			require.NoError(t, get(t, client, s.URL).Err)
		}
	}
}

// firstIsSilent is a listener whose first connection gets no response.
type firstIsSilent struct {
	net.Listener
	once sync.Once
	done chan struct{} // closed when that connection is
}

func (l *firstIsSilent) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	l.once.Do(func() {
		if err == nil {
			go func(c net.Conn) {
				io.Copy(io.Discard, c)
				c.Close()
				close(l.done)
			}(c)
			c, err = l.Listener.Accept()
		}
	})
	return c, err
}

// A connection to a proxy is of no use to a request for another one.
func TestClientRotatingProxies(t *testing.T) {
	var proxies []*url.URL
	for range 3 {
		u, err := url.Parse(serve(t, answers([]byte("proxied"))).URL)
		require.NoError(t, err)
		proxies = append(proxies, u)
	}
	var n atomic.Int64
	client := tidy(t, &fetch.Client{Proxy: func(*url.URL) (*url.URL, error) { return proxies[n.Add(1)%3], nil }})
	for i := range 9 {
		r := get(t, client, "http://host.test/")
		require.NoError(t, r.Err)
		require.Equal(t, "proxied", string(r.Body))
		require.Equal(t, proxies[(i+1)%3].Host, r.RemoteAddr().String())
	}
}

// A 304 tells the length of a body that it does not have.
func TestClientNotModified(t *testing.T) {
	// net/http's server leaves the length out of it in HTTP/1.1.
	plain := serveRaw(t, sends("HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\n\r\n"))
	s := serveTLS(t, answersStatus(http.StatusNotModified, "Content-Length", "1234"))
	client := tidy(t, &fetch.Client{})
	users := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: trusting(s, fetch.NewTransport())}})
	for _, c := range []struct {
		client     engine
		url, proto string
	}{{client, plain, "HTTP/1.1"}, {users, plain, "HTTP/1.1"}, {users, s.URL, "HTTP/2.0"}} {
		r := get(t, c.client, c.url)
		require.NoError(t, r.Err, c.proto)
		assert.Equal(t, 304, r.Status, c.proto)
		assert.Equal(t, "1234", r.Header().Get("Content-Length"), c.proto)
		assert.Empty(t, r.Body, c.proto)
		assert.Equal(t, c.proto, r.Proto())
	}
}
