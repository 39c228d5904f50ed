package nethttp

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"sync"
	"syscall"

	"fetchbench/fetch/internal/rules"
)

// A guardedConn keeps an unsolicited response from reaching the next request. A server that sends a
// second response after the first, or a body after a 204, leaves bytes on the connection. net/http
// drops a connection on which it finds them while that is idle; but if the next request has taken
// it by then, they pass for the response to that.
//
// What is read from a kept connection is unsolicited, but for its end and for what TLS has to say.
// And a kept connection is armed from the moment when a request gets it until its first Write:
// net/http has used up all that it had read, so what there is to read was sent before the request.
// Then the Write is refused, and net/http sends the request on another connection.
//
// What arrives after the Write cannot be told from the right response (RFC 9112 §9.2). To make that
// unlikely, an origin that was caught gets a new connection for each request for a while.
type guardedConn struct {
	net.Conn
	peek func() int // returns how many bytes there are to be read, up to some
	t    *Transport

	mu      sync.Mutex
	host    *host     // of the request that had it last
	armed   *exchange // of the request that has it, until that is written
	kept    bool      // its last response was complete, and no other request has it yet
	stray   bool      // there was something to read while it was armed, or kept
	reading bool      // a Read is waiting: what others returned has been used up
	last    int       // bytes that the last Read returned
	closed  bool
	settled chan struct{} // if not nil, closed when reading or closed becomes true
}

var errStray = errors.New("the server sent an unsolicited response")

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
	case c.armed != nil, c.kept && c.host.origin.Scheme == "http":
		c.caughtLocked()
		return 0, errStray // net/http would log what a kept connection gets
	}
	return n, err
}

// is408 reports whether b begins like what some servers close an idle connection with.
func is408(b []byte) bool {
	return bytes.HasPrefix(b, []byte("HTTP/1.1 408")) || bytes.HasPrefix(b, []byte("HTTP/1.0 408"))
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
		if n := c.peek(); n > 0 {
			c.last = n
			c.caughtLocked()
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
	if c.kept && !c.reading && c.t.closing.Load() == 0 {
		c.caughtLocked() // net/http has found something, and does not want to read more
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

// own makes c that of x. If it has been kept, it is prepared for the first Write of x's request.
//
// The wait ends: c was kept when the response before was complete, and what net/http does next is
// to close c, if something is left of what it has read, or to read.
func (c *guardedConn) own(x *exchange, reused bool) {
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
		case <-x.Done():
		}
		c.mu.Lock()
		if x.Err() != nil {
			return // the request will not be written
		}
	}
	c.host, c.kept = x.host, false
	if reused {
		c.armed = x
		c.stray = c.stray || c.closed || c.t.suspects.Has(x.host.origin)
	}
}

// caughtLocked notes that what was read last, or is there to be, is unsolicited.
func (c *guardedConn) caughtLocked() {
	c.stray = true
	// Over TLS it may be the record that says that the server is about to close: an alert with an
	// AEAD (RFC 8446 §5.2, RFC 5288), which is smaller than any response.
	if c.host.origin.Scheme == "http" || c.last > 5+8+2+16 {
		c.t.suspects.Add(c.host.origin)
	}
}

// gotConn is told by net/http to which connection it is about to write x's request.
func (x *exchange) gotConn(info httptrace.GotConnInfo) {
	x.sent.Add(1)
	conn := info.Conn
	for t, ok := conn.(*tls.Conn); ok; t, ok = conn.(*tls.Conn) { // twice, within a proxy's
		if t.ConnectionState().NegotiatedProtocol == "h2" {
			return // its responses bear the number of their request
		}
		conn = t.NetConn()
	}
	if c, ok := conn.(*countedConn); ok && c.guarded != nil {
		x.conn = c.guarded
		x.conn.own(x, info.Reused)
	}
}

// putIdleConn is told by net/http that it keeps the connection of x's request, or why not. That
// comes before the connection is read from again.
func (x *exchange) putIdleConn(err error) {
	if c := x.conn; err == nil && c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.kept = true
	}
}

// pending returns a function that tells how many bytes the system has for c to read, up to 64. If c
// is no socket, only those bytes are seen that net/http's reader gets in time.
func pending(c net.Conn) func() int {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return func() int { return 0 }
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return func() int { return 0 }
	}
	var n int
	var b [64]byte
	peek := func(fd uintptr) { n, _ = rules.Peek(fd, b[:]) }
	return func() int {
		n = 0
		_ = raw.Control(peek) // fails if c is closed: then there is nothing
		return n
	}
}
