package fetch_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mccutchen/go-httpbin/v2/httpbin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// newClient returns c, with its connections closed at the end of the test.
func newClient(t *testing.T, c *fetch.Client) *fetch.Client {
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func newHTTPServer(t *testing.T, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// rawServer answers each request on each connection by answer, which gets the connection
// after the head of a request has been read; the connection is closed when it returns false.
func rawServer(t *testing.T, answer func(c *net.TCPConn) bool) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	t.Cleanup(func() { l.Close(); running.Wait() })
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				for {
					if !readHead(c) || !answer(c.(*net.TCPConn)) {
						return
					}
				}
			})
		}
	})
	return "http://" + l.Addr().String()
}

func readHead(c net.Conn) bool {
	var head []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		if _, err := c.Read(one); err != nil {
			return false
		}
		head = append(head, one[0])
	}
	return true
}

// says is an answer of rawServer: text, and then the end of the connection.
func says(text string) func(*net.TCPConn) bool {
	return func(c *net.TCPConn) bool {
		io.WriteString(c, text)
		return false
	}
}

// dialing returns a transport whose dials end in err.
func dialing(err error) *http.Transport {
	t := fetch.NewTransport()
	t.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, err }
	return t
}

func get(t *testing.T, d fetch.Doer, url string) fetch.Result {
	return d.Do(t.Context(), &fetch.Request{URL: url})
}

