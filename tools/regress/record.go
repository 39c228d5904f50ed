package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/perf/benchproc"
)

// record appends a commit's samples to its file.
func record(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var b bench
	f := newFlags("regress record", "go tool regress record [flags]", stderr)
	b.flags(f)
	head := f.String("head", "HEAD", "record the commit `REV`; what is not committed is left out")
	dir := f.String("dir", "benchmarks", "the `directory` of the records, from the repository's root")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("record takes no arguments, and not %q", f.Args())
	}
	if err := b.check(); err != nil {
		return err
	}
	r, err := openRepo(ctx)
	if err != nil {
		return err
	}
	s := &side{name: "head"}
	if s.commit, err = r.commit(ctx, *head); err != nil {
		return err
	}
	seconds, err := r.git(ctx, nil, "log", "-1", "--format=%ct", s.commit)
	if err != nil {
		return err
	}
	var unix int64
	if _, err := fmt.Sscan(seconds, &unix); err != nil {
		return err
	}
	date := time.Unix(unix, 0).UTC()
	tmp, err := r.tempDir(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	s.tree = filepath.Join(tmp, s.name)
	remove, err := r.checkOut(ctx, s.tree, s.commit)
	if err != nil {
		return err
	}
	defer remove()
	if err := s.build(ctx, b.pkg); err != nil {
		return err
	}
	var all bytes.Buffer
	version, err := s.goVersion(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(&all, "commit: %s\ndate: %s\ngo: %s\n", s.commit, date.Format(time.RFC3339), version)
	p := newProgress(stderr, b.rounds)
	defer p.end()
	filter, err := benchproc.NewFilter("*")
	if err != nil {
		return err
	}
	var check samples
	for range b.rounds {
		out, err := s.run(ctx, &b, b.pattern)
		if err == nil {
			err = check.add("head", out, filter)
		}
		if err != nil {
			return err
		}
		all.Write(out)
		p.step("recording", 1)
	}
	if len(check.order) == 0 {
		return errors.New("no benchmark matches")
	}
	to := *dir
	if !filepath.IsAbs(to) {
		to = filepath.Join(r.root, to)
	}
	if err := os.MkdirAll(to, 0o777); err != nil {
		return err
	}
	name := filepath.Join(to, fmt.Sprintf("%s-%.12s.txt", date.Format("20060102T150405Z"), s.commit))
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	_, err = file.Write(all.Bytes())
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	fmt.Fprintln(stdout, strings.TrimPrefix(name, r.root+string(filepath.Separator)))
	return nil
}
