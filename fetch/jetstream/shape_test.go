package jetstream_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/jetstream"
)

// echo answers with the request's Index, one by one or several at once.
type echo struct{ fetch.Doer }

func (e echo) DoBatch(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
	for _, r := range slices.Backward(reqs) {
		res := e.Do(ctx, r)
		res.Request = r
		yield(res)
	}
}

// A worker's Doer sees requests with the Index that they have in the publisher's input, whatever the
// worker has done before and in whichever order shards come.
func TestIndex(t *testing.T) {
	doer := echo{fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
		return fetch.Result{Status: 200, Body: []byte(fmt.Sprint(r.Index)), Attempts: 1}
	})}
	for _, each := range []fetch.Strategy{fetch.Serial{}, fetch.Pool{Workers: 3}, fetch.Pipeline{Limit: 8, Depth: 4}, fetch.Batch{Size: 5}} {
		t.Run(each.String(), func(t *testing.T) {
			f := fetch.Fetcher{Strategy: jetstream.Strategy{Workers: 3, Each: each, ShardSize: 7}, Doer: doer}
			got := 0
			for r := range f.Fetch(t.Context(), numbered("http://h.test", 500)) {
				require.NoError(t, r.Err)
				require.Equal(t, fmt.Sprint(r.Request.Index), string(r.Body))
				got++
			}
			assert.Equal(t, 500, got)
		})
	}
}

// A worker's policies are its own: what it sends again has one result, with all attempts.
func TestWorkerRetries(t *testing.T) {
	job := jetstream.Job{Name: "patient", Address: listening(t)}
	var failed sync.Map
	w := jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{
		Strategy: fetch.Pool{Workers: 4},
		Retry:    &fetch.Retry{Backoff: time.Millisecond, Budget: 2},
		Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			if _, again := failed.LoadOrStore(r.URL, true); !again {
				return fetch.Result{Status: 503, Attempts: 1}
			}
			return fetch.Result{Status: 200, Attempts: 1}
		}),
	}}
	ended := make(chan error)
	go func() { ended <- jetstream.Work(t.Context(), w) }()
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 10}}
	got := 0
	for r := range f.Fetch(t.Context(), numbered("http://h.test", 200)) {
		require.True(t, r.OK(), "%d %v", r.Status, r.Err)
		assert.Equal(t, 2, r.Attempts)
		got++
	}
	assert.Equal(t, 200, got)
	require.NoError(t, <-ended)
}

// The publisher's own Retry makes shards of what comes back that do not change those of the input: a
// job that has a manifest goes on where it stopped.
func TestResumeWithRetries(t *testing.T) {
	var sent atomic.Int64
	var failed sync.Map
	doer := fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
		sent.Add(1)
		if _, again := failed.LoadOrStore(r.URL, true); !again && r.Index%3 == 0 {
			return fetch.Result{Status: 503, Attempts: 1}
		}
		return fetch.Result{Status: 200, Attempts: 1}
	})
	for _, partitions := range []int{0, 3} {
		f := fetch.Fetcher{
			Strategy: jetstream.Strategy{
				Job:       jetstream.Job{Name: "retried", Dir: t.TempDir(), Manifest: jetstream.Dir(t.TempDir())},
				ShardSize: 10, Ahead: 4, Partitions: partitions,
			},
			Doer:  doer,
			Retry: &fetch.Retry{Backoff: time.Millisecond, Budget: 2},
		}
		failed.Clear()
		sent.Store(0)
		for range 3 {
			got := 0
			for r := range f.Fetch(t.Context(), numbered("http://h.test", 600)) {
				require.True(t, r.OK(), "%d %v", r.Status, r.Err)
				if got++; got == 300 {
					break
				}
			}
		}
		complete(t, f.Fetch(t.Context(), numbered("http://h.test", 600)), 600)
		assert.LessOrEqual(t, sent.Load(), int64(600+200+3*(4+1)*10+200), "requests: retries that were cut off are made again")
	}
}

// Where requests are large, so that a shard has few of them, no more than Ahead shards are taken from
// the input either.
func TestAheadOfLargeRequests(t *testing.T) {
	for name, retry := range map[string]*fetch.Retry{"no policy": nil, "policy": {}} {
		t.Run(name, func(t *testing.T) {
			slow := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
				time.Sleep(time.Millisecond) // the input is faster
				return fine(ctx, r)
			})
			f := fetch.Fetcher{Strategy: jetstream.Strategy{Ahead: 2, Each: fetch.Serial{}}, Doer: slow, Retry: retry}
			body := make([]byte, 60<<10) // 8 make a shard
			taken, got, most := 0, 0, 0
			for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
				for taken < 300 {
					most = max(most, taken-got)
					taken++
					if !yield(fetch.Request{Method: "PUT", URL: "http://h.test/", Body: body}) {
						return
					}
				}
			}) {
				require.NoError(t, r.Err)
				got++
			}
			assert.Equal(t, 300, got)
			assert.LessOrEqual(t, most, (2+1+2)*8+64, "two shards ahead, one handed over and a partial one; and results")
		})
	}
}

