package fetch_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

func init() {
	deafen = func() { // by a pipe that nothing comes from, so that the process does not hear of it
		var fds [2]int
		err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC)
		if err == nil {
			err = syscall.Dup3(fds[0], 3, syscall.O_CLOEXEC)
		}
		if err != nil {
			panic(err)
		}
	}
	deafText = "it takes no more tasks"
	peakMemory = func() int {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			panic(err)
		}
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		kib, err := strconv.Atoi(strings.Fields(rest)[0])
		if err != nil {
			panic(err)
		}
		return kib
	}
	programs["replaced"] = func() {
		fetch.ShardMain(&inChild{})
		self, err := os.Executable()
		if err == nil {
			err = os.Remove(self)
		}
		if err == nil {
			err = os.WriteFile(self, []byte("#!/bin/sh\nexit 1\n"), 0o755)
		}
		if err != nil {
			panic(err)
		}
		// A child is replaced after the file has been.
		fetchAndPrint(nil, "http://ok.test/", "http://exit.test/", "http://ok.test/")
	}
	programs["few files"] = func() {
		fetch.ShardMain(&inChild{})
		more, err := strconv.Atoi(os.Getenv("N"))
		if err != nil {
			panic(err)
		}
		r, w, err := os.Pipe() // the first one opens what the runtime needs, and cannot do without
		if err != nil {
			panic(err)
		}
		r.Close()
		w.Close()
		few := uint64(openFileCount() + more)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: few, Max: few}); err != nil {
			panic(err)
		}
		fetchAndPrint(nil, "http://ok.test/", "http://ok.test/")
	}
	programs["few processes"] = func() {
		fetch.ShardMain(&inChild{})
		threads := make(chan bool)
		for range 20 { // that are there before the limit is
			go func() {
				syscall.Nanosleep(&syscall.Timespec{Nsec: 50e6}, nil)
				threads <- true
			}()
		}
		for range 20 {
			<-threads
		}
		const rlimitNproc = 6 // syscall has no name for it
		if err := syscall.Setrlimit(rlimitNproc, &syscall.Rlimit{Cur: 1, Max: 1}); err != nil {
			panic(err)
		}
		fetchAndPrint(nil, "http://ok.test/", "http://ok.test/")
	}
	programs["memory"] = func() {
		fetch.ShardMain(&inChild{})
		n, err := strconv.Atoi(os.Getenv("N"))
		if err != nil {
			panic(err)
		}
		f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2}}
		children := map[string]int{}
		for r := range f.Fetch(context.Background(), urls(n, func(i int) string {
			if i > n-100 {
				return "http://memory.test/"
			}
			return "http://ok.test/"
		})) {
			if !r.OK() {
				panic(r.Err)
			}
			if pid, kib, ok := strings.Cut(string(r.Body), " "); ok {
				children[pid], _ = strconv.Atoi(kib)
			}
		}
		fmt.Println("parent", peakMemory())
		for _, kib := range children {
			fmt.Println("child", kib)
		}
	}
}

func openFileCount() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// ended reports whether a process that is not a child of this one has ended. It may be a zombie, if
// process 1 does not reap.
func ended(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return state[0] == 'Z' || state[0] == 'X'
}

// When a program is killed and can do nothing about its children, they end by themselves: one that
// waits, one that hangs, and one that is stopped.
func TestShardParentKilled(t *testing.T) {
	cmd := program(t.Context(), "orphans")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	var pids []string
	for len(pids) < 3 && lines.Scan() {
		if _, err := strconv.Atoi(lines.Text()); err == nil {
			pids = append(pids, lines.Text())
		}
	}
	require.Len(t, pids, 3)
	stopped, _ := strconv.Atoi(pids[0])
	require.NoError(t, syscall.Kill(stopped, syscall.SIGSTOP))
	for _, pid := range pids {
		require.False(t, ended(pid))
	}
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	for _, pid := range pids {
		assert.Eventually(t, func() bool { return ended(pid) }, time.Second, 10*time.Millisecond, "process %s", pid)
	}
}

// The children are the program that runs, and not what has become of its file.
func TestShardProgramReplaced(t *testing.T) {
	copied := filepath.Join(t.TempDir(), "program")
	from, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer from.Close()
	to, err := os.OpenFile(copied, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, err)
	require.NoError(t, to.Close())

	cmd := program(t.Context(), "replaced")
	cmd.Path = copied
	out, _ := output(t, cmd)
	assert.Equal(t, 2, strings.Count(out, "result 200 <nil>"), "%s", out)
	assert.Contains(t, out, "exit status 7; children that had it and ended before: 2")
}

// What the system does not allow is said, with what to do about it.
func TestShardLimits(t *testing.T) {
	t.Run("files", func(t *testing.T) {
		const advice = "lost: no child process: too many open files: lower the strategy's limit or raise ulimit -n"
		for n := range 9 {
			cmd := program(t.Context(), "few files")
			cmd.Env = append(cmd.Env, fmt.Sprint("N=", n))
			out, _ := output(t, cmd)
			assert.Equal(t, 2, strings.Count(out, "result 200 <nil>")+strings.Count(out, advice), "%d more: %s", n, out)
			if n == 0 {
				assert.Contains(t, out, advice)
			}
		}
	})
	t.Run("processes", func(t *testing.T) {
		cmd := program(t.Context(), "few processes")
		cmd.Path = "/proc/self/exe" // which another user has the right to run
		if os.Getuid() == 0 {       // whom the limit does not hold for
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			cmd.Dir = "/"
		}
		out, _ := output(t, cmd)
		assert.Equal(t, 2, strings.Count(out, "lost: no child process: too many processes: lower Processes or raise ulimit -u"), "%s", out)
	})
}

// Neither the parent nor a child needs more memory for a million URLs than for a hundred thousand.
func TestShardMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("a million URLs take some seconds")
	}
	peak := func(n int) map[string]int {
		cmd := program(t.Context(), "memory")
		cmd.Env = append(cmd.Env, "N="+strconv.Itoa(n))
		out, _ := output(t, cmd)
		most := map[string]int{}
		for line := range strings.Lines(out) {
			if who, kib, ok := strings.Cut(strings.TrimSpace(line), " "); ok && (who == "parent" || who == "child") {
				n, err := strconv.Atoi(kib)
				require.NoError(t, err)
				most[who] = max(most[who], n)
			}
		}
		return most
	}
	few, many := peak(100_000), peak(1_000_000)
	for _, who := range []string{"parent", "child"} {
		t.Logf("%s: peak resident memory %d KiB with 100 000 URLs, %d KiB with 1 000 000", who, few[who], many[who])
		require.Positive(t, few[who])
		assert.LessOrEqual(t, float64(many[who]), 1.25*float64(few[who]), who)
	}
}
