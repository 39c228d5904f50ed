package fetch_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
	"fetchbench/fetch/internal/rules"
)

// The header is parsed when it is asked for, and the body is the caller's.
func TestClientHeader(t *testing.T) {
	url, _ := rawServer(t, respond(func(r *http.Request) string {
		return response("hello "+r.URL.Path, "x-many: a", "X-Many:  b ", "Content-Type: text/plain")
	}))
	c := tidy(t, &fetch.Client{})
	first := get(t, c, url+"/1")
	second := get(t, c, url+"/2")
	require.NoError(t, first.Err)
	assert.Equal(t, "hello /1", string(first.Body))
	assert.Equal(t, "hello /2", string(second.Body))
	assert.Equal(t, http.Header{"Content-Length": {"8"}, "X-Many": {"a", "b"}, "Content-Type": {"text/plain"}}, first.Header())
	assert.Equal(t, first.Header(), second.Header())
	first.Body = append(first.Body, "!!!"...) // must not reach beyond
	assert.Equal(t, "text/plain", first.Header().Get("Content-Type"))
}

// The promise is 3: the Result's body and head in one piece, what parses the head, and one to
// spare.
func TestClientAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	url, _ := rawServer(t, func(conn net.Conn, br *bufio.Reader) {
		pong := []byte(response(fetchtest.Pong, "Content-Type: application/json"))
		for { // without allocations of its own: they would be counted
			line, err := br.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				conn.Write(pong)
			}
		}
	})
	c := tidy(t, &fetch.Client{})
	req := &fetch.Request{URL: url + "/ping"}
	for name, ctx := range map[string]context.Context{"of the test": t.Context(), "background": context.Background()} {
		perURL := testing.AllocsPerRun(2000, func() {
			if res := c.Do(ctx, req); !res.OK() || len(res.Body) != len(fetchtest.Pong) {
				panic(res.Err)
			}
		})
		assert.LessOrEqual(t, perURL, 2.0, "allocations for a URL, with the context %s", name)
	}
	batch := slices.Repeat([]*fetch.Request{req}, 16)
	perBatch := testing.AllocsPerRun(200, func() {
		c.DoBatch(t.Context(), batch, func(res fetch.Result) {
			if !res.OK() {
				panic(res.Err)
			}
		})
	})
	assert.LessOrEqual(t, perBatch/16, 2.0, "allocations for a URL, 16 in a write")
}

// Everything that crosses from the caller to the server, as the server sees it.
func TestClientRequests(t *testing.T) {
	type arrival struct {
		*http.Request
		body []byte
	}
	arrivals := make(chan arrival, 1)
	s := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrivals <- arrival{r, body}
	}))
	c := tidy(t, &fetch.Client{SendUserInfo: true})
	var got arrival
	send := func(r fetch.Request) {
		r.URL = strings.Replace(s.URL, "http://", "http://user:pass@", 1) + r.URL
		res := c.Do(t.Context(), &r)
		require.NoError(t, res.Err)
		require.Equal(t, 200, res.Status)
		got = <-arrivals
	}
	send(fetch.Request{URL: "/a?b"})
	assert.Equal(t, "GET /a?b", got.Method+" "+got.RequestURI)
	assert.Equal(t, http.Header{"User-Agent": {"fetchbench"}, "Accept-Encoding": {"gzip"}, "Authorization": {"Basic dXNlcjpwYXNz"}}, got.Header)
	assert.Equal(t, strings.TrimPrefix(s.URL, "http://"), got.Host)

	send(fetch.Request{URL: "/", Header: http.Header{"User-Agent": {""}, "Range": {"bytes=0-1"}, "Authorization": {"own"}, "Host": {"virtual.test"}, "Content-Length": {"9"}}})
	assert.Equal(t, http.Header{"Range": {"bytes=0-1"}, "Authorization": {"own"}}, got.Header)
	assert.Equal(t, "virtual.test", got.Host)
	assert.Zero(t, got.ContentLength)

	for _, n := range []int{1, 16 << 10, 17 << 10, 5 << 20} {
		send(fetch.Request{URL: "/", Method: "PUT", Body: bytes.Repeat([]byte("x"), n)})
		assert.Equal(t, int64(n), got.ContentLength)
		assert.Len(t, got.body, n)
	}
	send(fetch.Request{URL: "/", Method: "POST"})
	assert.Equal(t, []string{"0"}, got.Header["Content-Length"])
}

