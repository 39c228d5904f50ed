package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// page makes a Markdown file, with another folder for the pictures.
func page(t *testing.T, content string) (file, pictures string) {
	dir := t.TempDir()
	file = filepath.Join(dir, "docs", "page.md")
	require.NoError(t, os.Mkdir(filepath.Dir(file), 0o777))
	require.NoError(t, os.WriteFile(file, []byte(content), 0o640))
	return file, filepath.Join(dir, "pic tures(1)")
}

func read1(t *testing.T, file string) string {
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(b)
}

var limits = lines(6, "BenchmarkLimit/limit=8-2 100 9000 ns/op # urls/s")

func TestUpdate(t *testing.T) {
	file, pictures := page(t, "# Title\n\n<!-- report: limit-table -->\nold\n<!-- end of report: limit-table -->\ntext\n<!-- report: limit -->\n<!-- end of report: limit -->\nend")
	input := write(t, limits)
	status, _, stderr := call("-o", pictures, "-update", file, input)
	require.Zero(t, status, stderr)
	table := "| limit | URLs/s | results |\n|---|--:|--:|\n| 8 | 1 025 (1 000 to 1 050) | 6 |\n\nMedians, with their 95 % confidence intervals.\n"
	want := "# Title\n\n<!-- report: limit-table -->\n\n" + table + "\n<!-- end of report: limit-table -->\ntext\n" +
		"<!-- report: limit -->\n\n![URLs a second by limit. A limit of 8: 1.02k URLs/s.](../pic%20tures%281%29/limit.svg)\n\n" +
		table + "\n<!-- end of report: limit -->\nend"
	assert.Equal(t, want, read1(t, file))
	assert.FileExists(t, filepath.Join(pictures, "limit.svg"))
	if runtime.GOOS != "windows" {
		info, err := os.Stat(file)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o640), info.Mode().Perm(), "who may read it is the same")
	}

	status, _, stderr = call("-o", pictures, "-update", file, input)
	require.Zero(t, status, stderr)
	assert.Equal(t, want, read1(t, file), "a second time changes nothing")
	entries, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing is left behind")
}

// Every section and part can be had by its name.
func TestUpdateNames(t *testing.T) {
	for _, name := range []string{
		"machine", "scripts", "strategies", "strategies-0s", "strategies-0s-chart", "strategies-0s-table", "strategies-5ms",
		"strategies-5ms-chart", "strategies-5ms-table", "latency", "latency-client", "latency-nethttp", "limit", "limit-chart", "limit-table",
		"pipeline", "pipeline-chart", "pipeline-table", "peers", "peers-chart", "peers-table", "tls", "hosts",
	} {
		t.Run(name, func(t *testing.T) {
			file, pictures := page(t, "<!-- report: "+name+" -->\n<!-- end of report: "+name+" -->\n")
			status, _, stderr := call(append([]string{"-o", pictures, "-update", file}, inputs...)...)
			require.Zero(t, status, stderr)
			got := read1(t, file)
			switch {
			case strings.HasSuffix(name, "-chart"):
				assert.Equal(t, 1, strings.Count(got, "!["))
				assert.NotContains(t, got, "|---|")
			case strings.HasSuffix(name, "-table"), name == "scripts", name == "tls", name == "hosts":
				assert.Contains(t, got, "|---|")
				assert.NotContains(t, got, "![")
			case name == "strategies":
				assert.Equal(t, 4, strings.Count(got, "!["))
				assert.Equal(t, 3, strings.Count(got, "\n### "))
			case name == "latency":
				assert.Equal(t, 2, strings.Count(got, "!["))
			default:
				assert.NotContains(t, got, "#")
			}
		})
	}
}

// A file with Windows' line ends keeps them.
func TestUpdateLineEnds(t *testing.T) {
	file, pictures := page(t, "a\r\n<!-- report: limit -->\r\n<!-- end of report: limit -->\r\nb\r\n")
	status, _, stderr := call("-o", pictures, "-update", file, write(t, limits))
	require.Zero(t, status, stderr)
	got := read1(t, file)
	assert.Equal(t, strings.Count(got, "\n"), strings.Count(got, "\r\n"))
	assert.Contains(t, got, "| 8 |")
}

func TestUpdateBesideThePictures(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "page.md")
	require.NoError(t, os.WriteFile(file, []byte("<!-- report: limit -->\n<!-- end of report: limit -->\n"), 0o644))
	status, _, stderr := call("-o", dir, "-update", file, write(t, limits))
	require.Zero(t, status, stderr)
	assert.Contains(t, read1(t, file), "](limit.svg)")
}

func TestUpdateErrors(t *testing.T) {
	start, end := "<!-- report: limit -->\n", "<!-- end of report: limit -->\n"
	for name, tt := range map[string]struct{ page, want string }{
		"unknown":           {start + end + "<!-- report: no-such -->\n<!-- end of report: no-such -->\n", "page.md:3: no-such is no section of the report: there are machine, scripts,"},
		"part unknown":      {"<!-- report: limit-picture -->\n<!-- end of report: limit-picture -->\n", "page.md:1: the results have nothing for limit-picture"},
		"no data":           {start + end + "<!-- report: peers -->\n<!-- end of report: peers -->\n", "page.md:3: the results have nothing for peers"},
		"no end":            {"a\n" + start + "b\n", "page.md:2: limit has no end"},
		"another's end":     {start + "<!-- end of report: machine -->\n" + end, "page.md:2: the end of machine, which has not started"},
		"no start":          {start + end + end, "page.md:3: the end of limit, which has not started"},
		"one in another":    {start + "<!-- report: machine -->\n" + end, "page.md:2: machine starts before the end of limit, of line 1"},
		"nothing to update": {"text, and <!-- report: limit --> in it\n", "page.md: there is no line <!-- report: NAME -->"},
	} {
		t.Run(name, func(t *testing.T) {
			file, pictures := page(t, tt.page)
			status, _, stderr := call("-o", pictures, "-update", file, write(t, limits))
			assert.Equal(t, 2, status)
			assert.Contains(t, stderr, tt.want)
			assert.Equal(t, tt.page, read1(t, file), "the file is unchanged")
			assert.NoDirExists(t, pictures, "nothing is written")
		})
	}
}
