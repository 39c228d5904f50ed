package chart

import (
	"math"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Bars is a chart of horizontal bars, which begin at zero: long names stay readable, and
// each bar has its number behind it.
type Bars struct {
	Title  string // what is to be seen, on top of the picture
	Desc   string // the finding in words
	Axis   Axis   // of the numbers
	Groups []string
	Series []BarSeries // one colour each; a single one has no legend
}

// A BarSeries has a bar in each group, but where its Value is None.
type BarSeries struct {
	Name   string
	Values []Value // one for each group
}

const (
	barHeight = 19
	barStep   = 23 // from one bar of a group to the next
	groupGap  = 13
)

// SVG draws the chart. A negative number is an error, and so is a Log axis, which has no zero.
func (b Bars) SVG() ([]byte, error) {
	most, err := b.check()
	if err != nil {
		return nil, err
	}
	names := make([]string, len(b.Series))
	for i, s := range b.Series {
		names[i] = s.Name
	}
	f := newFrame(b.Title, names, func(i int) func(c *draw.Canvas, from, to vg.Point) {
		return func(c *draw.Canvas, from, to vg.Point) {
			fill(c, series(i), from.X, from.Y-6, to.X, to.Y+6)
		}
	})

	p := newPlot()
	axis := b.Axis
	axis.Zero = true
	ticks := axis.linear(0, most, 5)
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	p.X.LineStyle.Width, p.Y.LineStyle.Width = 0, 0
	p.Y.Padding = 3 // names would touch the bars
	// A bar that ends between two ticks needs no room up to the next.
	p.X.Min, p.X.Max = 0, max(most, ticks[len(ticks)-2].Value)

	// The vertical axis is in pixels from the top, downwards.
	data := &bars{Bars: b, grid: ticks}
	var groups []plot.Tick
	y := 0.0
	for g, name := range b.Groups {
		lines := wrap(name, 0.36*width, body())
		n := 0
		for _, s := range b.Series {
			if !s.Values[g].IsNone() {
				n++
			}
		}
		height := max(float64(n*barStep), float64(len(lines)*textSize+4)) + groupGap
		middle := y + height/2
		groups = append(groups, plot.Tick{Value: -middle, Label: strings.Join(lines, "\n")})
		at := middle - float64((n-1)*barStep)/2
		for i, s := range b.Series {
			if v := s.Values[g]; !v.IsNone() {
				data.bars = append(data.bars, bar{y: -at, series: i, value: v})
				at += barStep
			}
		}
		y += height
	}
	p.Y.Min, p.Y.Max = -y, 0
	p.Y.Tick.Marker = plot.ConstantTicks(groups)
	p.Add(data)

	label := wrap(b.Axis.Label, 0.8*width, body())
	below := vg.Length(lineStep*len(label) + 2)
	height := f.top() + vg.Length(y) + lineStep + below + margin
	return render(height, b.Title, b.Desc, func(c draw.Canvas) {
		c = f.draw(c)
		inner := draw.Crop(c, 0, 0, below, 0)
		p.Draw(inner)
		nameAxes(c, p.DataCanvas(inner), label, nil)
	})
}

// check returns the highest number to make room for.
func (b Bars) check() (most float64, err error) {
	if err := checkTexts(b.Title, b.Desc, b.Axis); err != nil {
		return 0, err
	}
	if b.Axis.Log {
		return 0, fault(b.Title, "bars begin at zero, which a log axis has not")
	}
	if len(b.Groups) == 0 || len(b.Series) == 0 {
		return 0, fault(b.Title, "it has no bars")
	}
	there := false
	for _, s := range b.Series {
		if len(s.Values) != len(b.Groups) {
			return 0, fault(b.Title, "series %q has %d values for %d groups", s.Name, len(s.Values), len(b.Groups))
		}
		for _, v := range s.Values {
			if v.IsNone() {
				continue
			}
			there = true
			if why := b.Axis.checkValue(v); why != "" {
				return 0, fault(b.Title, "series %q: %s", s.Name, why)
			}
			lo, hi := v.ends()
			if lo < 0 {
				return 0, fault(b.Title, "series %q: %v is negative, bars begin at zero", s.Name, lo)
			}
			most = max(most, hi)
		}
	}
	if !there {
		return 0, fault(b.Title, "it has no bars")
	}
	if most == 0 {
		most = 1
	}
	return most, nil
}

// bars draws the bars of a chart onto a plot.
type bars struct {
	Bars
	grid []plot.Tick
	bars []bar
}

type bar struct {
	y      float64 // its middle
	series int
	value  Value
}

// labelGap is between a bar, or its whisker, and its number.
const labelGap = 7

func (b *bars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for _, t := range b.grid {
		if t.Value <= p.X.Max {
			c.StrokeLine2(line(grid, 1), x(t.Value), c.Min.Y, x(t.Value), c.Max.Y)
		}
	}
	for _, bar := range b.bars {
		v, middle := bar.value, y(bar.y)
		fill(&c, series(bar.series), x(0), middle-barHeight/2.0, x(v.Center), middle+barHeight/2.0)
		_, end := v.ends()
		if v.whisker() {
			// The page's colour about it keeps it visible on every bar.
			whisker(&c, line(paper, 4), x(v.Lo), middle, x(v.Hi), middle, 4.8)
			whisker(&c, line(ink, 1.6), x(v.Lo), middle, x(v.Hi), middle, 4)
		}
		sty := body()
		sty.YAlign = draw.YCenter
		c.FillText(sty, vg.Point{X: x(end) + labelGap, Y: middle + sty.FontExtents().Descent - 1}, b.Axis.Format(v.Center))
	}
	c.StrokeLine2(line(rule, 1), x(0), c.Min.Y, x(0), c.Max.Y)
}

// GlyphBoxes has the plot keep room for the numbers.
func (b *bars) GlyphBoxes(p *plot.Plot) []plot.GlyphBox {
	var boxes []plot.GlyphBox
	for _, bar := range b.bars {
		_, end := bar.value.ends()
		w := body().Width(b.Axis.Format(bar.value.Center)) + labelGap
		boxes = append(boxes, plot.GlyphBox{
			X:         p.X.Norm(end),
			Y:         p.Y.Norm(bar.y),
			Rectangle: vg.Rectangle{Max: vg.Point{X: w}},
		})
	}
	return boxes
}

func fill(c *draw.Canvas, r role, x0, y0, x1, y1 vg.Length) {
	c.FillPolygon(r.color(), []vg.Point{{X: x0, Y: y0}, {X: x1, Y: y0}, {X: x1, Y: y1}, {X: x0, Y: y1}})
}

// whisker draws a line with a cap at each end.
func whisker(c *draw.Canvas, sty draw.LineStyle, x0, y0, x1, y1, cap vg.Length) {
	long := math.Hypot(float64(x1-x0), float64(y1-y0))
	if long == 0 {
		return
	}
	dx, dy := cap*(y1-y0)/vg.Length(long), cap*(x1-x0)/vg.Length(long)
	c.StrokeLine2(sty, x0, y0, x1, y1)
	c.StrokeLine2(sty, x0-dx, y0-dy, x0+dx, y0+dy)
	c.StrokeLine2(sty, x1-dx, y1-dy, x1+dx, y1+dy)
}
