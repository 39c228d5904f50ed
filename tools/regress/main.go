// Regress tells whether a commit made benchmarks worse, by its exit status.
//
// Usage:
//
//	go tool regress [flags] [BASE]
//	go tool regress record [flags]
//	go tool regress log [flags]
//
// The first compares the working tree (or -head REV) with the commit BASE: by default the merge base with
// main, or the parent of a commit that is on main. Both are checked out in worktrees of their own below a temporary
// directory, and built there; the user's tree and index are not touched. Their test binaries run in turns, so that
// what else the machine does hits both.
//
// A row is one benchmark in one unit. It is worse if all of this holds:
//
//   - the samples of both sides differ by the Mann-Whitney U test, with a p-value below 0.05 after the
//     correction of Holm for the number of rows;
//   - the medians differ by more than -threshold, or -alloc-threshold for allocs/op, in
//     the direction that the Unit lines call worse (a unit for which they say nothing is shown, not judged);
//   - and by more than the row's own noise: what the base differs from itself (see [noise]);
//   - all of that once more in as many fresh rounds of that benchmark alone.
//
// The exit status is 0 if nothing is worse; 1 if something is; 2 if nobody can tell: a side does not build or run,
// a benchmark or unit is missing on one side, there are too few samples, or the output is malformed.
//
// Record runs the benchmarks of a commit and appends their samples to its file in the directory benchmarks.
// Log shows how each benchmark has moved over the commits there.
//
// Each subcommand tells its flags by -h.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Exit statuses.
const (
	same   = 0
	worse  = 1
	unsure = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run does what args say, and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var err error
	status := same
	switch {
	case len(args) > 0 && args[0] == "record":
		err = record(ctx, args[1:], stdout, stderr)
	case len(args) > 0 && args[0] == "log":
		err = log(args[1:], stdout, stderr)
	default:
		status, err = compare(ctx, args, stdout, stderr)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return same
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "regress: interrupted")
		return unsure
	case err != nil:
		fmt.Fprintln(stderr, "regress:", err)
		return unsure
	}
	return status
}

// A bench says which benchmarks to run, and how.
type bench struct {
	pattern string
	time    string
	pkg     string
	rounds  int
	timeout time.Duration
}

func (b *bench) flags(f *flag.FlagSet) {
	f.StringVar(&b.pattern, "bench", ".", "run the benchmarks that match `regexp`, as go test does")
	f.StringVar(&b.time, "benchtime", "50ms", "run each for `d`, or N times if that is Nx")
	f.StringVar(&b.pkg, "pkg", ".", "the `package` with the benchmarks, as a path from the repository's root")
	f.IntVar(&b.rounds, "rounds", 10, "how often base, head, head and base run in turn")
	f.DurationVar(&b.timeout, "timeout", 10*time.Minute, "how long one run may take")
}

func (b *bench) check() error {
	for part := range strings.SplitSeq(b.pattern, "/") {
		if _, err := regexp.Compile(part); err != nil {
			return fmt.Errorf("-bench: %w", err)
		}
	}
	if b.rounds < 1 {
		return fmt.Errorf("-rounds is %d", b.rounds)
	}
	return nil
}

// newFlags returns a set of flags whose usage begins with synopsis.
func newFlags(name, synopsis string, stderr io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintf(stderr, "usage: %s\n\nThe manual: go doc fetchbench/tools/regress\n\n", synopsis)
		f.PrintDefaults()
	}
	return f
}
