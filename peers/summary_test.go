package peers

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A cost is what one client needs.
type cost struct {
	cpu  float64 // processor time for a URL in ns, 0 if not known
	rate float64 // URLs per second, 0 if not known
}

// A round is the cost of each client that had its turn, by its name.
type round map[string]cost

// current is the round that is under way.
var current = round{}

// A promise is that the processor time of client is at most bound times that of the
// cheapest of peers, as the median of the rounds.
type promise struct {
	client string
	peers  []string
	bound  float64
}

var aiohttpVariants = []string{"aiohttp-semaphore", "aiohttp-batches", "aiohttp-processes"}

// promises are what the project promises of itself.
var promises = []promise{
	{"fetch-pool", []string{"errgroup-tuned"}, 0.45},
	{"fetch-pool", []string{"errgroup-http-get"}, 0.30},
	{"fetch-pool", []string{"nethttp-pool"}, 0.60},
	{"fetch-pool", []string{"fasthttp"}, 0.95},
	{"fetch-pool", []string{"wrk"}, 1.15},
	{"fetch-pool", aiohttpVariants, 0.10},
	{"fetch-pipeline", []string{"fasthttp"}, 0.40},
	{"fetch-pipeline", []string{"wrk"}, 0.50},
	{"tls-fetch-pool", []string{"tls-errgroup-tuned"}, 0.60},
}

// ratio returns the promise's ratio in one round, or 0 if that did not measure it.
func (p *promise) ratio(r round) float64 {
	least := math.Inf(1)
	for _, name := range p.peers {
		if c := r[name].cpu; c > 0 {
			least = min(least, c)
		}
	}
	return r[p.client].cpu / least
}

func (p *promise) String() string {
	if len(p.peers) == 1 {
		return p.client + " / " + p.peers[0]
	}
	family, _, _ := strings.Cut(p.peers[0], "-")
	return p.client + " / cheapest " + family
}

// summary returns two tables: the clients, the cheapest first, and the promises. No line of
// it looks to benchstat like a benchmark or its configuration.
func summary(rounds []round) string {
	var out strings.Builder
	row := func(name, value, quartiles, last, end string) {
		line := fmt.Sprintf("%-30s %12s  %-20s %12s  %s", name, value, quartiles, last, end)
		fmt.Fprintln(&out, strings.TrimRight(line, " "))
	}
	fmt.Fprintf(&out, "\nMedians of %d rounds, and their quartiles\n\n", len(rounds))
	row("client", "cpu-ns/op", "", "urls/s", "")
	for _, name := range byCPU(rounds) {
		cpu, cpuQuartiles := spreadOf(rounds, func(r round) float64 { return r[name].cpu }).format(0)
		rate, rateQuartiles := spreadOf(rounds, func(r round) float64 { return r[name].rate }).format(0)
		row(name, cpu, cpuQuartiles, rate, rateQuartiles)
	}
	fmt.Fprintln(&out)
	row("promise", "ratio of cpu", "", "bound", "")
	for _, p := range promises {
		s := spreadOf(rounds, p.ratio)
		verdict := "met"
		switch {
		case s.n == 0:
			verdict = "not measured"
		case s.median > p.bound:
			verdict = "NOT MET"
		}
		ratio, quartiles := s.format(3)
		row(p.String(), ratio, quartiles, fmt.Sprintf("%.2f", p.bound), verdict)
	}
	return out.String()
}

// byCPU returns the names of all clients, the cheapest first.
func byCPU(rounds []round) []string {
	medians := map[string]float64{}
	for _, r := range rounds {
		for name := range r {
			medians[name] = spreadOf(rounds, func(r round) float64 { return r[name].cpu }).median
		}
	}
	var names []string
	for name := range medians {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(medians[a], medians[b]), strings.Compare(a, b))
	})
	return names
}

// A spread is the median of n values and their quartiles.
type spread struct {
	n                    int
	lower, median, upper float64
}

// spreadOf is the spread of a value of each round, without those that are 0.
func spreadOf(rounds []round, value func(round) float64) spread {
	var values []float64
	for _, r := range rounds {
		if v := value(r); v > 0 {
			values = append(values, v)
		}
	}
	slices.Sort(values)
	return spread{len(values), quantile(values, 0.25), quantile(values, 0.5), quantile(values, 0.75)}
}

// quantile interpolates between the two nearest of the sorted values; of none it is 0.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// format returns the median and the quartiles with so many digits after the point.
func (s spread) format(digits int) (median, quartiles string) {
	if s.n == 0 {
		return "-", ""
	}
	return fmt.Sprintf("%.*f", digits, s.median), fmt.Sprintf("%.*f to %.*f", digits, s.lower, digits, s.upper)
}
