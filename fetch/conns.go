package fetch

import (
	"context"
	"net"
	"sync"
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
// A dial that waits cannot hold its request up for nothing: with as many
// connections as requests, and this request without one, some connection is idle or
// about to be, and goes to it; or is closed, and lets it dial.
type dialer struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu    sync.Mutex
	hosts map[origin]*hostConns // those with requests or connections
}

// An origin is the scheme and host of a URL, with the port if it is written.
type origin struct{ scheme, host string }

// hostConns is what a dialer knows of one origin. The dialer's mu guards it.
type hostConns struct {
	origin          origin
	requests, conns int
	changed         chan struct{} // if not nil, closed when one of the numbers lets a dial go on
}

// A hop is the context of one HTTP request. It leads the dialer from the context of
// a dial, which net/http detaches from the request's, back to the request.
type hop struct {
	context.Context                 // of the attempt: it ends with it
	caller          context.Context // the one that the Client was given
	host            *hostConns      // set by enter
}

type hopKey struct{}

func (h *hop) Value(key any) any {
	if key == (hopKey{}) {
		return h
	}
	return h.Context.Value(key)
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
		return d.dial(ctx, network, addr)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := d.reserve(ctx, h); err != nil {
		return nil, err
	}
	defer context.AfterFunc(h.caller, cancel)()
	defer context.AfterFunc(h, func() {
		if h.Err() == context.DeadlineExceeded {
			cancel()
		}
	})()
	host := h.host // and not h, which the connection would keep in memory
	release := sync.OnceFunc(func() { d.release(host) })
	conn, err := d.dial(ctx, network, addr)
	if err != nil {
		release()
		return nil, err
	}
	return &countedConn{Conn: conn, closed: release}, nil
}

// reserve counts a connection in as soon as h's host has more requests than
// connections, unless h ends before.
func (d *dialer) reserve(ctx context.Context, h *hop) error {
	for {
		d.mu.Lock()
		if h.host.conns < h.host.requests {
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

// A countedConn tells its dialer when it is closed.
type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
