package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fetchbench/fetch"
)

// newServer starts a server that answers each path with a JSON document that names it: /ada with
// {"name":"ada"}. /nobody is a 404, and /old redirects to /new.
func newServer() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch name := strings.TrimPrefix(r.URL.Path, "/"); name {
		case "nobody":
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error":"not found"}`)
		case "old":
			http.Redirect(w, r, "/new", http.StatusFound)
		default:
			fmt.Fprintf(w, `{"name":%q}`, name)
		}
	}))
}

// api is a Doer that needs no network, and answers as the server of newServer does.
var api = fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
	name := r.URL[strings.LastIndex(r.URL, "/")+1:]
	if name == "nobody" {
		return fetch.Result{Status: 404, Body: []byte(`{"error":"not found"}`), Attempts: 1}
	}
	return fetch.Result{Status: 200, Body: fmt.Appendf(nil, `{"name":%q}`, name), Attempts: 1}
})

// people are URLs that api knows.
var people = []string{
	"https://api.test/ada", "https://api.test/grace", "https://api.test/edsger",
	"https://api.test/barbara", "https://api.test/donald",
}

// Fetch three URLs, eight at a time.
func Example() {
	server := newServer()
	defer server.Close()
	client := &fetch.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()

	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: client, Ordered: true}
	for r := range f.Get(context.Background(), server.URL+"/ada", server.URL+"/nobody", server.URL+"/grace") {
		if r.Err != nil {
			fmt.Println("no response:", r.Err)
			continue
		}
		fmt.Println(r.Status, string(r.Body))
	}
	// Output:
	// 200 {"name":"ada"}
	// 404 {"error":"not found"}
	// 200 {"name":"grace"}
}

// With Ordered the results come in the order of the input, however long each takes.
func ExampleFetcher() {
	wait := map[string]time.Duration{"https://api.test/ada": 5 * time.Millisecond}
	doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		time.Sleep(wait[r.URL]) // the first URL is the slowest
		return api(ctx, r)
	})
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 3}, Doer: doer, Ordered: true}
	for r := range f.Get(context.Background(), people[:3]...) {
		fmt.Println(r.Request.Index, r.Request.URL)
	}
	// Output:
	// 0 https://api.test/ada
	// 1 https://api.test/grace
	// 2 https://api.test/edsger
}

// The input is any sequence of Requests. It is taken as fast as the requests are performed, so it may
// be endless: the loop says when it is enough.
func ExampleFetcher_Fetch() {
	pages := func(yield func(fetch.Request) bool) {
		for page := 1; ; page++ {
			r := fetch.Request{
				Method: "POST",
				URL:    fmt.Sprintf("https://api.test/page%d", page),
				Header: http.Header{"Content-Type": {"application/json"}},
				Body:   fmt.Appendf(nil, `{"page":%d}`, page),
			}
			if !yield(r) {
				return
			}
		}
	}
	f := fetch.Fetcher{Doer: api, Ordered: true}
	for r := range f.Fetch(context.Background(), pages) {
		fmt.Println(r.Request.Method, string(r.Request.Body), r.Status)
		if r.Request.Index == 2 {
			break // nothing is left running
		}
	}
	// Output:
	// POST {"page":1} 200
	// POST {"page":2} 200
	// POST {"page":3} 200
}

func ExampleFetcher_Get() {
	f := fetch.Fetcher{Doer: api} // and the default Strategy, Pool{}
	for r := range f.Get(context.Background(), people[:3]...) {
		fmt.Println(r.Request.Index, string(r.Body)) // as they are ready
	}
	// Unordered output:
	// 0 {"name":"ada"}
	// 1 {"name":"grace"}
	// 2 {"name":"edsger"}
}