// Each thing that goes wrong has its kind, and a whole answer has none.
func TestClientErrorKinds(t *testing.T) {
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, refused.Close())
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it would report the handshake that fails
	secure.StartTLS()
	t.Cleanup(secure.Close)
	silent := rawServer(t, func(c *net.TCPConn) bool { io.Copy(io.Discard, c); return false })
	stalls := rawServer(t, func(c *net.TCPConn) bool {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
		io.Copy(io.Discard, c)
		return false
	})
	reset := rawServer(t, func(c *net.TCPConn) bool { c.SetLinger(0); return false })
	plain := fetchtest.NewServer(t)
	gzipped := func(body []byte) string {
		return newHTTPServer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(body)
		})
	}
	bin := newHTTPServer(t, httpbin.New().ServeHTTP)
	quick := &fetch.Client{Timeout: 50 * time.Millisecond}

	tests := map[string]struct {
		client *fetch.Client
		url    string
		kind   fetch.Kind
		status int
	}{
		"whole":                   {nil, plain.Ping(1), "", 200},
		"name without an address": {&fetch.Client{Transport: dialing(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "nosuchhost.invalid", IsNotFound: true}})}, "http://nosuchhost.invalid/", fetch.ErrDNS, 0},
		"refused":                 {nil, "http://" + refused.Addr().String(), fetch.ErrDial, 0},
		"certificate":             {nil, secure.URL, fetch.ErrTLS, 0},
		"TLS to plain HTTP":       {nil, strings.Replace(plain.URL, "http:", "https:", 1), fetch.ErrTLS, 0},
		"silence":                 {quick, silent, fetch.ErrTimeout, 0},
		"stalled body":            {quick, stalls, fetch.ErrTimeout, 200},
		"closed without answer":   {nil, rawServer(t, says("")), fetch.ErrReset, 0},
		"reset":                   {nil, reset, fetch.ErrReset, 0},
		"short body":              {nil, rawServer(t, says("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")), fetch.ErrTruncated, 200},
		"short chunk":             {nil, rawServer(t, says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n123")), fetch.ErrTruncated, 200},
		"half a head":             {nil, rawServer(t, says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n")), fetch.ErrTruncated, 0},
		"not HTTP":                {nil, rawServer(t, says("220 mail ESMTP\r\n\r\n")), fetch.ErrProtocol, 0},
		"bad chunk":               {nil, rawServer(t, says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")), fetch.ErrProtocol, 200},
		"not gzip":                {nil, gzipped([]byte("plain text")), fetch.ErrDecode, 200},
		"corrupt gzip":            {nil, gzipped(corrupt(zipped(make([]byte, 5000)))), fetch.ErrDecode, 200},
		"gzip bomb":               {&fetch.Client{MaxBody: 1000}, gzipped(zipped(make([]byte, 1001))), fetch.ErrTooLarge, 200},
		"gzip just small enough":  {&fetch.Client{MaxBody: 1000}, gzipped(zipped(make([]byte, 1000))), "", 200},
		"length too large":        {&fetch.Client{MaxBody: 17}, plain.Ping(1), fetch.ErrTooLarge, 200},
		"length large enough":     {&fetch.Client{MaxBody: 18}, plain.Ping(1), "", 200},
		"chunked too large":       {&fetch.Client{MaxBody: 99}, bin + "/stream/5", fetch.ErrTooLarge, 200},
		"no limit":                {&fetch.Client{MaxBody: -1}, bin + "/stream/5", "", 200},
		"too many redirects":      {nil, bin + "/redirect/11", fetch.ErrRedirect, 302},
		"as many as allowed":      {nil, bin + "/redirect/10", "", 200},
		"one too many":            {&fetch.Client{MaxRedirects: 2}, bin + "/redirect/3", fetch.ErrRedirect, 302},
		"redirects not followed":  {&fetch.Client{MaxRedirects: -1}, bin + "/redirect/3", "", 302},
		"redirect to ftp":         {nil, rawServer(t, says("HTTP/1.1 302 Found\r\nLocation: ftp://host/\r\nContent-Length: 0\r\n\r\n")), fetch.ErrRedirect, 302},
		"redirect to this host":   {nil, rawServer(t, says("HTTP/1.1 302 Found\r\nLocation: http://:80/\r\nContent-Length: 0\r\n\r\n")), fetch.ErrRedirect, 302},
		"http.Client's redirects": {fetch.HTTP(&http.Client{Transport: fetch.NewTransport()}), bin + "/redirect/11", fetch.ErrRedirect, 0},
		"http.Client's timeout":   {fetch.HTTP(&http.Client{Transport: fetch.NewTransport(), Timeout: 50 * time.Millisecond}), silent, fetch.ErrTimeout, 0},
		"http.Client, refused":    {fetch.HTTP(&http.Client{Transport: fetch.NewTransport()}), "http://" + refused.Addr().String(), fetch.ErrDial, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.client == nil {
				test.client = &fetch.Client{}
			}
			r := get(t, newClient(t, test.client), test.url+"?token=secret")
			assert.Equal(t, test.kind, fetch.KindOf(r.Err), "%v", r.Err)
			assert.Equal(t, test.status, r.Status)
			assert.Equal(t, 1, r.Attempts)
			assert.Positive(t, r.Duration)
			if test.kind == "" {
				assert.NoError(t, r.Err)
				return
			}
			var e *fetch.Error
			require.ErrorAs(t, r.Err, &e)
			assert.ErrorIs(t, r.Err, test.kind)
			assert.NotContains(t, r.Err.Error(), "secret")
			assert.Contains(t, r.Err.Error(), e.URL)
			assert.Equal(t, test.kind == fetch.ErrTimeout, errors.Is(r.Err, context.DeadlineExceeded))
			assert.Equal(t, test.kind == fetch.ErrTimeout, e.Timeout())
		})
	}
}

func zipped(b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(b)
	w.Close()
	return buf.Bytes()
}

// corrupt changes the checksum.
func corrupt(b []byte) []byte {
	b[len(b)-8] ^= 0xff
	return b
}

// What cannot be fetched is told before any I/O.
func TestClientBadRequests(t *testing.T) {
	transport := fetch.NewTransport()
	transport.DialContext = func(_ context.Context, _, addr string) (net.Conn, error) {
		t.Errorf("dialed %s", addr)
		return nil, errors.New("no dial was expected")
	}
	client := newClient(t, &fetch.Client{Transport: transport})
	const good = "http://host.test/"
	for name, r := range map[string]fetch.Request{
		"empty":             {URL: ""},
		"space":             {URL: " "},
		"no scheme":         {URL: "host.test/path"},
		"no scheme, port":   {URL: "host.test:80/path"},
		"only a path":       {URL: "/path"},
		"no host":           {URL: "http:///path"},
		"opaque":            {URL: "http:host"},
		"ftp":               {URL: "ftp://host.test/"},
		"file":              {URL: "file:///etc/hosts"},
		"NUL":               {URL: good + "\x00"},
		"newline":           {URL: good + "a\nb"},
		"DEL":               {URL: good + "\x7f"},
		"space in the host": {URL: "http://ho st/"},
		"only a port":       {URL: "http://:80/"},
		"port 99999":        {URL: "http://host.test:99999/"},
		"port 0":            {URL: "http://host.test:0/"},
		"negative port":     {URL: "http://host.test:-1/"},
		"port not a number": {URL: "http://user:secret/"},
		"bad escape":        {URL: good + "%zz"},
		"bad IPv6":          {URL: "http://[::1/"},
		"too long":          {URL: good + strings.Repeat("a", 64<<10)},
		"bad method":        {URL: good, Method: "GE T"},
		"bad header name":   {URL: good, Header: http.Header{"a b": {"x"}}},
		"bad header value":  {URL: good, Header: http.Header{"A": {"secret\r\nB: c"}}},
		"secret everywhere": {URL: "http://user:secret@host.test:secret/%zz?secret#secret"},
		"secret in Host":    {URL: good, Header: http.Header{"Host": {"secret\r\n"}}},
	} {
		t.Run(name, func(t *testing.T) {
			res := client.Do(t.Context(), &r)
			require.ErrorIs(t, res.Err, fetch.ErrBadURL)
			assert.Zero(t, res.Attempts)
			assert.Zero(t, res.Status)
			assert.NotContains(t, res.Err.Error(), "secret")
			assert.Less(t, len(res.Err.Error()), 1000, "a text for a line")
		})
	}
}

func TestClientCancel(t *testing.T) {
	arrived := make(chan struct{}, 1)
	silent := rawServer(t, func(c *net.TCPConn) bool { arrived <- struct{}{}; io.Copy(io.Discard, c); return false })
	client := newClient(t, &fetch.Client{})

	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the user has left")
	go func() { <-arrived; cancel(why) }()
	r := client.Do(ctx, &fetch.Request{URL: silent})
	assert.ErrorIs(t, r.Err, fetch.ErrCanceled)
	assert.ErrorIs(t, r.Err, context.Canceled)
	assert.ErrorIs(t, r.Err, why)

	ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	r = client.Do(ctx, &fetch.Request{URL: silent})
	assert.ErrorIs(t, r.Err, fetch.ErrTimeout, "the caller's deadline is a timeout")
	assert.ErrorIs(t, r.Err, context.DeadlineExceeded)
}

// A full table of files is not the URL's fault, and the user can do something about it.
func TestClientLocalLimits(t *testing.T) {
	for advice, cause := range map[string]error{
		"lower the strategy's limit or raise ulimit -n": os.NewSyscallError("socket", syscall.EMFILE),
		"no free local port":                            os.NewSyscallError("connect", syscall.EADDRNOTAVAIL),
	} {
		client := newClient(t, &fetch.Client{Transport: dialing(&net.OpError{Op: "dial", Net: "tcp", Err: cause})})
		for range 3 { // a dial that failed gives its place back
			r := get(t, client, "http://host.test/")
			assert.ErrorIs(t, r.Err, fetch.ErrDial)
			assert.ErrorIs(t, r.Err, cause)
			assert.ErrorContains(t, r.Err, advice)
		}
	}
}

func TestClientRequests(t *testing.T) {
	var mu sync.Mutex
	var last *http.Request
	var body []byte
	url := newHTTPServer(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		last = r
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("X-Answer", "yes")
		if r.URL.Path == "/204" {
			w.WriteHeader(204)
			return
		}
		io.WriteString(w, "hello")
	})
	for name, client := range map[string]*fetch.Client{
		"Client": newClient(t, &fetch.Client{}),
		"HTTP":   newClient(t, fetch.HTTP(&http.Client{Transport: fetch.NewTransport()})),
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{"X-Mine": {"1"}, "Host": {"other.test"}}
			req := fetch.Request{Method: "POST", URL: url, Header: header, Body: []byte("data")}
			r := client.Do(t.Context(), &req)
			require.NoError(t, r.Err)
			assert.Equal(t, "hello", string(r.Body))
			assert.Equal(t, "yes", r.Header().Get("X-Answer"))
			assert.Equal(t, "POST", last.Method)
			assert.Equal(t, "data", string(body))
			assert.Equal(t, int64(4), last.ContentLength)
			assert.Equal(t, "1", last.Header.Get("X-Mine"))
			assert.Equal(t, "gzip", last.Header.Get("Accept-Encoding"))
			assert.Equal(t, "other.test", last.Host)
			assert.Equal(t, http.Header{"X-Mine": {"1"}, "Host": {"other.test"}}, header, "the caller's header is as it was")

			r = client.Do(t.Context(), &fetch.Request{URL: strings.Replace(url, "//", "//user:pass@", 1)})
			require.NoError(t, r.Err)
			assert.Equal(t, "GET", last.Method)
			assert.Empty(t, last.Header.Get("Authorization"), "user info is not sent")

			r = client.Do(t.Context(), &fetch.Request{Method: "HEAD", URL: url})
			require.NoError(t, r.Err)
			assert.Equal(t, 200, r.Status)
			assert.Empty(t, r.Body)

			r = get(t, client, url+"/204")
			require.NoError(t, r.Err)
			assert.True(t, r.OK())
			assert.Empty(t, r.Body)
		})
	}
}

