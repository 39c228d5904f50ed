package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A sandbox is a repository with a small module, in which the tests are.
type sandbox struct {
	t   *testing.T
	tmp string // the temporary directory of the tool
}

const benchmarks = `package sample

import "testing"

func BenchmarkWork(b *testing.B) {
	for b.Loop() {
		Work()
	}
}

func BenchmarkOther(b *testing.B) {
	for b.Loop() {
		sink = new(int)
	}
}
`

const work = `package sample

var sink any

func Work() { sink = make([]byte, 100) }
`

const slower = `package sample

var sink any

func Work() { sink = make([]byte, 100); sink = new(int) }
`

func newSandbox(t *testing.T) *sandbox {
	if testing.Short() {
		t.Skip("it builds programs")
	}
	s := &sandbox{t: t, tmp: t.TempDir()}
	t.Chdir(t.TempDir())
	t.Setenv("TMPDIR", s.tmp)
	t.Setenv("GOWORK", "off")
	for k, v := range map[string]string{"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@localhost", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@localhost"} {
		t.Setenv(k, v)
	}
	s.git("init", "-q", "-b", "main")
	s.write("go.mod", "module sample\n\ngo 1.26.0\n")
	s.write("work.go", work)
	s.write("work_test.go", benchmarks)
	s.commit("first")
	return s
}

func (s *sandbox) git(args ...string) string {
	out, err := exec.Command("git", args...).CombinedOutput()
	require.NoError(s.t, err, "%s", out)
	return string(out)
}

func (s *sandbox) write(name, text string) {
	require.NoError(s.t, os.WriteFile(name, []byte(text), 0o666))
}

func (s *sandbox) commit(message string) {
	s.git("add", "-A")
	s.git("commit", "-q", "-m", message)
}

// regress runs the tool, and checks that it has left nothing behind.
func (s *sandbox) regress(args ...string) (status int, stdout, stderr string) {
	before := s.git("status", "--porcelain") + s.git("stash", "list") + s.git("for-each-ref")
	var out, errs bytes.Buffer
	status = run(s.t.Context(), args, &out, &errs)
	assert.Equal(s.t, before, s.git("status", "--porcelain")+s.git("stash", "list")+s.git("for-each-ref"), "the user's tree")
	s.isClean()
	return status, out.String(), errs.String()
}

func (s *sandbox) isClean() {
	assert.Len(s.t, strings.Split(strings.TrimSpace(s.git("worktree", "list")), "\n"), 1, "worktrees")
	left, err := filepath.Glob(filepath.Join(s.tmp, "regress-*"))
	require.NoError(s.t, err)
	assert.Empty(s.t, left)
}

// quick are flags for runs that are about something that does not vary.
var quick = []string{"-rounds=3", "-benchtime=100x", "-filter=.unit:allocs/op"}

func with(flags []string, more ...string) []string {
	return append(append([]string{}, flags...), more...)
}

