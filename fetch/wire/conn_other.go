//go:build !unix

package wire

import (
	"net"
	"syscall"
)

// socketOf returns none: what a socket has received can be told on Unix alone. So the others are
// not called.
func socketOf(net.Conn) (raw syscall.RawConn, bare bool) { return nil, false }

func readNow(syscall.RawConn, []byte) (int, error) { panic("wire: no sockets") }

func hasMore(syscall.RawConn) bool { panic("wire: no sockets") }

func (c *conn) readSocket([]byte) (int, error) { panic("wire: no sockets") }
