package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
	"golang.org/x/perf/benchproc"
)

// Units, as package benchfmt tidies them.
const (
	secPerOp    = "sec/op"
	cpuPerOp    = "cpu-sec/op"
	p99         = "p99-sec"
	urlsPerSec  = "urls/s"
	peakFiles   = "peak-files"
	peakBytes   = "peak-B"
	smallScript = 100_000
	largeScript = 1_000_000
)

// A point is what one median is of: a benchmark with its keys, and for the scripts' own test the
// number of URLs.
type point struct {
	benchmark, strategy, engine, latency, limit, depth, client, hosts string
	urls                                                              int
}

// scripts is the benchmark of a point that counts for the Python scripts' own test.
const scripts = "scripts"

// A sample is the results of one point.
type sample struct {
	n      int                  // results
	values map[string][]float64 // by unit
}

// data is what the input files say.
type data struct {
	samples map[point]*sample
	unknown map[string]bool            // benchmarks that the report has no section for
	config  map[string]map[string]bool // the values of each key
	mixed   map[string]map[string]bool // what results differ in and should not, and of which benchmarks they are
}

// configKeys are the configuration lines that the report repeats, and by which
// results must not differ if one median is to be taken of them.
var configKeys = []string{"cpu", "goos", "goarch", "go", "goversion", "go-version", "toolchain", "commit"}

const gomaxprocs = "GOMAXPROCS"

// read reads files of benchmark results.
func read(paths []string) (*data, error) {
	for i, p := range paths {
		if slices.Contains(paths[:i], p) {
			return nil, fmt.Errorf("%s is given twice: its results would count twice", p)
		}
	}
	d := &data{
		samples: map[point]*sample{},
		unknown: map[string]bool{},
		config:  map[string]map[string]bool{},
		mixed:   map[string]map[string]bool{},
	}
	var parser benchproc.ProjectionParser
	project := func(expression string) *benchproc.Projection {
		p, err := parser.Parse(expression, nil)
		if err != nil {
			panic(err) // the expressions are constants
		}
		return p
	}
	keys := project(".name,/strategy,/engine,/latency,/limit,/depth,/client,/hosts")
	procs := project("/gomaxprocs")
	project(".file,pkg") // may differ
	residue := parser.Residue()
	residues := map[string]map[benchproc.Key]bool{}
	threads := map[string]map[string]bool{}

	files := benchfmt.Files{Paths: paths, AllowStdin: true}
	for files.Scan() {
		r, ok := files.Result().(*benchfmt.Result)
		if !ok {
			if err, ok := files.Result().(*benchfmt.SyntaxError); ok {
				return nil, err
			}
			continue // a unit's metadata: what the report draws is known
		}
		key := keys.Project(r)
		var f [8]string
		for i, field := range keys.Fields() {
			f[i] = key.Get(field)
		}
		p := point{benchmark: f[0], strategy: f[1], engine: f[2], latency: f[3], limit: f[4], depth: f[5], client: f[6], hosts: f[7]}
		if !p.known() {
			d.unknown[p.benchmark] = true
			continue
		}
		if p.benchmark == "Fetch" && (r.Iters == smallScript || r.Iters == largeScript) {
			if latency, _ := time.ParseDuration(p.latency); latency == 0 {
				p.benchmark, p.urls = scripts, r.Iters
			}
		}
		s := d.samples[p]
		if s == nil {
			s = &sample{values: map[string][]float64{}}
			d.samples[p] = s
		}
		s.n++
		for _, v := range r.Values {
			if !(v.Value >= 0) || math.IsInf(v.Value, 0) {
				file, line := r.Pos()
				return nil, fmt.Errorf("%s:%d: %v %s is no measurement", file, line, v.Value, v.Unit)
			}
			// Zero means that the clock is too coarse for so short a run.
			if v.Value > 0 {
				s.values[v.Unit] = append(s.values[v.Unit], v.Value)
			}
		}
		for _, k := range configKeys {
			if v := r.GetConfig(k); v != "" {
				add(d.config, k, v)
			}
		}
		n := procs.Project(r).StringValues()
		if n == "" {
			n = "1" // package testing leaves it out then
		}
		add(d.config, gomaxprocs, n)
		add(threads, p.benchmark, n)
		add(residues, p.benchmark, residue.Project(r))
	}
	if err := files.Err(); err != nil {
		return nil, err
	}
	if len(d.samples) == 0 {
		if len(d.unknown) > 0 {
			return nil, fmt.Errorf("%s: no result of a benchmark that the report knows, but of %s",
				strings.Join(paths, ", "), d.unknownNames())
		}
		return nil, fmt.Errorf("%s: no result of a benchmark", strings.Join(paths, ", "))
	}
	for benchmark, keys := range residues {
		for _, f := range benchproc.NonSingularFields(slices.Collect(maps.Keys(keys))) {
			switch {
			case slices.Contains(configKeys, f.Name):
				add(d.mixed, f.Name, benchmark)
			case f.Name == ".fullname":
				add(d.mixed, "further keys of their names", benchmark)
			}
		}
		if len(threads[benchmark]) > 1 {
			add(d.mixed, gomaxprocs, benchmark)
		}
	}
	return d, nil
}

