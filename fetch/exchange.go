package fetch

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"fetchbench/fetch/internal/conns"
	"fetchbench/fetch/internal/http1"
	"fetchbench/fetch/internal/rules"
)

// An exchange is what becomes of one of the caller's requests to a [Client]: an HTTP request and
// its response, and again for each redirect.
type exchange struct {
	client    *Client
	redirects *rules.Redirects
	ctx       context.Context
	result    Result
	begun     time.Time
	end       time.Time // of the attempt; zero: none
	over      time.Time // when the last response was complete

	// The HTTP request.
	route conns.Route
	req   http1.Request
	hop   *rules.Hop // the same for redirects; nil for the caller's own until it is needed
	hops  int        // redirects that have been followed

	decoded bool // the response's gzip
	closed  bool // the connection is not kept after it
}

// prepare makes x an exchange for req that begins now, or one with an error.
func (x *exchange) prepare(ctx context.Context, req *Request, now time.Time) {
	x.ctx = ctx
	x.result.Request = req
	if ctx.Err() != nil {
		x.result.Err = contextError(ctx, req)
		return
	}
	x.req = http1.Request{Method: cmp.Or(req.Method, http.MethodGet), Header: req.Header, Body: req.Body}
	o, path, u, err := x.parse(req.URL)
	if err != nil {
		x.result.Err = newError(ErrBadURL, req, err)
		return
	}
	x.result.Attempts = 1
	x.begin(now)
	if err := x.aim(o, path, u); err != nil {
		x.fail(err)
		return
	}
	if req.Header != nil {
		x.req.Host = cmp.Or(req.Header.Get("Host"), x.req.Host)
	}
}

// parse checks the request. u is nil if it was not needed.
func (x *exchange) parse(raw string) (o rules.Origin, path string, u *url.URL, err error) {
	o, path, ok := rules.SplitURL(raw)
	if !ok {
		var user *url.Userinfo
		if u, user, err = rules.ParseURL(raw); err != nil {
			return o, "", nil, err
		}
		o, path = rules.Origin{Scheme: u.Scheme, Host: u.Host}, u.RequestURI()
		if x.client.SendUserInfo && user != nil && x.req.Header.Get("Authorization") == "" {
			x.req.Header = withBasicAuth(x.req.Header, user)
		}
	}
	return o, path, u, rules.CheckRequest(x.req.Method, x.req.Header)
}

// aim has the HTTP request ask for path at o; u is the same as a URL, nil if it has to be parsed.
func (x *exchange) aim(o rules.Origin, path string, u *url.URL) (err error) {
	x.route = conns.Route{Origin: o}
	x.req.Target, x.req.Host, x.req.ProxyAuthorization = path, rules.WithoutZone(o.Host), ""
	if x.client.proxy == nil {
		return nil
	}
	if u == nil {
		if u, err = url.Parse(o.String() + path); err != nil {
			return err // not reached: SplitURL accepts less
		}
	}
	var proxy *url.URL
	if x.route, proxy, err = x.client.route(o, u); err == nil && x.route.Forwards() {
		x.req.Target = o.Scheme + "://" + x.req.Host + path
		x.req.ProxyAuthorization = conns.ProxyAuthorization(proxy)
	}
	return err
}

// begin begins an attempt, or goes on with one after a redirect.
func (x *exchange) begin(now time.Time) {
	if x.hops == 0 {
		x.begun = now
	}
	if timeout := x.client.limits.Timeout; timeout > 0 {
		x.end = now.Add(timeout)
	}
}

// run performs x to its end.
func (x *exchange) run() {
	for again := true; again; {
		var err error
		if again, err = x.perform(); err != nil {
			x.fail(err)
			return
		}
	}
	x.result.Duration = x.over.Sub(x.begun)
}

func (x *exchange) fail(err error) {
	x.result.Duration = time.Since(x.begun)
	x.result.Body = nil
	x.result.Err = NewError(x.ctx, x.result.Request, err)
}

// perform does one HTTP request. again tells that there is a redirect to follow.
func (x *exchange) perform() (again bool, err error) {
	for fresh := false; ; {
		again, repeat, err := x.once(fresh)
		switch {
		case err == http1.ErrStale:
		case repeat:
			fresh = true
			x.result.Attempts++
		default:
			return again, err
		}
	}
}

