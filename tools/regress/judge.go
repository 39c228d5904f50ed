package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
	"golang.org/x/perf/benchproc"
)

// alpha is the chance that is taken of finding a difference in any row where there is none.
const alpha = 0.05

// A key names a row: a benchmark, and one of the units that it is measured in.
type key struct{ benchmark, unit string }

// Samples are what one side's benchmarks were measured at.
type samples struct {
	values map[key][]float64
	order  []key // as they came
	units  benchfmt.UnitMetadataMap
}

// add adds the benchmarks that out, of that name, tells of, as far as filter lets them pass.
func (s *samples) add(name string, out []byte, filter *benchproc.Filter) error {
	if s.values == nil {
		s.values, s.units = make(map[key][]float64), make(benchfmt.UnitMetadataMap)
	}
	r := benchfmt.NewReader(bytes.NewReader(out), name)
	for r.Scan() {
		switch rec := r.Result().(type) {
		case *benchfmt.SyntaxError:
			return fmt.Errorf("malformed output: %w", rec)
		case *benchfmt.Result:
			if ok, err := filter.Apply(rec); err != nil {
				return err
			} else if !ok {
				continue
			}
			for _, v := range rec.Values {
				k := key{rec.Name.String(), v.Unit}
				if _, ok := s.values[k]; !ok {
					s.order = append(s.order, k)
				}
				s.values[k] = append(s.values[k], v.Value)
			}
		}
	}
	maps.Copy(s.units, r.Units())
	return r.Err()
}

// A row is what a benchmark was, and is, in one unit.
type row struct {
	Benchmark, Unit string
	Base, Head      benchmath.Summary
	NBase, NHead    int
	Better          int     // 1: higher values are; -1: lower ones; 0: nobody knows
	Change          float64 // of the median, as a part of the base's; infinite if that is 0
	P               float64 // by the test alone
	Holm            float64 // after the correction
	Noise           float64 // what the base differs from itself, as a part
	Threshold       float64
	Verdict         verdict
	constant        bool // it was the same in all runs of both sides
}

// A verdict is what is thought of a row.
type verdict string

const (
	isSame    verdict = ""              // or nobody could tell a difference
	isBetter  verdict = "better"        // by the rules by which it could be worse, but for the second time
	isSuspect verdict = "suspect"       // it has to show it once more
	isWorse   verdict = "WORSE"         // it has
	isPassing verdict = "did not recur" // it has not
)

// Thresholds are the changes, as parts, that a row may show.
type thresholds struct{ all, allocs float64 }

func (t thresholds) of(unit string) float64 {
	if unit == "allocs/op" {
		return t.allocs
	}
	return t.all
}

// Judge compares the samples of two sides. missing names the rows that one of them does not have.
func judge(base, head *samples, limits thresholds) (rows []*row, missing []string) {
	for _, k := range base.order {
		if _, ok := head.values[k]; !ok {
			missing = append(missing, fmt.Sprintf("%s in %s: not in head", k.benchmark, k.unit))
			continue
		}
		rows = append(rows, newRow(k, base, head, limits))
	}
	for _, k := range head.order {
		if _, ok := base.values[k]; !ok {
			missing = append(missing, fmt.Sprintf("%s in %s: not in base", k.benchmark, k.unit))
		}
	}
	holm(rows)
	for _, r := range rows {
		r.Verdict = r.judge()
	}
	return rows, missing
}

func newRow(k key, base, head *samples, limits thresholds) *row {
	assume := head.units.GetAssumption(k.unit)
	old, now := base.values[k], head.values[k]
	a, b := benchmath.NewSample(slices.Clone(old), &benchmath.DefaultThresholds), benchmath.NewSample(slices.Clone(now), &benchmath.DefaultThresholds)
	r := &row{
		Benchmark: k.benchmark, Unit: k.unit,
		Base: assume.Summary(a, 1-alpha), Head: assume.Summary(b, 1-alpha),
		NBase: len(old), NHead: len(now),
		Better:    head.units.GetBetter(k.unit),
		Noise:     noise(old),
		Threshold: limits.of(k.unit),
	}
	r.P = assume.Compare(a, b).P
	all := slices.Concat(old, now)
	r.constant = slices.Min(all) == slices.Max(all)
	r.Change = change(r.Base.Center, r.Head.Center)
	return r
}