func add[K comparable, V comparable](m map[K]map[V]bool, k K, v V) {
	if m[k] == nil {
		m[k] = map[V]bool{}
	}
	m[k][v] = true
}

// known reports whether the report has a section for p. One with a key that its section does not look at is
// something else, and in no median of it.
func (p point) known() bool {
	switch p.benchmark {
	case "Fetch":
		latency, err := time.ParseDuration(p.latency)
		return p.strategy != "" && p.engine != "" && err == nil && latency >= 0 && p.limit+p.depth+p.client+p.hosts == ""
	case "Limit":
		return isCount(p.limit) && p.depth+p.client+p.hosts == ""
	case "Pipeline":
		return isCount(p.depth) && p.limit+p.client+p.hosts == ""
	case "Peers", "TLS", "Hosts":
		return p.client != "" && (p.benchmark == "Hosts") == isCount(p.hosts) && p.strategy+p.engine+p.latency+p.limit+p.depth == ""
	}
	return false
}

func isCount(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n > 0
}

// unknownNames lists the benchmarks that there is no section for.
func (d *data) unknownNames() string {
	names := slices.Sorted(maps.Keys(d.unknown))
	for i, n := range names {
		names[i] = "Benchmark" + n
	}
	return strings.Join(names, ", ")
}

// of returns the points of a benchmark, in the order of the report.
func (d *data) of(benchmark string) []point {
	var points []point
	for p := range d.samples {
		if p.benchmark == benchmark {
			points = append(points, p)
		}
	}
	slices.SortFunc(points, func(a, b point) int {
		return cmp.Or(
			cmp.Compare(duration(a.latency), duration(b.latency)), cmp.Compare(a.latency, b.latency),
			compareStrategies(a.strategy, b.strategy), cmp.Compare(a.engine, b.engine),
			cmp.Compare(number(a.limit), number(b.limit)), cmp.Compare(number(a.depth), number(b.depth)),
			cmp.Compare(number(a.hosts), number(b.hosts)), cmp.Compare(a.client, b.client), cmp.Compare(a.urls, b.urls),
		)
	})
	return points
}

// strategies are the project's own, in the order of its documentation.
var strategies = []string{"serial", "threads", "pool", "semaphore", "batch", "shard"}

// compareStrategies puts those of others behind the project's own.
func compareStrategies(a, b string) int {
	place := func(s string) int {
		if i := slices.Index(strategies, s); i >= 0 {
			return i
		}
		return len(strategies)
	}
	return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a, b))
}

// distinct is what get returns for points, each once, in their order.
func distinct(points []point, get func(point) string) (values []string) {
	for _, p := range points {
		if v := get(p); !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	return values
}

func duration(s string) time.Duration {
	d, _ := time.ParseDuration(s)
	return d
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// sample is nil if there is nothing in that unit.
func (d *data) sample(p point, unit string) *benchmath.Sample {
	s := d.samples[p]
	if s == nil || len(s.values[unit]) == 0 {
		return nil
	}
	return benchmath.NewSample(slices.Clone(s.values[unit]), &benchmath.DefaultThresholds)
}

// summary is the median and its 95 % confidence interval, whose ends are infinite if there
// are too few results.
func (d *data) summary(p point, unit string) (benchmath.Summary, bool) {
	s := d.sample(p, unit)
	if s == nil {
		return benchmath.Summary{}, false
	}
	return benchmath.AssumeNothing.Summary(s, 0.95), true
}