func TestClientGzip(t *testing.T) {
	client := newClient(t, &fetch.Client{})
	bin := newHTTPServer(t, httpbin.New().ServeHTTP)
	r := get(t, client, bin+"/gzip")
	require.NoError(t, r.Err)
	var document struct{ Gzipped bool }
	require.NoError(t, r.Decode(&document))
	assert.True(t, document.Gzipped)
}

// A redirect repeats the request, or turns it into a GET; the caller's header
// fields go to no other origin.
func TestClientRedirects(t *testing.T) {
	type seen struct{ method, body, token, contentType, path string }
	handler := func(got *atomic.Pointer[seen], elsewhere string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var status int
			if n, _ := fmt.Sscanf(r.URL.Path, "/%d/", &status); n == 1 {
				target := "../end"
				if strings.HasSuffix(r.URL.Path, "/away") {
					target = elsewhere + "/end"
				}
				w.Header().Set("Location", target)
				w.WriteHeader(status)
				io.WriteString(w, "moved")
				return
			}
			body, _ := io.ReadAll(r.Body)
			got.Store(&seen{r.Method, string(body), r.Header.Get("X-Token"), r.Header.Get("Content-Type"), r.URL.Path})
		}
	}
	var here, there atomic.Pointer[seen]
	elsewhere := newHTTPServer(t, handler(&there, ""))
	home := newHTTPServer(t, handler(&here, elsewhere))
	client := newClient(t, &fetch.Client{})

	for _, test := range []struct {
		status           int
		method, becomes  string
		keepsBodyAndType bool
	}{
		{301, "GET", "GET", false}, {301, "POST", "GET", false}, {301, "PUT", "PUT", true},
		{302, "POST", "GET", false}, {302, "HEAD", "HEAD", false}, {302, "DELETE", "DELETE", false},
		{303, "POST", "GET", false}, {303, "PUT", "GET", false}, {303, "HEAD", "HEAD", false},
		{307, "POST", "POST", true}, {307, "GET", "GET", false},
		{308, "POST", "POST", true}, {308, "PUT", "PUT", true},
	} {
		for _, place := range []string{"here", "away"} {
			t.Run(fmt.Sprintf("%d %s %s", test.status, test.method, place), func(t *testing.T) {
				here.Store(nil)
				there.Store(nil)
				req := fetch.Request{Method: test.method, URL: fmt.Sprintf("%s/%d/%s", home, test.status, place), Header: http.Header{"X-Token": {"t"}}}
				if test.method == "POST" || test.method == "PUT" {
					req.Body = []byte("data")
					req.Header.Set("Content-Type", "text/plain")
				}
				r := client.Do(t.Context(), &req)
				require.NoError(t, r.Err)
				require.Equal(t, 200, r.Status)
				want := seen{method: test.becomes, path: "/end"}
				if test.keepsBodyAndType {
					want.body = "data"
				}
				got := there.Load()
				if place == "here" {
					got = here.Load()
					want.token = "t"
					if test.keepsBodyAndType {
						want.contentType = "text/plain"
					}
				}
				require.NotNil(t, got)
				assert.Equal(t, want, *got)
			})
		}
	}
}

