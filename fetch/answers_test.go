package fetch_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mccutchen/go-httpbin/v2/httpbin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// The answers that a body may come in, and that each leaves its connection fit for the next.
func TestClientAnswers(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("/length", answers([]byte("hello"), "Content-Length", "5"))
	mux.Handle("/chunked", chunked([]byte("hello")))
	mux.Handle("/large", answers(bytes.Repeat([]byte("x"), 3<<20), "Content-Length", "3145728"))
	mux.Handle("/large/chunked", chunked(bytes.Repeat([]byte("x"), 3<<20)))
	mux.Handle("/gzip", answers(gzipped("hello"), "Content-Encoding", "gzip"))
	mux.Handle("/gzip/empty", answers(gzipped(""), "Content-Encoding", "gzip"))
	mux.Handle("/empty", answers(nil))
	mux.Handle("/status/{code}", httpbin.New())
	mux.Handle("/304", answersStatus(http.StatusNotModified, "Etag", `"x"`))
	server, conns := counted(t, mux)
	client := tidy(t, &fetch.Client{})
	large := strings.Repeat("x", 3<<20)
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"", "/length", 200, "hello"},
		{"GET", "/chunked", 200, "hello"},
		{"GET", "/large", 200, large},
		{"GET", "/large/chunked", 200, large},
		{"GET", "/gzip", 200, "hello"},
		{"GET", "/gzip/empty", 200, ""},
		{"GET", "/empty", 200, ""},
		{"HEAD", "/length", 200, ""},
		{"HEAD", "/large", 200, ""},
		{"HEAD", "/chunked", 200, ""},
		{"HEAD", "/gzip", 200, ""},
		{"GET", "/status/204", 204, ""},
		{"GET", "/304", 304, ""},
		{"GET", "/status/404", 404, ""},
		{"GET", "/status/500", 500, ""},
		{"DELETE", "/status/200", 200, ""},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			res := client.Do(t.Context(), &fetch.Request{Method: c.method, URL: server + c.path})
			require.NoError(t, res.Err)
			assert.Equal(t, c.status, res.Status)
			assert.Equal(t, c.status < 300, res.OK())
			assert.Equal(t, len(c.body), len(res.Body))
			assert.True(t, c.body == string(res.Body), "another body")
			assert.NotEmpty(t, res.Header().Get("Date"))
			assert.Equal(t, 1, res.Attempts)
			assert.Positive(t, res.Duration)
		})
	}
	assert.EqualValues(t, 1, conns.Load(), "connections")
}

// MaxBody is the largest body that is accepted, to the byte and however it comes.
func TestClientMaxBody(t *testing.T) {
	const n = 2000
	body := bytes.Repeat([]byte("x"), n)
	for name, h := range map[string]http.Handler{
		"length": answers(body, "Content-Length", fmt.Sprint(n)),
		"chunk":  chunked(body),
		"chunks": chunked(body[:n/2], body[n/2:]),
		"gzip":   answers(gzipped(string(body)), "Content-Encoding", "gzip"),
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, h)
			for _, c := range []struct {
				most int64
				ok   bool
			}{{1, false}, {n - 1, false}, {n, true}, {n + 1, true}, {0, true}, {-1, true}, {math.MaxInt64, true}} {
				res := get(t, tidy(t, &fetch.Client{MaxBody: c.most}), server.URL)
				if c.ok {
					assert.NoError(t, res.Err, "MaxBody %d", c.most)
					assert.Len(t, res.Body, n, "MaxBody %d", c.most)
				} else {
					assert.ErrorIs(t, res.Err, fetch.ErrTooLarge, "MaxBody %d", c.most)
				}
			}
		})
	}
	t.Run("no limit", func(t *testing.T) {
		server := serve(t, answers(bomb(), "Content-Encoding", "gzip"))
		res := get(t, tidy(t, &fetch.Client{MaxBody: -1}), server.URL)
		assert.NoError(t, res.Err)
		assert.Equal(t, 10<<20+1, len(res.Body))
	})
	t.Run("HEAD", func(t *testing.T) { // tells the length of what it does not send
		server := serve(t, answers(body, "Content-Length", fmt.Sprint(n)))
		res := tidy(t, &fetch.Client{MaxBody: 1}).Do(t.Context(), &fetch.Request{Method: "HEAD", URL: server.URL})
		assert.NoError(t, res.Err)
		assert.Equal(t, fmt.Sprint(n), res.Header().Get("Content-Length"))
	})
}

