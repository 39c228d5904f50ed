package chart

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Lines is a chart of points that lines connect, over numbers or over labels (commits, say).
type Lines struct {
	Title  string   // what is to be seen, on top of the picture
	Desc   string   // the finding in words
	X, Y   Axis     // X's Unit, Log and Zero mean nothing with Labels
	Labels []string // if any, the X of a Point is the index of its label
	Series []Series // a colour and marker each; a single one has no legend, and one without a name is not in it
}

// A Series is one line. Its points are drawn in the order of their X.
type Series struct {
	Name   string
	Points []Point
	Look   int  // colour and marker, counted from 1: the same in each of several charts. Zero: by its place in this one
	Faint  bool // it is what others stand out from: a thin grey line below them, without marks and whiskers
}

// look is the number of its colour and marker, from 0.
func (l Lines) look(i int) int {
	if n := l.Series[i].Look; n > 0 {
		return n - 1
	}
	return i
}

// A Point of a line.
type Point struct {
	X float64
	Y Value
}

// plotHeight is the height of the data, without what is about it.
const plotHeight = 320

// SVG draws the chart. A log axis with a number that is not above zero is an error.
func (l Lines) SVG() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	names := make([]string, len(l.Series))
	for i, s := range l.Series {
		names[i] = s.Name
	}
	f := newFrame(l.Title, names, func(i int) func(c *draw.Canvas, from, to vg.Point) {
		return func(c *draw.Canvas, from, to vg.Point) {
			if l.Series[i].Faint {
				c.StrokeLine2(line(rule, 1), from.X, from.Y, to.X, to.Y)
				return
			}
			c.StrokeLine2(line(series(l.look(i)), 2), from.X, from.Y, to.X, to.Y)
			mark(c, l.look(i), vg.Point{X: (from.X + to.X) / 2, Y: from.Y})
		}
	})

	p := newPlot()
	p.X.LineStyle.Width, p.Y.LineStyle.Width = 0, 0
	p.X.Padding = 8 // the lowest tick of the one axis would touch the first of the other
	data := &lines{Lines: l, cap: 5}
	var xs, ys []float64
	for _, s := range l.Series {
		for _, pt := range s.Points {
			lo, hi := pt.Y.ends()
			if s.Faint {
				lo, hi = pt.Y.Center, pt.Y.Center
			}
			xs, ys = append(xs, pt.X), append(ys, lo, hi)
		}
	}

	if l.Y.Log {
		var ticks []plot.Tick
		p.Y.Min, p.Y.Max, ticks = l.Y.logarithmic(slices.Min(ys), slices.Max(ys))
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.ConstantTicks(ticks)
	} else {
		lo, hi := slices.Min(ys), slices.Max(ys)
		if l.Y.Zero {
			lo, hi = min(lo, 0), max(hi, 0)
		}
		ticks := l.Y.linear(lo, hi, 6)
		p.Y.Min, p.Y.Max = ticks[0].Value, ticks[len(ticks)-1].Value
		p.Y.Tick.Marker = plot.ConstantTicks(ticks)
	}
	across, up := wrap(l.X.Label, 0.8*width, body()), wrap(l.Y.Label, plotHeight, body())
	beside := vg.Length(lineStep*len(up) + 2)
	room := width - 2*margin - beside - tickWidth(p.Y.Tick.Marker) - 6

	extra := vg.Length(0)
	if len(l.Labels) > 0 {
		extra = data.label(p, room)
	} else {
		slices.Sort(xs)
		data.number(p, slices.Compact(xs), room)
	}
	p.Add(data)

	below := vg.Length(lineStep*len(across) + 2)
	height := f.top() + plotHeight + p.X.Padding + lineStep + extra + below + margin
	return render(height, l.Title, l.Desc, func(c draw.Canvas) {
		c = f.draw(c)
		inner := draw.Crop(c, beside, 0, below, 0)
		p.Draw(inner)
		nameAxes(c, p.DataCanvas(inner), across, up)
	})
}

func (l Lines) check() error {
	if err := checkTexts(l.Title, l.Desc, l.X, l.Y); err != nil {
		return err
	}
	points := 0
	for _, s := range l.Series {
		if s.Look < 0 {
			return fault(l.Title, "series %q: its look is %d", s.Name, s.Look)
		}
		for _, pt := range s.Points {
			points++
			why := l.Y.checkValue(pt.Y)
			if why == "" && len(l.Labels) == 0 {
				why = l.X.checkNumber(pt.X)
			}
			if why != "" {
				return fault(l.Title, "series %q: %s", s.Name, why)
			}
			if n := len(l.Labels); n > 0 && !(pt.X >= 0 && pt.X < float64(n) && pt.X == math.Trunc(pt.X)) {
				return fault(l.Title, "series %q: %v is none of its %d labels", s.Name, pt.X, n)
			}
		}
	}
	if points == 0 {
		return fault(l.Title, "it has no points")
	}
	return nil
}

func tickWidth(t plot.Ticker) (w vg.Length) {
	for _, tick := range t.Ticks(0, 0) {
		w = max(w, body().Width(tick.Label))
	}
	return w
}

// lines draws the lines of a chart onto a plot.
type lines struct {
	Lines
	apart vg.Length // series stand beside each other by that much over the same label
	cap   vg.Length // half the width of a whisker's end
}

