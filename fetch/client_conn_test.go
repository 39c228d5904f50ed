package fetch_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/netip"
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

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// rawServer starts a server that does with each connection what talk says, and then closes it. It
// returns its URL, and counts the connections.
func rawServer(t testing.TB, talk func(conn net.Conn, br *bufio.Reader)) (url string, conns *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return rawServerOn(t, l, talk)
}

// rawServerOn is rawServer with a listener.
func rawServerOn(t testing.TB, l net.Listener, talk func(conn net.Conn, br *bufio.Reader)) (url string, conns *atomic.Int64) {
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
				defer open.Delete(conn)
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

// respond has each request of a connection responded to by text.
func respond(text func(r *http.Request) string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			io.WriteString(conn, text(r))
		}
	}
}

// response returns a 200 with that body, its length, and the header fields.
func response(body string, fields ...string) string {
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n", len(body))
	for _, f := range fields {
		head += f + "\r\n"
	}
	return head + "\r\n" + body
}

// chunkedResponse returns a 200 with that body in a chunk.
func chunkedResponse(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
}

// pingsOf are n pings of s.
func pingsOf(s *fetchtest.Server, n int) iter.Seq[fetch.Request] {
	return func(yield func(fetch.Request) bool) {
		for i := range n {
			if !yield(fetch.Request{URL: s.Ping(i)}) {
				return
			}
		}
	}
}

// dialWrapped returns a Dial whose connections are those of TCP as wrap has made them.
func dialWrapped(wrap func(*net.TCPConn) net.Conn) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return wrap(conn.(*net.TCPConn)), nil
	}
}

// throughClient is a strategy whose requests are performed by way of a Client.
type throughClient struct {
	fetch.Strategy
	doer fetch.Doer
}

func (s throughClient) Start(ctx context.Context, _ fetch.Doer) fetch.Executor {
	return s.Strategy.Start(ctx, s.doer)
}

func (throughClient) Remote() string { return "it is given to the strategy" }

// The strategies keep their contract over a Client too.
func TestClientUnderStrategies(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Threads{Limit: 3}, fetch.Pool{Workers: 3}, fetch.Semaphore{Limit: 5}} {
		t.Run(s.String(), func(t *testing.T) {
			c := &fetch.Client{Timeout: -1, StallTimeout: -1}
			defer c.CloseIdleConnections()
			fetchtest.TestStrategy(t, throughClient{s, fetchtest.RemoteOver(c)})
		})
	}
}

// Connections that have no socket are read another way.
func TestClientWithoutSockets(t *testing.T) {
	type noSocket struct{ net.Conn }
	server := fetchtest.NewServer(t, fetchtest.Jitter(time.Millisecond), fetchtest.Drop(0.05))
	c := tidy(t, &fetch.Client{Dial: dialWrapped(func(conn *net.TCPConn) net.Conn { return noSocket{conn} })})
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: c}
	for r := range f.Fetch(t.Context(), pingsOf(server, 500)) {
		if server.Fate(r.Request.URL).Dropped {
			require.ErrorIs(t, r.Err, fetch.ErrTruncated)
			continue
		}
		require.NoError(t, r.Err)
		require.Equal(t, fetchtest.Pong, string(r.Body))
	}
}

// An xorConn has a socket, but what goes through that is not what is read and written on it.
type xorConn struct{ *net.TCPConn }

func (c xorConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	xor(p[:n])
	return n, err
}

func (c xorConn) Write(p []byte) (int, error) {
	p = append([]byte(nil), p...)
	xor(p)
	return c.TCPConn.Write(p)
}

func xor(p []byte) {
	for i := range p {
		p[i] ^= 0x55
	}
}

type xorListener struct{ net.Listener }

func (l xorListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return xorConn{conn.(*net.TCPConn)}, nil
}

