package fetchtest

import (
	"net"
	"net/http"
	"strings"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// maxURL is the length in bytes of the longest URL that is accepted.
const maxURL = 64 << 10

// URLs, methods and header fields: which are sent, and as what.
func urlCases() []doerCase {
	const badURL = fetch.ErrBadURL
	var cases []doerCase
	for _, c := range []doerCase{
		{name: "no scheme", url: "{here}/?{secret}"},
		{name: "no scheme but a name and a port", url: "localhost:{port}/?{secret}"},
		{name: "path", url: "/case?{secret}"},
		{name: "no scheme but slashes", url: "//{here}/?{secret}"},
		{name: "ftp", url: "ftp://user:{secret}@{here}/?{secret}"},
		{name: "file", url: "file:///etc/passwd"},
		{name: "mailto", url: "mailto:someone@example.invalid"},
		{name: "nothing but a scheme", url: "{http}://"},
		{name: "no slashes", url: "{http}:{here}"},
		{name: "one slash", url: "{http}:/{here}/"},
		{name: "no host", url: "{http}:///case?{secret}"},
		{name: "no host but user info", url: "{http}://user:{secret}@/"},
		{name: "no host but a port", url: "{http}://:80/"},
		{name: "port 0", url: "{http}://user:{secret}@127.0.0.1:0/"},
		{name: "port 65536", url: "{http}://user:{secret}@127.0.0.1:65536/"},
		{name: "port beyond all numbers", url: "{http}://127.0.0.1:99999999999999999999/"},
		{name: "port of letters", url: "{http}://user:{secret}@127.0.0.1:http/"},
		{name: "port with a sign", url: "{http}://127.0.0.1:+80/"},
		{name: "line feed", url: "{http}://{here}/?a={secret}\r\nX-Injected: b"},
		{name: "NUL", url: "{http}://{here}/\x00?{secret}"},
		{name: "DEL", url: "{http}://{here}/\x7f?{secret}"},
		{name: "space before", url: " {http}://{here}/"},
		{name: "space in the host", url: "{http}://exam ple.invalid/"},
		{name: "bad escape in the path", url: "{http}://{here}/%zz"},
		{name: "bad escape in the host", url: "{http}://%zz/?{secret}"},
		{name: "bad escape in user info", url: "{http}://user:%zz{secret}@{here}/"},
		{name: "open bracket", url: "{http}://[::1/?{secret}"},
		{name: "longer than 64 KiB", url: "{http}://127.0.0.1:1/" + strings.Repeat("x", maxURL+1-len("http://127.0.0.1:1/"))},
		{name: "method with a space", method: "GE T"},
		{name: "method with a line feed", method: "GET / HTTP/1.1\r\nX: {secret}"},
		{name: "header name with a space", header: http.Header{"X A": {"{secret}"}}},
		{name: "header name with a line feed", header: http.Header{"X-A\r\nX-B": {"{secret}"}}},
		{name: "header name with a colon", header: http.Header{"X:A": {"{secret}"}}},
		{name: "no header name", header: http.Header{"": {"{secret}"}}},
		{name: "header value with a line feed", header: http.Header{"X-A": {"{secret}\r\nX-B: c"}}},
		{name: "second header value with a line feed", header: http.Header{"X-A": {"a", "{secret}\nb"}}},
		{name: "header value with a NUL", header: http.Header{"X-A": {"{secret}\x00"}}},
		{name: "Host with a space", header: http.Header{"Host": {"a {secret}"}}},
		{name: "Host with a path", header: http.Header{"Host": {"a/{secret}"}}},
		{name: "Host with a line feed", header: http.Header{"Host": {"a\r\nX-A: {secret}"}}},
		{name: "Host with user info", header: http.Header{"Host": {"user:{secret}@a"}}},
	} {
		c.name, c.kind = "bad: "+c.name, badURL
		cases = append(cases, c)
	}
	return append(cases,
		doerCase{name: "bad: empty", run: emptyURL},

		doerCase{name: "no path", url: "{http}://{here}", arrives: "GET {http}://{here}/"},
		doerCase{name: "no path but a query", url: "{http}://{here}?a=b", arrives: "GET {http}://{here}/?a=b"},
		doerCase{name: "empty query", url: "{http}://{here}/a?", arrives: "GET {http}://{here}/a?"},
		doerCase{name: "fragment", url: "{http}://{here}/a#b?c", arrives: "GET {http}://{here}/a"},
		doerCase{name: "user info", url: "{http}://user:{secret}@{here}/a", arrives: "GET {http}://{here}/a"},
		doerCase{name: "user info with an at", url: "{http}://us%40er:{secret}@{here}/a", arrives: "GET {http}://{here}/a"},
		doerCase{name: "an at in the path", url: "{http}://{here}/a@b", arrives: "GET {http}://{here}/a@b"},
		doerCase{name: "uppercase scheme", url: "{HTTP}://{here}/A", arrives: "GET {http}://{here}/A"},
		doerCase{name: "uppercase host", url: "{http}://LOCALHOST:{port}/A", want: anything, check: arrivedAt("{http}://localhost:{port}/A")},
		doerCase{name: "dots in the path", url: "{http}://{here}/a/../b/./c", arrives: "GET {http}://{here}/a/../b/./c"},
		doerCase{name: "two slashes in the path", url: "{http}://{here}//a//b", arrives: "GET {http}://{here}//a//b"},
		doerCase{name: "escaped characters", url: "{http}://{here}/a%2Fb%20c%3f?d=%26%3D+e", arrives: "GET {http}://{here}/a%2Fb%20c%3f?d=%26%3D+e"},
		doerCase{name: "reserved characters", url: "{http}://{here}/a;b=c,d:e!$&'()*+?f=[g]&h;i/j?k", arrives: "GET {http}://{here}/a;b=c,d:e!$&'()*+?f=[g]&h;i/j?k"},
		doerCase{name: "space in the path", url: "{http}://{here}/a b", arrives: "GET {http}://{here}/a%20b"},
		doerCase{name: "space in the query", url: "{http}://{here}/a?b c HTTP/1.0", arrives: "GET {http}://{here}/a?b%20c%20HTTP/1.0"},
		doerCase{name: "not ASCII", url: "{http}://{here}/ä", arrives: "GET {http}://{here}/%C3%A4"},
		doerCase{name: "exactly 64 KiB", run: longestURL},
		doerCase{name: "Host", ownHost: true, url: "{http}://{here}/a", header: http.Header{"Host": {"virtual.invalid:8080"}}, arrives: "GET {http}://virtual.invalid:8080/a"},
		doerCase{name: "header", url: "{http}://{here}/a", header: http.Header{"X-Many": {"a", "b"}, "User-Agent": {"c"}}, arrives: "GET {http}://{here}/a", check: sentHeader},
		doerCase{name: "body", url: "{http}://{here}/a", method: "POST", body: "a body", arrives: "POST {http}://{here}/a a body"},
		doerCase{name: "POST without a body", url: "{http}://{here}/a", method: "POST", arrives: "POST {http}://{here}/a"},
		doerCase{name: "method of one's own", url: "{http}://{here}/a", method: "PURGE", arrives: "PURGE {http}://{here}/a"},

		doerCase{name: "IPv6", run: ipv6},
		// A zone means something on this machine alone.
		doerCase{name: "IPv6 with a zone that there is not", direct: true, url: "{http}://[fe80::1%25nosuchzone]/?{secret}", kind: fetch.ErrDial, or: []fetch.Kind{badURL, fetch.ErrDNS}},
		doerCase{name: "host that is not ASCII", absent: true, url: "{http}://bücher.invalid/?{secret}", kind: fetch.ErrDNS, or: []fetch.Kind{badURL}},
	)
}

// emptyURL is a case of its own since an empty url means the usual one.
func emptyURL(x *exchange) {
	req := &fetch.Request{}
	res, _ := x.do(x.t.Context(), req)
	x.kind = fetch.ErrBadURL
	x.outcome(req, res)
	x.next()
}

func longestURL(x *exchange) {
	url := x.fill("{http}://{here}/")
	url += strings.Repeat("x", maxURL-len(url))
	res, _ := x.do(x.t.Context(), &fetch.Request{URL: url})
	x.isNext(url, res)
	x.next()
}

// arrivedAt checks the one arrival's URL but for upper and lower case in the host.
func arrivedAt(url string) func(*exchange, fetch.Result) {
	return func(x *exchange, _ fetch.Result) {
		url := x.fill(url)
		if all := x.arrivals(); assert.Len(x.t, all, 1, "requests") {
			assert.Equal(x.t, origin(url), origin(all[0].url), "scheme and host")
			assert.Equal(x.t, strings.TrimPrefix(url, origin(url)), all[0].url[len(origin(url)):], "the path, as it was written")
		}
	}
}

func sentHeader(x *exchange, _ fetch.Result) {
	h := x.last().header
	assert.Equal(x.t, []string{"a", "b"}, h["X-Many"], "a field's values, in order")
	assert.Equal(x.t, []string{"c"}, h["User-Agent"], "the caller's field, in the place of the engine's")
	assert.Equal(x.t, []string{"gzip"}, h["Accept-Encoding"], "what the engine asks for by itself, since it decodes it")
}

// ipv6 asks a server at ::1, if the machine has that.
func ipv6(x *exchange) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		if x.way.proxy != "" {
			return // what it says is not the engine's
		}
		res, _ := x.do(x.t.Context(), &fetch.Request{URL: x.fill("{http}://[::1]:1/")})
		assert.Equal(x.t, fetch.ErrDial, fetch.KindOf(res.Err), "without IPv6 there is no connection: %s", describe(res))
		return
	}
	s := newRawServer(l, x.way.config())
	s.start()
	defer s.stop()
	url := x.fill("{http}://") + s.addr + "/a"
	res, _ := x.do(x.t.Context(), &fetch.Request{URL: url})
	x.isNext(url, res)
	x.next()
	closeIdle(x.doer)
	s.empty(x.t)
}
