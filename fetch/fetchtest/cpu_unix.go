//go:build unix

package fetchtest

import (
	"syscall"
	"time"
)

// CPUTime returns the processor time, user and system, that this process and
// those of its children that have ended have used so far.
func CPUTime() time.Duration {
	var total time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			panic(err) // only if who is invalid
		}
		total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return total
}
