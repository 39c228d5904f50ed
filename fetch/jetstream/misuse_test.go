package jetstream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
	"fetchbench/fetch/jetstream"
)

var fine = fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result { return fetch.Result{Status: 200, Attempts: 1} })

// failing returns the error that a Fetch by s ends with.
func failing(t *testing.T, ctx context.Context, s jetstream.Strategy) error {
	t.Helper()
	f := fetch.Fetcher{Strategy: s}
	if s.Remote() == "" {
		f.Doer = fine
	}
	var last error
	got := 0
	for r := range f.Fetch(ctx, numbered("http://h.test/secret-path", 1_000_000)) {
		got++
		last = r.Err
		require.Equal(t, fetch.ErrLost, fetch.KindOf(r.Err), "%v", r.Err)
		require.ErrorIs(t, r.Err, jetstream.ErrJob)
	}
	require.Positive(t, got)
	assert.LessOrEqual(t, got, 64_000, "no more input is taken")
	return last
}

// What is wrong with a Job is said before any I/O, on each result, and by Work and Status.
func TestBadJobs(t *testing.T) {
	for text, job := range map[string]jetstream.Job{
		"Job.Name is empty: a job at a broker's Address needs one":         {Address: "nats://127.0.0.1:1"},
		"Job.Name is empty: a job with a Dir needs one":                    {Dir: "/nonexistent"},
		"Job.Name may have up to 64 letters, digits, - and _: it is 'a.b'": {Name: "a.b"},
		"Job.Name may have up to 64 letters, digits, - and _: it is":       {Name: strings.Repeat("x", 65)},
		"the embedded broker has neither Credentials nor TLS":              {TLS: &tls.Config{}},
		"the embedded broker has neither Credentials":                      {Credentials: "file"},
		"Job.Replicas is 3, and there is only the embedded broker":         {Replicas: 3},
		"Job.Replicas is -1: it may be 1 to 5":                             {Name: "n", Address: "nats://127.0.0.1:1", Replicas: -1},
		"Job.Dir is for the embedded broker, and there is an Address":      {Name: "n", Address: "nats://127.0.0.1:1", Dir: "d"},
		"Job.Address is not of the kind nats://host:4222":                  {Name: "n", Address: "nats://user:s3cret@[::1"},
		"Address is not of the kind nats://host:4222":                      {Name: "n", Address: "127.0.0.1:4222"},
		"jetstream: Job.Credentials: stat /nonexistent/creds: no such fi":  {Name: "n", Address: "nats://127.0.0.1:1", Credentials: "/nonexistent/creds"},
	} {
		err := failing(t, t.Context(), jetstream.Strategy{Job: job})
		assert.ErrorContains(t, err, text)
		assert.NotContains(t, err.Error(), "s3cret")
		assert.NotContains(t, fmt.Sprintf("%v %+v", job, job), "s3cret")
		assert.True(t, strings.HasPrefix(err.Error(), "fetch: http://h.test/secret-path/ping: lost: "), "%v", err)
		if strings.Contains(text, "Credentials: stat") {
			continue // Work waits for it: it may be put there
		}
		err = jetstream.Work(t.Context(), jetstream.Worker{Job: job})
		assert.ErrorContains(t, err, text)
		_, err = jetstream.Status(t.Context(), job)
		assert.ErrorContains(t, err, text)
	}
}

