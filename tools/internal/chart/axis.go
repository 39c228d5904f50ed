package chart

import (
	"math"
	"strconv"

	"gonum.org/v1/plot"
)

var prefixes = []struct {
	factor float64
	symbol string
}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}, {1, ""}, {1e-3, "m"}, {1e-6, "µ"}, {1e-9, "n"}}

// scale picks the SI prefix for x. Numbers without a unit have none that makes them
// larger: 0.95 is easier to read than 950m.
func (a Axis) scale(x float64) (factor float64, symbol string) {
	for _, p := range prefixes {
		if a.Unit == "" && p.factor < 1 {
			break
		}
		if math.Abs(x) >= p.factor*(1-1e-9) {
			return p.factor, p.symbol
		}
	}
	if a.Unit == "" || x == 0 {
		return 1, ""
	}
	last := prefixes[len(prefixes)-1]
	return last.factor, last.symbol
}

// suffix is what goes behind a number.
func (a Axis) suffix(symbol string) string {
	if a.Unit == "" {
		return symbol
	}
	return " " + symbol + a.Unit
}

// Format writes x with three digits: "51.6k", or "26.4 µs" if the unit is "s".
func (a Axis) Format(x float64) string {
	if x == 0 {
		return "0" + a.suffix("")
	}
	// Rounded first, since 999.6 is 1k.
	x, _ = strconv.ParseFloat(strconv.FormatFloat(x, 'e', 2, 64), 64)
	factor, symbol := a.scale(x)
	x /= factor
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(x))+1e-9)))
	return strconv.FormatFloat(x, 'f', digits, 64) + a.suffix(symbol)
}

// tick writes a number that is a multiple of a round step, with no digits but those it needs.
func (a Axis) tick(x float64) string {
	if x == 0 {
		return "0" + a.suffix("")
	}
	factor, symbol := a.scale(x)
	// Twelve digits are without what the additions left behind.
	s := strconv.FormatFloat(x/factor, 'g', 12, 64)
	y, _ := strconv.ParseFloat(s, 64)
	return strconv.FormatFloat(y, 'f', -1, 64) + a.suffix(symbol)
}

// linear returns round ticks that enclose lo to hi, some n of them.
func (a Axis) linear(lo, hi float64, n int) []plot.Tick {
	if lo == hi {
		d := math.Abs(lo) / 10
		if d == 0 {
			d = 1
		}
		if lo != 0 || !a.Zero {
			lo -= d
		}
		hi += d
	}
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/float64(n))))
	for _, m := range []float64{1, 2, 5, 10} {
		if (hi-lo)/(m*step) <= float64(n) {
			step *= m
			break
		}
	}
	var ticks []plot.Tick
	first, last := math.Floor(lo/step+1e-9), math.Ceil(hi/step-1e-9)
	for i := first; i <= last; i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: a.tick(i * step)})
	}
	return ticks
}

// logarithmic returns the bounds of an axis that shows lo to hi with some room about, and its ticks.
func (a Axis) logarithmic(lo, hi float64) (from, to float64, ticks []plot.Tick) {
	const room = 1.25
	from, to = lo/room, hi*room
	mantissas := []float64{1, 2, 5}
	every := 1
	switch decades := math.Log10(to / from); {
	case decades > 8:
		mantissas, every = []float64{1}, int(math.Ceil(decades/8))
	case decades > 3.5:
		mantissas = []float64{1}
	}
	for e := int(math.Floor(math.Log10(from))); e <= int(math.Ceil(math.Log10(to))); e++ {
		if e%every != 0 {
			continue
		}
		for _, m := range mantissas {
			if x := m * math.Pow10(e); from <= x && x <= to {
				ticks = append(ticks, plot.Tick{Value: x, Label: a.tick(x)})
			}
		}
	}
	if len(ticks) >= 3 {
		return from, to, ticks
	}
	// Less than a decade: round numbers in equal steps say more.
	ticks = nil
	for _, t := range a.linear(from, to, 5) {
		if from <= t.Value && t.Value <= to {
			ticks = append(ticks, t)
		}
	}
	return from, to, ticks
}
