//go:build !unix

package conns

// MaxIdle returns how many idle connections to keep by default: most.
func MaxIdle(most int) int { return most }
