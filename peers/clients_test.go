package peers

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log"
	"net"
	"net/http"
	neturl "net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-resty/resty/v2"
	"github.com/panjf2000/ants/v2"
	"github.com/sourcegraph/conc/pool"
	vegeta "github.com/tsenart/vegeta/v12/lib"
	"github.com/valyala/fasthttp"
	"golang.org/x/sync/errgroup"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

const (
	// limit is how many connections each client has.
	limit = 64
	// depth is how many requests are under way on each of them, for the clients that pipeline.
	depth = 16
)

// A client is a way to GET a URL many times, in this process.
type client struct {
	name string
	// open returns a function that GETs url n times, limit at once, and returns an error unless
	// every one of n answers is right; and a function that lets go of the connections.
	open func(url string) (get func(n int) error, close func())
}

var clients = []client{
	{"errgroup-http-get", errgroupHTTPGet},
	{"errgroup-tuned", errgroupTuned(0)},
	{"errgroup-timeout", errgroupTuned(fetchTimeout)},
	{"conc", concPool},
	{"ants", antsPool},
	{"resty", restyClient},
	{"vegeta", vegetaAttacker},
	{"fasthttp", fasthttpClient},
	{"fasthttp-pipeline", fasthttpPipeline},
	{"fetch-pool", ours(fetch.Pool{Workers: limit}, newClient)},
	{"fetch-semaphore", ours(fetch.Semaphore{Limit: limit}, newClient)},
	{"fetch-pipeline", ours(fetch.Pipeline{Limit: limit * depth, Depth: depth}, newClient)},
	{"nethttp-pool", ours(fetch.Pool{Workers: limit}, newHTTPClient)},
}

// check is what every client asks of every answer.
func check(status int, body []byte) error {
	if status != http.StatusOK || string(body) != fetchtest.Pong {
		return fmt.Errorf("an answer with status %d and body %q", status, body)
	}
	return nil
}

// fetchTimeout is fetch.Client's limit for an attempt, unless it is told another.
const fetchTimeout = 30 * time.Second

// tuned is net/http's client with room to keep all connections, where the default one keeps two of
// a host. It has no Timeout, which costs it a little: see errgroup-timeout.
func tuned() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns = limit
	transport.MaxIdleConnsPerHost = limit
	return &http.Client{Transport: transport}
}

// A target is the URL of each GET, counted from 0.
type target func(i int) string

// only is one URL for all.
func only(url string) target { return func(int) string { return url } }

func httpGet(c *http.Client, url string) error {
	answer, err := c.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	return check(answer.StatusCode, body)
}

// errgroupHTTPGet is what a newcomer to Go writes.
func errgroupHTTPGet(url string) (func(n int) error, func()) {
	return func(n int) error {
		var g errgroup.Group
		g.SetLimit(limit)
		for range n {
			g.Go(func() error {
				answer, err := http.Get(url)
				if err != nil {
					return err
				}
				defer answer.Body.Close()
				body, err := io.ReadAll(answer.Body)
				if err != nil {
					return err
				}
				return check(answer.StatusCode, body)
			})
		}
		return g.Wait()
	}, http.DefaultClient.CloseIdleConnections
}

// errgroupTuned is what one writes who knows net/http, with a limit for each request or, at 0, none.
func errgroupTuned(timeout time.Duration) func(url string) (func(n int) error, func()) {
	return func(url string) (func(n int) error, func()) {
		c := tuned()
		c.Timeout = timeout
		return func(n int) error { return errgroupGets(c, only(url), n) }, c.CloseIdleConnections
	}
}

// errgroupGets performs n GETs by c.
func errgroupGets(c *http.Client, url target, n int) error {
	var g errgroup.Group
	g.SetLimit(limit)
	for i := range n {
		g.Go(func() error { return httpGet(c, url(i)) })
	}
	return g.Wait()
}

func concPool(url string) (func(n int) error, func()) {
	c := tuned()
	return func(n int) error {
		p := pool.New().WithMaxGoroutines(limit).WithErrors().WithFirstError()
		for range n {
			p.Go(func() error { return httpGet(c, url) })
		}
		return p.Wait()
	}, c.CloseIdleConnections
}

func antsPool(url string) (func(n int) error, func()) {
	c := tuned()
	return func(n int) error {
		p, err := ants.NewPool(limit)
		if err != nil {
			return err
		}
		defer p.ReleaseTimeout(time.Second)
		var wg sync.WaitGroup
		var failed first
		for range n {
			wg.Add(1)
			if err := p.Submit(func() {
				defer wg.Done()
				failed.set(httpGet(c, url))
			}); err != nil {
				return err
			}
		}
		wg.Wait()
		return failed.err()
	}, c.CloseIdleConnections
}

// restyClient has the tuned client: resty's own keeps GOMAXPROCS+1 connections of a host.
func restyClient(url string) (func(n int) error, func()) {
	hc := tuned()
	c := resty.NewWithClient(hc)
	return func(n int) error {
		var g errgroup.Group
		g.SetLimit(limit)
		for range n {
			g.Go(func() error {
				answer, err := c.R().Get(url)
				if err != nil {
					return err
				}
				return check(answer.StatusCode(), answer.Body())
			})
		}
		return g.Wait()
	}, hc.CloseIdleConnections
}

