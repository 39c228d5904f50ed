package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/rules"
)

// A script is a connection on which the server sends text in pieces, and then closes.
type script struct {
	net.Conn // nil: what is not defined here is not called
	text     []byte
	piece    int // bytes that come at once
	written  bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.piece)], s.text)
	s.text = s.text[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error)     { return s.written.Write(p) }
func (s *script) SetDeadline(time.Time) error     { return nil }
func (s *script) SetReadDeadline(time.Time) error { return nil }
func (s *script) Close() error                    { return nil }

// outcome is what a reader makes of a response.
type outcome struct {
	status int
	proto  string
	header http.Header
	body   string
	left   string // what comes after the response, if the connection is kept
	keep   bool
}

// byConn reads a response by a Conn.
func byConn(text []byte, piece int, method string, limits Limits) (o outcome, err error) {
	c := New(&script{text: text, piece: piece}, &limits)
	defer c.Close()
	if err := c.Acquire(context.Background(), time.Now(), time.Time{}); err != nil {
		return o, err
	}
	req := Request{Method: method, Target: "/", Host: "h.test", Header: http.Header{"Accept-Encoding": {"identity"}}}
	c.Send(&req)
	resp, err := c.ReadHead(&req)
	if err != nil {
		return o, err
	}
	early := c.Header(&resp).Clone()
	body, err := c.ReadBody(&resp, -1)
	if err != nil {
		return o, err
	}
	header := resp.Header
	if header == nil {
		header = ParseHeader(resp.Head)
	}
	o = outcome{status: resp.Status, proto: resp.Proto, header: header, body: string(body), keep: resp.KeepAlive}
	if !assert.ObjectsAreEqual(early, o.header) {
		return o, errors.New("another header before the body was read")
	}
	if o.keep {
		left, _ := io.ReadAll(c.br)
		o.left = string(left)
	}
	return o, nil
}

// byNetHTTP reads a response by net/http, with the rules that package fetch adds.
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
	o = outcome{status: resp.StatusCode, proto: resp.Proto, header: resp.Header, body: string(body), keep: !resp.Close}
	if o.keep {
		left, _ := io.ReadAll(br)
		o.left = string(left)
	}
	return o, nil
}

// Whatever a server sends: what a Conn takes for a response, net/http takes for the same, and what
// net/http refuses, a Conn refuses.
func FuzzResponse(f *testing.F) {
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
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Encoding: gzip\r\n\r\nhello",
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
		got, err := byConn(text, piece, method, Limits{MaxHeader: -1})
		if wantErr != nil {
			require.Error(t, err, "net/http refuses it: %v", wantErr)
		}
		if err != nil {
			return
		}
		require.Equal(t, want.status, got.status)
		require.Equal(t, want.proto, got.proto)
		require.Equal(t, want.header, got.header)
		require.Equal(t, want.body, got.body)
		if got.keep {
			require.True(t, want.keep, "a Conn keeps a connection that net/http closes")
			require.Equal(t, want.left, got.left, "what is left for the next response")
		}
		// What parseHead takes has to be the common kind: all else is left to net/http.
		if a, size, v := parseHead(text); v == common && want.status == a.status {
			require.LessOrEqual(t, size, len(text))
			require.NotContains(t, want.header, "Transfer-Encoding")
		}
	})
}

// What a Conn must accept, and keep the connection after: without this the fuzzing might pass by
// refusing everything.
func TestResponses(t *testing.T) {
	for text, keep := range map[string]bool{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello":                                                              true,
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello":                                         false,
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, close\r\n\r\nhello":                                      false,
		"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello":                                                              false,
		"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello":                                    true,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n":                          true,
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello": true,
		"HTTP/1.1 200 OK\r\n\r\nhello":                                                                                   false,
	} {
		for _, piece := range []int{1, 3, 1 << 20} {
			o, err := byConn([]byte(text), piece, http.MethodGet, Limits{MaxHeader: 1000})
			require.NoError(t, err, text)
			assert.Equal(t, 200, o.status)
			assert.Equal(t, "hello", o.body)
			assert.Equal(t, keep, o.keep, text)
		}
	}
}
