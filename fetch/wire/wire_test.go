package wire_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
	"fetchbench/fetch/wire"
)

func TestMain(m *testing.M) {
	fetch.ShardMain(newChildDoer())
	// For the children: the race detector has every program end a second later.
	os.Setenv("GORACE", "atexit_sleep_ms=1 "+os.Getenv("GORACE"))
	goleak.VerifyTestMain(m)
}

// A childDoer is what the children of a Shard have: what fetchtest.TestStrategy needs, and for
// requests that come together, a Client.
type childDoer struct {
	fetch.Doer
	*wire.Client
}

func newChildDoer() childDoer {
	c := &wire.Client{Timeout: -1, IdleRead: -1}
	return childDoer{fetchtest.RemoteOver(c), c}
}

func (d childDoer) Do(ctx context.Context, r *fetch.Request) fetch.Result { return d.Doer.Do(ctx, r) }

func TestDoer(t *testing.T) {
	fetchtest.TestDoer(t, func() fetch.Doer {
		return &wire.Client{TLS: &tls.Config{RootCAs: fetchtest.Roots()}}
	})
}

// Connections from a Dial that has no sockets to offer: what was sent unasked cannot be told then,
// so these are the cases without.
func TestDoerWithoutSockets(t *testing.T) {
	if testing.Short() {
		t.Skip("the same again, by another way to read")
	}
	type noSocket struct{ net.Conn }
	server := fetchtest.NewServer(t, fetchtest.Jitter(time.Millisecond), fetchtest.Drop(0.05))
	c := closing(t, &wire.Client{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return noSocket{conn}, err
	}})
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: c}
	for r := range f.Fetch(t.Context(), pings(server, 500)) {
		if server.Fate(r.Request.URL).Dropped {
			require.ErrorIs(t, r.Err, fetch.ErrTruncated)
			continue
		}
		require.NoError(t, r.Err)
		require.Equal(t, fetchtest.Pong, string(r.Body))
	}
}

// over is a strategy whose requests are performed by way of a Client.
type over struct {
	fetch.Strategy
	doer fetch.Doer
}

func (o over) Start(ctx context.Context, _ fetch.Doer) fetch.Executor {
	return o.Strategy.Start(ctx, o.doer)
}

func (o over) Remote() string { return "it is given to the strategy" }

func TestStrategies(t *testing.T) {
	for _, s := range []fetch.Strategy{
		fetch.Serial{}, fetch.Threads{Limit: 3}, fetch.Pool{Workers: 3}, fetch.Semaphore{Limit: 5}, fetch.Batch{Size: 10, Each: fetch.Pool{Workers: 4}},
	} {
		t.Run(s.String(), func(t *testing.T) {
			c := &wire.Client{Timeout: -1, IdleRead: -1}
			defer c.CloseIdleConnections()
			fetchtest.TestStrategy(t, over{s, fetchtest.RemoteOver(c)})
			if s == (fetch.Pool{Workers: 3}) {
				fetchtest.TestFetcher(t, over{s, fetchtest.RemoteOver(c)})
			}
		})
	}
	t.Run("in a Shard", func(t *testing.T) {
		fetchtest.TestFetcher(t, fetch.Shard{Processes: 2, Each: fetch.Pool{Workers: 2}})
	})
}

// closing closes c's connections at the end of the test.
func closing(t testing.TB, c *wire.Client) *wire.Client {
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func pings(s *fetchtest.Server, n int) iter.Seq[fetch.Request] {
	return func(yield func(fetch.Request) bool) {
		for i := range n {
			if !yield(fetch.Request{URL: s.Ping(i)}) {
				return
			}
		}
	}
}

// serve starts a server that does with each connection what talk says, and closes it then. It
// returns its URL, and counts the connections.
func serve(t testing.TB, talk func(conn net.Conn, br *bufio.Reader)) (url string, conns *atomic.Int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return serveOn(t, l, talk)
}

func serveOn(t testing.TB, l net.Listener, talk func(conn net.Conn, br *bufio.Reader)) (url string, conns *atomic.Int64) {
	var talking sync.WaitGroup
	var open sync.Map
	conns = new(atomic.Int64)
	talking.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			open.Store(conn, true)
			talking.Go(func() {
				defer conn.Close()
				talk(conn, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		open.Range(func(conn, _ any) bool { conn.(net.Conn).Close(); return true })
		talking.Wait()
	})
	return "http://" + l.Addr().String(), conns
}

// each answers every request with what answer makes of it.
func each(answer func(r *http.Request) string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			io.WriteString(conn, answer(r))
		}
	}
}

