//go:build unix && (!linux || 386 || s390x || race || msan || asan)

package socket

import "syscall"

// Recv reads from a socket that does not block, or returns [syscall.EAGAIN].
func Recv(fd uintptr, p []byte) (int, error) {
	return again(func() (int, error) { return syscall.Read(int(fd), p) })
}

// Peek is Recv of what stays there to be read.
func Peek(fd uintptr, p []byte) (int, error) {
	return again(func() (int, error) {
		n, _, err := syscall.Recvfrom(int(fd), p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return n, err
	})
}

// Send writes to a socket that does not block as much as it takes now, or returns [syscall.EAGAIN].
func Send(fd uintptr, p []byte) (int, error) {
	return again(func() (int, error) { return syscall.Write(int(fd), p) })
}

func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