func TestBadFields(t *testing.T) {
	for text, s := range map[string]jetstream.Strategy{
		"jetstream: Strategy.Workers is -1":                               {Workers: -1},
		"jetstream: Strategy.ShardSize is -1":                             {ShardSize: -1},
		"jetstream: Strategy.Ahead is -1":                                 {Ahead: -1},
		"jetstream: Strategy.Partitions is 257: at most 256":              {Partitions: 257},
		"jetstream: Strategy.AckWait is -1s":                              {AckWait: -time.Second},
		"jetstream: Strategy.MaxBytes is -1":                              {MaxBytes: -1},
		"jetstream: Strategy.BodiesOver is -1":                            {BodiesOver: -1},
		"jetstream: Strategy.Ahead times ShardSize is 1099511627776: at ": {Ahead: 1 << 20, ShardSize: 1 << 20},
		"fetch: Pool.Workers is -1":                                       {Each: fetch.Pool{Workers: -1}},
	} {
		for _, method := range []func(){func() { s.Limits() }, func() { s.Start(t.Context(), fine) }, func() { s.Remote() }, func() { _ = s.String() }} {
			func() {
				defer func() { assert.Contains(t, fmt.Sprint(recover()), text) }()
				method()
			}()
		}
	}
	assert.Equal(t, "jetstream(1,pool(64),1000)", jetstream.Strategy{}.String())
	assert.Equal(t, "jetstream(crawl,1000)", jetstream.Strategy{Job: jetstream.Job{Name: "crawl", Address: "nats://user:s3cret@h.test"}}.String())
	assert.True(t, jetstream.Strategy{Job: jetstream.Job{Manifest: jetstream.Dir("a")}} == jetstream.Strategy{Job: jetstream.Job{Manifest: jetstream.Dir("a")}}, "a strategy is plain data")
}

// Brokers that cannot be used: the error says why, in a bounded time, and shows no password.
func TestBadBrokers(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	plain := listening(t, func(o *server.Options) { o.JetStream = false })
	guarded := listening(t, func(o *server.Options) { o.Username, o.Password = "user", "right" })
	for name, c := range map[string]struct{ address, text string }{
		"nobody":        {"nats://user:s3cret@127.0.0.1:1", "no connection to nats://127.0.0.1:1: "},
		"silent":        {"nats://user:s3cret@" + silent.Addr().String(), "no connection to nats://" + silent.Addr().String() + ": "},
		"no JetStream":  {plain, "JetStream has to be enabled there"},
		"wrong user":    {strings.Replace(guarded, "nats://", "nats://user:s3cret@", 1), "Authorization Violation"},
		"TLS":           {strings.Replace(plain, "nats://", "tls://", 1), "secure connection not available"},
		"no such host":  {"nats://user:s3cret@nowhere.invalid:4222", "no connection to nats://nowhere.invalid:4222: "},
		"not a broker":  {strings.Replace(fetchtest.NewServer(t).URL, "http://", "nats://user:s3cret@", 1), "no connection to nats://127.0.0.1:"},
		"several of it": {"nats://user:s3cret@127.0.0.1:1, nats://token@127.0.0.1:2", "no connection to nats://127.0.0.1:1,nats://127.0.0.1:2: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := jetstream.Job{Name: "n", Address: c.address}
			err := failing(t, t.Context(), jetstream.Strategy{Job: job})
			assert.ErrorContains(t, err, c.text)
			assert.NotContains(t, err.Error(), "s3cret")
			assert.NotContains(t, err.Error(), "token")
			err = jetstream.Work(t.Context(), jetstream.Worker{Job: job, Wait: time.Millisecond})
			require.Error(t, err)
			assert.NotContains(t, err.Error(), "s3cret")
		})
	}
}

// A broker that accepts connections and says nothing does not hold up a cancel.
func TestCancelBeforeTheBrokerAnswers(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	job := jetstream.Job{Name: "n", Address: "nats://" + silent.Addr().String()}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job}}
	for r := range f.Fetch(ctx, numbered("http://h.test", 3)) {
		assert.Equal(t, fetch.ErrTimeout, fetch.KindOf(r.Err))
	}
	require.ErrorIs(t, jetstream.Work(ctx, jetstream.Worker{Job: job}), context.DeadlineExceeded)
	_, err = jetstream.Status(ctx, job)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(begun), 3*time.Second, "the broker's patience is 5 s")
}

func TestNoJob(t *testing.T) {
	job := jetstream.Job{Name: "none", Address: listening(t)}
	err := jetstream.Work(t.Context(), jetstream.Worker{Job: job, Wait: 100 * time.Millisecond})
	require.ErrorIs(t, err, jetstream.ErrNoJob)
	assert.ErrorContains(t, err, "none at nats://127.0.0.1:")
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	require.ErrorIs(t, jetstream.Work(ctx, jetstream.Worker{Job: job}), why)
	_, err = jetstream.Status(t.Context(), jetstream.Job{})
	require.ErrorIs(t, err, jetstream.ErrNoJob)
}

