package chart_test

import (
	"bytes"
	"fmt"
	"math"

	"fetchbench/tools/internal/chart"
)

func ExampleBars() {
	svg, err := chart.Bars{
		Title:  "URLs a second, without latency",
		Desc:   "pool on client is the fastest, at 91.2k URLs/s.",
		Axis:   chart.Axis{Label: "URLs/s"},
		Groups: []string{"serial", "pool"},
		Series: []chart.BarSeries{
			{Name: "client", Values: []chart.Value{chart.Exactly(26100), {Center: 91200, Lo: math.Inf(-1), Hi: math.Inf(1)}}},
			{Name: "nethttp", Values: []chart.Value{chart.None(), {Center: 51600, Lo: 49800, Hi: 52300}}},
		},
	}.SVG()
	fmt.Println(bytes.Count(svg, []byte("<text")) > 0, err)
	// Output: true <nil>
}

// Commits are labels: the X of a point is the place of its commit among them.
func ExampleLines() {
	svg, err := chart.Lines{
		Title:  "Time for a URL over the commits",
		Desc:   "pool takes 3 % less since 2f00d1e.",
		X:      chart.Axis{Label: "commit"},
		Y:      chart.Axis{Label: "time, relative to the first commit"},
		Labels: []string{"1badcaf", "2f00d1e"},
		Series: []chart.Series{{
			Name:   "pool",
			Points: []chart.Point{{X: 0, Y: chart.Exactly(1)}, {X: 1, Y: chart.Value{Center: 0.97, Lo: 0.96, Hi: 0.98}}},
		}},
	}.SVG()
	fmt.Println(bytes.Contains(svg, []byte("2f00d1e")), err)

	_, err = chart.Lines{
		Title: "A log axis has no zero", Desc: "So this is an error.",
		X: chart.Axis{Label: "limit", Log: true}, Y: chart.Axis{Label: "URLs/s"},
		Series: []chart.Series{{Points: []chart.Point{{X: 0, Y: chart.Exactly(1)}}}},
	}.SVG()
	fmt.Println(err)
	// Output:
	// true <nil>
	// chart "A log axis has no zero": series "": 0 cannot be on a log axis
}

func ExampleAxis_Format() {
	fmt.Println(chart.Axis{}.Format(51622))
	fmt.Println(chart.Axis{Unit: "s"}.Format(26.43e-6))
	// Output:
	// 51.6k
	// 26.4 µs
}
