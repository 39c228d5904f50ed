package jetstream_test

import (
	"bytes"
	"fmt"
	"os"
)

// peakRSS returns the most memory that a process has had, in bytes.
func peakRSS(pid int) (n int) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if i := bytes.Index(data, []byte("VmHWM:")); i >= 0 {
		fmt.Sscanf(string(data[i:]), "VmHWM: %d kB", &n)
	}
	return n << 10
}
