package chart

import (
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A node is an element of a picture, at its place there.
type node struct {
	xml.StartElement
	text string
	m    matrix
}

func (n node) attr(name string) string {
	for _, a := range n.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// A matrix is an SVG transform: a c e, b d f.
type matrix [6]float64

func (m matrix) mul(o matrix) matrix {
	return matrix{
		m[0]*o[0] + m[2]*o[1], m[1]*o[0] + m[3]*o[1],
		m[0]*o[2] + m[2]*o[3], m[1]*o[2] + m[3]*o[3],
		m[0]*o[4] + m[2]*o[5] + m[4], m[1]*o[4] + m[3]*o[5] + m[5],
	}
}

func (m matrix) apply(x, y float64) (float64, float64) {
	return m[0]*x + m[2]*y + m[4], m[1]*x + m[3]*y + m[5]
}

func transform(t *testing.T, s string) matrix {
	m := matrix{1, 0, 0, 1, 0, 0}
	for s = strings.TrimSpace(s); s != ""; {
		call, rest, ok := strings.Cut(s, ")")
		require.True(t, ok, s)
		name, list, _ := strings.Cut(call, "(")
		var v []float64
		for f := range strings.SplitSeq(list, ",") {
			x, err := strconv.ParseFloat(strings.TrimSpace(f), 64)
			require.NoError(t, err)
			v = append(v, x)
		}
		switch name {
		case "scale":
			m = m.mul(matrix{v[0], 0, 0, v[1], 0, 0})
		case "translate":
			m = m.mul(matrix{1, 0, 0, 1, v[0], v[1]})
		case "rotate":
			sin, cos := math.Sincos(v[0] * math.Pi / 180)
			m = m.mul(matrix{cos, sin, -sin, cos, 0, 0})
		default:
			require.Fail(t, "unknown transform", name)
		}
		s = strings.TrimSpace(rest)
	}
	return m
}

// parse reads a picture; one that is not well-formed fails.
func parse(t *testing.T, svg []byte) (nodes []node) {
	d := xml.NewDecoder(strings.NewReader(string(svg)))
	stack := []matrix{{1, 0, 0, 1, 0, 0}}
	var open []int
	for {
		token, err := d.Token()
		if token == nil {
			require.EqualError(t, err, "EOF")
			return nodes
		}
		switch e := token.(type) {
		case xml.StartElement:
			n := node{StartElement: e.Copy()}
			n.m = stack[len(stack)-1].mul(transform(t, n.attr("transform")))
			stack = append(stack, n.m)
			open = append(open, len(nodes))
			nodes = append(nodes, n)
		case xml.EndElement:
			stack, open = stack[:len(stack)-1], open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				nodes[open[len(open)-1]].text += string(e)
			}
		}
	}
}

// A box is where a text is. Its length is exact; its height is that of most letters.
type box struct {
	text           string
	x0, y0, x1, y1 float64
}

func boxOf(t *testing.T, n node) box {
	number := func(name string) float64 {
		v, err := strconv.ParseFloat(n.attr(name), 64)
		require.NoError(t, err, name)
		return v
	}
	x, y, w, size := number("x"), number("y"), number("textLength"), number("font-size")
	ax, ay := n.m.apply(x, y-0.72*size)
	bx, by := n.m.apply(x+w, y+0.2*size)
	return box{n.text, min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)}
}

func TestPictures(t *testing.T) {
	for name, c := range charts {
		t.Run(name, func(t *testing.T) {
			svg, err := c.SVG()
			require.NoError(t, err)
			nodes := parse(t, svg)
			require.Equal(t, "svg", nodes[0].Name.Local)
			assert.Equal(t, "img", nodes[0].attr("role"))
			require.Equal(t, "title", nodes[1].Name.Local)
			assert.NotEmpty(t, nodes[1].text)
			require.Equal(t, "desc", nodes[2].Name.Local)
			assert.NotEmpty(t, nodes[2].text)

			// Nothing from elsewhere, and nothing that runs.
			rest := strings.Replace(string(svg), `xmlns="http://www.w3.org/2000/svg"`, "", 1)
			for _, no := range []string{"http:", "https:", "url(", "href", "@import", "<script", "NaN", "Inf", "style=", "#0000"} {
				assert.False(t, strings.Contains(rest, no), no)
			}
			assert.Contains(t, rest, "prefers-color-scheme:dark")

			var width, height float64
			_, err = fmt.Sscanf(nodes[0].attr("viewBox"), "0 0 %g %g", &width, &height)
			require.NoError(t, err)
			var boxes []box
			for _, n := range nodes {
				if n.Name.Local == "text" {
					boxes = append(boxes, boxOf(t, n))
				}
			}
			require.NotEmpty(t, boxes)
			for i, a := range boxes {
				assert.True(t, a.x0 >= 0 && a.y0 >= 0 && a.x1 <= width && a.y1 <= height, "%+v is cut off", a)
				for _, b := range boxes[i+1:] {
					assert.False(t, a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1, "%+v and %+v overlap", a, b)
				}
			}
		})
	}
}

