// Package fetchbench_test compares the strategies of package fetch, and checks
// from the outside that each of them keeps its contract on each engine.
package fetchbench_test

import (
	"context"
	"flag"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

func TestMain(m *testing.M) {
	doer := engineOf(os.Getenv(engineEnv)).new()
	fetch.ShardMain(fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		if r.URL == nowhere {
			return nothing(ctx, r)
		}
		return doer.Do(ctx, r)
	}))
	// For the children: the race detector has every program end a second later.
	os.Setenv("GORACE", "atexit_sleep_ms=1 "+os.Getenv("GORACE"))
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" {
		// Half of go test's default, so that ten counts of all fit into its ten minutes.
		given := false
		flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.benchtime" })
		if !given {
			if err := flag.Set("test.benchtime", "500ms"); err != nil {
				panic(err)
			}
		}
		// For benchstat: which way is better. It knows the units of package testing.
		fmt.Println("Unit urls/s better=higher")
		fmt.Println("Unit p99-ns better=lower")
		fmt.Println("Unit cpu-ns/op better=lower")
		fmt.Println("Unit batch-ns better=lower")
		fmt.Println("Unit start-ns better=lower")
	}
	goleak.VerifyTestMain(m)
}

type namedStrategy struct {
	name string
	fetch.Strategy
}

// strategies are those that are compared, with their names in the benchmarks.
var strategies = []namedStrategy{
	{"serial", fetch.Serial{}},
	{"threads", fetch.Threads{}},
	{"pool", fetch.Pool{}},
	{"semaphore", fetch.Semaphore{}},
	{"batch", fetch.Batch{}},
	{"shard", fetch.Shard{}},
}

// tested are those that are tested: what is compared, and what has a benchmark of its own.
var tested = append(slices.Clip(strategies),
	namedStrategy{"pipeline", fetch.Pipeline{Limit: 64, Depth: 8}},
	namedStrategy{"batched-shard", fetch.Batch{Size: 100, Each: fetch.Shard{Processes: 2, Each: fetch.Pipeline{Limit: 32}}}},
)

// isRemote reports whether the requests of s are performed in other processes.
func isRemote(s fetch.Strategy) bool {
	r, ok := s.(fetch.RemoteStrategy)
	return ok && r.Remote() != ""
}

// fetcher is a Fetcher for s over d. The children of a Shard have their own Doer: see TestMain.
func fetcher(s fetch.Strategy, d fetch.Doer) *fetch.Fetcher {
	if isRemote(s) {
		d = nil
	}
	return &fetch.Fetcher{Strategy: s, Doer: d}
}

// An engine is a Doer, and the way to let go of its connections.
type engine interface {
	fetch.Doer
	CloseIdleConnections()
}

type namedEngine struct {
	name string
	new  func() engine
}

var engines = []namedEngine{
	{"client", func() engine { return &fetch.Client{} }}, // the default
	{"nethttp", func() engine {
		return fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}, Timeout: 30 * time.Second}
	}},
}

// engineEnv tells the children of a Shard the name of their engine.
const engineEnv = "FETCHBENCH_ENGINE"

// engineOf returns the engine with that name, or the default one.
func engineOf(name string) namedEngine {
	for _, e := range engines {
		if e.name == name {
			return e
		}
	}
	return engines[0]
}

// each runs test for every strategy on every engine.
func each(t *testing.T, test func(t *testing.T, f *fetch.Fetcher, engine string)) {
	for _, s := range tested {
		for _, e := range engines {
			t.Run(s.name+"/"+e.name, func(t *testing.T) {
				t.Setenv(engineEnv, e.name)
				doer := e.new()
				defer doer.CloseIdleConnections()
				test(t, fetcher(s.Strategy, doer), e.name)
			})
		}
	}
}

// pings is n URLs of s, each different.
func pings(s *fetchtest.Server, n int) iter.Seq[fetch.Request] {
	return func(yield func(fetch.Request) bool) {
		for i := range n {
			if !yield(fetch.Request{URL: s.Ping(i)}) {
				return
			}
		}
	}
}