// got is what /anything of httpbin says that it got.
type got struct {
	Method  string              `json:"method"`
	URL     string              `json:"url"`
	Data    string              `json:"data"`
	Headers map[string][]string `json:"headers"`
}

// What is sent is the request, no more and no less.
func TestClientSends(t *testing.T) {
	server := serve(t, httpbin.New())
	client := tidy(t, &fetch.Client{})
	do := func(req fetch.Request) got {
		t.Helper()
		req.URL = server.URL + "/anything"
		return decoded[got](t, client, &req)
	}
	host := strings.TrimPrefix(server.URL, "http://")

	g := do(fetch.Request{})
	assert.Equal(t, "GET", g.Method)
	assert.Equal(t, []string{host}, g.Headers["Host"])
	assert.Equal(t, []string{"gzip"}, g.Headers["Accept-Encoding"])
	assert.NotContains(t, g.Headers, "Content-Length")
	assert.NotContains(t, g.Headers, "Transfer-Encoding")

	g = do(fetch.Request{Method: "POST", Body: []byte("a body"), Header: http.Header{"Content-Type": {"text/plain"}, "X-Many": {"1", "2"}}})
	assert.Equal(t, "POST", g.Method)
	assert.Equal(t, "a body", g.Data)
	assert.Equal(t, []string{"6"}, g.Headers["Content-Length"])
	assert.Equal(t, []string{"text/plain"}, g.Headers["Content-Type"])
	assert.Equal(t, []string{"1", "2"}, g.Headers["X-Many"])

	g = do(fetch.Request{Header: http.Header{"Host": {"virtual.invalid"}, "User-Agent": {"crawler"}}})
	assert.Equal(t, []string{"virtual.invalid"}, g.Headers["Host"])
	assert.Equal(t, []string{"crawler"}, g.Headers["User-Agent"])

	// Who asks for a coding gets it as it came.
	res := client.Do(t.Context(), &fetch.Request{URL: server.URL + "/gzip", Header: http.Header{"Accept-Encoding": {"gzip"}}})
	require.NoError(t, res.Err)
	assert.Equal(t, "gzip", res.Header().Get("Content-Encoding"))
	_, err := gzip.NewReader(bytes.NewReader(res.Body))
	assert.NoError(t, err)

	// Otherwise it is decoded, and the header tells of it no more.
	res = get(t, client, server.URL+"/gzip")
	require.NoError(t, res.Err)
	assert.Empty(t, res.Header().Get("Content-Encoding"))
	assert.True(t, json.Valid(res.Body))

	res = get(t, client, server.URL+"/delay/10ms")
	assert.NoError(t, res.Err)
	assert.GreaterOrEqual(t, res.Duration, 10*time.Millisecond)
}

// Requests may share a Header and a Body: the race detector sees who writes to them.
func TestClientSharesRequests(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("/", http.RedirectHandler("/moved", http.StatusTemporaryRedirect))
	mux.Handle("/moved", http.RedirectHandler("/echo", http.StatusFound))
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "seen", Value: "yes"})
		io.Copy(w, r.Body)
	})
	server := serve(t, mux)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	for name, client := range map[string]engine{
		"Client":     &fetch.Client{},
		"HTTPClient": fetch.HTTPClient{Client: &http.Client{Jar: jar, Transport: fetch.NewTransport()}},
	} {
		t.Run(name, func(t *testing.T) {
			tidy(t, client)
			header := http.Header{"X-Custom": {"1"}, "Content-Type": {"text/plain"}, "Host": {"virtual.invalid"}}
			req := &fetch.Request{Index: 7, Method: "PUT", URL: server.URL, Header: header, Body: []byte("a body")}
			was := *req
			was.Header, was.Body = header.Clone(), bytes.Clone(req.Body)
			// http.Client makes a GET of a PUT that is found elsewhere.
			want := map[string]string{"Client": "a body", "HTTPClient": ""}[name]
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					for range 5 {
						res := client.Do(t.Context(), req)
						if assert.NoError(t, res.Err) {
							assert.Equal(t, want, string(res.Body))
						}
					}
				})
			}
			wg.Wait()
			assert.Equal(t, was, *req)
			assert.True(t, maps.EqualFunc(was.Header, header, func(a, b []string) bool { return assert.ObjectsAreEqual(a, b) }))
		})
	}
}

