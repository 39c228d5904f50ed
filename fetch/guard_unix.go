//go:build unix

package fetch

import (
	"net"
	"syscall"

	"fetchbench/fetch/internal/rules"
)

// pending returns a function that tells how many bytes the system has for c to read, up to 64.
func pending(c net.Conn) func() int {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	var n int
	var b [64]byte
	peek := func(fd uintptr) {
		n, _ = rules.Peek(fd, b[:])
	}
	return func() int {
		n = 0
		_ = raw.Control(peek) // fails if c is closed: then there is nothing
		return n
	}
}
