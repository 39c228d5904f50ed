package fetch_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
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
	"fetchbench/fetch/fetchtest"
)

// doBatch performs GETs of paths below url by DoBatch, and returns the results by path.
func doBatch(t *testing.T, ctx context.Context, c *fetch.Client, url string, paths ...string) map[string]fetch.Result {
	t.Helper()
	var reqs []*fetch.Request
	for _, p := range paths {
		reqs = append(reqs, &fetch.Request{URL: url + p})
	}
	return doBatchOf(t, ctx, c, reqs)
}

// doBatchOf performs reqs by DoBatch, and returns the results by path: one for each.
func doBatchOf(t *testing.T, ctx context.Context, c *fetch.Client, reqs []*fetch.Request) map[string]fetch.Result {
	t.Helper()
	got := make(map[string]fetch.Result)
	c.DoBatch(ctx, reqs, func(res fetch.Result) {
		_, rest, _ := strings.Cut(res.Request.URL, "://")
		_, path, _ := strings.Cut(rest, "/")
		_, twice := got["/"+path]
		assert.False(t, twice, "a second result of %s", path)
		got["/"+path] = res
	})
	assert.Len(t, got, len(reqs))
	return got
}

var eightPaths = []string{"/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7"}

// requireEchoes checks that each path has its own response.
func requireEchoes(t *testing.T, got map[string]fetch.Result) {
	t.Helper()
	for path, res := range got {
		require.NoError(t, res.Err, path)
		require.Equal(t, path, string(res.Body))
	}
}

// tracedContext returns the context of a run whose Trace hands each EventPipelineOff to told.
func tracedContext(t *testing.T, told func(fetch.Event)) (ctx context.Context) {
	t.Helper()
	f := fetch.Fetcher{
		Strategy: fetch.Serial{},
		Doer: fetch.DoerFunc(func(inRun context.Context, _ *fetch.Request) fetch.Result {
			ctx = inRun
			return fetch.Result{Status: 200}
		}),
		Trace: func(e fetch.Event) {
			if e.Kind == fetch.EventPipelineOff {
				told(e)
			}
		},
	}
	for range f.Get(t.Context(), "http://host.test/") {
	}
	return ctx
}

// A windowLog notes how many requests a server has read together: those of one write.
type windowLog struct {
	mu    sync.Mutex
	sizes []int
}

func (w *windowLog) note(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sizes = append(w.sizes, n)
}

// take returns what has been noted, and forgets it.
func (w *windowLog) take() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	sizes := w.sizes
	w.sizes = nil
	return sizes
}

// inWindows responds to requests that have come together: to the i-th of n by respond. If that
// returns false, the connection is closed.
func (w *windowLog) inWindows(respond func(conn io.Writer, path string, i, n int) bool) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, br *bufio.Reader) {
		for {
			var paths []string
			for len(paths) == 0 || br.Buffered() > 0 {
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				paths = append(paths, r.URL.Path)
			}
			w.note(len(paths))
			for i, p := range paths {
				if !respond(conn, p, i, len(paths)) {
					return
				}
			}
		}
	}
}

func echoPath(conn io.Writer, path string, _, _ int) bool {
	io.WriteString(conn, response(path))
	return true
}

// Requests share a write once the host has shown that it keeps connections, and each gets its own
// response, whatever the framing.
func TestClientPipelines(t *testing.T) {
	var w windowLog
	url, conns := rawServer(t, w.inWindows(func(conn io.Writer, path string, i, n int) bool {
		switch i % 4 {
		case 1:
			io.WriteString(conn, chunkedResponse(path))
		case 2:
			io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\n\r\n"+response(path))
		default:
			io.WriteString(conn, response(path))
		}
		return true
	}))
	c := tidy(t, &fetch.Client{})
	got := doBatch(t, t.Context(), c, url, eightPaths...)
	requireEchoes(t, got)
	assert.Equal(t, []int{1, 7}, w.take(), "the first shows what the host can do")
	requireEchoes(t, doBatch(t, t.Context(), c, url, eightPaths...))
	assert.Equal(t, []int{8}, w.take())
	assert.EqualValues(t, 1, conns.Load())
	for _, res := range got {
		assert.Equal(t, 1, res.Attempts)
		assert.Positive(t, res.Duration)
	}

	// By way of the strategy.
	f := fetch.Fetcher{Strategy: fetch.Pipeline{Limit: 32, Depth: 8}, Doer: c}
	n := 0
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for i := range 1000 {
			if !yield(fetch.Request{URL: fmt.Sprint(url, "/", i)}) {
				return
			}
		}
	}) {
		require.NoError(t, r.Err)
		require.Equal(t, fmt.Sprint("/", r.Request.Index), string(r.Body))
		n++
	}
	assert.Equal(t, 1000, n)
	sizes := w.take()
	assert.LessOrEqual(t, len(sizes), 1000/4+1, "writes, of 8 requests each but the last of a batch")
	assert.LessOrEqual(t, conns.Load(), int64(12), "connections: some have a few responses to come when the next write begins")
}

func TestClientPipelineOverTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) }))
	t.Cleanup(s.Close)
	c := tidy(t, &fetch.Client{TLS: &tls.Config{RootCAs: rootsOf(s)}})
	for range 3 {
		requireEchoes(t, doBatch(t, t.Context(), c, s.URL, eightPaths...))
	}
}

// A request that must not be sent twice, or goes elsewhere, is not sent with others; one that
// cannot be sent does not hold up the others.
func TestClientPipelineOfAllSorts(t *testing.T) {
	var w windowLog
	echoMethod := func(conn net.Conn, br *bufio.Reader) {
		for {
			n := 0
			for n == 0 || br.Buffered() > 0 {
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return
				}
				if r.Method == http.MethodHead {
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
				} else {
					io.WriteString(conn, response(r.Method+r.URL.Path+string(body)))
				}
				n++
			}
			w.note(n)
		}
	}
	url, _ := rawServer(t, echoMethod)
	other, _ := rawServer(t, echoMethod)
	c := tidy(t, &fetch.Client{})
	require.NoError(t, get(t, c, url).Err)
	require.Eventually(t, func() bool { return len(w.take()) == 1 }, 5*time.Second, time.Millisecond)
	got := doBatchOf(t, t.Context(), c, []*fetch.Request{
		{URL: url + "/1"},
		{URL: url + "/2", Method: "POST", Body: []byte("body")},
		{URL: url + "/3", Method: "HEAD"},
		{URL: other + "/4"},
		{URL: "http://host/%zz/5"},
		{URL: url + "/6", Method: "PUT"},
		{URL: url + "/7", Header: http.Header{"Connection": {"close"}}},
		{URL: url + "/8", Method: "OPTIONS"},
		{URL: url + "/9", Header: http.Header{"if-None-Match": {"x"}}},
	})
	assert.ErrorIs(t, got["/%zz/5"].Err, fetch.ErrBadURL)
	assert.Equal(t, 3, w.take()[0], "requests in the first write: 1, 6 and 8")
	delete(got, "/%zz/5")
	want := map[string]string{"/1": "GET/1", "/2": "POST/2body", "/3": "", "/4": "GET/4", "/6": "PUT/6", "/7": "GET/7", "/8": "OPTIONS/8", "/9": "GET/9"}
	for path, res := range got {
		require.NoError(t, res.Err)
		assert.Equal(t, want[path], string(res.Body))
	}
}

