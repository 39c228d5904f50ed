package chart

import (
	"math"
	"strings"
	"unicode/utf8"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	xfont "golang.org/x/image/font"
)

// One point of the drawing is one pixel of the picture.
const (
	width     = 640
	margin    = 12
	textSize  = 16
	titleSize = 17
	lineStep  = 20 // from one line of text to the next
	swatch    = 26 // the sample of a series in the legend
)

func textStyle(size vg.Length, weight xfont.Weight, r role) text.Style {
	return text.Style{
		Color:   r.color(),
		Font:    font.Font{Typeface: "Liberation", Variant: "Sans", Weight: weight, Size: size},
		Handler: plot.DefaultTextHandler,
	}
}

func body() text.Style  { return textStyle(textSize, xfont.WeightNormal, ink) }
func title() text.Style { return textStyle(titleSize, xfont.WeightBold, ink) }

func line(r role, width vg.Length) draw.LineStyle {
	return draw.LineStyle{Color: r.color(), Width: width}
}

// wrap breaks s into lines no wider than room: behind a space, or what separates the parts
// of a benchmark's name or path, and in the middle of a word if nothing else helps.
func wrap(s string, room vg.Length, sty text.Style) []string {
	var lines []string
	current := ""
	add := func(piece string) {
		if current != "" && sty.Width(strings.TrimRight(current+piece, " ")) > room {
			lines = append(lines, strings.TrimRight(current, " "))
			current = ""
		}
		current += piece
	}
	for s != "" {
		end := strings.IndexAny(s, " /-_=,;:.") + 1
		if end == 0 {
			end = len(s)
		}
		piece := s[:end]
		s = s[end:]
		for sty.Width(strings.TrimRight(piece, " ")) > room {
			cut := 0
			for i := range piece {
				if i > 0 && sty.Width(piece[:i]) > room {
					break
				}
				cut = i
			}
			if cut == 0 { // not even one letter fits
				_, cut = utf8.DecodeRuneInString(piece)
			}
			if cut >= len(piece) {
				break
			}
			add(piece[:cut])
			piece = piece[cut:]
		}
		add(piece)
	}
	return append(lines, strings.TrimRight(current, " "))
}

// newPlot is a plot in the project's looks, without axes yet.
func newPlot() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Tick.Label.Font = body().Font
		a.Tick.Label.Color = ink.color()
		a.Tick.LineStyle = line(rule, 1)
		a.Tick.Length = 0
		a.LineStyle = line(rule, 1)
		a.Padding = 0
	}
	return p
}

// A frame is a picture with its title and legend, in which there is room for the data.
type frame struct {
	title  []string
	legend []entry
	rows   int // of the legend
}

// An entry of the legend.
type entry struct {
	lines []string
	row   int
	x     vg.Length
	draw  func(c *draw.Canvas, from, to vg.Point) // the sample
}

// newFrame lays out the title and, if names are more than one, the legend, in as many rows as it takes.
// What has no name is not in it.
func newFrame(heading string, names []string, sample func(i int) func(c *draw.Canvas, from, to vg.Point)) *frame {
	f := &frame{title: wrap(heading, width-2*margin, title())}
	if len(names) < 2 {
		return f
	}
	const gap = 6
	x := vg.Length(margin)
	for i, name := range names {
		if name == "" {
			continue
		}
		lines := wrap(name, width-2*margin-swatch-gap, body())
		w := swatch + gap + vg.Length(0)
		for _, l := range lines {
			w = max(w, swatch+gap+body().Width(l))
		}
		if x > margin && (x+w > width-margin || len(lines) > 1) {
			x = margin
			f.rows++
		}
		f.legend = append(f.legend, entry{lines: lines, row: f.rows, x: x, draw: sample(i)})
		x += w + 3*gap
		if len(lines) > 1 {
			x = width
			f.rows += len(lines) - 1
		}
	}
	if len(f.legend) > 0 {
		f.rows++
	}
	return f
}

// top is the height of title and legend.
func (f *frame) top() vg.Length {
	h := vg.Length(margin + lineStep*len(f.title) + 4)
	if f.rows > 0 {
		h += vg.Length(lineStep*f.rows + 10)
	}
	return h
}

// draw draws title and legend, and returns the rest of the canvas.
func (f *frame) draw(c draw.Canvas) draw.Canvas {
	y := c.Max.Y - margin
	for _, l := range f.title {
		c.FillText(title(), vg.Point{X: margin, Y: y - 15}, l)
		y -= lineStep
	}
	y -= 4
	if f.rows > 0 {
		y -= 4
	}
	for _, e := range f.legend {
		top := y - vg.Length(lineStep*e.row)
		middle := top - lineStep/2
		e.draw(&c, vg.Point{X: e.x, Y: middle}, vg.Point{X: e.x + swatch, Y: middle})
		for i, l := range e.lines {
			c.FillText(body(), vg.Point{X: e.x + swatch + 6, Y: top - vg.Length(lineStep*i) - 15}, l)
		}
	}
	return draw.Crop(c, margin, -margin, margin, -f.top())
}

// nameAxes writes the axes' labels beside the data, at the edges of c. The plot's own would be
// off center on a log axis, and longer than the axis.
func nameAxes(c, data draw.Canvas, across, up []string) {
	sty := body()
	sty.XAlign = draw.XCenter
	for i, l := range across {
		c.FillText(sty, vg.Point{X: data.Center().X, Y: c.Min.Y + vg.Length(lineStep*(len(across)-1-i)) + 1}, l)
	}
	sty.Rotation = math.Pi / 2
	for i, l := range up {
		c.FillText(sty, vg.Point{X: c.Min.X + vg.Length(lineStep*i) + 14, Y: data.Center().Y}, l)
	}
}
