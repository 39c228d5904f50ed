package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"weak"

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
	// Half a URL is another URL, which was not asked for.
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

// FuzzLines: every line that is neither blank, nor a comment, nor too long comes out once, without
// the space around it, in order.
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

// tags yields a request with each of tags to a host of its own. Its Index is not to be believed.
func tags(tags ...int) []fetch.Request {
	var reqs []fetch.Request
	for _, tag := range tags {
		reqs = append(reqs, fetch.Request{Index: -7, URL: fmt.Sprintf("http://host%d.test/", tag), Tag: tag})
	}
	return reqs
}

// tagOf is the tag of r's request.
func tagOf(r fetch.Result) int { return r.Request.Tag.(int) }

// A caller finds by Index, or by its own Tag, what a result belongs to: whatever became of the
// request, and of others.
func TestIndexAndTag(t *testing.T) {
	const n = 60
	var all []int
	for i := range n {
		all = append(all, 1000+i)
	}
	for _, s := range []fetch.Strategy{fetch.Serial{}, fetch.Pool{Workers: 4}, fetch.Batch{Size: 7}, fetch.Pipeline{Limit: 8}} {
		for _, ordered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v ordered=%v", s, ordered), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
						switch r.Index % 5 {
						case 1:
							panic("a bug")
						case 2:
							return fetch.Result{Err: &fetch.Error{Kind: fetch.ErrDial}, Attempts: 1}
						case 3:
							return fetch.Result{Status: 503, Attempts: 1}
						}
						return asleep(time.Duration(r.Index%7)*time.Second)(ctx, r)
					})
					f := fetch.Fetcher{Strategy: s, Doer: doer, Ordered: ordered, Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{Failures: 1, Patience: -1}}
					seen := make(map[int]bool)
					for r := range f.Fetch(t.Context(), slices.Values(tags(all...))) {
						assert.Equal(t, 1000+r.Request.Index, tagOf(r))
						assert.Equal(t, fmt.Sprintf("http://host%d.test/", tagOf(r)), r.Request.URL)
						seen[r.Request.Index] = true
					}
					assert.Len(t, seen, n)
				})
			})
		}
	}
}

func TestQueue(t *testing.T) {
	var q fetch.Queue
	assert.Zero(t, q.Len())
	assert.Zero(t, drain((&fetch.Fetcher{Doer: api}).FetchQueue(t.Context(), &q)), "of an empty queue")
	q.AddURLs(people[0], people[1])
	q.Add(fetch.Request{URL: people[2]}, fetch.Request{URL: people[3]})
	q.Add()
	assert.Equal(t, 4, q.Len())
	var urls []string
	for r := range (&fetch.Fetcher{Doer: api, Ordered: true}).FetchQueue(t.Context(), &q) {
		assert.Equal(t, len(urls), r.Request.Index)
		if urls = append(urls, r.Request.URL); len(urls) == 4 {
			q.AddURLs(people[4]) // by now all was taken, and has its result
		}
	}
	assert.Equal(t, people, urls)
	assert.Zero(t, q.Len())
}

// Each page leads to two more. All are fetched, though the queue is empty again and again.
func TestFetchQueueCrawls(t *testing.T) {
	const n = 127
	for _, s := range []fetch.Strategy{fetch.Serial{}, fetch.Pool{Workers: 4}, fetch.Semaphore{Limit: 2}, fetch.Batch{Size: 10}, fetch.Pipeline{Limit: 8}} {
		for _, f := range []*fetch.Fetcher{{Strategy: s}, {Strategy: s, Ordered: true, Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{}}} {
			t.Run(fmt.Sprintf("%v ordered=%v", s, f.Ordered), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f.Doer = asleep(time.Second)
					var q fetch.Queue
					q.Add(tags(0)...)
					seen := make(map[int]bool)
					indexes := make(map[int]bool)
					for r := range f.FetchQueue(t.Context(), &q) {
						if page := tagOf(r); 2*page+2 < n {
							q.Add(tags(2*page+1, 2*page+2)...)
						}
						seen[tagOf(r)] = true
						indexes[r.Request.Index] = true
					}
					assert.Len(t, seen, n)
					assert.Len(t, indexes, n, "the positions in the queue")
					assert.Zero(t, q.Len())
				})
			})
		}
	}
}

