package fetchtest_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// newClient is a Client that trusts the suite's servers, with what change does to it.
func newClient(change ...func(*fetch.Client)) *fetch.Client {
	c := &fetch.Client{TLS: &tls.Config{RootCAs: fetchtest.Roots()}}
	for _, f := range change {
		f(c)
	}
	return c
}

// newRouted is a Client of newClient for a route.
func newRouted(r fetchtest.Route, change ...func(*fetch.Client)) *fetch.Client {
	return newClient(append(change, func(c *fetch.Client) {
		c.Proxy = func(*url.URL) (*url.URL, error) { return r.Proxy, nil }
		c.Dial = r.Dial
	})...)
}

// newHTTP is an http.Client that does the same by net/http.
func newHTTP(r fetchtest.Route, change ...func(*http.Transport)) *http.Client {
	transport := fetch.NewTransport()
	transport.TLSClientConfig = &tls.Config{RootCAs: fetchtest.Roots()}
	transport.Proxy = http.ProxyURL(r.Proxy)
	if r.Dial != nil {
		transport.DialContext = r.Dial
	}
	for _, f := range change {
		f(transport)
	}
	return &http.Client{Transport: transport}
}

// An engine does requests by a function and keeps the connections of a Client.
type engine struct {
	*fetch.Client
	do func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result
}

func (e engine) Do(ctx context.Context, r *fetch.Request) fetch.Result { return e.do(e.Client, ctx, r) }

// doing returns what makes engines of new Clients.
func doing(do func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result) func() fetch.Doer {
	return func() fetch.Doer { return engine{newClient(), do} }
}

// changed returns what makes Clients that change a result.
func changed(change func(res *fetch.Result)) func() fetch.Doer {
	return doing(func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
		res := c.Do(ctx, r)
		change(&res)
		return res
	})
}

// A naive engine is what everyone writes first.
type naive struct{ *http.Client }

func (n naive) Do(ctx context.Context, r *fetch.Request) (res fetch.Result) {
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return fetch.Result{Err: &fetch.Error{Kind: fetch.ErrBadURL, URL: r.URL}}
	}
	req.Header = r.Header.Clone()
	res.Attempts = 1
	resp, err := n.Client.Do(req)
	if err != nil {
		return fetch.Result{Attempts: 1, Err: err}
	}
	defer resp.Body.Close()
	res.Status = resp.StatusCode
	res.SetHeader(func() http.Header { return resp.Header })
	res.Body, res.Err = io.ReadAll(resp.Body)
	return res
}

func newNaive() fetch.Doer { return naive{newHTTP(fetchtest.Route{})} }

// A careless engine keeps one connection to a host, whatever is left on it.
type careless struct {
	mu    sync.Mutex
	conns map[string]*bufio.ReadWriter
	close []func() error
}

func (c *careless) Do(_ context.Context, r *fetch.Request) (res fetch.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	res.Attempts = 1
	req, err := http.NewRequest(r.Method, r.URL, nil)
	if err != nil {
		return fetch.Result{Err: err}
	}
	conn := c.conns[req.Host]
	if conn == nil {
		tcp, err := net.Dial("tcp", req.Host)
		if err != nil {
			return fetch.Result{Err: err}
		}
		conn = bufio.NewReadWriter(bufio.NewReader(tcp), bufio.NewWriter(tcp))
		c.conns[req.Host] = conn
		c.close = append(c.close, tcp.Close)
	}
	req.Write(conn)
	conn.Flush()
	resp, err := http.ReadResponse(conn.Reader, req)
	if err != nil {
		return fetch.Result{Err: err}
	}
	res.Status = resp.StatusCode
	res.Body, res.Err = io.ReadAll(resp.Body)
	return res
}

func (c *careless) CloseIdleConnections() {
	for _, f := range c.close {
		f()
	}
}

// faithful follows redirects with all that it was given.
func faithful(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
	for {
		res := c.Do(ctx, r)
		from, _ := url.Parse(r.URL)
		to := res.Header().Get("Location")
		if res.Err != nil || to == "" {
			return res
		}
		next := *r
		next.URL = from.ResolveReference(must(url.Parse(to))).String()
		r = &next
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// impatient returns when the context ends, and leaves the request to itself.
func impatient(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
	done := make(chan fetch.Result, 1)
	go func() { done <- c.Do(context.WithoutCancel(ctx), r) }()
	select {
	case res := <-done:
		return res
	case <-ctx.Done():
		kind := fetch.ErrCanceled
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			kind = fetch.ErrTimeout
		}
		return fetch.Result{Attempts: 1, Err: &fetch.Error{Kind: kind, Err: ctx.Err()}}
	}
}

var leftOpen []*os.File

// withHeader performs requests whose header is changed by f.
func withHeader(f func(http.Header)) func() fetch.Doer {
	return doing(func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
		other := *r
		if other.Header = r.Header.Clone(); other.Header == nil {
			other.Header = http.Header{}
		}
		f(other.Header)
		return c.Do(ctx, &other)
	})
}