// A connection that embeds a socket's is read and written by its own methods, and still nothing
// that came before the request is taken for the response.
func TestClientWrappedSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	strays := make(chan struct{}, 16)
	url, conns := rawServerOn(t, xorListener{l}, func(conn net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(conn, response(r.URL.Path))
			if r.URL.Path == "/twice" {
				io.WriteString(conn, response("stray"))
				strays <- struct{}{}
			}
		}
	})
	c := tidy(t, &fetch.Client{Dial: dialWrapped(func(conn *net.TCPConn) net.Conn { return xorConn{conn} })})
	for range 3 {
		requireEchoes(t, doBatch(t, t.Context(), c, url, eightPaths...))
	}
	assert.EqualValues(t, 1, conns.Load())
	res := c.Do(t.Context(), &fetch.Request{Method: "POST", URL: url + "/post", Body: make([]byte, 1<<20)})
	require.NoError(t, res.Err)
	for range 3 {
		require.Equal(t, "/twice", string(get(t, c, url+"/twice").Body))
		<-strays // it is in the socket
		require.Equal(t, "/other", string(get(t, c, url+"/other").Body))
	}
}

type noDeadlineConn struct{ net.Conn }

func (noDeadlineConn) SetDeadline(time.Time) error { return errors.ErrUnsupported }

func TestClientNeedsDeadlines(t *testing.T) {
	url, _ := rawServer(t, respond(func(*http.Request) string { return response("ok") }))
	c := tidy(t, &fetch.Client{Dial: dialWrapped(func(conn *net.TCPConn) net.Conn { return noDeadlineConn{conn} })})
	res := get(t, c, url)
	assert.ErrorIs(t, res.Err, fetch.ErrDial)
	assert.ErrorIs(t, res.Err, errors.ErrUnsupported)
	assert.ErrorContains(t, res.Err, "connections of Dial have to support deadlines")
}

type failingConn struct {
	*net.TCPConn
	err error
}

func (c failingConn) Write([]byte) (int, error) { return 0, c.err }

type panickingConn struct {
	*net.TCPConn
	now *atomic.Bool
}

func (c panickingConn) Read(b []byte) (int, error) {
	if c.now.Load() {
		panic("Read")
	}
	return c.TCPConn.Read(b)
}

// An error or panic of a connection's methods reaches the caller at once, and costs no more than
// the connection.
func TestClientFailingConn(t *testing.T) {
	url, _ := rawServer(t, respond(func(*http.Request) string { return response("ok") }))
	own := errors.New("no way")
	c := tidy(t, &fetch.Client{Dial: dialWrapped(func(conn *net.TCPConn) net.Conn { return failingConn{conn, own} })})
	for _, size := range []int{0, 100, 100_000} {
		res := c.Do(t.Context(), &fetch.Request{Method: "POST", URL: url, Body: make([]byte, size)})
		require.ErrorIs(t, res.Err, own, "%d bytes", size)
		require.Less(t, res.Duration, 5*time.Second)
	}

	var now atomic.Bool
	c = tidy(t, &fetch.Client{MaxConnsPerHost: 1, Dial: dialWrapped(func(conn *net.TCPConn) net.Conn { return panickingConn{conn, &now} })})
	for range 3 {
		now.Store(true)
		require.PanicsWithValue(t, "Read", func() { get(t, c, url) })
		now.Store(false)
		requireEchoes(t, doBatch(t, t.Context(), c, url))
		require.NoError(t, get(t, c, url).Err)
	}
}

// A panic of Dial reaches the caller, and the place it had for a connection is free again. What
// Dial says for an error is found in the result's.
func TestClientFailingDial(t *testing.T) {
	own := errors.New("no way")
	c := tidy(t, &fetch.Client{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, own }})
	res := get(t, c, "http://127.0.0.1:1/")
	assert.ErrorIs(t, res.Err, fetch.ErrDial)
	assert.ErrorIs(t, res.Err, own)
	assert.Equal(t, 1, res.Attempts)

	panicking := tidy(t, &fetch.Client{MaxConnsPerHost: 1, Dial: func(context.Context, string, string) (net.Conn, error) { panic("Dial") }})
	for range 3 {
		assert.PanicsWithValue(t, "Dial", func() { get(t, panicking, "http://127.0.0.1:1/") })
	}
}

func TestClientUnixSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no Unix sockets to rely on")
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	_, conns := rawServerOn(t, l, respond(func(r *http.Request) string { return response(r.Host + r.URL.Path) }))
	c := tidy(t, &fetch.Client{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}})
	for range 10 {
		res := get(t, c, "http://host.test/a")
		require.NoError(t, res.Err)
		assert.Equal(t, "host.test/a", string(res.Body))
		assert.Equal(t, netip.AddrPort{}, res.RemoteAddr(), "it has none")
	}
	assert.EqualValues(t, 1, conns.Load())

	// An address policy cannot judge what has no IP address.
	strict := tidy(t, &fetch.Client{Dial: c.Dial, AllowAddr: func(netip.AddrPort) error { return nil }})
	assert.ErrorIs(t, get(t, strict, "http://host.test/").Err, fetch.ErrAddress)
}

// A closeCountingConn counts its Close once.
type closeCountingConn struct {
	*net.TCPConn
	open *atomic.Int64
	once sync.Once
}

func (c *closeCountingConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.TCPConn.Close()
}

// openCount counts the connections of a Dial that are open, and the most that were at once.
type openCount struct{ now, peak atomic.Int64 }

func (o *openCount) wrap(conn *net.TCPConn) net.Conn {
	n := o.now.Add(1)
	for p := o.peak.Load(); n > p && !o.peak.CompareAndSwap(p, n); p = o.peak.Load() {
	}
	return &closeCountingConn{TCPConn: conn, open: &o.now}
}

// Connections are used again, the last one first, and closed when they have been idle for a while.
func TestClientIdleTimeout(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.Latency(20*time.Millisecond))
	var open openCount
	c := tidy(t, &fetch.Client{IdleTimeout: 100 * time.Millisecond, Dial: dialWrapped(open.wrap)})
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: c}
	for r := range f.Fetch(t.Context(), pingsOf(server, 32)) {
		require.True(t, r.OK(), "%v", r.Err)
	}
	require.EqualValues(t, 8, open.now.Load())
	for range 5 { // the others get older meanwhile
		require.Equal(t, 200, get(t, c, server.Ping(1)).Status)
	}
	require.Eventually(t, func() bool { return open.now.Load() == 0 }, soon, time.Millisecond)
	assert.Equal(t, 8, server.Conns())
	require.Equal(t, 200, get(t, c, server.Ping(1)).Status)
	assert.Equal(t, 9, server.Conns())
}

// A host has no more connections than it may have. Requests wait for one, each for as long as its
// context lets it.
func TestClientMaxConnsPerHost(t *testing.T) {
	var gauge fetchtest.Gauge
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer gauge.Enter()()
		if r.URL.Path == "/close" {
			w.Header().Set("Connection", "close")
		}
		time.Sleep(time.Millisecond) // the service time
	}))
	c := tidy(t, &fetch.Client{MaxConnsPerHost: 3})
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

	arrived, proceed := make(chan struct{}), make(chan struct{})
	url, conns := rawServer(t, respond(func(r *http.Request) string {
		if r.URL.Path == "/first" {
			arrived <- struct{}{}
			<-proceed
		}
		return response("ok")
	}))
	c = tidy(t, &fetch.Client{MaxConnsPerHost: 1, Timeout: time.Minute})
	first := make(chan fetch.Result, 1)
	go func() { first <- get(t, c, url+"/first") }()
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, c.Do(ctx, &fetch.Request{URL: url}).Err, fetch.ErrTimeout)
	close(proceed)
	require.NoError(t, (<-first).Err)
	require.NoError(t, get(t, c, url).Err)
	assert.EqualValues(t, 1, conns.Load())
}