// Requests come from another goroutine, when it has them. Each has a result as soon as it is there,
// though no other request may come for long.
func ExampleFetcher_Stream() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reqs := make(chan fetch.Request)
	more := make(chan bool)
	go func() {
		defer close(reqs) // the end of the input
		for _, u := range people[:3] {
			select {
			case reqs <- fetch.Request{URL: u}:
			case <-ctx.Done(): // the loop may have ended
				return
			}
			<-more
		}
	}()
	f := fetch.Fetcher{Doer: api}
	for r := range f.Stream(ctx, reqs) {
		fmt.Println(r.Request.Index, string(r.Body))
		more <- true
	}
	// Output:
	// 0 {"name":"ada"}
	// 1 {"name":"grace"}
	// 2 {"name":"edsger"}
}

// A small crawl: each page may lead to others, and the run ends when there are no more.
func ExampleFetcher_FetchQueue() {
	site := map[string]string{
		"https://site.test/":         "/people /projects",
		"https://site.test/people":   "/ /ada /grace",
		"https://site.test/projects": "/ada",
	}
	pages := fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
		return fetch.Result{Status: 200, Body: []byte(site[r.URL])}
	})

	var queue fetch.Queue
	seen := map[string]bool{"https://site.test/": true}
	queue.AddURLs("https://site.test/")
	f := fetch.Fetcher{Doer: pages, Ordered: true, PerHost: &fetch.PerHost{}}
	for r := range f.FetchQueue(context.Background(), &queue) {
		fmt.Println(r.Request.URL)
		for _, link := range strings.Fields(string(r.Body)) {
			if u := "https://site.test" + link; !seen[u] {
				seen[u] = true // no lock: the loop runs on one goroutine
				queue.AddURLs(u)
			}
		}
	}
	// Output:
	// https://site.test/
	// https://site.test/people
	// https://site.test/projects
	// https://site.test/ada
	// https://site.test/grace
}

// A Tag goes along with its request, so a result can be told what it belongs to.
func ExampleRequest_tag() {
	type user struct {
		id   int
		name string
	}
	users := []user{{7, "ada"}, {11, "grace"}}
	requests := func(yield func(fetch.Request) bool) {
		for _, u := range users {
			if !yield(fetch.Request{URL: "https://api.test/" + u.name, Tag: u}) {
				return
			}
		}
	}
	f := fetch.Fetcher{Doer: api, Ordered: true}
	for r := range f.Fetch(context.Background(), requests) {
		fmt.Println("user", r.Request.Tag.(user).id, string(r.Body))
	}
	// Output:
	// user 7 {"name":"ada"}
	// user 11 {"name":"grace"}
}

// Trace is told what happens in a run. The end of a batch is the place for a checkpoint.
func ExampleFetcher_trace() {
	f := fetch.Fetcher{
		Strategy: fetch.Batch{Size: 2},
		Doer:     api,
		Trace: func(e fetch.Event) {
			if e.Kind == fetch.EventBatch {
				fmt.Printf("batch %d: %d URLs, %d failed\n", e.Batch, e.Size, e.Failed)
			}
		},
	}
	for range f.Get(context.Background(), people...) {
	}
	// Output:
	// batch 0: 2 URLs, 0 failed
	// batch 1: 2 URLs, 0 failed
	// batch 2: 1 URLs, 0 failed
}

// Metrics by log/slog: an attempt begins with EventStart, and ends with EventRetry or EventEnd.
func ExampleFetcher_slog() {
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{} // the output of an example is always the same
			}
			return a
		},
	}))
	inFlight := 0 // no lock: Trace is called one at a time
	f := fetch.Fetcher{
		Strategy: fetch.Serial{},
		Doer:     unsteady(),
		Retry:    &fetch.Retry{Backoff: time.Millisecond},
		Trace: func(e fetch.Event) {
			switch e.Kind {
			case fetch.EventStart:
				inFlight++
				log.Info("start", "index", e.Request.Index, "in_flight", inFlight)
			case fetch.EventRetry:
				inFlight--
				log.Warn("retry", "index", e.Request.Index, "status", e.Status, "attempts", e.Attempts)
			case fetch.EventEnd:
				inFlight--
				log.Info("end", "index", e.Request.Index, "status", e.Status, "attempts", e.Attempts, "in_flight", inFlight)
			}
		},
	}
	for range f.Get(context.Background(), people[:2]...) {
	}
	// Output:
	// level=INFO msg=start index=0 in_flight=1
	// level=WARN msg=retry index=0 status=503 attempts=1
	// level=INFO msg=start index=0 in_flight=1
	// level=INFO msg=end index=0 status=200 attempts=2 in_flight=0
	// level=INFO msg=start index=1 in_flight=1
	// level=INFO msg=end index=1 status=200 attempts=1 in_flight=0
}

