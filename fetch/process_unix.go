//go:build unix

package fetch

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

// startProcess starts this program once more, to be killed when life ends. It
// locks the goroutine to its thread until wait has returned: Linux ends such a
// process with the thread that has started it.
func startProcess(life context.Context) (*process, error) {
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, startError(err)
	}
	defer childIn.Close()
	out, childOut, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, startError(err)
	}
	defer childOut.Close()

	p := &process{in: in, out: out}
	err = func() error {
		inode, err := inodeOf(childIn)
		if err != nil {
			return err
		}
		program, err := ownProgram()
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(life, program)
		cmd.Args = programArgs
		cmd.Env = append(os.Environ(), shardEnv+"="+inode)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		cmd.ExtraFiles = []*os.File{childIn, childOut} // descriptors 3 and 4
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		endWithParent(cmd.SysProcAttr)
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			runtime.UnlockOSThread()
			return err
		}
		p.pid = cmd.Process.Pid
		p.wait = func() error {
			defer runtime.UnlockOSThread()
			return cmd.Wait()
		}
		return nil
	}()
	if err != nil {
		in.Close()
		out.Close()
		return nil, startError(err)
	}
	return p, nil
}

// programArgs are those that the program was started with, whatever it makes of os.Args.
var programArgs = slices.Clone(os.Args)

func startError(err error) error {
	if errors.Is(err, syscall.EBADF) { // descriptor 3 or 4 of the child was over the limit
		err = fmt.Errorf("%w (%w)", syscall.EMFILE, err)
	}
	switch advice := rules.LocalLimit(err); {
	case advice != "":
		return fmt.Errorf("no child process: %s: %w", advice, err)
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("no child process: too many processes: lower Shard.Processes or raise ulimit -u: %w", err)
	}
	return fmt.Errorf("no child process: %w", err)
}

// shardPipes returns the pipes from and to the parent, if this process is a child.
func shardPipes() (in, out *os.File, ok bool) {
	inode := os.Getenv(shardEnv)
	if inode == "" {
		return nil, nil, false
	}
	// Processes that this one starts are no children, and must not have their pipes.
	os.Unsetenv(shardEnv)
	var stat syscall.Stat_t
	if syscall.Fstat(3, &stat) != nil || strconv.FormatUint(uint64(stat.Ino), 10) != inode {
		return nil, nil, false
	}
	pipe := func(fd int) *os.File {
		syscall.CloseOnExec(fd)
		_ = syscall.SetNonblock(fd, true) // the file works either way
		return os.NewFile(uintptr(fd), "pipe of a Shard")
	}
	return pipe(3), pipe(4), true
}

func inodeOf(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	return strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Ino), 10), nil
}
