package fetch_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mccutchen/go-httpbin/v2/httpbin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// newClient returns c, with its connections closed at the end of the test.
func newClient(t *testing.T, c *fetch.Client) *fetch.Client {
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func newHTTPServer(t *testing.T, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// rawServer answers each request on each connection by answer, which gets the connection
// after the head of a request has been read; the connection is closed when it returns false.
func rawServer(t *testing.T, answer func(c *net.TCPConn) bool) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	t.Cleanup(func() { l.Close(); running.Wait() })
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				for {
					if !readHead(c) || !answer(c.(*net.TCPConn)) {
						return
					}
				}
			})
		}
	})
	return "http://" + l.Addr().String()
}

func readHead(c net.Conn) bool {
	var head []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		if _, err := c.Read(one); err != nil {
			return false
		}
		head = append(head, one[0])
	}
	return true
}

// says is an answer of rawServer: text, and then the end of the connection.
func says(text string) func(*net.TCPConn) bool {
	return func(c *net.TCPConn) bool {
		io.WriteString(c, text)
		return false
	}
}

// dialing returns a transport whose dials end in err.
func dialing(err error) *http.Transport {
	t := fetch.NewTransport()
	t.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, err }
	return t
}

func get(t *testing.T, d fetch.Doer, url string) fetch.Result {
	return d.Do(t.Context(), &fetch.Request{URL: url})
}