// A forgetful session cache has none.
type forgetful struct{}

func (forgetful) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (forgetful) Put(string, *tls.ClientSessionState)        {}

// brokenDoers are broken in one way each, with cases that TestDoer has to name.
var brokenDoers = []struct {
	name    string
	newDoer func() fetch.Doer
	cases   []string
}{
	{"is naive", newNaive, []string{
		"plain/connection/good", // it sends the user info
		"plain/connection/refused",
		"plain/framing/body shorter than its length",
		"plain/framing/status line: status 000",
		"plain/framing/HTTP 1.1 without a length",
		"plain/limits/endless by its chunks",
		"plain/redirect/header to another port",
		"plain/redirect/https to http",
		"plain/url/bad: port 0",
		"plain/url/bad: no host",
		"tls/connection/good",
		"tls/framing/HTTP 1.1 without a length",
		"tls/redirect/header to another port",
	}},
	{"is careless about what is left", func() fetch.Doer { return &careless{conns: make(map[string]*bufio.ReadWriter)} }, []string{
		"plain/stray/second answer after a length, in one write",
		"plain/stray/second answer after 204, in two writes",
		"plain/stray/HEAD with a body",
		"plain/stray/answer on an idle connection",
		"plain/stray/answer before the request",
		"plain/stray/under load",
		"plain/connection/closed when it is used again",
	}},
	{"leaves a goroutine", doing(func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
		go func() { <-ctx.Done() }()
		return c.Do(ctx, r)
	}), []string{"plain/connection/good"}},
	{"leaves a file", changed(func(*fetch.Result) { leftOpen = append(leftOpen, must(os.Open(os.DevNull))) }), []string{"plain/connection/good"}},
	{"leaves connections", func() fetch.Doer { return struct{ fetch.Doer }{newClient()} }, []string{"plain/connection/good"}},
	{"leaves requests that are given up", doing(impatient), []string{"plain/connection/silence until the cancel"}},
	{"does not hear of the end", doing(func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
		return c.Do(context.WithoutCancel(ctx), r)
	}), []string{"plain/connection/silence until the deadline"}},
	{"panics", doing(func(*fetch.Client, context.Context, *fetch.Request) fetch.Result { panic("broken") }), []string{"plain/connection/good"}},
	{"does nothing", doing(func(*fetch.Client, context.Context, *fetch.Request) fetch.Result { return fetch.Result{} }), []string{"plain/connection/good", "plain/url/bad: ftp"}},
	{"is content with a part", changed(func(res *fetch.Result) {
		if fetch.KindOf(res.Err) == fetch.ErrTruncated {
			res.Err = nil
		}
	}), []string{"plain/framing/body shorter than its length", "plain/framing/no last chunk", "plain/connection/closed in the body"}},
	{"hands out a part with the error", changed(func(res *fetch.Result) {
		if res.Err != nil {
			res.Body = []byte("hel")
		}
	}), []string{"plain/framing/body shorter than its length"}},
	{"does not tell what is unverified", changed(func(res *fetch.Result) { res.Unverified = false }), []string{
		"plain/framing/HTTP 1.0 without a length", "tls/framing/HTTP 1.0 without a length"}},
	{"tells that all is unverified", changed(func(res *fetch.Result) { res.Unverified = true }), []string{"plain/connection/good"}},
	{"uses a body again", func() fetch.Doer {
		buffer := make([]byte, 1<<20)
		return engine{newClient(), func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
			res := c.Do(ctx, r)
			res.Body = buffer[:copy(buffer, res.Body)]
			return res
		}}
	}, []string{"plain/connection/good"}},
	{"has no limit of the body", func() fetch.Doer { return newClient(func(c *fetch.Client) { c.MaxBody = -1 }) }, []string{
		"plain/limits/a byte more than 10 MiB", "plain/limits/endless by its chunks", "plain/limits/endless until the connection ends"}},
	{"has too low a limit of the body", func() fetch.Doer { return newClient(func(c *fetch.Client) { c.MaxBody = 1 << 20 }) }, []string{"plain/limits/10 MiB"}},
	{"has no limit of the head", func() fetch.Doer {
		return newClient(func(c *fetch.Client) { c.MaxHeaderBytes = -1 })
	}, []string{"plain/limits/10 000 header lines", "plain/limits/endless header lines"}},
	{"does not decode", withHeader(func(h http.Header) { h.Set("Accept-Encoding", "gzip") }), []string{"plain/framing/gzip"}},
	{"trusts everyone", func() fetch.Doer {
		return newClient(func(c *fetch.Client) { c.TLS.InsecureSkipVerify = true })
	}, []string{"plain/connection/certificate of an unknown authority", "plain/connection/certificate for another name", "plain/connection/certificate that has expired"}},
	{"calls all errors the same", changed(func(res *fetch.Result) {
		if res.Err != nil {
			res.Err = &fetch.Error{Kind: fetch.ErrDial}
		}
	}), []string{"plain/connection/no such host", "plain/connection/closed at once", "plain/connection/no TLS there", "plain/url/bad: port 0"}},
	{"says no kind", changed(func(res *fetch.Result) {
		if res.Err != nil {
			res.Err = errors.New("it failed")
		}
	}), []string{"plain/connection/refused"}},
	{"does not say that the deadline has passed", changed(func(res *fetch.Result) {
		if res.Err != nil {
			res.Err = fetch.KindOf(res.Err)
		}
	}), []string{"plain/connection/silence until the deadline", "plain/connection/silence until the cancel"}},
	{"tells secrets", doing(func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
		res := c.Do(ctx, r)
		if res.Err != nil {
			res.Err = fmt.Errorf("%s %v: %w", r.URL, r.Header, res.Err)
		}
		return res
	}), []string{"plain/connection/refused", "plain/connection/closed at once", "plain/url/bad: header value with a line feed"}},
	{"counts requests that it has not sent", changed(func(res *fetch.Result) { res.Attempts = 1 }), []string{"plain/url/bad: port 0"}},
	{"follows too far", func() fetch.Doer { return newClient(func(c *fetch.Client) { c.MaxRedirects = 11 }) }, []string{"plain/redirect/11 redirects"}},
	{"does not follow far enough", func() fetch.Doer { return newClient(func(c *fetch.Client) { c.MaxRedirects = 9 }) }, []string{"plain/redirect/10 redirects"}},
	{"follows with all that it was given", func() fetch.Doer {
		return engine{newClient(func(c *fetch.Client) { c.MaxRedirects = -1 }), faithful}
	}, []string{"plain/redirect/header to another port", "plain/redirect/header to another host", "plain/redirect/header to another origin and back",
		"plain/redirect/302 of a POST", "plain/redirect/Host to another origin", "plain/redirect/https to http"}},
	{"keeps all connections", func() fetch.Doer { return newClient(func(c *fetch.Client) { c.MaxIdleConns = -1 }) }, []string{"plain/hosts/1500 hosts"}},
	{"takes one host for another", mixedUp, []string{"plain/hosts/1500 hosts"}},
	{"does not resume sessions", func() fetch.Doer {
		return newClient(func(c *fetch.Client) { c.TLS.ClientSessionCache = forgetful{} })
	}, []string{"tls/connection/second connection resumes the TLS session"}},
	{"sends the body after the answer", func() fetch.Doer { return fetch.HTTPClient{Client: newHTTP(fetchtest.Route{})} }, []string{
		// so that net/http can keep the connection
		"plain/continue/417 at once", "plain/continue/200 at once", "tls/continue/307 at once"}},
	{"does not wait with the body", withHeader(func(h http.Header) { h.Del("Expect") }), []string{
		"plain/continue/100", "plain/continue/no 100", "plain/continue/silence until the deadline", "tls/continue/100"}},
	{"waits for a 100 for ever", func() fetch.Doer {
		return fetch.HTTPClient{Client: newHTTP(fetchtest.Route{}, func(t *http.Transport) { t.ExpectContinueTimeout = time.Hour })}
	}, []string{"plain/continue/no 100"}},
}