func TestCompare(t *testing.T) {
	s := newSandbox(t)
	status, _, stderr := s.regress(quick...)
	assert.Equal(t, unsure, status)
	assert.Contains(t, stderr, "there is no commit before this one")

	s.write("README", "no change in the code")
	s.commit("second")
	status, stdout, stderr := s.regress(quick...)
	assert.Equal(t, same, status, stderr)
	assert.Contains(t, stdout, "Nothing is worse in 2 rows")
	assert.Contains(t, stderr, "first")
	assert.Contains(t, stderr, "second")
	assert.Contains(t, stderr, "round 3 of 3")

	// What is not committed, and not even added.
	s.write("work.go", slower)
	s.write("untracked.go", "package sample\n\nfunc init() {}\n")
	dir := t.TempDir()
	status, stdout, stderr = s.regress(with(quick, "-o="+dir, "-markdown="+filepath.Join(dir, "md"), "-json="+filepath.Join(dir, "json"))...)
	assert.Equal(t, worse, status, stderr)
	assert.Contains(t, stdout, "WORSE, 1 of 2 rows: Work")
	assert.Contains(t, stdout, "by 50.0 %")
	assert.Contains(t, stderr, "base: "+strings.TrimSpace(s.git("log", "-1", "--format=%h %s")))
	assert.Contains(t, stderr, "once more: round 3 of 3")
	md, err := os.ReadFile(filepath.Join(dir, "md"))
	require.NoError(t, err)
	assert.Contains(t, string(md), "## Benchmarks: the working tree against")
	assert.Contains(t, string(md), "| WORSE |")
	b, err := os.ReadFile(filepath.Join(dir, "json"))
	require.NoError(t, err)
	var result struct {
		Status int
		Rows   []struct {
			Benchmark, Verdict string
			Base, Head         struct{ Median float64 }
			Change             float64
		}
	}
	require.NoError(t, json.Unmarshal(b, &result))
	assert.Equal(t, worse, result.Status)
	require.Len(t, result.Rows, 2)
	assert.Equal(t, 2.0, result.Rows[0].Base.Median)
	assert.Equal(t, 3.0, result.Rows[0].Head.Median)
	assert.Equal(t, 0.5, result.Rows[0].Change)
	for _, pair := range [][2]string{{"base.txt", "head.txt"}, {"base-again.txt", "head-again.txt"}} {
		benchstat(t, filepath.Join(dir, pair[0]), filepath.Join(dir, pair[1]))
	}

	// Commits by name, from a directory below the root.
	s.commit("slower")
	status, _, _ = s.regress(quick...)
	assert.Equal(t, worse, status)
	require.NoError(t, os.Mkdir("below", 0o777))
	t.Chdir("below")
	status, _, stderr = s.regress(with(quick, "-head=HEAD~1", "HEAD~2")...)
	assert.Equal(t, same, status, stderr)
}

// benchstat holds that benchstat accepts the files.
func benchstat(t *testing.T, files ...string) {
	cmd := exec.Command("go", append([]string{"tool", "benchstat"}, files...)...)
	cmd.Dir = toolsDir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), "%s", &stderr)
	assert.NotContains(t, stderr.String(), "error")
	assert.Contains(t, stdout.String(), "Work")
}

var toolsDir, _ = filepath.Abs("..")

func TestBranch(t *testing.T) {
	s := newSandbox(t)
	s.git("checkout", "-q", "-b", "topic")
	s.write("work.go", slower)
	s.commit("slower")
	s.write("README", "and no change since")
	s.commit("no change")
	status, stdout, stderr := s.regress(quick...)
	assert.Equal(t, worse, status, stderr)
	assert.Contains(t, stdout, "Work")
	assert.Contains(t, stderr, "first", "the merge base with main")
}

