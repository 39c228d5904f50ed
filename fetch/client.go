package fetch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"fetchbench/fetch/internal/nethttp"
	"fetchbench/fetch/internal/rules"
)

// DefaultClient is the [Doer] of a [Fetcher] that has none.
var DefaultClient = &Client{}

// A Client is the default [Doer], over net/http: HTTP/1.1 and HTTP/2, TLS, and the proxy that the
// environment names. It asks for gzip and decodes it, unless the request has an Accept-Encoding;
// reads each body to its end; and keeps connections for the next request. The zero value is ready.
// Its methods may be called concurrently; its fields must not change, and it must not be copied,
// after the first call.
//
// It is meant for untrusted servers: what it takes from one is bounded by the limits below, an
// unsolicited response is not taken for that of the next request, and the caller's header fields
// are not forwarded to other origins (scheme, host and port). To keep requests away from the
// machines around you, set Allow. A request that may be sent twice (see [Retry]) is sent again by
// net/http if a kept connection proves to be closed; Attempts counts that.
type Client struct {
	// Timeout bounds one attempt, from its start to the end of the body, redirects included. 0
	// means 30 s; a negative value, no limit but the context's.
	Timeout time.Duration
	// IdleRead is how long a server may be silent: from the end of the request to that of the
	// response's head, and within a body. 0 means 15 s; a negative value, no limit.
	IdleRead time.Duration
	// MaxHead is the size in bytes of the largest response head that is accepted, with informational
	// ones (1xx) before it; a larger one is an [ErrTooLarge] (with HTTP/2, an [ErrProtocol]). 0 means
	// 256 KiB, or what Transport has if that is set; a negative value, no limit.
	MaxHead int64
	// MaxBody is the size in bytes of the largest body that is accepted, counted after
	// decompression; a larger one is an [ErrTooLarge]. 0 means 10 MiB; a negative value, no limit.
	MaxBody int64

	// MaxRedirects is how many redirects are followed for one request; one more is an [ErrRedirect].
	// 0 means 10; a negative value means that none is followed, and the redirect is the result. A
	// redirect to another origin is followed without the caller's header fields, but with the body if
	// the status keeps that: 307 and 308, and 301 and 302 for other methods than POST.
	MaxRedirects int
	// KeepHeaders names the header fields of the caller that other origins get too. By default
	// none; Host is never kept.
	KeepHeaders []string
	// AllowDowngrade allows redirects from https to http. By default they are an [ErrRedirect].
	AllowDowngrade bool
	// UserInfo sends the user info of a request's URL as Basic authentication (RFC 7617), if the
	// request has no Authorization. By default it is not sent. That of a Location never is.
	UserInfo bool

	// Allow decides which addresses are connected to: it returns nil, or why not, which makes the
	// request fail with an [ErrAddress]. It is asked before each connection, also those of
	// redirects, with the address that the name was resolved to, by several goroutines at once.
	// [PublicOnly] is one. By default all addresses are allowed.
	//
	// With an Allow, a request for which Transport has a proxy fails, since the address policy cannot
	// be enforced through a proxy; so does every request if Transport has a DialTLSContext. If it has
	// a DialContext that is not that of [NewTransport], Allow is asked after it has connected.
	Allow func(netip.AddrPort) error

	// Transport makes the connections; the Client uses a clone of it. nil means one of [NewTransport].
	Transport *http.Transport

	once      sync.Once
	transport *nethttp.Transport
}

// NewTransport returns a transport from go-cleanhttp with its own connections, made fit for
// concurrent fetching: where cleanhttp keeps GOMAXPROCS+1 idle connections to a host, this one
// keeps all, for 90 s. With thousands of hosts that is as many open files: make its IdleConnTimeout
// a few seconds there.
func NewTransport() *http.Transport {
	t := cleanhttp.DefaultPooledTransport()
	t.MaxIdleConns = 0 // no limit
	t.MaxIdleConnsPerHost = maxLimit
	t.DialContext = rules.DialTCP
	return t
}