// A server closes the connection in the middle: the responses that came count, and the other
// requests are sent again one at a time. If the server did not announce it, nothing is written
// together for a while.
func TestClientPipelineBroken(t *testing.T) {
	for _, c := range []struct {
		name     string
		third    string // comes in place of the third response of several; then the connection is closed
		off      bool
		kind     fetch.Kind // what becomes of the third
		attempts int
	}{
		{name: "closed", off: true, attempts: 2},
		{name: "closed in a head", third: "HTTP/1.1 200 OK\r\nContent-", off: true, attempts: 2},
		{name: "closed in a body", third: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n/", off: true, attempts: 2},
		{name: "not HTTP", third: "hello\r\n", off: true, attempts: 2},
		{name: "an announced close", third: response("/2", "Connection: close"), attempts: 1},
		{name: "an end that only the close marks", third: "HTTP/1.1 200 OK\r\n\r\n/2", attempts: 1},
		{name: "a body that is too large", third: "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n/2", kind: fetch.ErrTooLarge, attempts: 1},
		{name: "a body that is not gzip", third: response("not gzip at all", "Content-Encoding: gzip"), kind: fetch.ErrDecode, attempts: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w windowLog
			url, _ := rawServer(t, func(conn net.Conn, br *bufio.Reader) {
				several := false
				w.inWindows(func(conn io.Writer, path string, i, n int) bool {
					several = several || i > 0
					if several && i == 2 {
						io.WriteString(conn, c.third)
						return false
					}
					return echoPath(conn, path, i, n)
				})(conn, br)
			})
			client := tidy(t, &fetch.Client{MaxBody: 100})
			require.NoError(t, get(t, client, url).Err)
			w.take()
			var told []fetch.Event
			ctx := tracedContext(t, func(e fetch.Event) { told = append(told, e) })
			got := doBatch(t, ctx, client, url, eightPaths...)
			assert.Equal(t, 2, got["/7"].Attempts, "requests without a response are sent again")
			assert.Equal(t, 1, got["/1"].Attempts, "requests with a response are not")
			assert.Equal(t, c.attempts, got["/2"].Attempts)
			if c.kind != "" {
				require.ErrorIs(t, got["/2"].Err, c.kind)
				delete(got, "/2")
			}
			requireEchoes(t, got)
			sizes := w.take()
			assert.Equal(t, 8, sizes[0])
			for _, n := range sizes[1:] {
				assert.Equal(t, 1, n, "requests in a write of those without a response")
			}
			if !c.off {
				assert.Empty(t, told)
				return
			}
			if assert.Len(t, told, 1) {
				assert.Equal(t, url, told[0].Host)
				assert.Equal(t, 6, told[0].Unanswered)
				assert.Error(t, told[0].Err)
				assert.Equal(t, time.Minute, told[0].Duration)
			}
			requireEchoes(t, doBatch(t, ctx, client, url, eightPaths...))
			assert.Equal(t, []int{1, 1, 1, 1, 1, 1, 1, 1}, w.take(), "requests in each write, while pipelining is off")
			assert.Len(t, told, 1)
		})
	}
}

// A server that reads one request and drops the others is noticed by its silence.
func TestClientPipelineDropped(t *testing.T) {
	url, _ := rawServer(t, func(conn net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			br.Discard(br.Buffered())
			io.WriteString(conn, response(r.URL.Path))
		}
	})
	c := tidy(t, &fetch.Client{StallTimeout: 100 * time.Millisecond})
	require.NoError(t, get(t, c, url).Err)
	told := 0
	ctx := tracedContext(t, func(fetch.Event) { told++ })
	requireEchoes(t, doBatch(t, ctx, c, url, eightPaths...))
	requireEchoes(t, doBatch(t, ctx, c, url, eightPaths...))
	assert.Equal(t, 1, told)
}

// A slow or missing response delays those after it, and does no more.
func TestClientPipelineSlow(t *testing.T) {
	url, _ := rawServer(t, func(conn net.Conn, br *bufio.Reader) {
		respond(func(r *http.Request) string {
			switch r.URL.Path {
			case "/slow":
				time.Sleep(100 * time.Millisecond)
			case "/never":
				br.ReadByte() // of the other requests
				conn.Read(make([]byte, 1))
				return ""
			}
			return response(r.URL.Path)
		})(conn, br)
	})
	c := tidy(t, &fetch.Client{StallTimeout: 300 * time.Millisecond})
	require.NoError(t, get(t, c, url).Err)
	// Each of them may take as long as a single one.
	got := doBatch(t, t.Context(), c, url, "/0", "/slow?1", "/slow?2", "/slow?3", "/slow?4", "/5")
	for path, res := range got {
		require.NoError(t, res.Err, path)
		assert.Equal(t, 1, res.Attempts)
	}
	assert.GreaterOrEqual(t, got["/5"].Duration, 400*time.Millisecond, "a Duration includes the responses before it")

	got = doBatch(t, t.Context(), c, url, "/never", "/1", "/2")
	require.ErrorIs(t, got["/never"].Err, fetch.ErrTimeout)
	assert.Equal(t, 1, got["/never"].Attempts)
	delete(got, "/never")
	requireEchoes(t, got)
	assert.Equal(t, 2, got["/2"].Attempts)
}

