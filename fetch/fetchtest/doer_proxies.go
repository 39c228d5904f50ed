package fetchtest

import (
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// What a proxy may do wrong, and what it may know.
func proxyCases(w way) []doerCase {
	const dial, reset = fetch.ErrDial, fetch.ErrReset
	accept := func(f func(*leg)) func(*proxy) {
		return func(p *proxy) { p.accept = func(c *leg) bool { f(c); return false } }
	}
	silent := func(c *leg) { c.r.Peek(1); c.hold() }
	user := func(u *url.Userinfo) func(*proxy) { return func(p *proxy) { p.user = u } }
	cases := []doerCase{
		{name: "user and password", url: "{http}://{here}/a", arrives: "GET {http}://{here}/a", check: reached},
		{name: "odd user and password", url: "{http}://{here}/a", arrives: "GET {http}://{here}/a", check: reached,
			proxy: user(url.UserPassword("us@er /ä", "p:a@s%s/w?rd ü"+secret))},
		{name: "no user", url: "{http}://{here}/a", arrives: "GET {http}://{here}/a", check: reached, proxy: user(nil)},
		{name: "no proxy there", run: func(x *exchange) {
			x.withoutProxy(&url.URL{Scheme: w.proxy, User: x.through.user, Host: "127.0.0.1:1"}, dial)
		}},
		{name: "no such proxy", run: func(x *exchange) {
			x.withoutProxy(&url.URL{Scheme: w.proxy, User: x.through.user, Host: "nosuchproxy.invalid:1"}, dial, fetch.ErrDNS)
		}},
		{name: "closed at once", proxy: accept((*leg).slam), kind: dial, or: []fetch.Kind{reset}},
		{name: "reset at once", proxy: accept((*leg).reset), kind: dial, or: []fetch.Kind{reset}},
		{name: "silence until the deadline", proxy: accept(silent), deadline: true, kind: fetch.ErrTimeout},
		{name: "silence until the cancel", proxy: accept(silent), cancel: true, kind: fetch.ErrCanceled},
	}
	switch {
	case strings.HasPrefix(w.proxy, "socks"):
		return append(cases, socksCases()...)
	case w.forwards():
		return append(cases, forwardCases()...)
	}
	return append(cases, connectCases()...)
}

// connectCases are answers to CONNECT.
func connectCases() []doerCase {
	const dial, reset, protocol = fetch.ErrDial, fetch.ErrReset, fetch.ErrProtocol
	// denied answers with a status, which the error has to name.
	denied := func(status string, fields ...string) doerCase {
		return doerCase{name: status, proxy: instead(0, proxyAnswer(status, "go away: "+secret, fields...), (*leg).hold), kind: dial,
			check: named(strings.Fields(status)[0])}
	}
	// says answers with text, and then does what end says.
	says := func(name, text string, end func(*leg), or ...fetch.Kind) doerCase {
		return doerCase{name: name, proxy: instead(0, text, end), kind: dial, or: or}
	}
	endless := func(name, text, piece string) doerCase {
		c := says(name, text, flooding(piece), protocol, fetch.ErrTooLarge)
		c.check = func(x *exchange, _ fetch.Result) {
			assert.Less(x.t, x.through.sent.Load(), int64(16<<20), "bytes that the proxy could send of a head")
		}
		return c
	}
	established := func(text string) func(*proxy) { return func(p *proxy) { p.established = text } }
	x64K := strings.Repeat("x", 64<<10)
	cases := []doerCase{
		denied("407 Proxy Authentication Required", `Proxy-Authenticate: Basic realm="`+secret+`"`),
		denied("502 Bad Gateway"),
		denied("403 Forbidden"),
		denied("302 Found", "Location: http://127.0.0.1:1/?"+secret), // which is not followed
		{name: "wrong password", proxy: refusing, kind: dial, check: named("407")},
		{name: "CONNECT to where no server is", url: "{http}://127.0.0.1:1/?{secret}", kind: dial, check: named("502")},
		says("closed after CONNECT", "", (*leg).slam, reset),
		says("half-closed after CONNECT", "", (*leg).closeWrite, reset),
		says("reset after CONNECT", "", (*leg).reset, reset),
		says("closed in the head", "HTTP/1.1 200 OK\r\nX-Fie", (*leg).slam, reset, fetch.ErrTruncated, protocol),
		says("garbage", "SSH-2.0-OpenSSH_9.6 "+secret+"\r\n\r\n", (*leg).hold, protocol),
		says("status 099", "HTTP/1.1 099 OK\r\n\r\n", (*leg).hold, protocol),
		endless("status line without end", "HTTP/1.1 200 ", x64K),
		endless("header line without end", "HTTP/1.1 200 OK\r\nX: ", x64K),
		endless("header lines without end", "HTTP/1.1 200 OK\r\n", strings.Repeat("X-Field: value\r\n", 4096)),
		endless("1xx without end", "", strings.Repeat(answer("103 Early Hints", "Link: </style.css>"), 1024)),
		{name: "silence after CONNECT until the deadline", proxy: instead(0, "", (*leg).hold), deadline: true, kind: fetch.ErrTimeout},
		{name: "silence after CONNECT until the cancel", proxy: instead(0, "", (*leg).hold), cancel: true, kind: fetch.ErrCanceled},
		{name: "silence in the head until the deadline", proxy: instead(0, "HTTP/1.1 200 OK\r\nX-Fie", (*leg).hold), deadline: true, kind: fetch.ErrTimeout},
		{name: "silence in the head until the cancel", proxy: instead(0, "HTTP/1.1 200 OK\r\nX-Fie", (*leg).hold), cancel: true, kind: fetch.ErrCanceled},
		{name: "closed in the TLS handshake", proxy: instead(0, answer("200 OK"), (*leg).slam), kind: fetch.ErrTLS, or: []fetch.Kind{reset, dial}},
		{name: "silence in the TLS handshake until the deadline", proxy: instead(0, answer("200 OK"), (*leg).hold), deadline: true, kind: fetch.ErrTimeout},
		{name: "silence in the TLS handshake until the cancel", proxy: instead(0, answer("200 OK"), (*leg).hold), cancel: true, kind: fetch.ErrCanceled},
		// RFC 9110 §9.3.6: a length means nothing there.
		{name: "200 with a length", proxy: established(answer("200 OK", "Content-Length: 5")), url: "{http}://{here}/a", arrives: "GET {http}://{here}/a"},
		{name: "200 with chunks announced", proxy: established(answer("200 OK", "Transfer-Encoding: chunked")), url: "{http}://{here}/a", arrives: "GET {http}://{here}/a"},
	}
	for _, c := range []doerCase{{name: "a byte", answer: "x"}, {name: "an answer", answer: good("stray")}} {
		// They are not the server's: an engine may do without the tunnel, or without them.
		cases = append(cases,
			doerCase{name: c.name + " after the 200, and the tunnel", proxy: established(answer("200 OK") + c.answer), answer: good("hello"), want: "hello", or: []fetch.Kind{dial, fetch.ErrTLS, protocol}},
			doerCase{name: c.name + " after the 200, and no tunnel", proxy: instead(0, answer("200 OK")+c.answer, (*leg).closeWrite),
				kind: fetch.ErrTLS, or: []fetch.Kind{dial, protocol, reset}})
	}
	return cases
}

// forwardCases are answers to a request that should be forwarded.
func forwardCases() []doerCase {
	return []doerCase{
		{name: "wrong password", proxy: refusing, status: http.StatusProxyAuthRequired, want: whoAreYou, proxied: true},
		{name: "closed after the request", proxy: instead(0, "", (*leg).slam), kind: fetch.ErrReset},
		{name: "garbage", proxy: instead(0, "SSH-2.0-OpenSSH_9.6 "+secret+"\r\n\r\n", (*leg).hold), kind: fetch.ErrProtocol},
		{name: "silence after the request until the deadline", proxy: instead(0, "", (*leg).hold), deadline: true, kind: fetch.ErrTimeout},
		{name: "silence after the request until the cancel", proxy: instead(0, "", (*leg).hold), cancel: true, kind: fetch.ErrCanceled},
	}
}

// socksCases are replies of a SOCKS proxy, each of them bad from some stage on.
func socksCases() []doerCase {
	cases := []doerCase{{name: "wrong password", proxy: refusing, kind: fetch.ErrDial, check: named("")}}
	stages := []string{"the greeting", "the password", "the request"}
	for _, c := range []struct {
		name  string
		stage int
		text  string
	}{
		{"no method is acceptable", 0, "\x05\xff"},
		{"method that was not offered", 0, "\x05\x01"},
		{"another version", 0, "\x04\x02"},
		{"HTTP", 0, answer("400 Bad Request")},
		{"another version after the password", 1, "\x05\x00"},
		{"failure after the password", 1, "\x01\xff"},
		{"general failure", 2, socksReply(1)},
		{"not allowed", 2, socksReply(2)},
		{"host unreachable", 2, socksReply(4)},
		{"failure of an unknown kind", 2, socksReply(0xfe)},
		{"another version after the request", 2, "\x04" + socksReply(0)[1:]},
		{"unknown type of address", 2, "\x05\x00\x00\x02\x00\x00\x00\x00\x00\x00"},
	} {
		cases = append(cases, doerCase{name: c.name, proxy: instead(c.stage, c.text, (*leg).hold), kind: fetch.ErrDial, or: []fetch.Kind{fetch.ErrProtocol}})
	}
	for stage, after := range stages {
		full := []string{"\x05\x02", "\x01\x00", socksReply(0)}[stage]
		ended := []fetch.Kind{fetch.ErrReset, fetch.ErrTruncated}
		cases = append(cases,
			doerCase{name: "closed after " + after, proxy: instead(stage, "", (*leg).slam), kind: fetch.ErrDial, or: ended},
			doerCase{name: "reset after " + after, proxy: instead(stage, "", (*leg).reset), kind: fetch.ErrDial, or: ended},
			doerCase{name: "closed in the reply to " + after, proxy: instead(stage, full[:1], (*leg).slam), kind: fetch.ErrDial, or: ended},
			doerCase{name: "silence after " + after + " until the deadline", proxy: instead(stage, "", (*leg).hold), deadline: true, kind: fetch.ErrTimeout},
			doerCase{name: "silence after " + after + " until the cancel", proxy: instead(stage, full[:1], (*leg).hold), cancel: true, kind: fetch.ErrCanceled})
	}
	return cases
}

// instead has the proxy send text in the place of its reply of that stage, and then do what end
// says.
func instead(stage int, text string, end func(*leg)) func(*proxy) {
	return func(p *proxy) {
		p.stage, p.answer = stage, func(c *leg) bool {
			c.send(text)
			end(c)
			return false
		}
	}
}

func refusing(p *proxy) { p.refuses = true }

// hold waits for the end of the client.
func (c *leg) hold() {
	if c.proxy.began != nil {
		c.proxy.began()
	}
	io.Copy(io.Discard, c.r)
}

// slam closes the connection in both directions.
func (c *leg) slam() { c.tcp.Close() }

// flooding sends pieces, up to a size that nothing should accept.
func flooding(piece string) func(*leg) {
	return func(c *leg) {
		for c.proxy.sent.Load() < 64<<20 && c.send(piece) {
		}
	}
}

// withoutProxy makes a request through a proxy that there is not.
func (x *exchange) withoutProxy(proxy *url.URL, kinds ...fetch.Kind) {
	x.doer = x.newDoer(Route{Proxy: proxy})
	req := &fetch.Request{URL: x.fill("{http}://user:{secret}@{here}/a?{secret}"), Header: http.Header{"X-Token": {secret}}}
	x.kind, x.or = kinds[0], kinds[1:]
	if res, returned := x.do(x.t.Context(), req); returned {
		x.outcome(req, res)
		assert.Zero(x.t, x.here.connections(), "connections past the proxy")
	}
}

// reached checks that the proxy was asked for the server.
func reached(x *exchange, _ fetch.Result) {
	all := x.through.requests()
	if assert.NotEmpty(x.t, all, "requests to the proxy") {
		assert.Equal(x.t, x.here.addr, all[0].host, "the host that the proxy was asked for")
	}
}

// named checks that an error says which proxy failed, and how.
func named(status string) func(*exchange, fetch.Result) {
	return func(x *exchange, res fetch.Result) {
		if res.Err != nil {
			assert.Contains(x.t, res.Err.Error(), x.through.addr, "the error does not name the proxy")
			assert.Contains(x.t, res.Err.Error(), status, "the error does not name the status")
		}
	}
}
