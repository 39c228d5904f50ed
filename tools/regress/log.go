package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
	"golang.org/x/perf/benchproc"
	"golang.org/x/perf/benchunit"
)

// A history is what a benchmark was in one unit on one machine, commit by commit.
type history struct {
	cpu, benchmark, unit string
	points               []point // by date
}

// A point is what it was at one commit.
type point struct {
	commit, date string
	values       []float64
	benchmath.Summary
}

// log shows how each benchmark has moved.
func log(args []string, stdout, stderr io.Writer) error {
	f := newFlags("regress log", "go tool regress log [flags]", stderr)
	dir := f.String("dir", "benchmarks", "the `directory` of the records")
	filter := f.String("filter", ".unit:ns/op", "show only what matches this benchstat `filter`")
	svg := f.String("svg", "", "draw a chart into `FILE`: each benchmark against its first commit")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("log takes no arguments, and not %q", f.Args())
	}
	histories, err := readHistories(*dir, *filter)
	if err != nil {
		return err
	}
	printHistories(stdout, histories)
	if *svg != "" {
		return drawHistories(*svg, histories)
	}
	return nil
}

func readHistories(dir, filter string) ([]*history, error) {
	parsed, err := benchproc.NewFilter(filter)
	if err != nil {
		return nil, fmt.Errorf("-filter: %w", err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("there are no records in %s: go tool regress record makes one", dir)
	}
	var all []*history
	for _, name := range names {
		if all, err = readRecord(all, name, parsed); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no benchmark in the records matches")
	}
	for _, h := range all {
		slices.SortStableFunc(h.points, func(a, b point) int { return cmp.Compare(a.date, b.date) })
		for i := range h.points {
			p := &h.points[i]
			p.Summary = benchmath.AssumeNothing.Summary(benchmath.NewSample(p.values, &benchmath.DefaultThresholds), 1-alpha)
		}
	}
	return all, nil
}

// readRecord adds the samples in a file to all.
func readRecord(all []*history, name string, filter *benchproc.Filter) ([]*history, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	r := benchfmt.NewReader(file, name)
	for r.Scan() {
		switch rec := r.Result().(type) {
		case *benchfmt.SyntaxError:
			return nil, rec
		case *benchfmt.Result:
			commit, date := rec.GetConfig("commit"), rec.GetConfig("date")
			if commit == "" || date == "" {
				return nil, fmt.Errorf("%s: there is no commit or date in it", name)
			}
			if ok, err := filter.Apply(rec); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
			for _, v := range rec.Values {
				key := history{cpu: rec.GetConfig("cpu"), benchmark: rec.Name.String(), unit: v.Unit}
				i := slices.IndexFunc(all, func(h *history) bool {
					return h.cpu == key.cpu && h.benchmark == key.benchmark && h.unit == key.unit
				})
				if i < 0 {
					i, all = len(all), append(all, &key)
				}
				h := all[i]
				j := slices.IndexFunc(h.points, func(p point) bool { return p.commit == commit })
				if j < 0 {
					j, h.points = len(h.points), append(h.points, point{commit: commit, date: date})
				}
				h.points[j].values = append(h.points[j].values, v.Value)
			}
		}
	}
	return all, r.Err()
}

func printHistories(w io.Writer, all []*history) {
	cpu := ""
	for _, h := range all {
		if h.cpu != cpu { // what was measured on one machine says nothing of another
			cpu = h.cpu
			fmt.Fprintf(w, "cpu: %s\n\n", cpu)
		}
		fmt.Fprintf(w, "%s in %s\n", h.benchmark, h.unit)
		var values []float64
		for _, p := range h.points {
			values = append(values, p.Center)
		}
		scale := benchunit.CommonScale(values, benchunit.ClassOf(h.unit))
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for i, p := range h.points {
			moved := ""
			if i > 0 {
				moved = fmt.Sprintf("%s since the commit before (p=%.3f), %s since the first",
					difference(h.points[i-1], p), compareTo(h.points[i-1], p), difference(h.points[0], p))
			}
			fmt.Fprintf(t, "  %.10s\t%.10s\t%s ± %s\tn=%d\t%s\n", p.date, p.commit, scale.Format(p.Center), p.PctRangeString(), len(p.values), moved)
		}
		t.Flush()
		fmt.Fprintln(w)
	}
}

func difference(old, now point) string {
	c := change(old.Center, now.Center)
	if math.IsInf(c, 0) {
		return "from 0"
	}
	return fmt.Sprintf("%+.2f%%", 100*c)
}

func compareTo(old, now point) float64 {
	a := benchmath.NewSample(slices.Clone(old.values), &benchmath.DefaultThresholds)
	b := benchmath.NewSample(slices.Clone(now.values), &benchmath.DefaultThresholds)
	return benchmath.AssumeNothing.Compare(a, b).P
}
