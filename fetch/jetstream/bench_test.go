package jetstream_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
	"fetchbench/fetch/jetstream"
)

// BenchmarkJetstream is the same strategy and engine, in this process alone (none) and by way of an embedded broker, in
// shards of so many requests. One op is one URL; the start and the end of the broker are in it.
func BenchmarkJetstream(b *testing.B) {
	server := fetchtest.NewServer(b)
	bench := func(b *testing.B, s fetch.Strategy, d fetch.Doer) {
		f := fetch.Fetcher{Strategy: s, Doer: d}
		before := server.Requests()
		b.ReportAllocs()
		n := 0
		for r := range f.Fetch(b.Context(), urls(server, b.N)) {
			if !r.OK() {
				b.Fatal(r.Request.URL, r.Status, r.Err)
			}
			n++
		}
		if asked := server.Requests() - before; n != b.N || asked != b.N {
			b.Fatalf("%d results and %d requests for %d URLs", n, asked, b.N)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "urls/s")
	}
	for _, engine := range []struct {
		name string
		fetch.Doer
	}{
		{"client", &fetch.Client{}},
		{"nethttp", fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}, Timeout: 30 * time.Second}},
	} {
		b.Run("engine="+engine.name, func(b *testing.B) {
			defer engine.Doer.(interface{ CloseIdleConnections() }).CloseIdleConnections()
			b.Run("size=none", func(b *testing.B) { bench(b, fetch.Pool{}, engine.Doer) })
			for _, size := range []int{1, 10, 100, 1000, 10000} {
				b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
					bench(b, jetstream.Strategy{ShardSize: size}, engine.Doer)
				})
			}
		})
	}
}
