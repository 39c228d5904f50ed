package fetch_test

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// soon is how long a test waits for what has to happen at once, on a busy machine.
const soon = 10 * time.Second

// An engine is a Doer that keeps connections.
type engine interface {
	fetch.Doer
	CloseIdleConnections()
}

// tidy closes c's connections at the end of the test.
func tidy[E engine](t *testing.T, c E) E {
	t.Helper()
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// serve starts a server for h, which is closed at the end of the test.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// counted is serve with a count of the connections. It returns the server's URL.
func counted(t *testing.T, h http.Handler) (string, *atomic.Int64) {
	t.Helper()
	conns := new(atomic.Int64)
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL, conns
}

// serveTLS is serve with TLS and HTTP/2, and without the log of failed handshakes.
func serveTLS(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// trust is a configuration that accepts the certificate of s, which serves TLS.
func trust(s *httptest.Server) *tls.Config {
	return &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
}

// trusting makes transport accept the certificate of s, which serves TLS.
func trusting(s *httptest.Server, transport *http.Transport) *http.Transport {
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = &tls.Config{}
	}
	transport.TLSClientConfig.RootCAs = trust(s).RootCAs
	return transport
}

// get is the answer to a GET of url.
func get(t *testing.T, d fetch.Doer, url string) fetch.Result {
	t.Helper()
	return d.Do(t.Context(), &fetch.Request{URL: url})
}

// decoded is what the body of the answer to req says, which has to be a 200.
func decoded[T any](t *testing.T, d fetch.Doer, req *fetch.Request) T {
	t.Helper()
	res := d.Do(t.Context(), req)
	require.NoError(t, res.Err)
	require.Equal(t, 200, res.Status)
	var v T
	require.NoError(t, res.Decode(&v))
	return v
}

// serveRaw starts a server that reads the head of one request from each connection, calls
// answer and closes the connection. It returns its URL.
func serveRaw(t *testing.T, answer func(conn *net.TCPConn, r *http.Request)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					answer(conn.(*net.TCPConn), r)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return "http://" + l.Addr().String()
}

// sends answers with text and closes the connection.
func sends(text string) func(*net.TCPConn, *http.Request) {
	return func(conn *net.TCPConn, _ *http.Request) { io.WriteString(conn, text) }
}

// hangs answers with text and then waits until the client hangs up.
func hangs(text string) func(*net.TCPConn, *http.Request) {
	return func(conn *net.TCPConn, _ *http.Request) {
		io.WriteString(conn, text)
		io.Copy(io.Discard, conn)
	}
}

// gzipped returns text compressed.
func gzipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.Bytes()
}

// bomb is a gzip stream of one byte more than the default MaxBody, in members of 1 MiB.
var bomb = sync.OnceValue(func() []byte {
	return append(bytes.Repeat(gzipped(strings.Repeat("x", 1<<20)), 10), gzipped("x")...)
})

// answers serves body with the header fields in pairs.
func answers(body []byte, pairs ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			w.Header().Set(pairs[i], pairs[i+1])
		}
		w.Write(body)
	}
}

// A dialFunc makes connections: the Dial of a Client, and the DialContext of a transport.
type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialsTo connects to addr, wherever the URL leads.
func dialsTo(addr string) dialFunc {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}

func failing(err error) dialFunc {
	return func(context.Context, string, string) (net.Conn, error) { return nil, err }
}

