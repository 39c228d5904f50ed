package peers

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a client sends is what it is asked for, no more and no less: else its numbers are
// those of other work.
func TestClientsGetEachURLOnce(t *testing.T) {
	s := startServer(t)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			get, close := c.open(s.url)
			defer close()
			for _, n := range []int{1, limit, 1000} {
				require.NoError(t, get(n))
				assert.Equal(t, n, s.requests(t))
			}
		})
	}
}

// One wrong answer of a hundred is noticed, the first and the last one too: so every answer is
// checked, status and body.
func TestClientsCheckEachAnswer(t *testing.T) {
	s := startServer(t)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			for _, how := range []string{"status", "body"} {
				for _, n := range []int{1, 37, 100} {
					get, close := c.open(s.wrong(how, n))
					assert.Error(t, get(100), "%s of request %d", how, n)
					close()
				}
			}
		})
	}
}

// The programs likewise, as far as they can be told to.
func TestProgramsCheckTheAnswers(t *testing.T) {
	s := startServer(t)
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			if p.find() == nil {
				t.Skip("not installed, try: " + p.install)
			}
			t.Parallel() // most of it is their start
			_, err := p.run(t.Context(), s.wrong("status", 100), 100)
			assert.Error(t, err)
			if p.bodies {
				_, err = p.run(t.Context(), s.wrong("body", 100), 100)
				assert.Error(t, err)
			}
		})
	}
}

func TestAnswersThatProgramsTellOf(t *testing.T) {
	const wrk = "Running 1s test @ http://127.0.0.1:1/ping\n  2 threads and 64 connections\n" +
		"  61234 requests in 1.00s, 8.53MB read\n"
	const h2load = "requests: 100 total, 100 started, 100 done, 100 succeeded, 0 failed, 0 errored, 0 timeout\n" +
		"status codes: 100 2xx, 0 3xx, 0 4xx, 0 5xx\n" +
		"traffic: 13.28KB (13600) total, 7.91KB (8100) headers (space savings 0.00%), 1.76KB (1800) data\n"
	for _, test := range []struct {
		name    string
		answers func(string) (int, error)
		output  string
		want    int // 0: an error
	}{
		{"wrk", wrkAnswers, wrk, 61234},
		{"wrk, statuses", wrkAnswers, wrk + "  Non-2xx or 3xx responses: 1\n", 0},
		{"wrk, connections", wrkAnswers, wrk + "  Socket errors: connect 0, read 1, write 0, timeout 0\n", 0},
		{"wrk, nothing", wrkAnswers, "", 0},
		{"h2load", h2loadAnswers, h2load, 100},
		{"h2load, statuses", h2loadAnswers, strings.Replace(h2load, "100 2xx, 0 3xx", "99 2xx, 1 3xx", 1), 0},
		{"h2load, failures", h2loadAnswers, strings.Replace(h2load, "0 errored", "1 errored", 1), 0},
		{"h2load, bodies", h2loadAnswers, strings.Replace(h2load, "(1800)", "(1799)", 1), 0},
		{"h2load, nothing", h2loadAnswers, "", 0},
		{"script", scriptAnswers, "100 answers\n", 100},
		{"script, nothing", scriptAnswers, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, err := test.answers(test.output)
			assert.Equal(t, test.want, n)
			assert.Equal(t, test.want == 0, err != nil, "%v", err)
		})
	}
}

func TestSummary(t *testing.T) {
	rounds := []round{
		{"fetch-pool": {10, 100}, "nethttp-pool": {20, 50}, "aiohttp-batches": {80, 5}, "aiohttp-processes": {40, 5}},
		{"fetch-pool": {14, 100}, "nethttp-pool": {20, 60}, "aiohttp-batches": {280, 5}, "aiohttp-processes": {400, 5}},
		{"fetch-pool": {11, 0}, "nethttp-pool": {20, 70}},
	}
	// The ratios are those of each round: 0.50, 0.70 and 0.55.
	assert.Equal(t, `
Medians of 3 rounds, and their quartiles

client                            cpu-ns/op                             urls/s
fetch-pool                               11  10 to 12                      100  100 to 100
nethttp-pool                             20  20 to 20                       60  55 to 65
aiohttp-batches                         180  130 to 230                      5  5 to 5
aiohttp-processes                       220  130 to 310                      5  5 to 5

promise                        ratio of cpu                              bound
fetch-pool / errgroup-tuned               -                               0.45  not measured
fetch-pool / errgroup-http-get            -                               0.30  not measured
fetch-pool / nethttp-pool             0.550  0.525 to 0.625               0.60  met
fetch-pool / fasthttp                     -                               0.95  not measured
fetch-pool / wrk                          -                               1.15  not measured
fetch-pool / cheapest aiohttp         0.150  0.100 to 0.200               0.10  NOT MET
fetch-pipeline / fasthttp                 -                               0.40  not measured
fetch-pipeline / wrk                      -                               0.50  not measured
tls-fetch-pool / tls-errgroup-tuned            -                               0.60  not measured
`, summary(rounds))
}

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{0}, spread{}}, // not known
		{[]float64{3}, spread{1, 3, 3, 3}},
		{[]float64{4, 0, 2}, spread{2, 2.5, 3, 3.5}},
		{[]float64{5, 1, 4, 2, 3}, spread{5, 2, 3, 4}},
	} {
		var rounds []round
		for _, v := range test.values {
			rounds = append(rounds, round{"x": {cpu: v}})
		}
		assert.Equal(t, test.want, spreadOf(rounds, func(r round) float64 { return r["x"].cpu }), "%v", test.values)
	}
}
