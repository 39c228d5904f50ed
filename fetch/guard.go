package fetch

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"sync"
	"time"
)

// A guardedConn keeps an answer that nobody asked for from reaching the next request.
//
// A server that sends a second answer after the first, or a body after a 204, leaves
// bytes on the connection. net/http drops a connection on which it finds them while that is
// idle; but if the next request has taken the connection by then, it takes the bytes for
// the answer to that.
//
// What is read from a kept connection is one of these, too, but for the end of that and for what TLS
// has to say. And a kept connection is armed from the moment when a request gets it until its first
// Write: net/http has used up all that it had read, and what there is to read was sent before
// the request. Then the Write is refused, and since nothing of the request has been
// written, net/http sends it on another connection.
//
// An answer that arrives after the Write cannot be told from the right one, even if it was
// sent before (RFC 9112 §9.2). To make that unlikely, an origin that was caught gets a new
// connection for each request for a while. net/http logs what it finds itself
// ("Unsolicited response received on idle HTTP channel"); that cannot be switched off.
type guardedConn struct {
	net.Conn
	peek func() int // returns how many bytes there are to be read, up to some; nil if nobody knows
	d    *dialer

	mu      sync.Mutex
	host    *hostConns // of the request that had it last
	armed   *hop       // of the request that has it, until that is written
	kept    bool       // its last answer was whole, and no other request has it yet
	stray   bool       // there was something to read while it was armed, or kept
	reading bool       // a Read is waiting: what others returned has been used up
	last    int        // bytes that the last Read returned
	closed  bool
	settled chan struct{} // if not nil, closed when reading or closed becomes true
}

var errStray = errors.New("the server sent an answer that it was not asked for")

func (c *guardedConn) Read(b []byte) (int, error) {
	c.settle(&c.reading)
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading, c.last = n == 0, n // after an error there is nothing more to wait for
	switch {
	case n == 0:
	case c.kept && is408(b[:n]):
		c.kept = false // net/http closes it, and there is nothing to suspect
	case c.armed != nil, c.kept && c.host.origin.scheme == "http":
		c.caught()
		return 0, errStray // net/http would log what a kept connection gets
	}
	return n, err
}

func (c *guardedConn) Write(b []byte) (int, error) {
	if c.refuses() {
		return 0, errStray
	}
	return c.Conn.Write(b)
}

// refuses reports whether a Write must not be, and disarms c.
func (c *guardedConn) refuses() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.armed != nil {
		if c.peek != nil {
			if n := c.peek(); n > 0 {
				c.last = n
				c.caught()
			}
		}
		if c.stray {
			c.armed.sent.Add(-1)
		}
		c.armed = nil
	}
	return c.stray
}

func (c *guardedConn) Close() error {
	c.settle(&c.closed)
	c.mu.Lock()
	if c.kept && !c.reading && c.d.closing.Load() == 0 {
		c.caught() // net/http has found something, and does not want to read more
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// settle sets state, which is reading or closed.
func (c *guardedConn) settle(state *bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*state = true
	if c.settled != nil {
		close(c.settled)
		c.settled = nil
	}
}

// own makes c that of h. If it has been kept, it is prepared for the first Write of h's request.
//
// The wait ends: c was kept when the answer before was whole, and what net/http does next
// is to close c, if something is left of what it has read, or to read.
func (c *guardedConn) own(h *hop, reused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for reused && !c.reading && !c.closed {
		if c.settled == nil {
			c.settled = make(chan struct{})
		}
		settled := c.settled
		c.mu.Unlock()
		select {
		case <-settled:
		case <-h.Done():
		}
		c.mu.Lock()
		if h.Err() != nil {
			return // the request will not be written
		}
	}
	c.host, c.kept = h.host, false
	if reused {
		c.armed = h
		c.stray = c.stray || c.closed || h.host.distrusted()
	}
}

// keep says that net/http keeps c for another request.
func (c *guardedConn) keep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = true
}

// caught notes that what was read last, or is there to be, was not asked for, with mu held.
func (c *guardedConn) caught() {
	c.stray = true
	// Over TLS it may be the record that says that the server is about to close.
	if c.host.origin.scheme == "http" || c.last > closeNotify {
		c.d.suspect(c.host)
	}
}

// is408 reports whether b begins like the answer that some servers close an idle connection with.
func is408(b []byte) bool {
	return bytes.HasPrefix(b, []byte("HTTP/1.1 408")) || bytes.HasPrefix(b, []byte("HTTP/1.0 408"))
}

// closeNotify is the size in bytes of an alert in TLS with an AEAD (RFC 8446 §5.2, RFC 5288), at most. An
// answer is larger.
const closeNotify = 5 + 8 + 2 + 16

// suspect makes h's origin be distrusted.
func (d *dialer) suspect(h *hostConns) {
	h.distrust.Store(d.suspects.Add(h.origin).UnixNano())
}

// distrusted reports whether h was suspected of late.
func (h *hostConns) distrusted() bool {
	until := h.distrust.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// gotConn is told by net/http to which connection it is about to write h's request.
func (h *hop) gotConn(info httptrace.GotConnInfo) {
	h.sent.Add(1)
	conn := info.Conn
	for t, ok := conn.(*tls.Conn); ok; t, ok = conn.(*tls.Conn) { // twice, within a proxy's
		if t.ConnectionState().NegotiatedProtocol == "h2" {
			return // its answers bear the number of their request
		}
		conn = t.NetConn()
	}
	if c, ok := conn.(*countedConn); ok && c.guarded != nil {
		h.conn = c.guarded
		h.conn.own(h, info.Reused)
	}
}

// putIdleConn is told by net/http that it keeps the connection of h's request, or why not. That
// comes before the connection is read from again.
func (h *hop) putIdleConn(err error) {
	if err == nil && h.conn != nil {
		h.conn.keep()
	}
}
