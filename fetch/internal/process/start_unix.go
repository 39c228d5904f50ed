//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"

	"fetchbench/fetch/internal/rules"
)

var (
	ownProgram  = os.Executable // returns the path of the running program
	programArgs = slices.Clone(os.Args)
	sysProcAttr = &syscall.SysProcAttr{}
)

// startProcess starts this program once more, with the arguments that it was started with, to be
// killed when life ends. It returns the process and this side's ends of its pipes.
func startProcess(life context.Context) (cmd *exec.Cmd, in, out *os.File, err error) {
	var childIn, childOut *os.File
	defer func() {
		childIn.Close() // of nil, too
		childOut.Close()
		if err != nil {
			in.Close()
			out.Close()
			err = startError(err)
		}
	}()
	var inode, program string
	if childIn, in, err = os.Pipe(); err == nil {
		out, childOut, err = os.Pipe()
	}
	if err == nil {
		inode, err = inodeOf(childIn.Fd())
	}
	if err == nil {
		program, err = ownProgram()
	}
	if err != nil {
		return nil, in, out, err
	}
	cmd = exec.CommandContext(life, program)
	cmd.Args = programArgs
	cmd.Env = append(os.Environ(), childEnv+"="+inode)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{childIn, childOut} // descriptors 3 and 4
	cmd.SysProcAttr = sysProcAttr
	return cmd, in, out, cmd.Start()
}

func startError(err error) error {
	if errors.Is(err, syscall.EBADF) { // descriptor 3 or 4 of the child was over the limit
		err = fmt.Errorf("%w (%w)", syscall.EMFILE, err)
	}
	advice := rules.LocalLimit(err)
	if advice == "" && errors.Is(err, syscall.EAGAIN) {
		advice = "too many processes: lower Processes or raise ulimit -u"
	}
	if advice != "" {
		err = fmt.Errorf("%s: %w", advice, err)
	}
	return fmt.Errorf("no child process: %w", err)
}

// parentPipes returns the pipes from and to the parent, nil if this process is not a child.
func parentPipes() (in, out *os.File) {
	mark := os.Getenv(childEnv)
	os.Unsetenv(childEnv) // processes that this one starts are not children
	if inode, err := inodeOf(3); err != nil || inode != mark {
		return nil, nil
	}
	pipe := func(fd int) *os.File {
		syscall.CloseOnExec(fd)
		_ = syscall.SetNonblock(fd, true) // the file works either way
		return os.NewFile(uintptr(fd), "pipe to the parent")
	}
	return pipe(3), pipe(4)
}

func inodeOf(fd uintptr) (string, error) {
	var stat syscall.Stat_t
	err := syscall.Fstat(int(fd), &stat)
	return strconv.FormatUint(uint64(stat.Ino), 10), err
}
