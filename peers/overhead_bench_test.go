package peers

import (
	"context"
	"runtime"
	"sync"
	"testing"

	"github.com/alitto/pond/v2"
	"github.com/destel/rill"
	"github.com/panjf2000/ants/v2"
	"github.com/sourcegraph/conc/pool"
	"golang.org/x/sync/errgroup"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// BenchmarkOverhead is the strategies and their like alone, over work that is nothing: each
// does it once for every item, 64 at once, and hands each result to one consumer.
func BenchmarkOverhead(b *testing.B) {
	for _, o := range overheads {
		b.Run("with="+o.name, func(b *testing.B) {
			received := 0
			runtime.GC()
			b.ReportAllocs()
			b.ResetTimer()
			cpu := fetchtest.CPUTime()
			o.run(b.N, func(r fetch.Result) {
				if !r.OK() {
					b.Error("a result that is not OK")
				}
				received++
			})
			cpu = fetchtest.CPUTime() - cpu
			b.StopTimer()
			if cpu > 0 {
				b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
			}
			if received != b.N {
				b.Fatalf("%d results of %d", received, b.N)
			}
		})
	}
}

var overheads = []struct {
	name string
	run  func(n int, consume func(fetch.Result))
}{
	{"fetch-serial", bare(fetch.Serial{})},
	{"fetch-pool", bare(fetch.Pool{Workers: limit})},
	{"fetch-semaphore", bare(fetch.Semaphore{Limit: limit})},
	{"fetch-batch", bare(fetch.Batch{Each: fetch.Pool{Workers: limit}})},
	{"errgroup", overErrgroup},
	{"conc", overConc},
	{"ants", overAnts},
	{"pond", overPond},
	{"rill", overRill},
}

// nowhere is the URL that nothing is done for.
const nowhere = "http://host.test/"

var request = fetch.Request{URL: nowhere}

func nothing(context.Context, *fetch.Request) fetch.Result {
	return fetch.Result{Status: 200, Body: pong, Attempts: 1}
}

func work() fetch.Result { return nothing(context.Background(), &request) }

func bare(s fetch.Strategy) func(n int, consume func(fetch.Result)) {
	return func(n int, consume func(fetch.Result)) {
		f := fetch.Fetcher{Strategy: s, Doer: fetch.DoerFunc(nothing)}
		for r := range f.Fetch(context.Background(), gets(only(nowhere), n)) {
			consume(r)
		}
	}
}

// overErrgroup sends the results to a channel, as the example Pipeline of errgroup does.
func overErrgroup(n int, consume func(fetch.Result)) {
	results := make(chan fetch.Result)
	go func() {
		defer close(results)
		var g errgroup.Group
		g.SetLimit(limit)
		for range n {
			g.Go(func() error {
				results <- work()
				return nil
			})
		}
		g.Wait()
	}()
	for r := range results {
		consume(r)
	}
}

// overConc has conc's ResultPool, which keeps all results until the last one is there.
func overConc(n int, consume func(fetch.Result)) {
	p := pool.NewWithResults[fetch.Result]().WithMaxGoroutines(limit)
	for range n {
		p.Go(work)
	}
	for _, r := range p.Wait() {
		consume(r)
	}
}

// overAnts sends the results to a channel: ants has no way of its own.
func overAnts(n int, consume func(fetch.Result)) {
	results := make(chan fetch.Result)
	go func() {
		defer close(results)
		p, err := ants.NewPool(limit)
		if err != nil {
			panic(err) // only if the limit is invalid
		}
		defer p.Release()
		var wg sync.WaitGroup
		for range n {
			wg.Add(1)
			if err := p.Submit(func() {
				defer wg.Done()
				results <- work()
			}); err != nil {
				panic(err) // only if the pool is closed
			}
		}
		wg.Wait()
	}()
	for r := range results {
		consume(r)
	}
}

// overPond has pond's group of results, which keeps all of them until the last one is there.
func overPond(n int, consume func(fetch.Result)) {
	p := pond.NewResultPool[fetch.Result](limit)
	defer p.StopAndWait()
	group := p.NewGroup()
	for range n {
		group.Submit(work)
	}
	results, err := group.Wait()
	if err != nil {
		panic(err) // only if work panics
	}
	for _, r := range results {
		consume(r)
	}
}

func overRill(n int, consume func(fetch.Result)) {
	items := rill.FromSeq(gets(only(nowhere), n), nil)
	results := rill.Map(items, limit, func(r fetch.Request) (fetch.Result, error) {
		return nothing(context.Background(), &r), nil
	})
	if err := rill.ForEach(results, 1, func(r fetch.Result) error {
		consume(r)
		return nil
	}); err != nil {
		panic(err) // only if a stage returns one
	}
}
