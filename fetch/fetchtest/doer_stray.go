package fetchtest

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// Bytes that no request has asked for. Who takes them for the answer to the next request
// gives one URL the content of another.
func strayCases() []doerCase {
	stray := good("stray")
	var cases []doerCase
	for _, c := range []doerCase{
		{name: "a length", answer: good("hello"), want: "hello"},
		{name: "an empty body", answer: head("Content-Length: 0")},
		{name: "chunks", answer: head("Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n", want: "hello"},
		{name: "204", answer: answer("204 No Content"), status: 204},
		{name: "304", answer: answer("304 Not Modified"), status: 304},
		{name: "HEAD", method: "HEAD", answer: head("Content-Length: 5")},
		{name: "404", answer: answer("404 Not Found", "Content-Length: 5") + "hello", status: 404, want: "hello"},
		{name: "gzip", answer: head("Content-Encoding: gzip", fmt.Sprintf("Content-Length: %d", len(gzipped("hello")))) + gzipped("hello"), want: "hello"},
	} {
		once, twice := c, c
		once.name = "second answer after " + c.name + ", in one write"
		once.answer += stray
		twice.name = "second answer after " + c.name + ", in two writes"
		twice.end = func(p *peer) { p.write(stray) }
		cases = append(cases, once, twice)
	}
	late := func(text string) func(*exchange) {
		return func(x *exchange) { x.late(text) }
	}
	return append(cases,
		doerCase{name: "204 with a body", answer: answer("204 No Content", "Content-Length: 5") + "hello", status: 204},
		doerCase{name: "304 with a body", answer: answer("304 Not Modified", "Content-Length: 5") + "hello", status: 304},
		doerCase{name: "HEAD with a body", method: "HEAD", answer: good("hello")},
		doerCase{name: "HEAD with chunks", method: "HEAD", answer: head("Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n"},
		doerCase{name: "empty body with a body", answer: head("Content-Length: 0") + "hello"},
		doerCase{name: "line end after the body", answer: good("hello") + "\r\n", want: "hello"},
		doerCase{name: "informational answer after the body", answer: good("hello") + answer("100 Continue"), want: "hello"},
		doerCase{name: "half an answer after the body", answer: good("hello") + "HTTP/1.1 200 OK\r\nX: ", want: "hello"},
		doerCase{name: "a large answer after the body", answer: good("hello") + good(large), want: "hello"},

		doerCase{name: "408 on an idle connection", run: late(answer("408 Request Timeout", "Connection: close", "Content-Length: 0"))},
		doerCase{name: "answer on an idle connection", run: late(stray)},
		doerCase{name: "byte on an idle connection", run: late("x")},
		doerCase{name: "answer before the request", run: beforeTheRequest, accept: func(p *peer) bool { return p.write(stray) }},
		doerCase{name: "under load", run: func(x *exchange) { x.load(stray) }},
	)
}

// late has the server send text on a connection that is idle.
func (x *exchange) late(text string) {
	idle := make(chan *peer, 1)
	x.here.handle(func(p *peer, _ *http.Request) {
		p.write(good("hello"))
		idle <- p
	})
	res, returned := x.do(x.t.Context(), &fetch.Request{URL: x.fill("{http}://{here}" + casePath)})
	if !returned || !assert.NoError(x.t, res.Err) {
		return
	}
	(<-idle).write(text)
	atLast(x.settled) // it has come to the engine
	x.next()
}

// beforeTheRequest has the server answer before it is asked. The first request may take that for
// its answer, or for a mistake. The answer that is left over then must not be that to the second.
func beforeTheRequest(x *exchange) {
	if _, returned := x.do(x.t.Context(), &fetch.Request{URL: x.fill("{http}://{here}/first")}); !returned {
		return
	}
	x.here.rude.Store(false)
	// An engine that closes the connection at once may do without having asked.
	atLast(func() bool { return x.settled() && (len(x.here.arrivals()) > 0 || x.here.left() == 0) })
	x.next()
}

// load sends many requests at once to a server that sends a stray answer after every fifth, in the
// same write. Each body has to be the one that was asked for: /case?7 has the body 7.
func (x *exchange) load(stray string) {
	requests, workers := int64(4000), 64
	if testing.Short() {
		requests = 2000
	}
	if x.way != plain { // each stray answer costs a connection, which is dear there
		requests, workers = 400, 16
	}
	x.here.handle(func(p *peer, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.RawQuery)
		text := good(strconv.Itoa(n))
		if n%10 == 0 {
			text = answer("204 No Content")
		}
		if n%5 == 0 {
			text += stray
		}
		p.write(text)
	})
	var asked, wrong, failed atomic.Int64
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for n := asked.Add(1); n <= requests; n = asked.Add(1) {
				res := x.doer.Do(x.t.Context(), &fetch.Request{URL: x.fill(fmt.Sprintf("{http}://{here}"+casePath+"?%d", n))})
				status, body := http.StatusOK, strconv.FormatInt(n, 10)
				if n%10 == 0 {
					status, body = http.StatusNoContent, ""
				}
				switch {
				case res.Err != nil:
					if failed.Add(1) == 1 {
						x.t.Logf("request %d: %s", n, describe(res))
					}
				case res.Status != status || string(res.Body) != body:
					if wrong.Add(1) == 1 {
						x.t.Logf("request %d, whose answer has status %d and the body %q: %s", n, status, body, describe(res))
					}
				}
			}
		})
	}
	running.Wait()
	assert.Zero(x.t, wrong.Load(), "answers that belong to another request, of %d", requests)
	assert.Zero(x.t, failed.Load(), "requests that fail since the answer to an earlier one came with too much, of %d", requests)
	x.next()
}
