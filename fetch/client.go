package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"golang.org/x/net/http/httpproxy"

	"fetchbench/fetch/internal/conns"
	"fetchbench/fetch/internal/http1"
	"fetchbench/fetch/internal/rules"
)

// DefaultClient is the [Doer] of a [Fetcher] that has none.
var DefaultClient = &Client{}

// A Client is the default [Doer], and a [BatchDoer]: HTTP/1.1 over TCP or TLS, through the proxies
// that the environment names. The goroutine that calls Do owns the connection meanwhile: it writes
// the request and reads the response itself. A Client asks for gzip and decodes it, unless the
// request has an Accept-Encoding; reads each body to its end; and keeps connections for the next
// request. The zero value is ready. Its methods may be called concurrently; its fields must not
// change, and it must not be copied, after the first call.
//
// It is meant for untrusted servers: what it takes from one is bounded by the limits below, an
// unsolicited response is not taken for that of the next request, and the caller's header fields
// are not forwarded to other origins (scheme, host and port). To keep requests away from the
// machines around you, set AllowAddr. A request that may be sent twice (see [Retry]) is sent again
// if a kept connection proves to be closed; Attempts counts that. One with an Expect: 100-continue
// sends its body when the server asks for it, or after a second. A kept connection holds on to the
// context of its last request.
type Client struct {
	// Timeout bounds one attempt, from its start to the end of the body, redirects and the wait for
	// a connection included. 0 means 30 s; a negative value, no limit but the context's.
	Timeout time.Duration
	// DialTimeout bounds the making of a connection: name resolution, connecting, a proxy's part
	// and the TLS handshake together. 0 means 10 s; a negative value, no limit but Timeout.
	DialTimeout time.Duration
	// StallTimeout is how long a server may be silent: from the end of the request to that of the
	// response's head, and within a body. 0 means 15 s; a negative value, no limit.
	StallTimeout time.Duration
	// MaxHeaderBytes is the size in bytes of the largest response head that is accepted, with
	// informational ones (1xx) before it; a larger one is an [ErrTooLarge]. 0 means 256 KiB; a
	// negative value, no limit.
	MaxHeaderBytes int64
	// MaxBody is the size in bytes of the largest body that is accepted, counted after
	// decompression; a larger one is an [ErrTooLarge]. 0 means 10 MiB; a negative value, no limit.
	MaxBody int64

	// MaxRedirects is how many redirects are followed for one request; one more is an
	// [ErrRedirect]. 0 means 10; a negative value means that none is followed, and the redirect is
	// the result. A redirect to another origin is followed without the caller's header fields, but
	// with the body if the status keeps that: 307 and 308, and 301 and 302 for other methods than
	// POST.
	MaxRedirects int
	// KeepHeaders names the header fields of the caller that other origins get too, such as
	// User-Agent and Accept. By default none; Host is never kept.
	KeepHeaders []string
	// AllowDowngrade allows redirects from https to http. By default they are an [ErrRedirect].
	AllowDowngrade bool
	// SendUserInfo sends the user info of a request's URL as Basic authentication (RFC 7617), if
	// the request has no Authorization. By default it is not sent. That of a Location never is.
	SendUserInfo bool

	// AllowAddr decides which addresses are connected to: it returns nil, or why not, which makes
	// the request fail with an [ErrAddress]. It is called before each connection, also those of
	// redirects, with the address that the name was resolved to, by several goroutines at once.
	// [PublicOnly] is one. By default all addresses are allowed.
	//
	// With an AllowAddr, a request that has a proxy fails, since the policy cannot be enforced
	// through one. With a Dial, it is called after that has connected.
	AllowAddr func(netip.AddrPort) error

	// Proxy returns the URL of the proxy for a request's URL, or nil for none. Its scheme is http,
	// https, socks5 or socks5h (the last two the same: the proxy resolves the name); its user info
	// is sent to the proxy. By default the environment names the proxies, in HTTP_PROXY,
	// HTTPS_PROXY and NO_PROXY; it is read at the first request, and localhost and loopback
	// addresses have none. A proxy's own response to a request for an http URL is the result,
	// whatever its status.
	Proxy func(*url.URL) (*url.URL, error)
	// Dial makes the connections, to a Unix socket for example. It is called with "tcp" and the
	// host (in ASCII) and port of the URL or proxy, and has to return soon after its context is
	// done. By default it is TCP over IPv4 or IPv6. The connections must support deadlines.
	// Unsolicited data cannot be detected on connections that are not [syscall.Conn]s.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is the configuration for https; the Client uses a clone of it. By default it has the
	// system's roots. The Client sets NextProtos; ServerName, to the host, unless it is set; and
	// ClientSessionCache, to one of its own, unless it is set.
	TLS *tls.Config

	// MaxConnsPerHost is how many connections a host, as it is spelled in URLs, may have. Requests
	// that would need more wait for one that becomes free. 0 means no limit.
	MaxConnsPerHost int
	// MaxIdleConns is how many connections are kept that no request is using, to all hosts
	// together; beyond that the least recently used are closed. 0 means 512, or a quarter of the
	// files that the process may open if that is less; a negative value, no limit.
	MaxIdleConns int
	// IdleTimeout is how long a connection is kept that no request is using. 0 means 90 s; a
	// negative value, no limit.
	IdleTimeout time.Duration

	once      sync.Once
	limits    http1.Limits
	maxBody   int64
	redirects rules.Redirects
	proxy     func(*url.URL) (*url.URL, error)
	pool      conns.Pool[*clientConn]
	suspects  rules.Suspects[conns.Route] // that have sent unsolicited responses
	unpiped   rules.Suspects[conns.Route] // that have failed at pipelining
}