// The limit also counts connections that are to take the place of others.
func TestClientMaxConnsPerHostOfNewOnes(t *testing.T) {
	url, _ := rawServer(t, func(conn net.Conn, br *bufio.Reader) {
		for i := range 3 {
			if _, err := http.ReadRequest(br); err != nil || i == 2 {
				return // one in three has no response
			}
			io.WriteString(conn, response("ok"))
		}
	})
	for _, limit := range []int{1, 3} {
		var open openCount
		c := tidy(t, &fetch.Client{MaxConnsPerHost: limit, Dial: dialWrapped(open.wrap)})
		f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: c}
		again := 0
		for r := range f.Get(t.Context(), slices.Repeat([]string{url}, 200)...) {
			require.NoError(t, r.Err)
			again += r.Attempts - 1
		}
		assert.Positive(t, again)
		assert.LessOrEqual(t, open.peak.Load(), int64(limit))
	}
}

// However many hosts there are, no more idle connections are open than may be, and those used last
// are kept.
func TestClientMaxIdleConns(t *testing.T) {
	const hosts, most = 100, 10
	url, conns := rawServer(t, respond(func(r *http.Request) string { return response(r.Host) }))
	var open openCount
	dial := dialWrapped(open.wrap)
	c := tidy(t, &fetch.Client{MaxIdleConns: most, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, strings.TrimPrefix(url, "http://"))
	}})
	host := func(i int) string { return fmt.Sprintf("h%d.test", i) }
	ask := func(i int) {
		res := get(t, c, "http://"+host(i)+"/")
		require.NoError(t, res.Err)
		require.Equal(t, host(i), string(res.Body))
	}
	for i := range hosts {
		ask(i)
		assert.LessOrEqual(t, open.now.Load(), int64(most+1), "an idle one is closed after another is put back")
	}
	assert.EqualValues(t, most, open.now.Load())
	assert.EqualValues(t, hosts, conns.Load())
	for i := hosts - most; i < hosts; i++ { // the last ones
		ask(i)
	}
	assert.EqualValues(t, hosts, conns.Load(), "the last connections were kept")
	ask(0)
	assert.EqualValues(t, hosts+1, conns.Load(), "the first ones were not")
	ask(hosts - most) // the least recently used, which had to go for that
	assert.EqualValues(t, hosts+2, conns.Load())

	// The same with many requests at once: then as many more as are in use.
	open.peak.Store(0)
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: c}
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for i := range 5 * hosts {
			if !yield(fetch.Request{URL: "http://" + host(i%hosts) + "/"}) {
				return
			}
		}
	}) {
		require.NoError(t, r.Err)
		require.Equal(t, host(r.Request.Index%hosts), string(r.Body))
	}
	assert.LessOrEqual(t, open.peak.Load(), int64(most+2*8))
	assert.EqualValues(t, most, open.now.Load())

	unlimited := tidy(t, &fetch.Client{MaxIdleConns: -1, Dial: c.Dial})
	before := open.now.Load()
	for i := range hosts {
		require.NoError(t, get(t, unlimited, "http://"+host(i)+"/").Err)
	}
	assert.EqualValues(t, before+hosts, open.now.Load())
	unlimited.CloseIdleConnections()
	c.CloseIdleConnections()
	assert.Zero(t, open.now.Load())
}

// A context that ends aborts its own request, and not the next one on the same connection.
func TestClientContextOfAnother(t *testing.T) {
	url, conns := rawServer(t, respond(func(r *http.Request) string { return response("ok") }))
	c := tidy(t, &fetch.Client{})
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

// All requests under way when the context ends have their results soon after.
func TestClientCancel(t *testing.T) {
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/quick" {
			<-r.Context().Done()
		}
	}))
	for _, s := range []fetch.Strategy{fetch.Serial{}, fetch.Pool{}, fetch.Pipeline{Limit: 64, Depth: 16}} {
		t.Run(s.String(), func(t *testing.T) {
			c := tidy(t, &fetch.Client{})
			require.NoError(t, get(t, c, server.URL+"/quick").Err)
			ctx, cancel := context.WithCancel(t.Context())
			canceled := make(chan time.Time, 1)
			time.AfterFunc(50*time.Millisecond, func() { canceled <- time.Now(); cancel() })
			f := fetch.Fetcher{Strategy: s, Doer: c}
			for r := range f.Get(ctx, slices.Repeat([]string{server.URL}, 500)...) {
				require.ErrorIs(t, r.Err, fetch.ErrCanceled)
				require.ErrorIs(t, r.Err, context.Canceled)
			}
			assert.Less(t, time.Since(<-canceled), soon/2)
		})
	}
}