func socketError(errno syscall.Errno) dialFunc {
	return failing(&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", errno)})
}

// proxyURL is a Client.Proxy: always u.
func proxyURL(u *url.URL) func(*url.URL) (*url.URL, error) {
	return func(*url.URL) (*url.URL, error) { return u, nil }
}

// secret stands in everything of a request that must not get into a log.
const secret = "s3cret"

// Every way to fail that a client reports: what it is called, what it tells, and that
// neither a request's secrets nor a server that repeats them get into its text.
func TestClientFailures(t *testing.T) {
	raw := func(answer func(*net.TCPConn, *http.Request)) func(*testing.T) string {
		return func(t *testing.T) string { return serveRaw(t, answer) }
	}
	page := func(h http.Handler) func(*testing.T) string {
		return func(t *testing.T) string { return serve(t, h).URL }
	}
	location := func(to string) func(*testing.T) string {
		return page(answersStatus(http.StatusFound, "Location", to))
	}
	nowhere := func(*testing.T) string { return "http://127.0.0.1:1" }
	noHost := &net.DNSError{Err: "no such host", Name: "nosuchhost.invalid", IsNotFound: true}
	const large = 1000

	for _, c := range []struct {
		name    string
		server  func(t *testing.T) string // its URL without a path
		dial    dialFunc                  // the client's; nil: the default
		proxy   *url.URL                  // its proxy; nil: none
		tls     *tls.Config               // its TLS; nil: the default
		timeout time.Duration             // its Timeout, as is
		maxHead int64                     // its MaxHeaderBytes
		most    int64                     // its MaxBody
		kind    fetch.Kind
		status  int
		text    string // something that the error says
		cause   error  // if not nil, one that the error is too
		untold  bool   // http.Client does not tell on which answer it gave up
		own     bool   // only for Client: http.Client takes a URL without a host for one of this machine
	}{
		{name: "DNS", server: func(*testing.T) string { return "http://nosuchhost.invalid" },
			dial: failing(&net.OpError{Op: "dial", Net: "tcp", Err: noHost}), kind: fetch.ErrDNS, text: "no such host", cause: noHost},
		{name: "refused", server: nowhere, kind: fetch.ErrDial, text: "connection refused", cause: syscall.ECONNREFUSED},
		{name: "proxy refused", server: nowhere,
			proxy: &url.URL{Scheme: "http", User: url.UserPassword("u", secret), Host: "127.0.0.1:1"},
			kind:  fetch.ErrDial, text: "connection refused", cause: syscall.ECONNREFUSED},
		// These are not the URL's fault, and the user can do something about them.
		{name: "files of the process", server: nowhere, dial: socketError(syscall.EMFILE),
			timeout: 400 * time.Millisecond, kind: fetch.ErrDial, text: "lower the strategy's limit or raise ulimit -n", cause: syscall.EMFILE},
		{name: "files of the machine", server: nowhere, dial: socketError(syscall.ENFILE),
			timeout: 400 * time.Millisecond, kind: fetch.ErrDial, text: "lower the strategy's limit or raise ulimit -n", cause: syscall.ENFILE},
		{name: "ports", server: nowhere, dial: socketError(syscall.EADDRNOTAVAIL),
			timeout: 400 * time.Millisecond, kind: fetch.ErrDial, text: "no free local port: lower the strategy's limit, or let connections be reused", cause: syscall.EADDRNOTAVAIL},

		{name: "certificate of nobody known", server: func(t *testing.T) string { return serveTLS(t, http.NotFoundHandler()).URL },
			kind: fetch.ErrTLS, text: "certificate"},
		{name: "certificate of another", server: func(t *testing.T) string { return serveTLS(t, http.NotFoundHandler()).URL },
			tls: &tls.Config{ServerName: "other.invalid"}, kind: fetch.ErrTLS, text: "certificate"},
		{name: "no TLS there", server: func(t *testing.T) string {
			return strings.Replace(serve(t, http.NotFoundHandler()).URL, "http:", "https:", 1)
		}, kind: fetch.ErrTLS},

		{name: "silence", server: raw(hangs("")), timeout: 30 * time.Millisecond, kind: fetch.ErrTimeout, text: "30ms"},
		{name: "silence in the head", server: raw(hangs("HTTP/1.1 200 OK\r\n")), timeout: 30 * time.Millisecond, kind: fetch.ErrTimeout},
		{name: "silence in the body", server: raw(hangs("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")),
			timeout: 30 * time.Millisecond, kind: fetch.ErrTimeout, status: 200, text: "30ms"},
		{name: "silence in the body of a redirect", server: raw(hangs("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 10\r\n\r\n12345")),
			timeout: 30 * time.Millisecond, kind: fetch.ErrTimeout, status: 302},

		{name: "closed", server: raw(sends("")), kind: fetch.ErrReset},
		{name: "reset", server: raw(func(conn *net.TCPConn, _ *http.Request) { conn.SetLinger(0) }), kind: fetch.ErrReset},
		{name: "closed in the head", server: raw(sends("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n")), kind: fetch.ErrTruncated},
		{name: "short body", server: raw(sends("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")), kind: fetch.ErrTruncated, status: 200},
		{name: "no body", server: raw(sends("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")), kind: fetch.ErrTruncated, status: 200},
		{name: "short body, large", server: raw(sends("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n12345")), kind: fetch.ErrTruncated, status: 200},
		{name: "short chunk", server: raw(sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n12345")), kind: fetch.ErrTruncated, status: 200},
		{name: "no last chunk", server: raw(sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")), kind: fetch.ErrTruncated, status: 200},

		{name: "no HTTP", server: raw(sends("220 smtp.invalid ESMTP " + secret + "\r\n\r\n")), kind: fetch.ErrProtocol},
		{name: "echo of the request", server: raw(func(conn *net.TCPConn, r *http.Request) {
			r.Write(conn)
		}), kind: fetch.ErrProtocol},
		{name: "status", server: raw(sends("HTTP/1.1 " + secret + " OK\r\n\r\n")), kind: fetch.ErrProtocol},
		{name: "header field", server: raw(func(conn *net.TCPConn, r *http.Request) {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nno field %s\r\n\r\n", r.URL.RawQuery)
		}), kind: fetch.ErrProtocol},
		{name: "length", server: raw(sends("HTTP/1.1 200 OK\r\nContent-Length: " + secret + "\r\n\r\n")), kind: fetch.ErrProtocol},
		{name: "coding", server: raw(sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: " + secret + "\r\n\r\n")), kind: fetch.ErrProtocol},
		{name: "chunk", server: raw(sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + secret + "\r\n")), kind: fetch.ErrProtocol, status: 200},
		{name: "head without end", server: raw(func(conn *net.TCPConn, _ *http.Request) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 100<<10))
			io.Copy(io.Discard, conn)
		}), maxHead: 1000, kind: fetch.ErrTooLarge},
		// What a server says is not taken for an error of ours.
		{name: "says tls", server: raw(sends("tls: no " + secret + "\r\n\r\n")), kind: fetch.ErrProtocol},
		{name: "says server closed", server: raw(sends("server closed " + secret + "\r\n\r\n")), kind: fetch.ErrProtocol},
		{name: "says invalid header field", server: raw(sends("invalid header field " + secret + "\r\n\r\n")), kind: fetch.ErrProtocol},

		{name: "large by its length", server: page(answers(make([]byte, large), "Content-Length", "1000")),
			most: large - 1, kind: fetch.ErrTooLarge, status: 200, text: "999 bytes"},
		{name: "large by its claim", server: raw(hangs("HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000000\r\n\r\n")), kind: fetch.ErrTooLarge, status: 200},
		{name: "large in a chunk", server: page(chunked(make([]byte, large))), most: large - 1, kind: fetch.ErrTooLarge, status: 200},
		{name: "large in two chunks", server: page(chunked(make([]byte, large/2), make([]byte, large/2))), most: large - 1, kind: fetch.ErrTooLarge, status: 200},
		{name: "large when decoded", server: page(answers(bomb(), "Content-Encoding", "gzip")),
			most: 100_000, kind: fetch.ErrTooLarge, status: 200},
		{name: "larger than 10 MiB", server: page(answers(bomb(), "Content-Encoding", "gzip")),
			kind: fetch.ErrTooLarge, status: 200},

		{name: "no gzip", server: page(answers([]byte("this is no gzip: "+secret), "Content-Encoding", "gzip")), kind: fetch.ErrDecode, status: 200},
		{name: "gzip with a wrong bit", server: page(answers(flipped(gzipped("hello"), 12), "Content-Encoding", "gzip")), kind: fetch.ErrDecode, status: 200},
		{name: "gzip with a wrong sum", server: page(answers(flipped(gzipped("hello"), len(gzipped("hello"))-8), "Content-Encoding", "gzip")), kind: fetch.ErrDecode, status: 200},

		{name: "redirect loop", server: location("/path?token=" + secret), kind: fetch.ErrRedirect, status: 302, text: "10 redirects"},
		{name: "redirect to ftp", server: location("ftp://u:" + secret + "@127.0.0.1/"), kind: fetch.ErrRedirect, status: 302},
		{name: "redirect to no host", server: location("http:///" + secret), kind: fetch.ErrRedirect, status: 302},
		{name: "redirect to a port of no host", server: location("http://:80/" + secret), kind: fetch.ErrRedirect, status: 302, own: true},
		{name: "redirect to nonsense", server: location("http://u:" + secret + "@[::1/"), kind: fetch.ErrRedirect, status: 302, untold: true},
		{name: "redirect to a bad escape", server: location("/%zz" + secret), kind: fetch.ErrRedirect, status: 302, untold: true},
		{name: "redirect to nobody", server: location("http://u:" + secret + "@127.0.0.1:1/?" + secret), kind: fetch.ErrDial, status: 302},
		{name: "redirect to no TLS", server: func(t *testing.T) string {
			plain := serve(t, http.NotFoundHandler()).URL
			return location(strings.Replace(plain, "http:", "https:", 1) + "/?" + secret)(t)
		}, kind: fetch.ErrTLS, status: 302},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := c.server(t)
			transport := fetch.NewTransport()
			transport.DialContext, transport.Proxy = c.dial, http.ProxyURL(c.proxy)
			transport.TLSClientConfig, transport.MaxResponseHeaderBytes = c.tls, c.maxHead
			clients := map[string]engine{
				"Client": &fetch.Client{
					Dial: c.dial, Proxy: proxyURL(c.proxy), TLS: c.tls,
					Timeout: c.timeout, MaxHeaderBytes: c.maxHead, MaxBody: c.most,
				},
				"HTTPClient": fetch.HTTPClient{Client: &http.Client{Transport: transport}, Timeout: cmp.Or(c.timeout, 30*time.Second), MaxBody: c.most},
			}
			if c.own {
				delete(clients, "HTTPClient")
			}
			for name, client := range clients {
				t.Run(name, func(t *testing.T) {
					tidy(t, client)
					scheme, host, _ := strings.Cut(server, "://")
					req := &fetch.Request{
						URL:    scheme + "://user:" + secret + "@" + host + "/path?token=" + secret + "#" + secret,
						Header: http.Header{"Authorization": {"Bearer " + secret}, "X-Token": {secret}},
					}
					res := client.Do(t.Context(), req)
					require.Error(t, res.Err)
					assert.Equal(t, c.kind, fetch.KindOf(res.Err), "%v", res.Err)
					assert.ErrorIs(t, res.Err, c.kind)
					assert.Equal(t, c.kind == fetch.ErrTimeout, errors.Is(res.Err, context.DeadlineExceeded), "is a DeadlineExceeded")
					assert.NotErrorIs(t, res.Err, context.Canceled)
					if c.cause != nil {
						assert.ErrorIs(t, res.Err, c.cause)
					}
					assert.ErrorContains(t, res.Err, "fetch: "+server+"/path: "+string(c.kind))
					assert.ErrorContains(t, res.Err, c.text)
					assert.NotContains(t, res.Err.Error(), secret)
					assert.NotContains(t, res.Err.Error(), "\n")
					var e *fetch.Error
					require.ErrorAs(t, res.Err, &e)
					assert.Equal(t, server+"/path", e.URL)
					assert.Equal(t, c.kind == fetch.ErrTimeout, e.Timeout())
					assert.Same(t, req, res.Request)
					assert.Equal(t, 1, res.Attempts)
					assert.Positive(t, res.Duration)
					assert.Nil(t, res.Body, "part of a body")
					status := c.status
					if name == "HTTPClient" && c.untold {
						status = 0
					}
					assert.Equal(t, status, res.Status)
					assert.Equal(t, status != 0, res.Header() != nil, "has a header")
					assert.False(t, res.OK())
					assert.Equal(t, res.Err, res.Decode(new(any)))
					assert.Equal(t, res.Err, res.Failure())
					for _, kind := range []fetch.EventKind{fetch.EventStart, fetch.EventRetry, fetch.EventEnd, fetch.EventHostDown} {
						text := fetch.Event{Kind: kind, Request: req, Err: res.Err, Status: res.Status, Attempts: 1, Duration: res.Duration, Host: "a.test:80"}.String()
						assert.Contains(t, text, server+"/path")
						assert.NotContains(t, text, secret)
						assert.NotContains(t, text, "\n")
					}
				})
			}
		})
	}
}

// A status that is no success is an error that says so, and no more.
func TestFailure(t *testing.T) {
	req := &fetch.Request{
		URL:    "http://user:" + secret + "@a.test/path?token=" + secret + "#" + secret,
		Header: http.Header{"Authorization": {"Bearer " + secret}},
	}
	for status, text := range map[int]string{
		100: "fetch: http://a.test/path: status 100 Continue",
		302: "fetch: http://a.test/path: status 302 Found",
		304: "fetch: http://a.test/path: status 304 Not Modified",
		404: "fetch: http://a.test/path: status 404 Not Found",
		999: "fetch: http://a.test/path: status 999",
	} {
		res := fetch.Result{Request: req, Status: status, URL: req.URL, Body: []byte(secret)}
		res.SetHeader(func() http.Header { return http.Header{"Location": {secret}} })
		err := res.Failure()
		require.Error(t, err)
		assert.Equal(t, text, err.Error())
		var e *fetch.StatusError
		require.ErrorAs(t, err, &e)
		assert.Equal(t, fetch.StatusError{URL: "http://a.test/path", Status: status}, *e)
		assert.Equal(t, fetch.Kind(""), fetch.KindOf(err))
	}
	for _, status := range []int{200, 204, 299} {
		assert.NoError(t, (&fetch.Result{Request: req, Status: status}).Failure())
	}
	failed := &fetch.Error{Kind: fetch.ErrTruncated}
	assert.Same(t, failed, (&fetch.Result{Request: req, Status: 200, Err: failed}).Failure())
	assert.EqualError(t, (&fetch.Result{Status: 500}).Failure(), "fetch: status 500 Internal Server Error")
	assert.NotContains(t, (&fetch.StatusError{URL: req.URL, Status: 404}).Error(), secret)
}

// What another package's error quotes may be a secret, whoever hands it in; what stands in an
// *Error is its author's.
func TestErrorsAreRedacted(t *testing.T) {
	req := &fetch.Request{URL: "http://user:" + secret + "@a.test/?" + secret}
	parse := func(raw string) error { _, err := url.Parse(raw); return err }
	for name, err := range map[string]error{
		"net/url":         parse("http://user:" + secret + "%zz@a.test/"),
		"net/http":        &url.Error{Op: "Get", URL: "http://a.test/?" + secret, Err: errors.New(`malformed HTTP response "` + secret + `"`)},
		"net":             &net.OpError{Op: "read", Net: "tcp", Err: fmt.Errorf("%q", secret)},
		"encoding/json":   json.Unmarshal([]byte(`"`+secret+`"`), new(time.Time)),
		"crypto/tls":      fmt.Errorf("tls: %w", fmt.Errorf("issuer %q", secret)),
		"local limit":     fmt.Errorf("open %q: %w", secret, syscall.EMFILE),
		"a field's value": fmt.Errorf("net/http: invalid header field value %q for key X-Token", secret),
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, err, secret)
			e := fetch.NewError(t.Context(), req, err)
			assert.NotContains(t, e.Error(), secret)
			assert.NotContains(t, e.Err.Error(), secret, "not in the cause either")
			assert.NotEmpty(t, e.Kind)
			assert.NotContains(t, fetch.Event{Kind: fetch.EventEnd, Request: req, Err: e}.String(), secret)
		})
	}
	own := &fetch.Error{Kind: fetch.ErrRedirect, Err: errors.New(`the rule "no strangers" refuses it: see "rules.txt"`)}
	assert.EqualError(t, fetch.NewError(t.Context(), req, own), `fetch: http://a.test/: redirect: the rule "no strangers" refuses it: see "rules.txt"`)
}

