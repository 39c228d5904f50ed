package jetstream_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
	"fetchbench/fetch/jetstream"
)

// With Partitions, the limit of each worker's own PerHost is that of all of them together.
func TestPartitions(t *testing.T) {
	const hosts, perHost, workers, requests = 6, 2, 4, 1200
	for _, partitions := range []int{0, 8} {
		t.Run(fmt.Sprint(partitions), func(t *testing.T) {
			var gauges [hosts]fetchtest.Gauge
			var servers []*httptest.Server
			for i := range hosts {
				servers = append(servers, httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer gauges[i].Enter()()
					time.Sleep(2 * time.Millisecond)
				})))
				defer servers[i].Close()
			}
			job := jetstream.Job{Name: "polite", Address: listening(t)}
			var running sync.WaitGroup
			for range workers {
				client := &fetch.Client{}
				running.Go(func() {
					defer client.CloseIdleConnections()
					assert.NoError(t, jetstream.Work(t.Context(), jetstream.Worker{
						Job: job, Fetcher: fetch.Fetcher{Strategy: fetch.Pool{Workers: 32}, Doer: client, PerHost: &fetch.PerHost{Limit: perHost}},
					}))
				})
			}
			f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 20, Partitions: partitions}}
			got := 0
			for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
				for i := range requests {
					if !yield(fetch.Request{URL: servers[i%hosts].URL}) {
						return
					}
				}
			}) {
				require.NoError(t, r.Err)
				got++
			}
			running.Wait()
			assert.Equal(t, requests, got)
			peak := 0
			for i := range gauges {
				peak = max(peak, gauges[i].Peak())
				assert.Equal(t, requests/hosts, gauges[i].Total())
			}
			if partitions == 0 {
				assert.Greater(t, peak, perHost, "requests at once at a host; else this test shows nothing")
			} else {
				assert.LessOrEqual(t, peak, perHost, "requests at once at a host")
			}
		})
	}
}

// The number of partitions is the job's, and cannot change in the midst of it.
func TestPartitionsDiffer(t *testing.T) {
	job := jetstream.Job{Name: "divided", Address: listening(t)}
	run := func(ctx context.Context, partitions int) error {
		f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, Partitions: partitions}}
		for r := range f.Fetch(ctx, numbered("http://h.test", 1)) { // and there are no workers
			return r.Err
		}
		return nil
	}
	untilItIsThere := func() error {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer cancel()
			for {
				if p, err := jetstream.Status(ctx, job); ctx.Err() != nil || err == nil && p.Pending == 1 {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		return run(ctx, 2)
	}
	assert.Equal(t, fetch.ErrCanceled, fetch.KindOf(untilItIsThere()))
	err := run(t.Context(), 3)
	assert.Equal(t, fetch.ErrLost, fetch.KindOf(err))
	assert.ErrorContains(t, err, "it was begun with 2 Partitions, not 3")
	assert.Equal(t, fetch.ErrCanceled, fetch.KindOf(untilItIsThere()))
}
