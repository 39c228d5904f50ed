// Package chart draws bar and line charts as SVG pictures for Markdown pages.
//
// A picture follows the reader's light or dark colours, needs nothing from elsewhere (no font, no
// script), and says in its title and description what it shows. It is laid out for
// a width of 640 pixels, with text that can still be read when a page shrinks it to 400.
// The same chart gives the same bytes on every run.
//
// The drawing itself is gonum.org/v1/plot's. Two things are added after it: its fixed colours become
// classes of a style sheet, and each text gets the length that the layout reckoned with, so that a
// font that is wider than the one it was made for makes nothing overlap.
package chart

import (
	"errors"
	"fmt"
	"math"
)

// A Value is what is measured: a center, and the ends of the whisker about it.
type Value struct {
	Center float64
	Lo, Hi float64 // the center, or infinite (not known): no whisker
}

// Exactly is a Value without a whisker.
func Exactly(v float64) Value { return Value{Center: v, Lo: v, Hi: v} }

// None is a Value that is not there: a bar left out.
func None() Value { return Exactly(math.NaN()) }

// IsNone reports whether v is not there.
func (v Value) IsNone() bool { return math.IsNaN(v.Center) }

// whisker reports whether v has a whisker to draw. Half of one would be taken for a whole.
func (v Value) whisker() bool {
	return !math.IsInf(v.Lo, 0) && !math.IsInf(v.Hi, 0) && v.Lo < v.Hi
}

// ends are the lowest and highest numbers to make room for.
func (v Value) ends() (lo, hi float64) {
	if v.whisker() {
		return v.Lo, v.Hi
	}
	return v.Center, v.Center
}

// An Axis says what its numbers are.
type Axis struct {
	Label string // what is measured, and in which unit: "URLs/s"
	Unit  string // goes behind each number, with an SI prefix: "s" gives "20 µs". Empty: "20k", "0.95"
	Log   bool   // equal steps are equal factors
	Zero  bool   // a linear axis of Lines begins at zero. Bars always do
}

// ErrChart is what every error of this package wraps: the chart cannot be drawn from what it was given.
var ErrChart = errors.New("chart")

func fault(title, format string, args ...any) error {
	return fmt.Errorf("%w %q: %s", ErrChart, title, fmt.Sprintf(format, args...))
}

// checkTexts holds charts to what a reader who cannot see them needs.
func checkTexts(title, desc string, axes ...Axis) error {
	if title == "" || desc == "" {
		return fault(title, "it needs a title and a description")
	}
	for _, a := range axes {
		if a.Label == "" {
			return fault(title, "an axis needs a label")
		}
	}
	return nil
}

// checkNumber says why x cannot be on a, or "".
func (a Axis) checkNumber(x float64) string {
	switch {
	case math.IsNaN(x) || math.IsInf(x, 0):
		return fmt.Sprintf("%v is no number to draw", x)
	case a.Log && x <= 0:
		return fmt.Sprintf("%v cannot be on a log axis", x)
	}
	return ""
}

// checkValue says why v cannot be on a, or "".
func (a Axis) checkValue(v Value) string {
	if s := a.checkNumber(v.Center); s != "" {
		return s
	}
	if math.IsNaN(v.Lo) || math.IsNaN(v.Hi) {
		return "an end of a whisker is NaN"
	}
	if v.Lo > v.Center || v.Hi < v.Center {
		return fmt.Sprintf("the whisker from %v to %v is not about %v", v.Lo, v.Hi, v.Center)
	}
	lo, hi := v.ends()
	if s := a.checkNumber(lo); s != "" {
		return s
	}
	return a.checkNumber(hi)
}