func answersStatus(status int, pairs ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			w.Header().Set(pairs[i], pairs[i+1])
		}
		w.WriteHeader(status)
	}
}

// chunked answers with each of chunks, whose length together it does not tell.
func chunked(chunks ...[]byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		flush := http.NewResponseController(w).Flush
		flush()
		for _, chunk := range chunks {
			w.Write(chunk)
			flush()
		}
	}
}

// flipped returns b with the ith byte inverted.
func flipped(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 0xff
	return b
}

// The end of the caller's context is told as such, whatever it interrupted.
func TestClientContext(t *testing.T) {
	cause := errors.New("the user pressed Ctrl-C")
	deadline := func(ctx context.Context) (context.Context, func()) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
		t.Cleanup(cancel)
		return ctx, func() {}
	}
	canceled := func(ctx context.Context) (context.Context, func()) {
		ctx, cancel := context.WithCancelCause(ctx)
		return ctx, func() { cancel(cause) }
	}
	for _, c := range []struct {
		name    string
		answer  string
		context func(context.Context) (_ context.Context, end func())
		kind    fetch.Kind
		is, not error
	}{
		{"canceled before the head", "", canceled, fetch.ErrCanceled, context.Canceled, context.DeadlineExceeded},
		{"canceled in the body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", canceled, fetch.ErrCanceled, context.Canceled, context.DeadlineExceeded},
		{"deadline before the head", "", deadline, fetch.ErrTimeout, context.DeadlineExceeded, context.Canceled},
		{"deadline in the body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", deadline, fetch.ErrTimeout, context.DeadlineExceeded, context.Canceled},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, timeout := range []time.Duration{0, -1} {
				ctx, end := c.context(t.Context())
				server := serveRaw(t, func(conn *net.TCPConn, _ *http.Request) {
					io.WriteString(conn, c.answer)
					end()
					io.Copy(io.Discard, conn)
				})
				res := tidy(t, &fetch.Client{Timeout: timeout}).Do(ctx, &fetch.Request{URL: server})
				require.Error(t, res.Err)
				assert.Equal(t, c.kind, fetch.KindOf(res.Err), "%v", res.Err)
				assert.ErrorIs(t, res.Err, c.is)
				assert.NotErrorIs(t, res.Err, c.not)
				assert.Equal(t, c.kind == fetch.ErrCanceled, errors.Is(res.Err, cause), "has its cause: %v", res.Err)
				assert.Nil(t, res.Body)
			}
		})
	}
	t.Run("canceled before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		res := tidy(t, &fetch.Client{Dial: noDial(t)}).Do(ctx, &fetch.Request{URL: "http://127.0.0.1:1"})
		assert.Equal(t, fetch.ErrCanceled, fetch.KindOf(res.Err))
	})
}

