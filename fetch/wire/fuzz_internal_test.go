package wire

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/rules"
)

// A script is a connection on which the server sends pieces, and then closes.
type script struct {
	net.Conn // nil: what is not defined here is not called
	text     []byte
	piece    int // bytes that come at once
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.piece)], s.text)
	s.text = s.text[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) { return len(p), nil }
func (s *script) SetDeadline(time.Time) error { return nil }
func (s *script) Close() error                { return nil }
func (s *script) RemoteAddr() net.Addr        { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }
func dialing(conns ...net.Conn) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		if len(conns) == 0 {
			return nil, fmt.Errorf("no more connections")
		}
		c := conns[0]
		conns = conns[1:]
		return c, nil
	}
}

// outcome is what a reader makes of an answer.
type outcome struct {
	status int
	header http.Header
	body   string
	left   string // what comes after the answer, if the connection could serve another request
	keep   bool
}

// byWire reads an answer as a Client does.
func byWire(text []byte, piece int, method string) (o outcome, err error) {
	c := &Client{MaxRedirects: -1, Dial: dialing(&script{text: text, piece: piece})}
	c.once.Do(c.init)
	var x exchange
	x.prepare(c, context.Background(), &fetch.Request{Method: method, URL: "http://h.test/", Header: http.Header{"Accept-Encoding": {"identity"}}}, time.Now())
	conn, err := c.get(x.ctx, &x.target, x.end, false)
	if err != nil {
		return o, err
	}
	if err := conn.begin(x.ctx, time.Now(), x.end); err != nil {
		return o, err
	}
	conn.out = []byte("a request")
	if _, o.keep, err = x.receive(conn); err != nil {
		return o, err
	}
	o.status, o.header, o.body = x.result.Status, x.result.Header(), string(x.result.Body)
	if o.keep {
		left, _ := io.ReadAll(conn.br)
		o.left = string(left)
	}
	return o, nil
}

// byNetHTTP reads an answer as net/http does, with the rules that a fetch.Client adds.
func byNetHTTP(text []byte, method string) (o outcome, err error) {
	br := bufio.NewReaderSize(bytes.NewReader(text), readBuffer)
	resp := &http.Response{StatusCode: 100}
	for resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != 101 {
		if resp, err = http.ReadResponse(br, &http.Request{Method: method}); err != nil {
			return o, err
		}
	}
	if err := rules.CheckHead(resp.StatusCode, resp.Header); err != nil {
		return o, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return o, err
	}
	o = outcome{status: resp.StatusCode, header: resp.Header, body: string(body), keep: !resp.Close}
	if o.keep {
		left, _ := io.ReadAll(br)
		o.left = string(left)
	}
	return o, nil
}

// Whatever a server sends: what wire takes for an answer, net/http takes for the same, and what
// net/http refuses, wire refuses.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 304\r\nETag: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nx",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\nx",
		"HTTP/1.1 200 OK\r\n\r\nhello",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
		"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nPragma: no-cache\r\nTrailer: X\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nx-many: a\r\nX-Many:b\r\nX-MANY:\t c \t\r\nContent-Length: 0005\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nConnection: close, keep-alive\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nConnection: CLOSE\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.0 200 OK\r\nConnection: close\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 4294967301\r\n\r\nhello",
		"HTTP/1.1 099 Odd\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200OK\r\n\r\n", "HTTP/1.1 200\r\n\r\n", "HTTP/1.1  200 OK\r\n\r\n",
		"HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 200 \r\n\r\n", "HTTP/1.1 20\r\n\r\n", "\r\n", "HTTP",
		"HTTP/1.1 200 OK\r\nX-" + strings.Repeat("x", 5000) + ": a\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("x", 5001),
	} {
		for _, piece := range []int{1, 7, 1 << 20} {
			f.Add([]byte(text), piece, false)
			f.Add([]byte(text), piece, true)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, piece int, head bool) {
		if piece < 1 || len(text) > 1<<16 {
			return
		}
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		want, wantErr := byNetHTTP(text, method)
		got, err := byWire(text, piece, method)
		if wantErr != nil {
			require.Error(t, err, "net/http refuses it: %v", wantErr)
		}
		if err != nil {
			return
		}
		require.Equal(t, want.status, got.status)
		require.Equal(t, want.header, got.header)
		require.Equal(t, want.body, got.body)
		if got.keep {
			require.True(t, want.keep, "wire keeps a connection that net/http closes")
			require.Equal(t, want.left, got.left, "what is left for the next answer")
		}
		// What parseHead takes has to be the common kind: all else is left to net/http.
		if a, size, v := parseHead(text); v == common && want.status == a.status {
			require.LessOrEqual(t, size, len(text))
			require.NotContains(t, want.header, "Transfer-Encoding")
		}
	})
}

