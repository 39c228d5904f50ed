package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// A countedBody is a request body that counts how often it is closed.
type countedBody struct {
	io.Reader
	closed atomic.Int64
}

func (b *countedBody) Close() error { b.closed.Add(1); return nil }

// send performs a request with the method and body by rt, and reads the body of the response.
func send(t *testing.T, rt http.RoundTripper, method, url string, body io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	require.NoError(t, err)
	return receive(t, rt, req)
}

// receive performs req by rt, and reads the body of the response.
func receive(t *testing.T, rt http.RoundTripper, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Same(t, req, resp.Request)
	return resp, string(b)
}

// A response is what net/http's own transport makes of the same one, but for the field Connection.
func TestRoundTripperResponses(t *testing.T) {
	head := func(status string, fields ...string) string {
		return "HTTP/1.1 " + status + "\r\nConnection: close\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
	}
	zipped := string(gzipped("hello"))
	length := "Content-Length: " + strconv.Itoa(len(zipped))
	for _, c := range []struct {
		name, method, response string
		header                 http.Header // of the request
		body                   string
		uncompressed           bool
	}{
		{name: "length", response: head("200 OK", "Content-Length: 5") + "hello", body: "hello"},
		{name: "no body", response: head("200 OK", "Content-Length: 0")},
		{name: "204", response: head("204 No Content")},
		{name: "304", response: head("304 Not Modified", "ETag: x")},
		{name: "404", response: head("404 Not Found", "Content-Length: 4") + "none", body: "none"},
		{name: "redirect", response: head("302 Found", "Location: /to", "Content-Length: 4") + "here", body: "here"},
		{name: "1xx before", response: "HTTP/1.1 103 Early Hints\r\n\r\n" + head("200 OK", "Content-Length: 5") + "hello", body: "hello"},
		{name: "gzip", response: head("200 OK", "Content-Encoding: gzip", length) + zipped, body: "hello", uncompressed: true},
		{name: "gzip for the caller", response: head("200 OK", "Content-Encoding: gzip", length) + zipped, body: zipped, header: http.Header{"Accept-Encoding": {"gzip"}}},
		{name: "HEAD", method: "HEAD", response: head("200 OK", "Content-Length: 1234")},
		{name: "HEAD without a length", method: "HEAD", response: head("200 OK")},
		{name: "until the end", response: head("200 OK") + "hello", body: "hello"},
		{name: "HTTP/1.0", response: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", body: "hello"},
		{name: "HTTP/1.0 until the end", response: "HTTP/1.0 200 OK\r\n\r\nhello", body: "hello"},
		{name: "fields twice", response: head("200 OK", "X-A: 1", "x-a: 2", "Content-Length: 0")},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := serveRaw(t, sends(c.response))
			if c.header == nil {
				c.header = http.Header{}
			}
			do := func(rt http.RoundTripper) (*http.Response, string) {
				req, err := http.NewRequestWithContext(t.Context(), c.method, server+"/a", nil)
				require.NoError(t, err)
				req.Header = c.header.Clone()
				defer func() { assert.Equal(t, c.header, req.Header, "the caller's header") }()
				return receive(t, rt, req)
			}
			theirs := fetch.NewTransport()
			defer theirs.CloseIdleConnections()
			want, _ := do(theirs)
			got, body := do(tidy(t, &fetch.Client{}).RoundTripper())
			assert.Equal(t, c.body, body)
			assert.Equal(t, c.uncompressed, got.Uncompressed)
			assert.Equal(t, want.Uncompressed, got.Uncompressed)
			assert.Equal(t, want.Status, got.Status)
			assert.Equal(t, want.Close, got.Close)
			assert.Equal(t, want.StatusCode, got.StatusCode)
			assert.Equal(t, want.ContentLength, got.ContentLength)
			assert.Equal(t, []any{want.Proto, want.ProtoMajor, want.ProtoMinor}, []any{got.Proto, got.ProtoMajor, got.ProtoMinor})
			want.Header.Del("Connection") // net/http takes it out or leaves it in by the kind of response
			got.Header.Del("Connection")
			assert.Equal(t, want.Header, got.Header)
		})
	}
}

