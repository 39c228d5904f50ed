//go:build !unix

package fetchtest

import "time"

// CPUTime returns 0 on systems without getrusage.
func CPUTime() time.Duration { return 0 }
