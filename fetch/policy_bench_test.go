package fetch_test

import (
	"context"
	"fmt"
	"testing"

	"golang.org/x/time/rate"

	"fetchbench/fetch"
)

// BenchmarkPolicies shows what the policies of a Fetcher cost a URL when nothing has to wait: one
// op is one URL, of one host or of 1 000 in turn, and its Doer does nothing.
func BenchmarkPolicies(b *testing.B) {
	nothing := fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result { return fetch.Result{Status: 200, Attempts: 1} })
	retry, perHost, limiter := &fetch.Retry{}, &fetch.PerHost{Limit: 64}, rate.NewLimiter(rate.Inf, 0)
	for _, n := range []int{1, 1000} {
		urls := make([]string, n)
		for i := range urls {
			urls[i] = fmt.Sprintf("https://www%d.example.org/path?query", i)
		}
		for _, c := range []struct {
			name    string
			fetcher fetch.Fetcher
		}{
			{"none", fetch.Fetcher{}},
			{"retry", fetch.Fetcher{Retry: retry}},
			{"perhost", fetch.Fetcher{PerHost: perHost}},
			{"rate", fetch.Fetcher{Rate: limiter}},
			{"all", fetch.Fetcher{Retry: retry, PerHost: perHost, Rate: limiter}},
		} {
			b.Run(fmt.Sprintf("policy=%s/hosts=%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				c.fetcher.Doer = nothing
				for r := range c.fetcher.Fetch(b.Context(), inputs(b.N, func(i int) string { return urls[i%n] })) {
					if !r.OK() {
						b.Fatal(r.Err)
					}
				}
			})
		}
	}
}
