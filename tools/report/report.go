package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/perf/benchmath"

	"fetchbench/tools/internal/chart"
)

// A report is the sections that there are results for.
type report struct {
	sections []section
	unknown  string // benchmarks without a section
}

// A section has the name by which -update asks for it, and so has each of its parts.
type section struct {
	name, heading string
	parts         []part
}

// A part is a text, or a picture.
type part struct {
	names   []string // by which it can be had, besides its section's
	heading string   // in the report
	text    string
	picture *picture
}

type picture struct {
	name, alt string
	svg       []byte
	file      string // in the report's folder
}

// names are those that -update may ask for; others have one of these and a hyphen before them.
var names = []string{"machine", "scripts", "strategies", "latency", "limit", "pipeline", "peers", "tls", "hosts"}

func newReport(d *data) (*report, error) {
	r := &report{}
	if len(d.unknown) > 0 {
		r.unknown = d.unknownNames()
	}
	for _, write := range []func(*data) (section, error){
		machineSection, scriptsSection, strategiesSection, limitSection, pipelineSection, peersSection, tlsSection, hostsSection,
	} {
		s, err := write(d)
		if err != nil {
			return nil, err
		}
		if len(s.parts) > 0 {
			r.sections = append(r.sections, s)
		}
	}
	r.nameFiles()
	return r, nil
}

// nameFiles gives each picture a file. Engines and latencies come from the input, and not every letter can be
// in a file's name everywhere.
func (r *report) nameFiles() {
	taken := map[string]bool{}
	for _, s := range r.sections {
		for _, p := range s.parts {
			if p.picture == nil {
				continue
			}
			name := strings.Map(func(r rune) rune {
				if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
					return r
				}
				return '-'
			}, p.picture.name)
			file := name
			for n := 2; taken[strings.ToLower(file)]; n++ { // some systems take no notice of case
				file = fmt.Sprintf("%s-%d", name, n)
			}
			taken[strings.ToLower(file)] = true
			p.picture.file = file + ".svg"
		}
	}
}

