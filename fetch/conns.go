package fetch

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"fetchbench/fetch/internal/rules"
)

// A dialer keeps a [Client] from opening more connections to a host than it has requests there.
//
// net/http dials for each request that finds no idle connection, and gives it whichever comes first:
// the new connection, or one that another request has done with. So 64 requests at once open 70 or
// 80. It also lets a dial run on when its request was canceled. Here a dial waits until its host has
// fewer connections than requests; once begun, it ends by itself (if its request has been served by
// then, the connection is kept), when its request times out, or when the caller's context is done.
//
// With as many connections as requests and this request without one, some connection is idle or
// about to be, and comes to it. Where that fails (a connection is stuck, or net/http thinks it fit
// for another request only) the dial goes on after patience. Those to a proxy are not counted.
type dialer struct {
	opener      rules.Dialer
	transport   *http.Transport
	closing     atomic.Int32 // calls of closeIdle under way
	multiplexed bool         // connections without TLS carry HTTP/2
	suspects    rules.Suspects[origin]

	mu    sync.Mutex
	hosts map[origin]*hostConns // those with requests or connections
}

// patience is how long a dial waits for its turn. A connection that another request is waiting for
// comes, or does not, in the time of a dial or of a quick request.
const patience = 500 * time.Millisecond

// An origin is the scheme and host of a URL, with the port if it is written.
type origin struct{ scheme, host string }

// hostConns is what a dialer knows of one origin. The dialer's mu guards it.
type hostConns struct {
	origin          origin
	requests, conns int
	changed         chan struct{} // if not nil, closed when one of the numbers lets a dial go on
}

// A hop is the context of one HTTP request. It leads the dialer from the context of a dial, which
// net/http detaches from the request's, back to the request.
type hop struct {
	*attempt
	host  *hostConns   // set by enter
	sent  atomic.Int32 // how often it has sent the request
	over  atomic.Bool  // it has returned
	conn  *guardedConn // that has been sent to last, or nil
	trace httptrace.ClientTrace
}

type hopKey struct{}

func newHop(a *attempt) context.Context {
	h := &hop{attempt: a}
	h.trace.GetConn = func(string) { h.busy() } // to look for a connection may take a while
	h.trace.GotConn = h.gotConn
	h.trace.WroteRequest = func(info httptrace.WroteRequestInfo) {
		if info.Err == nil && !h.over.Load() { // else it comes too late to matter
			h.listen()
		}
	}
	h.trace.PutIdleConn = h.putIdleConn
	return httptrace.WithClientTrace(h, &h.trace)
}

func (h *hop) Value(key any) any {
	if key == (hopKey{}) {
		return h
	}
	return h.attempt.Value(key)
}

var (
	errProxied = &Error{Kind: ErrAddress, Err: errors.New("the address policy cannot be enforced through a proxy: unset Transport.Proxy or Allow")}
	errDialTLS = &Error{Kind: ErrAddress, Err: errors.New("the address policy cannot be enforced by Transport.DialTLSContext: use DialContext and TLSClientConfig")}
)

// init makes d the dialer of c's transport.
func (d *dialer) init(c *Client) {
	t := c.transport
	d.transport = t
	d.opener = rules.Dialer{Dial: rules.DialTCP, Allow: c.Allow, CloseIdle: d.closeIdle, Patience: rules.Patience(c.limits().Timeout)}
	//lint:ignore SA1019 a caller's transport may have them, and they must not be lost
	dial, dialTLS := t.Dial, t.DialTLS
	switch {
	case t.DialContext != nil:
		d.opener.Dial = t.DialContext
	case dial != nil:
		d.opener.Dial = func(_ context.Context, network, addr string) (net.Conn, error) { return dial(network, addr) }
	}
	t.DialContext = d.DialContext
	d.multiplexed = t.Protocols != nil && t.Protocols.UnencryptedHTTP2() && !t.Protocols.HTTP1()
	if c.Allow != nil && (t.DialTLSContext != nil || dialTLS != nil) {
		refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errDialTLS }
		t.DialContext, t.DialTLSContext = refuse, refuse
	}
}

