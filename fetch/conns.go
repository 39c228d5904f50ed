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
	hosts map[string]*hostConns // those with requests or connections
}

// hostConns is what a dialer knows of one scheme and host. The dialer's mu guards it.
type hostConns struct {
	name            string
	requests, conns int
	changed         chan struct{} // if not nil, closed when one of the numbers lets a dial go on
}

// An attempt is the context of one request. It leads the dialer from the context
// of a dial, which net/http detaches from the request's, back to the request.
type attempt struct {
	context.Context
	caller context.Context // the one that the Client was given
	host   *hostConns
}

type attemptKey struct{}

func (a *attempt) Value(key any) any {
	if key == (attemptKey{}) {
		return a
	}
	return a.Context.Value(key)
}

// enter counts a request for host in. It has to leave again.
func (d *dialer) enter(ctx, caller context.Context, name string) *attempt {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hosts[name]
	if h == nil {
		if d.hosts == nil {
			d.hosts = make(map[string]*hostConns)
		}
		h = &hostConns{name: name}
		d.hosts[name] = h
	}
	d.count(h, 1, 0)
	return &attempt{Context: ctx, caller: caller, host: h}
}

func (d *dialer) leave(a *attempt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count(a.host, -1, 0)
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
		delete(d.hosts, h.name)
	}
}

// DialContext is the DialContext of the Client's transport.
func (d *dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return d.dial(ctx, network, addr)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := d.reserve(ctx, a); err != nil {
		return nil, err
	}
	defer context.AfterFunc(a.caller, cancel)()
	defer context.AfterFunc(a, func() {
		if a.Err() == context.DeadlineExceeded {
			cancel()
		}
	})()
	conn, err := d.dial(ctx, network, addr)
	if err != nil {
		d.release(a.host)
		return nil, err
	}
	return &countedConn{Conn: conn, closed: sync.OnceFunc(func() { d.release(a.host) })}, nil
}

// reserve counts a connection in as soon as a's host has more requests than
// connections, unless a ends before.
func (d *dialer) reserve(ctx context.Context, a *attempt) error {
	h := a.host
	for {
		d.mu.Lock()
		if h.conns < h.requests {
			d.count(h, 0, 1)
			d.mu.Unlock()
			return nil
		}
		if h.changed == nil {
			h.changed = make(chan struct{})
		}
		changed := h.changed
		d.mu.Unlock()
		select {
		case <-changed:
		case <-a.Done():
			return a.Err()
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
