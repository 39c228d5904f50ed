package peers

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"fetchbench/fetch/fetchtest"
)

// A program is a way to GET a URL many times, in a process of its own.
type program struct {
	name string
	// find returns the command's first words, or nil if it is not installed.
	find func() []string
	// install says how to install it.
	install string
	// args are the others, for n GETs of url.
	args func(url string, n int) []string
	// answers returns the number of good answers that its output tells of, or an error if
	// there were other ones.
	answers func(output string) (int, error)
	// timed is set if it runs for some seconds, and not for n GETs.
	timed bool
	// bodies is set if it compares the bodies; if not, it looks at the statuses alone, or at the bodies' length too.
	bodies bool
}

var programs = []program{
	wrk("wrk", 2), // its default
	wrk("wrk-one-thread", 1),
	h2load("h2load", 1),
	h2load("h2load-pipeline", depth),
	aiohttp("semaphore"),
	aiohttp("batches"),
	aiohttp("processes"),
	{
		name: "undici",
		find: sync.OnceValue(func() []string {
			return installed("node", "-e", "require('undici')")
		}),
		install: "npm install --prefix ~/.cache/fetchbench undici && export NODE_PATH=$HOME/.cache/fetchbench/node_modules",
		args: func(url string, n int) []string {
			return []string{"testdata/undici_get.cjs", url, strconv.Itoa(n), strconv.Itoa(limit)}
		},
		answers: scriptAnswers,
		bodies:  true,
	},
}

func wrk(name string, threads int) program {
	return program{
		name:    name,
		find:    func() []string { return installed("wrk") },
		install: "apt-get install wrk",
		args: func(url string, n int) []string {
			seconds := min(1+n/100_000, 10)
			return []string{"-t", strconv.Itoa(threads), "-c", strconv.Itoa(limit), "-d", fmt.Sprintf("%ds", seconds), url}
		},
		answers: wrkAnswers,
		timed:   true,
	}
}

// h2load is with so many requests under way on each connection. It has one thread, by default.
func h2load(name string, requests int) program {
	return program{
		name:    name,
		find:    func() []string { return installed("h2load") },
		install: "apt-get install nghttp2-client",
		args: func(url string, n int) []string {
			return []string{"--h1", "-c", strconv.Itoa(limit), "-m", strconv.Itoa(requests), "-n", strconv.Itoa(n), url}
		},
		answers: h2loadAnswers,
	}
}

func aiohttp(variant string) program {
	return program{
		name:    "aiohttp-" + variant,
		find:    python,
		install: "apt-get install python3-aiohttp",
		args: func(url string, n int) []string {
			return []string{"testdata/aiohttp_get.py", variant, url, strconv.Itoa(n), strconv.Itoa(limit)}
		},
		answers: scriptAnswers,
		bodies:  true,
	}
}

// python returns the first interpreter that has aiohttp: the one on the PATH need not be the system's.
var python = sync.OnceValue(func() []string {
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if command := installed(name, "-c", "import aiohttp"); command != nil {
			return command
		}
	}
	return nil
})

// installed returns the command name if it is there and, with args, exits without an error.
func installed(name string, args ...string) []string {
	path, err := exec.LookPath(name)
	if err != nil || len(args) > 0 && exec.Command(path, args...).Run() != nil {
		return nil
	}
	return []string{path}
}

// A bill is what a process has cost.
type bill struct {
	answers   int
	cpu, wall time.Duration
}

// run has the program GET url n times.
func (p *program) run(ctx context.Context, url string, n int) (bill, error) {
	words := append(p.find()[:1:1], p.args(url, n)...)
	var output, complaints strings.Builder
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = &output, &complaints
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return bill{}, fmt.Errorf("%s: %w\n%s", p.name, err, complaints.String())
	}
	b := bill{wall: time.Since(start), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	var err error
	if b.answers, err = p.answers(output.String()); err != nil {
		return bill{}, fmt.Errorf("%s: %w\n%s", p.name, err, output.String())
	}
	if !p.timed && b.answers != n {
		return bill{}, fmt.Errorf("%s: %d answers of %d", p.name, b.answers, n)
	}
	return b, nil
}

var wrkRequests = regexp.MustCompile(`(?m)^ *(\d+) requests in `)

// wrkAnswers reads wrk's summary, which has these lines for wrong answers only.
func wrkAnswers(output string) (int, error) {
	for _, sign := range []string{"Non-2xx or 3xx responses", "Socket errors"} {
		if strings.Contains(output, sign) {
			return 0, errors.New("wrong answers")
		}
	}
	return number(wrkRequests, output)
}

var (
	h2loadSucceeded = regexp.MustCompile(`(?m)^status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx`)
	h2loadFailed    = regexp.MustCompile(`(?m)^requests: .*, 0 failed, 0 errored, 0 timeout`)
	h2loadData      = regexp.MustCompile(`(?m)^traffic: .* \((\d+)\) data`)
)

// h2loadAnswers reads h2load's summary: all statuses have to be 2xx, and the bodies
// together as long as they should be.
func h2loadAnswers(output string) (int, error) {
	n, err := number(h2loadSucceeded, output)
	if err != nil {
		return 0, err
	}
	data, err := number(h2loadData, output)
	if err != nil {
		return 0, err
	}
	if !h2loadFailed.MatchString(output) || data != n*len(fetchtest.Pong) {
		return 0, errors.New("wrong answers")
	}
	return n, nil
}

var scriptSaid = regexp.MustCompile(`^(\d+) answers\n$`)

// scriptAnswers reads what the scripts of ours print after they have checked all answers.
func scriptAnswers(output string) (int, error) { return number(scriptSaid, output) }

// number returns the number that pattern's group finds in output.
func number(pattern *regexp.Regexp, output string) (int, error) {
	m := pattern.FindStringSubmatch(output)
	if m == nil {
		return 0, fmt.Errorf("no %v in the output", pattern)
	}
	return strconv.Atoi(m[1])
}
