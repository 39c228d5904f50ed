package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/perf/benchproc"
)

// A comparison is what is to be compared, and how.
type comparison struct {
	bench
	names  [2]string // base and head, as a person calls them
	limits thresholds
	filter *benchproc.Filter
	sides  [2]samples
	again  [2]samples // of the second rounds
	rows   []*row
	kept   string // the directory for the samples; "": none
}

func compare(ctx context.Context, args []string, stdout, stderr io.Writer) (status int, err error) {
	c := &comparison{}
	f := newFlags("regress", "go tool regress [flags] [BASE]\n       go tool regress record [flags]\n       go tool regress log [flags]", stderr)
	c.flags(f)
	head := f.String("head", "", "compare the commit `REV` instead of the working tree")
	overlay := f.Bool("overlay-tests", false, "build base with head's test files and testdata: for when the benchmarks themselves have changed")
	threshold := f.Float64("threshold", 5, "a change has to be larger than so many `percent`")
	allocThreshold := f.Float64("alloc-threshold", 1, "the same for allocs/op, in `percent`")
	filter := f.String("filter", "*", "judge only what matches this benchstat `filter`, such as .unit:allocs/op")
	f.StringVar(&c.kept, "o", "", "keep the samples in the directory `DIR`, as base.txt and head.txt")
	markdown := f.String("markdown", "", "write the result to `FILE` as Markdown too, after what is there")
	json := f.String("json", "", "write the result to `FILE` as JSON too")
	if err := f.Parse(args); err != nil {
		return unsure, err
	}
	if f.NArg() > 1 {
		return unsure, fmt.Errorf("one BASE, and not %q (flags come before it)", f.Args())
	}
	if err := c.check(); err != nil {
		return unsure, err
	}
	if !(*threshold >= 0) || !(*allocThreshold >= 0) {
		return unsure, errors.New("thresholds are percentages, from 0 on")
	}
	c.limits = thresholds{*threshold / 100, *allocThreshold / 100}
	if c.filter, err = benchproc.NewFilter(*filter); err != nil {
		return unsure, fmt.Errorf("-filter: %w", err)
	}
	r, err := openRepo(ctx)
	if err != nil {
		return unsure, err
	}
	dir, err := r.tempDir(ctx)
	if err != nil {
		return unsure, err
	}
	defer os.RemoveAll(dir)
	sides, err := c.commits(ctx, r, dir, *head, f.Arg(0))
	if err != nil {
		return unsure, err
	}
	for _, s := range sides {
		s.tree = filepath.Join(dir, s.name)
		remove, err := r.checkOut(ctx, s.tree, s.commit)
		if err != nil {
			return unsure, err
		}
		defer remove()
	}
	if *overlay {
		if err := sides[0].overlay(sides[1], c.pkg); err != nil {
			return unsure, err
		}
	}
	for _, s := range sides {
		if err := s.build(ctx, c.pkg); err != nil {
			return unsure, err
		}
	}
	fmt.Fprintf(stderr, "base: %s\nhead: %s\n", c.names[0], c.names[1])
	return c.judge(ctx, func(ctx context.Context, side int, pattern string) ([]byte, error) {
		return sides[side].run(ctx, &c.bench, pattern)
	}, outputs{stdout, stderr, *markdown, *json})
}

// commits returns the two sides, whose names it notes.
func (c *comparison) commits(ctx context.Context, r *repo, dir, head, base string) (sides [2]*side, err error) {
	h, b := &side{name: "head"}, &side{name: "base"}
	changed, own := false, ""
	if head == "" {
		h.commit, changed, err = r.workingTree(ctx, dir)
		own = "HEAD"
	} else {
		h.commit, err = r.commit(ctx, head)
		own = h.commit
	}
	if err != nil {
		return sides, err
	}
	if own, err = r.commit(ctx, own); err != nil {
		return sides, err
	}
	switch {
	case base != "":
		b.commit, err = r.commit(ctx, base)
	default:
		b.commit, err = r.base(ctx, own, changed)
	}
	if err != nil {
		return sides, err
	}
	for i, s := range []*side{b, h} {
		if c.names[i], err = r.git(ctx, nil, "log", "-1", "--format=%h %s", s.commit); err != nil {
			return sides, err
		}
	}
	if changed {
		c.names[1] = "the working tree"
	}
	return [2]*side{b, h}, nil
}

// Outputs are where a result goes.
type outputs struct {
	stdout, stderr io.Writer
	markdown, json string // files; "": none
}

// judge runs both sides, judges what they print, and tells of it.
func (c *comparison) judge(ctx context.Context, run runner, out outputs) (status int, err error) {
	if err := c.measure(ctx, run, "comparing", c.pattern, &c.sides, out.stderr); err != nil {
		return unsure, err
	}
	var missing []string
	c.rows, missing = judge(&c.sides[0], &c.sides[1], c.limits)
	if len(c.rows) == 0 {
		return unsure, cmp.Or(missingError(missing), errors.New("no benchmark matches"))
	}
	few := enough(c.rows, c.rounds)
	if few == nil {
		if err := c.confirm(ctx, run, out.stderr); err != nil {
			return unsure, err
		}
	}
	status, err = unsure, errors.Join(missingError(missing), few)
	if i := slices.IndexFunc(c.rows, func(r *row) bool { return r.Verdict == isWorse }); i >= 0 {
		status = worse
		if err != nil {
			fmt.Fprintln(out.stderr, "regress:", err)
		}
		err = nil
	} else if err == nil {
		status = same
	}
	return status, errors.Join(c.print(out, status, missing), err)
}

func missingError(missing []string) error {
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("on one side only (see -overlay-tests and -bench):\n\t%s", strings.Join(missing, "\n\t"))
}

// confirm runs the benchmarks that have a suspect row once more, and finds which of the rows are worse again.
func (c *comparison) confirm(ctx context.Context, run runner, stderr io.Writer) error {
	suspects := slices.DeleteFunc(slices.Clone(c.rows), func(r *row) bool { return r.Verdict != isSuspect })
	if len(suspects) == 0 {
		return nil
	}
	if err := c.measure(ctx, run, "once more", pattern(suspects), &c.again, stderr); err != nil {
		return err
	}
	again, _ := judge(&c.again[0], &c.again[1], c.limits)
	again = slices.DeleteFunc(again, func(r *row) bool {
		return !slices.ContainsFunc(suspects, func(s *row) bool { return s.Benchmark == r.Benchmark && s.Unit == r.Unit })
	})
	holm(again) // for the number of suspects
	for _, s := range suspects {
		s.Verdict = isPassing
		for _, r := range again {
			if r.Benchmark == s.Benchmark && r.Unit == s.Unit && r.judge() == isSuspect {
				s.Verdict = isWorse
			}
		}
	}
	return nil
}

// measure runs both sides in turns, and adds what they print to sides and to the files that are kept.
func (c *comparison) measure(ctx context.Context, run runner, what, pattern string, sides *[2]samples, stderr io.Writer) error {
	var kept [2]bytes.Buffer
	err := inTurns(ctx, run, what, pattern, c.rounds, stderr, func(side int, out []byte) error {
		kept[side].Write(out)
		return sides[side].add([]string{"base", "head"}[side], out, c.filter)
	})
	if c.kept == "" || err != nil {
		return err
	}
	if err := os.MkdirAll(c.kept, 0o777); err != nil {
		return err
	}
	for i, name := range []string{"base", "head"} {
		if sides == &c.again {
			name += "-again"
		}
		if err := os.WriteFile(filepath.Join(c.kept, name+".txt"), kept[i].Bytes(), 0o666); err != nil {
			return err
		}
	}
	return nil
}
