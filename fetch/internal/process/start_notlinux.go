//go:build unix && !linux

package process

import (
	"os"
	"syscall"
)

// ownProgram returns the path of the running program.
func ownProgram() (string, error) { return os.Executable() }

// endWithParent does nothing: the end of the pipe tells a child that its parent is gone.
func endWithParent(*syscall.SysProcAttr) {}
