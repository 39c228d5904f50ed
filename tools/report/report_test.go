package main

import (
	"bytes"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var golden = flag.Bool("update-golden", false, "rewrite the golden files")

var inputs = []string{"testdata/strategies.txt", "testdata/scripts.txt", "testdata/peers.txt"}

// call runs the command.
func call(args ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = run(args, &out, &err)
	return status, out.String(), err.String()
}

// files are the contents of a folder.
func files(t *testing.T, dir string) map[string]string {
	m := map[string]string{}
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return m
	}
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		m[e.Name()] = string(b)
	}
	return m
}

// write makes a file of results, or another one.
func write(t *testing.T, content string) (path string) {
	path = filepath.Join(t.TempDir(), "bench.txt")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// lines makes n results of a benchmark, each a little higher.
func lines(n int, result string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.ReplaceAll(result, "#", fmt.Sprint(1000+10*i)) + "\n")
	}
	return b.String()
}

// report runs the command on results, and returns what it wrote.
func reportOf(t *testing.T, results string) map[string]string {
	dir := t.TempDir()
	status, stdout, stderr := call("-o", dir, write(t, results))
	require.Zero(t, status, stderr)
	assert.Empty(t, stdout)
	return files(t, dir)
}

func TestGolden(t *testing.T) {
	dir := t.TempDir()
	status, stdout, stderr := call(append([]string{"-o", dir}, inputs...)...)
	require.Zero(t, status, stderr)
	assert.Empty(t, stdout+stderr, "what went well needs no words")
	got := files(t, dir)
	if *golden {
		require.NoError(t, os.RemoveAll("testdata/report"))
		require.NoError(t, os.CopyFS("testdata/report", os.DirFS(dir)))
	}
	want := files(t, "testdata/report")
	for name := range want {
		assert.Contains(t, got, name)
	}
	for name := range got {
		assert.Equal(t, want[name], got[name], "%s: go test -update-golden, and look at it", name)
	}
}

// CI compares reports, so the same samples have to give the same bytes in any folder, and in any order.
func TestDeterministic(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "er")
	status, _, stderr := call("-o", dir, inputs[2], inputs[0], inputs[1])
	require.Zero(t, status, stderr)
	assert.Equal(t, files(t, "testdata/report"), files(t, dir))
}

func TestPicturesAreLinked(t *testing.T) {
	got := files(t, "testdata/report")
	for name, content := range got {
		if strings.HasSuffix(name, ".svg") {
			assert.Equal(t, 1, strings.Count(got["report.md"], "]("+name+")"), name)
			d := xml.NewDecoder(strings.NewReader(content))
			for {
				if _, err := d.Token(); err == io.EOF {
					break
				} else {
					require.NoError(t, err, name)
				}
			}
		}
	}
}

// The figures of a report, by hand.
func TestFigures(t *testing.T) {
	got := reportOf(t, "cpu: One\ngo: go1.26.0\ncommit: abc\n"+
		// Median 1030, and of seven results the interval is from the lowest to the highest.
		lines(7, "BenchmarkFetch/strategy=pool/engine=client/latency=0s-2 500 5000 ns/op # urls/s 70000 cpu-ns/op 1500000 p99-ns")+
		lines(1, "BenchmarkFetch/strategy=pool/engine=client/latency=0s-2 100000 20000 ns/op 50000 urls/s")+
		lines(1, "BenchmarkFetch/strategy=pool/engine=client/latency=0s-2 100000 40000 ns/op 25000 urls/s")+
		lines(1, "BenchmarkFetch/strategy=pool/engine=client/latency=0s-2 100000 21000 ns/op 47619 urls/s")+
		lines(1, "BenchmarkFetch/strategy=mine/engine=client/latency=0s-2 1000000 21000 ns/op 47619 urls/s")+
		lines(1, "BenchmarkBody/size=1MB-2 5 1 ns/op"))["report.md"]
	assert.Contains(t, got, "Measured on One, Go 1.26.0, commit abc, GOMAXPROCS 2: 11 results, 1 to 7 of each benchmark.\n")
	assert.Contains(t, got, "| pool | client | 1 030 (1 000 to 1 060) | 70.00 µs (70.00 to 70.00) | 1.500 ms (1.500 to 1.500) | 7 |\n")
	assert.Contains(t, got, "| pool | client | 2.10 | 47 619 | – | – | 185 | a pool of 12 threads |\n")
	assert.Contains(t, got, "| mine | client | – | – | 21.0 | 47 619 | – |  |\n")
	assert.Contains(t, got, "| serial | – | – | – | – | – | 89 | one after the other |\n")
	assert.Contains(t, got, "\nThe results also have BenchmarkBody, which this report has no section for.\n")
	for _, no := range []string{"## Limit", "## Pipelining", "## Other clients", "By latency"} {
		assert.NotContains(t, got, no, "there are no results for it")
	}
	assert.NotContains(t, got, "Take care")
}

