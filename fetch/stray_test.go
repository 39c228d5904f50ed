package fetch_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// strayServer answers GET /N with N, and every so many times sends a second answer after that,
// in the same write or in one of its own; half of those come after a 204. It returns its
// URL and the number of connections.
func strayServer(t *testing.T, secure *httptest.Server, every int64, writes int) (string, *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	scheme := "http://"
	if secure != nil {
		l, scheme = tls.NewListener(l, &tls.Config{Certificates: secure.TLS.Certificates}), "https://"
	}
	var conns, n atomic.Int64
	var running sync.WaitGroup
	serve := func(conn net.Conn) {
		defer conn.Close()
		for r := bufio.NewReader(conn); ; {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			id := strings.TrimPrefix(req.URL.Path, "/")
			answer, stray := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(id), id), ""
			if k := n.Add(1); every > 0 && k%every == 0 {
				stray = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"
				if k%(2*every) == 0 {
					answer = "HTTP/1.1 204 No Content\r\n\r\n"
				}
			}
			if writes == 1 {
				answer, stray = answer+stray, ""
			}
			io.WriteString(conn, answer)
			io.WriteString(conn, stray)
			if req.Close {
				return
			}
		}
	}
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			running.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return scheme + l.Addr().String(), &conns
}

// quiet keeps net/http from logging what this test's servers send unasked.
func quiet(t *testing.T) {
	was := log.Writer()
	log.SetOutput(io.Discard)
	t.Cleanup(func() { log.SetOutput(was) })
}

// No request may get the answer of another, whatever a server sends; and a server that
// sends nothing amiss keeps its connections.
func TestClientStrayAnswers(t *testing.T) {
	secure := httptest.NewTLSServer(nil)
	defer secure.Close()
	for _, c := range []struct {
		name   string
		n      int
		every  int64
		writes int
		most   int // wrong answers
		atOnce int
		secure *httptest.Server
	}{
		{"none", 48_000, 0, 1, 0, 64, nil},
		{"in the same write", 48_000, 5, 1, 0, 64, nil},
		// What arrives after the next request was written cannot be told from the answer to that.
		// It can happen until the server is caught for the first time.
		{"in a write of their own", 8_000, 5, 2, 2, 64, nil},
		{"none, TLS", 4_000, 0, 1, 0, 64, secure},
		{"in the same write, TLS", 2_000, 5, 1, 0, 16, secure},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := c.n
			if testing.Short() {
				n /= 10
			}
			url, conns := strayServer(t, c.secure, c.every, c.writes)
			client := tidy(t, &fetch.Client{})
			if c.secure != nil {
				client.TLS = trust(c.secure)
			}
			f := fetch.Fetcher{Strategy: fetch.Pool{Workers: c.atOnce}, Doer: client}
			wrong, received := 0, 0
			for r := range f.Fetch(t.Context(), inputs(n, func(i int) string { return fmt.Sprint(url, "/", i) })) {
				received++
				require.NoError(t, r.Err)
				require.Contains(t, []int{200, 204}, r.Status)
				if r.Status == 200 && string(r.Body) != fmt.Sprint(r.Request.Index) {
					wrong++
				}
			}
			assert.Equal(t, n, received)
			assert.LessOrEqual(t, wrong, c.most, "answers of another request")
			if c.every == 0 { // a server that was caught has its connections closed
				assert.LessOrEqual(t, conns.Load(), int64(c.atOnce), "connections given up without need")
			}
		})
	}
}

// Who was caught once is not trusted again as soon as nothing is under way there.
func TestClientRemembersStrayAnswers(t *testing.T) {
	secure := httptest.NewTLSServer(nil)
	defer secure.Close()
	for name, secure := range map[string]*httptest.Server{"plain": nil, "TLS": secure} {
		t.Run(name, func(t *testing.T) {
			url, conns := strayServer(t, secure, 1, 2)
			client := tidy(t, &fetch.Client{})
			if secure != nil {
				client.TLS = trust(secure)
			}
			require.Eventually(t, func() bool { // in a pause the answer that nobody asked for is noticed
				before := conns.Load()
				get(t, client, url+"/0")
				get(t, client, url+"/0")
				get(t, client, url+"/0")
				return conns.Load() == before+3
			}, soon, 10*time.Millisecond)
			before := conns.Load()
			for i := range 100 {
				res := get(t, client, fmt.Sprint(url, "/", i))
				require.NoError(t, res.Err)
				require.Contains(t, []string{"", fmt.Sprint(i)}, string(res.Body))
			}
			assert.Equal(t, before+100, conns.Load(), "connections")
		})
	}
}

// A 204 that announces a body may be followed by that, at any time.
func TestClientLateBodyOf204(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	var conns atomic.Int64
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			go func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, req.Body)
					io.WriteString(conn, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n")
				}
			}()
		}
	}()
	client := tidy(t, &fetch.Client{})
	for range 3 {
		require.NoError(t, get(t, client, "http://"+l.Addr().String()).Err)
	}
	assert.EqualValues(t, 3, conns.Load(), "a connection was used again")
	// A connection that was kept from before is refused, whatever was to be sent on it.
	for _, size := range []int{0, 1, 3000, 5000, 100_000} {
		res := client.Do(t.Context(), &fetch.Request{Method: "POST", URL: "http://" + l.Addr().String(), Body: make([]byte, size)})
		assert.NoError(t, res.Err, size)
		assert.Equal(t, 1, res.Attempts)
	}
}