// However the results of a shard come, an input that does not pause makes full shards, so that the next run makes the same.
func TestShardsAreFull(t *testing.T) {
	manifest, bodies := t.TempDir(), jetstream.Dir(t.TempDir())
	slow := &storeFuncs{put: bodies.Put, get: func(ctx context.Context, name string) ([]byte, error) {
		time.Sleep(time.Millisecond) // the loop is faster
		return bodies.Get(ctx, name)
	}}
	f := fetch.Fetcher{
		Strategy: jetstream.Strategy{
			Job: jetstream.Job{Name: "full", Manifest: jetstream.Dir(manifest)}, ShardSize: 10, Ahead: 1, Bodies: slow, BodiesOver: 1,
		},
		Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			return fetch.Result{Status: 200, Body: make([]byte, r.Index%2*10), Attempts: 1}
		}),
	}
	complete(t, f.Fetch(t.Context(), numbered("http://h.test", 200)), 200)
	shards, err := filepath.Glob(filepath.Join(manifest, "full", "shards", "*", "*", "*"))
	require.NoError(t, err)
	assert.Len(t, shards, 20)
}

// A loop that is left when nothing is under way, before its input has ended, has not had all results:
// the job stays.
func TestBreakWhenNothingIsOut(t *testing.T) {
	job := jetstream.Job{Name: "left", Address: listening(t)}
	var sent atomic.Int64
	f := fetch.Fetcher{
		Strategy: jetstream.Strategy{Job: job, Workers: 1, ShardSize: 1, Ahead: 1},
		Doer: fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
			sent.Add(1)
			return fine(ctx, r)
		}),
	}
	for want := range 3 {
		got := 0
		for r := range f.Fetch(t.Context(), numbered("http://h.test", 3)) {
			require.NoError(t, r.Err)
			if got++; got == want+1 {
				break
			}
		}
		p, err := jetstream.Status(t.Context(), job)
		if want < 2 {
			require.NoError(t, err)
			assert.Equal(t, want+1, p.Done)
		} else {
			require.NoError(t, err, "the loop was left at the last result: whether there is more input it did not know")
		}
		assert.EqualValues(t, want+1, sent.Load(), "what was there is not sent again")
	}
	complete(t, f.Fetch(t.Context(), numbered("http://h.test", 3)), 3)
	_, err := jetstream.Status(t.Context(), job)
	require.ErrorIs(t, err, jetstream.ErrNoJob)
	assert.EqualValues(t, 3, sent.Load())
}

// A Stream's input may pause: what is there is fetched meanwhile, and handed out.
func TestStream(t *testing.T) {
	f := fetch.Fetcher{Strategy: jetstream.Strategy{}, Doer: fine}
	reqs := make(chan fetch.Request)
	sent := 0
	send := func(n int) {
		for range n {
			reqs <- fetch.Request{URL: "http://h.test/"}
		}
	}
	go send(3)
	for r := range f.Stream(t.Context(), reqs) {
		require.NoError(t, r.Err)
		switch sent++; sent {
		case 3: // all that there is
			go send(1)
		case 4:
			go func() {
				send(20)
				close(reqs)
			}()
		}
	}
	assert.Equal(t, 24, sent)
}

// A header that says so makes a POST one that may be repeated, for workers as for Retry.
func TestIdempotencyKey(t *testing.T) {
	var calls atomic.Int64
	pages := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { calls.Add(1) }))
	defer pages.Close()
	job := jetstream.Job{Name: "keyed", Address: listening(t)}
	var working sync.WaitGroup
	ctx, leave := context.WithCancel(t.Context())
	stuck := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		calls.Add(1)
		leave() // in the midst of it
		<-ctx.Done()
		return fetch.Result{Err: ctx.Err()}
	})
	working.Go(func() { _ = jetstream.Work(ctx, jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Doer: stuck}}) })
	ended := make(chan error)
	go func() {
		working.Wait()
		ended <- jetstream.Work(t.Context(), jetstream.Worker{Job: job})
	}()
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 2}}
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		_ = yield(fetch.Request{Method: "POST", URL: pages.URL, Header: http.Header{"Idempotency-Key": {"k"}}}) &&
			yield(fetch.Request{Method: "POST", URL: pages.URL, Header: http.Header{}})
	}) {
		if r.Request.Index == 0 {
			assert.True(t, r.OK(), "%v", r.Err)
		} else {
			assert.True(t, r.Err != nil && strings.Contains(r.Err.Error(), "so it is not repeated"), "%v", r.Err)
		}
	}
	require.NoError(t, <-ended)
	assert.LessOrEqual(t, calls.Load(), int64(3))
}
