package fetchbench_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// In every benchmark one op is one URL: b.N of them go through one Fetch, and the
// server runs in the same process, so its work is part of the times. Names are
// key=value, which benchstat -row and -col project.

// BenchmarkFetch is a GET of a tiny JSON document. Without latency it shows what a
// URL costs, with 5 ms what waiting for several at once is worth.
func BenchmarkFetch(b *testing.B) {
	for _, s := range strategies {
		for _, e := range engines {
			if e.name != "client" && (s.name == "serial" || s.name == "threads") {
				continue // what they wait for, and the threads, cost more than any engine
			}
			for _, latency := range []time.Duration{0, 5 * time.Millisecond} {
				b.Run(fmt.Sprintf("strategy=%s/engine=%s/latency=%v", s.name, e.name, latency), func(b *testing.B) {
					b.Setenv(engineEnv, e.name)
					run(b, s.Strategy, e.new(), fetchtest.NewServer(b, fetchtest.Latency(latency)))
				})
			}
		}
	}
}

// BenchmarkPipeline shows what it is worth that several requests share a write: 64 writes
// are under way at once, of depth requests each.
func BenchmarkPipeline(b *testing.B) {
	for _, depth := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			run(b, fetch.Pipeline{Limit: 64 * depth, Depth: depth}, &fetch.Client{}, fetchtest.NewServer(b))
		})
	}
}

// BenchmarkPost sends a JSON document of 1.5 KB, and decodes the one that comes back.
// What it costs differs by strategy as in BenchmarkFetch, but for the way to another process.
func BenchmarkPost(b *testing.B) {
	document, err := os.ReadFile("testdata/order.json")
	require.NoError(b, err)
	type order struct {
		ID    string
		Total float64
		Items []struct {
			SKU      string
			Quantity int
			Price    float64
		}
	}
	var sent order
	require.NoError(b, json.Unmarshal(document, &sent))
	for _, s := range strategies {
		if s.name != "pool" && s.name != "shard" {
			continue
		}
		b.Run("strategy="+s.name, func(b *testing.B) {
			m := measurement{
				strategy: s.Strategy,
				doer:     &fetch.Client{},
				server:   fetchtest.NewServer(b),
				check: func(r *fetch.Result) bool {
					var got order
					return r.OK() && r.Decode(&got) == nil && got.ID == sent.ID && len(got.Items) == len(sent.Items)
				},
			}
			m.request = fetch.Request{
				Method: http.MethodPost,
				URL:    m.server.URL + "/echo",
				Header: http.Header{"Content-Type": {"application/json"}},
				Body:   document,
			}
			m.run(b)
		})
	}
}

// BenchmarkLimit shows how throughput follows the limit, with 5 ms of latency: first
// as the limit itself, until the processors are busy.
func BenchmarkLimit(b *testing.B) {
	for _, limit := range []int{1, 8, 64, 512} {
		b.Run(fmt.Sprintf("limit=%d", limit), func(b *testing.B) {
			run(b, fetch.Pool{Workers: limit}, &fetch.Client{}, fetchtest.NewServer(b, fetchtest.Latency(5*time.Millisecond)))
		})
	}
}

// BenchmarkReuse compares one client for all URLs with one for each, as the Python
// scripts had it: most of what they measured was the opening of connections.
func BenchmarkReuse(b *testing.B) {
	clients := []struct {
		name string
		new  func() fetch.Doer
	}{
		{"shared", func() fetch.Doer { return &fetch.Client{} }},
		{"per-url", func() fetch.Doer {
			return fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
				client := &fetch.Client{}
				defer client.CloseIdleConnections()
				return client.Do(ctx, r)
			})
		}},
	}
	for _, c := range clients {
		for _, s := range strategies {
			if s.name == "serial" || s.name == "pool" {
				b.Run(fmt.Sprintf("client=%s/strategy=%s", c.name, s.name), func(b *testing.B) {
					run(b, s.Strategy, c.new(), fetchtest.NewServer(b))
				})
			}
		}
	}
}

// BenchmarkBody fetches larger bodies through a pool.
func BenchmarkBody(b *testing.B) {
	for _, size := range []struct {
		name  string
		bytes int
	}{{"1KB", 1 << 10}, {"64KB", 64 << 10}, {"1MB", 1 << 20}} {
		b.Run("size="+size.name, func(b *testing.B) {
			b.SetBytes(int64(size.bytes))
			run(b, fetch.Pool{}, &fetch.Client{}, fetchtest.NewServer(b, fetchtest.BodySize(size.bytes)))
		})
	}
}

// BenchmarkOverhead is the strategy alone, over a Doer that does nothing.
func BenchmarkOverhead(b *testing.B) {
	for _, s := range strategies {
		b.Run("strategy="+s.name, func(b *testing.B) {
			f := fetcher(s.Strategy, fetch.DoerFunc(nothing))
			await := shards(b, f)
			received := 0
			b.ReportAllocs()
			for r := range f.Fetch(b.Context(), func(yield func(fetch.Request) bool) {
				await()
				b.ResetTimer()
				repeat(fetch.Request{URL: nowhere}, b.N)(yield)
			}) {
				if !r.OK() {
					b.Fatal(r.Err)
				}
				received++
			}
			if received != b.N {
				b.Fatalf("%d results for %d requests", received, b.N)
			}
		})
	}
}

// nowhere is the URL that nothing is done for.
const nowhere = "http://host.test/"

var pong = []byte(fetchtest.Pong)

func nothing(context.Context, *fetch.Request) fetch.Result {
	return fetch.Result{Status: 200, Body: pong, Attempts: 1}
}

