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

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// newClient is a Client that trusts the suite's servers, with what change does to it.
func newClient(change ...func(*fetch.Client)) *fetch.Client {
	transport := fetch.NewTransport()
	transport.TLSClientConfig = &tls.Config{RootCAs: fetchtest.Roots()}
	c := &fetch.Client{Transport: transport}
	for _, f := range change {
		f(c)
	}
	return c
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

func newNaive() fetch.Doer { return naive{&http.Client{Transport: newClient().Transport}} }

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

// brokenDoers are broken in one way each but the first, with cases that TestDoer has to name.
var brokenDoers = []struct {
	name    string
	newDoer func() fetch.Doer
	cases   []string
}{
	{"is naive", newNaive, []string{
		"connection/good", // it sends the user info
		"connection/refused",
		"framing/body shorter than its length",
		"framing/status line: status 000",
		"framing/HTTP 1.1 without a length",
		"limits/endless by its chunks",
		"redirect/header to another port",
		"redirect/https to http",
		"url/bad: port 0",
		"url/bad: no host",
	}},
	{"is careless about what is left", func() fetch.Doer { return &careless{conns: make(map[string]*bufio.ReadWriter)} }, []string{
		"stray/second answer after a length, in one write",
		"stray/second answer after 204, in two writes",
		"stray/HEAD with a body",
		"stray/answer on an idle connection",
		"stray/answer before the request",
		"stray/under load",
		"connection/closed when it is used again",
	}},
	{"leaves a goroutine", doing(func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
		go func() { <-ctx.Done() }()
		return c.Do(ctx, r)
	}), []string{"connection/good"}},
	{"leaves a file", changed(func(*fetch.Result) { leftOpen = append(leftOpen, must(os.Open(os.DevNull))) }), []string{"connection/good"}},
	{"leaves connections", func() fetch.Doer { return struct{ fetch.Doer }{newClient()} }, []string{"connection/good"}},
	{"leaves requests that are given up", doing(impatient), []string{"connection/silence until the cancel"}},
	{"does not hear of the end", doing(func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
		return c.Do(context.WithoutCancel(ctx), r)
	}), []string{"connection/silence until the deadline"}},
	{"panics", doing(func(*fetch.Client, context.Context, *fetch.Request) fetch.Result { panic("broken") }), []string{"connection/good"}},
	{"does nothing", doing(func(*fetch.Client, context.Context, *fetch.Request) fetch.Result { return fetch.Result{} }), []string{"connection/good", "url/bad: ftp"}},
	{"is content with a part", changed(func(res *fetch.Result) {
		if fetch.KindOf(res.Err) == fetch.ErrTruncated {
			res.Err = nil
		}
	}), []string{"framing/body shorter than its length", "framing/no last chunk", "connection/closed in the body"}},
	{"hands out a part with the error", changed(func(res *fetch.Result) {
		if res.Err != nil {
			res.Body = []byte("hel")
		}
	}), []string{"framing/body shorter than its length"}},
	{"does not tell what is unverified", changed(func(res *fetch.Result) { res.Unverified = false }), []string{"framing/HTTP 1.0 without a length"}},
	{"tells that all is unverified", changed(func(res *fetch.Result) { res.Unverified = true }), []string{"connection/good"}},
	{"uses a body again", func() fetch.Doer {
		buffer := make([]byte, 1<<20)
		return engine{newClient(), func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
			res := c.Do(ctx, r)
			res.Body = buffer[:copy(buffer, res.Body)]
			return res
		}}
	}, []string{"connection/good"}},
	{"has no limit of the body", func() fetch.Doer { return newClient(func(c *fetch.Client) { c.MaxBody = -1 }) }, []string{
		"limits/a byte more than 10 MiB", "limits/endless by its chunks", "limits/endless until the connection ends"}},
	{"has too low a limit of the body", func() fetch.Doer { return newClient(func(c *fetch.Client) { c.MaxBody = 1 << 20 }) }, []string{"limits/10 MiB"}},
	{"has no limit of the head", func() fetch.Doer {
		return newClient(func(c *fetch.Client) { c.Transport.MaxResponseHeaderBytes = 1 << 30 })
	}, []string{"limits/10 000 header lines", "limits/endless header lines"}},
	{"does not decode", func() fetch.Doer { return newClient(func(c *fetch.Client) { c.Transport.DisableCompression = true }) }, []string{"framing/gzip", "url/header"}},
	{"trusts everyone", func() fetch.Doer {
		return newClient(func(c *fetch.Client) { c.Transport.TLSClientConfig.InsecureSkipVerify = true })
	}, []string{"connection/certificate of an unknown authority", "connection/certificate for another name", "connection/certificate that has expired"}},
	{"calls all errors the same", changed(func(res *fetch.Result) {
		if res.Err != nil {
			res.Err = &fetch.Error{Kind: fetch.ErrDial}
		}
	}), []string{"connection/no such host", "connection/closed at once", "connection/no TLS there", "url/bad: port 0"}},
	{"says no kind", changed(func(res *fetch.Result) {
		if res.Err != nil {
			res.Err = errors.New("it failed")
		}
	}), []string{"connection/refused"}},
	{"does not say that the deadline has passed", changed(func(res *fetch.Result) {
		if res.Err != nil {
			res.Err = fetch.KindOf(res.Err)
		}
	}), []string{"connection/silence until the deadline", "connection/silence until the cancel"}},
	{"tells secrets", doing(func(c *fetch.Client, ctx context.Context, r *fetch.Request) fetch.Result {
		res := c.Do(ctx, r)
		if res.Err != nil {
			res.Err = fmt.Errorf("%s %v: %w", r.URL, r.Header, res.Err)
		}
		return res
	}), []string{"connection/refused", "connection/closed at once", "url/bad: header value with a line feed"}},
	{"counts requests that it has not sent", changed(func(res *fetch.Result) { res.Attempts = 1 }), []string{"url/bad: port 0"}},
	{"follows too far", func() fetch.Doer { return newClient(func(c *fetch.Client) { c.MaxRedirects = 11 }) }, []string{"redirect/11 redirects"}},
	{"does not follow far enough", func() fetch.Doer { return newClient(func(c *fetch.Client) { c.MaxRedirects = 9 }) }, []string{"redirect/10 redirects"}},
	{"follows with all that it was given", func() fetch.Doer {
		return engine{newClient(func(c *fetch.Client) { c.MaxRedirects = -1 }), faithful}
	}, []string{"redirect/header to another port", "redirect/header to another host", "redirect/header to another origin and back",
		"redirect/302 of a POST", "redirect/Host to another origin", "redirect/https to http"}},
}