// The runs of 100000x and 1000000x are not among the samples of the comparison. Others with so many URLs are.
func TestScriptsServeNothingElse(t *testing.T) {
	got := reportOf(t, lines(1, "BenchmarkFetch/strategy=pool/engine=client/latency=0s 1000000 5000 ns/op 9 urls/s"))
	assert.Contains(t, got["report.md"], "## The Python scripts' own test")
	assert.NotContains(t, got["report.md"], "## Strategies")
	got = reportOf(t, lines(1, "BenchmarkFetch/strategy=pool/engine=client/latency=5ms 100000 5000 ns/op 9 urls/s"))
	assert.NotContains(t, got["report.md"], "## The Python scripts' own test")
	assert.Contains(t, got["report.md"], "### With 5ms of latency")
	got = reportOf(t, lines(1, "BenchmarkFetch/strategy=pool/engine=client/latency=0s 100001 5000 ns/op 9 urls/s"))
	assert.NotContains(t, got["report.md"], "## The Python scripts' own test")
}

// Few results have no confidence interval: nothing is made up for it.
func TestFewResults(t *testing.T) {
	got := reportOf(t, lines(5, "BenchmarkLimit/limit=8-2 100 9000 ns/op # urls/s"))
	assert.Contains(t, got["report.md"], "| 8 | 1 020 | 5 |\n\nMedians, of fewer than the 6 results")
	got = reportOf(t, lines(5, "BenchmarkLimit/limit=8-2 100 9000 ns/op # urls/s")+lines(6, "BenchmarkLimit/limit=16-2 100 9000 ns/op # urls/s"))
	assert.Contains(t, got["report.md"], "| 16 | 1 025 (1 000 to 1 050) | 6 |\n\nMedians, with their 95 % confidence intervals, but where")
}

// A median of results of two machines is of neither.
func TestMixed(t *testing.T) {
	limit := "BenchmarkLimit/limit=8%s 100 9000 ns/op # urls/s"
	for name, tt := range map[string]struct{ results, want string }{
		"machines":   {"cpu: A\n" + lines(1, fmt.Sprintf(limit, "")) + "cpu: B\n" + lines(1, fmt.Sprintf(limit, "")), "differ in cpu,"},
		"commits":    {"commit: a\n" + lines(1, fmt.Sprintf(limit, "")) + "commit: b\n" + lines(1, fmt.Sprintf(limit, "")), "differ in commit,"},
		"processors": {lines(1, fmt.Sprintf(limit, "-2")) + lines(1, fmt.Sprintf(limit, "-4")), "differ in GOMAXPROCS,"},
		"keys":       {lines(1, fmt.Sprintf(limit, "/size=1")) + lines(1, fmt.Sprintf(limit, "/size=2")), "differ in further keys of their names,"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Contains(t, reportOf(t, tt.results)["report.md"], "**Take care:** results of BenchmarkLimit "+tt.want)
		})
	}
	other := "cpu: A\n" + lines(1, "BenchmarkPeers/client=a 10 5 cpu-ns/op 7 urls/s") + "cpu: B\npkg: x\n" + lines(1, fmt.Sprintf(limit, ""))
	assert.NotContains(t, reportOf(t, other)["report.md"], "Take care", "no median is of both")
}