// Large requests use connections again as small ones do.
func TestClientLargeRequests(t *testing.T) {
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, " ", len(r.Header.Get("X")))
	}))
	var conns atomic.Int64
	c := tidy(t, &fetch.Client{Dial: dialWrapped(func(conn *net.TCPConn) net.Conn { conns.Add(1); return conn })})
	for _, size := range []int{1, 16 << 10, 17 << 10, 100 << 10, 1 << 20} {
		for range 20 {
			res := c.Do(t.Context(), &fetch.Request{Method: "POST", URL: server.URL, Body: make([]byte, size)})
			require.NoError(t, res.Err)
			require.Equal(t, fmt.Sprint(size, " 0"), string(res.Body))
		}
	}
	for _, size := range []int{15 << 10, 100 << 10, 900 << 10} {
		res := c.Do(t.Context(), &fetch.Request{URL: server.URL, Header: http.Header{"X": {strings.Repeat("x", size)}}})
		require.NoError(t, res.Err)
		require.Equal(t, fmt.Sprint("0 ", size), string(res.Body))
	}
	assert.EqualValues(t, 1, conns.Load())
	for range 10 { // the server reads but a megabyte of it
		res := c.Do(t.Context(), &fetch.Request{URL: server.URL, Header: http.Header{"X": {strings.Repeat("x", 20<<20)}}})
		if res.Err != nil { // the reset may overtake the response
			require.ErrorIs(t, res.Err, fetch.ErrReset)
			continue
		}
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, res.Status)
	}
}

// A server may respond before it has read the request, and read no more of it.
func TestClientResponseBeforeRequestEnds(t *testing.T) {
	for name, end := range map[string]func(conn net.Conn){
		"and waits":  func(conn net.Conn) { time.Sleep(50 * time.Millisecond) }, // without reading
		"and closes": func(net.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			url, conns := rawServer(t, func(conn net.Conn, br *bufio.Reader) {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
				end(conn)
			})
			c := tidy(t, &fetch.Client{})
			for range 3 {
				res := c.Do(t.Context(), &fetch.Request{Method: "POST", URL: url, Body: make([]byte, 32<<20)})
				if res.Err != nil { // the reset may overtake the response
					require.ErrorIs(t, res.Err, fetch.ErrReset)
					continue
				}
				assert.Equal(t, 413, res.Status)
				assert.Equal(t, "no", string(res.Body))
			}
			assert.EqualValues(t, 3, conns.Load(), "a connection on which half a request was written serves no other")
		})
	}
}

// A head that needs net/http's reader, since it has no length, is bounded as any other.
func TestClientMaxHeaderBytesOfOddHeads(t *testing.T) {
	url, _ := rawServer(t, respond(func(r *http.Request) string {
		if r.URL.Path == "/early" {
			return strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: "+strings.Repeat("x", 500)+"\r\n\r\n", 20) + response("")
		}
		return "HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", 500) + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
	}))
	for most, ok := range map[int64]bool{200: false, 556: false, 557: true, -1: true} {
		res := get(t, tidy(t, &fetch.Client{MaxHeaderBytes: most}), url)
		assert.Equal(t, map[bool]fetch.Kind{true: "", false: fetch.ErrTooLarge}[ok], fetch.KindOf(res.Err), "%d: %v", most, res.Err)
		assert.Equal(t, ok, res.Status == 200)
	}
	for most, kind := range map[int64]fetch.Kind{9000: fetch.ErrTooLarge, 20_000: ""} {
		res := get(t, tidy(t, &fetch.Client{MaxHeaderBytes: most}), url+"/early")
		assert.Equal(t, kind, fetch.KindOf(res.Err), "informational ones included, %d: %v", most, res.Err)
	}
}

