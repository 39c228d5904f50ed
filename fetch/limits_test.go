package fetch_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// MaxHeaderBytes bounds what a server can make the client keep before the body.
func TestClientMaxHeaderBytes(t *testing.T) {
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := 0
		fmt.Sscan(r.URL.Query().Get("kib"), &n)
		for i := range n {
			w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1<<10-20))
		}
	}))
	for _, c := range []struct {
		most int64
		kib  int
		ok   bool
	}{
		{0, 250, true}, {0, 262, false},
		{400 << 10, 390, true}, {400 << 10, 410, false},
		{10 << 10, 9, true}, {10 << 10, 15, false},
		{1 << 10, 0, true}, {1 << 10, 1, false}, // of those that its own parser reads
		{-1, 20 << 10, true},
	} {
		res := get(t, tidy(t, &fetch.Client{MaxHeaderBytes: c.most}), fmt.Sprint(server.URL, "/?kib=", c.kib))
		if c.ok {
			assert.NoError(t, res.Err, "%v", c)
		} else {
			assert.ErrorIs(t, res.Err, fetch.ErrTooLarge, "%v", c)
			assert.ErrorContains(t, res.Err, "see MaxHeaderBytes", "%v", c)
		}
	}
}

// The limits hold over TLS too; and for an HTTPClient with HTTP/2, those that it has. What exceeds a
// transport's limit of the head there is, for net/http, any breach of the protocol.
func TestLimitsOverTLS(t *testing.T) {
	secure := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/head":
			for i := range 300 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1<<10))
			}
		case "/silent":
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/nothing":
			<-r.Context().Done()
		}
	}))
	for path, c := range map[string]struct {
		limit           time.Duration
		kind, withHTTP2 fetch.Kind
	}{
		"/":        {0, "", ""},
		"/head":    {0, fetch.ErrTooLarge, fetch.ErrProtocol},
		"/silent":  {50 * time.Millisecond, fetch.ErrTimeout, fetch.ErrTimeout},
		"/nothing": {50 * time.Millisecond, fetch.ErrTimeout, fetch.ErrTimeout},
	} {
		client := tidy(t, &fetch.Client{StallTimeout: c.limit, TLS: trust(secure)})
		res := get(t, client, secure.URL+path)
		assert.Equal(t, c.kind, fetch.KindOf(res.Err), "%s: %v", path, res.Err)
		assert.False(t, res.Unverified)

		transport := trusting(secure, fetch.NewTransport())
		transport.MaxResponseHeaderBytes = 256 << 10
		users := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: transport}, Timeout: c.limit})
		res = get(t, users, secure.URL+path)
		assert.Equal(t, c.withHTTP2, fetch.KindOf(res.Err), "%s: %v", path, res.Err)
		assert.False(t, res.Unverified)
	}
}

// A server may be slow, but not silent.
func TestClientStallTimeout(t *testing.T) {
	const idle = 300 * time.Millisecond
	t.Run("silent", func(t *testing.T) {
		for status, answer := range map[int]string{
			0:   "HTTP/1.1 200 OK\r\nContent-Len",
			200: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
			201: "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
		} {
			for _, timeout := range []time.Duration{0, -1} {
				client := tidy(t, &fetch.Client{StallTimeout: 30 * time.Millisecond, Timeout: timeout})
				res := get(t, client, serveRaw(t, hangs(answer)))
				assert.ErrorIs(t, res.Err, fetch.ErrTimeout)
				assert.ErrorContains(t, res.Err, "the server sent nothing for 30ms: see StallTimeout")
				assert.Equal(t, status, res.Status)
			}
		}
	})
	t.Run("slow", func(t *testing.T) { // longer than idle in all
		slow := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for range 8 {
				io.WriteString(w, "x")
				http.NewResponseController(w).Flush()
				time.Sleep(idle / 6)
			}
		}))
		res := get(t, tidy(t, &fetch.Client{StallTimeout: idle}), slow.URL)
		assert.NoError(t, res.Err)
		assert.Equal(t, "xxxxxxxx", string(res.Body))
	})
	t.Run("slow dial", func(t *testing.T) { // is not the server's silence
		slow := serve(t, answers([]byte("hello")))
		res := get(t, tidy(t, &fetch.Client{StallTimeout: 50 * time.Millisecond, Dial: func(_ context.Context, network, addr string) (net.Conn, error) {
			time.Sleep(150 * time.Millisecond)
			return net.Dial(network, addr)
		}}), slow.URL)
		assert.NoError(t, res.Err)
	})
	t.Run("off", func(t *testing.T) {
		client := tidy(t, &fetch.Client{StallTimeout: -1, Timeout: 30 * time.Millisecond})
		assert.ErrorContains(t, get(t, client, serveRaw(t, hangs(""))).Err, "no complete response within 30ms: see Timeout")
		slow := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(30 * time.Millisecond) }))
		assert.NoError(t, get(t, tidy(t, &fetch.Client{StallTimeout: -1, Timeout: -1}), slow.URL).Err)
	})
}

