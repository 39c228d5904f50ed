package wire_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"fetchbench/fetch"
	"fetchbench/fetch/wire"
)

func pathServer() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Method, r.URL.Path)
	}))
}

// A Client takes the place of a fetch.Client.
func ExampleClient() {
	server := pathServer()
	defer server.Close()

	client := &wire.Client{MaxBody: 1 << 20}
	defer client.CloseIdleConnections()
	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: client, Ordered: true}
	for r := range f.Get(context.Background(), server.URL+"/1", server.URL+"/2") {
		fmt.Println(r.Status, string(r.Body), r.Err)
	}
	// Output:
	// 200 GET /1 <nil>
	// 200 GET /2 <nil>
}

// With a Pipeline, requests to one host share a write. Limit counts requests: here there are 8
// writes under way, of 16 each.
func ExampleClient_DoBatch() {
	server := pathServer()
	defer server.Close()

	client := &wire.Client{}
	defer client.CloseIdleConnections()
	f := fetch.Fetcher{Strategy: fetch.Pipeline{Limit: 128, Depth: 16}, Doer: client}
	good := 0
	for r := range f.Fetch(context.Background(), func(yield func(fetch.Request) bool) {
		for i := range 1000 {
			if !yield(fetch.Request{URL: fmt.Sprint(server.URL, "/", i)}) {
				return
			}
		}
	}) {
		if r.OK() && string(r.Body) == fmt.Sprint("GET /", r.Request.Index) {
			good++
		}
	}
	fmt.Println(good, "answers, each to its own request")
	// Output: 1000 answers, each to its own request
}

// A host that does not get on with several requests in one write gets one at a time for a while.
func ExampleClient_DoBatch_trace() {
	url, stop := closesAfterTwo()
	defer stop()

	client := &wire.Client{}
	defer client.CloseIdleConnections()
	told := make(chan fetch.Event, 1)
	f := fetch.Fetcher{Strategy: fetch.Pipeline{Limit: 4, Depth: 4}, Doer: client, Ordered: true}
	f.Trace = func(e fetch.Event) {
		if e.Kind == fetch.EventPipelineOff {
			told <- e
		}
	}
	for r := range f.Get(context.Background(), url+"/0", url+"/1", url+"/2", url+"/3", url+"/4") {
		fmt.Println(r.Status, r.Attempts)
	}
	e := <-told
	fmt.Println(e.Unanswered, "unanswered:", fetch.KindOf(e.Err), "- off for", e.Duration)
	// Output:
	// 200 1
	// 200 1
	// 200 1
	// 200 2
	// 200 1
	// 1 unanswered: connection reset - off for 1m0s
}

// closesAfterTwo starts a server that closes a connection after the second request which has come with others.
func closesAfterTwo() (url string, stop func()) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		for several := 0; ; {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			if rw.Reader.Buffered() > 0 {
				several++
			}
			if several == 2 {
				return
			}
			if _, err := http.ReadRequest(rw.Reader); err != nil {
				return
			}
		}
	}))
	return server.URL, server.Close
}

// What listens on a Unix socket is asked by a Dial of one's own; the URL's host is for the Host field.
func ExampleClient_unixSocket() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.ToUpper(r.Host))
	}))
	server.Listener = listener
	server.Start()
	defer server.Close()

	client := &wire.Client{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer client.CloseIdleConnections()
	res := client.Do(context.Background(), &fetch.Request{URL: "http://service/status"})
	fmt.Println(res.Status, string(res.Body))
	// Output: 200 SERVICE
}

// In a program with a Shard, the children get a Client of their own.
func ExampleClient_shard() {
	fetch.ShardMain(&wire.Client{}) // does not return in a child

	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 4, Each: fetch.Pipeline{Limit: 256, Depth: 16}}}
	fmt.Println(f.Strategy)
	// Output: shard(4,pipeline(256,16))
}
