package wire_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
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
	"fetchbench/fetch/wire"
)

// batch performs GETs of paths below url by DoBatch, and returns the results by path.
func batch(t testing.TB, ctx context.Context, c *wire.Client, url string, paths ...string) map[string]fetch.Result {
	var reqs []*fetch.Request
	for _, p := range paths {
		reqs = append(reqs, &fetch.Request{URL: url + p})
	}
	return results(t, ctx, c, reqs)
}

func results(t testing.TB, ctx context.Context, c *wire.Client, reqs []*fetch.Request) map[string]fetch.Result {
	got := make(map[string]fetch.Result)
	c.DoBatch(ctx, reqs, func(res fetch.Result) {
		_, path, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(res.Request.URL, "http://"), "https://"), "/")
		_, twice := got["/"+path]
		assert.False(t, twice, "a second result of %s", path)
		got["/"+path] = res
	})
	assert.Len(t, got, len(reqs))
	return got
}

// A windows server answers what it reads together, and notes how much that was.
type windows struct {
	mu    sync.Mutex
	sizes []int
}

func (w *windows) note(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sizes = append(w.sizes, n)
}

// take returns what has been noted, and forgets it.
func (w *windows) take() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	sizes := w.sizes
	w.sizes = nil
	return sizes
}

// inWindows talks: of the requests that have come together, the i-th of n is answered by answer. If
// that returns false, the connection is closed.
func (w *windows) inWindows(answer func(conn io.Writer, path string, i, n int) bool) func(net.Conn, *bufio.Reader) {
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
				if !answer(conn, p, i, len(paths)) {
					return
				}
			}
		}
	}
}

func echo(conn io.Writer, path string, _, _ int) bool {
	io.WriteString(conn, answer(path))
	return true
}

func requireOK(t testing.TB, got map[string]fetch.Result) {
	t.Helper()
	for path, res := range got {
		require.NoError(t, res.Err, path)
		require.Equal(t, path, string(res.Body))
	}
}

var some = []string{"/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7"}

// Requests share a write once the host has shown that it keeps connections, and each has its own
// answer, by whatever framing.
func TestPipeline(t *testing.T) {
	var w windows
	url, conns := serve(t, w.inWindows(func(conn io.Writer, path string, i, n int) bool {
		switch i % 4 {
		case 1:
			io.WriteString(conn, chunked(path))
		case 2:
			io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\n\r\n"+answer(path))
		default:
			io.WriteString(conn, answer(path))
		}
		return true
	}))
	c := closing(t, &wire.Client{})
	got := batch(t, t.Context(), c, url, some...)
	requireOK(t, got)
	assert.Equal(t, []int{1, 7}, w.take(), "the first shows what the host can do")
	requireOK(t, batch(t, t.Context(), c, url, some...))
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
	assert.LessOrEqual(t, conns.Load(), int64(12), "connections: some have but a few answers to come when the next write begins")
}

func TestPipelineOverTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) }))
	t.Cleanup(s.Close)
	c := closing(t, &wire.Client{TLS: &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}})
	for range 3 {
		requireOK(t, batch(t, t.Context(), c, s.URL, some...))
	}
}