func answer(body string, fields ...string) string {
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n", len(body))
	for _, f := range fields {
		head += f + "\r\n"
	}
	return head + "\r\n" + body
}

func chunked(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
}

func get(t testing.TB, c *wire.Client, url string) fetch.Result {
	return c.Do(t.Context(), &fetch.Request{URL: url})
}

// The head is parsed when it is asked for, and the body is the caller's.
func TestHeader(t *testing.T) {
	url, _ := serve(t, each(func(r *http.Request) string {
		return answer("hello "+r.URL.Path, "x-many: a", "X-Many:  b ", "Content-Type: text/plain")
	}))
	c := closing(t, &wire.Client{})
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

// The promise is 3: the Result's body and head in one piece, what parses the head, and one to spare.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	url, _ := serve(t, func(conn net.Conn, br *bufio.Reader) {
		pong := []byte(answer(fetchtest.Pong, "Content-Type: application/json"))
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
	c := closing(t, &wire.Client{})
	req := &fetch.Request{URL: url + "/ping"}
	for name, ctx := range map[string]context.Context{"of the test": t.Context(), "background": context.Background()} {
		perURL := testing.AllocsPerRun(2000, func() {
			if res := c.Do(ctx, req); !res.OK() || len(res.Body) != len(fetchtest.Pong) {
				panic(res.Err)
			}
		})
		assert.LessOrEqual(t, perURL, 3.0, "allocations for a URL, with the context %s", name)
	}
	batch := slices.Repeat([]*fetch.Request{req}, 16)
	perBatch := testing.AllocsPerRun(200, func() {
		c.DoBatch(t.Context(), batch, func(res fetch.Result) {
			if !res.OK() {
				panic(res.Err)
			}
		})
	})
	assert.LessOrEqual(t, perBatch/16, 3.0, "allocations for a URL, 16 in a write")
}

// Everything that crosses from the caller to the server, as the server sees it.
func TestRequest(t *testing.T) {
	type arrival struct {
		*http.Request
		body []byte
	}
	arrivals := make(chan arrival, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrivals <- arrival{r, body}
	}))
	t.Cleanup(s.Close)
	c := closing(t, &wire.Client{UserInfo: true})
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

// A request that finds its kept connection closed is sent again if it may be sent twice, by the
// rule that Retry and Shard have, too.
func TestSentAgain(t *testing.T) {
	url, conns := serve(t, func(conn net.Conn, br *bufio.Reader) {
		for first := true; ; first = false {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if body, err := io.ReadAll(r.Body); err != nil || !first {
				return // as if it had been restarted: it may have done what was asked
			} else if r.Method == http.MethodHead {
				io.WriteString(conn, answer(""))
			} else {
				io.WriteString(conn, answer(r.Method+string(body)))
			}
		}
	})
	key := func(name string) http.Header { return http.Header{name: {"1"}} }
	for _, c := range []struct {
		method string
		header http.Header
		body   string
		again  bool
	}{
		{"", nil, "", true},
		{"GET", nil, "", true},
		{"get", nil, "", true},
		{"HEAD", nil, "", true},
		{"OPTIONS", nil, "", true},
		{"TRACE", nil, "", true},
		{"PUT", nil, "a body", true},
		{"put", nil, "a body", true},
		{"DELETE", nil, "", true},
		{"POST", nil, "a body", false},
		{"PATCH", nil, "a body", false},
		{"PURGE", nil, "", false},
		{"POST", key("Idempotency-Key"), "a body", true},
		{"POST", key("idempotency-key"), "a body", true},
		{"PATCH", key("X-Idempotency-Key"), "", true},
	} {
		before := conns.Load()
		client := closing(t, &wire.Client{})
		require.NoError(t, get(t, client, url).Err)
		res := client.Do(t.Context(), &fetch.Request{Method: c.method, URL: url, Header: c.header, Body: []byte(c.body)})
		if !c.again {
			assert.ErrorIs(t, res.Err, fetch.ErrReset, "%v", c)
			assert.Equal(t, 1, res.Attempts, "%v", c)
			assert.EqualValues(t, 1, conns.Load()-before, "connections for %v", c)
			continue
		}
		require.NoError(t, res.Err, "%v", c)
		assert.Equal(t, 2, res.Attempts, "%v", c)
		if c.method != "HEAD" {
			assert.Equal(t, cmp.Or(c.method, "GET")+c.body, string(res.Body), "%v", c)
		}
		assert.EqualValues(t, 2, conns.Load()-before, "connections for %v", c)
	}
}

