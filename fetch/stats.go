package fetch

import (
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Stats tallies the results that pass through [Stats.Observe]. The zero value is ready. Its methods
// may be called from any goroutine at any time. It keeps some 200 KiB, however many results there
// are. It must not be copied after first use.
type Stats struct {
	mu      sync.Mutex
	total   Snapshot
	service *hdrhistogram.Histogram // of service times, in ns
	begun   time.Time               // of the first Observe
	loops   int                     // Observe loops that are running
}

// A Snapshot is what [Stats] has counted up to a moment.
type Snapshot struct {
	// URLs is the number of results. OK is the number of those that are [Result.OK], or a 304 (Not
	// Modified) to a conditional request: one with an If-None-Match, an If-Modified-Since or another
	// header field of that family (RFC 9110 §13.1). The others failed: by an error, or by a status that
	// is not a 2xx.
	URLs, OK int64
	// Errors counts the results with an Err by their [Kind]; "" stands for errors without one.
	Errors map[Kind]int64
	// Statuses counts the responses by their status, complete or not: see [Result].Status.
	Statuses map[int]int64
	// Retries is the number of requests sent beyond the first for each URL.
	Retries int64
	// Bytes is the size of all bodies, decoded.
	Bytes int64
	// Elapsed is the time from the begin of the first Observe loop to now or, when none is running,
	// to the end of the last.
	Elapsed time.Duration
	// P50, P90 and P99 are percentiles of the service time, to 0.1 % or 0.5 µs, whichever is more, and
	// Max is the longest. Results without a Duration do not count.
	P50, P90, P99, Max time.Duration
}

// Observe returns seq with each of its results counted as it passes.
func (s *Stats) Observe(seq iter.Seq[Result]) iter.Seq[Result] {
	return func(yield func(Result) bool) {
		s.begin()
		defer s.end()
		for r := range seq {
			s.add(&r)
			if !yield(r) {
				return
			}
		}
	}
}

// longest is the longest service time that the histogram tells from longer ones.
const longest = time.Hour

func (s *Stats) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.service == nil {
		s.service = hdrhistogram.New(int64(time.Microsecond), int64(longest), 3)
		s.total.Errors = make(map[Kind]int64)
		s.total.Statuses = make(map[int]int64)
		s.begun = time.Now()
	}
	s.loops++
}

func (s *Stats) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loops--
	s.total.Elapsed = time.Since(s.begun)
}

func (s *Stats) add(r *Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.total
	t.URLs++
	if r.OK() || isNotModified(r) {
		t.OK++
	}
	if r.Err != nil {
		t.Errors[KindOf(r.Err)]++
	}
	if r.Status != 0 {
		t.Statuses[r.Status]++
	}
	t.Retries += int64(max(0, r.Attempts-1))
	t.Bytes += int64(len(r.Body))
	if r.Duration > 0 {
		t.Max = max(t.Max, r.Duration)
		// Cannot fail: the value is within the histogram's range.
		_ = s.service.RecordValue(int64(min(r.Duration, longest)))
	}
}

// isNotModified reports whether r is a 304 that its request asked for.
func isNotModified(r *Result) bool {
	if r.Err != nil || r.Status != http.StatusNotModified || r.Request == nil {
		return false
	}
	for name := range r.Request.Header {
		if len(name) > 3 && strings.EqualFold(name[:3], "If-") {
			return true
		}
	}
	return false
}

// Snapshot returns what has been counted so far.
func (s *Stats) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.total
	t.Errors, t.Statuses = maps.Clone(t.Errors), maps.Clone(t.Statuses)
	if s.loops > 0 {
		t.Elapsed = time.Since(s.begun)
	}
	if s.service != nil && s.service.TotalCount() > 0 {
		// The histogram answers with the end of a bucket, which may lie beyond Max.
		at := func(q float64) time.Duration { return min(time.Duration(s.service.ValueAtQuantile(q)), t.Max) }
		t.P50, t.P90, t.P99 = at(50), at(90), at(99)
	}
	return t
}

// PerSecond returns the throughput in URLs/s, failures included.
func (s Snapshot) PerSecond() float64 {
	if s.Elapsed <= 0 {
		return 0
	}
	return float64(s.URLs) / s.Elapsed.Seconds()
}

// String returns a table of several lines.
func (s Snapshot) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "URLs\t%d\tin %v, %.0f URLs/s\n", s.URLs, s.Elapsed.Round(time.Millisecond), s.PerSecond())
	fmt.Fprintf(w, "ok\t%d\n", s.OK)
	fmt.Fprintf(w, "failed\t%d\n", s.URLs-s.OK)
	for _, k := range slices.Sorted(maps.Keys(s.Errors)) {
		name := k
		if name == "" {
			name = "other error"
		}
		fmt.Fprintf(w, "  %s\t%d\n", name, s.Errors[k])
	}
	for _, status := range slices.Sorted(maps.Keys(s.Statuses)) {
		fmt.Fprintf(w, "status %d\t%d\t%s\n", status, s.Statuses[status], http.StatusText(status))
	}
	fmt.Fprintf(w, "retries\t%d\n", s.Retries)
	fmt.Fprintf(w, "bytes\t%d\n", s.Bytes)
	fmt.Fprintf(w, "service time\t\tp50 %v, p90 %v, p99 %v, max %v\n", s.P50, s.P90, s.P99, s.Max)
	w.Flush()
	return b.String()
}