// machineSection says what was measured where.
func machineSection(d *data) (section, error) {
	var where []string
	values := func(key string) string {
		return plain.Replace(strings.Join(slices.Sorted(maps.Keys(d.config[key])), " and "))
	}
	for _, key := range append(configKeys[:len(configKeys):len(configKeys)], gomaxprocs) {
		v := values(key)
		switch {
		case v == "" || key == "goarch" && values("goos") != "":
			continue
		case key == "goos" && values("goarch") != "":
			v += "/" + values("goarch")
		case key == "go" || key == "goversion" || key == "go-version":
			v = "Go " + strings.TrimPrefix(v, "go")
		case key != "cpu" && key != "goos":
			v = key + " " + v
		}
		where = append(where, v)
	}
	results, fewest, most := 0, math.MaxInt, 0
	for _, s := range d.samples {
		results += s.n
		fewest, most = min(fewest, s.n), max(most, s.n)
	}
	text := fmt.Sprintf("Measured on %s: %s, %s of each benchmark.\n",
		strings.Join(where, ", "), count(results, "result"), span(fewest, most))
	for _, what := range slices.Sorted(maps.Keys(d.mixed)) {
		var benchmarks []string
		for _, b := range slices.Sorted(maps.Keys(d.mixed[what])) {
			if b == scripts {
				b = "Fetch (the scripts' own test)"
			}
			benchmarks = append(benchmarks, "Benchmark"+b)
		}
		text += fmt.Sprintf("\n**Take care:** results of %s differ in %s, and the medians are of all of them together.\n",
			strings.Join(benchmarks, ", "), what)
	}
	return section{name: "machine", parts: []part{{text: text}}}, nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func span(lo, hi int) string {
	if lo == hi {
		return strconv.Itoa(lo)
	}
	return fmt.Sprintf("%d to %d", lo, hi)
}

// python has the figures of the Python scripts: URLs a second, at a million of them.
var python = map[string]struct {
	rate float64
	what string
}{
	"serial":    {89, "one after the other"},
	"threads":   {189, "a thread for each URL"},
	"pool":      {185, "a pool of 12 threads"},
	"semaphore": {6068, "asyncio"},
	"batch":     {7258, "asyncio, in batches of 10 000"},
	"shard":     {11970, "asyncio, in 12 processes"},
}

// scriptsSection is the table that the Python scripts ended with.
func scriptsSection(d *data) (section, error) {
	points := d.of(scripts)
	if len(points) == 0 {
		return section{}, nil
	}
	t := &table{left: 2, tail: 1, head: []string{"strategy", "engine", "100 000 URLs: seconds", "URLs/s", "1 000 000 URLs: seconds", "URLs/s",
		"the Python script, 1 000 000 URLs: URLs/s", "what the script does"}}
	known := slices.Clone(strategies)
	for _, s := range distinct(points, func(p point) string { return p.strategy }) {
		if !slices.Contains(known, s) {
			known = append(known, s)
		}
	}
	for _, strategy := range known {
		var engines []string
		for _, p := range points {
			if p.strategy == strategy && !slices.Contains(engines, p.engine) {
				engines = append(engines, p.engine)
			}
		}
		if len(engines) == 0 {
			engines = []string{""}
		}
		slices.Sort(engines)
		for _, engine := range engines {
			line := []string{plain.Replace(strategy), cmp.Or(plain.Replace(engine), dash)}
			for _, urls := range []int{smallScript, largeScript} {
				seconds, rate := dash, dash
				for _, p := range points {
					if p.strategy != strategy || p.engine != engine || p.urls != urls {
						continue
					}
					if s, ok := d.summary(p, secPerOp); ok {
						seconds = fixed(s.Center * float64(urls))
					}
					if s, ok := d.summary(p, urlsPerSec); ok {
						rate = grouped(s.Center)
					}
				}
				line = append(line, seconds, rate)
			}
			if p, ok := python[strategy]; ok {
				line = append(line, grouped(p.rate), p.what)
			} else {
				line = append(line, dash, "")
			}
			t.add(line...)
		}
	}
	text := t.String() + "\nThe Python figures come from another machine: they compare the scripts with each other, not with these.\n"
	if n := slices.MaxFunc(points, func(a, b point) int { return cmp.Compare(d.samples[a].n, d.samples[b].n) }); d.samples[n].n > 1 {
		text += "Figures are medians.\n"
	}
	return section{name: "scripts", heading: "The Python scripts' own test", parts: []part{{text: text}}}, nil
}

// fixed writes seconds with three digits or more.
func fixed(x float64) string {
	switch {
	case x >= 100:
		return grouped(x)
	case x >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strconv.FormatFloat(x, 'f', 2, 64)
}

// A column of a table of medians.
type column struct {
	head   string
	unit   string
	format func(together ...float64) func(float64) string
}

var (
	rateColumn = column{"URLs/s", urlsPerSec, rate}
	cpuColumn  = column{"processor time for a URL", cpuPerOp, seconds}
	p99Column  = column{"p99 of the service time", p99, seconds}
	fileColumn = column{"open files", peakFiles, whole}
	sizeColumn = column{"memory, MB", peakBytes, megabytes}
)

// medians is a table of the medians of points, with names that name returns in front.
func (d *data) medians(points []point, head []string, name func(point) []string, columns ...column) string {
	t := &table{left: len(head), head: slices.Clone(head)}
	cells := make([][]string, len(points))
	for i, p := range points {
		for _, n := range name(p) {
			cells[i] = append(cells[i], plain.Replace(n))
		}
	}
	some, all := false, true
	for _, c := range columns {
		if !anyOf(d, points, c.unit) {
			continue
		}
		t.head = append(t.head, c.head)
		for i, p := range points {
			cell := dash
			if s, ok := d.summary(p, c.unit); ok {
				cell = median(s, c.format)
				some, all = some || ranged(s), all && ranged(s)
			}
			cells[i] = append(cells[i], cell)
		}
	}
	t.head = append(t.head, "results")
	for i, p := range points {
		t.add(append(cells[i], strconv.Itoa(d.samples[p].n))...)
	}
	const few = "fewer than the 6 results that a 95 % confidence interval needs"
	note := "Medians, with their 95 % confidence intervals."
	switch {
	case !some:
		note = "Medians, of " + few + "."
	case !all:
		note = "Medians, with their 95 % confidence intervals, but where there are " + few + "."
	}
	return t.String() + "\n" + note + "\n"
}

// value is the median of p for a chart.
func (d *data) value(p point, unit string) chart.Value {
	s, ok := d.summary(p, unit)
	if !ok {
		return chart.None()
	}
	return chart.Value{Center: s.Center, Lo: s.Lo, Hi: s.Hi}
}

// best says in words which point is the best one, and which one the worst, with their figures.
func (d *data) best(points []point, name func(point) string, unit string, higher bool, format func(float64) string, best, worst string) string {
	var have []point
	for _, p := range points {
		if _, ok := d.summary(p, unit); ok {
			have = append(have, p)
		}
	}
	center := func(p point) float64 {
		s, _ := d.summary(p, unit)
		return s.Center
	}
	slices.SortStableFunc(have, func(a, b point) int {
		if higher {
			a, b = b, a
		}
		return cmp.Compare(center(a), center(b))
	})
	first, last := have[0], have[len(have)-1]
	if len(have) == 1 {
		return upper(name(first) + ": " + format(center(first)) + ".")
	}
	text := upper(fmt.Sprintf("%s is %s, at %s", name(first), best, format(center(first))))
	text += fmt.Sprintf("; %s is %s, at %s.", name(last), worst, format(center(last)))

	// Which of the others the results cannot tell from the first.
	var alike []string
	for _, p := range have[1:] {
		a, b := d.sample(first, unit), d.sample(p, unit)
		if c := benchmath.AssumeNothing.Compare(a, b); len(c.Warnings) == 0 && c.P >= c.Alpha {
			alike = append(alike, name(p))
		}
	}
	switch {
	case len(alike) == 0:
	case len(alike) <= 3:
		text += fmt.Sprintf(" These results cannot tell %s from %s.", list(alike), name(first))
	default:
		text += fmt.Sprintf(" These results cannot tell %d others from %s.", len(alike), name(first))
	}
	return text
}

// upper has s begin a sentence. Names of the project stay as they are.
func upper(s string) string {
	if strings.HasPrefix(s, "a ") {
		return "A" + s[1:]
	}
	return s
}

func list(s []string) string {
	if len(s) < 2 {
		return strings.Join(s, "")
	}
	return strings.Join(s[:len(s)-1], ", ") + " and " + s[len(s)-1]
}

func perSecond(x float64) string { return chart.Axis{}.Format(x) + " URLs/s" }

func withLatency(s string) string {
	if duration(s) == 0 {
		return "without latency"
	}
	return "with " + s + " of latency"
}

// strategiesSection compares strategies and engines, for each latency and over them.
func strategiesSection(d *data) (section, error) {
	s := section{name: "strategies", heading: "Strategies"}
	points := d.of("Fetch")
	name := func(p point) string { return p.strategy + " on " + p.engine }
	for _, latency := range distinct(points, func(p point) string { return p.latency }) {
		var here []point
		for _, p := range points {
			if p.latency == latency {
				here = append(here, p)
			}
		}
		group := "strategies-" + latency
		head := "W" + strings.TrimPrefix(withLatency(latency), "w")
		if anyOf(d, here, urlsPerSec) {
			strategies := distinct(here, func(p point) string { return p.strategy })
			bars := chart.Bars{
				Title:  "URLs a second, by strategy and engine, " + withLatency(latency),
				Desc:   d.best(here, name, urlsPerSec, true, perSecond, "the fastest", "the slowest"),
				Axis:   chart.Axis{Label: "URLs/s"},
				Groups: strategies,
			}
			for _, engine := range sorted(distinct(here, func(p point) string { return p.engine })) {
				series := chart.BarSeries{Name: engine, Values: make([]chart.Value, len(strategies))}
				for i, strategy := range strategies {
					series.Values[i] = d.value(point{benchmark: "Fetch", strategy: strategy, engine: engine, latency: latency}, urlsPerSec)
				}
				bars.Series = append(bars.Series, series)
			}
			p, err := newPicture(group, bars.Title, bars.Desc, bars)
			if err != nil {
				return s, err
			}
			s.parts = append(s.parts, part{names: []string{group, group + "-chart"}, heading: head, picture: p})
			head = ""
		}
		columns := []column{rateColumn}
		if duration(latency) == 0 {
			columns = append(columns, cpuColumn, p99Column)
		}
		s.parts = append(s.parts, part{
			names:   []string{group, group + "-table"},
			heading: head,
			text: d.medians(here, []string{"strategy", "engine"}, func(p point) []string {
				return []string{p.strategy, p.engine}
			}, columns...),
		})
	}
	return s, latencyCurves(d, points, &s)
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

func anyOf(d *data, points []point, unit string) bool {
	return slices.ContainsFunc(points, func(p point) bool {
		_, ok := d.summary(p, unit)
		return ok
	})
}

// latencyCurves adds a chart for each engine: the strategies over the latency. It is left out if
// there is one latency alone.
func latencyCurves(d *data, points []point, s *section) error {
	latencies := distinct(points, func(p point) string { return p.latency })
	looks := distinct(points, func(p point) string { return p.strategy })
	slices.SortFunc(looks, compareStrategies)
	heading := "By latency"
	for _, engine := range sorted(distinct(points, func(p point) string { return p.engine })) {
		lines := chart.Lines{
			Title:  "URLs a second by latency, on " + engine,
			X:      chart.Axis{Label: "latency of the server"},
			Y:      chart.Axis{Label: "URLs/s", Log: true},
			Labels: latencies,
		}
		var words []string
		for i, strategy := range looks {
			series := chart.Series{Name: strategy, Look: i + 1}
			for x, latency := range latencies {
				v := d.value(point{benchmark: "Fetch", strategy: strategy, engine: engine, latency: latency}, urlsPerSec)
				if !v.IsNone() {
					series.Points = append(series.Points, chart.Point{X: float64(x), Y: v})
				}
			}
			if n := len(series.Points); n > 1 {
				lines.Series = append(lines.Series, series)
				from, to := series.Points[0], series.Points[n-1]
				words = append(words, fmt.Sprintf("%s from %s at %s to %s at %s", strategy,
					chart.Axis{}.Format(from.Y.Center), latencies[int(from.X)], chart.Axis{}.Format(to.Y.Center), latencies[int(to.X)]))
			}
		}
		if len(lines.Series) == 0 {
			continue
		}
		lines.Desc = "URLs/s: " + strings.Join(words, "; ") + "."
		group := "latency-" + engine
		p, err := newPicture(group, lines.Title, lines.Desc, lines)
		if err != nil {
			return err
		}
		s.parts = append(s.parts, part{names: []string{"latency", group}, heading: heading, picture: p})
		heading = ""
	}
	return nil
}

// limitSection is the throughput over the limit.
func limitSection(d *data) (section, error) {
	return curve(d, "Limit", "limit", "Limit", "URLs a second by limit", "limit (requests under way at once)",
		func(p point) string { return p.limit })
}

// pipelineSection is the throughput over the requests in one write.
func pipelineSection(d *data) (section, error) {
	return curve(d, "Pipeline", "pipeline", "Pipelining", "URLs a second by depth of pipelining", "depth (requests in one write)",
		func(p point) string { return p.depth })
}

// curve is a section of a benchmark that has a number in its name.
func curve(d *data, benchmark, name, heading, title, axis string, x func(point) string) (section, error) {
	points := d.of(benchmark)
	if len(points) == 0 {
		return section{}, nil
	}
	s := section{name: name, heading: heading}
	line := func(p point) string {
		return strings.Join(slices.DeleteFunc([]string{p.strategy, p.engine, p.latency}, func(s string) bool { return s == "" }), "/")
	}
	head, _, _ := strings.Cut(axis, " ")
	full := func(p point) string {
		return strings.TrimSuffix(fmt.Sprintf("a %s of %s, %s", head, x(p), line(p)), ", ")
	}
	if anyOf(d, points, urlsPerSec) {
		lines := chart.Lines{
			Title: title,
			Desc:  d.best(points, full, urlsPerSec, true, perSecond, "the fastest", "the slowest"),
			X:     chart.Axis{Label: axis, Log: true},
			Y:     chart.Axis{Label: "URLs/s", Log: true},
		}
		for _, l := range distinct(points, line) {
			series := chart.Series{Name: l}
			for _, p := range points {
				if v := d.value(p, urlsPerSec); line(p) == l && !v.IsNone() {
					series.Points = append(series.Points, chart.Point{X: float64(number(x(p))), Y: v})
				}
			}
			if len(series.Points) > 0 {
				lines.Series = append(lines.Series, series)
			}
		}
		p, err := newPicture(name, lines.Title, lines.Desc, lines)
		if err != nil {
			return s, err
		}
		s.parts = append(s.parts, part{names: []string{name + "-chart"}, picture: p})
	}
	columns, cells := []string{head}, func(p point) []string { return []string{x(p)} }
	if slices.ContainsFunc(points, func(p point) bool { return line(p) != "" }) {
		columns, cells = append(columns, "of"), func(p point) []string { return []string{x(p), line(p)} }
	}
	s.parts = append(s.parts, part{
		names: []string{name + "-table"},
		text:  d.medians(points, columns, cells, rateColumn, cpuColumn, p99Column),
	})
	return s, nil
}

// peersSection compares this project with other clients, the cheapest first.
func peersSection(d *data) (section, error) {
	points := d.of("Peers")
	if len(points) == 0 {
		return section{}, nil
	}
	s := section{name: "peers", heading: "Other clients"}
	cost := func(p point) float64 {
		if s, ok := d.summary(p, cpuPerOp); ok {
			return s.Center
		}
		return math.Inf(1)
	}
	slices.SortStableFunc(points, func(a, b point) int { return cmp.Compare(cost(a), cost(b)) })
	name := func(p point) string { return p.client }
	if anyOf(d, points, cpuPerOp) {
		axis := chart.Axis{Label: "processor time of the client for a URL, in seconds", Unit: "s"}
		bars := chart.Bars{
			Title:  "Processor time for a URL, by client (less is better)",
			Desc:   d.best(points, name, cpuPerOp, false, axis.Format, "the cheapest", "the dearest"),
			Axis:   axis,
			Series: []chart.BarSeries{{}},
		}
		for _, p := range points {
			if v := d.value(p, cpuPerOp); !v.IsNone() {
				bars.Groups = append(bars.Groups, p.client)
				bars.Series[0].Values = append(bars.Series[0].Values, v)
			}
		}
		p, err := newPicture("peers", bars.Title, bars.Desc, bars)
		if err != nil {
			return s, err
		}
		s.parts = append(s.parts, part{names: []string{"peers-chart"}, picture: p})
	}
	s.parts = append(s.parts, part{
		names: []string{"peers-table"},
		text:  d.medians(points, []string{"client"}, func(p point) []string { return []string{p.client} }, cpuColumn, rateColumn),
	})
	return s, nil
}

// tlsSection compares clients over TLS, the cheapest first.
func tlsSection(d *data) (section, error) {
	points := d.of("TLS")
	if len(points) == 0 {
		return section{}, nil
	}
	slices.SortStableFunc(points, func(a, b point) int { return cmp.Compare(d.value(a, cpuPerOp).Center, d.value(b, cpuPerOp).Center) })
	return section{name: "tls", heading: "Over TLS", parts: []part{{
		text: d.medians(points, []string{"client"}, func(p point) []string { return []string{p.client} }, cpuColumn, rateColumn),
	}}}, nil
}

// hostsSection compares clients by what many hosts cost.
func hostsSection(d *data) (section, error) {
	points := d.of("Hosts")
	if len(points) == 0 {
		return section{}, nil
	}
	return section{name: "hosts", heading: "Many hosts", parts: []part{{
		text: d.medians(points, []string{"hosts", "client"}, func(p point) []string { return []string{p.hosts, p.client} },
			cpuColumn, rateColumn, fileColumn, sizeColumn),
	}}}, nil
}

func newPicture(name, title, finding string, c interface{ SVG() ([]byte, error) }) (*picture, error) {
	svg, err := c.SVG()
	if err != nil {
		return nil, err
	}
	return &picture{name: name, alt: title + ". " + finding, svg: svg}, nil
}

// markdown is the report, with the pictures beside it.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("# Benchmark report\n")
	for _, s := range r.sections {
		if s.heading != "" {
			fmt.Fprintf(&b, "\n## %s\n", s.heading)
		}
		for _, p := range s.parts {
			if p.heading != "" {
				fmt.Fprintf(&b, "\n### %s\n", p.heading)
			}
			b.WriteString("\n" + p.markdown(""))
		}
	}
	if r.unknown != "" {
		fmt.Fprintf(&b, "\nThe results also have %s, which this report has no section for.\n", plain.Replace(r.unknown))
	}
	return b.String()
}

// markdown is the part, with its picture in the folder dir, which ends in a slash or is empty.
func (p part) markdown(dir string) string {
	if p.picture != nil {
		return image(p.picture.alt, dir+p.picture.file)
	}
	return p.text
}

// write writes the report and its pictures into dir.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for _, s := range r.sections {
		for _, p := range s.parts {
			if p.picture == nil {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, p.picture.file), p.picture.svg, 0o666); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(dir, "report.md"), []byte(r.markdown()), 0o666)
}