// once is perform on one connection: a new one if fresh is set. repeat tells that x may be sent
// again after err.
func (x *exchange) once(fresh bool) (again, repeat bool, err error) {
	c := x.client
	s, err := x.connect(fresh || c.suspects.Has(x.route))
	if err != nil {
		return false, false, err
	}
	conn, keep := s.Conn, false
	defer func() { c.release(s, keep) }() // also if a function of the caller's panics
	x.req.Close = c.suspects.Has(x.route) // then the connection is for this one request
	if conn.Reused() && x.req.Close {
		return false, false, http1.ErrStale // it was caught meanwhile
	}
	now := x.begun
	if !conn.Reused() || x.hops > 0 || c.MaxConnsPerHost > 0 {
		now = time.Now() // some time may have passed since
	}
	if err := conn.Acquire(x.ctx, now, x.end); err != nil {
		return false, false, err
	}
	conn.Send(&x.req)
	again, keep, err = x.receive(conn)
	return again, err != nil && conn.Reused() && x.mayRepeat(conn, err), err
}

// connect returns a connection for x, which has to be released: an idle one, unless fresh is set.
func (x *exchange) connect(fresh bool) (*slot, error) {
	pool := &x.client.pool
	if !fresh {
		if s := pool.Idle(x.route); s != nil {
			return s, nil
		}
	}
	ctx := x.ctx
	if !x.end.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, x.end)
		defer cancel()
	}
	s, err := pool.Open(ctx, x.route, fresh)
	if err != nil && ctx.Err() != nil && x.ctx.Err() == nil {
		err = rules.TookTooLong(x.client.limits.Timeout)
	}
	return s, err
}

// mayRepeat reports whether x can be sent again after err, since conn had been closed, or was being
// closed, when it was sent.
func (x *exchange) mayRepeat(conn *clientConn, err error) bool {
	_, limit := errors.AsType[rules.TimeoutError](err)
	return !conn.Heard() && !limit && x.ctx.Err() == nil && (!conn.Sent() || rules.Repeatable(x.req.Method, x.req.Header))
}

// receive reads the response to x from conn. keep tells whether that can serve another request.
func (x *exchange) receive(conn *clientConn) (again, keep bool, err error) {
	resp, err := conn.ReadHead(&x.req)
	if err != nil {
		return false, false, err
	}
	if conn.info == nil || conn.info.proto != resp.Proto {
		info := connInfo{proto: resp.Proto}
		if addr, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			a := addr.AddrPort()
			info.remoteAddr = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		}
		conn.info = &info
	}
	x.result.Status, x.result.conn = resp.Status, conn.info
	if x.hops > 0 {
		x.result.URL = x.hop.URL.String()
	}
	if isRedirect(resp.Status) {
		header := conn.Header(&resp)
		if next, err := x.redirect(header); next != nil || err != nil {
			x.result.header = header
			if conn.Skip(&resp); err == nil {
				err = x.follow(next)
			}
			return err == nil, resp.KeepAlive, err
		}
	}
	x.result.Body, err = conn.ReadBody(&resp, x.client.maxBody)
	x.result.header, x.result.head = resp.Header, resp.Head
	x.result.Unverified = err == nil && resp.Unverified
	x.decoded, x.closed = resp.Decoded, !resp.KeepAlive
	var first time.Time
	first, x.over = conn.Times()
	x.result.FirstByte = first.Sub(x.begun)
	return false, resp.KeepAlive, err
}

func isRedirect(status int) bool { return status >= 301 && status <= 308 }

// redirect returns the request that a response with that header redirects to, nil if it is itself
// the result.
func (x *exchange) redirect(header http.Header) (*rules.Hop, error) {
	if x.hop == nil {
		u, _, err := rules.ParseURL(x.result.Request.URL)
		if err != nil {
			return nil, err // not reached: it was accepted before
		}
		x.hop = &rules.Hop{Method: x.req.Method, URL: u, Host: x.req.Host, Header: x.req.Header, Body: len(x.req.Body) > 0}
	}
	next, err := x.redirects.Next(x.hop, x.hops, x.result.Request.Header, x.result.Status, header)
	if err != nil {
		return nil, &Error{Kind: ErrRedirect, Err: err}
	}
	return next, nil
}

// follow makes next the HTTP request.
func (x *exchange) follow(next *rules.Hop) error {
	x.hop = next
	x.hops++
	x.req.Method, x.req.Header = next.Method, next.Header
	if !next.Body {
		x.req.Body = nil
	}
	u := next.URL
	err := x.aim(rules.Origin{Scheme: u.Scheme, Host: u.Host}, u.RequestURI(), u)
	x.req.Host = rules.WithoutZone(next.Host)
	return err
}

// forget forgets a response.
func (x *exchange) forget() {
	x.result.Status, x.result.Body = 0, nil
	x.result.header, x.result.head = nil, nil
}

// withBasicAuth returns h with user as its Authorization.
func withBasicAuth(h http.Header, user *url.Userinfo) http.Header {
	h = maps.Clone(h)
	if h == nil {
		h = http.Header{}
	}
	h["Authorization"] = []string{rules.BasicAuth(user)}
	return h
}