// The connection is the dear part of a small request: it must serve the next one.
func TestClientReusesConnections(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"timeout": 0, "no timeout": -1} {
		t.Run(name, func(t *testing.T) {
			client := newClient(t, &fetch.Client{Timeout: timeout})
			s := fetchtest.NewServer(t, fetchtest.FailStatus(0.5, 500))
			for i := range 50 {
				require.NoError(t, get(t, client, s.Ping(i)).Err)
			}
			assert.Equal(t, 1, s.Conns())

			for range 20 {
				var g sync.WaitGroup
				for i := range 10 {
					g.Go(func() { assert.NoError(t, get(t, client, s.Ping(i)).Err) })
				}
				g.Wait()
			}
			assert.LessOrEqual(t, s.Conns(), 10, "connections for 10 requests at a time")
		})
	}
}

// A server that closes each connection must not make a request wait for ever: its
// dial waits for a place only while the others have their connections.
func TestClientWhenConnectionsClose(t *testing.T) {
	url := rawServer(t, says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) // and closes, unannounced
	client := newClient(t, &fetch.Client{})
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: client}
	urls := make([]string, 300)
	for i := range urls {
		urls[i] = url
	}
	received := 0
	for r := range f.Get(t.Context(), urls...) {
		// A connection that closes just as it is used again is the server's doing.
		if r.Err != nil {
			require.ErrorIs(t, r.Err, fetch.ErrReset)
		}
		received++
	}
	assert.Equal(t, 300, received)
}