// One name, or one directory, is for one run at a time.
func TestTwice(t *testing.T) {
	for _, job := range []jetstream.Job{{Name: "twice"}, {Name: "twice", Dir: t.TempDir()}, {Name: "twice", Address: listening(t)}} {
		s := jetstream.Strategy{Job: job, Workers: 1}
		f := fetch.Fetcher{Strategy: s, Doer: fine}
		for range f.Get(t.Context(), "http://h.test/") {
			assert.ErrorContains(t, failing(t, t.Context(), s), "running")
			if job.Dir != "" {
				other := s
				other.Job.Name = "other"
				assert.ErrorContains(t, failing(t, t.Context(), other), "another process is using it")
			}
		}
		for r := range f.Get(t.Context(), "http://h.test/") {
			assert.NoError(t, r.Err, "the first has ended")
		}
	}
}

// However the loop ends, at whichever result, the workers elsewhere abort what they do; and the next run of the job has it all.
func TestBreak(t *testing.T) {
	gauge := &fetchtest.Gauge{}
	job := jetstream.Job{Name: "broken", Address: listening(t)}
	ctx, cancel := context.WithCancel(context.Background())
	var worker sync.WaitGroup
	worker.Go(func() {
		_ = jetstream.Work(ctx, jetstream.Worker{Job: job, Wait: -1, Fetcher: fetch.Fetcher{Strategy: fetch.Pool{Workers: 4}, Doer: gauge.Doer(fetch.DoerFunc(
			func(ctx context.Context, r *fetch.Request) fetch.Result {
				select {
				case <-ctx.Done():
					return fetch.Result{Err: ctx.Err()}
				case <-time.After(time.Millisecond):
				}
				return fetch.Result{Status: 200, Attempts: 1}
			}))}})
	})
	defer worker.Wait()
	defer cancel()
	s := jetstream.Strategy{Job: job, ShardSize: 7, Ahead: 4}
	for stop := range 30 {
		ctx, cancel := context.WithCancel(t.Context())
		f := fetch.Fetcher{Strategy: s}
		got := 0
		func() {
			defer func() { _ = recover() }()
			for range f.Fetch(ctx, numbered("http://h.test", 100)) {
				if got++; got <= stop {
					continue
				}
				switch stop % 3 {
				case 0:
					return
				case 1:
					cancel()
				case 2:
					panic("the loop's")
				}
			}
		}()
		cancel()
		assert.Eventually(t, func() bool { return gauge.InFlight() == 0 }, 5*time.Second, time.Millisecond, "the worker goes on")
	}
	f := fetch.Fetcher{Strategy: s}
	complete(t, f.Fetch(t.Context(), numbered("http://h.test", 100)), 100)
}

// A queue at the broker that has room for few shards slows the input down, and loses nothing.
func TestFullQueue(t *testing.T) {
	f := fetch.Fetcher{Strategy: jetstream.Strategy{MaxBytes: 4 << 10, ShardSize: 20}, Doer: fine}
	complete(t, f.Fetch(t.Context(), numbered("http://h.test", 5000)), 5000)
}

// Requests that are large make smaller shards; one that no message has room for fails, with advice, and the others do not.
func TestLargeRequests(t *testing.T) {
	f := fetch.Fetcher{Strategy: jetstream.Strategy{}, Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
		return fetch.Result{Status: 200, Attempts: 1, Body: []byte(fmt.Sprint(len(r.Body), len(r.Header.Get("Large"))))}
	})}
	sizes := []int{1, 200 << 10, 600 << 10, 3 << 20, 5 << 20}
	got := 0
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for i := range 50 {
			size := sizes[i%len(sizes)]
			if !yield(fetch.Request{Method: "PUT", URL: "http://h.test/", Body: make([]byte, size), Header: http.Header{"Large": {strings.Repeat("x", 1000)}}}) {
				return
			}
		}
	}) {
		got++
		if size := sizes[r.Request.Index%len(sizes)]; size == 5<<20 {
			assert.ErrorContains(t, r.Err, "lower Strategy.ShardSize, or raise the broker's max_payload")
		} else {
			assert.NoError(t, r.Err)
			assert.Equal(t, fmt.Sprint(size, 1000), string(r.Body))
		}
	}
	assert.Equal(t, 50, got)

	f = fetch.Fetcher{Strategy: jetstream.Strategy{MaxBytes: 2 << 10}, Doer: fine}
	for r := range f.Fetch(t.Context(), numbered("http://h.test", 100)) {
		require.ErrorContains(t, r.Err, "lower Strategy.ShardSize, or raise MaxBytes")
	}
}

