//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package jetstream

import "os"

// lockFile returns nothing: here a directory is not guarded against a second broker.
func lockFile(string) (*os.File, error) { return nil, nil }