// Only the end of the connection says where such a body ends: a program that has to know must be
// able to tell, as it can with net/http.
func TestRoundTripperUnverified(t *testing.T) {
	for text, unverified := range map[string]bool{
		"HTTP/1.1 200 OK\r\n\r\nhello":                                                 true,
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello":       false,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n": false,
	} {
		server := serveRaw(t, sends(text))
		rt := tidy(t, &fetch.Client{}).RoundTripper()
		resp, body := send(t, rt, "GET", server, nil)
		assert.Equal(t, "hello", body, text)
		assert.Equal(t, unverified || strings.Contains(text, "Connection: close"), resp.Close, text)
		if unverified {
			assert.EqualValues(t, -1, resp.ContentLength, text)
		} else {
			assert.EqualValues(t, 5, resp.ContentLength, text)
		}
		res := get(t, fetch.HTTPClient{Client: &http.Client{Transport: rt}}, server)
		require.NoError(t, res.Err, text)
		assert.Equal(t, unverified, res.Unverified, text)
	}
}

// What arrives of each request.
func TestRoundTripperRequests(t *testing.T) {
	server := hopServer(t)
	here := strings.TrimPrefix(server, "http://")
	for _, c := range []struct {
		name string
		req  http.Request
		want arrived // Host: as the URL's
		has  http.Header
	}{
		{name: "zero method", want: arrived{Method: "GET"}},
		{name: "POST", req: http.Request{Method: "POST", Body: io.NopCloser(strings.NewReader("hello")), ContentLength: 5},
			want: arrived{Method: "POST", Body: "hello"}, has: http.Header{"Content-Length": {"5"}}},
		{name: "POST of unknown length", req: http.Request{Method: "POST", Body: io.NopCloser(strings.NewReader("hello")), ContentLength: -1},
			want: arrived{Method: "POST", Body: "hello"}, has: http.Header{"Content-Length": {"5"}}},
		{name: "NoBody", req: http.Request{Method: "POST", Body: http.NoBody}, want: arrived{Method: "POST"}, has: http.Header{"Content-Length": {"0"}}},
		{name: "Host", req: http.Request{Host: "other.test"}, want: arrived{Method: "GET", Host: "other.test"}},
		// net/http ignores that one too. http.Client copies it for the redirects that it follows.
		{name: "Host in the header", req: http.Request{Header: http.Header{"Host": {"internal.test"}}}, want: arrived{Method: "GET"}},
		{name: "both", req: http.Request{Host: "other.test", Header: http.Header{"Host": {"internal.test"}}}, want: arrived{Method: "GET", Host: "other.test"}},
		{name: "Close", req: http.Request{Close: true}, want: arrived{Method: "GET"}, has: http.Header{"Connection": {"close"}}},
		{name: "fields", req: http.Request{Header: http.Header{"X-A": {"1", "2"}, "User-Agent": {"mine"}}}, want: arrived{Method: "GET"},
			has: http.Header{"X-A": {"1", "2"}, "User-Agent": {"mine"}, "Accept-Encoding": {"gzip"}}},
		{name: "gzip", want: arrived{Method: "GET"}, has: http.Header{"Accept-Encoding": {"gzip"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.req.URL = &url.URL{Scheme: "http", Host: here, Path: "/to", RawQuery: "a=b", User: url.UserPassword("user", secret)}
			header := c.req.Header.Clone()
			_, body := receive(t, tidy(t, &fetch.Client{}).RoundTripper(), &c.req)
			assert.Equal(t, header, c.req.Header, "the caller's header")
			res := fetch.Result{Body: []byte(body)}
			var a arrived
			require.NoError(t, res.Decode(&a))
			for name, values := range c.has {
				assert.Equal(t, values, a.Header[name], name)
			}
			assert.NotContains(t, a.Header, "Authorization", "user info is http.Client's to send")
			if c.want.Host == "" {
				c.want.Host = here
			}
			c.want.URI, a.Header = "/to?a=b", nil
			assert.Equal(t, c.want, a)
		})
	}
}

// Errors are the Client's, also below the one that http.Client makes of them; no request goes out
// that is not as the caller meant it; and the body is closed in any case.
func TestRoundTripperErrors(t *testing.T) {
	const good = "http://user:" + secret + "@127.0.0.1:1/?" + secret
	torn := errors.New(`disk "` + secret + `" is gone`)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name   string
		url    string
		body   io.Reader
		length int64
		change func(*http.Request) *http.Request
		kind   fetch.Kind
		text   string
		cause  error
		dials  bool
	}{
		{name: "refused", url: good, body: strings.NewReader("hello"), kind: fetch.ErrDial, text: "no way", dials: true},
		{name: "canceled", url: good, body: strings.NewReader("hello"), kind: fetch.ErrCanceled, cause: context.Canceled,
			change: func(r *http.Request) *http.Request { return r.WithContext(ended) }},
		{name: "body over MaxBody", url: good, body: strings.NewReader(strings.Repeat("x", 101)), kind: fetch.ErrTooLarge, text: "more than 100 bytes: see MaxBody"},
		{name: "body at MaxBody", url: good, body: strings.NewReader(strings.Repeat("x", 100)), kind: fetch.ErrDial, dials: true},
		{name: "short body", url: good, body: strings.NewReader("hello"), length: 6, kind: fetch.ErrBadURL, text: "5 bytes, and the ContentLength is 6"},
		{name: "long body", url: good, body: strings.NewReader("hello"), length: 4, kind: fetch.ErrBadURL, text: "5 bytes, and the ContentLength is 4"},
		{name: "body that fails", url: good, body: io.MultiReader(strings.NewReader("he"), failingReader{torn}), kind: fetch.ErrBadURL, text: "the request's body: disk", cause: torn},
		{name: "no URL", body: strings.NewReader("hello"), kind: fetch.ErrBadURL, text: "no URL"},
		{name: "scheme", url: "ftp://user:" + secret + "@a.test/", body: strings.NewReader("hello"), kind: fetch.ErrBadURL, text: "neither http nor https"},
		{name: "Host", url: good, kind: fetch.ErrBadURL, text: "invalid header field value for Host",
			change: func(r *http.Request) *http.Request { r.Host = "a\r\nX: " + secret; return r }},
		{name: "field", url: good, kind: fetch.ErrBadURL, text: "invalid header field value for X-A",
			change: func(r *http.Request) *http.Request { r.Header.Set("X-A", secret+"\r\nX: y"); return r }},
		{name: "CONNECT", url: good, kind: fetch.ErrBadURL, text: "tunnels are not supported",
			change: func(r *http.Request) *http.Request { r.Method = "CONNECT"; return r }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dials := 0
			client := tidy(t, &fetch.Client{MaxBody: 100, Dial: func(context.Context, string, string) (net.Conn, error) {
				dials++
				return nil, errors.New("no way")
			}})
			request := func(body *countedBody) *http.Request {
				req := &http.Request{Method: "POST", Header: http.Header{}, Body: body, ContentLength: c.length}
				if c.url != "" {
					u, err := url.Parse(c.url)
					require.NoError(t, err)
					req.URL = u
				}
				if c.change != nil {
					req = c.change(req)
				}
				return req
			}
			body := &countedBody{Reader: c.body}
			if c.body == nil {
				body.Reader = strings.NewReader("")
			}
			resp, err := client.RoundTripper().RoundTrip(request(body))
			assert.Nil(t, resp)
			e, ok := err.(*fetch.Error)
			require.True(t, ok, "%T: %v", err, err)
			assert.Equal(t, c.kind, e.Kind)
			assert.ErrorContains(t, err, c.text)
			assert.NotContains(t, err.Error(), secret)
			if c.cause != nil {
				assert.ErrorIs(t, err, c.cause)
			}
			assert.EqualValues(t, 1, body.closed.Load(), "times that the body was closed")
			assert.Equal(t, c.dials, dials > 0, "dialed")
		})
	}

	t.Run("below a url.Error", func(t *testing.T) {
		server := serveRaw(t, hangs(""))
		users := &http.Client{Transport: tidy(t, &fetch.Client{Timeout: 30 * time.Millisecond}).RoundTripper()}
		_, err := users.Get(server)
		var ue *url.Error
		require.ErrorAs(t, err, &ue)
		var e *fetch.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, fetch.ErrTimeout, e.Kind)
		assert.True(t, ue.Timeout())
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = (&http.Client{Transport: tidy(t, &fetch.Client{Dial: failing(errors.New("no way"))}).RoundTripper()}).Get("http://a.test/")
		require.ErrorAs(t, err, &ue)
		assert.False(t, ue.Timeout())
		assert.ErrorIs(t, err, fetch.ErrDial)
	})
	t.Run("upgrade", func(t *testing.T) {
		server := serveRaw(t, hangs("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))
		req, err := http.NewRequestWithContext(t.Context(), "GET", server, nil)
		require.NoError(t, err)
		req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
		_, err = tidy(t, &fetch.Client{}).RoundTripper().RoundTrip(req)
		assert.ErrorIs(t, err, fetch.ErrProtocol)
		assert.ErrorContains(t, err, "upgrades are not supported")
	})
	t.Run("truncated", func(t *testing.T) {
		server := serveRaw(t, sends("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"))
		_, err := tidy(t, &fetch.Client{}).RoundTripper().RoundTrip(httptest.NewRequest("GET", server, nil))
		assert.ErrorIs(t, err, fetch.ErrTruncated, "before the caller has got a response")
	})
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// The body of a successful request is closed too, before RoundTrip returns.
func TestRoundTripperClosesBody(t *testing.T) {
	server := hopServer(t)
	rt := tidy(t, &fetch.Client{}).RoundTripper()
	body := &countedBody{Reader: strings.NewReader("hello")}
	send(t, rt, "POST", server+"/to", body)
	assert.EqualValues(t, 1, body.closed.Load())
}

// A request whose body blocks ends with its context, or the http.Client's Timeout, and what reads
// the body ends too: else the test would not.
func TestRoundTripperBlockingBody(t *testing.T) {
	const limit = time.Minute
	for name, do := range map[string]func(ctx context.Context, rt http.RoundTripper, req *http.Request) error{
		"canceled": func(ctx context.Context, rt http.RoundTripper, req *http.Request) error {
			ctx, cancel := context.WithCancel(ctx)
			defer time.AfterFunc(limit, cancel).Stop()
			_, err := rt.RoundTrip(req.WithContext(ctx))
			assert.ErrorIs(t, err, fetch.ErrCanceled)
			return err
		},
		"deadline": func(ctx context.Context, rt http.RoundTripper, req *http.Request) error {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			_, err := rt.RoundTrip(req.WithContext(ctx))
			assert.ErrorIs(t, err, fetch.ErrTimeout)
			return err
		},
		"Timeout of the http.Client": func(ctx context.Context, rt http.RoundTripper, req *http.Request) error {
			_, err := (&http.Client{Transport: rt, Timeout: limit}).Do(req.WithContext(ctx))
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pr, pw := io.Pipe()
				go io.WriteString(pw, "some of it")
				begun := time.Now()
				req, err := http.NewRequest("POST", "http://a.test/?"+secret, pr)
				require.NoError(t, err)
				err = do(t.Context(), (&fetch.Client{Dial: noDial(t)}).RoundTripper(), req)
				require.Error(t, err)
				assert.Equal(t, limit, time.Since(begun))
				_, err = pw.Write([]byte("more"))
				assert.ErrorIs(t, err, io.ErrClosedPipe, "the body is closed")
			})
		})
	}
}