// unsteady returns a Doer that answers as api does, but for the first request: that is a 503.
func unsteady() fetch.Doer {
	var calls atomic.Int64
	return fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		if calls.Add(1) == 1 {
			return fetch.Result{Status: 503, Attempts: 1}
		}
		return api(ctx, r)
	})
}

// An Event is printed in one line, without what may be secret in a URL.
func ExampleEvent() {
	f := fetch.Fetcher{
		Strategy: fetch.Serial{},
		Doer:     api,
		Trace:    func(e fetch.Event) { fmt.Println(e) },
	}
	for range f.Get(context.Background(), "https://me:secret@api.test/ada?key=123", "https://api.test/nobody") {
	}
	// Output:
	// start index=0 url=https://api.test/ada
	// end index=0 url=https://api.test/ada status=200 attempts=1
	// start index=1 url=https://api.test/nobody
	// end index=1 url=https://api.test/nobody status=404 attempts=1
}

// A Doer may have events of its own. They go to the Trace of the run that it performs for.
func ExampleEmit() {
	const eventCached fetch.EventKind = "cached"
	cache := map[string]fetch.Result{"https://api.test/ada": {Status: 200, Body: []byte(`{"name":"ada"}`)}}
	cached := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		if res, ok := cache[r.URL]; ok {
			fetch.Emit(ctx, fetch.Event{Kind: eventCached, Request: r})
			return res
		}
		return api(ctx, r)
	})
	f := fetch.Fetcher{Doer: cached, Trace: func(e fetch.Event) {
		if e.Kind == eventCached {
			fmt.Println(e)
		}
	}}
	for range f.Get(context.Background(), people...) {
	}
	// Output: cached index=0 url=https://api.test/ada
}

func ExampleURLs() {
	for r := range fetch.URLs("https://api.test/ada", "https://api.test/grace") {
		fmt.Println(r.URL)
	}
	// Output:
	// https://api.test/ada
	// https://api.test/grace
}

// A file of URLs, one a line, is read as it is needed.
func ExampleLines() {
	file := strings.NewReader(`# people
https://api.test/ada

https://api.test/grace
`)
	lines := fetch.Lines(file)
	f := fetch.Fetcher{Doer: api, Ordered: true}
	for r := range f.Fetch(context.Background(), lines.All()) {
		fmt.Println(string(r.Body))
	}
	if err := lines.Err(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// {"name":"ada"}
	// {"name":"grace"}
}

// A line that is too long for a URL does not stop the others.
func ExampleLineSource_Err() {
	file := "https://api.test/ada\n" + strings.Repeat("x", 1<<20) + "\nhttps://api.test/grace\n"
	lines := fetch.Lines(strings.NewReader(file))
	for r := range lines.All() {
		fmt.Println(r.URL)
	}
	fmt.Println(lines.Err())
	// Output:
	// https://api.test/ada
	// https://api.test/grace
	// fetch: bad URL: line 2 is longer than 65536 bytes and was skipped; 1 such in all
}

// A function that answers without a network stands in for an API in tests.
func ExampleDoerFunc() {
	fake := fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
		if r.Header.Get("Authorization") == "" {
			return fetch.Result{Status: 401}
		}
		return fetch.Result{Status: 200, Body: []byte(`{"name":"ada"}`)}
	})
	reqs := slices.Values([]fetch.Request{
		{URL: "https://api.test/ada"},
		{URL: "https://api.test/ada", Header: http.Header{"Authorization": {"Bearer 123"}}},
	})
	f := fetch.Fetcher{Doer: fake, Ordered: true}
	for r := range f.Fetch(context.Background(), reqs) {
		fmt.Println(r.Status, r.OK())
	}
	// Output:
	// 401 false
	// 200 true
}

