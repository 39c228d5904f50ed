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
	"net/url"
	"sync"
	"time"

	"github.com/hashicorp/go-cleanhttp"

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
// unsolicited response is not taken for that of the next request, and the caller's header fields are
// not forwarded to other origins (scheme, host and port). To keep requests away from the machines
// around you, set Allow. A request that may be sent twice (see [Retry]) is sent again by net/http if
// a kept connection proves to be closed; Attempts counts that.
type Client struct {
	// Timeout bounds one attempt, from its start to the end of the body, redirects included. 0 means
	// 30 s; a negative value, no limit but the context's.
	Timeout time.Duration
	// IdleRead is how long a server may be silent: from the end of the request to that of the
	// response's head, and within a body. 0 means 15 s; a negative value, no limit.
	IdleRead time.Duration
	// MaxHead is the size in bytes of the largest response head that is accepted, with informational
	// ones (1xx) before it; a larger one is an [ErrTooLarge] (with HTTP/2, an [ErrProtocol]). 0 means
	// 256 KiB, or what Transport has if that is set; a negative value, no limit.
	MaxHead int64
	// MaxBody is the size in bytes of the largest body that is accepted, counted after decompression;
	// a larger one is an [ErrTooLarge]. 0 means 10 MiB; a negative value, no limit.
	MaxBody int64

	// MaxRedirects is how many redirects are followed for one request; one more is an [ErrRedirect].
	// 0 means 10; a negative value means that none is followed, and the redirect is the result. A
	// redirect to another origin is followed without the caller's header fields, but with the body if
	// the status keeps that: 307 and 308, and 301 and 302 for other methods than POST.
	MaxRedirects int
	// KeepHeaders names the header fields of the caller that other origins get too. By default none;
	// Host is never kept.
	KeepHeaders []string
	// AllowDowngrade allows redirects from https to http. By default they are an [ErrRedirect].
	AllowDowngrade bool
	// UserInfo sends the user info of a request's URL as Basic authentication (RFC 7617), if the
	// request has no Authorization. By default it is not sent. That of a Location never is.
	UserInfo bool

	// Allow decides which addresses are connected to: it returns nil, or why not, which makes the
	// request fail with an [ErrAddress]. It is asked before each connection, also those of redirects,
	// with the address that the name was resolved to, by several goroutines at once. [PublicOnly] is
	// one. By default all addresses are allowed.
	//
	// With an Allow, a request for which Transport has a proxy fails, since the address policy cannot
	// be enforced through a proxy; so does every request if Transport has a DialTLSContext. If it has
	// a DialContext that is not that of [NewTransport], Allow is asked after it has connected.
	Allow func(netip.AddrPort) error

	// Transport makes the connections; the Client uses a clone of it. nil means one of [NewTransport].
	Transport *http.Transport

	once      sync.Once
	transport *http.Transport
	dialer    dialer // transport's
}

// NewTransport returns a transport from go-cleanhttp with its own connections, made fit for
// concurrent fetching: where cleanhttp keeps GOMAXPROCS+1 idle connections to a host, this one keeps
// all, for 90 s. With thousands of hosts that is as many open files: make its IdleConnTimeout a few
// seconds there.
func NewTransport() *http.Transport {
	t := cleanhttp.DefaultPooledTransport()
	t.MaxIdleConns = 0 // no limit
	t.MaxIdleConnsPerHost = maxLimit
	t.DialContext = rules.DialTCP
	return t
}

