//go:build linux && !386 && !s390x && !race && !msan && !asan

package wire

import (
	"syscall"
	"unsafe"
)

// readFD and writeFD never wait, so the scheduler need not prepare for that: as
// system calls of package syscall they would cost a tenth more. The detectors have to know of
// them, however, and have those in sys_unix.go.

func readFD(fd uintptr, p []byte) (int, error) { return now(syscall.SYS_RECVFROM, fd, p) }

func writeFD(fd uintptr, p []byte) (int, error) { return now(syscall.SYS_SENDTO, fd, p) }

// now is recv or send, which do not wait.
func now(call, fd uintptr, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := syscall.RawSyscall6(call, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return -1, errno
		}
	}
}
