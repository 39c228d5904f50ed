package chart

import (
	"image/color"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type rgb [3]float64 // linear

func parseColor(t *testing.T, s string) rgb {
	var c color.RGBA
	require.Len(t, s, 7)
	for i, p := range []*uint8{&c.R, &c.G, &c.B} {
		for _, d := range s[1+2*i : 3+2*i] {
			v := uint8(d - '0')
			if d > '9' {
				v = uint8(d-'a') + 10
			}
			*p = *p<<4 | v
		}
	}
	linear := func(v uint8) float64 {
		x := float64(v) / 255
		if x <= 0.04045 {
			return x / 12.92
		}
		return math.Pow((x+0.055)/1.055, 2.4)
	}
	return rgb{linear(c.R), linear(c.G), linear(c.B)}
}

func (c rgb) luminance() float64 { return 0.2126*c[0] + 0.7152*c[1] + 0.0722*c[2] }

// contrast is that of WCAG 2.
func contrast(a, b rgb) float64 {
	x, y := a.luminance(), b.luminance()
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// visions are what people see who lack a kind of cone (Machado, Oliveira and Fernandes, 2009).
var visions = map[string][3]rgb{
	"normal":       {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	"protanopia":   {{0.152286, 1.052583, -0.204868}, {0.114503, 0.786281, 0.099216}, {-0.003882, -0.048116, 1.051998}},
	"deuteranopia": {{0.367322, 0.860646, -0.227968}, {0.280085, 0.672501, 0.047413}, {-0.011820, 0.042940, 0.968881}},
	"tritanopia":   {{1.255528, -0.076749, -0.178779}, {-0.078411, 0.930809, 0.147602}, {0.004733, 0.691367, 0.303900}},
}

func (c rgb) seen(vision [3]rgb) rgb {
	var s rgb
	for i, row := range vision {
		s[i] = min(1, max(0, row[0]*c[0]+row[1]*c[1]+row[2]*c[2]))
	}
	return s
}

// distance is ΔE of CIE 1976: 2 is just to be seen, 10 at a glance.
func distance(a, b rgb) float64 {
	lab := func(c rgb) rgb {
		f := func(v float64) float64 {
			if v > 0.008856 {
				return math.Cbrt(v)
			}
			return 7.787*v + 16.0/116
		}
		x := f((0.4124*c[0] + 0.3576*c[1] + 0.1805*c[2]) / 0.9505)
		y := f(c.luminance())
		z := f((0.0193*c[0] + 0.1192*c[1] + 0.9505*c[2]) / 1.089)
		return rgb{116*y - 16, 500 * (x - y), 200 * (y - z)}
	}
	p, q := lab(a), lab(b)
	return math.Sqrt((p[0]-q[0])*(p[0]-q[0]) + (p[1]-q[1])*(p[1]-q[1]) + (p[2]-q[2])*(p[2]-q[2]))
}

func TestPalette(t *testing.T) {
	for name, page := range map[string]struct {
		paper string
		pick  func(i int) string
	}{
		"light": {paperLight, func(i int) string { return palette[i].light }},
		"dark":  {paperDark, func(i int) string { return palette[i].dark }},
	} {
		t.Run(name, func(t *testing.T) {
			paper := parseColor(t, page.paper)
			for i := range palette {
				a := parseColor(t, page.pick(i))
				assert.GreaterOrEqual(t, contrast(a, paper), 3.0, page.pick(i))
				for j := range i {
					b := parseColor(t, page.pick(j))
					for vision, m := range visions {
						assert.GreaterOrEqual(t, distance(a.seen(m), b.seen(m)), 18.0, "%s and %s, %s", page.pick(i), page.pick(j), vision)
					}
				}
			}
		})
	}
	// Texts are held to more.
	text := others[ink-1]
	assert.GreaterOrEqual(t, contrast(parseColor(t, text.light), parseColor(t, paperLight)), 7.0)
	assert.GreaterOrEqual(t, contrast(parseColor(t, text.dark), parseColor(t, paperDark)), 7.0)
}

// Colour and marker together tell 24 lines apart.
func TestLooks(t *testing.T) {
	seen := map[[2]int]bool{}
	for i := range 24 {
		look := [2]int{int(series(i)), i % len(markers)}
		assert.False(t, seen[look], "series %d", i)
		seen[look] = true
	}
}