// closeIdle closes the connections that no request is using. One that is closed just when it has
// been kept looks like one on which something was found.
func (d *dialer) closeIdle() {
	d.closing.Add(1)
	defer d.closing.Add(-1)
	d.transport.CloseIdleConnections()
}

// enter counts a request to o in, which has to be counted out again.
func (d *dialer) enter(h *hop, o origin) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.host = d.hosts[o]; h.host == nil {
		if d.hosts == nil {
			d.hosts = make(map[origin]*hostConns)
		}
		h.host = &hostConns{origin: o}
		d.hosts[o] = h.host
	}
	d.changeLocked(h.host, 1, 0)
}

// change adds to h's numbers.
func (d *dialer) change(h *hostConns, requests, conns int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changeLocked(h, requests, conns)
}

func (d *dialer) changeLocked(h *hostConns, requests, conns int) {
	h.requests += requests
	h.conns += conns
	if h.changed != nil && h.conns < h.requests {
		close(h.changed)
		h.changed = nil
	}
	if h.requests == 0 && h.conns == 0 {
		delete(d.hosts, h.origin)
	}
}

// DialContext is that of the Client's transport.
func (d *dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	h, ok := ctx.Value(hopKey{}).(*hop)
	if !ok {
		return d.opener.Open(ctx, network, addr)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	release, unwatch := func() {}, func() {}
	if addr == rules.Address(h.host.origin.scheme, h.host.origin.host) { // else it is a proxy's
		if err := d.reserve(ctx, h); err != nil {
			return nil, err
		}
		host := h.host // and not h, which the connection would keep in memory
		release = sync.OnceFunc(func() { d.change(host, 0, -1) })
	}
	stop := watch(h, cancel)
	conn, err := d.opener.Open(ctx, network, addr)
	stop()
	if err != nil {
		release()
		return nil, err
	}
	if h.host.origin.scheme == "https" {
		// What net/http does next does not end with its request either: the handshake.
		unwatch = watch(h, func() { conn.Close(); release() })
	}
	counted := &countedConn{Conn: conn, release: release, unwatch: unwatch}
	if h.host.origin.scheme == "https" || !d.multiplexed {
		counted.guarded = &guardedConn{Conn: conn, peek: pending(conn), d: d}
		counted.Conn = counted.guarded
	}
	return counted, nil
}

// watch calls f when h times out or its caller's context is done, unless unwatch is called before.
func watch(h *hop, f func()) (unwatch func()) {
	stopCaller := context.AfterFunc(h.caller, f)
	stopTimeout := context.AfterFunc(h, func() {
		if h.expired() != nil {
			f()
		}
	})
	return func() {
		stopCaller()
		stopTimeout()
	}
}

// reserve counts a connection in as soon as h's host has more requests than connections, or
// patience is at its end, unless h ends before.
func (d *dialer) reserve(ctx context.Context, h *hop) error {
	tired := time.NewTimer(patience)
	defer tired.Stop()
	for patient := true; ; {
		d.mu.Lock()
		if h.host.conns < h.host.requests || !patient && h.host.requests > 0 {
			d.changeLocked(h.host, 0, 1)
			d.mu.Unlock()
			return nil
		}
		if h.host.changed == nil {
			h.host.changed = make(chan struct{})
		}
		changed := h.host.changed
		d.mu.Unlock()
		select {
		case <-changed:
		case <-tired.C:
			patient = false
		case <-h.Done():
			return h.Err()
		case <-ctx.Done(): // CloseIdleConnections
			return ctx.Err()
		}
	}
}

// A countedConn tells its dialer when it is closed, and is watched until the first byte comes.
type countedConn struct {
	net.Conn
	guarded          *guardedConn // the same, or nil
	release, unwatch func()
	heard            atomic.Bool
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard.Swap(true) {
		c.unwatch()
	}
	return n, err
}

func (c *countedConn) Close() error {
	defer c.release()
	c.unwatch()
	return c.Conn.Close()
}
