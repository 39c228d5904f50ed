package process

import "syscall"

func init() {
	// The kernel's link to the program, which remains the same if the file is replaced or removed.
	ownProgram = func() (string, error) { return "/proc/self/exe", nil }
	// The kernel kills the process when this one ends. The end of its pipe tells it the same, but
	// not while it is stopped.
	sysProcAttr.Pdeathsig = syscall.SIGKILL
}
