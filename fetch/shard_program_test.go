//go:build unix

package fetch_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// Some things can be seen only from outside of a program that uses a Shard. This test binary is
// such a program, if programEnv names one of these.
const programEnv = "FETCH_TEST_PROGRAM"

var programs = map[string]func(){
	"no ShardMain": func() { fetchAndPrint(nil, "http://ok.test/") },
	"late": func() {
		for range 1000 {
			fmt.Println("printed before ShardMain")
		}
		time.Sleep(100 * time.Millisecond)
		fetch.ShardMain(&inChild{})
		fetchAndPrint(nil, "http://ok.test/", "http://print.test/", "http://ok.test/")
	},
	"marked": func() {
		fetch.ShardMain(&inChild{})
		fetchAndPrint(nil, "http://ok.test/")
	},
	"fails at first": func() {
		if isChild {
			for _, name := range []string{"a", "b"} {
				if os.Mkdir(filepath.Join(os.Getenv("DIR"), name), 0o700) == nil {
					os.Exit(1)
				}
			}
		}
		fetch.ShardMain(&inChild{})
		fetchAndPrint(onShardUp(func(fetch.Event) { fmt.Println("started") }), slices.Repeat([]string{"http://slow.test/"}, 40)...)
	},
	"strategy panics": func() {
		gob.Register(panics{})
		fetch.ShardMain(&inChild{})
		f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1, Each: panics{}, Restarts: 1}}
		for r := range f.Get(context.Background(), "http://ok.test/") {
			fmt.Println("result", r.Status, r.Err)
		}
	},
	"args": func() {
		os.Args = os.Args[1:]
		fetch.ShardMain(&inChild{})
		f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}}
		for r := range f.Get(context.Background(), "http://args.test/") {
			fmt.Println("args", string(r.Body))
		}
	},
	"orphans": func() {
		fetch.ShardMain(&inChild{})
		fetchAndPrint(onShardUp(func(e fetch.Event) { fmt.Println(e.PID) }), "http://hang.test/", "http://wait.test/", "http://wait.test/")
	},
}

// panics is a strategy that panics.
type panics struct{ fetch.Pool }

func (panics) Start(context.Context, fetch.Doer) fetch.Executor { panic("of a strategy") }

// isChild: programs without a ShardMain cannot know otherwise.
var isChild = os.Getenv("FETCHBENCH_SHARD") != ""

func init() {
	if os.Getenv(programEnv) != "" {
		fmt.Println("printed by init")
	}
}

// runProgram runs the program that programEnv names, and does not return, if there is one.
func runProgram() {
	if run := programs[os.Getenv(programEnv)]; run != nil {
		run()
		os.Exit(0)
	}
}

// onShardUp returns a Trace that calls f for each child that is ready.
func onShardUp(f func(fetch.Event)) func(fetch.Event) {
	return func(e fetch.Event) {
		if e.Kind == fetch.EventShardUp {
			f(e)
		}
	}
}

// fetchAndPrint fetches urls by 3 processes, and prints a line for each result.
func fetchAndPrint(trace func(fetch.Event), urls ...string) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 3, Each: fetch.Pool{Workers: 4}}, Trace: trace}
	for r := range f.Get(context.Background(), urls...) {
		fmt.Println("result", r.Status, r.Err)
	}
}

// program returns the command that runs a program.
func program(ctx context.Context, name string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), programEnv+"="+name)
	return cmd
}

// output runs cmd, which must end well, and returns what it printed.
func output(t *testing.T, cmd *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	require.NoError(t, cmd.Run(), "%s%s", &out, &err)
	return out.String(), err.String()
}

// A program that does not call ShardMain is told so, and is not run again.
func TestShardWithoutShardMain(t *testing.T) {
	out, stderr := output(t, program(t.Context(), "no ShardMain"))
	assert.Contains(t, out, "result 0 fetch: http://ok.test/: lost: ")
	assert.Contains(t, out, "call fetch.ShardMain(doer) first thing in main")
	assert.Equal(t, 1, strings.Count(out, "result "))
	assert.Equal(t, 1, strings.Count(out+stderr, "printed by init"))
}

// A child that fails to start does not stay away for the whole run.
func TestShardFailsAtFirst(t *testing.T) {
	cmd := program(t.Context(), "fails at first")
	cmd.Env = append(cmd.Env, "DIR="+t.TempDir())
	out, _ := output(t, cmd)
	assert.Equal(t, 40, strings.Count(out, "result 200 <nil>"), "%s", out)
	assert.Equal(t, 3, strings.Count(out, "started"), "%s", out)
}

// A panic of the strategy in a child is not swallowed with the child.
func TestShardStrategyPanics(t *testing.T) {
	out, stderr := output(t, program(t.Context(), "strategy panics"))
	assert.Contains(t, out, "exit status 2")
	assert.Contains(t, stderr, "panic: of a strategy\n\ngoroutine ")
	assert.Contains(t, stderr, "panics.Start", "the stack is the panic's")
}

// The children have the arguments that the program was started with.
func TestShardArgs(t *testing.T) {
	cmd := program(t.Context(), "args")
	cmd.Args = append(cmd.Args, "a", "b")
	out, _ := output(t, cmd)
	assert.Contains(t, out, "args b\n", "of the child's os.Args[1:], after the same was cut off")
}

// Whatever a child prints, and whenever, is no frame, and does not get lost.
func TestShardPrints(t *testing.T) {
	out, stderr := output(t, program(t.Context(), "late"))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	assert.Len(t, lines, 1+1000+3, "what the parent printed")
	assert.Equal(t, 3, strings.Count(out, "result 200 <nil>"))
	assert.Equal(t, 1, strings.Count(stderr, "printed by a Doer\n"))
	assert.Equal(t, 1, strings.Count(stderr, "written to descriptor 1\n"))
	children := strings.Count(stderr, "printed by init\n")
	assert.Positive(t, children)
	assert.LessOrEqual(t, children, 3)
}

// A process that merely inherited a child's environment is not taken for one, but it may
// not have children either, lest a program fork without end.
func TestShardMarkInherited(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	for _, mark := range []string{"1", "nonsense", "18446744073709551616"} {
		cmd := program(t.Context(), "marked")
		cmd.Env = append(cmd.Env, "FETCHBENCH_SHARD="+mark)
		cmd.ExtraFiles = []*os.File{r, w}
		cmd.WaitDelay = time.Second
		out, _ := output(t, cmd)
		assert.Contains(t, out, "this process is itself a child, and can have no children", mark)
	}
}