// Never more connections than requests at once: a connection too many costs a handshake,
// and a local port for a minute.
func TestClientConnections(t *testing.T) {
	for _, c := range []struct {
		concurrent, each int
		timeout          time.Duration
	}{
		{1, 50, 0}, {1, 50, -1}, {2, 100, 0}, {16, 40, 0}, {16, 40, -1}, {64, 20, 0},
	} {
		t.Run(fmt.Sprintf("%d at once, timeout %v", c.concurrent, c.timeout), func(t *testing.T) {
			server := fetchtest.NewServer(t)
			client := tidy(t, &fetch.Client{Timeout: c.timeout})
			var wg sync.WaitGroup
			for range c.concurrent {
				wg.Go(func() {
					for i := range c.each {
						res := get(t, client, server.Ping(i))
						if assert.NoError(t, res.Err) {
							assert.Equal(t, server.Body(), res.Body)
						}
					}
				})
			}
			wg.Wait()
			assert.Equal(t, c.concurrent*c.each, server.Requests())
			assert.LessOrEqual(t, server.Conns(), c.concurrent, "connections")
		})
	}
}

// A server that closes its idle connections is not an error: a request that finds one
// closed gets a new one.
func TestClientClosedConnections(t *testing.T) {
	server := serve(t, answers([]byte("hello")))
	client := tidy(t, &fetch.Client{})
	for range 20 {
		res := get(t, client, server.URL)
		require.NoError(t, res.Err)
		server.CloseClientConnections()
	}
}

func TestClientCloseIdleConnections(t *testing.T) {
	tidy(t, &fetch.Client{}).CloseIdleConnections() // before the first request
	for name, client := range map[string]engine{
		"Client":     &fetch.Client{},
		"HTTPClient": fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}},
	} {
		t.Run(name, func(t *testing.T) {
			server := fetchtest.NewServer(t)
			tidy(t, client)
			for want := 1; want <= 3; want++ {
				for range 3 {
					res := get(t, client, server.Ping(0))
					require.NoError(t, res.Err)
				}
				assert.Equal(t, want, server.Conns(), "connections")
				client.CloseIdleConnections()
			}
		})
	}
}

// A Client changes nothing in the caller's TLS configuration, and heeds it.
func TestClientTLS(t *testing.T) {
	server := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	config := trust(server)
	config.NextProtos = []string{"h2"} // which it does not speak
	var checked atomic.Int64
	config.VerifyConnection = func(tls.ConnectionState) error { checked.Add(1); return nil }
	client := tidy(t, &fetch.Client{TLS: config})
	for range 3 {
		res := get(t, client, server.URL)
		require.NoError(t, res.Err)
		assert.Equal(t, "HTTP/1.1", string(res.Body))
	}
	assert.EqualValues(t, 1, checked.Load(), "handshakes")
	assert.Equal(t, []string{"h2"}, config.NextProtos)
	assert.Empty(t, config.ServerName)
	assert.Nil(t, config.ClientSessionCache)
}

// An HTTPClient changes nothing in the caller's transport, and nothing about what that can do.
func TestHTTPClientTransport(t *testing.T) {
	server := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	// A zero Transport speaks HTTP/2, but one with a TLSClientConfig does not, unless
	// told to. So net/http has to have made it ready before it learns whom to trust.
	zero := &http.Transport{}
	_, err := zero.RoundTrip(httptest.NewRequest("GET", server.URL, nil))
	require.Error(t, err)

	for _, c := range []struct {
		name      string
		transport *http.Transport
		want      string
	}{
		{"NewTransport", trusting(server, fetch.NewTransport()), "HTTP/2.0"},
		{"zero", trusting(server, zero), "HTTP/2.0"},
		{"TLSClientConfig", trusting(server, &http.Transport{}), "HTTP/1.1"},
		{"httptest", server.Client().Transport.(*http.Transport), "HTTP/2.0"},
		{"not HTTP/2", trusting(server, &http.Transport{ForceAttemptHTTP2: true, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}), "HTTP/1.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dial := c.transport.DialContext
			client := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: c.transport}})
			for range 3 {
				res := get(t, client, server.URL)
				if assert.NoError(t, res.Err) {
					assert.Equal(t, c.want, string(res.Body))
				}
			}
			assert.Equal(t, dial == nil, c.transport.DialContext == nil, "the caller's transport has been changed")
		})
	}
}

// Dial makes the connections, wherever the URL leads, and is not called for each request.
func TestClientDial(t *testing.T) {
	server := fetchtest.NewServer(t)
	var dialed []string
	client := tidy(t, &fetch.Client{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed = append(dialed, network+" "+addr)
		return dialsTo(strings.TrimPrefix(server.URL, "http://"))(ctx, network, addr)
	}})
	for range 3 {
		assert.NoError(t, get(t, client, "http://a.invalid/ping").Err)
	}
	assert.NoError(t, get(t, client, "http://b.invalid:81/ping").Err)
	assert.Equal(t, []string{"tcp a.invalid:80", "tcp b.invalid:81"}, dialed)
}

