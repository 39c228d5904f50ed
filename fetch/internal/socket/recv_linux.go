//go:build linux && !386 && !s390x && !race && !msan && !asan

package socket

import (
	"syscall"
	"unsafe"
)

// Recv, Peek and Send never wait, so the scheduler need not prepare for that: as
// system calls of package syscall they would cost a tenth more. The detectors have to know of
// them, however, and have those in socket_unix.go.

// Recv reads from a socket, or returns [syscall.EAGAIN].
func Recv(fd uintptr, p []byte) (int, error) { return now(syscall.SYS_RECVFROM, fd, p, 0) }

// Peek is Recv of what stays there to be read.
func Peek(fd uintptr, p []byte) (int, error) {
	return now(syscall.SYS_RECVFROM, fd, p, syscall.MSG_PEEK)
}

// Send writes to a socket as much as it takes now, or returns [syscall.EAGAIN].
func Send(fd uintptr, p []byte) (int, error) {
	return now(syscall.SYS_SENDTO, fd, p, syscall.MSG_NOSIGNAL)
}

func now(call, fd uintptr, p []byte, flags uintptr) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := syscall.RawSyscall6(call, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), flags|syscall.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
