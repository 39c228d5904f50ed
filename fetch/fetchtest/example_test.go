package fetchtest_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// A test of a strategy is one line.
func ExampleTestStrategy() {
	var t *testing.T // of the test function
	fetchtest.TestStrategy(t, fetch.Pool{Workers: 8})
}

// Another line tests what a Fetcher's caller gets from it.
func ExampleTestFetcher() {
	var t *testing.T // of the test function
	fetchtest.TestFetcher(t, fetch.Pool{Workers: 8})
}

// A test against a server of which a tenth of the URLs fail, and always the same.
func ExampleNewServer() {
	var t *testing.T // of the test function
	server := fetchtest.NewServer(t, fetchtest.Latency(time.Millisecond), fetchtest.FailStatus(0.1, http.StatusServiceUnavailable))
	client := &fetch.Client{}
	defer client.CloseIdleConnections()

	var urls []string
	for i := range 100 {
		urls = append(urls, server.Ping(i))
	}
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: client}
	for r := range f.Get(t.Context(), urls...) {
		if want := server.Fate(r.Request.URL).Status; r.Status != want {
			t.Errorf("%s: status %d, want %d", r.Request.URL, r.Status, want)
		}
	}
	if server.Requests() != len(urls) || server.PeakInFlight() > 8 {
		t.Errorf("%d requests, %d at once", server.Requests(), server.PeakInFlight())
	}
}

// A gauge around a Doer tells how many requests were in flight.
func ExampleGauge() {
	api := fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result { return fetch.Result{Status: 200} })
	var gauge fetchtest.Gauge
	f := fetch.Fetcher{Strategy: fetch.Serial{}, Doer: gauge.Doer(api)}
	for range f.Get(context.Background(), "https://api.test/1", "https://api.test/2", "https://api.test/3") {
	}
	fmt.Println("total", gauge.Total(), "peak", gauge.Peak(), "now", gauge.InFlight())
	// Output: total 3 peak 1 now 0
}

// A handler, or anything else with a begin and an end, counts itself.
func ExampleGauge_Enter() {
	var gauge fetchtest.Gauge
	work := func() {
		defer gauge.Enter()()
		fmt.Println("in flight:", gauge.InFlight())
	}
	work()
	work()
	fmt.Println("in flight:", gauge.InFlight())
	// Output:
	// in flight: 1
	// in flight: 1
	// in flight: 0
}

// A TestMain that lets TestStrategy and TestFetcher test a Shard, whose child processes perform the
// requests.
func ExampleRemote() {
	fetch.ShardMain(fetchtest.Remote) // returns at once, but in a child
	fmt.Println("the tests")
	// Output: the tests
}
