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

// A program that uses a Shard calls ShardMain first, and then does what it does. (That
// of this example has: its TestMain calls fetch.ShardMain.)
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
func ExampleTrace_shard() {
	ctx := fetch.WithTrace(context.Background(), &fetch.Trace{
		ShardStarted: func(i fetch.ShardInfo) { fmt.Println("started", i.Shard, i.PID > 0, i.Startup > 0) },
		ShardGone:    func(i fetch.ShardInfo) { fmt.Println("gone", i.Shard, i.Unanswered, i.Err) },
	})
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}}
	for r := range f.Get(ctx, "http://ok.test/") {
		fmt.Println(r.Status)
	}
	// Output:
	// started 0 true true
	// 200
	// gone 0 0 <nil>
}
