package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"fetchbench/fetch"
)

// With a Pipeline, requests to one host share a write. Its Limit counts requests: here up to 8
// writes of 16 each are under way.
func ExampleClient_DoBatch() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.URL.Path)
	}))
	defer server.Close()

	client := &fetch.Client{}
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
		if r.OK() && string(r.Body) == fmt.Sprint("/", r.Request.Index) {
			good++
		}
	}
	fmt.Println(good, "responses, each to its own request")
	// Output: 1000 responses, each to its own request
}

// A host that cannot handle several requests in one write gets one at a time for a while.
func ExampleClient_DoBatch_trace() {
	url, stop := closesAfterTwo()
	defer stop()

	client := &fetch.Client{}
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

// closesAfterTwo starts a server that closes a connection after the second request that has come
// together with others.
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

// A Dial of one's own reaches a server on a Unix socket. The URL's host is for the Host field.
func ExampleClient_dial() {
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
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	defer server.Close()

	client := &fetch.Client{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer client.CloseIdleConnections()
	res := client.Do(context.Background(), &fetch.Request{URL: "http://service/status"})
	fmt.Println(res.Status, string(res.Body))
	// Output: 200 SERVICE
}

// A proxy that does not let the client through is an error for programs to understand, too.
func ExampleProxyError() {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	defer proxy.Close()
	client := &fetch.Client{Proxy: func(*url.URL) (*url.URL, error) { return url.Parse(proxy.URL) }}

	r := client.Do(context.Background(), &fetch.Request{URL: "https://example.org/"})
	if e, ok := errors.AsType[*fetch.ProxyError](r.Err); ok && e.Status == http.StatusProxyAuthRequired {
		fmt.Println("the proxy wants a user and a password")
	}
	// Output: the proxy wants a user and a password
}

// What a Result tells of the way to the server.
func ExampleResult_RemoteAddr() {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	client := &fetch.Client{}
	defer client.CloseIdleConnections()

	r := client.Do(context.Background(), &fetch.Request{URL: server.URL})
	fmt.Println(r.Proto(), r.RemoteAddr().Addr(), r.FirstByte > 0 && r.FirstByte <= r.Duration)
	// Output: HTTP/1.1 127.0.0.1 true
}
