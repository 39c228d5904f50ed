package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/perf/benchunit"
)

// print tells of the result on stdout, and in the files.
func (c *comparison) print(out outputs, status int, missing []string) error {
	c.text(out.stdout)
	fmt.Fprintln(out.stdout, c.conclusion(status))
	if out.markdown != "" {
		f, err := os.OpenFile(out.markdown, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
		if err != nil {
			return err
		}
		_, err = io.WriteString(f, c.markdown(status, missing))
		if err2 := f.Close(); err == nil {
			err = err2
		}
		if err != nil {
			return err
		}
	}
	if out.json != "" {
		b, err := c.json(status, missing)
		if err != nil {
			return err
		}
		return os.WriteFile(out.json, b, 0o666)
	}
	return nil
}

// byUnit returns the rows of each unit, as they came.
func (c *comparison) byUnit() (units [][]*row) {
	for _, r := range c.rows {
		i := slices.IndexFunc(units, func(u []*row) bool { return u[0].Unit == r.Unit })
		if i < 0 {
			i, units = len(units), append(units, nil)
		}
		units[i] = append(units[i], r)
	}
	return units
}

// cells are what is told of r: base, head, the change, how that was found, and the verdict.
func (r *row) cells(scale benchunit.Scaler) (base, head, change, test, verdict string) {
	change = "~"
	switch {
	case r.P > alpha:
	case math.IsInf(r.Change, 0):
		change = "from 0"
	default:
		change = fmt.Sprintf("%+.2f%%", 100*r.Change)
	}
	n := fmt.Sprint(r.NBase)
	if r.NHead != r.NBase {
		n += "+" + fmt.Sprint(r.NHead)
	}
	verdict = string(r.Verdict)
	if r.Verdict == isSame && r.Better != 0 && r.Holm <= alpha && r.worsening() > r.Threshold {
		verdict = "within the noise"
	}
	return scale.Format(r.Base.Center) + " ± " + r.Base.PctRangeString(), scale.Format(r.Head.Center) + " ± " + r.Head.PctRangeString(),
		change, fmt.Sprintf("p=%.3f n=%s", r.P, n), verdict
}

func scaler(rows []*row) benchunit.Scaler {
	var values []float64
	for _, r := range rows {
		values = append(values, r.Base.Center, r.Head.Center)
	}
	return benchunit.CommonScale(values, benchunit.ClassOf(rows[0].Unit))
}

// text prints a table for each unit, as benchstat does.
func (c *comparison) text(w io.Writer) {
	for _, rows := range c.byUnit() {
		var b bytes.Buffer
		t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintf(t, "%s\tbase\thead\tvs base\t\t\t\n", rows[0].Unit)
		scale := scaler(rows)
		for _, r := range rows {
			base, head, change, test, verdict := r.cells(scale)
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t(%s)\t%s\t\n", r.Benchmark, base, head, change, test, verdict)
		}
		t.Flush()
		for line := range strings.Lines(b.String()) {
			fmt.Fprintln(w, strings.TrimRight(line, " \n"))
		}
		fmt.Fprintln(w)
	}
}

// conclusion is the result in a sentence.
func (c *comparison) conclusion(status int) string {
	count := func(v verdict) (n int) {
		for _, r := range c.rows {
			if r.Verdict == v {
				n++
			}
		}
		return n
	}
	var names []string
	for _, r := range c.rows {
		if r.Verdict == isWorse {
			names = append(names, fmt.Sprintf("%s in %s by %s", r.Benchmark, r.Unit, percent(r.worsening())))
		}
	}
	switch status {
	case worse:
		return fmt.Sprintf("WORSE, %d of %d rows: %s.", len(names), len(c.rows), strings.Join(names, "; "))
	case unsure:
		return "Nobody can tell whether something is worse."
	}
	return fmt.Sprintf("Nothing is worse in %d rows: %d better, %d that did not recur.", len(c.rows), count(isBetter), count(isPassing))
}

func percent(part float64) string {
	if math.IsInf(part, 0) {
		return "more than can be told, from 0"
	}
	return fmt.Sprintf("%.1f %%", 100*part)
}

// markdown is the result for a pull request: what has changed first, all the rest folded away.
func (c *comparison) markdown(status int, missing []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## Benchmarks: %s against %s\n\n%s\n\n", escape(c.names[1]), escape(c.names[0]), escape(c.conclusion(status)))
	for _, m := range missing {
		fmt.Fprintf(&b, "- %s\n", escape(m))
	}
	table := func(rows []*row) {
		scale := scaler(rows)
		fmt.Fprintf(&b, "\n| %s | base | head | change | | |\n|---|--:|--:|--:|---|---|\n", rows[0].Unit)
		for _, r := range rows {
			base, head, change, test, verdict := r.cells(scale)
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", escape(r.Benchmark), base, head, change, test, verdict)
		}
	}
	for _, rows := range c.byUnit() {
		if rows = slices.DeleteFunc(slices.Clone(rows), func(r *row) bool { return r.Verdict == isSame }); len(rows) > 0 {
			table(rows)
		}
	}
	b.WriteString("\n<details><summary>All rows</summary>\n")
	for _, rows := range c.byUnit() {
		table(rows)
	}
	fmt.Fprintf(&b, "\n</details>\n\n%d rounds of %s each. WORSE: p < %v after Holm's correction, over %g %% (allocs/op: %g %%) and the noise of the base, twice.\n",
		c.rounds, c.time, alpha, 100*c.limits.all, 100*c.limits.allocs)
	return b.String()
}

// escape keeps Markdown from taking a text for more than that.
func escape(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "&", "&amp;", "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`).Replace(s)
}

// json is the result for machines.
func (c *comparison) json(status int, missing []string) ([]byte, error) {
	type jsonSide struct {
		Median float64 `json:"median"`
		Low    float64 `json:"low"`
		High   float64 `json:"high"`
		N      int     `json:"n"`
	}
	type jsonRow struct {
		Benchmark string   `json:"benchmark"`
		Unit      string   `json:"unit"`
		Base      jsonSide `json:"base"`
		Head      jsonSide `json:"head"`
		Change    *float64 `json:"change"` // a part of the base; null from 0
		Better    int      `json:"better"`
		P         float64  `json:"p"`
		Holm      float64  `json:"p_holm"`
		Noise     *float64 `json:"noise"`
		Threshold float64  `json:"threshold"`
		Verdict   string   `json:"verdict"`
	}
	finite := func(f float64) *float64 {
		if math.IsInf(f, 0) || math.IsNaN(f) {
			return nil
		}
		return &f
	}
	rows := []jsonRow{}
	for _, r := range c.rows {
		rows = append(rows, jsonRow{r.Benchmark, r.Unit,
			jsonSide{r.Base.Center, r.Base.Lo, r.Base.Hi, r.NBase}, jsonSide{r.Head.Center, r.Head.Lo, r.Head.Hi, r.NHead},
			finite(r.Change), r.Better, r.P, r.Holm, finite(r.Noise), r.Threshold, string(r.Verdict)})
	}
	b, err := json.MarshalIndent(map[string]any{
		"status": status, "base": c.names[0], "head": c.names[1], "rounds": c.rounds, "benchtime": c.time,
		"missing": append([]string{}, missing...), "rows": rows,
	}, "", "\t")
	return append(b, '\n'), err
}