// A Doer that calls another one is middleware.
func ExampleDoerFunc_middleware() {
	withToken := func(next fetch.Doer, token string) fetch.Doer {
		return fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
			signed := *r
			signed.Header = r.Header.Clone() // others may share it
			if signed.Header == nil {
				signed.Header = make(http.Header)
			}
			signed.Header.Set("Authorization", "Bearer "+token)
			return next.Do(ctx, &signed)
		})
	}
	logged := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		fmt.Println(r.URL, r.Header)
		return api(ctx, r)
	})
	f := fetch.Fetcher{Doer: withToken(logged, "123")}
	for r := range f.Get(context.Background(), "https://api.test/ada") {
		fmt.Println(r.Status)
	}
	// Output:
	// https://api.test/ada map[Authorization:[Bearer 123]]
	// 200
}

// A Doer for another protocol gives its errors a Kind, and parses a header only when it is asked for.
func ExampleNewError() {
	gopher := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) (res fetch.Result) {
		res.Attempts = 1
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:1")
		if err != nil {
			res.Err = fetch.NewError(ctx, r, err)
			return res
		}
		defer conn.Close()
		// …
		res.SetHeader(func() http.Header { return http.Header{"Content-Type": {"text/plain"}} })
		return res
	})
	res := gopher.Do(context.Background(), &fetch.Request{URL: "http://user:secret@nobody.test/"})
	fmt.Println(fetch.KindOf(res.Err), errors.Is(res.Err, syscall.ECONNREFUSED))
	fmt.Println(res.Err)
	// Output:
	// dial true
	// fetch: http://nobody.test/: dial: dial tcp 127.0.0.1:1: connect: connection refused
}

// The zero Client is ready; its fields bound what a server can make it do.
func ExampleClient() {
	server := newServer()
	defer server.Close()
	client := &fetch.Client{
		Timeout:        5 * time.Second, // an attempt, all in all
		DialTimeout:    2 * time.Second,
		StallTimeout:   2 * time.Second, // a server's silence
		MaxHeaderBytes: 64 << 10,
		MaxBody:        1 << 20,
		MaxRedirects:   -1, // a redirect is a result like others
		MaxIdleConns:   100,
	}
	defer client.CloseIdleConnections()

	f := fetch.Fetcher{Doer: client, Ordered: true}
	for r := range f.Get(context.Background(), server.URL+"/ada", server.URL+"/old") {
		fmt.Printf("%d %q\n", r.Status, r.Header().Get("Location"))
	}
	// Output:
	// 200 ""
	// 302 "/new"
}

// Some requests go through a proxy, and others do not.
func ExampleClient_proxy() {
	server := newServer()
	defer server.Close()
	// A proxy is sent the whole URL of what it has to forward. This one responds itself.
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "proxied %s, authorized: %t", r.RequestURI, r.Header.Get("Proxy-Authorization") != "")
	}))
	defer proxy.Close()
	proxyURL, err := url.Parse(proxy.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	proxyURL.User = url.UserPassword("me", "secret") // sent to the proxy alone
	client := &fetch.Client{Proxy: func(u *url.URL) (*url.URL, error) {
		if u.Hostname() == "127.0.0.1" {
			return nil, nil // no proxy
		}
		return proxyURL, nil
	}}
	defer client.CloseIdleConnections()

	f := fetch.Fetcher{Doer: client, Ordered: true}
	for r := range f.Get(context.Background(), "http://api.test/ada", server.URL+"/grace") {
		fmt.Println(r.Status, string(r.Body))
	}
	// Output:
	// 200 proxied http://api.test/ada, authorized: true
	// 200 {"name":"grace"}
}

