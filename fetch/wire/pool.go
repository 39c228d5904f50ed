package wire

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/rules"
)

// A host is one that there are connections to. Its client's mu guards it.
type host struct {
	client  *Client
	origin  rules.Origin
	open    int     // connections, those included that are being made
	idle    []*conn // the last used is the last
	waiting []chan *conn
	proven  atomic.Bool // it has answered on a connection that is kept
}

// get returns a connection for a request to t: an idle one, unless fresh is set, or a new one. It
// has to be given back by put or drop.
func (c *Client) get(ctx context.Context, t *target, end time.Time, fresh bool) (*conn, error) {
	c.mu.Lock()
	h := c.hosts[t.origin]
	if h != nil && len(h.idle) > 0 {
		last := len(h.idle) - 1
		if !fresh {
			conn := h.idle[last]
			h.idle[last] = nil
			h.idle = h.idle[:last]
			c.mu.Unlock()
			return conn, nil
		}
		if h.open == c.MaxConnsPerHost { // one of them has to go for the new one
			old := h.idle[0]
			h.idle = slices.Delete(h.idle, 0, 1)
			c.mu.Unlock()
			old.Close()
			return c.open(ctx, h, t, end)
		}
	}
	if h == nil {
		h = &host{client: c, origin: t.origin.Clone()}
		if c.hosts == nil {
			c.hosts = make(map[rules.Origin]*host)
		}
		c.hosts[h.origin] = h
	}
	if c.MaxConnsPerHost > 0 && h.open >= c.MaxConnsPerHost {
		mine := make(chan *conn, 1)
		h.waiting = append(h.waiting, mine)
		c.mu.Unlock()
		switch conn, err := c.await(ctx, h, mine, end); {
		case err != nil:
			return nil, err
		case conn != nil && !fresh:
			return conn, nil
		case conn != nil:
			conn.Close()
		}
		return c.open(ctx, h, t, end)
	}
	h.open++
	c.mu.Unlock()
	return c.open(ctx, h, t, end)
}

// open makes a connection to h, which counts it already.
func (c *Client) open(ctx context.Context, h *host, t *target, end time.Time) (*conn, error) {
	made := false
	defer func() {
		if !made { // it has failed, or a function of the caller's has panicked
			c.release(h)
		}
	}()
	conn, err := c.connect(ctx, h, t, end)
	made = err == nil
	return conn, err
}

// await waits for what mine brings: a connection, or nil for the right to make one.
func (c *Client) await(ctx context.Context, h *host, mine chan *conn, end time.Time) (*conn, error) {
	var tired <-chan time.Time
	if !end.IsZero() {
		timer := time.NewTimer(time.Until(end))
		defer timer.Stop()
		tired = timer.C
	}
	var err error
	select {
	case conn := <-mine:
		return conn, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-tired:
		err = rules.TookTooLong(c.limits.Timeout)
	}
	c.mu.Lock()
	i := slices.Index(h.waiting, mine)
	if i >= 0 {
		h.waiting = slices.Delete(h.waiting, i, i+1)
	}
	c.mu.Unlock()
	if i < 0 { // it has come after all, for another one
		if conn := <-mine; conn != nil {
			c.keep(conn)
		} else {
			c.release(h)
		}
	}
	return nil, err
}