// A suite that everything passes is worth nothing: it has to fail for each of these, and name the case.
func TestTestDoerOfBrokenOnes(t *testing.T) {
	outputs := make([]func() (string, error), len(brokenDoers))
	for i, b := range brokenDoers { // all at once, since most of it is waiting
		outputs[i] = startBroken(t, i, b.cases)
	}
	for i, b := range brokenDoers {
		t.Run(b.name, func(t *testing.T) {
			out, err := outputs[i]()
			require.Error(t, err, "the suite is content")
			for _, name := range b.cases {
				failure := "        --- FAIL: TestBrokenDoer/" + strings.ReplaceAll(name, " ", "_") + " ("
				assert.True(t, strings.Contains(out, failure), "expected is %s\n%s", failure, out)
			}
			assert.NotContains(t, out, "test timed out", "it hangs")
		})
	}
}

// An engine that trusts nobody is spared the cases that need it, if it says why it fails.
func TestTestDoerWithoutTrust(t *testing.T) {
	out, err := startBroken(t, len(brokenDoers), []string{"connection/.*"})()
	assert.NoError(t, err, "%s", out)
	assert.Contains(t, out, "--- PASS: TestBrokenDoer/connection/trusted_certificate")
	assert.NotContains(t, out, "good_https")
}

// startBroken begins to run the suite's cases for the ith broken engine, in another process.
func startBroken(t *testing.T, i int, cases []string) (wait func() (output string, err error)) {
	var families, names []string
	for _, c := range cases {
		family, name, _ := strings.Cut(strings.ReplaceAll(c, " ", "_"), "/")
		families, names = append(families, family), append(names, name)
	}
	pattern := fmt.Sprintf("^TestBrokenDoer$/^(%s)$/^(%s)$", strings.Join(families, "|"), strings.Join(names, "|"))
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run="+pattern, "-test.timeout=2m")
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
	default:
		fetchtest.TestDoer(t, func() fetch.Doer { return &fetch.Client{} })
	}
}
