package fetch_test

import (
	"context"
	"fmt"
	"net/url"
	"sync"

	"fetchbench/fetch"
)

// A Hostwise is a strategy with a goroutine for each host: it fetches from Hosts hosts at once, and
// one URL at a time from each.
type Hostwise struct{ Hosts int }

func (s Hostwise) Limits() fetch.Limits { return fetch.Limits{InFlight: s.Hosts, Ahead: 2 * s.Hosts} }
func (s Hostwise) String() string       { return fmt.Sprintf("hostwise(%d)", s.Hosts) }

func (s Hostwise) Start(ctx context.Context, d fetch.Doer) fetch.Executor {
	x := &hostwiseRun{doer: d, places: make(chan struct{}, s.Hosts), waiting: make(map[string][]*fetch.Request)}
	x.results = make(chan fetch.Result, s.Limits().Ahead)
	x.ctx, x.cancel = context.WithCancel(ctx)
	return x
}

type hostwiseRun struct {
	ctx     context.Context
	cancel  context.CancelFunc
	doer    fetch.Doer
	places  chan struct{} // has one for each request under way
	results chan fetch.Result
	running sync.WaitGroup

	mu      sync.Mutex
	waiting map[string][]*fetch.Request // for each host that has a goroutine
}

func (x *hostwiseRun) Submit(r *fetch.Request) {
	host := ""
	if u, err := url.Parse(r.URL); err == nil {
		host = u.Host
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	waiting, busy := x.waiting[host]
	if x.waiting[host] = append(waiting, r); !busy {
		x.running.Go(func() { x.next(host) })
	}
}

// next performs host's next request, and hands over to another goroutine: a Doer may end this one by
// runtime.Goexit.
func (x *hostwiseRun) next(host string) {
	x.mu.Lock()
	waiting := x.waiting[host]
	if len(waiting) == 0 {
		delete(x.waiting, host)
		x.mu.Unlock()
		return
	}
	x.waiting[host] = waiting[1:]
	x.mu.Unlock()
	x.places <- struct{}{}
	defer func() {
		<-x.places
		x.running.Go(func() { x.next(host) })
	}()
	fetch.Perform(x.ctx, x.doer, waiting[0], x.results)
}

func (x *hostwiseRun) Flush()                       {}
func (x *hostwiseRun) Results() <-chan fetch.Result { return x.results }
func (x *hostwiseRun) Close()                       { x.cancel(); x.running.Wait() }

// A strategy of one's own: Fetcher does the rest.
func Example_strategy() {
	f := fetch.Fetcher{Strategy: Hostwise{Hosts: 4}, Doer: api, Ordered: true}
	for r := range f.Get(context.Background(), "https://a.test/ada", "https://a.test/grace", "https://b.test/edsger") {
		fmt.Println(f.Strategy, string(r.Body))
	}
	// Output:
	// hostwise(4) {"name":"ada"}
	// hostwise(4) {"name":"grace"}
	// hostwise(4) {"name":"edsger"}
}
