package jetstream_test

import (
	"context"
	"fmt"
	"iter"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
	"fetchbench/fetch/jetstream"
)

// remote is a Strategy whose workers fetch by fetchtest's Remote, as they do in another process: the contract is tested in real time.
type remote struct{ jetstream.Strategy }

var throughTheTest = fetchtest.RemoteOver(&fetch.Client{Timeout: -1})

func (s remote) Start(ctx context.Context, _ fetch.Doer) fetch.Executor {
	return s.Strategy.Start(ctx, throughTheTest)
}

func (s remote) Remote() string { return "it is this test's" }

// The contracts hold with a shard for each request. With larger ones, the results of
// a shard wait for its slowest request: that one rule, that results come as they are ready, cannot hold.
var ofOne = remote{jetstream.Strategy{Each: fetch.Pool{Workers: 32}, ShardSize: 1, Ahead: 64}}

func TestExecutor(t *testing.T) { fetchtest.TestStrategy(t, ofOne) }

func TestFetcher(t *testing.T) { fetchtest.TestFetcher(t, ofOne) }

// urls yields n GET requests of server.
func urls(server *fetchtest.Server, n int) iter.Seq[fetch.Request] {
	return func(yield func(fetch.Request) bool) {
		for i := range n {
			if !yield(fetch.Request{URL: server.Ping(i)}) {
				return
			}
		}
	}
}

// complete checks that results has one good result for each of n requests.
func complete(t *testing.T, results iter.Seq[fetch.Result], n int) {
	t.Helper()
	seen := make([]bool, n)
	got := 0
	for r := range results {
		require.NoError(t, r.Err)
		require.Equal(t, 200, r.Status)
		require.False(t, seen[r.Request.Index], "a second result for request %d", r.Request.Index)
		seen[r.Request.Index] = true
		got++
	}
	assert.Equal(t, n, got)
}

// With nothing but requests, all of it happens in this process.
func TestEmbedded(t *testing.T) {
	server := fetchtest.NewServer(t)
	for _, s := range []jetstream.Strategy{
		{},
		{ShardSize: 7, Ahead: 3},
		{Workers: 3, ShardSize: 10, Each: fetch.Batch{Size: 20}},
		{ShardSize: 10, Partitions: 3},
		{Job: jetstream.Job{Name: "named"}, ShardSize: 50},
		{Job: jetstream.Job{Name: "kept", Dir: t.TempDir(), Manifest: jetstream.Dir(t.TempDir())}, ShardSize: 50},
	} {
		for _, ordered := range []bool{false, true} {
			t.Run(fmt.Sprint(s, " ", s.Job.Name, ordered), func(t *testing.T) {
				before := server.Requests()
				f := fetch.Fetcher{Strategy: s, Doer: &fetch.Client{}, Ordered: ordered}
				complete(t, f.Fetch(t.Context(), urls(server, 2345)), 2345)
				if s.Job.Manifest == nil || !ordered { // the second time it has them all
					assert.Equal(t, 2345, server.Requests()-before)
				} else {
					assert.Zero(t, server.Requests()-before)
				}
			})
		}
	}
}
