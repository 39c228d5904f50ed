// Report makes a report with pictures of benchmark results.
//
// Usage:
//
//	go tool report [-o DIR] [-update FILE] bench.txt…
//
// It reads the output of go test -bench (- is standard input) and writes DIR/report.md, with SVG pictures
// beside it. The same results give the same bytes, in whichever order and files they come.
//
//	-o DIR        where the report goes; by default, report
//	-update FILE  also put the report's sections into FILE, a Markdown file
//
// The report has those of these sections that there are results for:
//
//	machine     processor, system, versions, and how many results there are
//	scripts     the Python scripts' own test: BenchmarkFetch with latency=0s and
//	            -benchtime=100000x or 1000000x, which serve nothing else
//	strategies  BenchmarkFetch, strategy by strategy and engine by engine, with the curve over the latency
//	limit       BenchmarkLimit
//	pipeline    BenchmarkPipeline
//	peers       BenchmarkPeers, of the module peers
//	tls         BenchmarkTLS, of the same
//	hosts       BenchmarkHosts, of the same
//
// A median comes with its 95 % confidence interval, if there are the 6 results that one needs: -count=10.
//
// In the file of -update, what is between two lines such as
//
//	<!-- report: limit -->
//	<!-- end of report: limit -->
//
// becomes that section, with the paths of pictures relative to the file. Parts have names too: strategies-0s
// and latency, for instance, and limit-chart and limit-table. All of them:
//
//	machine  scripts  strategies  strategies-LATENCY[-chart|-table]  latency[-ENGINE]
//	limit[-chart|-table]  pipeline[-chart|-table]  peers[-chart|-table]  tls  hosts
//
// The exit status is 2 if a flag, an input or FILE is not as it should be; then nothing has been
// written. It is 1 if something could not be written.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

const usage = `usage: go tool report [-o DIR] [-update FILE] bench.txt…

Makes a Markdown report with SVG pictures of the output of go test -bench (- is standard input).

  -o DIR        where report.md and its pictures go (default "report")
  -update FILE  also put the report's sections into FILE, a Markdown file, between the lines
                <!-- report: NAME --> and <!-- end of report: NAME -->, where NAME is one of
                  machine  scripts  strategies  strategies-LATENCY[-chart|-table]  latency[-ENGINE]
                  limit[-chart|-table]  pipeline[-chart|-table]  peers[-chart|-table]  tls  hosts

go doc fetchbench/tools/report says what the sections are.
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the command. It returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	dir := flags.String("o", "report", "")
	file := flags.String("update", "", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "report: %v\n%s", err, usage)
		return 2
	case flags.NArg() == 0:
		fmt.Fprintf(stderr, "report: no file of results\n%s", usage)
		return 2
	case *dir == "":
		fmt.Fprintln(stderr, "report: -o is empty")
		return 2
	}
	fail := func(status int, err error) int {
		fmt.Fprintf(stderr, "report: %v\n", err)
		return status
	}

	d, err := read(flags.Args())
	if err != nil {
		return fail(2, err)
	}
	r, err := newReport(d)
	if err != nil {
		return fail(2, err)
	}
	var updated []byte
	if *file != "" {
		if updated, err = r.update(*file, *dir); err != nil {
			return fail(2, err)
		}
	}
	if err := r.write(*dir); err != nil {
		return fail(1, err)
	}
	if *file != "" {
		if err := replace(*file, updated); err != nil {
			return fail(1, err)
		}
	}
	return 0
}
