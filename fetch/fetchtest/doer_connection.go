package fetchtest

import (
	"crypto/tls"
	"io"
	"net/http"
	"time"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// Connections that do not come about, or end when they should not.
func connectionCases() []doerCase {
	// silent hears a client out and says nothing.
	silent := func(p *peer) bool {
		p.r.Peek(1)
		p.server.begin()
		io.Copy(io.Discard, p.tcp)
		return false
	}
	quiet := func(*peer, *http.Request) {}
	const half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
	return []doerCase{
		{name: "good", answer: good("hello"), want: "hello"},
		{name: "trusted certificate", once: true, url: "https://{secure}/?{secret}", or: []fetch.Kind{fetch.ErrTLS}, want: anything},
		{name: "refused", absent: true, url: "{http}://127.0.0.1:1/?{secret}", kind: fetch.ErrDial},
		{name: "no such host", absent: true, url: "{http}://nosuchhost.invalid/?{secret}", kind: fetch.ErrDNS},

		{name: "silence until the deadline", serve: quiet, deadline: true, kind: fetch.ErrTimeout},
		{name: "silence until the cancel", serve: quiet, cancel: true, kind: fetch.ErrCanceled},
		{name: "silence in the head until the deadline", answer: "HTTP/1.1 200 OK\r\nContent-", deadline: true, kind: fetch.ErrTimeout},
		{name: "silence in the head until the cancel", answer: "HTTP/1.1 200 OK\r\nContent-", cancel: true, kind: fetch.ErrCanceled},
		{name: "silence in the body until the deadline", answer: half, deadline: true, kind: fetch.ErrTimeout, status: 200},
		{name: "silence in the body until the cancel", answer: half, cancel: true, kind: fetch.ErrCanceled, status: 200},
		{name: "canceled before", answer: good("hello"), canceled: true, kind: fetch.ErrCanceled},

		// Over TLS, at once is after the handshake. What happens within it is below.
		{name: "closed at once", accept: func(p *peer) bool { p.slam(); return false }, kind: fetch.ErrReset},
		// The reset may come before the engine has seen that it is connected.
		{name: "reset at once", accept: func(p *peer) bool { p.reset(); return false }, kind: fetch.ErrReset, or: []fetch.Kind{fetch.ErrDial}},
		{name: "closed after the request", serve: func(p *peer, _ *http.Request) { p.slam() }, kind: fetch.ErrReset},
		{name: "half-closed after the request", serve: func(p *peer, _ *http.Request) { p.close() }, kind: fetch.ErrReset},
		{name: "reset after the request", serve: func(p *peer, _ *http.Request) { p.reset() }, kind: fetch.ErrReset},
		// Half a line may be no HTTP by itself, so it is right too to say that.
		{name: "closed in the status line", answer: "HTTP/1.1 2", end: (*peer).slam, kind: fetch.ErrTruncated, or: []fetch.Kind{fetch.ErrProtocol}},
		{name: "closed in a field name", answer: "HTTP/1.1 200 OK\r\nContent-Le", end: (*peer).slam, kind: fetch.ErrTruncated, or: []fetch.Kind{fetch.ErrProtocol}},
		{name: "closed in a field value", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5", end: (*peer).slam, kind: fetch.ErrTruncated},
		{name: "closed after a header line", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", end: (*peer).slam, kind: fetch.ErrTruncated},
		{name: "closed in the body", answer: half, end: (*peer).slam, kind: fetch.ErrTruncated, status: 200},
		{name: "half-closed in the body", answer: half, end: (*peer).close, kind: fetch.ErrTruncated, status: 200},
		{name: "reset in the body", answer: half, end: (*peer).reset, kind: fetch.ErrReset, or: []fetch.Kind{fetch.ErrTruncated}, status: 200},
		{name: "closed after the answer", answer: good("hello"), end: (*peer).slam, want: "hello"},
		{name: "closed after the answer, as announced", answer: head("Connection: close", "Content-Length: 5") + "hello", end: (*peer).slam, want: "hello"},
		{name: "close announced and left to the client", answer: head("Connection: close", "Content-Length: 5") + "hello", want: "hello"},
		{name: "closed when it is used again", answer: good("hello"), end: (*peer).slam, run: closedWhenUsedAgain},

		{name: "no TLS handshake until the deadline", once: true, url: "https://{here}/?{secret}", accept: silent, deadline: true, kind: fetch.ErrTimeout},
		{name: "no TLS handshake until the cancel", once: true, url: "https://{here}/?{secret}", accept: silent, cancel: true, kind: fetch.ErrCanceled},
		{name: "closed in the TLS handshake", once: true, url: "https://{here}/?{secret}", accept: func(p *peer) bool { p.slam(); return false },
			kind: fetch.ErrTLS, or: []fetch.Kind{fetch.ErrReset}},
		{name: "no TLS there", once: true, url: "https://{here}/?{secret}", kind: fetch.ErrTLS},
		{name: "TLS where none is expected", once: true, url: "http://{secure}/?{secret}", kind: fetch.ErrProtocol, or: []fetch.Kind{fetch.ErrReset}},
		{name: "certificate of an unknown authority", once: true, url: "https://{secure}/?{secret}", kind: fetch.ErrTLS,
			config: func() *tls.Config { return newAuthority().server(time.Hour) }},
		{name: "certificate for another name", once: true, url: "https://{secure}/?{secret}", kind: fetch.ErrTLS,
			config: func() *tls.Config { return known().server(time.Hour, "other.invalid") }},
		{name: "certificate that has expired", once: true, url: "https://{secure}/?{secret}", kind: fetch.ErrTLS,
			config: func() *tls.Config { return known().server(-time.Hour) }},
		// A full handshake for each connection costs the server more than most answers do.
		{name: "second connection resumes the TLS session", tlsOnly: true, run: resumes},
	}
}

// resumes checks that the second connection to a server resumes the session of the first (RFC 8446
// §2.2).
func resumes(x *exchange) {
	x.here.handle(func(p *peer, _ *http.Request) {
		p.write(head("Connection: close", "Content-Length: 5") + "hello")
		p.close()
	})
	for range 2 {
		res, _ := x.do(x.t.Context(), &fetch.Request{URL: x.fill("{http}://{here}" + casePath)})
		expect(x.t, res.Err == nil && string(res.Body) == "hello", "expected is the body \"hello\"; it is %s", describe(res))
	}
	if all := x.arrivals(); assert.Len(x.t, all, 2, "requests") {
		expect(x.t, !all[0].resumed, "the first connection of an engine resumes a session")
		expect(x.t, all[1].resumed, "the second connection to the server does not resume the TLS session of the first")
	}
	x.next()
}

// closedWhenUsedAgain has the server close each connection just after an answer, unannounced: a
// request that finds its connection closed has to get a new one.
func closedWhenUsedAgain(x *exchange) {
	for i := range 30 {
		res, _ := x.do(x.t.Context(), &fetch.Request{URL: x.fill("{http}://{here}" + casePath)})
		if !assert.NoError(x.t, res.Err, "request %d, on a connection that the server may have closed", i) {
			return
		}
		assert.Equal(x.t, "hello", string(res.Body))
	}
	x.next()
}
