package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A side is one of the two commits that are compared: its tree, and its test binary.
type side struct {
	name   string // "base" or "head"
	commit string
	tree   string // where it is checked out
	binary string
}

// overlay puts the test files and testdata of from's package in place of s's.
func (s *side) overlay(from *side, pkg string) error {
	to, dir := filepath.Join(s.tree, pkg), filepath.Join(from.tree, pkg)
	old, err := filepath.Glob(filepath.Join(to, "*_test.go"))
	if err != nil {
		return err
	}
	for _, name := range append(old, filepath.Join(to, "testdata")) {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return err
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(name)), b, 0o666)
		}
		if err != nil {
			return err
		}
	}
	err = os.CopyFS(filepath.Join(to, "testdata"), os.DirFS(filepath.Join(dir, "testdata")))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// build builds s's test binary.
func (s *side) build(ctx context.Context, pkg string) error {
	s.binary = filepath.Join(filepath.Dir(s.tree), s.name+".test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", s.binary, "./"+filepath.ToSlash(pkg))
	cmd.Dir, cmd.Env = s.tree, environ()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s (%.12s) does not build:\n%s", s.name, s.commit, tail(out))
	}
	if _, err := os.Stat(s.binary); err != nil {
		return fmt.Errorf("%s (%.12s) has no tests in %s:\n%s", s.name, s.commit, pkg, tail(out))
	}
	return nil
}

// goVersion returns the version of Go that s was built with.
func (s *side) goVersion(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOVERSION")
	cmd.Dir, cmd.Env = s.tree, environ()
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// run runs the benchmarks of s once, and returns what they print. The whole of it ends with ctx.
func (s *side) run(ctx context.Context, b *bench, pattern string) ([]byte, error) {
	limit, cancel := context.WithTimeout(ctx, b.timeout) // package testing's own is for tests alone
	defer cancel()
	cmd := exec.CommandContext(limit, s.binary, "-test.run=^$", "-test.bench="+pattern, "-test.benchtime="+b.time,
		"-test.benchmem", "-test.count=1", "-test.timeout=0")
	cmd.Dir, cmd.Env = filepath.Join(s.tree, b.pkg), environ()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if limit.Err() != nil {
			err = fmt.Errorf("it took longer than -timeout=%v", b.timeout)
		}
		return nil, fmt.Errorf("%s (%.12s) does not run: %w\n%s", s.name, s.commit, err, tail(append(stdout.Bytes(), stderr.Bytes()...)))
	}
	return stdout.Bytes(), nil
}

// tail returns the end of what a program has printed.
func tail(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// A progress tells on w how far it is.
type progress struct {
	w     io.Writer
	live  bool // w is a terminal: one line, written over and over
	begun time.Time
	done  int
	all   int
}

func newProgress(w io.Writer, all int) *progress {
	p := &progress{w: w, all: all, begun: time.Now()}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		p.live = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// step says that another run is over.
func (p *progress) step(what string, perRound int) {
	p.done++
	left := (time.Since(p.begun) / time.Duration(p.done) * time.Duration(p.all-p.done)).Round(time.Second)
	text := fmt.Sprintf("%s: round %d of %d, %v left", what, (p.done+perRound-1)/perRound, p.all/perRound, left)
	switch {
	case p.live && p.done == p.all:
		fmt.Fprint(p.w, "\r\x1b[K")
	case p.live:
		fmt.Fprint(p.w, "\r\x1b[K"+text)
	case p.done%perRound == 0:
		fmt.Fprintln(p.w, text)
	}
}

// end ends a line that stays.
func (p *progress) end() {
	if p.live && p.done < p.all {
		fmt.Fprintln(p.w)
	}
}

// perRound is how often each side runs in a round.
const perRound = 2

// A runner runs the benchmarks that match pattern on a side once.
type runner func(ctx context.Context, side int, pattern string) ([]byte, error)

// inTurns runs both sides for so many rounds of base, head, head, base, so that what becomes slower
// meanwhile becomes slower for both. What they print is passed to take.
func inTurns(ctx context.Context, run runner, what, pattern string, rounds int, stderr io.Writer, take func(side int, out []byte) error) error {
	p := newProgress(stderr, perRound*2*rounds)
	defer p.end()
	for range rounds {
		for _, side := range []int{0, 1, 1, 0} {
			out, err := run(ctx, side, pattern)
			if err == nil {
				err = take(side, out)
			}
			if err != nil {
				return cmp.Or(ctx.Err(), err)
			}
			p.step(what, 2*perRound)
		}
	}
	return nil
}