// A program that ends early can write down what is left, or go on with it.
func TestFetchQueueKeepsWhatIsNotTaken(t *testing.T) {
	t.Run("break", func(t *testing.T) {
		var q fetch.Queue
		q.Add(tags(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)...)
		f := fetch.Fetcher{Strategy: fetch.Serial{}, Doer: api}
		for r := range f.FetchQueue(t.Context(), &q) {
			if r.Request.Index == 2 {
				break
			}
		}
		require.Equal(t, 7, q.Len(), "Serial takes one at a time")
		next := 3
		for r := range f.FetchQueue(t.Context(), &q) {
			assert.Equal(t, next, tagOf(r))
			assert.Equal(t, next-3, r.Request.Index, "another run counts anew")
			next++
		}
		assert.Equal(t, 10, next)
	})
	t.Run("break with requests under way", func(t *testing.T) {
		s := fetch.Pool{Workers: 2}
		var q fetch.Queue
		for i := range 100 {
			q.Add(tags(i)...)
		}
		for range (&fetch.Fetcher{Strategy: s, Doer: asleep(time.Millisecond)}).FetchQueue(t.Context(), &q) {
			break
		}
		taken := 100 - q.Len()
		assert.LessOrEqual(t, taken, 1+s.Limits().Ahead)
		for r := range (&fetch.Fetcher{Doer: api, Ordered: true}).FetchQueue(t.Context(), &q) {
			assert.Equal(t, taken+r.Request.Index, tagOf(r), "from the first that was not taken, in order")
		}
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var q fetch.Queue
		for i := range 100 {
			q.Add(tags(i)...)
		}
		results, added := 0, 100
		for range (&fetch.Fetcher{Strategy: fetch.Pool{Workers: 2}, Doer: api}).FetchQueue(ctx, &q) {
			if results++; results == 20 {
				cancel()
			}
			if ctx.Err() != nil {
				q.Add(tags(1000)...) // stays there
				added++
			}
		}
		assert.Equal(t, added, results+q.Len(), "each request has a result, or is in the queue")
		assert.LessOrEqual(t, results, 20+fetch.Pool{Workers: 2}.Limits().Ahead)
	})
	t.Run("canceled before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var q fetch.Queue
		q.Add(tags(0, 1, 2)...)
		assert.Zero(t, drain((&fetch.Fetcher{Doer: api}).FetchQueue(ctx, &q)))
		assert.Equal(t, 3, q.Len())
	})
}

// The memory of a queue is that of the requests in it, not of those that went through.
func TestQueueForgetsWhatWasTaken(t *testing.T) {
	const n = 10_000
	var q fetch.Queue
	var seen []weak.Pointer[int]
	add := func() {
		tag := new(int)
		seen = append(seen, weak.Make(tag))
		q.Add(fetch.Request{URL: people[0], Tag: tag})
	}
	for range 5 {
		add()
	}
	for r := range (&fetch.Fetcher{Strategy: fetch.Serial{}, Doer: api}).FetchQueue(t.Context(), &q) {
		if r.Request.Index < n {
			add()
			continue
		}
		runtime.GC()
		kept := 0
		for _, p := range seen {
			if p.Value() != nil {
				kept++
			}
		}
		assert.LessOrEqual(t, kept, 10)
		break
	}
}

// slowly sends each of reqs after a pause, and closes the channel. It returns the channel, and how
// many have been received from it.
func slowly(pause time.Duration, reqs ...fetch.Request) (<-chan fetch.Request, *atomic.Int64) {
	c := make(chan fetch.Request)
	sent := new(atomic.Int64)
	go func() {
		defer close(c)
		for _, r := range reqs {
			time.Sleep(pause)
			c <- r
			sent.Add(1)
		}
	}()
	return c, sent
}

// A result does not wait for the next request, however late that comes.
func TestStreamResultsWhileInputIsIdle(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Serial{}, fetch.Pool{Workers: 4}, fetch.Semaphore{Limit: 1}, fetch.Batch{Size: 3}, fetch.Pipeline{Limit: 8}} {
		for _, f := range []*fetch.Fetcher{{Strategy: s}, {Strategy: s, Ordered: true, Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{}}} {
			t.Run(fmt.Sprintf("%v ordered=%v", s, f.Ordered), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f.Doer = asleep(time.Second)
					reqs, _ := slowly(time.Minute, tags(0, 1, 2, 3, 4)...)
					begun, n := time.Now(), 0
					for r := range f.Stream(t.Context(), reqs) {
						assert.Equal(t, n, r.Request.Index)
						assert.Equal(t, n, tagOf(r))
						n++
						assert.Equal(t, time.Duration(n)*time.Minute+time.Second, time.Since(begun), "result %d", r.Request.Index)
					}
					assert.Equal(t, 5, n)
					assert.Equal(t, 5*time.Minute+time.Second, time.Since(begun), "the end, as soon as the channel is closed and all is done")
				})
			})
		}
	}
}