// Where nobody can tell, the status is 2, and what was the matter is said.
func TestUnsure(t *testing.T) {
	s := newSandbox(t)
	s.write("README", "second")
	s.commit("second")
	for name, c := range map[string]struct {
		args  []string
		files map[string]string
		want  string
	}{
		"a deleted benchmark":      {quick, map[string]string{"work_test.go": benchmarks[:strings.Index(benchmarks, "func BenchmarkOther")]}, "Other"},
		"a new one":                {quick, map[string]string{"new_test.go": "package sample\n\nimport \"testing\"\n\nfunc BenchmarkNew(b *testing.B) {}\n"}, "New"},
		"no build":                 {quick, map[string]string{"work.go": "package sample\n\nfunc Work() { sink = 1 }\n"}, "head ("},
		"a benchmark that fails":   {quick, map[string]string{"work.go": work + "\nfunc init() { panic(\"at the start\") }\n"}, "at the start"},
		"a benchmark that hangs":   {with(quick, "-timeout=2s"), map[string]string{"work.go": "package sample\n\nimport \"time\"\n\nvar sink any\n\nfunc Work() { time.Sleep(time.Hour) }\n"}, "longer than -timeout=2s"},
		"output that is malformed": {quick, map[string]string{"work.go": strings.Replace(work, "func", "import \"fmt\"\n\nfunc", 1)[:0] + "package sample\n\nimport \"fmt\"\n\nvar sink any\n\nfunc Work() { sink = 1 }\n\nfunc init() { fmt.Println(\"BenchmarkWork-2 12 x ns/op\") }\n"}, "malformed output"},
		"too few samples":          {[]string{"-rounds=1", "-benchtime=100x"}, map[string]string{"work.go": slower}, "too few samples"},
		"no benchmark":             {with(quick, "-bench=Nothing"), nil, "no benchmark matches"},
		"no package":               {with(quick, "-pkg=nothing"), nil, "base ("},
		"no commit of that name":   {with(quick, "nothing"), nil, `there is no commit "nothing"`},
		"an option for git":        {with(quick, "--", "--upload-pack=x"), nil, "is no revision"},
		"two of them":              {with(quick, "HEAD", "HEAD"), nil, "one BASE"},
		"a bad flag":               {[]string{"-rounds=x"}, nil, "invalid value"},
		"a bad pattern":            {with(quick, "-bench=("), nil, "-bench"},
		"a bad filter":             {with(quick, "-filter=("), nil, "-filter"},
		"a bad number":             {with(quick, "-rounds=0"), nil, "-rounds is 0"},
		"a bad threshold":          {with(quick, "-threshold=-1"), nil, "thresholds"},
	} {
		t.Run(name, func(t *testing.T) {
			sub := *s
			sub.t = t
			for name, text := range c.files {
				sub.write(name, text)
			}
			status, _, stderr := sub.regress(c.args...)
			assert.Equal(t, unsure, status, stderr)
			assert.Contains(t, stderr, c.want)
			sub.git("checkout", "-q", ".")
			sub.git("clean", "-qfd")
		})
	}
	status, _, _ := s.regress("-h")
	assert.Equal(t, same, status)

	t.Chdir(t.TempDir())
	t.Setenv("GIT_CEILING_DIRECTORIES", filepath.Dir(t.TempDir()))
	var out, errs bytes.Buffer
	assert.Equal(t, unsure, run(t.Context(), nil, &out, &errs))
	assert.Contains(t, errs.String(), "not a git repository")
}

// The tool may be run by a hook of git, and runs none.
func TestHooks(t *testing.T) {
	s := newSandbox(t)
	s.write("README", "second")
	s.commit("second")
	require.NoError(t, os.MkdirAll("hooks", 0o777))
	for _, hook := range []string{"post-checkout", "reference-transaction", "post-index-change"} {
		require.NoError(t, os.WriteFile(filepath.Join("hooks", hook), []byte("#!/bin/sh\nexit 1\n"), 0o777))
	}
	s.git("config", "core.hooksPath", "hooks")
	s.write("work.go", slower)
	index, err := os.ReadFile(".git/index")
	require.NoError(t, err)
	t.Setenv("GIT_DIR", ".git")
	t.Setenv("GIT_INDEX_FILE", ".git/index")
	var stdout, stderr bytes.Buffer
	assert.Equal(t, worse, run(t.Context(), quick, &stdout, &stderr), &stderr)
	after, err := os.ReadFile(".git/index")
	require.NoError(t, err)
	assert.Equal(t, index, after)
}

// What a run that was killed has left behind is removed by the next one.
func TestKilled(t *testing.T) {
	s := newSandbox(t)
	s.write("README", "second")
	s.commit("second")
	gone := exec.Command("go", "version")
	require.NoError(t, gone.Run())
	alive := t.TempDir() // of a run that goes on
	for _, pid := range []int{gone.Process.Pid, os.Getpid()} {
		dir := filepath.Join(alive, fmt.Sprintf("regress-%d-123", pid))
		s.git("worktree", "add", "-q", "--detach", filepath.Join(dir, "base"))
	}
	var stdout, stderr bytes.Buffer
	require.Equal(t, same, run(t.Context(), quick, &stdout, &stderr), &stderr)
	left := s.git("worktree", "list")
	assert.NotContains(t, left, fmt.Sprintf("regress-%d-", gone.Process.Pid))
	assert.Contains(t, left, fmt.Sprintf("regress-%d-", os.Getpid()))
}

// When the benchmarks themselves have changed, both sides can have the new ones.
func TestOverlayTests(t *testing.T) {
	s := newSandbox(t)
	s.write("work_test.go", strings.Replace(benchmarks, "Other", "Renamed", 1))
	s.write("old_test.go", "package sample\n")
	require.NoError(t, os.Mkdir("testdata", 0o777))
	s.write("testdata/x", "x")
	s.commit("renamed")
	status, _, stderr := s.regress(quick...)
	assert.Equal(t, unsure, status)
	assert.Contains(t, stderr, "-overlay-tests")
	status, stdout, stderr := s.regress(with(quick, "-overlay-tests")...)
	assert.Equal(t, same, status, stderr)
	assert.Contains(t, stdout, "Renamed")
}