// What a 101 leads to is not HTTP, so it is an error, and ends the connection.
func TestClientUpgrade(t *testing.T) {
	ended := make(chan error, 4)
	url, conns := rawServer(t, func(conn net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello")
		_, err := br.ReadByte()
		ended <- err
	})
	c := tidy(t, &fetch.Client{})
	for range 2 {
		res := c.Do(t.Context(), &fetch.Request{URL: url, Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"x"}}})
		assert.ErrorIs(t, res.Err, fetch.ErrProtocol)
		assert.ErrorContains(t, res.Err, "upgrades are not supported")
		assert.Nil(t, res.Body)
		assert.Error(t, soonFrom(t, ended), "the connection has been closed")
	}
	assert.EqualValues(t, 2, conns.Load())
}

// An international host name is dialed and sent as Punycode.
func TestClientInternationalHost(t *testing.T) {
	server := hopServer(t)
	dialed := make(chan string, 8)
	dial := dialWrapped(func(conn *net.TCPConn) net.Conn { return conn })
	c := tidy(t, &fetch.Client{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed <- addr
		return dial(ctx, network, strings.TrimPrefix(server, "http://"))
	}})
	for u, want := range map[string]string{
		"http://bücher.test/":                                 "xn--bcher-kva.test",
		"http://BÜCHER.test:8080/":                            "xn--bcher-kva.test:8080",
		"http://日本語。test/":                                    "xn--wgv71a119e.test",
		"http://a.test:8/":                                    "a.test:8",
		hopTo("http://b.test", 307, "http://bücher.test:81/"): "xn--bcher-kva.test:81",
	} {
		a := decoded[arrived](t, c, &fetch.Request{URL: u})
		assert.Equal(t, want, a.Host, u)
		addr := <-dialed
		if strings.HasPrefix(u, "http://b.test") {
			addr = <-dialed // of the redirect
		}
		if !strings.Contains(want, ":") {
			want += ":80"
		}
		assert.Equal(t, want, addr, u)
		c.CloseIdleConnections()
	}
	res := get(t, c, "http://a\u200b\u2028b.test/")
	assert.ErrorIs(t, res.Err, fetch.ErrBadURL)
	assert.ErrorContains(t, res.Err, "not an international domain name")
}

// The zone of an IPv6 address has a meaning on this machine alone: it is dialed, and not sent.
func TestClientZone(t *testing.T) {
	server := hopServer(t)
	dialed := make(chan string, 8)
	dial := dialWrapped(func(conn *net.TCPConn) net.Conn { return conn })
	direct := func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed <- addr
		return dial(ctx, network, strings.TrimPrefix(server, "http://"))
	}
	c := tidy(t, &fetch.Client{Dial: direct})
	a := decoded[arrived](t, c, &fetch.Request{URL: "http://[fe80::1%25eth0]:81/a"})
	assert.Equal(t, "[fe80::1]:81", a.Host)
	assert.Equal(t, "/a", a.URI)
	assert.Equal(t, "[fe80::1%eth0]:81", <-dialed)
	a = decoded[arrived](t, c, &fetch.Request{URL: hopTo("http://a.test", 307, "http://[fe80::2%25eth1]/b")})
	assert.Equal(t, "[fe80::2]", a.Host)
	<-dialed
	assert.Equal(t, "[fe80::2%eth1]:80", <-dialed)

	// Nor does a proxy get it.
	proxied := tidy(t, &fetch.Client{Dial: direct, Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("http://proxy.test") }})
	a = decoded[arrived](t, proxied, &fetch.Request{URL: "http://[fe80::1%25eth0]:81/a"})
	assert.Equal(t, "[fe80::1]:81", a.Host)
	assert.Equal(t, "http://[fe80::1]:81/a", a.URI)
	assert.Equal(t, "proxy.test:80", <-dialed)
}

// A scriptConn sends text, then ends. It keeps what is written.
type scriptConn struct {
	net.Conn // nil: what is not defined here is not called
	text     *strings.Reader
	mu       sync.Mutex
	written  bytes.Buffer
}

func (c *scriptConn) Read(p []byte) (int, error) { return c.text.Read(p) }

func (c *scriptConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written.Write(p)
}

