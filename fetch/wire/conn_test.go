package wire_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/wire"
)

// dialer returns a Dial whose connections are TCP's as wrap has made them.
func dialer(wrap func(*net.TCPConn) net.Conn) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return wrap(conn.(*net.TCPConn)), nil
	}
}

// A flipped connection has a socket, but what goes through that is not what is read and written on it.
type flipped struct{ *net.TCPConn }

func (f flipped) Read(p []byte) (int, error) {
	n, err := f.TCPConn.Read(p)
	flip(p[:n])
	return n, err
}

func (f flipped) Write(p []byte) (int, error) {
	p = append([]byte(nil), p...)
	flip(p)
	return f.TCPConn.Write(p)
}

func flip(p []byte) {
	for i := range p {
		p[i] ^= 0x55
	}
}

// A connection that embeds a socket's is read and written by its own methods, and still nothing is
// taken for an answer that came before the request.
func TestWrappedSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	url, conns := serveOn(t, flippedListener{l}, func(conn net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(conn, answer(r.URL.Path))
			if r.URL.Path == "/twice" {
				io.WriteString(conn, answer("stray"))
			}
		}
	})
	c := closing(t, &wire.Client{Dial: dialer(func(conn *net.TCPConn) net.Conn { return flipped{conn} })})
	for range 3 {
		requireOK(t, batch(t, t.Context(), c, url, some...))
	}
	assert.EqualValues(t, 1, conns.Load())
	res := c.Do(t.Context(), &fetch.Request{Method: "POST", URL: url + "/post", Body: make([]byte, 1<<20)})
	require.NoError(t, res.Err)
	for range 3 {
		require.Equal(t, "/twice", string(get(t, c, url+"/twice").Body))
		time.Sleep(5 * time.Millisecond)
		require.Equal(t, "/other", string(get(t, c, url+"/other").Body))
	}
}

type flippedListener struct{ net.Listener }

func (l flippedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return flipped{conn.(*net.TCPConn)}, nil
}

type noDeadlines struct{ net.Conn }

func (noDeadlines) SetDeadline(time.Time) error { return errors.ErrUnsupported }

func TestDeadlinesAreNeeded(t *testing.T) {
	url, _ := serve(t, each(func(*http.Request) string { return answer("ok") }))
	c := closing(t, &wire.Client{Dial: dialer(func(conn *net.TCPConn) net.Conn { return noDeadlines{conn} })})
	res := get(t, c, url)
	assert.ErrorIs(t, res.Err, fetch.ErrDial)
	assert.ErrorIs(t, res.Err, errors.ErrUnsupported)
	assert.ErrorContains(t, res.Err, "connections of Dial have to support deadlines")
}

// A silent handshake ends, by a clock that is not this test's, and the caller is told what took so long.
func TestHandshakeTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &wire.Client{Dial: func(context.Context, string, string) (net.Conn, error) {
			conn, peer := net.Pipe()
			go func() { io.Copy(io.Discard, peer); peer.Close() }()
			return conn, nil
		}}
		begun := time.Now()
		res := get(t, c, "https://host.test/")
		assert.ErrorIs(t, res.Err, fetch.ErrTimeout)
		assert.ErrorContains(t, res.Err, "no TLS handshake within 10s")
		assert.Equal(t, 10*time.Second, time.Since(begun))
	})
}

// A withholder sends what is written while it withholds but for the last byte, which comes with what follows.
type withholder struct {
	net.Conn
	withholds bool
	rest      []byte
}

func (w *withholder) Write(p []byte) (int, error) {
	b := append(w.rest, p...)
	w.rest = nil
	if w.withholds {
		last := len(b) - 1
		b, w.rest = b[:last], append([]byte(nil), b[last:]...)
	}
	if _, err := w.Conn.Write(b); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Of an unsolicited response, there may be half a TLS record before the next request.
func TestHalfRecord(t *testing.T) {
	s := httptest.NewTLSServer(nil)
	t.Cleanup(s.Close)
	config := &tls.Config{Certificates: s.TLS.Certificates}
	url, conns := serve(t, func(conn net.Conn, _ *bufio.Reader) {
		w := &withholder{Conn: conn}
		secure := tls.Server(w, config)
		br := bufio.NewReader(secure)
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.WriteString(secure, answer(r.URL.Path))
			if r.URL.Path == "/twice" {
				w.withholds = true
				io.WriteString(secure, answer("stray"))
				w.withholds = false
			}
		}
	})
	url = strings.Replace(url, "http:", "https:", 1)
	roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c := closing(t, &wire.Client{TLS: &tls.Config{RootCAs: roots}})
	require.Equal(t, "/once", string(get(t, c, url+"/once").Body))
	require.Equal(t, "/twice", string(get(t, c, url+"/twice").Body))
	assert.EqualValues(t, 1, conns.Load())
	time.Sleep(20 * time.Millisecond)
	require.Equal(t, "/other", string(get(t, c, url+"/other").Body))
	assert.EqualValues(t, 2, conns.Load())
}