// mixedUp keeps connections to any host for all of them.
func mixedUp() fetch.Doer {
	var mu sync.Mutex
	first := ""
	return newClient(func(c *fetch.Client) {
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, port, _ := net.SplitHostPort(addr)
			mu.Lock()
			if first == "" {
				first = host
			}
			to := net.JoinHostPort(first, port)
			mu.Unlock()
			return new(net.Dialer).DialContext(ctx, network, to)
		}
	})
}

// A routedEngine makes requests by a Client for a route.
type routedEngine struct {
	*fetch.Client
	route fetchtest.Route
	do    func(c *fetch.Client, r *fetch.Request, route fetchtest.Route) *fetch.Request
	after func(res *fetch.Result, route fetchtest.Route)
}

func (e routedEngine) Do(ctx context.Context, r *fetch.Request) fetch.Result {
	if e.do != nil {
		r = e.do(e.Client, r, e.route)
	}
	res := e.Client.Do(ctx, r)
	if e.after != nil {
		e.after(&res, e.route)
	}
	return res
}

// brokenRouted are engines that are broken in one way each, with cases that TestRoutes has to name.
var brokenRouted = []struct {
	name    string
	newDoer func(fetchtest.Route) fetch.Doer
	cases   []string
}{
	{"is naive", func(r fetchtest.Route) fetch.Doer { return naive{newHTTP(r)} }, []string{
		"http/connection/good",
		"http/framing/body shorter than its length",
		"connect/framing/status line: status 000",
		"connect/proxy/407 Proxy Authentication Required",
		"socks/url/bad: port 0",
		"socks/proxy/wrong password",
	}},
	{"knows no proxy", func(r fetchtest.Route) fetch.Doer { return newRouted(fetchtest.Route{Dial: r.Dial}) }, []string{
		"http/proxy/user and password", "connect/proxy/user and password", "socks/proxy/no user",
		"http/proxy/no proxy there", "connect/proxy/wrong password", "http/proxy/closed after the request"}},
	{"does not tell the proxy who it is", func(r fetchtest.Route) fetch.Doer {
		if r.Proxy != nil {
			r.Proxy = &url.URL{Scheme: r.Proxy.Scheme, Host: r.Proxy.Host}
		}
		return newRouted(r)
	}, []string{"http/proxy/user and password", "connect/proxy/odd user and password", "socks/proxy/user and password", "https proxy/connection/good"}},
	{"tells the proxy what is meant for the server", func(r fetchtest.Route) fetch.Doer {
		return fetch.HTTPClient{Client: newHTTP(r, func(t *http.Transport) { t.ProxyConnectHeader = http.Header{"X-Token": {"s3cret"}} })}
	}, []string{"connect/connection/good", "connect by https proxy/connection/good"}},
	{"tells the server what is meant for the proxy", func(r fetchtest.Route) fetch.Doer {
		return routedEngine{Client: newRouted(r), route: r, do: func(_ *fetch.Client, r *fetch.Request, route fetchtest.Route) *fetch.Request {
			other := *r
			other.Header = r.Header.Clone()
			if other.Header == nil {
				other.Header = http.Header{}
			}
			other.Header.Set("Proxy-Authorization", "Basic "+route.Proxy.User.String())
			return &other
		}}
	}, []string{"connect/connection/good"}},
	{"tells the proxy's password", func(r fetchtest.Route) fetch.Doer {
		return routedEngine{Client: newRouted(r), route: r, after: func(res *fetch.Result, route fetchtest.Route) {
			if res.Err != nil && route.Proxy != nil {
				res.Err = fmt.Errorf("by %s: %w", route.Proxy, res.Err)
			}
		}}
	}, []string{"http/proxy/no proxy there", "connect/proxy/502 Bad Gateway", "socks/proxy/no such proxy", "http/proxy/garbage"}},
	{"does not name the proxy", func(r fetchtest.Route) fetch.Doer {
		return fetch.HTTPClient{Client: newHTTP(r, func(t *http.Transport) { t.OnProxyConnectResponse = nil })}
	}, []string{
		"connect/proxy/407 Proxy Authentication Required", "connect/proxy/wrong password", "connect/proxy/CONNECT to where no server is"}},
	{"takes what the proxy answers for the result", func(r fetchtest.Route) fetch.Doer {
		return routedEngine{Client: newRouted(r), route: r, after: func(res *fetch.Result, _ fetchtest.Route) {
			if e, ok := errors.AsType[*fetch.ProxyError](res.Err); ok && e.Status != 0 {
				*res = fetch.Result{Status: http.StatusBadGateway, Attempts: 1}
			}
		}}
	}, []string{"connect/proxy/502 Bad Gateway", "connect/proxy/302 Found", "connect/connection/refused"}},
	{"has no limit of the proxy's head", func(r fetchtest.Route) fetch.Doer {
		return fetch.HTTPClient{Client: newHTTP(r, func(t *http.Transport) { t.MaxResponseHeaderBytes = 1 << 30 })}
	}, []string{"connect/proxy/status line without end", "connect/proxy/header lines without end"}},
	{"does not hear of the end", func(r fetchtest.Route) fetch.Doer {
		return engine{newRouted(r), func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
			return c.Do(context.WithoutCancel(ctx), r)
		}}
	}, []string{"connect/proxy/silence after CONNECT until the cancel"}},
	{"tries one address", func(r fetchtest.Route) fetch.Doer {
		if dial := r.Dial; dial != nil {
			r.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond) // less than it takes to try another
				defer cancel()
				return dial(ctx, network, addr)
			}
		}
		return newRouted(r)
	}, []string{"dial/eyeballs/first address is silent"}},
	{"looks names up by itself", func(r fetchtest.Route) fetch.Doer { return newRouted(fetchtest.Route{Proxy: r.Proxy}) }, []string{
		"dial/eyeballs/first address is silent", "dial/eyeballs/first address refuses"}},
}