// vegetaAttacker attacks without a pause until it has n hits. An Attacker can be used once, so it
// is given the tuned client, which lasts.
func vegetaAttacker(url string) (func(n int) error, func()) {
	c := tuned()
	target := vegeta.NewStaticTargeter(vegeta.Target{Method: http.MethodGet, URL: url})
	return func(n int) error {
		attacker := vegeta.NewAttacker(vegeta.Client(c), vegeta.Workers(limit), vegeta.MaxWorkers(limit))
		var failed error
		answers := 0
		for hit := range attacker.Attack(target, hits(n), 0, "") {
			answers++
			if hit.Error != "" && failed == nil {
				failed = fmt.Errorf("vegeta: %s", hit.Error)
			}
			if err := check(int(hit.Code), hit.Body); err != nil && failed == nil {
				failed = err
			}
		}
		if answers != n && failed == nil {
			failed = fmt.Errorf("%d hits of %d", answers, n)
		}
		return failed
	}, c.CloseIdleConnections
}

// hits is a vegeta.Pacer without pauses that stops after so many hits.
type hits uint64

func (h hits) Pace(_ time.Duration, n uint64) (wait time.Duration, stop bool) {
	return 0, n >= uint64(h)
}
func (h hits) Rate(time.Duration) float64 { return 0 }

func fasthttpClient(url string) (func(n int) error, func()) {
	c := newFasthttp()
	return func(n int) error { return fasthttpGets(c.Do, only(url), n, limit) }, c.CloseIdleConnections
}

// newFasthttp returns a client with the options of the example in fasthttp's repository.
func newFasthttp() *fasthttp.Client {
	return &fasthttp.Client{
		ReadTimeout:                   15 * time.Second,
		WriteTimeout:                  15 * time.Second,
		MaxIdleConnDuration:           time.Hour,
		MaxResponseBodySize:           10 << 20,
		NoDefaultUserAgentHeader:      true,
		DisableHeaderNamesNormalizing: true,
		DisablePathNormalizing:        true,
		MaxConnsPerHost:               limit,
	}
}

// fasthttpPipeline has as many connections, with depth requests on each. Its client cannot be
// closed: what does that is its limit on idleness, so close waits for it.
func fasthttpPipeline(url string) (func(n int) error, func()) {
	u, err := neturl.Parse(url)
	if err != nil {
		panic(err) // only if startServer is wrong
	}
	var open sync.WaitGroup
	c := &fasthttp.PipelineClient{
		Addr: u.Host,
		Dial: func(addr string) (net.Conn, error) {
			conn, err := fasthttp.Dial(addr)
			if err != nil {
				return nil, err
			}
			open.Add(1)
			return &closing{conn, sync.OnceFunc(open.Done)}, nil
		},
		MaxIdleConnDuration:           100 * time.Millisecond,
		MaxConns:                      limit,
		ReadTimeout:                   15 * time.Second,
		WriteTimeout:                  15 * time.Second,
		MaxResponseBodySize:           10 << 20,
		NoDefaultUserAgentHeader:      true,
		DisableHeaderNamesNormalizing: true,
		DisablePathNormalizing:        true,
		Logger:                        log.New(io.Discard, "", 0),
	}
	return func(n int) error { return fasthttpGets(c.Do, only(url), n, limit*depth) }, open.Wait
}

// closing is a connection that tells when it is closed.
type closing struct {
	net.Conn
	closed func()
}

func (c *closing) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// fasthttpGets calls do n times in so many goroutines.
func fasthttpGets(do func(*fasthttp.Request, *fasthttp.Response) error, url target, n, goroutines int) error {
	get := func(url string) error {
		request := fasthttp.AcquireRequest()
		defer fasthttp.ReleaseRequest(request)
		request.SetRequestURI(url)
		request.Header.SetMethod(fasthttp.MethodGet)
		answer := fasthttp.AcquireResponse()
		defer fasthttp.ReleaseResponse(answer)
		if err := do(request, answer); err != nil {
			return err
		}
		return check(answer.StatusCode(), answer.Body())
	}
	var taken atomic.Int64
	var failed first
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := int(taken.Add(1)); i <= n; i = int(taken.Add(1)) {
				failed.set(get(url(i - 1)))
			}
		})
	}
	wg.Wait()
	return failed.err()
}

type engine interface {
	fetch.Doer
	CloseIdleConnections()
}

func newClient() engine { return &fetch.Client{} }

func newHTTPClient() engine {
	return fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}, Timeout: fetchTimeout}
}

// ours is package fetch: the responses come to one loop, and are checked there.
func ours(s fetch.Strategy, newDoer func() engine) func(url string) (func(n int) error, func()) {
	return func(url string) (func(n int) error, func()) {
		d := newDoer()
		f := fetch.Fetcher{Strategy: s, Doer: d}
		return func(n int) error { return fetchGets(&f, only(url), n) }, d.CloseIdleConnections
	}
}

// fetchGets performs n GETs by f.
func fetchGets(f *fetch.Fetcher, url target, n int) error {
	answers := 0
	for r := range f.Fetch(context.Background(), gets(url, n)) {
		if r.Err != nil {
			return r.Err
		}
		if err := check(r.Status, r.Body); err != nil {
			return err
		}
		answers++
	}
	if answers != n {
		return fmt.Errorf("%d answers of %d", answers, n)
	}
	return nil
}

// gets is n requests.
func gets(url target, n int) iter.Seq[fetch.Request] {
	return func(yield func(fetch.Request) bool) {
		for i := range n {
			if !yield(fetch.Request{URL: url(i)}) {
				return
			}
		}
	}
}

// first keeps the first error that it is given.
type first struct{ p atomic.Pointer[error] }

func (f *first) set(err error) {
	if err != nil {
		kept := err // so that a nil err is not moved to the heap
		f.p.CompareAndSwap(nil, &kept)
	}
}

func (f *first) err() error {
	if p := f.p.Load(); p != nil {
		return *p
	}
	return nil
}