// An http.Client, or a library that takes one, gets the Client's limits with its transport.
func ExampleClient_RoundTripper() {
	server := newServer()
	defer server.Close()
	client := &fetch.Client{MaxBody: 100}
	defer client.CloseIdleConnections()

	users := &http.Client{Transport: client.RoundTripper()}
	resp, err := users.Get(server.URL + "/old")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(resp.Status, resp.Request.URL.Path, string(body), err) // it has followed the redirect

	_, err = users.Get(server.URL + "/" + strings.Repeat("x", 100))
	fmt.Println(errors.Is(err, fetch.ErrTooLarge))
	// Output:
	// 200 OK /new {"name":"new"} <nil>
	// true
}

// An http.Client that a program has already keeps its cookies, its redirect policy and whatever its
// transport adds to requests.
func ExampleHTTPClient() {
	server := newServer()
	defer server.Close()
	client := fetch.HTTPClient{
		Client:  &http.Client{Transport: fetch.NewTransport()},
		Timeout: 5 * time.Second,
		MaxBody: 1 << 20,
	}
	defer client.CloseIdleConnections()

	f := fetch.Fetcher{Doer: client}
	for r := range f.Get(context.Background(), server.URL+"/old") {
		fmt.Println(r.Status, string(r.Body), r.URL == server.URL+"/new") // it has followed the redirect
	}
	// Output: 200 {"name":"new"} true
}

// The transport for an http.Client of one's own, with other settings.
func ExampleNewTransport() {
	server := newServer()
	defer server.Close()
	t := fetch.NewTransport()
	t.Proxy = nil // go direct, whatever the environment says
	t.ResponseHeaderTimeout = 2 * time.Second
	client := fetch.HTTPClient{Client: &http.Client{Transport: t}}
	defer client.CloseIdleConnections()

	f := fetch.Fetcher{Doer: client}
	for r := range f.Get(context.Background(), server.URL+"/ada") {
		fmt.Println(r.Status)
	}
	// Output: 200
}

func ExampleResult_Decode() {
	f := fetch.Fetcher{Doer: api, Ordered: true}
	for r := range f.Get(context.Background(), people[:2]...) {
		var person struct{ Name string }
		if err := r.Decode(&person); err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(person.Name)
	}
	// Output:
	// ada
	// grace
}

// A status that is not a 2xx is not an error, and not OK either.
func ExampleResult_OK() {
	f := fetch.Fetcher{Doer: api, Ordered: true}
	for r := range f.Get(context.Background(), "https://api.test/ada", "https://api.test/nobody") {
		fmt.Println(r.Status, r.Err, r.OK())
	}
	// Output:
	// 200 <nil> true
	// 404 <nil> false
}

// Failure is for programs that do not care why there is no document.
func ExampleResult_Failure() {
	f := fetch.Fetcher{Ordered: true, Doer: fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		if strings.HasSuffix(r.URL, "/grace") {
			return fetch.Result{Err: fetch.NewError(ctx, r, syscall.ECONNRESET), Attempts: 1}
		}
		return api(ctx, r)
	})}
	for r := range f.Get(context.Background(), "https://api.test/ada", "https://me:secret@api.test/nobody", "https://api.test/grace") {
		if err := r.Failure(); err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(string(r.Body))
	}
	// Output:
	// {"name":"ada"}
	// fetch: https://api.test/nobody: status 404 Not Found
	// fetch: https://api.test/grace: connection reset: connection reset by peer
}

// A StatusError says which status it was.
func ExampleStatusError() {
	name := func(ctx context.Context, url string) (string, error) {
		var person struct{ Name string }
		res := api(ctx, &fetch.Request{URL: url})
		if err := res.Failure(); err != nil {
			return "", fmt.Errorf("asking for a person: %w", err)
		}
		return person.Name, res.Decode(&person)
	}
	_, err := name(context.Background(), "https://api.test/nobody")
	var status *fetch.StatusError
	if errors.As(err, &status) && status.Status == http.StatusNotFound {
		fmt.Println("there is no such person")
	}
	// Output: there is no such person
}