// A request that finds its kept connection closed is sent again if it may be sent twice.
func TestClientSentAgain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	// The second request of a connection is read, and has no response.
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				br := bufio.NewReader(conn)
				for first := true; ; first = false {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					body, err := io.ReadAll(r.Body)
					if err != nil || !first {
						return
					}
					text := r.Method + string(body) + fmt.Sprint(r.Header["Idempotency-Key"])
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
				}
			})
		}
	})
	url := "http://" + l.Addr().String()
	for _, c := range []struct {
		method, field, body string
		again               bool
	}{
		{"GET", "", "", true},
		{"OPTIONS", "", "", true},
		{"PUT", "", "a body", true},
		{"put", "", "a body", true},
		{"DELETE", "", "", true},
		{"POST", "", "a body", false},
		{"PATCH", "", "", false},
		{"POST", "Idempotency-Key", "a body", true},
		{"POST", "x-idempotency-key", "a body", true},
	} {
		header := http.Header{"X-Custom": {"1"}}
		if c.field != "" {
			header[c.field] = []string{"1"}
		}
		was := header.Clone()
		for name, client := range map[string]engine{
			"Client":     &fetch.Client{},
			"HTTPClient": fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}},
		} {
			tidy(t, client)
			require.NoError(t, get(t, client, url).Err)
			res := client.Do(t.Context(), &fetch.Request{Method: c.method, URL: url, Header: header, Body: []byte(c.body)})
			assert.Equal(t, was, header, "%s: the caller's header", name)
			if !c.again {
				assert.ErrorIs(t, res.Err, fetch.ErrReset, "%s: %v", name, c)
				continue
			}
			require.NoError(t, res.Err, "%s: %v", name, c)
			assert.Equal(t, c.method+c.body+fmt.Sprint(header["Idempotency-Key"]), string(res.Body), "%s", name)
		}
	}
}