// A redirect is followed after the responses to the requests of the same write.
func TestClientPipelineRedirect(t *testing.T) {
	var w windowLog
	url, conns := rawServer(t, w.inWindows(func(conn io.Writer, path string, i, n int) bool {
		switch path {
		case "/2":
			io.WriteString(conn, "HTTP/1.1 302 Found\r\nLocation: /to\r\nContent-Length: 2\r\n\r\nno")
		case "/3":
			io.WriteString(conn, "HTTP/1.1 302 Found\r\nLocation: ftp://h/\r\nContent-Length: 2\r\n\r\nno")
		default:
			io.WriteString(conn, response(path))
		}
		return true
	}))
	c := tidy(t, &fetch.Client{})
	require.NoError(t, get(t, c, url).Err)
	got := doBatch(t, t.Context(), c, url, eightPaths...)
	assert.Equal(t, "/to", string(got["/2"].Body))
	assert.Equal(t, 1, got["/2"].Attempts)
	assert.ErrorIs(t, got["/3"].Err, fetch.ErrRedirect)
	delete(got, "/2")
	delete(got, "/3")
	requireEchoes(t, got)
	assert.Equal(t, []int{1, 8, 1}, w.take())
	assert.EqualValues(t, 1, conns.Load())
}

// Large requests are not written in one piece: the server might not read before its responses are
// read.
func TestClientPipelineOfLargeRequests(t *testing.T) {
	large := strings.Repeat("x", 60_000)
	url, _ := rawServer(t, respond(func(r *http.Request) string { return response(r.URL.Path + strings.Repeat("y", 200_000)) }))
	c := tidy(t, &fetch.Client{Timeout: 20 * time.Second})
	var reqs []*fetch.Request
	for i := range 64 {
		reqs = append(reqs, &fetch.Request{URL: fmt.Sprint(url, "/", i, "/", large)})
	}
	n := 0
	c.DoBatch(t.Context(), reqs, func(res fetch.Result) {
		require.NoError(t, res.Err)
		require.Len(t, res.Body, len(res.Request.URL)-len(url)+200_000)
		n++
	})
	assert.Equal(t, 64, n)
}

// The same if the socket has no room for a write.
func TestClientPipelineToSlowReader(t *testing.T) {
	url, _ := rawServer(t, func(conn net.Conn, _ *bufio.Reader) {
		conn.(*net.TCPConn).SetReadBuffer(1)
		respond(func(r *http.Request) string { return response(r.URL.Path + strings.Repeat("y", 3<<20)) })(conn, bufio.NewReaderSize(conn, 16))
	})
	c := tidy(t, &fetch.Client{Dial: dialWrapped(func(conn *net.TCPConn) net.Conn {
		conn.SetWriteBuffer(1)
		return conn
	})})
	require.NoError(t, get(t, c, url+"/0").Err)
	var reqs []*fetch.Request
	for i := range 8 {
		reqs = append(reqs, &fetch.Request{URL: fmt.Sprint(url, "/", i), Header: http.Header{"X": {strings.Repeat("x", 1900)}}})
	}
	for path, res := range doBatchOf(t, t.Context(), c, reqs) {
		require.NoError(t, res.Err)
		require.Len(t, res.Body, len(path)+3<<20)
		require.Equal(t, 1, res.Attempts)
	}
}

// The time that yield takes does not count for the next response.
func TestClientPipelineSlowYield(t *testing.T) {
	long := strings.Repeat("y", 3000)
	url, _ := rawServer(t, respond(func(r *http.Request) string { return response(r.URL.Path + long) }))
	c := tidy(t, &fetch.Client{Timeout: 200 * time.Millisecond})
	require.NoError(t, get(t, c, url).Err)
	n := 0
	c.DoBatch(t.Context(), []*fetch.Request{{URL: url + "/1"}, {URL: url + "/2"}, {URL: url + "/3"}}, func(res fetch.Result) {
		require.NoError(t, res.Err)
		require.Equal(t, 1, res.Attempts)
		time.Sleep(250 * time.Millisecond)
		n++
	})
	assert.Equal(t, 3, n)
}

