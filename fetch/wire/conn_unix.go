//go:build unix

package wire

import (
	"net"
	"os"
	"syscall"

	"fetchbench/fetch/internal/rules"
)

// socketOf returns the socket that nc has; nil if it has none. Unless nc is bare it may do more
// than to read and write on it, so that has to be left to nc.
func socketOf(nc net.Conn) (raw syscall.RawConn, bare bool) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, false
	}
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return raw, true
	}
	return raw, false
}

// readNow reads what there is; if there is nothing, the error is errWouldBlock.
func readNow(raw syscall.RawConn, p []byte) (n int, err error) {
	failed := raw.Control(func(fd uintptr) { n, err = rules.Recv(fd, p) })
	if failed != nil {
		return 0, failed
	}
	if err == syscall.EAGAIN {
		return 0, errWouldBlock
	}
	return eof(n, err)
}

// hasMore reports whether there is something to be read, if only the end.
func hasMore(raw syscall.RawConn) bool {
	var b [1]byte
	var err error
	failed := raw.Control(func(fd uintptr) { _, err = rules.Peek(fd, b[:]) })
	return failed != nil || err != syscall.EAGAIN
}

// readSocket writes out, if there is something, and reads into p.
//
// All of it happens while the poller is ready to tell of what comes from now on: since there is
// nothing to be read before the write, it will tell of the answer. So none of the reads is in vain.
func (c *conn) readSocket(p []byte) (int, error) {
	c.p, c.n, c.err, c.unasked = p, 0, nil, false
	if c.step == nil {
		c.step = c.writeAndRead
	}
	err := c.raw.Read(c.step)
	c.p = nil
	switch {
	case err != nil:
		return 0, err // the deadline: as a rule it will be called again
	case c.unasked:
		n, err := eof(c.n, os.NewSyscallError("read", c.err))
		return c.before(p[:n], err)
	case c.out != nil && c.err == nil: // the socket's buffer is full
		c.writeAside()
		return c.readSocket(p)
	case c.out != nil:
		c.out = nil
		return 0, os.NewSyscallError("write", c.err)
	case c.err != nil:
		return 0, os.NewSyscallError("read", c.err)
	}
	return eof(c.n, nil)
}

// writeAndRead is called with c's socket whenever something may have come.
func (c *conn) writeAndRead(fd uintptr) (done bool) {
	c.n, c.err = rules.Recv(fd, c.p)
	if c.out == nil {
		return c.err != syscall.EAGAIN
	}
	if c.err != syscall.EAGAIN {
		c.unasked = true
		return true
	}
	n, err := rules.Send(fd, c.out)
	switch {
	case n == len(c.out):
		c.out, c.sent = nil, true
		return false
	case n > 0 || err == syscall.EAGAIN:
		c.out, c.err, c.sent = c.out[n:], nil, c.sent || n > 0
	default:
		c.err = err
	}
	return true
}