// Whoever can write to the broker can spoil results, and no more: what is no message of ours is an error for those that it is about.
func TestSpoiledMessages(t *testing.T) {
	job := jetstream.Job{Name: "spoiled", Address: listening(t)}
	nc, err := nats.Connect(job.Address)
	require.NoError(t, err)
	defer nc.Close()
	gate := make(chan struct{})
	doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		if r.Index > 0 {
			<-gate
		}
		return fetch.Result{Status: 200, Attempts: 1}
	})
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, Workers: 1, ShardSize: 1, Ahead: 8}, Doer: doer}
	publish := func(subject, data string) {
		reply, err := nc.Request("fetch.spoiled."+subject, []byte(data), time.Second)
		require.NoError(t, err)
		assert.Contains(t, string(reply.Data), `"stream"`, "it is in a stream")
	}
	first, spoiled, good := true, 0, 0
	for r := range f.Fetch(t.Context(), numbered("http://h.test", 50)) {
		if first {
			first = false
			publish("work.0.odd", "garbage")
			publish("work.0.odd2", "\x01\x00\x01\x05")
			publish("work.9.odd", "in no partition")
			publish("result.unknown", "garbage")
			publish("result.unknown-0-1-0-x", "garbage")
			publish("chunk.unknown.N.0", "garbage")
			require.NoError(t, nc.Publish("fetch.spoiled.control", []byte("nonsense"))) // an abort, as any that is not the end
			// The results of shards that are under way.
			for i, data := range []string{"", "garbage", "\x01\x01\xff\xff\xff", "\x01\x04\x04none\x03", "\x01\x01\x00", "\x01\x02"} {
				publish("result."+jetstream.ShardID(i+1, &fetch.Request{Index: i + 1, URL: fmt.Sprintf("http://h.test/ping?i=%d", i+1)}), data)
			}
			close(gate)
		}
		if r.Err != nil {
			spoiled++
			assert.Equal(t, fetch.ErrLost, fetch.KindOf(r.Err))
		} else {
			good++
		}
	}
	assert.Equal(t, 50, good+spoiled)
	assert.Equal(t, 5, spoiled, "and the one whose results say that they are elsewhere, where there are none, is fetched again")
}

// What goes wrong with one request comes as it would in this process.
func TestErrorsCross(t *testing.T) {
	refused := &fetch.Client{}
	f := fetch.Fetcher{Strategy: jetstream.Strategy{ShardSize: 2}, Ordered: true, Doer: fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		switch r.Index {
		case 0:
			panic("odd")
		case 1:
			runtime.Goexit()
		case 2:
			return refused.Do(ctx, r)
		}
		return fetch.Result{Err: errors.New("not ours")}
	})}
	var errs []error
	for r := range f.Get(t.Context(), "http://127.0.0.1:1/a?b", "http://127.0.0.1:1/", "http://127.0.0.1:1/c?d", "http://127.0.0.1:1/") {
		errs = append(errs, r.Err)
	}
	require.Len(t, errs, 4)
	require.EqualError(t, errs[0], "fetch: http://127.0.0.1:1/a: panic: odd")
	var p *fetch.PanicError
	require.ErrorAs(t, errs[0], &p)
	assert.Contains(t, string(p.Stack), "TestErrorsCross")
	assert.Equal(t, fetch.ErrPanic, fetch.KindOf(errs[1]))
	assert.Equal(t, fetch.ErrDial, fetch.KindOf(errs[2]))
	assert.Contains(t, errs[2].Error(), "fetch: http://127.0.0.1:1/c: dial: ")
	require.EqualError(t, errs[3], "not ours")
}

// A lazy strategy cannot go on before its input ends.
type lazy struct{ fetch.Pool }