// What is not told apart is not called slower.
func TestAlike(t *testing.T) {
	fetch := "BenchmarkFetch/strategy=%s/engine=client/latency=0s 10 5 ns/op %s urls/s"
	got := reportOf(t, lines(10, fmt.Sprintf(fetch, "pool", "#"))+lines(10, fmt.Sprintf(fetch, "batch", "#.5"))+lines(10, fmt.Sprintf(fetch, "serial", "5")))["report.md"]
	assert.Contains(t, got, "batch on client is the fastest, at 1.05k URLs/s; serial on client is the slowest, at 5.00 URLs/s. These results cannot tell pool on client from batch on client.]")
}

// The default engine comes first in tables, and in the legends of charts. Names of other editions
// are as good: what is kept in results may be older.
func TestEngines(t *testing.T) {
	for _, names := range [][2]string{{"client", "nethttp"}, {"nethttp", "wire"}} {
		var results string
		for _, engine := range []string{names[1], names[0]} {
			for _, latency := range []string{"0s", "5ms"} {
				results += lines(6, "BenchmarkFetch/strategy=pool/engine="+engine+"/latency="+latency+" 10 5 ns/op # urls/s")
			}
			results += lines(1, "BenchmarkFetch/strategy=pool/engine="+engine+"/latency=0s 100000 20000 ns/op 50000 urls/s")
		}
		got := reportOf(t, results)
		for _, file := range []struct{ name, what string }{
			{"report.md", "| pool | %s | 1 025 ("},
			{"report.md", "| pool | %s | 2.00 | 50 000 |"},
			{"report.md", "](latency-%s.svg)"},
			{"strategies-0s.svg", ">%s</text>"},
		} {
			first := strings.Index(got[file.name], fmt.Sprintf(file.what, names[0]))
			second := strings.Index(got[file.name], fmt.Sprintf(file.what, names[1]))
			assert.Positive(t, first, "%s in %s", names[0], file.name)
			assert.Greater(t, second, first, "%s in %s", names[1], file.name)
		}
	}
}