// PublicOnly is a [Client.Allow] for programs that fetch URLs which strangers choose: it refuses
// every address that is not of the public Internet. Those are this machine, private and link-local
// networks, multicast, what IANA reserves for documentation, benchmarks and carriers (RFC 6890 and
// its registries), and the metadata services of clouds: 169.254.169.254, fd00:ec2::254,
// 100.100.100.200, 168.63.129.16.
//
// An IPv6 address with an IPv4 one in it is refused if that is (IPv4-mapped, NAT64), or in any case
// (6to4, Teredo). In which form a URL has the address does not matter.
func PublicOnly(addr netip.AddrPort) error { return rules.PublicOnly(addr) }

// Do implements [Doer].
func (c *Client) Do(ctx context.Context, req *Request) Result {
	l := c.limits()
	a := nethttp.NewAttempt(ctx, l.Timeout, l.IdleRead)
	defer a.Stop()
	return perform(ctx, a, req, c.UserInfo, func(hreq *http.Request, res *Result) (err error) {
		c.once.Do(c.init)
		for hops := 0; hreq != nil && err == nil; hops++ {
			hreq, err = c.send(a, hreq, res, hops)
		}
		return err
	})
}

// CloseIdleConnections closes the connections that no request is using.
func (c *Client) CloseIdleConnections() {
	c.once.Do(c.init)
	c.transport.CloseIdle()
}

func (c *Client) init() {
	base := c.Transport
	if base == nil {
		base = NewTransport()
	}
	c.transport = nethttp.New(base, nethttp.Options{Allow: c.Allow, Timeout: c.limits().Timeout, MaxHead: c.maxHead(base)})
}

// maxHead returns the limit for a response's head, given the transport that the client is based on.
func (c *Client) maxHead(base *http.Transport) int64 {
	if c.MaxHead < 0 {
		return math.MaxInt64
	}
	return cmp.Or(c.MaxHead, base.MaxResponseHeaderBytes, c.limits().MaxHead)
}

// limits returns the limits that c's fields set.
func (c *Client) limits() rules.Limits {
	return rules.Limits{Timeout: c.Timeout, IdleRead: c.IdleRead, MaxHead: c.MaxHead, MaxBody: c.MaxBody, MaxRedirects: c.MaxRedirects}.OrDefault()
}

// perform checks req, translates it for net/http and returns what exchange makes of it within a,
// whose caller's context is ctx.
func perform(ctx context.Context, a *nethttp.Attempt, req *Request, userInfo bool, exchange func(*http.Request, *Result) error) Result {
	res := Result{Request: req}
	hreq, err := newHTTPRequest(req, userInfo)
	if err != nil {
		res.Err = newError(ErrBadURL, req, err)
		return res
	}
	res.Attempts = 1
	begun := time.Now()
	err = exchange(hreq, &res)
	res.Duration = time.Since(begun)
	if err == nil {
		return res
	}
	res.Err = NewError(ctx, req, cmp.Or(a.Expired(), err))
	if KindOf(res.Err) == ErrBadURL {
		res.Attempts = 0 // net/http refused it before any I/O
	}
	return res
}

func newHTTPRequest(r *Request, userInfo bool) (*http.Request, error) {
	u, user, err := rules.ParseURL(r.URL)
	if err != nil {
		return nil, err
	}
	h := rules.Hop{Method: cmp.Or(r.Method, http.MethodGet), URL: u, Host: u.Host, Header: r.Header}
	if !rules.ValidName(h.Method) {
		return nil, errors.New("invalid method")
	}
	if r.Header != nil {
		if err := rules.CheckHeader(r.Header); err != nil {
			return nil, err
		}
		h.Host = cmp.Or(r.Header.Get("Host"), u.Host)
	}
	hreq := newHopRequest(&h)
	if userInfo && user != nil && hreq.Header.Get("Authorization") == "" {
		hreq.Header = hreq.Header.Clone()
		password, _ := user.Password()
		hreq.SetBasicAuth(user.Username(), password)
	}
	if h.Method != http.MethodGet && hreq.Header["Idempotency-Key"] == nil && rules.Repeatable(h.Method, r.Header) {
		hreq.Header = hreq.Header.Clone()
		hreq.Header["Idempotency-Key"] = []string{} // which is not sent, and has net/http repeat it
	}
	setBody(hreq, r.Body)
	return hreq, nil
}

