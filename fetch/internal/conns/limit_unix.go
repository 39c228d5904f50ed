//go:build unix

package conns

import "syscall"

// MaxIdle returns how many idle connections to keep by default: most or, if fewer, a quarter of the
// files that this process may have open.
func MaxIdle(most int) int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return most
	}
	return int(max(1, min(uint64(most), uint64(limit.Cur)/4)))
}