// What split takes, net/url takes for the same.
func FuzzTarget(f *testing.F) {
	for _, raw := range []string{
		"http://h.test/", "https://h.test:8443/a/b?c=d&e", "http://127.0.0.1:80/", "http://h:0/", "http://h:65536/", "http://h:99999/", "http://h:080/",
		"http://h", "http://h?a", "http://h/#a", "http://u@h/", "http://[::1]/", "http://h/%zz", "http://h/a b", "http://h/?a b", "http://h//a", "http:///a",
		"http://:80/", "HTTP://h/", "http://h:/", "http://h/ä", "http://h/?ä", "http://-/", "http://./", "http://_/", "http://h/?#", "http://h/?a#b", "http://h/\x7f", "http://h/?\"<>^`{|}",
		"http://h/a:b@c;d=e,f!*'()", "http://h:1234567/", "http://h%41/", "http://h\\a/",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, ok := split(raw)
		if !ok {
			return
		}
		u, user, err := rules.ParseURL(raw)
		require.NoError(t, err)
		require.Nil(t, user)
		want, err := targetOf(u)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, raw, got.origin.String()+got.path)
	})
}

// What is sent is one request, which net/http's server reads as it was meant.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "http://h.test/a?b", "X-A", "b", "", []byte(nil))
	f.Add("POST", "http://h.test/", "Content-Type", " text/plain\t", "virtual.test", []byte("body"))
	f.Add("PURGE", "https://u:p@h.test:1/#", "Content-Length", "5", "", []byte(nil))
	f.Add("G T", "http://[fe80::1%25eth0]/", "Transfer-Encoding", "chunked", "a b", []byte("x"))
	f.Add("GET", "http://h.test/ ?\x01", "A\r\nB", "c\r\nD: e", "a\r\nb", []byte("x"))
	f.Add("GET", "http://h.test/", "content-length", "5", "", []byte("x"))
	f.Add("GET", "http://h.test/", "connection", "close", "", []byte("x"))
	f.Add("GET", "http://h.test/", "Connection", "x, CLOSE", "", []byte("x"))
	f.Add("GET", "http://h.test/", "User-Agent", "", "", []byte("x"))
	f.Fuzz(func(t *testing.T, method, url, name, value, host string, body []byte) {
		c := &Client{UserInfo: true}
		c.once.Do(c.init)
		h := http.Header{name: {value}}
		if host != "" {
			h["Host"] = []string{host}
		}
		var x exchange
		x.prepare(c, context.Background(), &fetch.Request{Method: method, URL: url, Header: h, Body: body}, time.Now())
		if x.result.Err != nil {
			require.Equal(t, fetch.ErrBadURL, fetch.KindOf(x.result.Err))
			return
		}
		text := append(x.appendHead(nil), body...)
		br := bufio.NewReader(bytes.NewReader(text))
		req, err := http.ReadRequest(br)
		require.NoError(t, err, "%q", text)
		got, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		require.Equal(t, string(body), string(got))
		_, err = br.ReadByte()
		require.Equal(t, io.EOF, err, "more than one request: %q", text)
		require.Equal(t, x.method, req.Method)
		require.Equal(t, x.target.path, req.RequestURI)
		require.Equal(t, x.host, req.Host)
		require.Empty(t, req.TransferEncoding)
		if !ours[name] && name != "Host" {
			require.Equal(t, strings.Trim(value, " \t"), req.Header.Get(name), "%q", text)
		}
	})
}

// The head of what is sent for a plain GET, in full.
func TestRequestHead(t *testing.T) {
	c := &Client{}
	c.once.Do(c.init)
	var x exchange
	x.prepare(c, context.Background(), &fetch.Request{URL: "http://h.test:8080/a?b"}, time.Now())
	require.NoError(t, x.result.Err)
	assert.Equal(t, "GET /a?b HTTP/1.1\r\nHost: h.test:8080\r\nUser-Agent: fetchbench\r\nAccept-Encoding: gzip\r\n\r\n", string(x.appendHead(nil)))
}