// What cannot be known to be whole is marked.
func TestClientUnverified(t *testing.T) {
	const close = "HTTP/1.1 200 OK\r\nConnection: close\r\n"
	gz := string(gzipped("hello"))
	withLength := fmt.Sprint(close, "Content-Encoding: gzip\r\nContent-Length: ", len(gz), "\r\n\r\n", gz)
	for answer, unverified := range map[string]bool{
		"HTTP/1.0 200 OK\r\n\r\nhello":                                      true,
		"HTTP/1.1 200 OK\r\n\r\nhello":                                      true,
		close + "\r\nhello":                                                 true,
		close + "\r\n":                                                      true,
		close + "Content-Encoding: br\r\n\r\nhello":                         true,
		close + "Content-Length: 5\r\n\r\nhello":                            false,
		close + "Content-Length: 0\r\n\r\n":                                 false,
		close + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n": false,
		close + "Content-Encoding: gzip\r\n\r\n" + gz:                       true, // there may be more of it
		fmt.Sprint(close, "Content-Length: ", len(gz), "\r\n\r\n", gz):      false,
		withLength: false,
		fmt.Sprint("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: ", len(gz), "\r\n\r\n", gz): false,
		"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n":                                               false,
		"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n":                                             false,
		"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation:\r\n\r\nnowhere to go":                          true,
	} {
		server := serveRaw(t, sends(answer))
		res := get(t, tidy(t, &fetch.Client{}), server)
		require.NoError(t, res.Err, answer)
		assert.Equal(t, unverified, res.Unverified, answer)
		res = get(t, tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}}), server)
		require.NoError(t, res.Err, answer)
		// net/http does not tell whether there was a length.
		assert.Equal(t, unverified || answer == withLength, res.Unverified, answer)
	}
	res := tidy(t, &fetch.Client{}).Do(t.Context(), &fetch.Request{Method: "HEAD", URL: serveRaw(t, sends(close+"\r\n"))})
	assert.NoError(t, res.Err)
	assert.False(t, res.Unverified, "HEAD")
	// crypto/tls takes the end of a connection that nobody has signed.
	s := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if assert.NoError(t, err) {
			io.WriteString(conn, close+"\r\nhello")
			conn.Close()
		}
	}))
	transport := trusting(s, fetch.NewTransport())
	transport.ForceAttemptHTTP2 = false
	for _, client := range []engine{&fetch.Client{TLS: trust(s)}, fetch.HTTPClient{Client: &http.Client{Transport: transport}}} {
		res = get(t, tidy(t, client), s.URL)
		assert.NoError(t, res.Err)
		assert.Equal(t, "hello", string(res.Body))
		assert.True(t, res.Unverified, "TLS")
	}
}

