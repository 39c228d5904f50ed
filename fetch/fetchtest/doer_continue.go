package fetchtest

import (
	"net/http"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// Bodies that are sent once the server wants them: RFC 9110 §10.1.1. The caller asks for that by an
// Expect of its own. An engine waits for the 100 for about a second.
func continueCases() []doerCase {
	const again = "POST {http}://{here}/case a body"
	post := func(c doerCase) doerCase {
		c.method, c.url, c.body = http.MethodPost, "{http}://{here}"+casePath, "a body"
		c.header = http.Header{"Expect": {"100-continue"}}
		return c
	}
	at := func(name, text string) doerCase { return doerCase{name: name, before: refuse(text), check: unsent} }
	accepted := at("200 at once", good("hello"))
	accepted.want = "hello"
	refused := at("417 at once", answer("417 Expectation Failed", "Content-Length: 0"))
	refused.status = http.StatusExpectationFailed
	moved := at("307 at once", redirect(http.StatusTemporaryRedirect, "/a"))
	moved.arrives = "POST {http}://{here}/a a body"
	// listening waits for the end of the client.
	listening := func(p *peer, _ *http.Request) bool { p.server.begin(); return false }
	return []doerCase{
		post(doerCase{name: "100", before: invite(answer("100 Continue")), arrives: again, check: waited}),
		post(doerCase{name: "100 with fields", before: invite(answer("100 Continue", "X-Field: value")), arrives: again, check: waited}),
		post(doerCase{name: "no 100", before: invite(""), arrives: again, check: waited}),
		post(accepted), post(refused), post(moved),
		post(doerCase{name: "silence until the deadline", before: listening, deadline: true, kind: fetch.ErrTimeout, check: unsent}),
		post(doerCase{name: "silence until the cancel", before: listening, cancel: true, kind: fetch.ErrCanceled, check: unsent}),
		post(doerCase{name: "closed at once", before: func(p *peer, _ *http.Request) bool { p.slam(); return false }, kind: fetch.ErrReset}),
		{name: "100 that was not asked for", method: "POST", body: "a body", url: "{http}://{here}" + casePath, arrives: again,
			before: func(p *peer, _ *http.Request) bool { return p.send(answer("100 Continue")) }},
		{name: "no body to wait with", url: "{http}://{here}" + casePath, header: http.Header{"Expect": {"100-continue"}}, arrives: "GET {http}://{here}/case"},
	}
}

// patience is how long a server looks whether a body comes before it is wanted. It is well below
// the second that an engine waits.
const patience = 100 * time.Millisecond

// invite waits for a while, in which nothing of the body should come, and sends text. Then it wants
// the body.
func invite(text string) func(*peer, *http.Request) bool {
	return func(p *peer, _ *http.Request) bool {
		p.tcp.SetReadDeadline(time.Now().Add(patience))
		_, err := p.r.Peek(1)
		p.tcp.SetReadDeadline(time.Time{})
		p.server.early.Store(err == nil)
		return text == "" || p.send(text)
	}
}

// refuse sends text, a final answer. What the client sends after it counts as the body.
func refuse(text string) func(*peer, *http.Request) bool {
	return func(p *peer, _ *http.Request) bool {
		p.send(text)
		return false
	}
}

// waited checks that the body has not come before it was wanted.
func waited(x *exchange, _ fetch.Result) {
	expect(x.t, !x.here.early.Load(), "the body was sent before the server answered 100, and less than %v after the head", patience)
}

// unsent checks that the body has not come. Then the connection has to be closed: the server
// would take what follows for the body.
func unsent(x *exchange, _ fetch.Result) {
	expect(x.t, atLast(func() bool { return x.settled() && len(x.arrivals()) > 0 }),
		"a connection on which no body was sent has to be closed; it is not, %v after Do has returned", moment)
	for _, a := range x.arrivals() {
		if strings.HasSuffix(a.url, casePath) {
			assert.Empty(x.t, a.body, "what was sent after the final answer, or in the silence before it")
		}
	}
}