// net/http goes on dialing for a request that was canceled; the client does not.
func TestClientCancelEndsDial(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	transport := fetch.NewTransport()
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(begun)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	client := newClient(t, &fetch.Client{Transport: transport})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	r := client.Do(ctx, &fetch.Request{URL: "http://host.test/"})
	assert.ErrorIs(t, r.Err, fetch.ErrCanceled)
	<-ended
}

func TestClientHTTP2(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5")
		io.WriteString(w, "hello")
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	transport := fetch.NewTransport()
	transport.TLSClientConfig = &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	f := fetch.Fetcher{Doer: newClient(t, &fetch.Client{Transport: transport})}
	urls := make([]string, 500)
	for i := range urls {
		urls[i] = s.URL
	}
	for r := range f.Get(t.Context(), urls...) {
		require.NoError(t, r.Err)
		require.Equal(t, "hello", string(r.Body))
	}
}

// An http.Client brings its cookies and its redirect policy along.
func TestHTTPUsesItsClient(t *testing.T) {
	url := newHTTPServer(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := r.Cookie("visited"); err == nil {
			io.WriteString(w, "again")
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "visited", Value: "yes"})
		http.Redirect(w, r, "/", http.StatusFound)
	})
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	asIs := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client := newClient(t, fetch.HTTP(&http.Client{Transport: fetch.NewTransport(), Jar: jar, CheckRedirect: asIs}))
	header := http.Header{}
	assert.Equal(t, 302, get(t, client, url).Status)
	r := client.Do(t.Context(), &fetch.Request{URL: url, Header: header})
	assert.Equal(t, "again", string(r.Body))
	assert.Empty(t, header, "the jar's cookies do not go into the caller's header")
	r = newClient(t, fetch.HTTP(nil)).Do(t.Context(), &fetch.Request{URL: url, Header: http.Header{"Cookie": {"visited=yes"}}})
	assert.True(t, r.OK(), "nil means http.DefaultClient")
}
