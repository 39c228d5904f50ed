//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"fetchbench/fetch/internal/rules"
)

// A process is a child process and the parent's ends of its pipes.
type process struct {
	pid     int
	in, out *os.File
	wait    func() error
}

// startProcess starts this program once more, to be killed when life ends. It locks the goroutine
// to its thread until wait has returned, since Linux ends the process with the thread that started
// it.
func startProcess(life context.Context) (_ *process, err error) {
	var childIn, in, out, childOut *os.File
	defer func() {
		childIn.Close() // of nil, too
		childOut.Close()
		if err != nil {
			in.Close()
			out.Close()
			err = startError(err)
		}
	}()
	if childIn, in, err = os.Pipe(); err != nil {
		return nil, err
	}
	if out, childOut, err = os.Pipe(); err != nil {
		return nil, err
	}
	inode, err := inodeOf(childIn)
	if err != nil {
		return nil, err
	}
	program, err := ownProgram()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(life, program)
	cmd.Args = programArgs
	cmd.Env = append(os.Environ(), childEnv+"="+inode)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{childIn, childOut} // descriptors 3 and 4
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	endWithParent(cmd.SysProcAttr)
	runtime.LockOSThread()
	if err := cmd.Start(); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	wait := func() error {
		defer runtime.UnlockOSThread()
		return cmd.Wait()
	}
	return &process{pid: cmd.Process.Pid, in: in, out: out, wait: wait}, nil
}

// programArgs are the arguments that the program was started with, which may change os.Args.
var programArgs = slices.Clone(os.Args)

func startError(err error) error {
	if errors.Is(err, syscall.EBADF) { // descriptor 3 or 4 of the child was over the limit
		err = fmt.Errorf("%w (%w)", syscall.EMFILE, err)
	}
	switch advice := rules.LocalLimit(err); {
	case advice != "":
		return fmt.Errorf("no child process: %s: %w", advice, err)
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("no child process: too many processes: lower Processes or raise ulimit -u: %w", err)
	}
	return fmt.Errorf("no child process: %w", err)
}

// parentPipes returns the pipes from and to the parent, nil if this process is not a child.
func parentPipes() (in, out *os.File) {
	inode := os.Getenv(childEnv)
	if inode == "" {
		return nil, nil
	}
	os.Unsetenv(childEnv) // processes that this one starts are not children
	var stat syscall.Stat_t
	if syscall.Fstat(3, &stat) != nil || strconv.FormatUint(uint64(stat.Ino), 10) != inode {
		return nil, nil
	}
	pipe := func(fd int) *os.File {
		syscall.CloseOnExec(fd)
		_ = syscall.SetNonblock(fd, true) // the file works either way
		return os.NewFile(uintptr(fd), "pipe to the parent")
	}
	return pipe(3), pipe(4)
}

func inodeOf(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	return strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Ino), 10), nil
}
