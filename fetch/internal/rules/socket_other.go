//go:build !unix

package rules

import "errors"

// Peek sees nothing here.
func Peek(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
