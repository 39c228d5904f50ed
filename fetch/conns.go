package fetch

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"fetchbench/fetch/internal/rules"
)

// A dialer keeps a [Client] from opening more connections to a host than it has
// requests under way there.
//
// net/http dials for each request that finds no idle connection, and gives the request
// whichever comes first: the new connection, or one that another request has done with.
// The new one is then left over, so 64 requests at once open 70 or 80 connections. It
// also lets a dial run on when its request was canceled. Here a dial first waits until
// its host has fewer connections than requests; once begun, it ends by itself (if its
// request has been served by then, the connection is kept for the next), when its request
// times out, or when the caller's context is done.
//
// The wait is a courtesy and no lock: as a rule, with as many connections as requests and
// this request without one, some connection is idle or about to be, and comes to it. Where
// that fails (a connection that is stuck, or that net/http thinks fit for some other request
// only) the dial goes on after patience. Connections to a proxy are not counted.
type dialer struct {
	opener      rules.Dialer
	transport   *http.Transport
	closing     atomic.Int32 // calls of closeIdle under way
	multiplexed bool         // connections without TLS carry HTTP/2

	suspects rules.Suspects[origin]

	mu    sync.Mutex
	hosts map[origin]*hostConns // those with requests or connections
}

// patience is how long a dial waits for its turn. A connection that another request is
// waiting for comes, or does not, in the time of a dial or of a quick request.
const patience = 500 * time.Millisecond

// An origin is the scheme and host of a URL, with the port if it is written.
type origin struct{ scheme, host string }

// hostConns is what a dialer knows of one origin. The dialer's mu guards it.
type hostConns struct {
	origin          origin
	requests, conns int
	distrust        atomic.Int64  // until when, in Unix nanoseconds; 0: it was not caught
	changed         chan struct{} // if not nil, closed when one of the numbers lets a dial go on
}

// A hop is the context of one HTTP request. It leads the dialer from the context of
// a dial, which net/http detaches from the request's, back to the request.
type hop struct {
	*attempt
	host  *hostConns   // set by enter
	sent  atomic.Int32 // how often it has sent the request
	over  atomic.Bool  // it has returned
	conn  *guardedConn // that has been sent to last, or nil
	trace httptrace.ClientTrace
}

type hopKey struct{}

// newHop returns the context of a hop of a.
func newHop(a *attempt) context.Context {
	h := &hop{attempt: a}
	h.trace.GetConn = h.getConn
	h.trace.GotConn = h.gotConn
	h.trace.WroteRequest = h.wroteRequest
	h.trace.PutIdleConn = h.putIdleConn
	return httptrace.WithClientTrace(h, &h.trace)
}

// getConn and wroteRequest are told by net/http that it looks for a connection, which may
// take a while, and that it has written the request, perhaps too late to matter.
func (h *hop) getConn(string) {
	h.busy()
}

func (h *hop) wroteRequest(info httptrace.WroteRequestInfo) {
	if info.Err == nil && !h.over.Load() {
		h.listen()
	}
}

func (h *hop) Value(key any) any {
	if key == (hopKey{}) {
		return h
	}
	return h.attempt.Value(key)
}

// enter counts a request to o in. It has to leave again.
func (d *dialer) enter(h *hop, o origin) {
	d.mu.Lock()
	defer d.mu.Unlock()
	host := d.hosts[o]
	if host == nil {
		if d.hosts == nil {
			d.hosts = make(map[origin]*hostConns)
		}
		host = &hostConns{origin: o}
		if until := d.suspects.Until(o); !until.IsZero() {
			host.distrust.Store(until.UnixNano())
		}
		d.hosts[o] = host
	}
	h.host = host
	d.count(host, 1, 0)
}

func (d *dialer) leave(h *hop) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count(h.host, -1, 0)
}

// count adds to h's numbers, with mu held.
func (d *dialer) count(h *hostConns, requests, conns int) {
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

// DialContext is the DialContext of the Client's transport.
func (d *dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	h, ok := ctx.Value(hopKey{}).(*hop)
	if !ok {
		return d.opener.Open(ctx, network, addr)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	release := func() {}
	if addr == rules.Address(h.host.origin.scheme, h.host.origin.host) { // else it is a proxy's
		if err := d.reserve(ctx, h); err != nil {
			return nil, err
		}
		host := h.host // and not h, which the connection would keep in memory
		release = sync.OnceFunc(func() { d.release(host) })
	}
	unwatch := watch(h, cancel)
	conn, err := d.opener.Open(ctx, network, addr)
	unwatch()
	if err != nil {
		release()
		return nil, err
	}
	unwatch = func() {}
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

// reserve counts a connection in as soon as h's host has more requests than
// connections, or patience is at its end, unless h ends before.
func (d *dialer) reserve(ctx context.Context, h *hop) error {
	tired := time.NewTimer(patience)
	defer tired.Stop()
	for patient := true; ; {
		d.mu.Lock()
		if h.host.conns < h.host.requests || !patient && h.host.requests > 0 {
			d.count(h.host, 0, 1)
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

func (d *dialer) release(h *hostConns) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count(h, 0, -1)
}

// A countedConn tells its dialer when it is closed, and is watched until the first byte comes.
type countedConn struct {
	net.Conn
	guarded *guardedConn // the same, or nil
	release func()
	unwatch func()
	heard   atomic.Bool
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard.Load() {
		c.heard.Store(true)
		c.unwatch()
	}
	return n, err
}

func (c *countedConn) Close() error {
	defer c.release()
	c.unwatch()
	return c.Conn.Close()
}
