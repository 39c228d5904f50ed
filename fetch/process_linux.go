package fetch

import "syscall"

// ownProgram returns the path of the program that is running: the kernel's link to
// it, so that it is the same one even if its file has been replaced or removed.
func ownProgram() (string, error) { return "/proc/self/exe", nil }

// endWithParent makes the kernel kill the process when this one ends. The end of its
// pipe tells it the same, but not while it is stopped.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
