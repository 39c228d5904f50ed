//go:build unix

package wire

import (
	"net"
	"os"
	"syscall"

	"fetchbench/fetch/internal/rules"
)

// rawConn returns c's socket, nil if it has none.
func rawConn(c net.Conn) syscall.RawConn {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
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

// exchange writes out, if there is something, and reads into p.
//
// All of it happens while the poller is ready to tell of what comes from now on: if there is
// nothing to be read before the write, then it will tell of the answer. So
// none of the reads is in vain.
func (c *conn) exchange(p []byte) (int, error) {
	c.p, c.n, c.err, c.strays = p, 0, nil, false
	if c.step == nil {
		c.step = c.writeAndRead
	}
	err := c.raw.Read(c.step)
	c.p = nil
	switch {
	case err != nil:
		return 0, err // the deadline: as a rule it will be called again
	case c.strays:
		c.stray(p[:c.n])
		return 0, errStale
	case c.out != nil && c.err == nil: // the socket's buffer is full
		if err := c.write(c.out); err != nil {
			return 0, err
		}
		return c.Conn.Read(p)
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
	if c.out != nil {
		if c.kept {
			if c.n, c.err = rules.Recv(fd, c.p); c.err != syscall.EAGAIN {
				c.strays = true
				return true
			}
		}
		n, err := rules.Send(fd, c.out)
		switch {
		case n == len(c.out):
			c.out, c.sent = nil, true
		case n > 0 || err == syscall.EAGAIN:
			c.out, c.err, c.sent = c.out[n:], nil, c.sent || n > 0
			return true
		default:
			c.err = err
			return true
		}
		if c.kept {
			return false // there was nothing to be read
		}
	}
	c.n, c.err = rules.Recv(fd, c.p)
	return c.err != syscall.EAGAIN
}