// A URL that fails must not cost another one its result, or pass for a success.
func TestEveryURLIsAnsweredAsTheServerDid(t *testing.T) {
	each(t, func(t *testing.T, f *fetch.Fetcher, engine string) {
		const n = 500
		s := fetchtest.NewServer(t, fetchtest.FailStatus(0.03, 503), fetchtest.Drop(0.01), fetchtest.Seed(42))
		wantFailed, wantDropped := 0, 0
		for i := range n {
			switch fate := s.Fate(s.Ping(i)); {
			case fate.Dropped:
				wantDropped++
			case fate.Status != 200:
				wantFailed++
			}
		}
		require.Positive(t, wantFailed, "URLs that are to fail")
		require.Positive(t, wantDropped, "URLs that are to be dropped")

		// What shares a write with a request that is dropped may be sent again.
		together := engine == "client" && strings.Contains(f.Strategy.String(), "pipeline")
		failed, dropped := 0, 0
		seen := make([]bool, n)
		for r := range f.Fetch(t.Context(), pings(s, n)) {
			i := r.Request.Index
			if seen[i] || r.Request.URL != s.Ping(i) || r.URL != s.Ping(i) || r.Duration <= 0 ||
				r.Attempts < 1 || r.Attempts > 1 && !together {
				require.Fail(t, "an odd or a second result", "%+v", r)
			}
			seen[i] = true

			switch fate := s.Fate(r.Request.URL); {
			case fate.Dropped:
				dropped++
				require.ErrorIs(t, r.Err, fetch.ErrTruncated)
				require.False(t, r.OK())
			case fate.Status != 200:
				failed++
				require.NoError(t, r.Err)
				require.Equal(t, fate.Status, r.Status)
				require.False(t, r.OK())
				require.JSONEq(t, `{"error":"Service Unavailable"}`, string(r.Body))
			default:
				if !r.OK() || string(r.Body) != fetchtest.Pong || r.Header().Get("Content-Type") != "application/json" {
					require.Fail(t, "not a pong", "%+v", r)
				}
			}
		}
		assert.NotContains(t, seen, false, "a request without a result")
		assert.Equal(t, wantFailed, failed, "URLs that failed")
		assert.Equal(t, wantDropped, dropped, "URLs that were dropped")
		if together {
			assert.GreaterOrEqual(t, s.Requests(), n, "requests that reached the server")
			return
		}
		assert.Equal(t, n, s.Requests(), "requests that reached the server")
		assert.Equal(t, wantDropped, s.Dropped(), "requests that the server dropped")
	})
}

// Connections are opened once, and used again: never more than requests at a time.
func TestConnectionsAreReused(t *testing.T) {
	each(t, func(t *testing.T, f *fetch.Fetcher, engine string) {
		server := fetchtest.NewServer(t)
		inFlight := f.Strategy.Limits().InFlight
		for r := range f.Fetch(t.Context(), pings(server, 300)) {
			require.True(t, r.OK(), "%v", r.Err)
		}
		assert.LessOrEqual(t, server.PeakInFlight(), inFlight, "requests at the server at once")
		if engine == "nethttp" { // whose transport opens some more
			return
		}
		assert.LessOrEqual(t, server.Conns(), inFlight, "connections opened")
		if isRemote(f.Strategy) { // the connections of a Shard's children end with them
			return
		}
		for r := range fetcher(fetch.Serial{}, f.Doer).Fetch(t.Context(), pings(server, 10)) {
			require.True(t, r.OK(), "%v", r.Err)
		}
		assert.LessOrEqual(t, server.Conns(), inFlight, "connections opened, another Fetch included")
	})
}

// The limit is reached, or a strategy is slower than its name says: the server answers no request
// before as many as that are there at once.
func TestLimitIsReached(t *testing.T) {
	for _, s := range tested {
		t.Run(s.name, func(t *testing.T) {
			inFlight := s.Limits().InFlight
			var gauge fetchtest.Gauge
			full := make(chan struct{})
			var once sync.Once
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer gauge.Enter()()
				if gauge.InFlight() == inFlight {
					once.Do(func() { close(full) })
				}
				select {
				case <-full:
				case <-r.Context().Done():
				}
			}))
			defer server.Close()
			client := &fetch.Client{}
			defer client.CloseIdleConnections()
			// Not as a BatchDoer: the server handles one request of a connection at a time.
			doer := fetch.DoerFunc(client.Do)
			for r := range fetcher(s.Strategy, doer).Fetch(t.Context(), repeat(fetch.Request{URL: server.URL}, 2*inFlight)) {
				require.True(t, r.OK(), "%d of %d requests came: %v", gauge.Peak(), inFlight, r.Err)
			}
			assert.Equal(t, inFlight, gauge.Peak())
		})
	}
}