// A request does not wait for a result, as long as there is room for it.
func TestStreamInputWhileResultsAreLate(t *testing.T) {
	for _, s := range []fetch.Strategy{fetch.Pool{Workers: 4}, fetch.Semaphore{Limit: 4}, fetch.Batch{Size: 6, Each: fetch.Pool{Workers: 4}}} {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reqs, sent := slowly(0, tags(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)...)
				time.AfterFunc(time.Minute, func() {
					assert.EqualValues(t, s.Limits().Ahead, sent.Load(), "requests taken while there is no result")
				})
				assert.Equal(t, 12, drain((&fetch.Fetcher{Strategy: s, Doer: asleep(time.Hour)}).Stream(t.Context(), reqs)))
			})
		})
	}
}

// A retry does not wait for the next request either.
func TestStreamRetriesWhileInputIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
			if calls.Add(1)%2 == 1 {
				return fetch.Result{Status: 503, Attempts: 1}
			}
			return asleep(0)(ctx, r)
		})
		reqs, _ := slowly(time.Minute, tags(0, 1, 2)...)
		begun, n := time.Now(), 0
		for r := range (&fetch.Fetcher{Doer: doer, Retry: &fetch.Retry{Backoff: time.Second}}).Stream(t.Context(), reqs) {
			n++
			assert.Equal(t, 2, r.Attempts)
			assert.LessOrEqual(t, time.Since(begun), time.Duration(n)*time.Minute+time.Second)
		}
		assert.Equal(t, 3, n)
	})
}

func TestStreamEnds(t *testing.T) {
	t.Run("closed at once", func(t *testing.T) {
		reqs := make(chan fetch.Request)
		close(reqs)
		assert.Zero(t, drain((&fetch.Fetcher{Doer: api}).Stream(t.Context(), reqs)))
	})
	t.Run("cancel while idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			begun := time.Now()
			reqs := make(chan fetch.Request, 9)
			reqs <- fetch.Request{URL: people[0]}
			assert.Equal(t, 1, drain((&fetch.Fetcher{Doer: api}).Stream(ctx, reqs)))
			assert.Equal(t, time.Hour, time.Since(begun))
		})
	})
	t.Run("cancel with requests under way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Minute, cancel)
			begun := time.Now()
			reqs := make(chan fetch.Request, 9)
			for _, r := range tags(0, 1, 2, 3, 4, 5, 6, 7, 8) {
				reqs <- r
			}
			n := 0
			for r := range (&fetch.Fetcher{Strategy: fetch.Pool{Workers: 3}, Doer: asleep(time.Hour)}).Stream(ctx, reqs) {
				assert.ErrorIs(t, r.Err, fetch.ErrCanceled)
				n++
			}
			assert.Equal(t, 6, n, "those taken")
			assert.Len(t, reqs, 3, "the others stay where they are")
			assert.Equal(t, time.Minute, time.Since(begun))
		})
	})
	t.Run("break", func(t *testing.T) {
		reqs := make(chan fetch.Request, 100)
		for i := range 100 {
			reqs <- tags(i)[0]
		}
		for range (&fetch.Fetcher{Strategy: fetch.Serial{}, Doer: api}).Stream(t.Context(), reqs) {
			break
		}
		assert.Len(t, reqs, 99, "nothing more is received")
	})
	t.Run("panic in the loop", func(t *testing.T) {
		reqs := make(chan fetch.Request, 1)
		reqs <- fetch.Request{URL: people[0]}
		assert.PanicsWithValue(t, "mine", func() {
			for range (&fetch.Fetcher{Doer: api}).Stream(t.Context(), reqs) {
				panic("mine")
			}
		})
	})
}

// Senders may be many.
func TestStreamFromManyGoroutines(t *testing.T) {
	const senders, each = 8, 200
	reqs := make(chan fetch.Request)
	var running sync.WaitGroup
	for s := range senders {
		running.Go(func() {
			for i := range each {
				reqs <- tags(s*each + i)[0]
			}
		})
	}
	go func() {
		running.Wait()
		close(reqs)
	}()
	seen := make(map[int]bool)
	for r := range (&fetch.Fetcher{Strategy: fetch.Pool{Workers: 4}, Doer: asleep(0), Ordered: true}).Stream(t.Context(), reqs) {
		assert.Equal(t, len(seen), r.Request.Index)
		seen[tagOf(r)] = true
	}
	assert.Len(t, seen, senders*each)
}
