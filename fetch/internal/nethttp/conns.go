package nethttp

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"fetchbench/fetch/internal/rules"
)

// patience is how long a dial waits for its turn. A connection that another request is waiting for
// comes, or does not, in the time of a dial or of a quick request.
const patience = 500 * time.Millisecond

// A host counts what there is of one origin. The Transport's mu guards it.
type host struct {
	origin          rules.Origin
	requests, conns int
	changed         chan struct{} // if not nil, closed when one of the numbers lets a dial go on
}

// Hosts returns how many hosts there are with requests or connections.
func (t *Transport) Hosts() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.hosts)
}

// enter counts a request to o in, which has to be counted out again, and returns o's host.
func (t *Transport) enter(o rules.Origin) *host {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hosts[o]
	if h == nil {
		h = &host{origin: o.Clone()}
		t.hosts[h.origin] = h
	}
	t.changeLocked(h, 1, 0)
	return h
}

// change adds to h's numbers.
func (t *Transport) change(h *host, requests, conns int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changeLocked(h, requests, conns)
}

func (t *Transport) changeLocked(h *host, requests, conns int) {
	h.requests += requests
	h.conns += conns
	if h.changed != nil && h.conns < h.requests {
		close(h.changed)
		h.changed = nil
	}
	if h.requests == 0 && h.conns == 0 {
		delete(t.hosts, h.origin)
	}
}

// dial is the DialContext of the http.Transport. It keeps that from opening more connections to a
// host than there are requests to it.
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
func (t *Transport) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	x, ok := ctx.Value(exchangeKey{}).(*exchange)
	if !ok {
		return t.opener.Open(ctx, network, addr)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	release, unwatch := func() {}, func() {}
	h := x.host
	if addr == h.origin.Address() { // else it is a proxy's
		if err := t.reserve(ctx, x); err != nil {
			return nil, err
		}
		// Of h and not of x, which the connection would keep in memory.
		release = sync.OnceFunc(func() { t.change(h, 0, -1) })
	}
	stop := watch(x, cancel)
	conn, err := t.opener.Open(ctx, network, addr)
	stop()
	if err != nil {
		release()
		return nil, err
	}
	if h.origin.Scheme == "https" {
		// What net/http does next does not end with its request either: the handshake.
		unwatch = watch(x, func() { conn.Close(); release() })
	}
	counted := &countedConn{Conn: conn, release: release, unwatch: unwatch}
	if h.origin.Scheme == "https" || !t.multiplexed {
		counted.guarded = &guardedConn{Conn: conn, peek: pending(conn), t: t}
		counted.Conn = counted.guarded
	}
	return counted, nil
}

// watch calls f when x times out or its caller's context is done, unless unwatch is called before.
func watch(x *exchange, f func()) (unwatch func()) {
	stopCaller := context.AfterFunc(x.caller, f)
	stopTimeout := context.AfterFunc(x, func() {
		if x.Expired() != nil {
			f()
		}
	})
	return func() {
		stopCaller()
		stopTimeout()
	}
}

// reserve counts a connection in as soon as x's host has more requests than connections, or
// patience is at its end, unless x ends before.
func (t *Transport) reserve(ctx context.Context, x *exchange) error {
	h := x.host
	tired := time.NewTimer(patience)
	defer tired.Stop()
	for patient := true; ; {
		t.mu.Lock()
		if h.conns < h.requests || !patient && h.requests > 0 {
			t.changeLocked(h, 0, 1)
			t.mu.Unlock()
			return nil
		}
		if h.changed == nil {
			h.changed = make(chan struct{})
		}
		changed := h.changed
		t.mu.Unlock()
		select {
		case <-changed:
		case <-tired.C:
			patient = false
		case <-x.Done():
			return x.Err()
		case <-ctx.Done(): // CloseIdleConnections
			return ctx.Err()
		}
	}
}

// A countedConn tells its Transport when it is closed, and is watched until the first byte comes.
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
