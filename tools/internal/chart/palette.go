package chart

import (
	"fmt"
	"image/color"
	"math"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A role is what a colour is for. The drawing has a colour that stands for each, and the style
// sheet says what it is on a light and on a dark page.
type role uint8

const (
	paper role = 1 + iota
	ink
	rule
	grid
	firstSeries
)

// color is the one that stands for r until the picture is done.
func (r role) color() color.Color { return color.NRGBA{B: uint8(r), A: 255} }

// series is the colour of the series number i.
func series(i int) role { return firstSeries + role(i%len(palette)) }

var (
	paperLight, paperDark = "#ffffff", "#0d1117"
	others                = []struct{ light, dark string }{
		{paperLight, paperDark},
		{"#1f2328", "#e6edf3"}, // ink
		{"#6e7781", "#8b949e"}, // rule
		{"#d8dee4", "#30363d"}, // grid
	}
	// palette stands out from the page by 3:1 at least, and its colours can be told apart
	// by people who do not see red, green or blue: a test sees to both.
	palette = []struct{ light, dark string }{
		{"#0072b2", "#58a6ff"}, // blue
		{"#d55e00", "#ff9b50"}, // orange
		{"#00a558", "#1a9060"}, // green
		{"#603a00", "#dfe8f5"}, // brown, pale
		{"#916783", "#ffe200"}, // mauve, yellow
		{"#ec08f8", "#a640ff"}, // magenta, violet
	}
)

// style is the sheet of all pictures. Arial, Helvetica and Liberation Sans have the same widths,
// those that the layout reckons with.
func style() string {
	var b strings.Builder
	b.WriteString("text{font-family:Arial,Helvetica,\"Liberation Sans\",Arimo,sans-serif;white-space:pre}\n")
	b.WriteString("path{stroke-linecap:butt;stroke-linejoin:round}\n")
	sheet := func(indent string, pick func(light, dark string) string) {
		for i, c := range append(others[:len(others):len(others)], palette...) {
			r := role(i + 1)
			fmt.Fprintf(&b, "%s.f%d{fill:%s}.s%d{fill:none;stroke:%s}\n", indent, r, pick(c.light, c.dark), r, pick(c.light, c.dark))
		}
	}
	sheet("", func(light, _ string) string { return light })
	b.WriteString("@media (prefers-color-scheme:dark){\n")
	sheet(" ", func(_, dark string) string { return dark })
	b.WriteString("}\n")
	return b.String()
}

// markers are the outlines of shapes of about the same weight, so that lines can be told apart without
// colours. They are not as many as the colours: the two together are new for each of the first 24 series.
var markers = [][]vg.Point{
	nil, // a circle
	{{X: -.9, Y: -.9}, {X: .9, Y: -.9}, {X: .9, Y: .9}, {X: -.9, Y: .9}},
	{{X: -1.1, Y: -.8}, {X: 1.1, Y: -.8}, {X: 0, Y: 1.2}},
	{{X: -1.2, Y: 0}, {X: 0, Y: -1.2}, {X: 1.2, Y: 0}, {X: 0, Y: 1.2}},
	{{X: -1.1, Y: .8}, {X: 1.1, Y: .8}, {X: 0, Y: -1.2}},
	cross(0),
	nil, // a ring
	cross(math.Pi / 4),
}

const ring = 6

// cross is the outline of a plus sign, turned by angle.
func cross(angle float64) []vg.Point {
	const long, thick = 1.25, 0.4
	sin, cos := math.Sincos(angle)
	var outline []vg.Point
	for range 4 {
		for _, p := range [][2]float64{{long, -thick}, {long, thick}, {thick, thick}} {
			outline = append(outline, vg.Point{X: vg.Length(p[0]*cos - p[1]*sin), Y: vg.Length(p[0]*sin + p[1]*cos)})
		}
		sin, cos = cos, -sin
	}
	return outline
}

// mark draws the marker of the series number i.
func mark(c *draw.Canvas, i int, at vg.Point) {
	const radius = 5
	outline := markers[i%len(markers)]
	if outline == nil {
		c.DrawGlyphNoClip(draw.GlyphStyle{Color: series(i).color(), Radius: radius, Shape: draw.CircleGlyph{}}, at)
		if i%len(markers) == ring {
			c.DrawGlyphNoClip(draw.GlyphStyle{Color: paper.color(), Radius: radius / 2, Shape: draw.CircleGlyph{}}, at)
		}
		return
	}
	points := make([]vg.Point, len(outline))
	for j, p := range outline {
		points[j] = vg.Point{X: at.X + radius*p.X, Y: at.Y + radius*p.Y}
	}
	c.FillPolygon(series(i).color(), points)
}