// An interrupt ends the benchmarks that are running, and leaves nothing behind.
func TestInterrupt(t *testing.T) {
	s := newSandbox(t)
	s.write("work.go", "package sample\n\nimport (\n\t\"os\"\n\t\"time\"\n)\n\nvar sink any\n\nfunc Work() { os.WriteFile(os.Getenv(\"STARTED\"), nil, 0o666); time.Sleep(time.Hour) }\n")
	s.commit("endless")
	started := filepath.Join(t.TempDir(), "started")
	t.Setenv("STARTED", started)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for _, err := os.Stat(started); err != nil; _, err = os.Stat(started) {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	var out, errs bytes.Buffer
	assert.Equal(t, unsure, run(ctx, []string{"-rounds=3", "-benchtime=100x", "-bench=Work"}, &out, &errs))
	assert.Contains(t, errs.String(), "interrupted")
	s.isClean()
}

// A commit's samples go to its own file, which shows how a benchmark has moved.
func TestRecord(t *testing.T) {
	s := newSandbox(t)
	record := func(args ...string) string {
		var stdout, stderr bytes.Buffer
		require.Equal(t, same, run(t.Context(), append([]string{"record", "-rounds=4", "-benchtime=100x"}, args...), &stdout, &stderr), &stderr)
		s.isClean()
		return strings.TrimSpace(stdout.String())
	}
	log := func(args ...string) (status int, stdout, stderr string) {
		var out, errs bytes.Buffer
		status = run(t.Context(), append([]string{"log"}, args...), &out, &errs)
		return status, out.String(), errs.String()
	}
	status, _, stderr := log()
	assert.Equal(t, unsure, status)
	assert.Contains(t, stderr, "there are no records in benchmarks")

	first := record()
	s.write("work.go", slower)
	assert.Equal(t, first, record(), "what is not committed is not recorded, and what is there stays")
	t.Setenv("GIT_COMMITTER_DATE", "@4070908800 +0000")
	s.git("commit", "-qam", "slower")
	second := record()
	assert.NotEqual(t, first, second)
	assert.Equal(t, "benchmarks/20990101T000000Z-"+s.git("rev-parse", "HEAD")[:12]+".txt", filepath.ToSlash(second))
	assert.Equal(t, first, record("-head=HEAD~1"))
	text, err := os.ReadFile(first)
	require.NoError(t, err)
	assert.Equal(t, 3, strings.Count(string(text), "commit: "+s.git("rev-parse", "HEAD~1")))
	benchstat(t, abs(t, first), abs(t, second))

	status, stdout, stderr := log("-filter=.name:Work .unit:allocs/op")
	require.Equal(t, same, status, stderr)
	assert.Contains(t, stdout, "n=12")
	assert.Contains(t, stdout, "+50.00% since the commit before (p=0.001), +50.00% since the first")
	assert.NotContains(t, stdout, "Other")
	status, _, stderr = log("-svg=" + filepath.Join(s.tmp, "log.svg"))
	require.Equal(t, same, status, stderr)
	svg, err := os.ReadFile(filepath.Join(s.tmp, "log.svg"))
	require.NoError(t, err)
	assert.Contains(t, string(svg), "Work")

	for name, args := range map[string][]string{"no benchmark in the records matches": {"-filter=.name:Nothing"}, "-filter": {"-filter=("}, "no arguments": {"x"}} {
		status, _, stderr := log(args...)
		assert.Equal(t, unsure, status)
		assert.Contains(t, stderr, name)
	}
	s.write(first, "BenchmarkWork 12 x ns/op\n")
	status, _, stderr = log()
	assert.Equal(t, unsure, status)
	assert.Contains(t, stderr, filepath.Base(first)+":1")
}

func abs(t *testing.T, name string) string {
	name, err := filepath.Abs(name)
	require.NoError(t, err)
	return name
}
