package main

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/perf/benchmath"
	"golang.org/x/perf/benchunit"
)

const dash = "–"

// A table is one in Markdown. Its columns are of numbers, but for some of the first and of the last.
type table struct {
	left  int // the first ones
	tail  int // the last ones
	head  []string
	lines [][]string
}

func (t *table) add(cells ...string) { t.lines = append(t.lines, cells) }

func (t *table) String() string {
	var b strings.Builder
	b.WriteString("| " + strings.Join(t.head, " | ") + " |\n|")
	for i := range t.head {
		if i < t.left || i >= len(t.head)-t.tail {
			b.WriteString("---|")
		} else {
			b.WriteString("--:|")
		}
	}
	b.WriteByte('\n')
	for _, l := range t.lines {
		b.WriteString("| " + strings.Join(l, " | ") + " |\n")
	}
	return b.String()
}

// plain keeps what Markdown would take for markup in the name of a benchmark.
var plain = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", `\<`, ">", `\>`, "|", `\|`, "&", `\&`)

// grouped writes a number as 51 622.
func grouped(x float64) string {
	s := strconv.FormatFloat(x, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// rate writes numbers of URLs a second.
func rate(...float64) func(float64) string {
	return func(x float64) string {
		if x < 100 {
			return strconv.FormatFloat(x, 'f', 1, 64)
		}
		return grouped(x)
	}
}

// whole writes a number without fractions.
func whole(...float64) func(float64) string { return grouped }

// megabytes writes bytes as MB.
func megabytes(...float64) func(float64) string {
	return func(x float64) string { return grouped(x / 1e6) }
}

// seconds writes times, those together in one unit.
func seconds(together ...float64) func(float64) string {
	scaler := benchunit.CommonScale(together, benchunit.Decimal)
	return func(x float64) string {
		return strings.TrimSuffix(scaler.Format(x), scaler.Prefix) + " " + scaler.Prefix + "s"
	}
}

// median writes a median and its range, if there is one: "26.4 µs (25.9 to 27.0)".
func median(s benchmath.Summary, format func(together ...float64) func(float64) string) string {
	if !ranged(s) {
		return format(s.Center)(s.Center)
	}
	f := format(s.Center, s.Lo, s.Hi)
	lo, _ := strings.CutSuffix(f(s.Lo), unit(f(s.Lo)))
	hi, _ := strings.CutSuffix(f(s.Hi), unit(f(s.Hi)))
	return fmt.Sprintf("%s (%s to %s)", f(s.Center), lo, hi)
}

// ranged reports whether there were enough results for a range.
func ranged(s benchmath.Summary) bool { return !math.IsInf(s.Lo, 0) && !math.IsInf(s.Hi, 0) }

// unit is what is behind the digits of a number, with the space before it.
func unit(s string) string { return s[strings.LastIndexAny(s, "0123456789")+1:] }

// image is a picture in Markdown.
func image(alt, path string) string {
	u := (&url.URL{Path: path}).EscapedPath()
	u = strings.NewReplacer("(", "%28", ")", "%29").Replace(u)
	return fmt.Sprintf("![%s](%s)\n", plain.Replace(alt), u)
}