// User info is a password: it goes where the caller has said, or nowhere.
func TestClientUserInfo(t *testing.T) {
	here, elsewhere := hopServer(t), hopServer(t)
	with := func(u string) string { return strings.Replace(u, "http://", "http://user:pass%20word@", 1) }
	const basic = "Basic dXNlcjpwYXNzIHdvcmQ="
	off, on := tidy(t, &fetch.Client{}), tidy(t, &fetch.Client{SendUserInfo: true})
	kept := tidy(t, &fetch.Client{SendUserInfo: true, KeepHeaders: []string{"Authorization"}})
	own := http.Header{"Authorization": {"Bearer x"}}
	for _, c := range []struct {
		client *fetch.Client
		url    string
		header http.Header
		want   string
	}{
		{off, with(here) + "/to", nil, ""},
		{on, with(here) + "/to", nil, basic},
		{on, here + "/to", nil, ""},
		{on, with(here) + "/to", own, "Bearer x"},
		{on, with(hopTo(here, 307, "/to")), nil, basic},
		{on, with(hopTo(here, 307, elsewhere+"/to")), nil, ""},
		{on, hopTo(here, 307, with(here)+"/to"), nil, ""},
		{on, hopTo(here, 307, with(elsewhere)+"/to"), nil, ""},
		{kept, with(hopTo(here, 307, elsewhere+"/to")), nil, ""},
		{kept, with(hopTo(here, 307, elsewhere+"/to")), own, "Bearer x"},
	} {
		a := decoded[arrived](t, c.client, &fetch.Request{URL: c.url, Header: c.header})
		assert.Equal(t, c.want, a.Header.Get("Authorization"), "%v %v", c.url, c.header)
	}
	assert.Equal(t, http.Header{"Authorization": {"Bearer x"}}, own)
}

func TestRedirectKeepHeaders(t *testing.T) {
	here, elsewhere := hopServer(t), hopServer(t)
	client := tidy(t, &fetch.Client{KeepHeaders: []string{"user-agent", "X-Trace", "Host", "Content-Type"}})
	header := http.Header{"User-Agent": {"crawler"}, "X-Trace": {"1", "2"}, "Host": {"virtual.invalid"}, "Cookie": {"x=y"}, "Content-Type": {"text/plain"}}
	for _, to := range []string{elsewhere + "/to", hopTo(elsewhere, 307, here+"/to"), hopTo("", 302, elsewhere+"/to")} {
		a := decoded[arrived](t, client, &fetch.Request{Method: "POST", Body: []byte("x"), URL: hopTo(here, 307, to), Header: header})
		assert.Equal(t, "crawler", a.Header.Get("User-Agent"))
		assert.Equal(t, []string{"1", "2"}, a.Header["X-Trace"])
		assert.NotContains(t, a.Header, "Cookie")
		assert.NotEqual(t, "virtual.invalid", a.Host)
		assert.Equal(t, a.Body != "", a.Header.Get("Content-Type") != "", "the type of a body, and no body: %v", a)
	}
}

func TestRedirectOrigin(t *testing.T) {
	server := hopServer(t)
	u, err := url.Parse(server)
	require.NoError(t, err)
	client := tidy(t, &fetch.Client{Dial: dialsTo(u.Host)})
	for to, kept := range map[string]bool{
		"http://a.invalid/to": true, "http://A.invalid/to": true, "http://a.invalid:80/to": true, "HTTP://a.INVALID:/to": true, "//a.invalid/to": true,
		"http://a.invalid:81/to": false, "http://b.a.invalid/to": false, "http://a.invalid./to": false, "http://b.invalid/to": false,
	} {
		a := decoded[arrived](t, client, &fetch.Request{URL: hopTo("http://a.invalid", 302, to), Header: http.Header{"Cookie": {"x=y"}}})
		assert.Equal(t, kept, a.Header.Get("Cookie") != "", to)
	}
}