// A suite that everything passes is worth nothing: it has to fail for each of these, and name the
// case. (The tests of package fetch run it on an engine that passes.)
func TestTestDoerOfBrokenOnes(t *testing.T) {
	outputs := make([]func() (string, error), len(brokenDoers))
	for i, b := range brokenDoers { // all at once, since most of it is waiting
		outputs[i] = startBroken(t, i, patternOf(b.cases))
	}
	for i, b := range brokenDoers {
		t.Run(b.name, func(t *testing.T) { fails(t, outputs[i], b.cases) })
	}
}

// The same for TestRoutes.
func TestTestRoutesOfBrokenOnes(t *testing.T) {
	outputs := make([]func() (string, error), len(brokenRouted))
	for i, b := range brokenRouted {
		outputs[i] = startBroken(t, len(brokenDoers)+i, patternOf(b.cases))
	}
	for i, b := range brokenRouted {
		t.Run(b.name, func(t *testing.T) { fails(t, outputs[i], b.cases) })
	}
}

// fails checks that the suite has failed for each of the cases.
func fails(t *testing.T, output func() (string, error), cases []string) {
	out, err := output()
	require.Error(t, err, "the suite is content")
	for _, name := range cases {
		failure := "            --- FAIL: TestBrokenDoer/" + strings.ReplaceAll(name, " ", "_") + " ("
		assert.True(t, strings.Contains(out, failure), "expected is %s\n%s", failure, out)
	}
	assert.NotContains(t, out, "test timed out", "it hangs")
}