// noDial is for tests of what has to fail before any I/O.
func noDial(t *testing.T) dialFunc {
	return func(_ context.Context, _, addr string) (net.Conn, error) {
		t.Errorf("dialed %s", addr)
		return nil, errors.New("dialed")
	}
}

// A dial that nobody waits for any more has to end, or it and its place are lost.
func TestClientBlackHole(t *testing.T) {
	for _, c := range []struct {
		name    string
		timeout time.Duration
		cancel  bool
		kind    fetch.Kind
	}{
		{"canceled", 0, true, fetch.ErrCanceled},
		{"canceled without a timeout", -1, true, fetch.ErrCanceled},
		{"timeout", 30 * time.Millisecond, false, fetch.ErrTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			begun, ended := make(chan bool, 1), make(chan bool, 1)
			client := tidy(t, &fetch.Client{Timeout: c.timeout, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				begun <- true
				<-ctx.Done()
				ended <- true
				return nil, ctx.Err()
			}})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			result := make(chan fetch.Result, 1)
			go func() { result <- client.Do(ctx, &fetch.Request{URL: "http://192.0.2.1/"}) }()
			<-begun
			if c.cancel {
				cancel()
			}
			res := <-result
			assert.Equal(t, c.kind, fetch.KindOf(res.Err), "%v", res.Err)
			select {
			case <-ended:
			case <-time.After(soon):
				assert.Fail(t, "the dial runs on")
			}
		})
	}
}