// HTTPClient gives the requests to the caller's client, with all that it was set up for.
func TestHTTPClient(t *testing.T) {
	server := serve(t, httpbin.New())

	t.Run("nil", func(t *testing.T) {
		client := tidy(t, fetch.HTTPClient{})
		assert.Equal(t, "GET", decoded[got](t, client, &fetch.Request{URL: server.URL + "/anything"}).Method)
	})
	t.Run("jar", func(t *testing.T) {
		jar, err := cookiejar.New(nil)
		require.NoError(t, err)
		client := tidy(t, fetch.HTTPClient{Client: &http.Client{Jar: jar, Transport: fetch.NewTransport()}})
		res := get(t, client, server.URL+"/cookies/set?k=v")
		require.NoError(t, res.Err)
		header := http.Header{"X-Custom": {"1"}}
		g := decoded[got](t, client, &fetch.Request{URL: server.URL + "/anything", Header: header})
		assert.Equal(t, []string{"k=v"}, g.Headers["Cookie"])
		assert.Equal(t, http.Header{"X-Custom": {"1"}}, header)
	})
	t.Run("redirect policy", func(t *testing.T) {
		policy := errors.New("no redirects here")
		client := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport(), CheckRedirect: func(*http.Request, []*http.Request) error { return policy }}})
		res := get(t, client, server.URL+"/redirect/1")
		assert.ErrorIs(t, res.Err, policy)
		assert.ErrorIs(t, res.Err, fetch.ErrRedirect)
		assert.Equal(t, 302, res.Status)
		assert.NotEmpty(t, res.Header().Get("Location"))

		client = tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}})
		res = get(t, client, server.URL+"/redirect/1")
		assert.NoError(t, res.Err)
		assert.Equal(t, 302, res.Status)
	})
	t.Run("timeout", func(t *testing.T) {
		for status, answer := range map[int]string{0: "", 200: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"} {
			silent := serveRaw(t, hangs(answer))
			client := tidy(t, fetch.HTTPClient{Client: &http.Client{Timeout: 30 * time.Millisecond, Transport: fetch.NewTransport()}})
			res := get(t, client, silent+"/?token="+secret)
			var e *fetch.Error
			require.ErrorAs(t, res.Err, &e)
			assert.True(t, e.Timeout())
			assert.ErrorIs(t, res.Err, fetch.ErrTimeout)
			assert.ErrorIs(t, res.Err, context.DeadlineExceeded)
			assert.NotContains(t, res.Err.Error(), secret)
			assert.Equal(t, status, res.Status)
			assert.Equal(t, 1, res.Attempts)
			assert.Positive(t, res.Duration)
		}
	})
	t.Run("transport's timeout", func(t *testing.T) {
		transport := fetch.NewTransport()
		transport.ResponseHeaderTimeout = 30 * time.Millisecond
		client := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: transport}})
		res := get(t, client, serveRaw(t, hangs(""))+"/?token="+secret)
		assert.Equal(t, fetch.ErrTimeout, fetch.KindOf(res.Err), "%v", res.Err)
		assert.ErrorIs(t, res.Err, context.DeadlineExceeded)
		assert.NotContains(t, res.Err.Error(), secret)
		assert.Zero(t, res.Status)
	})
	t.Run("own timeout", func(t *testing.T) {
		for status, answer := range map[int]string{0: "", 200: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"} {
			client := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}, Timeout: 30 * time.Millisecond})
			res := get(t, client, serveRaw(t, hangs(answer)))
			assert.ErrorIs(t, res.Err, fetch.ErrTimeout)
			assert.ErrorContains(t, res.Err, "no complete response within 30ms: see Timeout")
			assert.Equal(t, status, res.Status)
		}
		client := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}, Timeout: 100 * time.Millisecond})
		assert.ErrorContains(t, get(t, client, server.URL+"/redirect-to?url=/delay/10").Err, "see Timeout", "redirects are included")
	})
	t.Run("MaxBody", func(t *testing.T) {
		for most, kind := range map[int64]fetch.Kind{99: fetch.ErrTooLarge, 100: "", 0: "", -1: ""} {
			client := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}, MaxBody: most})
			for _, path := range []string{"/bytes/100", "/stream-bytes/100"} {
				res := get(t, client, server.URL+path)
				assert.Equal(t, kind, fetch.KindOf(res.Err), "%d: %v", most, res.Err)
				if kind != "" {
					assert.ErrorContains(t, res.Err, "more than 99 bytes: see MaxBody")
				}
			}
		}
		large := serve(t, answers(bomb(), "Content-Encoding", "gzip"))
		client := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}})
		assert.ErrorIs(t, get(t, client, large.URL).Err, fetch.ErrTooLarge, "by default 10 MiB")
		client.MaxBody = -1
		assert.NoError(t, get(t, client, large.URL).Err)
	})
	t.Run("user info", func(t *testing.T) {
		client := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}})
		g := decoded[got](t, client, &fetch.Request{URL: strings.Replace(server.URL, "http://", "http://u:p@", 1) + "/anything"})
		assert.NotContains(t, g.Headers, "Authorization")
	})
	t.Run("body", func(t *testing.T) {
		client := tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}})
		to := url.Values{"url": {"/anything"}, "status_code": {"307"}}
		g := decoded[got](t, client, &fetch.Request{Method: "POST", URL: server.URL + "/redirect-to?" + to.Encode(), Body: []byte("a body")})
		assert.Equal(t, "data:application/octet-stream;base64,YSBib2R5", g.Data)
	})
}

func TestResultDecode(t *testing.T) {
	type message struct{ Message string }
	for _, c := range []struct {
		body string
		ok   bool
	}{
		{`{"message":"pong"}`, true},
		{" {\"message\":\"pong\"}\n", true},
		{``, false},
		{`{"message":"pong"`, false},
		{`{"message":"pong"} {}`, false},
		{`{"message":1}`, false},
		{`<html>`, false},
	} {
		res := fetch.Result{Request: &fetch.Request{URL: "http://u:" + secret + "@h/p?" + secret}, Status: 500, Body: []byte(c.body)}
		var m message
		err := res.Decode(&m)
		if c.ok {
			assert.NoError(t, err, c.body)
			assert.Equal(t, message{"pong"}, m, c.body)
			continue
		}
		assert.ErrorIs(t, err, fetch.ErrDecode, c.body)
		assert.ErrorContains(t, err, "http://h/p", c.body)
		assert.NotContains(t, err.Error(), secret, c.body)
	}
	res := fetch.Result{Body: []byte("{")}
	assert.ErrorIs(t, res.Decode(new(any)), fetch.ErrDecode, "without a Request")
	res.Err = fetch.ErrReset
	assert.Equal(t, error(fetch.ErrReset), res.Decode(new(any)))
}