// After a break nothing is under way, and the engine is as good as before.
func TestBreak(t *testing.T) {
	each(t, func(t *testing.T, f *fetch.Fetcher, _ string) {
		s := fetchtest.NewServer(t)
		for _, k := range []int{1, 10, 200} {
			received := 0
			for r := range f.Fetch(t.Context(), pings(s, 1_000_000)) {
				require.True(t, r.OK(), "%v", r.Err)
				if received++; received == k {
					break
				}
			}
			require.Equal(t, k, received)
		}
		assert.Less(t, s.Requests(), 1000, "requests that were not needed")
	})
}

// A cancel aborts what is under way, and each request that was taken is answered.
func TestCancel(t *testing.T) {
	each(t, func(t *testing.T, f *fetch.Fetcher, _ string) {
		s := fetchtest.NewServer(t, fetchtest.Latency(time.Minute))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		taken, received := 0, 0
		input := func(yield func(fetch.Request) bool) {
			for r := range pings(s, 1_000_000) {
				taken++
				if !yield(r) {
					return
				}
			}
		}
		canceled := make(chan time.Time, 1)
		go func() {
			for s.Requests() == 0 {
				time.Sleep(time.Millisecond)
			}
			cancel()
			canceled <- time.Now()
		}()
		for r := range f.Fetch(ctx, input) {
			require.ErrorIs(t, r.Err, fetch.ErrCanceled)
			require.ErrorIs(t, r.Err, context.Canceled)
			received++
		}
		assert.Equal(t, taken, received)
		assert.Less(t, time.Since(<-canceled), 10*time.Second, "the loop ends long before the server answers")
	})
}

// Ordered changes the order, and nothing else.
func TestOrdered(t *testing.T) {
	for _, s := range tested {
		t.Run(s.name, func(t *testing.T) {
			server := fetchtest.NewServer(t, fetchtest.Jitter(2*time.Millisecond), fetchtest.FailStatus(0.1, 404))
			client := &fetch.Client{}
			defer client.CloseIdleConnections()
			f := fetcher(s.Strategy, client)
			f.Ordered = true
			next := 0
			for r := range f.Fetch(t.Context(), pings(server, 100)) {
				require.Equal(t, next, r.Request.Index)
				require.Equal(t, server.Fate(r.Request.URL).Status, r.Status)
				next++
			}
			assert.Equal(t, 100, next)
		})
	}
}

// What cannot be fetched costs nothing but its own result.
func TestBadInput(t *testing.T) {
	bad := []string{"", "host/path", "127.0.0.1:8080/ping", "localhost:8080/x", "ftp://host/", "http://host/\x00", "http://:80/", "http://host:99999/"}
	each(t, func(t *testing.T, f *fetch.Fetcher, _ string) {
		s := fetchtest.NewServer(t)
		urls := append([]string{s.Ping(0)}, bad...)
		urls = append(urls, s.Ping(1))
		good := 0
		for r := range f.Get(t.Context(), urls...) {
			if r.OK() {
				good++
				continue
			}
			assert.ErrorIs(t, r.Err, fetch.ErrBadURL, "%q", r.Request.URL)
			if r.Request.URL != "" && !strings.Contains(r.Request.URL, "://") {
				assert.ErrorContains(t, r.Err, "no scheme: it has to begin with http:// or https://", "%q", r.Request.URL)
			}
			assert.Zero(t, r.Attempts, "%q", r.Request.URL)
		}
		assert.Equal(t, 2, good)
		assert.Equal(t, 2, s.Requests())
	})
}

// The document that BenchmarkPost sends is what the server says it is.
func TestEcho(t *testing.T) {
	document, err := os.ReadFile("testdata/order.json")
	require.NoError(t, err)
	s := fetchtest.NewServer(t)
	client := &fetch.Client{}
	defer client.CloseIdleConnections()
	f := fetch.Fetcher{Doer: client, Ordered: true}
	reqs := []fetch.Request{
		{Method: http.MethodPost, URL: s.URL + "/echo", Body: document},
		{Method: http.MethodPost, URL: s.URL + "/echo", Body: document[:len(document)/2]},
		{URL: s.URL + "/echo"},
	}
	statuses := []int{200, 400, 405}
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for _, r := range reqs {
			if !yield(r) {
				return
			}
		}
	}) {
		require.NoError(t, r.Err)
		assert.Equal(t, statuses[r.Request.Index], r.Status)
		var answer any
		require.NoError(t, r.Decode(&answer))
		if r.OK() {
			assert.JSONEq(t, string(document), string(r.Body))
		}
	}
}