func (l lazy) Start(ctx context.Context, d fetch.Doer) fetch.Executor {
	return lazyRun{l.Pool.Start(ctx, fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
		return fetch.Result{Err: errors.New("not performed")}
	}))}
}
func (lazy) String() string { return "lazy" }

type lazyRun struct{ fetch.Executor }

func (lazyRun) Err() error { return errors.New("enough") }

// A worker whose strategy cannot go on says so, and its errors are no results: another worker does what it had.
func TestBrokenStrategy(t *testing.T) {
	err := failing(t, t.Context(), jetstream.Strategy{Each: lazy{}})
	assert.ErrorContains(t, err, "the strategy lazy cannot go on: enough")

	job := jetstream.Job{Name: "lazy", Address: listening(t)}
	ended := make(chan error, 2)
	go func() {
		ended <- jetstream.Work(t.Context(), jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Strategy: lazy{}}})
		ended <- jetstream.Work(t.Context(), jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Doer: fine}})
	}()
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 5}}
	complete(t, f.Fetch(t.Context(), numbered("http://h.test", 100)), 100)
	assert.ErrorContains(t, <-ended, "the strategy lazy cannot go on: enough")
	assert.NoError(t, <-ended)
}

// A Doer that would not be used is refused, and so are fields of a Worker that cannot be used, before any I/O.
func TestMisplacedDoer(t *testing.T) {
	job := jetstream.Job{Name: "n", Address: "nats://127.0.0.1:1"}
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job}, Doer: fine}
	assert.PanicsWithValue(t, "fetch: Fetcher.Doer does not perform the requests of jetstream(n,1000), and has to be nil: "+
		"give it to the Worker.Fetcher of the programs that call jetstream.Work", func() { f.Get(t.Context(), "http://h.test") })
	for text, inner := range map[string]fetch.Fetcher{
		"give it to fetch.ShardMain": {Strategy: fetch.Shard{}, Doer: fine},
		"fetch: Pool.Workers is -1":  {Strategy: fetch.Pool{Workers: -1}},
		"fetch: PerHost.Limit is -1": {PerHost: &fetch.PerHost{Limit: -1}},
	} {
		func() {
			defer func() { assert.Contains(t, fmt.Sprint(recover()), text) }()
			_ = jetstream.Work(t.Context(), jetstream.Worker{Job: job, Fetcher: inner})
		}()
	}
	f.Strategy = jetstream.Strategy{Each: fetch.Shard{}}
	func() {
		defer func() { assert.Contains(t, fmt.Sprint(recover()), "give it to fetch.ShardMain") }()
		f.Get(t.Context(), "http://h.test")
	}()
}

// A user of the broker who may do no more than the package's documentation says can publish, work and ask.
func TestPermissions(t *testing.T) {
	permissions := &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{"fetch.restricted.>", "$JS.API.>", "$JS.ACK.>"}},
		Subscribe: &server.SubjectPermission{Allow: []string{"fetch.restricted.>", "_INBOX.>"}},
	}
	address := listening(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "user", Password: "right", Permissions: permissions}}
	})
	job := jetstream.Job{Name: "restricted", Address: strings.Replace(address, "nats://", "nats://user:right@", 1)}
	ended := make(chan error)
	go func() {
		ended <- jetstream.Work(t.Context(), jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Doer: fine}})
	}()
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 5}}
	got := 0
	for r := range f.Fetch(t.Context(), numbered("http://h.test", 100)) {
		require.NoError(t, r.Err)
		if got++; got == 50 {
			_, err := jetstream.Status(t.Context(), job)
			assert.NoError(t, err)
		}
	}
	assert.Equal(t, 100, got)
	assert.NoError(t, <-ended)

	// One who may not is told why, and soon.
	job.Name = "other"
	err := failing(t, t.Context(), jetstream.Strategy{Job: job})
	assert.ErrorContains(t, err, "lacks a permission that package jetstream's documentation lists: nats: permissions violation: Permissions Violation for Publish to \"")
}

