//go:build !unix

package socket

import (
	"errors"
	"net"
	"syscall"
)

// Of returns none: what a socket has received can be told on Unix alone. So the others are not
// called.
func Of(net.Conn) (raw syscall.RawConn, bare bool) { return nil, false }

// ReadNow is not called.
func ReadNow(syscall.RawConn, []byte) (int, error) { return 0, errors.ErrUnsupported }

// HasData is not called.
func HasData(syscall.RawConn) bool { return false }

// Recv is not called.
func Recv(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

// Send is not called.
func Send(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