// Each thing that goes wrong has its kind, and a whole answer has none.
func TestClientErrorKinds(t *testing.T) {
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, refused.Close())
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it would report the handshake that fails
	secure.StartTLS()
	t.Cleanup(secure.Close)
	silent := rawServer(t, func(c *net.TCPConn) bool { io.Copy(io.Discard, c); return false })
	stalls := rawServer(t, func(c *net.TCPConn) bool {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
		io.Copy(io.Discard, c)
		return false
	})
	reset := rawServer(t, func(c *net.TCPConn) bool { c.SetLinger(0); return false })
	plain := fetchtest.NewServer(t)
	gzipped := func(body []byte) string {
		return newHTTPServer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(body)
		})
	}
	bin := newHTTPServer(t, httpbin.New().ServeHTTP)
	quick := &fetch.Client{Timeout: 50 * time.Millisecond}

	tests := map[string]struct {
		client *fetch.Client
		url    string
		kind   fetch.Kind
		status int
	}{
		"whole":                   {nil, plain.Ping(1), "", 200},
		"name without an address": {&fetch.Client{Transport: dialing(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "nosuchhost.invalid", IsNotFound: true}})}, "http://nosuchhost.invalid/", fetch.ErrDNS, 0},
		"refused":                 {nil, "http://" + refused.Addr().String(), fetch.ErrDial, 0},
		"certificate":             {nil, secure.URL, fetch.ErrTLS, 0},
		"TLS to plain HTTP":       {nil, strings.Replace(plain.URL, "http:", "https:", 1), fetch.ErrTLS, 0},
		"silence":                 {quick, silent, fetch.ErrTimeout, 0},
		"stalled body":            {quick, stalls, fetch.ErrTimeout, 200},
		"closed without answer":   {nil, rawServer(t, says("")), fetch.ErrReset, 0},
		"reset":                   {nil, reset, fetch.ErrReset, 0},
		"short body":              {nil, rawServer(t, says("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")), fetch.ErrTruncated, 200},
		"short chunk":             {nil, rawServer(t, says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n123")), fetch.ErrTruncated, 200},
		"half a head":             {nil, rawServer(t, says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n")), fetch.ErrTruncated, 0},
		"not HTTP":                {nil, rawServer(t, says("220 mail ESMTP\r\n\r\n")), fetch.ErrProtocol, 0},
		"bad chunk":               {nil, rawServer(t, says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")), fetch.ErrProtocol, 200},
		"not gzip":                {nil, gzipped([]byte("plain text")), fetch.ErrDecode, 200},
		"corrupt gzip":            {nil, gzipped(corrupt(zipped(make([]byte, 5000)))), fetch.ErrDecode, 200},
		"gzip bomb":               {&fetch.Client{MaxBody: 1000}, gzipped(zipped(make([]byte, 1001))), fetch.ErrTooLarge, 200},
		"gzip just small enough":  {&fetch.Client{MaxBody: 1000}, gzipped(zipped(make([]byte, 1000))), "", 200},
		"length too large":        {&fetch.Client{MaxBody: 17}, plain.Ping(1), fetch.ErrTooLarge, 200},
		"length large enough":     {&fetch.Client{MaxBody: 18}, plain.Ping(1), "", 200},
		"chunked too large":       {&fetch.Client{MaxBody: 99}, bin + "/stream/5", fetch.ErrTooLarge, 200},
		"no limit":                {&fetch.Client{MaxBody: -1}, bin + "/stream/5", "", 200},
		"too many redirects":      {nil, bin + "/redirect/11", fetch.ErrRedirect, 302},
		"as many as allowed":      {nil, bin + "/redirect/10", "", 200},
		"one too many":            {&fetch.Client{MaxRedirects: 2}, bin + "/redirect/3", fetch.ErrRedirect, 302},
		"redirects not followed":  {&fetch.Client{MaxRedirects: -1}, bin + "/redirect/3", "", 302},
		"redirect to ftp":         {nil, rawServer(t, says("HTTP/1.1 302 Found\r\nLocation: ftp://host/\r\nContent-Length: 0\r\n\r\n")), fetch.ErrRedirect, 302},
		"redirect to this host":   {nil, rawServer(t, says("HTTP/1.1 302 Found\r\nLocation: http://:80/\r\nContent-Length: 0\r\n\r\n")), fetch.ErrRedirect, 302},
		"http.Client's redirects": {fetch.HTTP(&http.Client{Transport: fetch.NewTransport()}), bin + "/redirect/11", fetch.ErrRedirect, 302},
		"http.Client's timeout":   {fetch.HTTP(&http.Client{Transport: fetch.NewTransport(), Timeout: 50 * time.Millisecond}), silent, fetch.ErrTimeout, 0},
		"http.Client, refused":    {fetch.HTTP(&http.Client{Transport: fetch.NewTransport()}), "http://" + refused.Addr().String(), fetch.ErrDial, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.client == nil {
				test.client = &fetch.Client{}
			}
			r := get(t, newClient(t, test.client), test.url+"?token=secret")
			assert.Equal(t, test.kind, fetch.KindOf(r.Err), "%v", r.Err)
			assert.Equal(t, test.status, r.Status)
			assert.Equal(t, 1, r.Attempts)
			assert.Positive(t, r.Duration)
			if test.kind == "" {
				assert.NoError(t, r.Err)
				return
			}
			var e *fetch.Error
			require.ErrorAs(t, r.Err, &e)
			assert.ErrorIs(t, r.Err, test.kind)
			assert.NotContains(t, r.Err.Error(), "secret")
			assert.Contains(t, r.Err.Error(), e.URL)
			assert.Equal(t, test.kind == fetch.ErrTimeout, errors.Is(r.Err, context.DeadlineExceeded))
			assert.Equal(t, test.kind == fetch.ErrTimeout, e.Timeout())
		})
	}
}

func zipped(b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(b)
	w.Close()
	return buf.Bytes()
}

// corrupt changes the checksum.
func corrupt(b []byte) []byte {
	b[len(b)-8] ^= 0xff
	return b
}

func TestClientCancel(t *testing.T) {
	arrived := make(chan struct{}, 1)
	silent := rawServer(t, func(c *net.TCPConn) bool { arrived <- struct{}{}; io.Copy(io.Discard, c); return false })
	client := newClient(t, &fetch.Client{})

	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the user has left")
	go func() { <-arrived; cancel(why) }()
	r := client.Do(ctx, &fetch.Request{URL: silent})
	assert.ErrorIs(t, r.Err, fetch.ErrCanceled)
	assert.ErrorIs(t, r.Err, context.Canceled)
	assert.ErrorIs(t, r.Err, why)

	ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	r = client.Do(ctx, &fetch.Request{URL: silent})
	assert.ErrorIs(t, r.Err, fetch.ErrTimeout, "the caller's deadline is a timeout")
	assert.ErrorIs(t, r.Err, context.DeadlineExceeded)
}

// A full table of files is not the URL's fault, and the user can do something about it.
func TestClientLocalLimits(t *testing.T) {
	for advice, cause := range map[string]error{
		"lower the strategy's limit or raise ulimit -n": os.NewSyscallError("socket", syscall.EMFILE),
		"no free local port":                            os.NewSyscallError("connect", syscall.EADDRNOTAVAIL),
	} {
		client := newClient(t, &fetch.Client{Transport: dialing(&net.OpError{Op: "dial", Net: "tcp", Err: cause})})
		for range 3 { // a dial that failed gives its place back
			r := get(t, client, "http://host.test/")
			assert.ErrorIs(t, r.Err, fetch.ErrDial)
			assert.ErrorIs(t, r.Err, cause)
			assert.ErrorContains(t, r.Err, advice)
		}
	}
}

// A server that closes each connection must not make a request wait for ever: its
// dial waits for a place only while the others have their connections.
func TestClientWhenConnectionsClose(t *testing.T) {
	url := rawServer(t, says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) // and closes, unannounced
	client := newClient(t, &fetch.Client{})
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: client}
	urls := make([]string, 300)
	for i := range urls {
		urls[i] = url
	}
	received := 0
	for r := range f.Get(t.Context(), urls...) {
		// A connection that closes just as it is used again is the server's doing.
		if r.Err != nil {
			require.ErrorIs(t, r.Err, fetch.ErrReset)
		}
		received++
	}
	assert.Equal(t, 300, received)
}

func TestClientHTTP2(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5")
		io.WriteString(w, "hello")
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	transport := fetch.NewTransport()
	transport.TLSClientConfig = &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	f := fetch.Fetcher{Doer: newClient(t, &fetch.Client{Transport: transport})}
	urls := make([]string, 500)
	for i := range urls {
		urls[i] = s.URL
	}
	for r := range f.Get(t.Context(), urls...) {
		require.NoError(t, r.Err)
		require.Equal(t, "hello", string(r.Body))
	}
}

// A connection that is stuck in the handshake must not stand in the way of the next.
func TestClientStuckHandshake(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	silent := &firstIsSilent{Listener: s.Listener, done: make(chan struct{})}
	s.Listener = silent
	s.StartTLS()
	t.Cleanup(s.Close)
	transport := fetch.NewTransport()
	transport.TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig
	// Without a limit of its own, only the client ends the handshake.
	transport.TLSHandshakeTimeout = 0
	client := newClient(t, &fetch.Client{Transport: transport, Timeout: 300 * time.Millisecond})
	assert.ErrorIs(t, get(t, client, s.URL).Err, fetch.ErrTimeout)
	<-silent.done // it has been closed, though net/http would wait on

	patient := newClient(t, &fetch.Client{Transport: transport})
	for range 3 {
		require.NoError(t, get(t, patient, s.URL).Err)
	}
}

// firstIsSilent is a listener whose first connection nobody answers.
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
		u, err := url.Parse(newHTTPServer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "proxied") }))
		require.NoError(t, err)
		proxies = append(proxies, u)
	}
	var n atomic.Int64
	transport := fetch.NewTransport()
	transport.Proxy = func(*http.Request) (*url.URL, error) { return proxies[n.Add(1)%3], nil }
	client := newClient(t, &fetch.Client{Transport: transport})
	for range 9 {
		r := get(t, client, "http://host.test/")
		require.NoError(t, r.Err)
		require.Equal(t, "proxied", string(r.Body))
	}
}

// A 304 tells the length of a body that it does not have.
func TestClientNotModified(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1234")
			w.WriteHeader(http.StatusNotModified)
		}))
		s.EnableHTTP2 = http2
		s.StartTLS()
		t.Cleanup(s.Close)
		transport := fetch.NewTransport()
		transport.TLSClientConfig = &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
		r := get(t, newClient(t, &fetch.Client{Transport: transport}), s.URL)
		require.NoError(t, r.Err)
		assert.Equal(t, 304, r.Status)
		assert.Empty(t, r.Body)
	}
}

// A space that reached the request line as it is would end the URL there.
func TestClientSpaceInQuery(t *testing.T) {
	url := newHTTPServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	r := get(t, newClient(t, &fetch.Client{}), url+"/a b?c d HTTP/1.0")
	require.NoError(t, r.Err)
	assert.Equal(t, "/a%20b?c%20d%20HTTP/1.0", string(r.Body))
}