// Requests that are equal in all, which only a caller of Start can make, are as many.
func TestEqualRequests(t *testing.T) {
	for _, s := range []jetstream.Strategy{{ShardSize: 1}, {ShardSize: 3}} {
		x := s.Start(t.Context(), fine)
		for range 10 {
			x.Submit(&fetch.Request{URL: "http://h.test/"})
		}
		seen := make(map[*fetch.Request]bool)
		for range 10 {
			x.Flush()
			r := <-x.Results()
			require.NoError(t, r.Err)
			seen[r.Request] = true
		}
		assert.Len(t, seen, 10)
		x.Close()
	}
}

// Of several publishers that begin at once one runs the job, and it is not disturbed.
func TestRace(t *testing.T) {
	address := listening(t)
	for round := range 5 {
		job := jetstream.Job{Name: fmt.Sprint("race", round), Address: address}
		var ran, refused atomic.Int64
		var running sync.WaitGroup
		for range 3 {
			running.Go(func() {
				f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, Workers: 1, ShardSize: 10}, Doer: fetch.DoerFunc(
					func(ctx context.Context, r *fetch.Request) fetch.Result {
						time.Sleep(20 * time.Millisecond) // so that all are there before the first ends
						return fine(ctx, r)
					})}
				good := 0
				for r := range f.Fetch(t.Context(), numbered("http://h.test", 1000)) {
					if r.Err == nil {
						good++
					} else {
						assert.ErrorContains(t, r.Err, "a job may have only one publisher")
					}
				}
				switch good {
				case 0:
					refused.Add(1)
				case 1000:
					ran.Add(1)
				default:
					assert.Fail(t, "a part of a job", "%d", good)
				}
			})
		}
		running.Wait()
		assert.EqualValues(t, 1, ran.Load())
		assert.EqualValues(t, 2, refused.Load())
	}
}

// A job without a name leaves at the disk only what the loop has not had.
func TestDiskIsBounded(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("TMP", dir)
	body := make([]byte, 20<<10)
	f := fetch.Fetcher{Strategy: jetstream.Strategy{ShardSize: 50, Ahead: 8}, Doer: fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
		return fetch.Result{Status: 200, Body: body, Attempts: 1}
	})}
	most, got := int64(0), 0
	for r := range f.Fetch(t.Context(), numbered("http://h.test", 10_000)) {
		require.NoError(t, r.Err)
		if got++; got%1000 == 0 {
			size := int64(0)
			_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // files come and go
				if err == nil && !d.IsDir() {
					if info, err := d.Info(); err == nil {
						size += info.Size()
					}
				}
				return nil
			})
			most = max(most, size)
		}
	}
	assert.Positive(t, most)
	assert.Less(t, most, int64(64<<20), "of 200 MB in all")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

// The deadline of a run is no result of what it cuts off: the next run has the time. Neither the Doer that fails at the deadline by
// itself nor the one that gives up long before it is told of it.
func TestDeadline(t *testing.T) {
	hurried := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		if d, ok := ctx.Deadline(); ok {
			if r.Index%2 == 0 {
				time.Sleep(time.Until(d))
			}
			return fetch.Result{Err: fetch.NewError(context.Background(), r, os.ErrDeadlineExceeded), Attempts: 1}
		}
		time.Sleep(20 * time.Millisecond)
		return fetch.Result{Status: 200, Attempts: 1}
	})
	f := fetch.Fetcher{Strategy: jetstream.Strategy{
		Job: jetstream.Job{Name: "deadline", Dir: t.TempDir()}, ShardSize: 1, Each: fetch.Pool{Workers: 32},
	}, Doer: hurried}
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		for range f.Fetch(ctx, numbered("http://h.test", 500)) {
		}
		cancel()
	}
	f.Strategy = jetstream.Strategy{Job: jetstream.Job{Name: "deadline", Dir: f.Strategy.(jetstream.Strategy).Job.Dir}, ShardSize: 1}
	complete(t, f.Fetch(t.Context(), numbered("http://h.test", 500)), 500)
}