// A server that answers before it is asked has answered that one request, and no other.
func TestEarlyAnswer(t *testing.T) {
	s := httptest.NewTLSServer(nil)
	t.Cleanup(s.Close)
	config := &tls.Config{Certificates: s.TLS.Certificates}
	roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for _, scheme := range []string{"http", "https"} {
		for _, method := range []string{"GET", "POST"} {
			t.Run(scheme+" "+method, func(t *testing.T) {
				url, conns := serve(t, func(conn net.Conn, br *bufio.Reader) {
					if scheme == "https" {
						conn = tls.Server(conn, config)
						br = bufio.NewReader(conn)
					}
					io.WriteString(conn, answer("early"))
					for {
						r, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						io.Copy(io.Discard, r.Body)
						io.WriteString(conn, answer("of "+r.URL.Path))
					}
				})
				url = scheme + strings.TrimPrefix(url, "http")
				c := closing(t, &wire.Client{TLS: &tls.Config{RootCAs: roots}})
				slow := dialer(func(conn *net.TCPConn) net.Conn { return conn })
				c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := slow(ctx, network, addr)
					time.Sleep(20 * time.Millisecond) // for what is early to be there
					return conn, err
				}
				var body []byte
				if method == "POST" {
					body = make([]byte, 100_000)
				}
				for i := range 3 {
					res := c.Do(t.Context(), &fetch.Request{Method: method, URL: fmt.Sprint(url, "/", i), Body: body})
					require.NoError(t, res.Err)
					assert.Equal(t, "early", string(res.Body))
					if scheme == "https" { // where it comes while the request is written
						time.Sleep(20 * time.Millisecond)
					}
				}
				assert.EqualValues(t, 3, conns.Load())
			})
		}
	}
}

// Large requests use connections again as small ones do.
func TestLargeRequests(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, " ", len(r.Header.Get("X")))
	}))
	t.Cleanup(server.Close)
	var conns atomic.Int64
	c := closing(t, &wire.Client{Dial: dialer(func(conn *net.TCPConn) net.Conn { conns.Add(1); return conn })})
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
		if res.Err != nil { // the reset may overtake the answer
			require.ErrorIs(t, res.Err, fetch.ErrReset)
			continue
		}
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, res.Status)
	}
}

type failing struct {
	*net.TCPConn
	err error
}

func (f failing) Write([]byte) (int, error) { return 0, f.err }

type panicking struct {
	*net.TCPConn
	now *atomic.Bool
}

func (p panicking) Read(b []byte) (int, error) {
	if p.now.Load() {
		panic("Read")
	}
	return p.TCPConn.Read(b)
}

// What the methods of a connection do wrong is told at once, and costs nothing but the connection.
func TestConnOfAnother(t *testing.T) {
	url, _ := serve(t, each(func(*http.Request) string { return answer("ok") }))
	own := errors.New("no way")
	c := closing(t, &wire.Client{Dial: dialer(func(conn *net.TCPConn) net.Conn { return failing{conn, own} })})
	for _, size := range []int{0, 100, 100_000} {
		res := c.Do(t.Context(), &fetch.Request{Method: "POST", URL: url, Body: make([]byte, size)})
		require.ErrorIs(t, res.Err, own, "%d bytes", size)
		require.Less(t, res.Duration, 5*time.Second)
	}

	var now atomic.Bool
	c = closing(t, &wire.Client{MaxConnsPerHost: 1, Dial: dialer(func(conn *net.TCPConn) net.Conn { return panicking{conn, &now} })})
	for range 3 {
		now.Store(true)
		require.PanicsWithValue(t, "Read", func() { get(t, c, url) })
		now.Store(false)
		requireOK(t, batch(t, t.Context(), c, url))
		require.NoError(t, get(t, c, url).Err)
	}
}

// A host has no more connections than it may have, those included that are to take the place of others.
func TestMaxConnsPerHostOfNewOnes(t *testing.T) {
	url, _ := serve(t, func(conn net.Conn, br *bufio.Reader) {
		for i := range 3 {
			if _, err := http.ReadRequest(br); err != nil || i == 2 {
				return // one in three has no answer
			}
			io.WriteString(conn, answer("ok"))
		}
	})
	for _, limit := range []int{1, 3} {
		var open, peak atomic.Int64
		c := closing(t, &wire.Client{MaxConnsPerHost: limit, Dial: dialer(func(conn *net.TCPConn) net.Conn {
			n := open.Add(1)
			for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
			}
			return &closeCounter{TCPConn: conn, open: &open}
		})})
		f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: c}
		again := 0
		for r := range f.Get(t.Context(), slices.Repeat([]string{url}, 200)...) {
			require.NoError(t, r.Err)
			again += r.Attempts - 1
		}
		assert.Positive(t, again)
		assert.LessOrEqual(t, peak.Load(), int64(limit))
	}
}