func ExampleResult_Header() {
	server := newServer()
	defer server.Close()
	client := &fetch.Client{}
	defer client.CloseIdleConnections()

	f := fetch.Fetcher{Doer: client}
	for r := range f.Get(context.Background(), server.URL+"/ada") {
		fmt.Println(r.Header().Get("Content-Type"))
	}
	// Output: application/json
}

// Stats counts what passes through the loop, and changes nothing.
func ExampleStats() {
	f := fetch.Fetcher{Doer: api}
	var stats fetch.Stats
	for range stats.Observe(f.Get(context.Background(), append(people, "https://api.test/nobody")...)) {
	}
	s := stats.Snapshot()
	fmt.Println("URLs:", s.URLs)
	fmt.Println("OK:", s.OK)
	fmt.Println("statuses:", s.Statuses)
	fmt.Println("bytes:", s.Bytes)
	// Output:
	// URLs: 6
	// OK: 5
	// statuses: map[200:5 404:1]
	// bytes: 103
}

// A Snapshot prints as a table.
func ExampleSnapshot_String() {
	fmt.Print(fetch.Snapshot{
		URLs: 100_000, OK: 99_990, Elapsed: 4 * time.Second, Bytes: 1_900_000,
		Statuses: map[int]int64{200: 99_990, 503: 7}, Errors: map[fetch.Kind]int64{fetch.ErrTimeout: 3}, Retries: 12,
		P50: 2 * time.Millisecond, P90: 3 * time.Millisecond, P99: 9 * time.Millisecond, Max: 40 * time.Millisecond,
	})
	// Output:
	// URLs          100000  in 4s, 25000 URLs/s
	// ok            99990
	// failed        10
	//   timeout     3
	// status 200    99990  OK
	// status 503    7      Service Unavailable
	// retries       12
	// bytes         1900000
	// service time    p50 2ms, p90 3ms, p99 9ms, max 40ms
}

func ExampleKindOf() {
	f := fetch.Fetcher{Ordered: true}
	for r := range f.Get(context.Background(), "ftp://host.test/file", "/a/path") {
		switch fetch.KindOf(r.Err) {
		case "":
			fmt.Println(r.Status)
		case fetch.ErrTimeout, fetch.ErrReset:
			fmt.Println("worth another attempt")
		case fetch.ErrBadURL:
			fmt.Println("never going to work:", r.Request.URL)
		}
	}
	// Output:
	// never going to work: ftp://host.test/file
	// never going to work: /a/path
}

// An Error is its Kind and its cause, and never shows what may be secret in a URL.
func ExampleError() {
	ctx, cancel := context.WithCancel(context.Background())
	slow := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		cancel() // the user has pressed Ctrl-C
		return fetch.Result{Err: &fetch.Error{Kind: fetch.ErrCanceled, URL: "https://api.test/ada", Err: ctx.Err()}}
	})
	f := fetch.Fetcher{Strategy: fetch.Serial{}, Doer: slow}
	for r := range f.Get(ctx, "https://me:secret@api.test/ada?key=123") {
		fmt.Println(r.Err)
		fmt.Println(errors.Is(r.Err, fetch.ErrCanceled), errors.Is(r.Err, context.Canceled))
		var e *fetch.Error
		if errors.As(r.Err, &e) {
			fmt.Println(e.Kind, e.URL)
		}
	}
	// Output:
	// fetch: https://api.test/ada: canceled: context canceled
	// true true
	// canceled https://api.test/ada
}

// A Doer that panics costs one result, not the program.
func ExamplePanicError() {
	buggy := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		if r.Index == 1 {
			panic("a bug")
		}
		return api(ctx, r)
	})
	f := fetch.Fetcher{Doer: buggy, Ordered: true}
	for r := range f.Get(context.Background(), people[:3]...) {
		var p *fetch.PanicError
		if errors.As(r.Err, &p) {
			fmt.Println("panic:", p.Value, "at", p.URL) // and p.Stack says where in the code
			continue
		}
		fmt.Println(r.Status)
	}
	// Output:
	// 200
	// panic: a bug at https://api.test/grace
	// 200
}

