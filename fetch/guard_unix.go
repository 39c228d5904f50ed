//go:build unix

package fetch

import (
	"net"
	"syscall"
)

// pending returns a function that reports whether the system has bytes for c to read.
func pending(c net.Conn) func() bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	var some bool
	var b [1]byte
	f := func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		some = n > 0 && err == nil
	}
	return func() bool {
		some = false
		raw.Control(f)
		return some
	}
}