// What must not be sent twice, or goes elsewhere, is not sent with others; and what cannot be sent
// does not keep the others from it.
func TestPipelineOfAllSorts(t *testing.T) {
	var w windows
	answerMethod := func(conn net.Conn, br *bufio.Reader) {
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
					io.WriteString(conn, answer(r.Method+r.URL.Path+string(body)))
				}
				n++
			}
			w.note(n)
		}
	}
	url, _ := serve(t, answerMethod)
	other, _ := serve(t, answerMethod)
	c := closing(t, &wire.Client{})
	require.NoError(t, get(t, c, url).Err)
	require.Eventually(t, func() bool { return len(w.take()) == 1 }, 5*time.Second, time.Millisecond)
	got := results(t, t.Context(), c, []*fetch.Request{
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

// A server that closes the connection in the middle: the answers that came stand, the
// others are asked for again one at a time. If it did not say that it would, nothing is written together for a while.
func TestPipelineBroken(t *testing.T) {
	for _, c := range []struct {
		name     string
		third    string // what comes in the place of the third answer of several; then the connection is closed
		off      bool
		kind     fetch.Kind // what becomes of the third
		attempts int
	}{
		{name: "closed", off: true, attempts: 2},
		{name: "closed in a head", third: "HTTP/1.1 200 OK\r\nContent-", off: true, attempts: 2},
		{name: "closed in a body", third: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n/", off: true, attempts: 2},
		{name: "no HTTP", third: "hello\r\n", off: true, attempts: 2},
		{name: "an announced close", third: answer("/2", "Connection: close"), attempts: 1},
		{name: "an end that only the close tells", third: "HTTP/1.1 200 OK\r\n\r\n/2", attempts: 1},
		{name: "a body that is too large", third: "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n/2", kind: fetch.ErrTooLarge, attempts: 1},
		{name: "a body that is no gzip", third: answer("no gzip at all", "Content-Encoding: gzip"), kind: fetch.ErrDecode, attempts: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w windows
			url, _ := serve(t, func(conn net.Conn, br *bufio.Reader) {
				several := false
				w.inWindows(func(conn io.Writer, path string, i, n int) bool {
					several = several || i > 0
					if several && i == 2 {
						io.WriteString(conn, c.third)
						return false
					}
					return echo(conn, path, i, n)
				})(conn, br)
			})
			client := closing(t, &wire.Client{MaxBody: 100})
			require.NoError(t, get(t, client, url).Err)
			w.take()
			var told []fetch.Event
			ctx := wire.Tracing(t, func(e fetch.Event) { told = append(told, e) })
			got := batch(t, ctx, client, url, some...)
			assert.Equal(t, 2, got["/7"].Attempts, "those that were not answered are sent again")
			assert.Equal(t, 1, got["/1"].Attempts, "those that were answered are not")
			assert.Equal(t, c.attempts, got["/2"].Attempts)
			if c.kind != "" {
				require.ErrorIs(t, got["/2"].Err, c.kind)
				delete(got, "/2")
			}
			requireOK(t, got)
			sizes := w.take()
			assert.Equal(t, 8, sizes[0])
			for _, n := range sizes[1:] {
				assert.Equal(t, 1, n, "requests in a write of those that were not answered")
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
			requireOK(t, batch(t, ctx, client, url, some...))
			assert.Equal(t, []int{1, 1, 1, 1, 1, 1, 1, 1}, w.take(), "requests in each write, while the host is known not to get on with several")
			assert.Len(t, told, 1)
		})
	}
}

// A server that reads one request and drops the others is found out by its silence.
func TestPipelineDropped(t *testing.T) {
	url, _ := serve(t, func(conn net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			br.Discard(br.Buffered())
			io.WriteString(conn, answer(r.URL.Path))
		}
	})
	c := closing(t, &wire.Client{IdleRead: 100 * time.Millisecond})
	require.NoError(t, get(t, c, url).Err)
	told := 0
	ctx := wire.Tracing(t, func(fetch.Event) { told++ })
	requireOK(t, batch(t, ctx, c, url, some...))
	requireOK(t, batch(t, ctx, c, url, some...))
	assert.Equal(t, 1, told)
}

// One that is slow, or never answered, costs those after it some time and no more.
func TestPipelineSlow(t *testing.T) {
	url, _ := serve(t, func(conn net.Conn, br *bufio.Reader) {
		each(func(r *http.Request) string {
			switch r.URL.Path {
			case "/slow":
				time.Sleep(100 * time.Millisecond)
			case "/never":
				br.ReadByte() // others are there
				conn.Read(make([]byte, 1))
				return ""
			}
			return answer(r.URL.Path)
		})(conn, br)
	})
	c := closing(t, &wire.Client{IdleRead: 300 * time.Millisecond})
	require.NoError(t, get(t, c, url).Err)
	// Each of them may take as long as a single one.
	got := batch(t, t.Context(), c, url, "/0", "/slow?1", "/slow?2", "/slow?3", "/slow?4", "/5")
	for path, res := range got {
		require.NoError(t, res.Err, path)
		assert.Equal(t, 1, res.Attempts)
	}
	assert.GreaterOrEqual(t, got["/5"].Duration, 400*time.Millisecond, "what an answer takes includes those before it")

	got = batch(t, t.Context(), c, url, "/never", "/1", "/2")
	require.ErrorIs(t, got["/never"].Err, fetch.ErrTimeout)
	assert.Equal(t, 1, got["/never"].Attempts)
	delete(got, "/never")
	requireOK(t, got)
	assert.Equal(t, 2, got["/2"].Attempts)
}

// A redirect is followed after the answers that were written for with it.
func TestPipelineRedirect(t *testing.T) {
	var w windows
	url, conns := serve(t, w.inWindows(func(conn io.Writer, path string, i, n int) bool {
		switch path {
		case "/2":
			io.WriteString(conn, "HTTP/1.1 302 Found\r\nLocation: /to\r\nContent-Length: 2\r\n\r\nno")
		case "/3":
			io.WriteString(conn, "HTTP/1.1 302 Found\r\nLocation: ftp://h/\r\nContent-Length: 2\r\n\r\nno")
		default:
			io.WriteString(conn, answer(path))
		}
		return true
	}))
	c := closing(t, &wire.Client{})
	require.NoError(t, get(t, c, url).Err)
	got := batch(t, t.Context(), c, url, some...)
	assert.Equal(t, "/to", string(got["/2"].Body))
	assert.Equal(t, 1, got["/2"].Attempts)
	assert.ErrorIs(t, got["/3"].Err, fetch.ErrRedirect)
	delete(got, "/2")
	delete(got, "/3")
	requireOK(t, got)
	assert.Equal(t, []int{1, 8, 1}, w.take())
	assert.EqualValues(t, 1, conns.Load())
}

// A window of large requests is not written in one piece: the server might not be reading.
func TestPipelineOfLargeRequests(t *testing.T) {
	large := strings.Repeat("x", 60_000)
	url, _ := serve(t, each(func(r *http.Request) string { return answer(r.URL.Path + strings.Repeat("y", 200_000)) }))
	c := closing(t, &wire.Client{Timeout: 20 * time.Second})
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

// Nor is it if there is no room for it: the server may read no further until its answers are read.
func TestPipelineToSlowReader(t *testing.T) {
	url, _ := serve(t, func(conn net.Conn, _ *bufio.Reader) {
		conn.(*net.TCPConn).SetReadBuffer(1)
		each(func(r *http.Request) string { return answer(r.URL.Path + strings.Repeat("y", 3<<20)) })(conn, bufio.NewReaderSize(conn, 16))
	})
	c := closing(t, &wire.Client{Dial: dialer(func(conn *net.TCPConn) net.Conn {
		conn.SetWriteBuffer(1)
		return conn
	})})
	require.NoError(t, get(t, c, url+"/0").Err)
	var reqs []*fetch.Request
	for i := range 8 {
		reqs = append(reqs, &fetch.Request{URL: fmt.Sprint(url, "/", i), Header: http.Header{"X": {strings.Repeat("x", 1900)}}})
	}
	for path, res := range results(t, t.Context(), c, reqs) {
		require.NoError(t, res.Err)
		require.Len(t, res.Body, len(path)+3<<20)
		require.Equal(t, 1, res.Attempts)
	}
}

// The time that yield takes is not that of the next answer.
func TestPipelineSlowYield(t *testing.T) {
	long := strings.Repeat("y", 3000)
	url, _ := serve(t, each(func(r *http.Request) string { return answer(r.URL.Path + long) }))
	c := closing(t, &wire.Client{Timeout: 200 * time.Millisecond})
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

// What came of an answer that broke off is not that of the next attempt.
func TestPipelineBrokenForGood(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var w windows
	url, _ := serveOn(t, l, w.inWindows(func(conn io.Writer, path string, i, n int) bool {
		if path == "/2" {
			l.Close()
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
			return false
		}
		return echo(conn, path, i, n)
	}))
	c := closing(t, &wire.Client{})
	require.NoError(t, get(t, c, url).Err)
	got := batch(t, t.Context(), c, url, some...)
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

// An answer too many, after those that were asked for, is not for the next window.
func TestPipelineStray(t *testing.T) {
	var w windows
	url, conns := serve(t, w.inWindows(func(conn io.Writer, path string, i, n int) bool {
		io.WriteString(conn, answer(path))
		if path == "/7" {
			io.WriteString(conn, answer("stray"))
		}
		return true
	}))
	c := closing(t, &wire.Client{})
	require.NoError(t, get(t, c, url).Err)
	requireOK(t, batch(t, t.Context(), c, url, some...))
	time.Sleep(10 * time.Millisecond)
	requireOK(t, batch(t, t.Context(), c, url, some...))
	assert.EqualValues(t, 9, conns.Load(), "one that is distrusted gets a connection for each request")
}

// The connections that a server has closed meanwhile cost nothing but new ones.
func TestPipelineOnClosedConnections(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) }))
	t.Cleanup(s.Close)
	c := closing(t, &wire.Client{})
	told := 0
	ctx := wire.Tracing(t, func(fetch.Event) { told++ })
	for range 50 {
		requireOK(t, batch(t, ctx, c, s.URL, some...))
		s.CloseClientConnections()
	}
	assert.Zero(t, told)
}

// A panic in yield reaches the caller, and the connection with answers on it serves no other request.
func TestPipelineYieldPanics(t *testing.T) {
	url, _ := serve(t, each(func(r *http.Request) string { return answer(r.URL.Path) }))
	c := closing(t, &wire.Client{})
	require.NoError(t, get(t, c, url).Err)
	assert.PanicsWithValue(t, "yield", func() {
		c.DoBatch(t.Context(), []*fetch.Request{{URL: url + "/1"}, {URL: url + "/2"}}, func(fetch.Result) { panic("yield") })
	})
	requireOK(t, batch(t, t.Context(), c, url, some...))
}

// By way of a Batch that is canceled or left at any time, each that was taken has its result.
func TestPipelineBreak(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.Jitter(time.Millisecond))
	c := closing(t, &wire.Client{})
	var taken atomic.Int64
	for i := range 30 {
		ctx, cancel := context.WithCancel(t.Context())
		f := fetch.Fetcher{Strategy: fetch.Pipeline{Limit: 64, Depth: 16}, Doer: c}
		n := 0
		for r := range f.Fetch(ctx, func(yield func(fetch.Request) bool) {
			taken.Store(0)
			for r := range pings(server, 10_000) {
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

// In the children of a Shard too, and what is told of it crosses over.
func TestPipelineInShard(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Shard needs Unix")
	}
	var w windows
	url, _ := serve(t, w.inWindows(func(conn io.Writer, path string, i, n int) bool {
		return (n == 1 || !strings.HasSuffix(path, "7")) && echo(conn, path, i, n)
	}))
	var told []fetch.Event
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1, Each: fetch.Pipeline{Limit: 16, Depth: 8}}}
	f.Trace = func(e fetch.Event) {
		if e.Kind == fetch.EventPipelineOff {
			told = append(told, e)
		}
	}
	n := 0
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for i := range 100 {
			if !yield(fetch.Request{URL: fmt.Sprint(url, "/", i)}) {
				return
			}
		}
	}) {
		require.NoError(t, r.Err)
		require.Equal(t, fmt.Sprint("/", r.Request.Index), string(r.Body))
		n++
	}
	assert.Equal(t, 100, n)
	assert.Greater(t, slices.Max(w.take()), 1, "requests in one write")
	if assert.NotEmpty(t, told) {
		assert.Equal(t, url, told[0].Host)
		assert.Equal(t, 0, told[0].Shard)
		assert.ErrorIs(t, told[0].Err, fetch.ErrReset)
	}
}