// One at a time: a failure can stop the rest before it is asked for.
func ExampleSerial() {
	f := fetch.Fetcher{Strategy: fetch.Serial{}, Doer: api}
	for r := range f.Get(context.Background(), "https://api.test/ada", "https://api.test/nobody", "https://api.test/grace") {
		fmt.Println(r.Request.URL, r.Status)
		if !r.OK() {
			break
		}
	}
	// Output:
	// https://api.test/ada 200
	// https://api.test/nobody 404
}

// A thread for each URL: for a Doer that must not share one, because it calls into C, say, and changes
// what belongs to the thread.
func ExampleThreads() {
	f := fetch.Fetcher{Strategy: fetch.Threads{Limit: 2}, Doer: api, Ordered: true}
	for r := range f.Get(context.Background(), people[:2]...) {
		fmt.Println(f.Strategy, string(r.Body))
	}
	// Output:
	// threads(2) {"name":"ada"}
	// threads(2) {"name":"grace"}
}

func ExamplePool() {
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 16}, Doer: api}
	n := 0
	for r := range f.Get(context.Background(), people...) {
		if r.OK() {
			n++ // no lock: the loop runs on one goroutine
		}
	}
	fmt.Println(f.Strategy, n)
	// Output: pool(16) 5
}

func ExampleSemaphore() {
	var mu sync.Mutex
	inFlight, peak := 0, 0
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		inFlight += n
		peak = max(peak, inFlight)
	}
	doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		count(1)
		defer count(-1)
		return api(ctx, r)
	})
	f := fetch.Fetcher{Strategy: fetch.Semaphore{Limit: 2}, Doer: doer}
	n := 0
	for range f.Get(context.Background(), people...) {
		n++
	}
	fmt.Println(f.Strategy, n, peak <= 2)
	// Output: semaphore(2) 5 true
}

// Two URLs, then the next two: nothing is under way in between.
func ExampleBatch() {
	f := fetch.Fetcher{Strategy: fetch.Batch{Size: 2}, Doer: api, Ordered: true}
	for r := range f.Get(context.Background(), people[:4]...) {
		fmt.Println("batch", r.Request.Index/2, string(r.Body))
	}
	// Output:
	// batch 0 {"name":"ada"}
	// batch 0 {"name":"grace"}
	// batch 1 {"name":"edsger"}
	// batch 1 {"name":"barbara"}
}

// A batch is a barrier around any strategy.
func ExampleBatch_each() {
	f := fetch.Fetcher{Strategy: fetch.Batch{Size: 3, Each: fetch.Serial{}}, Doer: api}
	for r := range f.Get(context.Background(), people...) {
		fmt.Println(f.Strategy, "batch", r.Request.Index/3, string(r.Body))
	}
	// Output:
	// batch(3,serial) batch 0 {"name":"ada"}
	// batch(3,serial) batch 0 {"name":"grace"}
	// batch(3,serial) batch 0 {"name":"edsger"}
	// batch(3,serial) batch 1 {"name":"barbara"}
	// batch(3,serial) batch 1 {"name":"donald"}
}

// A batchAPI answers as api does, up to Depth requests at a time: a BatchDoer.
type batchAPI struct{ fetch.DoerFunc }

func (d batchAPI) DoBatch(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
	fmt.Println(len(reqs), "requests in one write")
	for _, r := range reqs {
		res := d.Do(ctx, r)
		res.Request = r
		yield(res)
	}
}

// Requests for the same host share a write, if the Doer knows how to.
func ExamplePipeline() {
	f := fetch.Fetcher{Strategy: fetch.Pipeline{Limit: 8, Depth: 4}, Doer: batchAPI{api}, Ordered: true}
	for r := range f.Get(context.Background(), people[:4]...) {
		fmt.Println(f.Strategy, string(r.Body))
	}
	// Output:
	// 4 requests in one write
	// pipeline(8,4) {"name":"ada"}
	// pipeline(8,4) {"name":"grace"}
	// pipeline(8,4) {"name":"edsger"}
	// pipeline(8,4) {"name":"barbara"}
}
