package chart

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update-golden", false, "rewrite the golden files")

func about(center, spread float64) Value {
	return Value{Center: center, Lo: center * (1 - spread), Hi: center * (1 + spread)}
}

func barsOf(n int, name string) Bars {
	b := Bars{
		Title: fmt.Sprintf("%d bars", n), Desc: "Bars in a row.",
		Axis: Axis{Label: "processor time for a URL, in seconds", Unit: "s"}, Series: []BarSeries{{Name: "one"}},
	}
	for i := range n {
		b.Groups = append(b.Groups, strings.ReplaceAll(name, "#", fmt.Sprint(i)))
		b.Series[0].Values = append(b.Series[0].Values, about(float64(i+1)*3.3e-6, 0.02*float64(i%5)))
	}
	return b
}

func commits(n, series int) Lines {
	l := Lines{
		Title: "Each benchmark over the commits, the first one being 1", Desc: "None changed.",
		X: Axis{Label: "commit"}, Y: Axis{Label: "time for a URL, relative to the first commit"},
	}
	for i := range n {
		l.Labels = append(l.Labels, fmt.Sprintf("%07x", 0xabc1234+i*0x1035))
	}
	for s := range series {
		points := Series{Name: fmt.Sprintf("Fetch/strategy=%d/engine=client", s)}
		for i := range n {
			points.Points = append(points.Points, Point{X: float64(i), Y: about(1+0.02*math.Sin(float64(i*(s+1))), 0.01)})
		}
		l.Series = append(l.Series, points)
	}
	return l
}

func limits(name string, n int) Series {
	s := Series{Name: name}
	for i, y := range []float64{180, 1390, 7900, 19300, 21000}[:n] {
		s.Points = append(s.Points, Point{X: math.Pow(8, float64(i)), Y: about(y, 0.1)})
	}
	return s
}

// charts are those that the properties are checked on, and their pictures kept.
var charts = map[string]interface{ SVG() ([]byte, error) }{
	"bars-grouped": Bars{
		Title: "URLs a second, without latency", Desc: "pool on client is the fastest, with 91.2k URLs/s.",
		Axis:   Axis{Label: "URLs/s"},
		Groups: []string{"serial", "threads", "pool", "semaphore", "batch", "shard"},
		Series: []BarSeries{
			{"client", []Value{about(26100, 0.02), about(7900, 0.2), about(91200, 0.05), about(90100, 0.03), about(89000, 0.04), Exactly(60100)}},
			{"nethttp", []Value{None(), None(), about(51600, 0.1), about(51700, 0.3), about(52300, 0.08), about(41500, 0.02)}},
		},
	},
	"bars-one":        barsOf(1, "alone"),
	"bars-twenty":     barsOf(20, "client-#"),
	"bars-long-names": barsOf(3, "a-client-with-a-very-long-name-#/that=goes/on=and/onandonandonandonandonandonandonandonandonandon<&>"),
	"bars-zero":       Bars{Title: "Nothing", Desc: "All are zero.", Axis: Axis{Label: "URLs/s"}, Groups: []string{"a"}, Series: []BarSeries{{"", []Value{Exactly(0)}}}},
	"bars-six-series": func() Bars {
		b := Bars{Title: "Six series with long names, and a title that does not fit into one line of the picture", Desc: "A test.", Axis: Axis{Label: "URLs/s"}, Groups: []string{"first", "second"}}
		for i := range 6 {
			b.Series = append(b.Series, BarSeries{fmt.Sprintf("series-with-a-name-%d", i), []Value{Exactly(float64(i + 1)), about(9.995, 0.5)}})
		}
		return b
	}(),
	"lines-log": Lines{
		Title: "Throughput by limit", Desc: "It grows with the limit.",
		X:      Axis{Label: "limit (requests under way at once)", Log: true},
		Y:      Axis{Label: "URLs/s", Log: true},
		Series: []Series{limits("pool", 4)},
	},
	"lines-log-two": Lines{
		Title: "Throughput by limit", Desc: "It grows with the limit.",
		X:      Axis{Label: "limit", Log: true},
		Y:      Axis{Label: "URLs/s", Log: true, Unit: ""},
		Series: []Series{limits("pool", 5), {Name: "semaphore", Points: []Point{{X: 3, Y: Exactly(100)}, {X: 9, Y: about(500, 0.3)}}}},
	},
	"lines-linear": Lines{
		Title: "Time by size", Desc: "It grows.",
		X: Axis{Label: "size, in bytes", Unit: "B", Zero: true}, Y: Axis{Label: "time, in seconds", Unit: "s", Zero: true},
		Series: []Series{{Name: "get", Points: []Point{{X: 1024, Y: about(25e-6, 0.1)}, {X: 65536, Y: about(90e-6, 0.1)}, {X: 1 << 20, Y: about(700e-6, 0.1)}}}},
	},
	"lines-one-point": Lines{
		Title: "One point", Desc: "It stands alone.", X: Axis{Label: "depth", Log: true}, Y: Axis{Label: "URLs/s", Log: true},
		Series: []Series{{Name: "only", Points: []Point{{X: 16, Y: Exactly(5000)}}}},
	},
	"lines-one-point-linear": Lines{
		Title: "One point", Desc: "It stands alone.", X: Axis{Label: "depth"}, Y: Axis{Label: "URLs/s"},
		Series: []Series{{Name: "only", Points: []Point{{X: 0, Y: Exactly(0)}}}},
	},
	"lines-two-labels": func() Lines {
		l := commits(2, 6)
		l.Labels = []string{"0s", "5ms"}
		l.X.Label = "latency"
		l.Y.Log = true
		for i := range l.Series {
			l.Series[i].Points[1].Y = about(0.01*float64(i+1), 0.2)
		}
		return l
	}(),
	"lines-commits":      commits(12, 3),
	"lines-commits-many": commits(70, 8),
	"lines-faint": func() Lines {
		l := commits(9, 30)
		for i := range l.Series[2:] {
			s := &l.Series[i+2]
			s.Name, s.Faint = "", true
		}
		l.Series[2].Name = "28 others"
		return l
	}(),
	"lines-long-labels": func() Lines {
		l := commits(5, 1)
		for i := range l.Labels {
			l.Labels[i] += "-a-branch-with-a-long-name-indeed-longer-than-the-picture-is-high"
		}
		return l
	}(),
	"lines-decades": Lines{
		Title: "Ten decades", Desc: "A test.", X: Axis{Label: "x", Log: true}, Y: Axis{Label: "time, in seconds", Unit: "s", Log: true},
		Series: []Series{{Name: "", Points: func() (p []Point) {
			for i := range 30 {
				p = append(p, Point{X: math.Pow(2, float64(i)), Y: Exactly(math.Pow10(i/3 - 8))})
			}
			return p
		}()}},
	},
}

// Without the flag, the pictures are those that somebody has looked at.
func TestGolden(t *testing.T) {
	for name, c := range charts {
		t.Run(name, func(t *testing.T) {
			got, err := c.SVG()
			require.NoError(t, err)
			again, err := c.SVG()
			require.NoError(t, err)
			assert.Equal(t, string(got), string(again), "the same chart gives the same bytes")
			file := filepath.Join("testdata", name+".svg")
			if *update {
				require.NoError(t, os.WriteFile(file, got, 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Equal(t, string(want), string(got), "go test -update-golden, and look at it")
		})
	}
}
