package fetch_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// longestURL is the length of the longest URL that Lines accepts.
const longestURL = 64 << 10

// urlsOf returns the URLs that l still yields.
func urlsOf(l *fetch.LineSource) []string {
	var urls []string
	for r := range l.All() {
		urls = append(urls, r.URL)
	}
	return urls
}

func TestLines(t *testing.T) {
	long := "http://a.test/" + strings.Repeat("x", longestURL-len("http://a.test/"))
	for name, c := range map[string]struct {
		file string
		want []string
	}{
		"empty":                   {"", nil},
		"blank":                   {"\n \n\t\r\n\n", nil},
		"LF":                      {"http://a.test\nhttp://b.test\n", []string{"http://a.test", "http://b.test"}},
		"CRLF":                    {"http://a.test\r\nhttp://b.test\r\n", []string{"http://a.test", "http://b.test"}},
		"no final newline":        {"http://a.test\nhttp://b.test", []string{"http://a.test", "http://b.test"}},
		"byte order mark":         {"\ufeffhttp://a.test\n", []string{"http://a.test"}},
		"byte order mark alone":   {"\ufeff", nil},
		"byte order mark, then #": {"\ufeff# people\nhttp://a.test\n", []string{"http://a.test"}},
		"comments and blanks":     {"# one\n\nhttp://a.test#top\n  # two\n#\nhttp://b.test\n", []string{"http://a.test#top", "http://b.test"}},
		"space around":            {" http://a.test\t\n\thttp://b.test  ", []string{"http://a.test", "http://b.test"}},
		"the same twice":          {"http://a.test\nhttp://a.test\n", []string{"http://a.test", "http://a.test"}},
		"longest":                 {long + "\nhttp://b.test\n", []string{long, "http://b.test"}},
		"longest, CRLF":           {long + "\r\nhttp://b.test\r\n", []string{long, "http://b.test"}},
		"longest, BOM and CRLF":   {"\ufeff" + long + "\r\nhttp://b.test\r\n", []string{long, "http://b.test"}},
		"longest, at the end":     {"http://b.test\n" + long, []string{"http://b.test", long}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(c.file), iotest.DataErrReader(strings.NewReader(c.file)), iotest.HalfReader(strings.NewReader(c.file))} {
				lines := fetch.Lines(r)
				assert.Equal(t, c.want, urlsOf(lines))
				assert.NoError(t, lines.Err())
				assert.Empty(t, urlsOf(lines), "after the end")
			}
		})
	}
}

func TestLinesReachTheDoerWhole(t *testing.T) {
	file := strings.Repeat("x", longestURL) + "\n"
	length := fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
		return fetch.Result{Status: 200, Body: make([]byte, len(r.URL))}
	})
	n := 0
	for r := range (&fetch.Fetcher{Doer: length}).Fetch(t.Context(), fetch.Lines(strings.NewReader(file)).All()) {
		assert.Len(t, r.Body, longestURL)
		n++
	}
	assert.Equal(t, 1, n)
}

// A line that cannot be a URL must cost neither memory nor the lines after it.
func TestLinesSkipsLongOnes(t *testing.T) {
	for name, length := range map[string]int{"1 MiB": 1 << 20, "1 byte too many": longestURL + 1} {
		t.Run(name, func(t *testing.T) {
			long := strings.Repeat("x", length)
			lines := fetch.Lines(strings.NewReader("http://a.test\n# comment\n" + long + "\nhttp://b.test\r\n" + long + "\r\nhttp://c.test\n" + long))
			assert.Equal(t, []string{"http://a.test", "http://b.test", "http://c.test"}, urlsOf(lines))
			err := lines.Err()
			assert.ErrorIs(t, err, fetch.ErrBadURL)
			assert.ErrorContains(t, err, "line 3 ")
			assert.ErrorContains(t, err, "; 3 such in all")
			assert.NotContains(t, err.Error(), "xx", "the line itself")
		})
	}
}

