//go:build !unix

package wire

import (
	"net"
	"syscall"
)

// rawConn returns nil: what a socket has received can be told on Unix alone.
func rawConn(net.Conn) syscall.RawConn { return nil }

func readNow(syscall.RawConn, []byte) (int, error) { return 0, errWouldBlock } // not called

func (c *conn) exchange(p []byte) (int, error) { return c.Conn.Read(p) } // not called
