//go:build unix

package fetch_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"fetchbench/fetch"
)

// A program that uses a Shard calls ShardMain first. (The program of this example does so in its
// TestMain.)
func ExampleShard() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "pong "+r.URL.Query().Get("n"))
	}))
	defer server.Close()

	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2, Each: fetch.Pool{Workers: 8}}, Ordered: true}
	for r := range f.Get(context.Background(), server.URL+"/ping?n=1", server.URL+"/ping?n=2", server.URL+"/ping?n=3") {
		fmt.Println(r.Status, string(r.Body))
	}
	// Output:
	// 200 pong 1
	// 200 pong 2
	// 200 pong 3
}

// The first lines of a main. In the child processes the call does not return.
func ExampleShardMain() {
	fetch.ShardMain(&fetch.Client{MaxBody: 1 << 20})

	fmt.Println("only the parent gets here")
	// Output: only the parent gets here
}

// A Trace tells which child processes there are, and what became of them.
func ExampleFetcher_shardEvents() {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}, Trace: func(e fetch.Event) {
		switch e.Kind {
		case fetch.EventShardUp:
			fmt.Println("up", e.Shard, e.PID > 0, e.Duration > 0)
		case fetch.EventShardDown:
			fmt.Println("down", e.Shard, e.Unanswered, e.Err)
		}
	}}
	for r := range f.Get(context.Background(), "http://ok.test/") {
		fmt.Println(r.Status)
	}
	// Output:
	// up 0 true true
	// 200
	// down 0 0 <nil>
}