// change returns how much now differs from old, as a part of that.
func change(old, now float64) float64 {
	switch {
	case old == now:
		return 0
	case old == 0:
		return math.Inf(int(math.Copysign(1, now)))
	}
	return now/old - 1
}

// isJudged reports whether r could be worse.
func (r *row) isJudged() bool { return r.Better != 0 && !r.constant }

// worsening returns how much worse r has become; negative: better.
func (r *row) worsening() float64 { return -float64(r.Better) * r.Change }

func (r *row) judge() verdict {
	limit := max(r.Threshold, r.Noise)
	switch {
	case r.Better == 0 || r.Holm > alpha:
		return isSame
	case r.worsening() > limit:
		return isSuspect
	case r.worsening() < -limit:
		return isBetter
	}
	return isSame
}

// holm corrects the p-values of rows for their number: S. Holm, A simple sequentially rejective multiple test
// procedure, 1979. Those do not count that could not be worse: what is not judged, and what was the same in all runs
// (R. E. Tarone, A modified Bonferroni method for discrete data, 1990).
func holm(rows []*row) {
	var judged []*row
	for _, r := range rows {
		r.Holm = 1
		if r.isJudged() {
			judged = append(judged, r)
		}
	}
	slices.SortStableFunc(judged, func(a, b *row) int { return cmp.Compare(a.P, b.P) })
	most := 0.0
	for i, r := range judged {
		most = max(most, min(1, r.P*float64(len(judged)-i)))
		r.Holm = most
	}
}

// Noise returns how much a sample differs from itself: how far apart, as a part, are the medians of
// its halves, in 95 of 100 divisions in two. Halves are less certain than the whole by the square
// root of 2, so it is divided by that. The runs of a side are spread over the whole time, and each half is one of an
// A/A comparison in it; all of them together tell more than a single one.
func noise(values []float64) float64 {
	n := len(values)
	if n < 4 {
		return 0
	}
	var diffs []float64
	var a, b []float64
	divide := func(inA func(i int) bool) {
		a, b = a[:0], b[:0]
		for i, v := range values {
			if inA(i) {
				a = append(a, v)
			} else {
				b = append(b, v)
			}
		}
		diffs = append(diffs, math.Abs(change(median(a), median(b))))
	}
	if n <= 12 {
		for set := range uint(1) << n {
			if bits.OnesCount(set) == n/2 {
				divide(func(i int) bool { return set>>i&1 == 1 })
			}
		}
	} else {
		random := rand.New(rand.NewPCG(1, 2))
		for range 300 {
			order := random.Perm(n)
			divide(func(i int) bool { return order[i] < n/2 })
		}
	}
	slices.Sort(diffs)
	return diffs[min(len(diffs)-1, len(diffs)*95/100)] / math.Sqrt2
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	if n%2 == 1 {
		return values[n/2]
	}
	return (values[n/2-1] + values[n/2]) / 2
}

// enough returns an error if there are so few samples that no row could ever be found worse.
func enough(rows []*row, rounds int) error {
	judged := 0
	for _, r := range rows {
		if r.isJudged() {
			judged++
		}
	}
	need := rounds
	for leastP(perRound*need, perRound*need)*float64(judged) > alpha {
		need++
	}
	if need > rounds {
		return fmt.Errorf("too few samples: with -rounds=%d no difference in %d rows could be told from chance; it takes %d, or fewer benchmarks", rounds, judged, need)
	}
	for _, r := range rows {
		if r.isJudged() && leastP(r.NBase, r.NHead)*float64(judged) > alpha {
			return fmt.Errorf("too few samples: %s has but %d and %d in %s", r.Benchmark, r.NBase, r.NHead, r.Unit)
		}
	}
	return nil
}

// leastP is the least p-value that the U test can give for samples of m and n.
func leastP(m, n int) float64 {
	ways := 1.0
	for i := 1; i <= n; i++ {
		ways = ways * float64(m+i) / float64(i)
	}
	return 2 / ways
}

// pattern returns a pattern for -test.bench that matches the benchmarks of rows and no other.
func pattern(rows []*row) string {
	var all []string
	for _, r := range rows {
		name := procs.ReplaceAllString(r.Benchmark, "")
		parts := strings.Split("Benchmark"+name, "/")
		for i, p := range parts {
			parts[i] = "^" + regexp.QuoteMeta(p) + "$"
		}
		if p := strings.Join(parts, "/"); !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return strings.Join(all, "|")
}

// procs is what go test adds to a benchmark's name.
var procs = regexp.MustCompile(`-\d+$`)