// Why an address is refused is shown as Allow says it, quotation marks included.
func TestAllowSaysWhy(t *testing.T) {
	refused := errors.New(`rule "inside" of "rules.txt" refuses it`)
	c := closing(t, &wire.Client{Allow: func(netip.AddrPort) error { return refused }})
	res := get(t, c, "http://user:s3cret@127.0.0.1:1/?s3cret")
	assert.ErrorIs(t, res.Err, refused)
	assert.EqualError(t, res.Err, `fetch: http://127.0.0.1:1/: address refused: 127.0.0.1:1: rule "inside" of "rules.txt" refuses it`)
}

// Where the response came from, and what is wrong with a URL, all engines say alike.
func TestURLs(t *testing.T) {
	c := closing(t, &wire.Client{})
	other, _ := serve(t, each(func(r *http.Request) string { return answer(r.URL.Path) }))
	url, _ := serve(t, each(func(r *http.Request) string {
		to := r.URL.Query().Get("to")
		if to == "" {
			return answer(r.URL.Path)
		}
		return "HTTP/1.1 302 Found\r\nLocation: " + to + "\r\nContent-Length: 0\r\n\r\n"
	}))
	nowhere := "http://127.0.0.1:1/"
	for _, hop := range []struct {
		url, want string
		kind      fetch.Kind
	}{
		{url + "/a", "", ""}, // the Fetcher fills it in
		{url + "/?to=/a", url + "/a", ""},
		{url + "/?to=/%3Fto=/b%2523c", url + "/b#c", ""},
		{url + "/?to=" + other + "/a", other + "/a", ""},
		{url + "/?to=" + nowhere, "", fetch.ErrDial}, // the redirect is all that came
		{url + "/?to=/%3Fto=" + nowhere, url + "/?to=" + nowhere, fetch.ErrDial},
		{nowhere, "", fetch.ErrDial},
	} {
		res := get(t, c, hop.url)
		assert.Equal(t, hop.kind, fetch.KindOf(res.Err), "%s: %v", hop.url, res.Err)
		assert.Equal(t, hop.want, res.URL, hop.url)
	}
	for _, url := range []string{"127.0.0.1:8080/ping", "localhost:8080/x", "example.com/"} {
		res := get(t, c, url)
		require.ErrorIs(t, res.Err, fetch.ErrBadURL)
		assert.ErrorContains(t, res.Err, "no scheme: it has to begin with http:// or https://")
	}
}

