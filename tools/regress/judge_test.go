package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/perf/benchproc"
)

// A machine is a synthetic one: it runs 20 benchmarks, and is as noisy as shared ones are. Each run of a benchmark
// varies by 3 %, one in twenty is disturbed and takes up to a half longer, and all becomes slower and quicker
// again by a tenth in the course of some rounds.
type machine struct {
	random *rand.Rand
	runs   int
	slow   map[int]float64 // by how much a benchmark is slower on the side head
	allocs map[int]int     // and how much more it allocates
	broken map[int]bool    // which does not exist there
}

func (m *machine) run(_ context.Context, side int, pattern string) ([]byte, error) {
	m.runs++
	weather := 1 + 0.05*math.Sin(float64(m.runs)/4)
	var out bytes.Buffer
	fmt.Fprintln(&out, "Unit urls/s better=higher\npkg: synthetic")
	for i := range 20 {
		name := fmt.Sprintf("Benchmark%02d/kind=a", i)
		asked := pattern == "." || slices.Contains(strings.Split(pattern, "|"), fmt.Sprintf("^Benchmark%02d$/^kind=a$", i))
		if !asked || side == 1 && m.broken[i] {
			continue
		}
		ns := 1000 * float64(i+1) * weather * math.Exp(0.03*m.random.NormFloat64())
		if m.random.IntN(20) == 0 {
			ns *= 1 + m.random.Float64()/2
		}
		allocs := 3
		if side == 1 {
			ns *= 1 + m.slow[i]
			allocs += m.allocs[i]
		}
		fmt.Fprintf(&out, "%s-2 1000 %.1f ns/op %.0f urls/s 128 B/op %d allocs/op\n", name, ns, 1e9/ns, allocs)
	}
	return out.Bytes(), nil
}

func newComparison(t testing.TB) *comparison {
	filter, err := benchproc.NewFilter("*")
	require.NoError(t, err)
	return &comparison{bench: bench{pattern: ".", time: "1x", rounds: 10}, limits: thresholds{0.05, 0.01}, filter: filter}
}

// judged runs the comparison on a synthetic machine, and returns the benchmarks that are worse.
func judged(t testing.TB, m *machine) (status int, benchmarks []string, err error) {
	c := newComparison(t)
	status, err = c.judge(t.Context(), m.run, outputs{io.Discard, io.Discard, "", ""})
	for _, r := range c.rows {
		if r.Verdict == isWorse && !slices.Contains(benchmarks, r.Benchmark) {
			benchmarks = append(benchmarks, r.Benchmark)
		}
	}
	return status, benchmarks, err
}

// What the gate is for: it finds what is slower by a tenth among twenty, and nothing where there is nothing.
func TestGate(t *testing.T) {
	found, alarms := 0, 0
	for seed := range uint64(40) {
		m := &machine{random: rand.New(rand.NewPCG(seed, 1))}
		status, benchmarks, err := judged(t, m)
		require.NoError(t, err)
		if status != same {
			alarms++
			t.Log("a false alarm:", benchmarks)
		}

		which := int(seed) % 20
		m = &machine{random: rand.New(rand.NewPCG(seed, 2)), slow: map[int]float64{which: 0.1}}
		status, benchmarks, err = judged(t, m)
		require.NoError(t, err)
		if status == worse {
			require.Equal(t, []string{fmt.Sprintf("%02d/kind=a-2", which)}, benchmarks)
			found++
		}

		m = &machine{random: rand.New(rand.NewPCG(seed, 3)), allocs: map[int]int{which: 1}}
		status, benchmarks, err = judged(t, m)
		require.NoError(t, err)
		require.Equal(t, worse, status, "one allocation more")
		require.Equal(t, []string{fmt.Sprintf("%02d/kind=a-2", which)}, benchmarks)

		m = &machine{random: rand.New(rand.NewPCG(seed, 4)), slow: map[int]float64{which: -0.3}, allocs: map[int]int{which: -1}}
		status, _, err = judged(t, m)
		require.NoError(t, err)
		require.Equal(t, same, status, "what is better is not worse")
	}
	assert.Zero(t, alarms, "false alarms in 40")
	assert.GreaterOrEqual(t, found, 36, "slowdowns found, of 40")
	t.Logf("found %d of 40, false alarms %d of 40", found, alarms)
}