// An engine that does not trust Roots is spared the cases that need it, if it says why it fails.
func TestTestDoerWithoutTrust(t *testing.T) {
	out, err := startBroken(t, len(brokenDoers)+len(brokenRouted), "/^plain$/^connection$")()
	assert.NoError(t, err, "%s", out)
	assert.Contains(t, out, "--- PASS: TestBrokenDoer/plain/connection/trusted_certificate")
	assert.NotContains(t, out, "TestBrokenDoer/tls")
}

// patternOf is what -run needs for the cases, after the test's name.
func patternOf(cases []string) string {
	var ways, families, names []string
	for _, c := range cases {
		parts := strings.SplitN(strings.ReplaceAll(c, " ", "_"), "/", 3)
		ways, families, names = append(ways, parts[0]), append(families, parts[1]), append(names, parts[2])
	}
	return fmt.Sprintf("/^(%s)$/^(%s)$/^(%s)$", strings.Join(ways, "|"), strings.Join(families, "|"), strings.Join(names, "|"))
}

// startBroken begins to run the suite's cases for the ith engine of TestBrokenDoer, in another
// process.
func startBroken(t *testing.T, i int, pattern string) (wait func() (output string, err error)) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^TestBrokenDoer$"+pattern, "-test.timeout=2m")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", brokenEnv, i))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	return func() (string, error) {
		err := cmd.Wait()
		return out.String(), err
	}
}

// TestBrokenDoer is what startBroken runs.
func TestBrokenDoer(t *testing.T) {
	i, err := strconv.Atoi(os.Getenv(brokenEnv))
	switch {
	case err != nil:
	case i < len(brokenDoers):
		fetchtest.TestDoer(t, brokenDoers[i].newDoer)
	case i < len(brokenDoers)+len(brokenRouted):
		fetchtest.TestRoutes(t, brokenRouted[i-len(brokenDoers)].newDoer)
	default:
		fetchtest.TestDoer(t, func() fetch.Doer { return &fetch.Client{} })
	}
}