// A server may answer before it has read the request, and read no more of it.
func TestAnswerBeforeTheRequestEnds(t *testing.T) {
	for name, end := range map[string]func(conn net.Conn){
		"and waits":  func(conn net.Conn) { io.Copy(io.Discard, io.LimitReader(conn, 1)); time.Sleep(50 * time.Millisecond) },
		"and closes": func(net.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			url, conns := serve(t, func(conn net.Conn, br *bufio.Reader) {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
				end(conn)
			})
			c := closing(t, &wire.Client{})
			for range 3 {
				res := c.Do(t.Context(), &fetch.Request{Method: "POST", URL: url, Body: make([]byte, 32<<20)})
				if res.Err != nil { // the reset may overtake the answer
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

// A silence is measured from the end of the request, and a body may take longer than that in all.
func TestLimitsOfTime(t *testing.T) {
	url, _ := serve(t, func(conn net.Conn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		switch r.URL.Path {
		case "/silent":
			br.ReadByte()
		case "/stops":
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
			br.ReadByte()
		case "/slow":
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
			for range 10 {
				time.Sleep(30 * time.Millisecond)
				io.WriteString(conn, "x")
			}
		case "/chunks":
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for range 10 {
				time.Sleep(30 * time.Millisecond)
				io.WriteString(conn, "1\r\nx\r\n")
			}
			io.WriteString(conn, "0\r\n\r\n")
		}
	})
	patient := closing(t, &wire.Client{IdleRead: 150 * time.Millisecond})
	for _, path := range []string{"/slow", "/chunks"} {
		res := get(t, patient, url+path)
		require.NoError(t, res.Err, path)
		assert.Equal(t, "xxxxxxxxxx", string(res.Body))
	}
	for _, path := range []string{"/silent", "/stops"} {
		res := get(t, patient, url+path)
		require.ErrorIs(t, res.Err, fetch.ErrTimeout)
		assert.ErrorContains(t, res.Err, "the server sent nothing for 150ms: see IdleRead")
	}
	hurried := closing(t, &wire.Client{Timeout: 100 * time.Millisecond})
	for _, path := range []string{"/silent", "/slow", "/chunks"} {
		res := get(t, hurried, url+path)
		require.ErrorIs(t, res.Err, fetch.ErrTimeout)
		assert.ErrorContains(t, res.Err, "no complete response within 100ms: see Timeout")
		assert.ErrorIs(t, res.Err, context.DeadlineExceeded)
	}
	// A deadline that was set for one request must not be that of the next.
	c := closing(t, &wire.Client{Timeout: 200 * time.Millisecond})
	quick, conns := serve(t, each(func(*http.Request) string { return answer("ok") }))
	for range 8 {
		res := get(t, c, quick)
		require.NoError(t, res.Err)
		time.Sleep(40 * time.Millisecond)
	}
	assert.EqualValues(t, 1, conns.Load())
}

func TestLimitsOfSize(t *testing.T) {
	url, _ := serve(t, each(func(r *http.Request) string {
		switch r.URL.Path {
		case "/chunked":
			return chunked(strings.Repeat("x", 101))
		case "/head":
			return answer("ok", "X-Long: "+strings.Repeat("x", 500))
		case "/odd-head":
			return "HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", 500) + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
		case "/large":
			return answer(strings.Repeat("x", 3<<20))
		}
		return answer(strings.Repeat("x", 101))
	}))
	small := closing(t, &wire.Client{MaxBody: 100, MaxHead: 200})
	for _, path := range []string{"/", "/chunked", "/head", "/odd-head", "/large"} {
		res := get(t, small, url+path)
		require.ErrorIs(t, res.Err, fetch.ErrTooLarge, path)
		assert.Nil(t, res.Body)
		assert.Equal(t, strings.Contains(path, "head"), res.Status == 0, path)
	}
	any := closing(t, &wire.Client{MaxBody: -1, MaxHead: -1})
	for path, n := range map[string]int{"/": 101, "/chunked": 101, "/head": 2, "/odd-head": 0, "/large": 3 << 20} {
		res := get(t, any, url+path)
		require.NoError(t, res.Err, path)
		assert.Len(t, res.Body, n, path)
	}
}

// Requests wait for a connection of a host that may have no more, each for as long as its context lets it.
func TestMaxConnsPerHost(t *testing.T) {
	var gauge fetchtest.Gauge
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer gauge.Enter()()
		if r.URL.Path == "/close" {
			w.Header().Set("Connection", "close")
		}
		time.Sleep(time.Millisecond)
	}))
	t.Cleanup(s.Close)
	c := closing(t, &wire.Client{MaxConnsPerHost: 3})
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 20}, Doer: c}
	n := 0
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for i := range 300 {
			if !yield(fetch.Request{URL: s.URL + []string{"/", "/", "/close"}[i%3]}) {
				return
			}
		}
	}) {
		require.NoError(t, r.Err)
		n++
	}
	assert.Equal(t, 300, n)
	assert.Equal(t, 3, gauge.Peak(), "requests at once")

	block := make(chan struct{})
	url, conns := serve(t, each(func(*http.Request) string { <-block; return answer("ok") }))
	c = closing(t, &wire.Client{MaxConnsPerHost: 1, Timeout: time.Minute})
	var first fetch.Result
	done := make(chan struct{})
	go func() { defer close(done); first = get(t, c, url) }()
	for conns.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	res := c.Do(ctx, &fetch.Request{URL: url})
	assert.ErrorIs(t, res.Err, fetch.ErrTimeout)
	close(block)
	<-done
	require.NoError(t, first.Err)
	require.NoError(t, get(t, c, url).Err)
	assert.EqualValues(t, 1, conns.Load())
}

