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

// A Client is the default [Doer], over net/http: HTTP/1.1 and HTTP/2, TLS, and
// the proxy that the environment names. It asks for gzip and decodes it, unless the request
// has an Accept-Encoding of its own; reads each body to its end; and keeps connections for
// the next request. The zero value is ready. Its methods may be called concurrently;
// its fields must not change, and it must not be copied, after the first of them.
//
// It is made for servers that nobody vouches for. What it takes from one is bounded by the
// limits below. An answer that a server sends unasked does not become that of the next
// request. What the caller sends to one origin (scheme, host and port), other ones that it
// redirects to do not get. To keep requests away from the machines around you is up
// to you: see Allow.
//
// net/http itself sends a request again, if its method is idempotent, when a kept connection
// proves to be closed; Attempts counts that.
type Client struct {
	// Timeout bounds one attempt from the first moment to the end of the body, redirects
	// included. 0 means 30 s; a negative value means no limit but the context's.
	Timeout time.Duration
	// IdleRead is how long a server may be silent: from the end of the request to that of the
	// answer's head, and in the middle of a body, decoded. 0 means 15 s; a negative value, no limit.
	IdleRead time.Duration
	// MaxHead is the size in bytes of the largest head of an answer that is accepted, informational
	// ones (1xx) before it included; a larger one is an [ErrTooLarge] (or, with HTTP/2, an
	// [ErrProtocol]). 0 means 256 KiB, or what Transport has if that is set; a negative value, no limit.
	MaxHead int64
	// MaxBody is the size in bytes of the largest body that is accepted, counted after
	// decompression; a larger one is an [ErrTooLarge]. 0 means 10 MiB; a negative value, no limit.
	MaxBody int64

	// MaxRedirects is how many redirects are followed for one request; one more is
	// an [ErrRedirect]. 0 means 10; a negative value means that none is followed, and the
	// redirect itself is the result. A redirect to another origin (scheme, host or
	// port) is followed without any of the caller's header fields, but with the body if the
	// status is one that keeps that: 307 and 308, and 301 and 302 for other methods than POST.
	MaxRedirects int
	// KeepHeaders names those of the caller's header fields that other origins get too. By default
	// none; Host is never kept.
	KeepHeaders []string
	// AllowDowngrade allows redirects from https to http. By default they are an [ErrRedirect].
	AllowDowngrade bool
	// UserInfo sends the user info of a request's URL, as Basic authentication (RFC 7617), if the
	// request has no Authorization of its own. By default it is not sent. That of a
	// redirect's Location never is.
	UserInfo bool

	// Allow decides which addresses are connected to: it returns nil, or why not, which makes the
	// request fail with an [ErrAddress]. It is asked with the address that a name has been
	// resolved to, before each connection, so also for redirects; it may be called by several
	// goroutines at once. [PublicOnly] is one. By default all addresses are allowed.
	//
	// With an Allow, a request for which Transport has a proxy fails, since the proxy would connect
	// to what it likes; so does every request if Transport has a DialTLSContext. If it has a
	// DialContext that is not that of [NewTransport], Allow is asked after it has connected.
	Allow func(netip.AddrPort) error

	// Transport makes the connections; the Client uses a clone of it. nil means one of [NewTransport].
	Transport *http.Transport

	once      sync.Once
	transport *http.Transport
	dialer    dialer       // transport's
	http      *http.Client // instead of transport, if not nil: see HTTP
}

// NewTransport returns a transport from go-cleanhttp with its own connections, made
// fit for concurrent fetching: where cleanhttp keeps GOMAXPROCS+1 idle connections to
// a host and throws further ones away, this one keeps all, for 90 s. With thousands of hosts that is as many
// open files: make its IdleConnTimeout a few seconds there.
func NewTransport() *http.Transport {
	t := cleanhttp.DefaultPooledTransport()
	t.MaxIdleConns = 0 // no limit
	t.MaxIdleConnsPerHost = maxLimit
	t.DialContext = rules.DialTCP
	return t
}

// HTTP returns a [Doer] that performs requests by c.Do, with c's transport, cookies,
// redirect policy and timeout; nil means [http.DefaultClient]. Of the fields of
// the [Client] that it returns, Timeout (none, unless set) and MaxBody apply: it is as safe
// as c is, and no safer. With an Allow, every request fails.
//
// A transport that nobody tuned throws most connections away: see [NewTransport].
func HTTP(c *http.Client) *Client {
	if c == nil {
		c = http.DefaultClient
	}
	return &Client{Timeout: -1, IdleRead: -1, http: c}
}

// Do implements [Doer].
func (c *Client) Do(ctx context.Context, req *Request) Result {
	res := Result{Request: req}
	limits := c.limits()
	a := newAttempt(ctx, limits.Timeout, limits.IdleRead)
	defer a.stop()
	hreq, err := c.newHTTPRequest(a, req)
	if err != nil {
		res.Err = newError(ErrBadURL, req, err)
		return res
	}
	res.Attempts = 1
	begun := time.Now()
	err = c.exchange(a, hreq, &res)
	res.Duration = time.Since(begun)
	if err == nil {
		return res
	}
	if expired := a.expired(); expired != nil {
		err = expired
	}
	res.Err = NewError(ctx, req, err)
	if KindOf(res.Err) == ErrBadURL {
		res.Attempts = 0 // net/http refused it before any I/O
	}
	return res
}