// label lays out an axis of labels, and returns how much higher the picture gets by that:
// they stand upright if there is no room for them otherwise, and if that does not help either, some are
// left out, never the last.
func (l *lines) label(p *plot.Plot, room vg.Length) (extra vg.Length) {
	const longest = 200 // an upright label
	n := len(l.Labels)
	p.X.Min, p.X.Max = -0.5, float64(n)-0.5
	step := room / vg.Length(n)
	l.cap = min(l.cap, max(1.5, step/4))
	if n := len(l.clear()); step >= 60 && n > 1 {
		l.apart = min(14, 0.5*step/vg.Length(n))
	}
	widest := vg.Length(0)
	for _, s := range l.Labels {
		widest = max(widest, body().Width(s))
	}
	every := 1
	upright := widest+8 > step
	if upright {
		every = int(math.Ceil(float64(lineStep / step)))
		p.X.Tick.Label.Rotation = math.Pi / 2
		p.X.Tick.Label.XAlign = draw.XRight
		p.X.Tick.Label.YAlign = draw.YCenter
		p.X.Padding = 13 // what stands upright begins higher than what lies
		extra = min(widest, longest) - textSize
	}
	var ticks []plot.Tick
	for i := n - 1; i >= 0; i -= every {
		s := l.Labels[i]
		if upright {
			s = shorten(s, longest)
		}
		ticks = append(ticks, plot.Tick{Value: float64(i), Label: s})
	}
	slices.Reverse(ticks)
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	return extra
}

// shorten takes from the middle of s what does not fit.
func shorten(s string, room vg.Length) string {
	r := []rune(s)
	for keep := len(r); body().Width(s) > room && keep > 2; keep-- {
		s = string(r[:keep/2]) + "…" + string(r[len(r)-(keep-1-keep/2):])
	}
	return s
}

// number lays out an axis of numbers. If there are few, the ticks are just those.
func (l *lines) number(p *plot.Plot, xs []float64, room vg.Length) {
	var ticks []plot.Tick
	lo, hi := xs[0], xs[len(xs)-1]
	if l.X.Log {
		p.X.Min, p.X.Max, ticks = l.X.logarithmic(lo, hi)
		p.X.Scale = plot.LogScale{}
	} else {
		if l.X.Zero {
			lo, hi = min(lo, 0), max(hi, 0)
		}
		ticks = l.X.linear(lo, hi, 6)
		p.X.Min, p.X.Max = ticks[0].Value, ticks[len(ticks)-1].Value
	}
	own := make([]plot.Tick, len(xs))
	for i, x := range xs {
		own[i] = plot.Tick{Value: x, Label: l.exact(x)}
	}
	if fits(p, own, room) {
		ticks = own
	}
	for !fits(p, ticks, room) { // every other one
		for i := range len(ticks) / 2 {
			ticks = slices.Delete(ticks, i+1, i+2)
		}
	}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
}

// exact writes x as it is if that is short: a limit of 4096 is not 4.1k.
func (l *lines) exact(x float64) string {
	if s := strconv.FormatFloat(x, 'f', -1, 64); l.X.Unit == "" && len(s) <= 5 {
		return s
	}
	return l.X.tick(x)
}

// fits reports whether the labels of ticks have room beside each other.
func fits(p *plot.Plot, ticks []plot.Tick, room vg.Length) bool {
	end := vg.Length(math.Inf(-1))
	for _, t := range ticks {
		w := body().Width(t.Label)
		x := vg.Length(p.X.Norm(t.Value)) * room
		if x-w/2 < end+12 {
			return false
		}
		end = x + w/2
	}
	return true
}

func (l *lines) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for _, t := range p.Y.Tick.Marker.Ticks(p.Y.Min, p.Y.Max) {
		c.StrokeLine2(line(grid, 1), c.Min.X, y(t.Value), c.Max.X, y(t.Value))
	}
	if len(l.Labels) == 0 {
		for _, t := range p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max) {
			c.StrokeLine2(line(grid, 1), x(t.Value), c.Min.Y, x(t.Value), c.Max.Y)
		}
	}
	for _, s := range l.Series {
		if s.Faint && len(s.Points) > 1 {
			var path []vg.Point
			for _, pt := range inOrder(s.Points) {
				path = append(path, vg.Point{X: x(pt.X), Y: y(pt.Y.Center)})
			}
			c.StrokeLines(line(rule, 1), path)
		}
	}
	for place, i := range l.clear() {
		points, look := inOrder(l.Series[i].Points), l.look(i)
		aside := l.apart * (vg.Length(place) - vg.Length(len(l.clear())-1)/2)
		path := make([]vg.Point, len(points))
		for j, pt := range points {
			path[j] = vg.Point{X: x(pt.X) + aside, Y: y(pt.Y.Center)}
			if pt.Y.whisker() {
				whisker(&c, line(series(look), 1.5), path[j].X, y(pt.Y.Lo), path[j].X, y(pt.Y.Hi), l.cap)
			}
		}
		if len(path) > 1 {
			c.StrokeLines(line(series(look), 2), path)
		}
		for _, pt := range path {
			mark(&c, look, pt)
		}
	}
	// The axes last, since the grid is on them.
	c.StrokeLine2(line(rule, 1), c.Min.X, c.Min.Y, c.Max.X, c.Min.Y)
	c.StrokeLine2(line(rule, 1), c.Min.X, c.Min.Y, c.Min.X, c.Max.Y)
}

// clear returns the indices of the series that are not faint.
func (l *lines) clear() (indices []int) {
	for i, s := range l.Series {
		if !s.Faint {
			indices = append(indices, i)
		}
	}
	return indices
}

// inOrder returns points in the order of their X.
func inOrder(points []Point) []Point {
	return slices.SortedStableFunc(slices.Values(points), func(a, b Point) int { return cmp.Compare(a.X, b.X) })
}