// What was asked for in secret is not asked for in the open.
func TestRedirectDowngrade(t *testing.T) {
	plain := serve(t, answers([]byte("plain")))
	secure := serveTLS(t, http.RedirectHandler(plain.URL+"/?"+secret, http.StatusFound))
	res := get(t, tidy(t, &fetch.Client{TLS: trust(secure)}), secure.URL)
	assert.ErrorIs(t, res.Err, fetch.ErrRedirect)
	assert.ErrorContains(t, res.Err, "AllowDowngrade")
	assert.NotContains(t, res.Err.Error(), secret)
	assert.Equal(t, 302, res.Status)
	res = get(t, tidy(t, &fetch.Client{AllowDowngrade: true, TLS: trust(secure)}), secure.URL)
	assert.NoError(t, res.Err)
	assert.Equal(t, "plain", string(res.Body))
}

func TestRedirectTwoLocations(t *testing.T) {
	for _, c := range []struct {
		a, b string
		kind fetch.Kind
	}{{"/to", "/to", ""}, {"/to", "/other", fetch.ErrRedirect}, {"/to", "", fetch.ErrRedirect}} {
		server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				w.Header()["Location"] = []string{c.a, c.b}
				w.WriteHeader(http.StatusFound)
			}
		}))
		res := get(t, tidy(t, &fetch.Client{}), server.URL)
		assert.Equal(t, c.kind, fetch.KindOf(res.Err), "%v: %v", c, res.Err)
	}
}

// What this machine lacks for a moment is no fault of a URL's.
func TestClientLocalLimits(t *testing.T) {
	server := serve(t, answers([]byte("hello")))
	for _, cause := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL,
		&net.DNSError{Err: "dial udp: socket: too many open files", Name: "a.invalid"}} {
		var dials atomic.Int64
		client := tidy(t, &fetch.Client{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials.Add(1) <= 3 {
				return nil, &net.OpError{Op: "dial", Net: network, Err: cause}
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}})
		res := get(t, client, server.URL)
		assert.NoError(t, res.Err)
		assert.Equal(t, 1, res.Attempts)
		assert.EqualValues(t, 4, dials.Load(), cause)
	}
	// To an IPv6 address this is what a machine without IPv6 says, and will go on to say.
	var dials atomic.Int64
	client := tidy(t, &fetch.Client{Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		dials.Add(1)
		return nil, &net.OpError{Op: "dial", Net: network, Addr: &net.TCPAddr{IP: net.IPv6loopback}, Err: syscall.EADDRNOTAVAIL}
	}})
	res := get(t, client, "http://[::1]/")
	assert.ErrorIs(t, res.Err, fetch.ErrDial)
	assert.NotContains(t, res.Err.Error(), "strategy")
	assert.EqualValues(t, 1, dials.Load())
}

// Heads that net/http accepts, and that say nothing sensible.
func TestClientOddHeads(t *testing.T) {
	for answer, kind := range map[string]fetch.Kind{
		"HTTP/1.1 000 Odd\r\nContent-Length: 0\r\n\r\n":                                         fetch.ErrProtocol,
		"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n":                                         fetch.ErrProtocol,
		"HTTP/1.1 +20 Odd\r\nContent-Length: 0\r\n\r\n":                                         fetch.ErrProtocol,
		"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n": fetch.ErrProtocol,
		"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n":                                         fetch.ErrProtocol,
		"HTTP/1.1 201 Created\r\nLocation: /\r\nContent Length: 0\r\n\r\n":                      fetch.ErrProtocol,
		"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n":                                         "",
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":          "",
	} {
		server := serveRaw(t, hangs(answer))
		for _, client := range []engine{&fetch.Client{}, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}}} {
			res := get(t, tidy(t, client), server)
			assert.Equal(t, kind, fetch.KindOf(res.Err), "%s: %v", answer, res.Err)
			assert.Equal(t, kind == "", res.Status != 0, answer)
		}
	}
	res := get(t, tidy(t, &fetch.Client{}), serveRaw(t, sends("HTTP/1.1 302 Found\r\nLocation: /\r\nContent Length: 0\r\n\r\n")))
	assert.ErrorIs(t, res.Err, fetch.ErrProtocol, "a redirect")
}