func (*scriptConn) SetDeadline(time.Time) error      { return nil }
func (*scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (*scriptConn) SetWriteDeadline(time.Time) error { return nil }
func (*scriptConn) Close() error                     { return nil }
func (*scriptConn) LocalAddr() net.Addr              { return nil }
func (*scriptConn) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// sentBy returns what c writes for req, and its result.
func sentBy(c *fetch.Client, req *fetch.Request) (string, fetch.Result) {
	conn := &scriptConn{text: strings.NewReader("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")}
	c.Dial = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	res := c.Do(context.Background(), req) // waits for the end of the write
	return conn.written.String(), res
}

// What is sent for a plain GET, in full.
func TestClientSendsNoMore(t *testing.T) {
	text, res := sentBy(&fetch.Client{}, &fetch.Request{URL: "http://h.test:8080/a?b"})
	require.NoError(t, res.Err)
	assert.Equal(t, "GET /a?b HTTP/1.1\r\nHost: h.test:8080\r\nUser-Agent: fetchbench\r\nAccept-Encoding: gzip\r\n\r\n", text)
}

// What is sent is one request, which net/http's server reads as it was meant.
func FuzzClientRequest(f *testing.F) {
	f.Add("GET", "http://h.test/a?b", "X-A", "b", "", []byte(nil))
	f.Add("POST", "http://h.test/", "Content-Type", " text/plain\t", "virtual.test", []byte("body"))
	f.Add("PURGE", "http://u:p@h.test:1/#", "Content-Length", "5", "", []byte(nil))
	f.Add("G T", "http://[fe80::1%25eth0]/", "Transfer-Encoding", "chunked", "a b", []byte("x"))
	f.Add("GET", "http://[fe80::1%25eth0]/", "Trailer", "X", "", []byte("x"))
	f.Add("GET", "http://h.test/ ?\x01", "A\r\nB", "c\r\nD: e", "a\r\nb", []byte("x"))
	f.Add("GET", "http://h.test/", "content-length", "5", "", []byte("x"))
	f.Add("GET", "http://h.test/", "connection", "close", "", []byte("x"))
	f.Add("GET", "http://h.test/", "Connection", "x, CLOSE", "", []byte("x"))
	f.Add("GET", "http://h.test/", "User-Agent", "", "", []byte("x"))
	f.Add("PUT", "http://bücher.test/ä b?c d", "Accept-Encoding", "br", "", bytes.Repeat([]byte("x"), 20_000))
	// Of these fields the Client writes its own.
	own := map[string]bool{"Host": true, "User-Agent": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true, "Authorization": true}
	f.Fuzz(func(t *testing.T, method, rawURL, name, value, host string, body []byte) {
		if strings.EqualFold(name, "Expect") || !strings.HasPrefix(rawURL, "http:") {
			return // the body might have to wait; the handshake of https would fail
		}
		h := http.Header{name: {value}}
		if host != "" {
			h["Host"] = []string{host}
		}
		req := &fetch.Request{Method: method, URL: rawURL, Header: h, Body: body}
		text, res := sentBy(&fetch.Client{SendUserInfo: true, Proxy: func(*url.URL) (*url.URL, error) { return nil, nil }}, req)
		if res.Err != nil {
			require.Equal(t, fetch.ErrBadURL, fetch.KindOf(res.Err), "%v", res.Err)
			require.Empty(t, text)
			return
		}
		br := bufio.NewReader(strings.NewReader(text))
		hreq, err := http.ReadRequest(br)
		require.NoError(t, err, "%q", text)
		got, err := io.ReadAll(hreq.Body)
		require.NoError(t, err)
		require.Equal(t, string(body), string(got))
		_, err = br.ReadByte()
		require.True(t, errors.Is(err, io.EOF), "more than one request: %q", text)
		require.Equal(t, cmp.Or(method, "GET"), hreq.Method)
		u, _, err := rules.ParseURL(rawURL)
		require.NoError(t, err)
		require.Equal(t, u.RequestURI(), hreq.RequestURI)
		require.Equal(t, cmp.Or(h.Get("Host"), rules.WithoutZone(u.Host)), hreq.Host)
		require.Empty(t, hreq.TransferEncoding)
		if !own[name] {
			require.Equal(t, strings.Trim(value, " \t"), hreq.Header.Get(name), "%q", text)
		}
	})
}
