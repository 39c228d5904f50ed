package peers

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// roles are what this program does instead of its tests, by the environment variable that says so:
// the function gets its value, and writes lines to standard output.
var roles = map[string]func(value string){serverVariable: serve}

// playRole returns at once in a process that has no role. In one that has, it never returns: the
// process ends when its standard input is closed, which the parent's death does too.
func playRole() {
	for variable, role := range roles {
		if value := os.Getenv(variable); value != "" {
			role(value)
			io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}
	}
}

// A process is another one of this same program, in one of its roles.
type process struct {
	cmd   *exec.Cmd
	lines *bufio.Reader
}

// startProcess starts a process, and ends it when the test or benchmark does.
func startProcess(tb testing.TB, variable, value string) *process {
	tb.Helper()
	program, err := os.Executable()
	require.NoError(tb, err)
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), variable+"="+value, "GORACE=atexit_sleep_ms=1 "+os.Getenv("GORACE"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(tb, err)
	out, err := cmd.StdoutPipe()
	require.NoError(tb, err)
	require.NoError(tb, cmd.Start())
	tb.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			tb.Errorf("the process with %s=%s: %v", variable, value, err)
		}
	})
	return &process{cmd, bufio.NewReader(out)}
}

// line returns the process's next line, when it has come.
func (p *process) line(tb testing.TB) string {
	tb.Helper()
	line, err := p.lines.ReadString('\n')
	require.NoError(tb, err)
	return line
}