// corners are the points of a path of straight lines.
func corners(t *testing.T, n node) (xs, ys []float64) {
	for f := range strings.FieldsFuncSeq(n.attr("d"), func(r rune) bool { return strings.ContainsRune("MLZ", r) }) {
		var x, y float64
		_, err := fmt.Sscanf(f, "%g,%g", &x, &y)
		require.NoError(t, err, f)
		x, y = n.m.apply(x, y)
		xs, ys = append(xs, x), append(ys, y)
	}
	return xs, ys
}

// A bar that begins elsewhere shows another ratio than that of the numbers.
func TestBarsBeginAtZero(t *testing.T) {
	for name, c := range charts {
		if _, ok := c.(Bars); !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			svg, err := c.SVG()
			require.NoError(t, err)
			nodes := parse(t, svg)
			// The ticks are in the lowest line but one.
			zero, lowest := 0.0, 0.0
			for _, n := range nodes {
				if n.Name.Local == "text" && (n.text == "0" || strings.HasPrefix(n.text, "0 ")) {
					if b := boxOf(t, n); b.y1 > lowest {
						zero, lowest = (b.x0+b.x1)/2, b.y1
					}
				}
			}
			require.NotZero(t, lowest)
			bars := 0
			for _, n := range nodes {
				class, _ := strconv.Atoi(strings.TrimPrefix(n.attr("class"), "f"))
				if n.Name.Local != "path" || class < int(firstSeries) {
					continue
				}
				xs, ys := corners(t, n)
				if ys[0] < 40 || math.Abs(xs[1]-xs[0]-swatch) < 0.01 && math.Abs(ys[2]-ys[0]) < 13 {
					continue // of the legend
				}
				bars++
				assert.InDelta(t, zero, xs[0], 0.6)
			}
			assert.NotZero(t, bars)
		})
	}
}

// What is about twice as much has to look so.
func TestBarsAreInProportion(t *testing.T) {
	b := Bars{Title: "t", Desc: "d", Axis: Axis{Label: "x"}, Groups: []string{"a", "b"}, Series: []BarSeries{{"", []Value{Exactly(30), about(60, 0.1)}}}}
	svg, err := b.SVG()
	require.NoError(t, err)
	var lengths []float64
	for _, n := range parse(t, svg) {
		if n.attr("class") == fmt.Sprintf("f%d", firstSeries) {
			xs, _ := corners(t, n)
			lengths = append(lengths, xs[1]-xs[0])
		}
	}
	require.Len(t, lengths, 2)
	assert.InDelta(t, 2, lengths[1]/lengths[0], 0.001)
}

func TestErrors(t *testing.T) {
	axis := Axis{Label: "URLs/s"}
	log := Axis{Label: "URLs/s", Log: true}
	bars := func(v ...Value) Bars {
		return Bars{Title: "t", Desc: "d", Axis: axis, Groups: []string{"g"}, Series: []BarSeries{{"s", v}}}
	}
	lines := func(x Axis, p ...Point) Lines {
		return Lines{Title: "t", Desc: "d", X: x, Y: log, Series: []Series{{Name: "s", Points: p}}}
	}
	for name, tt := range map[string]struct {
		chart interface{ SVG() ([]byte, error) }
		want  string
	}{
		"no title":               {Bars{Desc: "d"}, "a title and a description"},
		"no description":         {Lines{Title: "t"}, "a title and a description"},
		"no label":               {Bars{Title: "t", Desc: "d"}, "label"},
		"bars on a log axis":     {Bars{Title: "t", Desc: "d", Axis: log}, "log axis"},
		"no bars":                {Bars{Title: "t", Desc: "d", Axis: axis}, "no bars"},
		"only bars left out":     {bars(None()), "no bars"},
		"too few values":         {bars(), "0 values for 1 groups"},
		"a negative bar":         {bars(Exactly(-1)), "negative"},
		"an endless bar":         {bars(Exactly(math.Inf(1))), "no number"},
		"a whisker below zero":   {bars(Value{1, -1, 2}), "negative"},
		"a whisker elsewhere":    {bars(Value{1, 2, 3}), "not about"},
		"a whisker that is NaN":  {bars(Value{1, math.NaN(), 3}), "NaN"},
		"no points":              {lines(axis), "no points"},
		"a point left out":       {lines(axis, Point{1, None()}), "no number"},
		"zero on log y":          {lines(axis, Point{1, Exactly(0)}), "0 cannot be on a log axis"},
		"negative on log y":      {lines(axis, Point{1, Exactly(-3)}), "-3 cannot be on a log axis"},
		"zero on log x":          {lines(log, Point{0, Exactly(1)}), "0 cannot be on a log axis"},
		"negative on log x":      {lines(log, Point{-2, Exactly(1)}), "-2 cannot be on a log axis"},
		"a whisker to zero, log": {lines(axis, Point{1, Value{1, 0, 2}}), "0 cannot be on a log axis"},
		"x is NaN":               {lines(axis, Point{math.NaN(), Exactly(1)}), "no number"},
		"none of the labels": {Lines{Title: "t", Desc: "d", X: axis, Y: axis, Labels: []string{"a"},
			Series: []Series{{Name: "s", Points: []Point{{1, Exactly(1)}}}}}, "none of its 1 labels"},
		"between labels": {Lines{Title: "t", Desc: "d", X: axis, Y: axis, Labels: []string{"a", "b"},
			Series: []Series{{Name: "s", Points: []Point{{0.5, Exactly(1)}}}}}, "none of its 2 labels"},
	} {
		t.Run(name, func(t *testing.T) {
			svg, err := tt.chart.SVG()
			require.ErrorIs(t, err, ErrChart)
			assert.ErrorContains(t, err, tt.want)
			assert.Nil(t, svg)
		})
	}
}

