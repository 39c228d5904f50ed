package fetch_test

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// strayServer answers GET /N with N, and every so many times sends a second answer after that,
// in the same write or in one of its own; half of those come after a 204. It returns its
// URL and the number of connections.
func strayServer(t *testing.T, every int64, writes int) (string, *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
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
	return "http://" + l.Addr().String(), &conns
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
	quiet(t)
	for _, c := range []struct {
		name   string
		n      int
		every  int64
		writes int
		most   int // wrong answers
	}{
		{"none", 48_000, 0, 1, 0},
		{"in the same write", 48_000, 5, 1, 0},
		// What arrives after the next request was written cannot be told from the answer to that.
		// It can happen until the server is caught for the first time.
		{"in a write of their own", 8_000, 5, 2, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := c.n
			if testing.Short() {
				n /= 10
			}
			url, conns := strayServer(t, c.every, c.writes)
			f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 64}, Doer: tidy(t, &fetch.Client{})}
			wrong, received := 0, 0
			for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
				for i := range n {
					if !yield(fetch.Request{URL: fmt.Sprintf("%s/%d", url, i)}) {
						return
					}
				}
			}) {
				received++
				require.NoError(t, r.Err)
				require.Contains(t, []int{200, 204}, r.Status)
				if r.Status == 200 && string(r.Body) != fmt.Sprint(r.Request.Index) {
					wrong++
				}
			}
			assert.Equal(t, n, received)
			assert.LessOrEqual(t, wrong, c.most, "answers of another request")
			if c.every == 0 {
				assert.LessOrEqual(t, conns.Load(), int64(64), "connections given up without need")
			}
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
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
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
}
