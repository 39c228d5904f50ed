package fetch_test

import (
	"context"
	"testing"

	"golang.org/x/time/rate"

	"fetchbench/fetch"
)

// What the Doers that wrap another one cost where nothing has to wait, over one that does nothing.
func BenchmarkDoers(b *testing.B) {
	nothing := fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result { return fetch.Result{Status: 200, Attempts: 1} })
	for _, c := range []struct {
		name string
		doer fetch.Doer
	}{
		{"none", nothing},
		{"retry", &fetch.Retry{Doer: nothing}},
		{"perhost", &fetch.PerHost{Doer: nothing}},
		{"rate", fetch.Rate{Doer: nothing, Limit: rate.NewLimiter(rate.Inf, 0)}},
	} {
		b.Run("doer="+c.name, func(b *testing.B) {
			b.ReportAllocs()
			req := &fetch.Request{URL: "https://www.example.org/path?query"}
			for b.Loop() {
				if res := c.doer.Do(b.Context(), req); !res.OK() {
					b.Fatal(res.Err)
				}
			}
		})
	}
}