// Connections are used again, the last one first, and closed when they have been idle for a while.
func TestIdleTimeout(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.Latency(20*time.Millisecond))
	var open atomic.Int64
	c := closing(t, &wire.Client{IdleTimeout: 100 * time.Millisecond, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		open.Add(1)
		return &closeCounter{TCPConn: conn.(*net.TCPConn), open: &open}, err
	}})
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: c}
	for r := range f.Fetch(t.Context(), pings(server, 32)) {
		require.True(t, r.OK(), "%v", r.Err)
	}
	require.EqualValues(t, 8, open.Load())
	for range 5 { // the others get older meanwhile
		require.True(t, c.Do(t.Context(), &fetch.Request{URL: server.Ping(1)}).Status == 200)
	}
	require.Eventually(t, func() bool { return open.Load() == 0 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, 8, server.Conns())
	require.Equal(t, 200, c.Do(t.Context(), &fetch.Request{URL: server.Ping(1)}).Status)
	assert.Equal(t, 9, server.Conns())
}

type closeCounter struct {
	*net.TCPConn
	open *atomic.Int64
	once sync.Once
}

func (c *closeCounter) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.TCPConn.Close()
}

func TestUnixSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no Unix sockets to rely on")
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	_, conns := serveOn(t, l, each(func(r *http.Request) string { return answer(r.Host + r.URL.Path) }))
	c := closing(t, &wire.Client{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}})
	for range 10 {
		res := get(t, c, "http://host.test/a")
		require.NoError(t, res.Err)
		assert.Equal(t, "host.test/a", string(res.Body))
	}
	assert.EqualValues(t, 1, conns.Load())

	// Allow cannot vouch for what is no IP address.
	strict := closing(t, &wire.Client{Dial: c.Dial, Allow: func(netip.AddrPort) error { return nil }})
	assert.ErrorIs(t, get(t, strict, "http://host.test/").Err, fetch.ErrAddress)
}

func TestDialErrors(t *testing.T) {
	own := errors.New("no way")
	for name, c := range map[string]struct {
		client *wire.Client
		kind   fetch.Kind
	}{
		"of the caller's Dial": {&wire.Client{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, own }}, fetch.ErrDial},
		"refused":              {&wire.Client{Allow: fetch.PublicOnly}, fetch.ErrAddress},
		"too late": {&wire.Client{Timeout: 20 * time.Millisecond, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}, fetch.ErrTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			res := get(t, closing(t, c.client), "http://127.0.0.1:1/")
			assert.ErrorIs(t, res.Err, c.kind)
			assert.Equal(t, 1, res.Attempts)
			if c.kind == fetch.ErrDial {
				assert.ErrorIs(t, res.Err, own)
			}
		})
	}
	panicking := closing(t, &wire.Client{MaxConnsPerHost: 1, Dial: func(context.Context, string, string) (net.Conn, error) { panic("Dial") }})
	for range 3 { // and the place that it had for a connection is free again
		assert.PanicsWithValue(t, "Dial", func() { get(t, panicking, "http://127.0.0.1:1/") })
	}
}

// The end of a context aborts its own request, and not the next one on the same connection.
func TestContextOfAnother(t *testing.T) {
	url, conns := serve(t, each(func(r *http.Request) string { return answer("ok") }))
	c := closing(t, &wire.Client{})
	for range 200 {
		over, cancel := context.WithCancel(t.Context())
		require.NoError(t, c.Do(over, &fetch.Request{URL: url}).Err)
		done := make(chan struct{})
		go func() { defer close(done); cancel() }()
		require.NoError(t, get(t, c, url).Err)
		<-done
	}
	assert.EqualValues(t, 1, conns.Load())
}

// All that is under way when the context ends is answered soon after.
func TestCancel(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/quick" {
			return
		}
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	for _, s := range []fetch.Strategy{fetch.Serial{}, fetch.Pool{}, fetch.Pipeline{Limit: 64, Depth: 16}} {
		t.Run(s.String(), func(t *testing.T) {
			c := closing(t, &wire.Client{})
			require.NoError(t, get(t, c, server.URL+"/quick").Err)
			ctx, cancel := context.WithCancel(t.Context())
			canceled := make(chan time.Time, 1)
			time.AfterFunc(50*time.Millisecond, func() { canceled <- time.Now(); cancel() })
			f := fetch.Fetcher{Strategy: s, Doer: c}
			for r := range f.Get(ctx, slices.Repeat([]string{server.URL}, 500)...) {
				require.ErrorIs(t, r.Err, fetch.ErrCanceled)
				require.ErrorIs(t, r.Err, context.Canceled)
			}
			assert.Less(t, time.Since(<-canceled), 5*time.Second)
		})
	}
}