func TestLinesReadError(t *testing.T) {
	errDisk := errors.New("the disk is on fire")
	broken := func(file string) *fetch.LineSource {
		return fetch.Lines(io.MultiReader(strings.NewReader(file), iotest.ErrReader(errDisk)))
	}
	t.Run("between lines", func(t *testing.T) {
		lines := broken("http://a.test\nhttp://b.test\n")
		assert.Equal(t, []string{"http://a.test", "http://b.test"}, urlsOf(lines))
		assert.ErrorIs(t, lines.Err(), errDisk)
		assert.ErrorContains(t, lines.Err(), "after line 2:")
		assert.Empty(t, urlsOf(lines), "after the error")
	})
	// Half a URL is another URL: nobody asked for it.
	t.Run("within a line", func(t *testing.T) {
		lines := broken("http://a.test/1\nhttp://a.test/2\nhttp://a.test/delete?id=1")
		assert.Equal(t, []string{"http://a.test/1", "http://a.test/2"}, urlsOf(lines))
		assert.ErrorIs(t, lines.Err(), errDisk)
		assert.ErrorContains(t, lines.Err(), "after line 2:")
	})
	t.Run("within a long line", func(t *testing.T) {
		lines := broken("http://a.test\n" + strings.Repeat("x", 1<<20))
		assert.Equal(t, []string{"http://a.test"}, urlsOf(lines))
		assert.ErrorIs(t, lines.Err(), errDisk)
		assert.ErrorIs(t, lines.Err(), fetch.ErrBadURL, "what was skipped is told too")
		assert.ErrorContains(t, lines.Err(), "line 2 ")
	})
	t.Run("at once", func(t *testing.T) {
		lines := broken("")
		assert.Empty(t, urlsOf(lines))
		assert.ErrorIs(t, lines.Err(), errDisk)
	})
}

func TestLinesResume(t *testing.T) {
	lines := fetch.Lines(strings.NewReader("http://a.test\nhttp://b.test\nhttp://c.test"))
	for r := range lines.All() {
		require.Equal(t, "http://a.test", r.URL)
		break
	}
	assert.NoError(t, lines.Err(), "a break is no error")
	assert.Equal(t, []string{"http://b.test", "http://c.test"}, urlsOf(lines), "a second loop goes on where the first ended")
	assert.NoError(t, lines.Err())

	lines = fetch.Lines(strings.NewReader("http://a.test"))
	for range lines.All() {
		break
	}
	assert.Empty(t, urlsOf(lines), "the last line is not repeated")
	assert.NoError(t, lines.Err())
}

// FuzzLines: every line that is neither blank, nor a comment, nor too long comes
// out once, without the space around it, in order.
func FuzzLines(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "http://a.test\n", "http://a.test\r\nhttp://b.test", "\ufeffhttp://a.test\n\n", "\ufeff\ufeff",
		"# comment\n http://a.test \n\t#\n", "\r\r\n\r", "\x00\n\xff\xfe\n", "\u2028x\u00a0\n\u0085",
		strings.Repeat("x", longestURL) + "\r\ny", "y\n" + strings.Repeat("x", longestURL+1), strings.Repeat("x", 3*longestURL) + "\ny",
		"\ufeff" + strings.Repeat("x", longestURL) + "\n", strings.Repeat(" ", longestURL+1) + "\ny",
		strings.Repeat("x", longestURL) + strings.Repeat("\r", 9) + "\ny",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, file string) {
		var want []string
		tooLong := false
		for line := range strings.Lines(strings.TrimPrefix(file, "\ufeff")) {
			line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
			if len(line) > longestURL {
				tooLong = true
			} else if url := strings.TrimSpace(line); url != "" && url[0] != '#' {
				want = append(want, url)
			}
		}
		lines := fetch.Lines(strings.NewReader(file))
		got := urlsOf(lines)
		if !slices.Equal(want, got) {
			t.Errorf("%.200q: want %.200q, got %.200q", file, want, got)
		}
		if err := lines.Err(); tooLong != errors.Is(err, fetch.ErrBadURL) || !tooLong && err != nil {
			t.Errorf("%.200q: Err is %v", file, err)
		}
	})
}