// A job that goes on with settings that would make other shards of its input says so.
func TestResumeWithOtherSettings(t *testing.T) {
	begin := func(job jetstream.Job) {
		f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 5, Partitions: 2}, Doer: fine}
		for range f.Fetch(t.Context(), numbered("http://h.test", 100)) {
			break
		}
	}
	job := jetstream.Job{Name: "other", Dir: t.TempDir()}
	begin(job)
	require.ErrorContains(t, failing(t, t.Context(), jetstream.Strategy{Job: job, ShardSize: 4, Partitions: 2}), "it was begun with a ShardSize of 5, not 4")
	require.ErrorContains(t, failing(t, t.Context(), jetstream.Strategy{Job: job, ShardSize: 5}), "it was begun with 2 Partitions, not 0")
	job.Manifest = jetstream.Dir(t.TempDir())
	job.Name = "kept"
	begin(job)
	job.Dir = t.TempDir()
	require.ErrorContains(t, failing(t, t.Context(), jetstream.Strategy{Job: job, ShardSize: 5}), "the manifest: the job was begun with 2 Partitions, not 0")
}

// Requests that workers have put back do not count as ones that end workers: they are performed together, as before.
func TestPutBackOften(t *testing.T) {
	f := fetch.Fetcher{Strategy: jetstream.Strategy{
		Job: jetstream.Job{Name: "polite", Dir: t.TempDir()}, ShardSize: 1, Each: fetch.Pool{Workers: 64},
	}}
	var gauge fetchtest.Gauge
	slow := gauge.Doer(fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		select {
		case <-ctx.Done():
			return fetch.Result{Err: fetch.NewError(ctx, r, ctx.Err()), Attempts: 1}
		case <-time.After(200 * time.Millisecond):
			return fetch.Result{Status: 200, Attempts: 1}
		}
	}))
	begun := time.Now()
	for range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		started := gauge.Total()
		go func() {
			for gauge.Total() < started+64 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		f.Doer = slow
		for range f.Fetch(ctx, numbered("http://h.test", 64)) {
		}
		cancel()
	}
	complete(t, f.Fetch(t.Context(), numbered("http://h.test", 64)), 64)
	assert.Less(t, time.Since(begun), 64*200*time.Millisecond/2, "of one after the other")
}

// What a job with a name has in files nobody else may read; and when it has ended its results are gone from its Dir.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	job := jetstream.Job{Name: "tidy", Dir: filepath.Join(dir, "broker"), Manifest: jetstream.Dir(filepath.Join(dir, "manifest"))}
	body := make([]byte, 10<<10)
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 50}, Doer: fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
		return fetch.Result{Status: 200, Body: body, Attempts: 1}
	})}
	complete(t, f.Fetch(t.Context(), numbered("http://h.test", 2000)), 2000)
	size := make(map[string]int64)
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if runtime.GOOS != "windows" {
			assert.Zero(t, info.Mode().Perm()&0o077, "%s: %v", path, info.Mode())
		}
		if !d.IsDir() {
			in, _ := filepath.Rel(dir, path)
			size[strings.Split(in, string(filepath.Separator))[0]] += info.Size()
		}
		return nil
	}))
	assert.Less(t, size["broker"], int64(1<<20), "of 20 MB")
	assert.Greater(t, size["manifest"], int64(2000*len(body)))
}

// A job that nobody wants any more can be deleted: its workers end, and another may have its name.
func TestDelete(t *testing.T) {
	job := jetstream.Job{Name: "unwanted", Address: listening(t)}
	require.ErrorIs(t, jetstream.Delete(t.Context(), job), jetstream.ErrNoJob)
	ended := make(chan error)
	go func() {
		ended <- jetstream.Work(t.Context(), jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Doer: fine}})
	}()
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 5}}
	for r := range f.Fetch(t.Context(), numbered("http://h.test", 1000)) {
		require.NoError(t, r.Err)
		break
	}
	require.NoError(t, jetstream.Delete(t.Context(), job))
	require.NoError(t, <-ended)
	require.ErrorIs(t, jetstream.Delete(t.Context(), job), jetstream.ErrNoJob)
	_, err := jetstream.Status(t.Context(), job)
	require.ErrorIs(t, err, jetstream.ErrNoJob)
	require.Error(t, jetstream.Delete(t.Context(), jetstream.Job{}))

	err = jetstream.Delete(t.Context(), jetstream.Job{Name: "n", Address: listening(t, func(o *server.Options) { o.JetStream = false })})
	assert.ErrorContains(t, err, "JetStream has to be enabled there")
}