// http.Client follows redirects as with its own transport: other hosts get neither its
// Authorization, its cookies nor a Host meant for the first, and the body goes along where the
// status says so.
func TestRoundTripperRedirects(t *testing.T) {
	here, elsewhere := hopServer(t), hopServer(t)
	elsewhere = strings.Replace(elsewhere, "127.0.0.1", "localhost", 1) // http.Client goes by the name
	users := &http.Client{Transport: tidy(t, &fetch.Client{}).RoundTripper()}
	do := func(method, to, body string) arrived {
		req, err := http.NewRequestWithContext(t.Context(), method, to, strings.NewReader(body))
		require.NoError(t, err)
		req.Header = http.Header{"Authorization": {secret}, "Cookie": {"a=" + secret}, "Host": {"internal.test"}, "X-A": {"1"}}
		resp, err := users.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		res := fetch.Result{Body: b}
		var a arrived
		require.NoError(t, res.Decode(&a))
		return a
	}
	for _, c := range []struct {
		name, url, host string
		leaves          bool
	}{
		{"same host", hopTo(here, 307, here+"/to"), here, false},
		{"another host", hopTo(here, 307, elsewhere+"/to"), elsewhere, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := do("PUT", c.url, "hello")
			assert.Equal(t, strings.TrimPrefix(c.host, "http://"), a.Host)
			assert.Equal(t, "PUT hello", a.Method+" "+a.Body)
			assert.Equal(t, []string{"1"}, a.Header["X-A"])
			if c.leaves {
				assert.NotContains(t, a.Header, "Authorization")
				assert.NotContains(t, a.Header, "Cookie")
			} else {
				assert.Equal(t, []string{secret}, a.Header["Authorization"])
				assert.Equal(t, []string{"a=" + secret}, a.Header["Cookie"])
			}
		})
	}
	a := do("POST", hopTo(here, 302, "/to"), "hello")
	assert.Equal(t, "GET ", a.Method+" "+a.Body)
	resp, err := users.Get(hopTo(here, 302, hopTo(here, 302, "/to")))
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, here+"/to", resp.Request.URL.String())
}

