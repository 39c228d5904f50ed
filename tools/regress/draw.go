package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"fetchbench/tools/internal/chart"
)

// standOut is how many lines of a chart have a colour.
const standOut = 6

// drawHistories writes a chart of all to file: each against its first commit. If there are many, those that have moved
// most stand out from the others.
func drawHistories(file string, all []*history) error {
	var drawn []*history
	for _, h := range all {
		if h.points[0].Center > 0 { // nothing is so many times 0
			drawn = append(drawn, h)
		}
	}
	if len(drawn) == 0 {
		return errors.New("there is nothing to draw: all of it began at 0")
	}
	slices.SortStableFunc(drawn, func(a, b *history) int { return cmp.Compare(b.moved(), a.moved()) })

	commits := commits(drawn)
	what := drawn[0].unit
	if several(drawn, func(h *history) string { return h.unit }) {
		what = "each benchmark"
	}
	l := chart.Lines{
		Title: fmt.Sprintf("How %s moved over %s", what, count(len(commits), "commit")),
		Desc:  describe(drawn[0]),
		X:     chart.Axis{Label: "commit, by date"},
		Y:     chart.Axis{Label: "median, relative to the first commit"},
	}
	for _, c := range commits {
		l.Labels = append(l.Labels, fmt.Sprintf("%.7s", c.commit))
	}
	for i, h := range drawn {
		s := chart.Series{Name: label(h, drawn)}
		if len(drawn) > standOut+1 && i >= standOut {
			s.Faint, s.Name = true, ""
			if i == standOut {
				s.Name = fmt.Sprintf("%d that moved less", len(drawn)-standOut)
			}
		}
		first := h.points[0].Center
		for _, p := range h.points {
			x := slices.IndexFunc(commits, func(c point) bool { return c.commit == p.commit })
			s.Points = append(s.Points, chart.Point{X: float64(x), Y: chart.Value{Center: p.Center / first, Lo: p.Lo / first, Hi: p.Hi / first}})
		}
		l.Series = append(l.Series, s)
	}
	svg, err := l.SVG()
	if err != nil {
		return err
	}
	return os.WriteFile(file, svg, 0o666)
}

// commits are those that any of all has been measured at, by date.
func commits(all []*history) (commits []point) {
	for _, h := range all {
		commits = append(commits, h.points...)
	}
	slices.SortFunc(commits, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.date, b.date), cmp.Compare(a.commit, b.commit))
	})
	return slices.CompactFunc(commits, func(a, b point) bool { return a.commit == b.commit })
}

// moved is how far h has ever been from its first commit, as a factor's logarithm.
func (h *history) moved() (most float64) {
	for _, p := range h.points {
		most = max(most, math.Abs(math.Log(p.Center/h.points[0].Center)))
	}
	return most
}

// describe says where h has got to, in words.
func describe(h *history) string {
	return fmt.Sprintf("%s moved most: its median in %s is now %.2f times that of the first commit.",
		h.benchmark, h.unit, h.points[len(h.points)-1].Center/h.points[0].Center)
}

// label names h among all: what they have in common is not said.
func label(h *history, all []*history) string {
	s := h.benchmark
	if several(all, func(h *history) string { return h.unit }) {
		s += ", " + h.unit
	}
	if several(all, func(h *history) string { return h.cpu }) {
		s += ", " + cmp.Or(h.cpu, "a machine without a name")
	}
	return s
}

// several reports whether of is not the same for all.
func several(all []*history, of func(*history) string) bool {
	return slices.ContainsFunc(all, func(h *history) bool { return of(h) != of(all[0]) })
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
