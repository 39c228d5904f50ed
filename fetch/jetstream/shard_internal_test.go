package jetstream

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

func someRequests(n int) (reqs []*fetch.Request) {
	for i := range n {
		reqs = append(reqs, &fetch.Request{Index: i, URL: fmt.Sprintf("http://h.test/%d", i), Header: http.Header{"A": {"1"}, "B": {"2"}}})
	}
	return reqs
}

func TestShardMessages(t *testing.T) {
	want := someRequests(3)
	flags, got, err := decodeShard(asAgain(encodeShard(want)))
	require.NoError(t, err)
	assert.Equal(t, want, got)
	assert.Equal(t, byte(again), flags)

	// The id is the content's: the same each time, and another one's if anything is different.
	ids := map[string]bool{shardID(1, 2, encodeShard(want)): true}
	assert.True(t, ids[shardID(1, 2, encodeShard(someRequests(3)))])
	for _, change := range []func(r *fetch.Request){
		func(r *fetch.Request) { r.Index++ },
		func(r *fetch.Request) { r.URL += "?" },
		func(r *fetch.Request) { r.Method = "GET" },
		func(r *fetch.Request) { r.Header.Set("A", "2") },
		func(r *fetch.Request) { r.Body = []byte{} },
	} {
		other := someRequests(3)
		change(other[1])
		id := shardID(1, 2, encodeShard(other))
		assert.False(t, ids[id])
		ids[id] = true
		assert.True(t, isName(id), "part of a subject: %s", id)
	}
}

func TestSummaryMessages(t *testing.T) {
	results := &summary{form: summaryResults, answers: []answer{{}, {}, {body: "bodies/x/1"}}}
	results.answers[0].Result = fetch.Result{Status: 200, Body: []byte("body"), Attempts: 1, Duration: time.Second}
	results.answers[1].Err = errors.New("odd")
	for _, want := range []*summary{
		results,
		{form: summaryHalved},
		{form: summaryFailed, reason: "why"},
		{form: summaryChunks, nonce: "N", chunks: 7},
	} {
		got, err := decodeSummary(want.appendTo(nil))
		require.NoError(t, err)
		assert.Equal(t, want.appendTo(nil), got.appendTo(nil))
		assert.Equal(t, want.form, got.form)
		assert.Len(t, got.answers, len(want.answers))
	}
	got, err := decodeSummary(results.appendTo(nil))
	require.NoError(t, err)
	assert.Equal(t, results.answers[0], got.answers[0])
	require.EqualError(t, got.answers[1].Err, "odd")
	assert.Equal(t, "bodies/x/1", got.answers[2].body)
}

// Halves and halves of halves have, all together, each request of the whole once.
func TestParts(t *testing.T) {
	for n := 1; n < 70; n++ {
		seen := make([]int, n)
		var split func(id string)
		split = func(id string) {
			assert.Equal(t, "abc", rootOf(id))
			from, to, ok := partOf(id, n)
			require.True(t, ok)
			if to-from == 1 {
				seen[from]++
				return
			}
			first, second, at := halves(id, to-from)
			a, b, ok := partOf(first, n)
			require.True(t, ok)
			assert.Equal(t, at, b-a)
			split(first)
			split(second)
		}
		split("abc")
		for i := range seen {
			require.Equal(t, 1, seen[i])
		}
	}
	for _, id := range []string{"abc-", "abc-2", "abc-0-0-0-0", "abc--0", "abc-x", "abc-00"} {
		_, _, ok := partOf(id, 4)
		assert.Equal(t, id == "abc-", ok, id)
	}
}

// Whatever comes off a broker: no panic, no more memory than it is long, and what can be read says the same again.
func FuzzMessages(f *testing.F) {
	f.Add(asAgain(encodeShard(someRequests(2))))
	f.Add((&summary{form: summaryResults, answers: make([]answer, 2)}).appendTo(nil))
	f.Add((&summary{form: summaryFailed, reason: "why"}).appendTo(nil))
	f.Add((&summary{form: summaryChunks, nonce: "N", chunks: 3}).appendTo(nil))
	f.Add((&summary{form: summaryHalved}).appendTo(nil))
	f.Add([]byte{version, 0, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{version, summaryResults, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, reqs, err := decodeShard(data); err == nil {
			require.NotEmpty(t, reqs)
			_, again, err := decodeShard(encodeShard(reqs))
			require.NoError(t, err)
			require.Equal(t, reqs, again)
		}
		if s, err := decodeSummary(data); err == nil {
			encoded := s.appendTo(nil)
			again, err := decodeSummary(encoded)
			require.NoError(t, err)
			require.Equal(t, encoded, again.appendTo(nil))
		}
	})
}

func TestPartitionOf(t *testing.T) {
	for _, same := range [][]string{
		{"http://h.test/a", "http://h.test/b?c", "http://H.TEST", "http://user:password@h.test/", "http://h.test?a", "http://h.test#a", "http://h.test:80/", "http://h.test:080/", "http://h.test./"},
		{"https://[::1]/", "https://[0:0:0:0:0:0:0:1]:443/"},
	} {
		for _, url := range same {
			assert.Equal(t, partition(same[0], 1000), partition(url, 1000), url)
		}
	}
	used := make(map[int]int)
	for i := range 1000 {
		p := partition(fmt.Sprintf("http://host-%d.test/", i), 10)
		require.True(t, p >= 0 && p < 10)
		used[p]++
	}
	for p := range 10 {
		assert.Greater(t, used[p], 50)
	}
	assert.Zero(t, partition("no URL", 1))
}