// A dial that fails gives its place back: else the next one to its host would wait for it
// until the dialer loses its patience.
func TestClientAfterFailedDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		client := tidy(t, &fetch.Client{Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
			if dials++; dials <= 3 {
				return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
			}
			conn, server := net.Pipe()
			go func() {
				defer server.Close()
				if _, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
					io.WriteString(server, "HTTP/1.1 204 No Content\r\n\r\n")
				}
			}()
			return conn, nil
		}})
		for range 3 {
			res := get(t, client, "http://a.invalid/")
			assert.Equal(t, fetch.ErrDial, fetch.KindOf(res.Err), "%v", res.Err)
			assert.Zero(t, res.Duration, "it waited")
		}
		res := get(t, client, "http://a.invalid/")
		assert.NoError(t, res.Err)
		assert.Equal(t, 204, res.Status)
		assert.Zero(t, res.Duration, "it waited")
	})
}

// A server that has stopped reading leaves no room for TLS's closing alert. A request that is given
// up does not wait for it.
func TestClientClosesTLSWithoutRoom(t *testing.T) {
	secure := httptest.NewTLSServer(nil)
	defer secure.Close()
	for _, c := range []struct {
		kind fetch.Kind
		size int // of the body; with one, another goroutine writes
	}{{fetch.ErrCanceled, 0}, {fetch.ErrCanceled, 1 << 20}, {fetch.ErrTimeout, 0}, {fetch.ErrTimeout, 1 << 20}} {
		t.Run(fmt.Sprint(c.kind, c.size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := tidy(t, &fetch.Client{TLS: trust(secure), Timeout: time.Minute, StallTimeout: -1})
				client.Dial = func(context.Context, string, string) (net.Conn, error) {
					conn, server := net.Pipe() // which buffers nothing
					t.Cleanup(func() { server.Close() })
					go tls.Server(server, &tls.Config{Certificates: secure.TLS.Certificates}).Handshake()
					return conn, nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				result := make(chan fetch.Result, 1)
				begun := time.Now()
				go func() {
					result <- client.Do(ctx, &fetch.Request{URL: "https://example.com/", Body: make([]byte, c.size)})
				}()
				synctest.Wait() // now the client cannot write on
				want := time.Minute
				if c.kind == fetch.ErrCanceled {
					cancel()
					want = 0
				}
				res := <-result
				assert.Equal(t, c.kind, fetch.KindOf(res.Err), "%v", res.Err)
				assert.Equal(t, want, time.Since(begun))
			})
		})
	}
}

