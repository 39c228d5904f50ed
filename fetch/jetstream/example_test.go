package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"fetchbench/fetch"
	"fetchbench/fetch/jetstream"
)

// pages is a server for the examples.
func pages() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := r.URL.Query().Get("size"); n == "large" {
			fmt.Fprint(w, strings.Repeat("x", 100_000))
			return
		}
		fmt.Fprint(w, "page ", r.URL.Path)
	}))
}

// input yields n requests of server.
func input(server *httptest.Server, n int) func(yield func(fetch.Request) bool) {
	return func(yield func(fetch.Request) bool) {
		for i := range n {
			if !yield(fetch.Request{URL: fmt.Sprintf("%s/%d", server.URL, i)}) {
				return
			}
		}
	}
}

// The zero value has all in this process: a broker, whose files go with the run, and a worker.
func Example() {
	server := pages()
	defer server.Close()

	f := fetch.Fetcher{Strategy: jetstream.Strategy{}, Ordered: true}
	for r := range f.Fetch(context.Background(), input(server, 3)) {
		fmt.Println(r.Status, string(r.Body))
	}
	// Output:
	// 200 page /0
	// 200 page /1
	// 200 page /2
}

// A job that goes on where it stopped, after whatever stopped it: the same call again. Here the loop is left in the midst, and
// then the disk of the broker is lost.
func ExampleStrategy_resume() {
	server := pages()
	defer server.Close()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	job := jetstream.Job{
		Name:     "resumed",
		Dir:      filepath.Join(dir, "broker"),
		Manifest: jetstream.Dir(filepath.Join(dir, "manifest")),
	}
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 10}}
	for r := range f.Fetch(context.Background(), input(server, 1000)) {
		if r.Request.Index == 500 {
			break
		}
	}
	if err := os.RemoveAll(job.Dir); err != nil {
		panic(err)
	}

	ok := 0
	for r := range f.Fetch(context.Background(), input(server, 1000)) {
		if r.OK() {
			ok++
		}
	}
	fmt.Println("results:", ok)
	// Output:
	// results: 1000
}

// exampleBroker stands for a broker of yours.
func exampleBroker() (address string, stop func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		panic(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		panic("the broker does not start")
	}
	return s.ClientURL(), func() {
		s.Shutdown()
		s.WaitForShutdown()
		os.RemoveAll(dir)
	}
}

// A worker is a program of a few lines, which runs on as many machines as one likes. Here it is in the same program as the
// publisher.
func ExampleWork() {
	server := pages()
	defer server.Close()
	address, stop := exampleBroker()
	defer stop()
	job := jetstream.Job{Name: "crawl", Address: address}

	ended := make(chan error)
	go func() {
		ended <- jetstream.Work(context.Background(), jetstream.Worker{
			Job: job,
			Fetcher: fetch.Fetcher{
				Strategy: fetch.Pool{Workers: 16},
				Doer:     &fetch.Client{},
				Retry:    &fetch.Retry{},
			},
		})
	}()

	ok := 0
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 10}}
	for r := range f.Fetch(context.Background(), input(server, 500)) {
		if r.OK() {
			ok++
		}
	}
	fmt.Println("results:", ok)
	fmt.Println("the worker has ended:", <-ended)
	// Output:
	// results: 500
	// the worker has ended: <nil>
}

// Status serves a progress bar, in the publisher or elsewhere.
func ExampleStatus() {
	gate := make(chan struct{})
	slow := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		if r.Index >= 20 {
			<-gate
		}
		return fetch.Result{Status: 200, Attempts: 1}
	})
	job := jetstream.Job{Name: "watched"}
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 10}, Doer: slow}
	n := 0
	for r := range f.Fetch(context.Background(), func(yield func(fetch.Request) bool) {
		for i := range 50 {
			if !yield(fetch.Request{URL: fmt.Sprintf("http://example.com/%d", i)}) {
				return
			}
		}
	}) {
		if r.Err != nil {
			panic(r.Err)
		}
		if n++; n == 20 {
			p, err := jetstream.Status(context.Background(), job)
			// A shard is in flight until its worker has acknowledged it, a moment after its results.
			for range 100 {
				if err == nil && p.InFlight+p.Pending > 3 {
					time.Sleep(10 * time.Millisecond)
					p, err = jetstream.Status(context.Background(), job)
				}
			}
			if err != nil {
				panic(err)
			}
			fmt.Println("shards done:", p.Done, "to be done:", p.InFlight+p.Pending)
			close(gate)
		}
	}
	_, err := jetstream.Status(context.Background(), job)
	fmt.Println("the job has ended:", errors.Is(err, jetstream.ErrNoJob))
	// Output:
	// shards done: 2 to be done: 3
	// the job has ended: true
}

// Large bodies go by way of a Store, and not through the broker. Workers on other machines need the same one in Worker.Bodies.
func ExampleDir() {
	server := pages()
	defer server.Close()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	f := fetch.Fetcher{Strategy: jetstream.Strategy{Bodies: jetstream.Dir(dir)}}
	for r := range f.Get(context.Background(), server.URL+"/?size=large") {
		fmt.Println(r.Status, len(r.Body))
	}
	// Output:
	// 200 100000
}

// A publisher without Bodies gets the names of what the workers have stored, and the rest of the results.
func ExampleStoredError() {
	server := pages()
	defer server.Close()
	address, stop := exampleBroker()
	defer stop()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	store := jetstream.Dir(dir)
	job := jetstream.Job{Name: "crawl", Address: address}
	ended := make(chan error)
	go func() { ended <- jetstream.Work(context.Background(), jetstream.Worker{Job: job, Bodies: store}) }()

	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job}}
	for r := range f.Get(context.Background(), server.URL+"/?size=large") {
		if stored, ok := errors.AsType[*jetstream.StoredError](r.Err); ok {
			body, err := store.Get(context.Background(), stored.Name)
			fmt.Println(r.Status, len(body), err)
		}
	}
	fmt.Println("the worker has ended:", <-ended)
	// Output:
	// 200 100000 <nil>
	// the worker has ended: <nil>
}