// run measures GETs of /ping.
func run(b *testing.B, s fetch.Strategy, d fetch.Doer, server *fetchtest.Server) {
	body := server.Body()
	m := measurement{
		strategy: s,
		doer:     d,
		server:   server,
		request:  fetch.Request{URL: server.URL + "/ping"},
		check:    func(r *fetch.Result) bool { return r.OK() && bytes.Equal(r.Body, body) },
	}
	m.run(b)
}

// A measurement is one run of a benchmark: b.N times request through strategy and doer.
type measurement struct {
	strategy fetch.Strategy
	doer     fetch.Doer
	server   *fetchtest.Server
	request  fetch.Request
	check    func(r *fetch.Result) bool
}

func (m *measurement) run(b *testing.B) {
	if c, ok := m.doer.(engine); ok {
		b.Cleanup(c.CloseIdleConnections)
	}
	f := fetcher(m.strategy, m.doer)
	// Connections are opened beforehand: they are the same for 1 URL and for a million.
	for r := range f.Fetch(b.Context(), repeat(m.request, m.strategy.Limits().InFlight)) {
		m.require(b, &r)
	}
	warm := m.server.Requests()

	seen := make([]uint64, b.N/64+1) // a bit for each index
	slow := newSlowest(b.N)
	var cpu, startup, batches, batchTime time.Duration
	await := shards(b, f)
	if _, ok := m.strategy.(fetch.Batch); ok {
		f.Trace = func(e fetch.Event) {
			if e.Kind == fetch.EventBatch {
				batches++
				batchTime += e.Duration
			}
		}
	}
	input := func(yield func(fetch.Request) bool) {
		// A Shard's connections, other than those of the other strategies, are opened
		// in the timed part: its children live no longer than this Fetch.
		startup = await()
		b.ResetTimer()
		cpu = fetchtest.CPUTime()
		repeat(m.request, b.N)(yield)
	}
	b.ReportAllocs()
	for r := range f.Fetch(b.Context(), input) {
		m.require(b, &r)
		word, bit := &seen[r.Request.Index/64], uint64(1)<<(r.Request.Index%64)
		if *word&bit != 0 {
			b.Fatalf("a second result for request %d", r.Request.Index)
		}
		*word |= bit
		slow.add(r.Duration)
	}
	cpu = fetchtest.CPUTime() - cpu
	b.StopTimer()

	for i := range b.N {
		if seen[i/64]&(1<<(i%64)) == 0 {
			b.Fatalf("no result for request %d", i)
		}
	}
	if n := m.server.Requests() - warm; n != b.N {
		b.Fatalf("the server had %d requests of %d", n, b.N)
	}
	n := float64(b.N)
	b.ReportMetric(n/b.Elapsed().Seconds(), "urls/s")
	// A literal 0 would make a table of its own in benchstat.
	if p99 := slow.p99(); p99 > 0 {
		b.ReportMetric(float64(p99), "p99-ns")
	}
	if cpu > 0 {
		b.ReportMetric(float64(cpu)/n, "cpu-ns/op")
	}
	if startup > 0 {
		b.ReportMetric(float64(startup), "start-ns")
	}
	if batches > 0 {
		b.ReportMetric(float64(batchTime/batches), "batch-ns")
	}
}

// shards returns a function that waits until the children are ready, if f has a Shard, and
// returns how long that took the slowest. They start with the Fetch, so the input is the
// place to wait for them.
func shards(b *testing.B, f *fetch.Fetcher) (await func() (startup time.Duration)) {
	shard, ok := f.Strategy.(fetch.Shard)
	if !ok {
		return func() time.Duration { return 0 }
	}
	processes := cmp.Or(shard.Processes, runtime.GOMAXPROCS(0))
	started := make(chan time.Duration, 3*processes)
	f.Trace = func(e fetch.Event) {
		switch {
		case e.Kind == fetch.EventShardUp:
			started <- e.Duration
		case e.Kind == fetch.EventShardDown && e.Err != nil:
			b.Errorf("a child is gone: %v", e.Err)
			started <- e.Duration
		}
	}
	return func() (startup time.Duration) {
		for range processes {
			startup = max(startup, <-started)
		}
		return startup
	}
}

func (m *measurement) require(b *testing.B, r *fetch.Result) {
	if !m.check(r) {
		b.Fatalf("request %d: status %d, %d bytes of body, error %v", r.Request.Index, r.Status, len(r.Body), r.Err)
	}
}

// repeat is n times r.
func repeat(r fetch.Request, n int) iter.Seq[fetch.Request] {
	return func(yield func(fetch.Request) bool) {
		for range n {
			if !yield(r) {
				return
			}
		}
	}
}

// slowest keeps the slowest hundredth of n durations, in a heap with the quickest
// of them on top: which is the exact 99th percentile (nearest rank), in little memory.
type slowest struct {
	heap []time.Duration
	room int
}

func newSlowest(n int) *slowest {
	room := n/100 + 1
	return &slowest{heap: make([]time.Duration, 0, room), room: room}
}

func (s *slowest) p99() time.Duration { return s.heap[0] }

func (s *slowest) add(d time.Duration) {
	h := s.heap
	if len(h) < s.room {
		i := len(h)
		h = append(h, d)
		for ; i > 0 && h[(i-1)/2] > d; i = (i - 1) / 2 {
			h[i] = h[(i-1)/2]
		}
		h[i] = d
		s.heap = h
		return
	}
	if d <= h[0] {
		return
	}
	i := 0
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1] < h[child] {
			child++
		}
		if h[child] >= d {
			break
		}
		h[i] = h[child]
		i = child
	}
	h[i] = d
}