// setBody makes body that of hreq, in the way that lets a transport send it again.
func setBody(hreq *http.Request, body []byte) {
	if len(body) == 0 {
		return
	}
	hreq.ContentLength = int64(len(body))
	hreq.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	hreq.Body, _ = hreq.GetBody()
}

// send sends hreq and puts the response into res, or returns the request that it redirects to.
func (c *Client) send(a *nethttp.Attempt, hreq *http.Request, res *Result, hops int) (*http.Request, error) {
	resp, sent, err := c.transport.RoundTrip(a, hreq)
	res.Attempts += max(0, sent-1)
	if err != nil {
		if kindOf(err) == ErrTooLarge {
			err = fmt.Errorf("%w: see MaxHead", err)
		}
		return nil, err
	}
	next, err := c.redirect(hreq, res.Request, resp, hops)
	if next == nil && err == nil {
		return nil, res.receive(resp, c.limits().MaxBody)
	}
	res.setHead(resp)
	// After the end of an unwanted body, if that is near, the connection can serve the next request.
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10)
	return next, err
}

// redirect returns the request that resp, the response to hreq, asks for; nil if resp is itself the
// result; or an error of kind ErrRedirect.
func (c *Client) redirect(hreq *http.Request, req *Request, resp *http.Response, hops int) (*http.Request, error) {
	policy := rules.Redirects{Max: c.limits().MaxRedirects, KeepHeaders: c.KeepHeaders, AllowDowngrade: c.AllowDowngrade}
	hop := rules.Hop{Method: hreq.Method, URL: hreq.URL, Host: hreq.Host, Header: hreq.Header, Body: hreq.Body != nil}
	next, err := policy.Next(&hop, hops, req.Header, resp.StatusCode, resp.Header)
	if err != nil {
		return nil, &Error{Kind: ErrRedirect, Err: err}
	}
	if next == nil {
		return nil, nil
	}
	again := newHopRequest(next)
	again.Response = resp
	if next.Body {
		setBody(again, req.Body)
	}
	return again, nil
}

// newHopRequest returns the request for h, as yet without a body.
func newHopRequest(h *rules.Hop) *http.Request {
	hreq := &http.Request{Method: h.Method, URL: h.URL, Host: h.Host, Header: h.Header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if hreq.Header == nil {
		hreq.Header = http.Header{}
	}
	return hreq
}

// receive puts resp into res, and frees its connection for the next request or closes it.
func (res *Result) receive(resp *http.Response, maxBody int64) (err error) {
	defer resp.Body.Close()
	res.setHead(resp)
	res.Body, err = readBody(resp, maxBody)
	// Of a body that it has decoded net/http does not tell whether there was a length; and a gzip
	// stream may go on after its end. crypto/tls accepts an end that is not signed.
	res.Unverified = err == nil && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 &&
		resp.ProtoMajor == 1 && resp.Close && rules.HasBody(resp.Request.Method, resp.StatusCode)
	return err
}

// setHead puts the head of resp into res.
func (res *Result) setHead(resp *http.Response) {
	res.Status, res.header = resp.StatusCode, resp.Header
	if resp.Request.Response != nil { // the redirect that led there
		res.URL = resp.Request.URL.String()
	}
}

// readBody reads resp's body to its end, or a little more than most bytes of it.
func readBody(resp *http.Response, most int64) ([]byte, error) {
	n := resp.ContentLength
	if !rules.HasBody(resp.Request.Method, resp.StatusCode) {
		n = 0 // it is the length of the body that another response would have
	}
	if most >= 0 && n > most {
		return nil, rules.TooLargeError(most)
	}
	if n < 0 || n > rules.TrustedLength {
		return rules.ReadAll(resp.Body, most)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(resp.Body, b); err != nil {
		return nil, err
	}
	if resp.ProtoMajor > 1 {
		// The end of an HTTP/2 stream may come in a frame of its own. To close the body without
		// having seen it would reset the stream.
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	return b, nil
}