// Connections are the Client's: its own requests use them too, and http.Client can close them.
func TestRoundTripperConnections(t *testing.T) {
	server, conns := counted(t, answers([]byte("hello")))
	client := tidy(t, &fetch.Client{})
	users := &http.Client{Transport: client.RoundTripper()}
	for range 3 {
		_, body := send(t, client.RoundTripper(), "GET", server, nil)
		assert.Equal(t, "hello", body)
		require.NoError(t, get(t, client, server).Err)
	}
	assert.EqualValues(t, 1, conns.Load())
	users.CloseIdleConnections()
	require.NoError(t, get(t, client, server).Err)
	assert.EqualValues(t, 2, conns.Load(), "after CloseIdleConnections")
}

// Several goroutines share a RoundTripper, with bodies and without, and each gets its own response.
func TestRoundTripperConcurrent(t *testing.T) {
	server := hopServer(t)
	users := &http.Client{Transport: tidy(t, &fetch.Client{MaxConnsPerHost: 4}).RoundTripper()}
	var running sync.WaitGroup
	for i := range 16 {
		running.Go(func() {
			for j := range 20 {
				method, text := "POST", fmt.Sprint(i, " ", j)
				if j%2 == 0 {
					method, text = "GET", ""
				}
				req, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("%s/%d/%d", server, i, j), strings.NewReader(text))
				if !assert.NoError(t, err) {
					return
				}
				resp, err := users.Do(req)
				if !assert.NoError(t, err) {
					return
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				assert.NoError(t, err)
				res := fetch.Result{Body: b}
				var a arrived
				assert.NoError(t, res.Decode(&a))
				assert.Equal(t, fmt.Sprintf("%s /%d/%d %s", method, i, j, text), a.Method+" "+a.URI+" "+a.Body)
			}
		})
	}
	running.Wait()
}