// What came of a response that broke off does not show in the result of the next attempt.
func TestClientPipelineBrokenForGood(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var w windowLog
	url, _ := rawServerOn(t, l, w.inWindows(func(conn io.Writer, path string, i, n int) bool {
		if path == "/2" {
			l.Close()
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
			return false
		}
		return echoPath(conn, path, i, n)
	}))
	c := tidy(t, &fetch.Client{})
	require.NoError(t, get(t, c, url).Err)
	got := doBatch(t, t.Context(), c, url, eightPaths...)
	for path, res := range got {
		if path < "/2" {
			require.NoError(t, res.Err)
			continue
		}
		assert.ErrorIs(t, res.Err, fetch.ErrDial)
		assert.Zero(t, res.Status)
		assert.Empty(t, res.Header())
		assert.Equal(t, 2, res.Attempts)
	}
}

// An extra response, after those to a write, is not taken for one to the next write.
func TestClientPipelineStray(t *testing.T) {
	var w windowLog
	strays := make(chan struct{}, 16)
	url, conns := rawServer(t, w.inWindows(func(conn io.Writer, path string, i, n int) bool {
		io.WriteString(conn, response(path))
		if path == "/7" {
			io.WriteString(conn, response("stray"))
			strays <- struct{}{}
		}
		return true
	}))
	c := tidy(t, &fetch.Client{})
	require.NoError(t, get(t, c, url).Err)
	requireEchoes(t, doBatch(t, t.Context(), c, url, eightPaths...))
	<-strays // it is in the socket
	requireEchoes(t, doBatch(t, t.Context(), c, url, eightPaths...))
	assert.EqualValues(t, 9, conns.Load(), "a host that is suspect gets a connection for each request")
}

// Connections that the server has closed meanwhile cost new ones, and nothing else.
func TestClientPipelineOnClosedConnections(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) }))
	t.Cleanup(s.Close)
	c := tidy(t, &fetch.Client{})
	told := 0
	ctx := tracedContext(t, func(fetch.Event) { told++ })
	for range 50 {
		requireEchoes(t, doBatch(t, ctx, c, s.URL, eightPaths...))
		s.CloseClientConnections()
	}
	assert.Zero(t, told)
}

// A panic in yield reaches the caller, and a connection with responses still to come is closed.
func TestClientPipelineYieldPanics(t *testing.T) {
	url, _ := rawServer(t, respond(func(r *http.Request) string { return response(r.URL.Path) }))
	c := tidy(t, &fetch.Client{})
	require.NoError(t, get(t, c, url).Err)
	assert.PanicsWithValue(t, "yield", func() {
		c.DoBatch(t.Context(), []*fetch.Request{{URL: url + "/1"}, {URL: url + "/2"}}, func(fetch.Result) { panic("yield") })
	})
	requireEchoes(t, doBatch(t, t.Context(), c, url, eightPaths...))
}

// Whenever a run is canceled, each request that was taken has its result; whenever the loop is
// left, the run ends.
func TestClientPipelineBreak(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.Jitter(time.Millisecond))
	c := tidy(t, &fetch.Client{})
	var taken atomic.Int64
	for i := range 30 {
		ctx, cancel := context.WithCancel(t.Context())
		f := fetch.Fetcher{Strategy: fetch.Pipeline{Limit: 64, Depth: 16}, Doer: c}
		n := 0
		for r := range f.Fetch(ctx, func(yield func(fetch.Request) bool) {
			taken.Store(0)
			for r := range pingsOf(server, 10_000) {
				taken.Add(1)
				if !yield(r) {
					return
				}
			}
		}) {
			if r.Err != nil {
				require.ErrorIs(t, r.Err, fetch.ErrCanceled)
			}
			if n++; n == 10*i {
				cancel()
			}
			if n == 10*i+100 && i%3 == 0 {
				break
			}
		}
		if i%3 > 0 {
			assert.EqualValues(t, taken.Load(), n)
		}
		cancel()
	}
}
