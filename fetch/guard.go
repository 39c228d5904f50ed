package fetch

import (
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
// So a kept connection is armed from the moment when a request gets it until its first
// Write: net/http has used up all that it had read, and what there is to read was sent before
// the request. Then the Write is refused, and since nothing of the request has been
// written, net/http sends it on another connection.
//
// An answer that arrives after the Write cannot be told from the right one, even if it was
// sent before (RFC 9112 §9.2). To make that unlikely, a host that was caught gets a new
// connection for each request, for the time of distrust. net/http logs some of what it finds
// itself ("Unsolicited response received on idle HTTP channel"); that cannot be switched off.
type guardedConn struct {
	net.Conn
	peek func() bool // reports whether there is something to be read; nil if nobody knows

	mu      sync.Mutex
	reading bool // a Read is waiting: what others returned has been used up
	closed  bool
	settled chan struct{} // if not nil, closed when reading or closed becomes true
	armed   *hop          // of the request that has the connection, until it is written
	stray   bool          // there was something to read while it was armed
}

// distrust is how long a host that was caught is thought capable of it, if there are
// requests or connections to it all the time.
const distrust = time.Minute

var errStray = errors.New("the server sent an answer that it was not asked for")

func (c *guardedConn) Read(b []byte) (int, error) {
	c.settle(&c.reading)
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = n == 0 // after an error there is nothing more to wait for
	if n > 0 && c.armed != nil {
		c.caught()
		return 0, errStray
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
		if c.peek != nil && c.peek() {
			c.caught()
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

// arm prepares c for the first Write of h's request.
//
// The wait ends: c has been given to h when the answer before it was whole, and what net/http
// does next is to close c, if something is left of what it has read, or to read.
func (c *guardedConn) arm(h *hop) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.reading && !c.closed {
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
	c.armed = h
	if !c.reading {
		c.caught()
	}
	c.stray = c.stray || h.host.distrusted()
}

// caught notes that there is something to be read before a request is written, with mu held.
func (c *guardedConn) caught() {
	c.stray = true
	// Over TLS it need be no answer: the server says there that it is about to close.
	if h := c.armed.host; h.origin.scheme == "http" {
		h.suspect()
	}
}

// suspect makes h be distrusted.
func (h *hostConns) suspect() { h.distrust.Store(time.Now().Add(distrust).UnixNano()) }

// distrusted reports whether h was suspected of late.
func (h *hostConns) distrusted() bool {
	until := h.distrust.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// gotConn is told by net/http to which connection it is about to write h's request.
func (h *hop) gotConn(info httptrace.GotConnInfo) {
	h.sent.Add(1)
	if !info.Reused {
		return // there was no request before that something could be left of
	}
	conn := info.Conn
	if t, ok := conn.(*tls.Conn); ok {
		if t.ConnectionState().NegotiatedProtocol == "h2" {
			return // its answers bear the number of their request
		}
		conn = t.NetConn()
	}
	if c, ok := conn.(*countedConn); ok && c.guarded != nil {
		c.guarded.arm(h)
	}
}
