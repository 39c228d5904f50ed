//go:build unix

package socket

import (
	"net"
	"syscall"
)

// Of returns the socket of nc, nil if it has none. Unless nc is bare, it may do more than read and
// write on its socket, so these have to be left to nc.
func Of(nc net.Conn) (raw syscall.RawConn, bare bool) {
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

// ReadNow reads what there is; if there is nothing, the error is [ErrWouldBlock].
func ReadNow(raw syscall.RawConn, p []byte) (n int, err error) {
	failed := raw.Control(func(fd uintptr) { n, err = Recv(fd, p) })
	if failed != nil {
		return 0, failed
	}
	if err == syscall.EAGAIN {
		return 0, ErrWouldBlock
	}
	return EOF(n, err)
}

// HasData reports whether there is something to be read, if only the end.
func HasData(raw syscall.RawConn) bool {
	var b [1]byte
	var err error
	failed := raw.Control(func(fd uintptr) { _, err = Peek(fd, b[:]) })
	return failed != nil || err != syscall.EAGAIN
}