// connect makes a connection.
func (c *Client) connect(ctx context.Context, h *host, t *target, end time.Time) (*conn, error) {
	begun := ctx
	if !end.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end)
		defer cancel()
	}
	late := func(err error) error {
		if begun.Err() == nil && (ctx.Err() != nil || !end.IsZero() && !time.Now().Before(end)) {
			return rules.TookTooLong(c.limits.Timeout)
		}
		return err
	}
	nc, err := c.dialer.Open(ctx, "tcp", t.origin.Address())
	if err != nil {
		if _, ok := errors.AsType[*net.OpError](err); !ok && rules.LocalLimit(err) == "" {
			if _, refused := errors.AsType[rules.AddressError](err); !refused {
				err = &net.OpError{Op: "dial", Net: "tcp", Err: err} // a Dial of the caller's
			}
		}
		return nil, late(err)
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		nc.Close()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("connections of Dial have to support deadlines: %w", err)}
	}
	conn := newConn(h, nc)
	raw, bare := socketOf(nc)
	if !bare {
		raw, conn.under = nil, raw
	}
	if t.origin.Scheme == "http" {
		conn.raw = raw
		return conn, nil
	}
	ready := false
	defer func() {
		if !ready { // also if a function of the caller's TLS panics
			nc.Close()
		}
	}()
	conn.sock = &socket{Conn: nc, raw: raw}
	config := c.tls.Clone()
	u := url.URL{Host: withoutZone(t.origin.Host)}
	config.ServerName = u.Hostname()
	conn.tls = tls.Client(conn.sock, config)
	handshake, cancel := context.WithTimeout(ctx, rules.Handshake)
	defer cancel()
	if err := conn.tls.HandshakeContext(handshake); err != nil {
		if ctx.Err() == nil && handshake.Err() != nil {
			err = rules.NoHandshake
		}
		return nil, late(err)
	}
	ready = true
	conn.Conn = conn.tls
	return conn, nil
}

// put takes back a connection that is fit for another request, as of now.
func (c *Client) put(conn *conn, now time.Time) {
	conn.idle, conn.kept = now, true
	if cap(conn.buf) > 64<<10 {
		conn.buf = nil
	}
	c.keep(conn)
}

// keep gives conn to a request that waits for it, or keeps it for the next.
func (c *Client) keep(conn *conn) {
	h := conn.host
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(h.waiting) > 0 {
		h.waiting[0] <- conn
		h.waiting = slices.Delete(h.waiting, 0, 1)
		return
	}
	h.idle = append(h.idle, conn)
	if c.sweep == nil && c.IdleTimeout >= 0 {
		c.sweep = time.AfterFunc(c.idleTimeout(), c.closeTired)
	}
}

// drop closes a connection that is of no more use.
func (c *Client) drop(conn *conn) {
	conn.Close()
	c.release(conn.host)
}

// release counts a connection out, or lets a request that waits for one make its own.
func (c *Client) release(h *host) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(h.waiting) > 0 {
		h.waiting[0] <- nil
		h.waiting = slices.Delete(h.waiting, 0, 1)
		return
	}
	h.open--
	c.forget(h)
}

// forget lets go of h if there are no connections to it, with mu held.
func (c *Client) forget(h *host) {
	if h.open == 0 && c.hosts[h.origin] == h {
		delete(c.hosts, h.origin)
	}
}

// closeTired closes the connections that have been idle for too long.
func (c *Client) closeTired() { c.closeIdle(time.Now().Add(-c.idleTimeout())) }

// closeIdle closes the connections that have been idle since before, or all if that is zero.
func (c *Client) closeIdle(before time.Time) {
	var tired []*conn
	c.mu.Lock()
	oldest := time.Time{}
	for _, h := range c.hosts {
		// A connection is at its place in the list by the time it was given back, or nearly so.
		n := 0
		for n < len(h.idle) && (before.IsZero() || !h.idle[n].idle.After(before)) {
			n++
		}
		tired = append(tired, h.idle[:n]...)
		h.idle = slices.Delete(h.idle, 0, n)
		h.open -= n
		if len(h.idle) > 0 && (oldest.IsZero() || h.idle[0].idle.Before(oldest)) {
			oldest = h.idle[0].idle
		}
		c.forget(h)
	}
	if c.sweep != nil {
		c.sweep.Stop()
		c.sweep = nil
	}
	if !oldest.IsZero() {
		c.sweep = time.AfterFunc(max(time.Until(oldest)+c.idleTimeout(), c.idleTimeout()/8), c.closeTired)
	}
	c.mu.Unlock()
	for _, conn := range tired {
		conn.Close()
	}
}

func (c *Client) idleTimeout() time.Duration { return cmp.Or(c.IdleTimeout, 90*time.Second) }

// isProven reports whether the host of an origin has answered on a connection that was kept.
func (c *Client) isProven(origin rules.Origin) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hosts[origin]
	return h != nil && h.proven.Load()
}

var _ fetch.BatchDoer = (*Client)(nil)