// A request that finds its kept connection closed is sent again if it may be sent twice, by the
// rule of Retry and Shard, and Attempts counts it.
func TestClientRepeats(t *testing.T) {
	url, conns := rawServer(t, func(conn net.Conn, br *bufio.Reader) {
		for first := true; ; first = false {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if body, err := io.ReadAll(r.Body); err != nil || !first {
				return // as if restarted: the request may have had its effect
			} else if r.Method == http.MethodHead {
				io.WriteString(conn, response(""))
			} else {
				io.WriteString(conn, response(r.Method+string(body)))
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
		{"get", nil, "", true},
		{"HEAD", nil, "", true},
		{"OPTIONS", nil, "", true},
		{"TRACE", nil, "", true},
		{"PUT", nil, "a body", true},
		{"DELETE", nil, "", true},
		{"POST", nil, "a body", false},
		{"PATCH", nil, "a body", false},
		{"PURGE", nil, "", false},
		{"POST", key("Idempotency-Key"), "a body", true},
		{"PATCH", key("X-Idempotency-Key"), "", true},
	} {
		before := conns.Load()
		client := tidy(t, &fetch.Client{})
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

// A deadline that was set for one request is not that of the next on the same connection, and a
// server that sends now and then still has no more than Timeout.
func TestClientDeadlines(t *testing.T) {
	c := tidy(t, &fetch.Client{Timeout: 200 * time.Millisecond})
	quick, conns := rawServer(t, respond(func(*http.Request) string { return response("ok") }))
	for range 8 {
		require.NoError(t, get(t, c, quick).Err)
		time.Sleep(40 * time.Millisecond) // more than 200 ms in all
	}
	assert.EqualValues(t, 1, conns.Load())

	slow := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "1000")
		}
		for r.Context().Err() == nil {
			io.WriteString(w, "x")
			http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond) // the pace of the server
		}
	}))
	for _, path := range []string{"/length", "/chunks"} {
		res := get(t, c, slow.URL+path)
		assert.ErrorIs(t, res.Err, fetch.ErrTimeout)
		assert.ErrorContains(t, res.Err, "no complete response within 200ms: see Timeout")
		assert.ErrorIs(t, res.Err, context.DeadlineExceeded)
		assert.Equal(t, 200, res.Status)
	}
}

// A head that comes late leaves the body its own StallTimeout.
func TestClientStallOfLateHead(t *testing.T) {
	const stall = 300 * time.Millisecond
	for name, text := range map[string]string{
		"length": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n ok",
		"large":  "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n " + strings.Repeat("x", 3_000_000),
		"chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 2\r\nok\r\n0\r\n\r\n",
		"close":  "HTTP/1.1 200 OK\r\n\r\n ok",
		"skip":   "HTTP/1.1 302 Found\r\nLocation: /to\r\nContent-Length: 2\r\n\r\n ok",
	} {
		t.Run(name, func(t *testing.T) {
			head, body, _ := strings.Cut(text, "\r\n\r\n ")
			url := serveRaw(t, func(conn *net.TCPConn, r *http.Request) {
				if r.URL.Path == "/to" {
					io.WriteString(conn, response("ok"))
					return
				}
				time.Sleep(stall * 2 / 3)
				io.WriteString(conn, head+"\r\n\r\n")
				time.Sleep(stall * 2 / 3)
				io.WriteString(conn, body)
			})
			res := get(t, tidy(t, &fetch.Client{StallTimeout: stall}), url)
			assert.NoError(t, res.Err)
			assert.Equal(t, 200, res.Status)
		})
	}
}