// Names come from the input, so they may be anything but a space or a slash.
func TestOddNames(t *testing.T) {
	odd := `a|b_c*<i>[x](y)&"` + "`" + `\ü`
	got := reportOf(t, lines(6, "BenchmarkFetch/strategy="+odd+"/engine="+odd+"/latency=0s 10 5 ns/op # urls/s")+
		lines(6, "BenchmarkFetch/strategy="+odd+"/engine="+odd+"/latency=1.5ms 10 5 ns/op # urls/s")+
		lines(6, "BenchmarkPeers/client="+odd+" 10 5 cpu-ns/op # urls/s"))
	assert.Contains(t, got["report.md"], "| a\\|b\\_c\\*\\<i\\>\\[x\\](y)\\&\"\\`\\\\ü |")
	assert.Contains(t, got, "strategies-1.5ms.svg")
	for name := range got {
		assert.NotContains(t, name, "|")
		assert.NotContains(t, name, `\`)
	}
}

// Two engines that differ in letters that a file's name cannot have do not share a picture.
func TestFilesOfTheirOwn(t *testing.T) {
	results := ""
	for _, engine := range []string{"a|b", "a*b"} {
		for _, latency := range []string{"0s", "5ms"} {
			results += lines(1, "BenchmarkFetch/strategy=pool/engine="+engine+"/latency="+latency+" 10 5 ns/op # urls/s")
		}
	}
	got := reportOf(t, results)
	assert.Contains(t, got, "latency-a-b.svg")
	assert.Contains(t, got, "latency-a-b-2.svg")
}

// A result without some of the metrics has a dash there.
func TestMissingMetrics(t *testing.T) {
	got := reportOf(t, lines(1, "BenchmarkPeers/client=a 10 5 ns/op 7 cpu-ns/op")+lines(1, "BenchmarkPeers/client=b 10 5 ns/op # urls/s")+
		lines(1, "BenchmarkLimit/limit=1 10 5 ns/op")+lines(1, "BenchmarkPipeline/depth=1 10 5 ns/op 0 urls/s")+
		lines(1, "BenchmarkFetch/strategy=pool/engine=client/latency=0s 10 5 ns/op"))
	assert.Contains(t, got["report.md"], "| a | 7.000 ns | – | 1 |")
	assert.Contains(t, got["report.md"], "| b | – | 1 000 | 1 |")
	assert.NotContains(t, got, "limit.svg")
	assert.NotContains(t, got, "strategies-0s.svg")
}

func TestErrors(t *testing.T) {
	fine := write(t, lines(1, "BenchmarkLimit/limit=8 100 9000 ns/op # urls/s"))
	malformed := write(t, "goos: linux\nBenchmarkLimit/limit=8 many 9000 ns/op\n")
	missing := filepath.Join(t.TempDir(), "missing.txt")
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"no input":            {nil, "no file of results"},
		"a flag unknown":      {[]string{"-x", fine}, "-x"},
		"a flag without file": {[]string{"-update"}, "-update"},
		"no folder":           {[]string{"-o", "", fine}, "-o is empty"},
		"a file missing":      {[]string{fine, missing}, missing},
		"a folder":            {[]string{t.TempDir()}, "directory"},
		"malformed":           {[]string{fine, malformed}, malformed + ":2: "},
		"no number":           {[]string{write(t, "\n\nBenchmarkLimit/limit=8 10 NaN urls/s\n")}, "bench.txt:3: NaN urls/s is no measurement"},
		"negative":            {[]string{write(t, "BenchmarkLimit/limit=8 10 -4 urls/s\n")}, "bench.txt:1: -4 urls/s is no measurement"},
		"infinite":            {[]string{write(t, "BenchmarkLimit/limit=8 10 +Inf urls/s\n")}, "bench.txt:1: +Inf urls/s is no measurement"},
		"empty":               {[]string{write(t, "")}, "bench.txt: no result of a benchmark"},
		"no benchmark known":  {[]string{write(t, "BenchmarkBody/size=1KB 10 4 ns/op\n")}, "no result of a benchmark that the report knows, but of BenchmarkBody"},
		"no keys":             {[]string{write(t, "BenchmarkFetch/latency=0s 10 4 ns/op\n")}, "knows, but of BenchmarkFetch"},
		"a key too many":      {[]string{write(t, "BenchmarkFetch/strategy=pool/engine=client/latency=0s/limit=8 10 4 ns/op\n")}, "knows, but of BenchmarkFetch"},
		"a limit of none":     {[]string{write(t, "BenchmarkLimit/limit=none 10 4 ns/op\n")}, "knows, but of BenchmarkLimit"},
		"a file twice":        {[]string{fine, fine}, "is given twice"},
		"no file to update":   {[]string{"-update", missing, fine}, missing},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "out")
			args := tt.args
			if len(args) > 0 && args[0] != "-o" {
				args = append([]string{"-o", dir}, args...)
			}
			status, stdout, stderr := call(args...)
			assert.Equal(t, 2, status)
			assert.Empty(t, stdout)
			assert.Contains(t, stderr, tt.want)
			assert.True(t, strings.HasPrefix(stderr, "report: "), stderr)
			assert.NoDirExists(t, dir, "nothing is written")
		})
	}
}

func TestCannotWrite(t *testing.T) {
	fine := write(t, lines(1, "BenchmarkLimit/limit=8 100 9000 ns/op # urls/s"))
	status, _, stderr := call("-o", fine, fine) // a file is in the way
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "report: ")
}

func TestHelp(t *testing.T) {
	status, stdout, stderr := call("-h")
	assert.Zero(t, status)
	assert.Equal(t, usage, stdout)
	assert.Empty(t, stderr)
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	for _, n := range names {
		assert.Contains(t, usage, n, "-h names every section")
		assert.Contains(t, strings.Split(string(source), "package main")[0], n, "and so does go doc")
	}
}