// Do implements [Doer].
func (c *Client) Do(ctx context.Context, req *Request) Result {
	limits := c.limits()
	a := newAttempt(ctx, limits.Timeout, limits.IdleRead)
	defer a.stop()
	return a.perform(newHop(a), req, c.UserInfo, func(hreq *http.Request, res *Result) (err error) {
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
	c.dialer.closeIdle()
}

// perform checks req, translates it for net/http and returns what exchange makes of it.
func (a *attempt) perform(ctx context.Context, req *Request, userInfo bool, exchange func(*http.Request, *Result) error) Result {
	res := Result{Request: req}
	hreq, err := newHTTPRequest(ctx, req, userInfo)
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
	if expired := a.expired(); expired != nil {
		err = expired
	}
	res.Err = NewError(a.caller, req, err)
	if KindOf(res.Err) == ErrBadURL {
		res.Attempts = 0 // net/http refused it before any I/O
	}
	return res
}

func newHTTPRequest(ctx context.Context, r *Request, userInfo bool) (*http.Request, error) {
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
	hreq := newHopRequest(ctx, &h)
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
func (c *Client) send(a *attempt, hreq *http.Request, res *Result, hops int) (*http.Request, error) {
	h := hreq.Context().Value(hopKey{}).(*hop)
	c.dialer.enter(h, origin{hreq.URL.Scheme, hreq.URL.Host})
	defer c.dialer.change(h.host, -1, 0)
	hreq.Close = c.dialer.suspects.Has(h.host.origin)
	resp, err := c.transport.RoundTrip(hreq)
	for errors.Is(err, errStray) && h.Err() == nil {
		// Nothing has been written, but net/http knows that only if the body was to come later. It
		// has closed the connection, and a new one is not refused, so this comes to an end.
		if hreq.GetBody != nil {
			hreq.Body, _ = hreq.GetBody()
		}
		hreq.Close = true
		resp, err = c.transport.RoundTrip(hreq)
	}
	h.over.Store(true)
	a.listen()
	res.Attempts += max(0, int(h.sent.Load())-1)
	if err == nil {
		err = checkHead(resp)
	} else if kindOf(err) == ErrTooLarge {
		err = fmt.Errorf("%w: see MaxHead", err)
	}
	if err != nil {
		return nil, err
	}
	if n := resp.Header.Get("Content-Length"); resp.StatusCode == http.StatusNoContent && resp.ProtoMajor == 1 && n != "" && n != "0" {
		c.dialer.suspects.Add(h.host.origin) // the body that it announces may follow, though a 204 has none
	}
	next, err := c.redirect(a, hreq, res.Request, resp, hops)
	if next == nil && err == nil {
		return nil, res.receive(a, resp, c.limits().MaxBody)
	}
	res.setHead(resp)
	drain(resp.Body, a)
	return next, err
}

// redirect returns the request that resp, the response to hreq, asks for; nil if resp is itself the
// result; or an error of kind ErrRedirect.
func (c *Client) redirect(a *attempt, hreq *http.Request, req *Request, resp *http.Response, hops int) (*http.Request, error) {
	policy := rules.Redirects{Max: c.limits().MaxRedirects, KeepHeaders: c.KeepHeaders, AllowDowngrade: c.AllowDowngrade}
	hop := rules.Hop{Method: hreq.Method, URL: hreq.URL, Host: hreq.Host, Header: hreq.Header, Body: hreq.Body != nil}
	next, err := policy.Next(&hop, hops, req.Header, resp.StatusCode, resp.Header)
	if err != nil {
		return nil, &Error{Kind: ErrRedirect, Err: err}
	}
	if next == nil {
		return nil, nil
	}
	again := newHopRequest(newHop(a), next)
	again.Response = resp
	if next.Body {
		setBody(again, req.Body)
	}
	return again, nil
}

// newHopRequest returns the request for h, as yet without a body.
func newHopRequest(ctx context.Context, h *rules.Hop) *http.Request {
	hreq := http.Request{Method: h.Method, URL: h.URL, Host: h.Host, Header: h.Header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if hreq.Header == nil {
		hreq.Header = http.Header{}
	}
	return hreq.WithContext(ctx)
}

func (c *Client) init() {
	if c.Transport == nil {
		c.transport = NewTransport()
	} else {
		c.transport = c.Transport.Clone()
		// A transport that has a DialContext does not speak HTTP/2 unless it is told to. Clone has made
		// the original ready: it has this entry if it speaks it.
		if c.Transport.TLSNextProto["h2"] != nil {
			c.transport.ForceAttemptHTTP2 = true
		}
	}
	switch {
	case c.MaxHead < 0:
		c.transport.MaxResponseHeaderBytes = math.MaxInt64 // net/http takes 0 for 10 MiB
	case c.MaxHead > 0:
		c.transport.MaxResponseHeaderBytes = c.MaxHead
	case c.transport.MaxResponseHeaderBytes == 0:
		c.transport.MaxResponseHeaderBytes = c.limits().MaxHead
	}
	// Without this, net/http makes an error of the text of a proxy's response to CONNECT.
	users := c.transport.OnProxyConnectResponse
	c.transport.OnProxyConnectResponse = func(ctx context.Context, proxy *url.URL, req *http.Request, resp *http.Response) (err error) {
		if users != nil {
			err = users(ctx, proxy, req, resp)
		}
		if err == nil && resp.StatusCode != http.StatusOK {
			err = &Error{Kind: ErrDial, Err: fmt.Errorf("the proxy answered CONNECT with status %d", resp.StatusCode)}
		}
		return err
	}
	if proxy := c.transport.Proxy; c.Allow != nil && proxy != nil {
		c.transport.Proxy = func(r *http.Request) (*url.URL, error) {
			u, err := proxy(r)
			if u != nil {
				return nil, errProxied
			}
			return u, err
		}
	}
	c.dialer.init(c)
}

// limits returns the limits that c's fields set.
func (c *Client) limits() rules.Limits {
	return rules.Limits{Timeout: c.Timeout, IdleRead: c.IdleRead, MaxHead: c.MaxHead, MaxBody: c.MaxBody, MaxRedirects: c.MaxRedirects}.OrDefault()
}
