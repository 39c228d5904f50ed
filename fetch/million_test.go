package fetch_test

import (
	"bytes"
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/time/rate"

	"fetchbench/fetch"
)

// Memory must not grow with the number of URLs: what is live in the course of a million is what is
// live in the course of a hundred thousand, with policies or without.
func TestMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("a million URLs by each strategy take some seconds")
	}
	document := bytes.Repeat([]byte("x"), 1000)
	doer := fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
		return fetch.Result{Status: 200, Body: bytes.Clone(document), Attempts: 1}
	})
	for _, f := range []*fetch.Fetcher{
		{Strategy: fetch.Pool{}, Ordered: true},
		{Strategy: fetch.Semaphore{}},
		{Strategy: fetch.Batch{}},
		{Strategy: fetch.Pool{}, Ordered: true, Retry: &fetch.Retry{}, PerHost: &fetch.PerHost{Lookahead: 128}, Rate: rate.NewLimiter(1e9, 1)},
	} {
		f.Doer = doer
		name := f.Strategy.String()
		if f.Ordered {
			name += " ordered"
		}
		if f.PerHost != nil {
			name += " with policies"
		}
		t.Run(name, func(t *testing.T) {
			live := func(n int) (peak uint64) {
				received := 0
				for r := range f.Fetch(t.Context(), pings(n)) {
					if !r.OK() {
						t.Fatal(r.Err)
					}
					if received++; received%50_000 == 0 {
						var m runtime.MemStats
						runtime.GC()
						runtime.ReadMemStats(&m)
						peak = max(peak, m.HeapAlloc)
					}
				}
				assert.Equal(t, n, received)
				return peak
			}
			few, many := live(100_000), live(1_000_000)
			t.Logf("live heap at most %d KiB during 100 000 URLs, %d KiB during 1 000 000", few>>10, many>>10)
			assert.LessOrEqual(t, float64(many), 1.25*float64(few)+1<<18, "bytes of live heap")
		})
	}
}
