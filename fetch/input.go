package fetch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"

	"fetchbench/fetch/internal/queue"
	"fetchbench/fetch/internal/rules"
)

// URLs returns a GET request for each of urls, an input for [Fetcher.Fetch].
func URLs(urls ...string) iter.Seq[Request] {
	return func(yield func(Request) bool) {
		for _, u := range urls {
			if !yield(Request{URL: u}) {
				return
			}
		}
	}
}

// A Queue is an input for [Fetcher.FetchQueue] to which the loop's body may add while it runs. Its
// methods are for one goroutine, the loop's. The zero value is empty and ready. Its memory is that
// of the requests in it.
type Queue struct{ requests queue.FIFO[Request] }

// Add appends reqs.
func (q *Queue) Add(reqs ...Request) {
	for _, r := range reqs {
		q.requests.Push(r)
	}
}

// AddURLs appends a GET request for each of urls.
func (q *Queue) AddURLs(urls ...string) {
	for _, u := range urls {
		q.requests.Push(Request{URL: u})
	}
}

// Len returns how many requests have not been taken.
func (q *Queue) Len() int { return q.requests.Len() }

var byteOrderMark = []byte("\ufeff")

// Lines reads URLs from r, one a line. Space around a URL, blank lines and lines that begin with #
// are skipped.
func Lines(r io.Reader) *LineSource {
	// Room for the longest line, its end and a byte order mark.
	return &LineSource{r: bufio.NewReaderSize(r, rules.MaxURL+len("\r\n")+len(byteOrderMark))}
}

// A LineSource is an input for [Fetcher.Fetch] that reads one URL a line: see [Lines].
type LineSource struct {
	r       *bufio.Reader
	line    int   // lines read
	tooLong int   // lines skipped
	first   int   // the first of those
	err     error // what ended the reading
}

// All returns a GET request for each URL. Only one line is in memory at a time. A line of more than
// 64 KiB is skipped, and [LineSource.Err] says so afterwards.
func (l *LineSource) All() iter.Seq[Request] {
	return func(yield func(Request) bool) {
		for l.err == nil {
			line, err := l.r.ReadSlice('\n')
			tooLong := err == bufio.ErrBufferFull
			for err == bufio.ErrBufferFull {
				_, err = l.r.ReadSlice('\n')
			}
			l.err = err
			if err != nil && err != io.EOF && !tooLong {
				return // the begin of a URL is another URL
			}
			if len(line) > 0 {
				l.line++
			}
			if l.line == 1 {
				line = bytes.TrimPrefix(line, byteOrderMark)
			}
			line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
			if tooLong || len(line) > rules.MaxURL {
				if l.tooLong++; l.tooLong == 1 {
					l.first = l.line
				}
				continue
			}
			url := string(bytes.TrimSpace(line))
			if url == "" || url[0] == '#' {
				continue
			}
			if !yield(Request{URL: url}) {
				return
			}
		}
	}
}

// Err returns nil if every line has been read and handed on, or the loop ended the reading. Else it
// says which lines were skipped as too long (an error of kind [ErrBadURL]), and what went wrong in
// reading, joined by [errors.Join].
func (l *LineSource) Err() error {
	var long, read error
	if l.tooLong > 0 {
		long = &Error{Kind: ErrBadURL, Err: fmt.Errorf("line %d is longer than %d bytes and was skipped; %d such in all", l.first, rules.MaxURL, l.tooLong)}
	}
	if l.err != nil && l.err != io.EOF {
		read = fmt.Errorf("fetch: reading URLs after line %d: %w", l.line, l.err)
	}
	return errors.Join(long, read)
}