// PublicOnly is a [Client.AllowAddr] for programs that fetch URLs which strangers choose: it
// refuses every address that is not of the public Internet. Those are this machine, private and
// link-local networks, multicast, what IANA reserves for documentation, benchmarks and carriers
// (RFC 6890 and its registries), and the metadata services of clouds: 169.254.169.254,
// fd00:ec2::254, 100.100.100.200, 168.63.129.16.
//
// An IPv6 address with an IPv4 one in it is refused if that is (IPv4-mapped, NAT64), or in any case
// (6to4, Teredo). In which form a URL has the address does not matter.
func PublicOnly(addr netip.AddrPort) error { return rules.PublicOnly(addr) }

// Do implements [Doer].
func (c *Client) Do(ctx context.Context, req *Request) Result {
	c.once.Do(c.init)
	x := exchange{client: c, redirects: &c.redirects}
	if x.prepare(ctx, req, time.Now()); x.result.Err == nil {
		x.run()
	}
	return x.result
}

// CloseIdleConnections closes the connections that no request is using.
func (c *Client) CloseIdleConnections() { c.pool.CloseIdle() }

func (c *Client) init() {
	c.limits = http1.Limits{
		Timeout:   cmp.Or(c.Timeout, 30*time.Second),
		Stall:     cmp.Or(c.StallTimeout, 15*time.Second),
		MaxHeader: cmp.Or(c.MaxHeaderBytes, 256<<10),
	}
	c.maxBody = cmp.Or(c.MaxBody, defaultMaxBody)
	c.redirects = rules.Redirects{Max: cmp.Or(c.MaxRedirects, 10), KeepHeaders: c.KeepHeaders, AllowDowngrade: c.AllowDowngrade}
	if c.proxy = c.Proxy; c.proxy == nil {
		c.proxy = conns.ProxiesOf(httpproxy.FromEnvironment())
	}
	const patience = 5 * time.Second // with a lack of files or ports
	dialer := conns.Dialer{
		Dial:      c.Dial,
		Allow:     c.AllowAddr,
		TLS:       c.TLS.Clone(),
		Timeout:   cmp.Or(c.DialTimeout, 10*time.Second),
		Patience:  patience,
		CloseIdle: c.pool.CloseIdle,
	}
	if c.limits.Timeout > 0 {
		dialer.Patience = min(patience, c.limits.Timeout/2)
	}
	if dialer.TLS == nil {
		dialer.TLS = &tls.Config{}
	}
	dialer.TLS.NextProtos = []string{"http/1.1"}
	if dialer.TLS.ClientSessionCache == nil {
		dialer.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(512)
	}
	c.pool.Connect = func(ctx context.Context, r conns.Route) (*clientConn, error) {
		nc, err := dialer.Connect(ctx, r)
		if err != nil {
			return nil, err
		}
		return &clientConn{Conn: http1.New(nc, &c.limits)}, nil
	}
	c.pool.MaxPerRoute = c.MaxConnsPerHost
	c.pool.MaxIdle = cmp.Or(c.MaxIdleConns, conns.MaxIdle(512))
	c.pool.IdleTimeout = cmp.Or(c.IdleTimeout, 90*time.Second)
}

const defaultMaxBody = 10 << 20

// A clientConn is a connection of a Client's.
type clientConn struct {
	*http1.Conn
	info *connInfo // with the protocol of the last response; nil before the first
}

type slot = conns.Slot[*clientConn]

// release takes back the connection of a request, which may be kept if keep is set.
func (c *Client) release(s *slot, keep bool) {
	fit := s.Conn.Release(keep)
	if s.Conn.Stray() {
		c.suspects.Add(s.Route())
	}
	if fit {
		_, last := s.Conn.Times()
		c.pool.Put(s, last)
	} else {
		c.pool.Drop(s)
	}
}

var errProxied = conns.AddressError{Reason: errors.New("the address policy cannot be enforced through a proxy: " +
	"unset AllowAddr, or have Proxy return nil (by default the environment names one)")}

// route returns the way to o, for a request with the URL u, and the proxy on it or nil.
func (c *Client) route(o rules.Origin, u *url.URL) (conns.Route, *url.URL, error) {
	proxy, err := c.proxy(u)
	switch {
	case err != nil && c.Proxy == nil:
		err = conns.ProxyError{Proxy: "from the environment", Err: err}
	case err != nil:
		err = conns.ProxyError{Proxy: "from Client.Proxy", Err: err}
	case proxy != nil && c.AllowAddr != nil:
		err = errProxied
	}
	if err != nil {
		return conns.Route{}, nil, err
	}
	r, err := conns.RouteTo(o, proxy)
	return r, proxy, err
}
