// Package wire is the fast engine for package fetch: a [fetch.Doer] that speaks HTTP/1.1 and
// nothing else. Its [Client] does what a [fetch.Client] does, by the same rules, for a half of its
// processor time or less:
//
//	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 64}, Doer: &wire.Client{}}
//
// The goroutine that asks owns the connection meanwhile: it writes the request and
// reads the answer on it itself, where net/http hands both to others. With a [fetch.Pipeline],
// requests to one host share a write:
//
//	f := fetch.Fetcher{Strategy: fetch.Pipeline{Limit: 1024, Depth: 16}, Doer: &wire.Client{}}
//
// What it does not have is HTTP/2 and proxies. For these there is [fetch.Client].
package wire

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"time"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/rules"
)

// A Client is a [fetch.BatchDoer] for HTTP/1.1 over TCP or TLS. It asks for gzip and decodes it,
// unless the request has an Accept-Encoding of its own; reads each body to its end; and keeps
// connections for the next request. The zero value is ready. Its methods may be called
// concurrently; its fields must not change, and it must not be copied, after the first of them.
//
// It is as careful with servers as a [fetch.Client] is; the fields that they share mean the same. A
// request that may be sent twice (see [fetch.Retry]) is sent again if a kept connection proves to
// be closed; Attempts counts that. It does not speak HTTP/2, nor CONNECT, and it does not look for
// a proxy: not in the environment either. Names of hosts that are not ASCII have to be written in
// Punycode. A connection that is kept holds on to the context of its last request.
type Client struct {
	// Timeout bounds one attempt from the first moment to the end of the body, redirects and the
	// wait for a connection included. 0 means 30 s; a negative value means no limit but the
	// context's.
	Timeout time.Duration
	// IdleRead is how long a server may be silent: from the end of the request to that of the
	// answer's head, and in the middle of a body. 0 means 15 s; a negative value, no limit.
	IdleRead time.Duration
	// MaxHead is the size in bytes of the largest head of an answer that is accepted, informational
	// ones (1xx) before it included; a larger one is a [fetch.ErrTooLarge]. 0 means 256 KiB; a
	// negative value, no limit.
	MaxHead int64
	// MaxBody is the size in bytes of the largest body that is accepted, counted after
	// decompression; a larger one is a [fetch.ErrTooLarge]. 0 means 10 MiB; a negative value, no
	// limit.
	MaxBody int64

	// MaxRedirects is how many redirects are followed for one request; one more is
	// a [fetch.ErrRedirect]. 0 means 10; a negative value means that none is followed, and the
	// redirect itself is the result. A redirect to another origin (scheme, host or
	// port) is followed without any of the caller's header fields, but with the body if the
	// status is one that keeps that: 307 and 308, and 301 and 302 for other methods than POST.
	MaxRedirects int
	// KeepHeaders names those of the caller's header fields that other origins get too. By default
	// none; Host is never kept.
	KeepHeaders []string
	// AllowDowngrade allows redirects from https to http. By default they are a
	// [fetch.ErrRedirect].
	AllowDowngrade bool
	// UserInfo sends the user info of a request's URL, as Basic authentication (RFC 7617), if the
	// request has no Authorization of its own. By default it is not sent. That of a
	// redirect's Location never is.
	UserInfo bool

	// Allow decides which addresses are connected to: it returns nil, or why not, which makes the
	// request fail with a [fetch.ErrAddress]. It is asked with the address that a name has been
	// resolved to, before each connection, so also for redirects; it may be called by several
	// goroutines at once. [fetch.PublicOnly] is one. By default all addresses are allowed. If
	// there is a Dial, Allow is asked after that has connected.
	Allow func(netip.AddrPort) error

	// Dial makes the connections, to a Unix socket for example; it is called with "tcp" and the
	// URL's host and port, and has to return soon after its context is done. nil means TCP over
	// IPv4 or IPv6. The connections have to support deadlines. Unsolicited data cannot be detected
	// on connections that are not [syscall.Conn]s.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is the configuration for https; the Client uses a clone of it. nil means the system's
	// certificates. ServerName and NextProtos are set by the Client.
	TLS *tls.Config

	// MaxConnsPerHost is how many connections a host (of a URL, as it is written) may have.
	// Requests that would need more wait for one that becomes free. 0 means no limit.
	MaxConnsPerHost int
	// IdleTimeout is how long a connection is kept that no request uses. 0 means 90 s; a negative
	// value, until CloseIdleConnections. With thousands of hosts that is as many open files: make
	// it a few seconds there.
	IdleTimeout time.Duration

	once      sync.Once
	limits    rules.Limits
	redirects rules.Redirects
	dialer    rules.Dialer
	tls       *tls.Config
	suspects  rules.Suspects  // hosts that have sent unsolicited responses
	unpiped   *rules.Suspects // hosts that do not get on with pipelining

	mu    sync.Mutex
	hosts map[rules.Origin]*host // those with connections
	sweep *time.Timer            // closes connections that have been idle for too long; nil if there are none
}

// Do implements [fetch.Doer].
func (c *Client) Do(ctx context.Context, req *fetch.Request) fetch.Result {
	c.once.Do(c.init)
	var x exchange
	if x.prepare(c, ctx, req, time.Now()); x.result.Err == nil {
		x.run()
	}
	return x.result
}

// CloseIdleConnections closes the connections that no request is using.
func (c *Client) CloseIdleConnections() {
	c.closeIdle(time.Time{})
}

func (c *Client) init() {
	c.limits = rules.Limits{Timeout: c.Timeout, IdleRead: c.IdleRead, MaxHead: c.MaxHead, MaxBody: c.MaxBody, MaxRedirects: c.MaxRedirects}.OrDefault()
	c.redirects = rules.Redirects{Max: c.limits.MaxRedirects, KeepHeaders: c.KeepHeaders, AllowDowngrade: c.AllowDowngrade}
	c.dialer = rules.Dialer{Dial: c.Dial, Allow: c.Allow, CloseIdle: c.CloseIdleConnections, Patience: rules.Patience(c.limits.Timeout)}
	if c.Dial == nil {
		c.dialer.Dial = rules.DialTCP
	}
	c.tls = c.TLS.Clone()
	if c.tls == nil {
		c.tls = &tls.Config{}
	}
	c.unpiped = new(rules.Suspects)
	c.tls.NextProtos = []string{"http/1.1"}
}