// CloseIdleConnections closes the connections that no request is using.
func (c *Client) CloseIdleConnections() {
	if c.http != nil {
		c.http.CloseIdleConnections()
		return
	}
	c.once.Do(c.init)
	c.dialer.closeIdle()
}

// newHTTPRequest checks r and translates it.
func (c *Client) newHTTPRequest(a *attempt, r *Request) (*http.Request, error) {
	ctx := context.Context(a)
	if c.http == nil {
		ctx = newHop(a)
	}
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
	if c.http != nil {
		hreq.Header = hreq.Header.Clone() // its cookie jar writes to it
	} else if c.UserInfo && user != nil && hreq.Header.Get("Authorization") == "" {
		hreq.Header = hreq.Header.Clone()
		password, _ := user.Password()
		hreq.SetBasicAuth(user.Username(), password)
	}
	setBody(hreq, r.Body)
	return hreq, nil
}

// setBody makes body the one of hreq, in the way that lets a transport send it again.
func setBody(hreq *http.Request, body []byte) {
	if len(body) == 0 {
		return
	}
	hreq.ContentLength = int64(len(body))
	hreq.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	hreq.Body, _ = hreq.GetBody()
}

// exchange sends hreq and follows redirects, and puts the answer into res.
func (c *Client) exchange(a *attempt, hreq *http.Request, res *Result) error {
	if c.http != nil {
		if c.Allow != nil { // rather than a hole in the fence
			return errNotAsked
		}
		resp, err := c.http.Do(hreq)
		if err != nil && resp != nil { // only if its redirect policy refused
			res.Status, res.header = resp.StatusCode, resp.Header
			return &Error{Kind: ErrRedirect, Err: errors.Unwrap(err)}
		}
		if err == nil {
			err = checkHead(resp)
		}
		if err != nil {
			return err
		}
		return c.receive(a, resp, res)
	}
	c.once.Do(c.init)
	for hops := 0; hreq != nil; hops++ {
		next, err := c.send(a, hreq, res, hops)
		if err != nil {
			return err
		}
		hreq = next
	}
	return nil
}

// send sends hreq and puts the answer into res, or returns the request that it redirects to.
func (c *Client) send(a *attempt, hreq *http.Request, res *Result, hops int) (*http.Request, error) {
	h := hreq.Context().Value(hopKey{}).(*hop)
	c.dialer.enter(h, origin{hreq.URL.Scheme, hreq.URL.Host})
	defer c.dialer.leave(h)
	hreq.Close = h.host.distrusted()
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
	if again := h.sent.Load() - 1; again > 0 {
		res.Attempts += int(again)
	}
	if err == nil {
		err = checkHead(resp)
	}
	if err != nil {
		return nil, err
	}
	if n := resp.Header.Get("Content-Length"); resp.StatusCode == http.StatusNoContent && resp.ProtoMajor == 1 && n != "" && n != "0" {
		c.dialer.suspect(h.host) // the body that it announces may follow, though a 204 has none
	}
	next, err := c.redirect(a, hreq, res.Request, resp, hops)
	if next == nil && err == nil {
		return nil, c.receive(a, resp, res)
	}
	res.Status, res.header = resp.StatusCode, resp.Header
	drain(resp.Body, a)
	return next, err
}

func (c *Client) init() {
	if c.Transport == nil {
		c.transport = NewTransport()
	} else {
		c.transport = c.Transport.Clone()
		// A transport that has a DialContext does not speak HTTP/2 unless it is told to.
		// Clone has made the original ready: it has this entry if it speaks it.
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
	c.transport.OnProxyConnectResponse = connected(c.transport.OnProxyConnectResponse)
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

type connectFunc = func(ctx context.Context, proxy *url.URL, req *http.Request, resp *http.Response) error

// connected returns what is called with a proxy's answer to CONNECT, after users if that is not
// nil. net/http would make of the proxy's text an error.
func connected(users connectFunc) connectFunc {
	return func(ctx context.Context, proxy *url.URL, req *http.Request, resp *http.Response) error {
		if users != nil {
			if err := users(ctx, proxy, req, resp); err != nil {
				return err
			}
		}
		if resp.StatusCode != http.StatusOK {
			return &Error{Kind: ErrDial, Err: fmt.Errorf("the proxy answered CONNECT with status %d", resp.StatusCode)}
		}
		return nil
	}
}

// limits returns the limits that c's fields set.
func (c *Client) limits() rules.Limits {
	return rules.Limits{Timeout: c.Timeout, IdleRead: c.IdleRead, MaxHead: c.MaxHead, MaxBody: c.MaxBody, MaxRedirects: c.MaxRedirects}.OrDefault()
}