// With too few samples the ends are infinite: then there is no whisker, and no half of one.
func TestUnknownWhiskers(t *testing.T) {
	draw := func(v Value) string {
		svg, err := Bars{Title: "t", Desc: "d", Axis: Axis{Label: "x"}, Groups: []string{"g"}, Series: []BarSeries{{"s", []Value{v}}}}.SVG()
		require.NoError(t, err)
		return string(svg)
	}
	exactly := draw(Exactly(5))
	assert.Equal(t, exactly, draw(Value{5, math.Inf(-1), math.Inf(1)}))
	assert.Equal(t, exactly, draw(Value{5, 3, math.Inf(1)}))
	assert.Equal(t, exactly, draw(Value{5, math.Inf(-1), 6}))
	assert.NotEqual(t, exactly, draw(Value{5, 3, 6}))
}

func TestFormat(t *testing.T) {
	for _, tt := range []struct {
		unit string
		x    float64
		want string
	}{
		{"", 0, "0"}, {"", 0.95, "0.950"}, {"", 1, "1.00"}, {"", 51622, "51.6k"}, {"", 999.6, "1.00k"}, {"", 999.4, "999"},
		{"", 1e6, "1.00M"}, {"", -51622, "-51.6k"}, {"", 3e15, "3000T"},
		{"s", 0, "0 s"}, {"s", 26.43e-6, "26.4 µs"}, {"s", 9.996e-4, "1.00 ms"}, {"s", 12, "12.0 s"}, {"s", 2e-12, "0.00200 ns"},
	} {
		assert.Equal(t, tt.want, Axis{Unit: tt.unit}.Format(tt.x), "%v %q", tt.x, tt.unit)
	}
}

func TestTicks(t *testing.T) {
	labels := func(a Axis, lo, hi float64) (s []string) {
		for _, t := range a.linear(lo, hi, 5) {
			s = append(s, t.Label)
		}
		return s
	}
	assert.Equal(t, []string{"0", "20k", "40k", "60k", "80k", "100k"}, labels(Axis{}, 0, 91200))
	assert.Equal(t, []string{"0", "0.1", "0.2", "0.3"}, labels(Axis{}, 0, 0.3))
	assert.Equal(t, []string{"0 s", "500 ns", "1 µs", "1.5 µs"}, labels(Axis{Unit: "s"}, 0, 1.5e-6))
	assert.Equal(t, []string{"0.9", "0.95", "1", "1.05", "1.1"}, labels(Axis{}, 0.91, 1.06))
	assert.Equal(t, []string{"-1", "-0.5", "0", "0.5", "1"}, labels(Axis{}, 0, 0))

	_, _, ticks := Axis{Log: true}.logarithmic(1, 512)
	assert.Equal(t, "1", ticks[0].Label)
	assert.Equal(t, "500", ticks[len(ticks)-1].Label)
}

func TestWrap(t *testing.T) {
	for _, s := range []string{"", "a", "one two three", "a/b/c", strings.Repeat("x", 200), "päth/" + strings.Repeat("é", 90)} {
		lines := wrap(s, 100, body())
		assert.Equal(t, strings.ReplaceAll(s, " ", ""), strings.ReplaceAll(strings.Join(lines, ""), " ", ""), "no letter is lost")
		for _, l := range lines {
			assert.LessOrEqual(t, float64(body().Width(l)), 100.0, l)
		}
	}
	assert.Equal(t, []string{"x", "y"}, wrap("xy", 1, body()), "a letter a line, if it has to be")
	assert.Equal(t, "abc…xyz", shorten("abcdefghijklmnopqrstuvwxyz", body().Width("abc…xyz")+1))
}