// An error of one of the caller's functions has the kind of what the function is for, whatever its
// type is. Some types mean something to the Client where they are its own.
func TestClientCallbackErrors(t *testing.T) {
	secure := serveTLS(t, answers([]byte("hello")))
	_, malformed := url.Parse(fmt.Sprint("http://user:", secret, "@host:port/"))
	require.Error(t, malformed)
	type client = fetch.Client
	for name, c := range map[string]struct {
		make func(err error) *client
		kind fetch.Kind
		text string
	}{
		"Proxy": {func(err error) *client {
			return &client{Proxy: func(*url.URL) (*url.URL, error) { return nil, err }}
		}, fetch.ErrDial, "proxy from Client.Proxy: "},
		"AllowAddr": {func(err error) *client { return &client{AllowAddr: func(netip.AddrPort) error { return err }} }, fetch.ErrAddress, "127.0.0.1:"},
		"AllowAddr and Dial": {func(err error) *client {
			return &client{AllowAddr: func(netip.AddrPort) error { return err }, Dial: new(net.Dialer).DialContext}
		}, fetch.ErrAddress, "127.0.0.1:"},
		"Dial":         {func(err error) *client { return &client{Dial: failing(err)} }, fetch.ErrDial, "dial tcp: "},
		"Dial, in one": {func(err error) *client { return &client{Dial: failing(&net.OpError{Op: "dial", Net: "tcp", Err: err})} }, fetch.ErrDial, "dial tcp: "},
		"VerifyConnection": {func(err error) *client {
			return &client{TLS: &tls.Config{RootCAs: trust(secure).RootCAs, VerifyConnection: func(tls.ConnectionState) error { return err }}}
		}, fetch.ErrTLS, ""},
	} {
		for _, err := range []error{
			errors.New("no"),
			malformed,
			&fetch.Error{Kind: fetch.ErrRedirect, Err: errors.New("no")},
			&url.Error{Op: "Get", URL: "http://a.test/?" + secret, Err: &fetch.Error{Kind: fetch.ErrTooLarge}},
			&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.EINVAL)},
			&net.OpError{Op: "socks connect", Net: "tcp", Err: errors.New("unknown code")},
		} {
			res := get(t, tidy(t, c.make(err)), secure.URL)
			assert.Equal(t, c.kind, fetch.KindOf(res.Err), "%s: %T: %v", name, err, res.Err)
			assert.ErrorContains(t, res.Err, string(c.kind)+": "+c.text, name)
			assert.ErrorIs(t, res.Err, err, name)
			if name != "AllowAddr" && name != "AllowAddr and Dial" { // whose reasons are shown as they are
				assert.NotContains(t, res.Err.Error(), secret, name)
			}
		}
	}
	t.Run("Dial returns nothing", func(t *testing.T) {
		res := get(t, tidy(t, &fetch.Client{Dial: failing(nil)}), "http://a.test/")
		assert.ErrorIs(t, res.Err, fetch.ErrDial)
		assert.ErrorContains(t, res.Err, "no connection from Dial")
	})
}

// A watched context counts the functions that wait for its end, as those of its children do.
type watchedContext struct {
	context.Context
	done    chan struct{}
	waiting atomic.Int64
}

func (c *watchedContext) Done() <-chan struct{} { return c.done }

func (c *watchedContext) AfterFunc(func()) (stop func() bool) {
	c.waiting.Add(1)
	return func() bool { c.waiting.Add(-1); return true }
}

// A request leaves nothing behind in the caller's context, which may last as long as the program.
func TestContextAfterRequests(t *testing.T) {
	url := serve(t, answers([]byte("hello"))).URL
	for name, c := range map[string]engine{
		"HTTPClient":              fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}},
		"HTTPClient with Timeout": fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}, Timeout: time.Minute},
		"Client":                  &fetch.Client{},
	} {
		ctx := &watchedContext{Context: t.Context(), done: make(chan struct{})}
		for range 10 {
			require.NoError(t, c.Do(ctx, &fetch.Request{URL: url}).Err, name)
		}
		c.CloseIdleConnections() // a connection of Client's holds on to the last one
		assert.Zero(t, ctx.waiting.Load(), name)
	}
}
