package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"fetchbench/fetch"
)

// flaky is a server whose every other response is a 503.
func flaky() *httptest.Server {
	var n atomic.Int64
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%2 == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
}

// Try again what may succeed then.
func ExampleRetry() {
	server := flaky()
	defer server.Close()
	f := fetch.Fetcher{Strategy: fetch.Serial{}, Retry: &fetch.Retry{Attempts: 3, Backoff: 10 * time.Millisecond}}
	for r := range f.Get(context.Background(), server.URL+"/a", server.URL+"/b") {
		fmt.Println(r.Status, "after", r.Attempts, "attempts")
	}
	// Output:
	// 200 after 2 attempts
	// 200 after 2 attempts
}

// See retries as they happen.
func ExampleFetcher_retrying() {
	server := flaky()
	defer server.Close()
	f := fetch.Fetcher{
		Strategy: fetch.Serial{},
		Retry:    &fetch.Retry{},
		Trace: func(e fetch.Event) {
			if e.Kind == fetch.EventRetry {
				fmt.Println("attempt", e.Attempts, "of URL", e.Request.Index, "ended in", e.Status)
			}
		},
	}
	for r := range f.Get(context.Background(), server.URL) {
		fmt.Println(r.Status)
	}
	// Output:
	// attempt 1 of URL 0 ended in 503
	// 200
}

// Send each host at most two requests at once, a tenth of a second apart, and try again what fails.
func ExamplePerHost() {
	server := newServer()
	defer server.Close()
	f := fetch.Fetcher{
		Retry:   &fetch.Retry{},
		PerHost: &fetch.PerHost{Limit: 2, Spacing: 100 * time.Millisecond},
		Ordered: true,
	}
	begun := time.Now()
	for r := range f.Get(context.Background(), server.URL+"/ada", server.URL+"/grace", server.URL+"/edsger") {
		fmt.Println(r.Status, string(r.Body))
	}
	fmt.Println("in at least 200 ms:", time.Since(begun) >= 200*time.Millisecond)
	// Output:
	// 200 {"name":"ada"}
	// 200 {"name":"grace"}
	// 200 {"name":"edsger"}
	// in at least 200 ms: true
}

// A server that is down for a moment costs no request: those for it are held until it is back.
func ExamplePerHost_patience() {
	begun := time.Now()
	restarting := fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
		if time.Since(begun) < 500*time.Millisecond {
			return fetch.Result{Attempts: 1, Err: &fetch.Error{Kind: fetch.ErrDial, URL: r.URL}}
		}
		return fetch.Result{Attempts: 1, Status: 200}
	})
	f := fetch.Fetcher{
		Doer:    restarting,
		Retry:   &fetch.Retry{},
		PerHost: &fetch.PerHost{Patience: 10 * time.Second},
		Trace: func(e fetch.Event) {
			if e.Kind == fetch.EventHostDown || e.Kind == fetch.EventHostUp {
				fmt.Println(e.Kind, e.Host)
			}
		},
	}
	ok := 0
	for r := range f.Get(context.Background(), people...) {
		if r.OK() {
			ok++
		}
	}
	fmt.Println(ok, "of", len(people))
	// Output:
	// host down api.test:443
	// host up api.test:443
	// 5 of 5
}

// Start no more than 50 requests a second, all hosts together.
func ExampleFetcher_rate() {
	server := newServer()
	defer server.Close()
	f := fetch.Fetcher{Rate: rate.NewLimiter(50, 1)}
	begun, ok := time.Now(), 0
	for r := range f.Get(context.Background(), server.URL, server.URL, server.URL, server.URL, server.URL, server.URL) {
		if r.OK() {
			ok++
		}
	}
	fmt.Println(ok, "in at least 100 ms:", time.Since(begun) >= 100*time.Millisecond)
	// Output: 6 in at least 100 ms: true
}

// Fetch URLs that strangers have chosen, and keep them away from this machine.
func ExamplePublicOnly() {
	client := &fetch.Client{AllowAddr: fetch.PublicOnly}
	f := fetch.Fetcher{Doer: client, Ordered: true}
	for r := range f.Get(context.Background(), "http://127.0.0.1:8080/admin", "http://[::ffff:169.254.169.254]/latest/meta-data") {
		fmt.Println(errors.Is(r.Err, fetch.ErrAddress), r.Err)
	}
	// Output:
	// true fetch: http://127.0.0.1:8080/admin: address refused: 127.0.0.1:8080: not a public address
	// true fetch: http://[::ffff:169.254.169.254]/latest/meta-data: address refused: 169.254.169.254:80: not a public address
}

// Allow public addresses at the usual ports, and nothing else.
func ExampleClient_allowAddr() {
	client := &fetch.Client{AllowAddr: func(addr netip.AddrPort) error {
		if addr.Port() != 80 && addr.Port() != 443 {
			return errors.New("neither port 80 nor 443")
		}
		return fetch.PublicOnly(addr)
	}}
	res := client.Do(context.Background(), &fetch.Request{URL: "http://192.0.2.1:25/"})
	fmt.Println(res.Err)
	// Output: fetch: http://192.0.2.1:25/: address refused: 192.0.2.1:25: neither port 80 nor 443
}
