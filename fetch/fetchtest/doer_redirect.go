package fetchtest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// Redirects: RFC 9110 §15.4 as browsers keep it, and what a server must not be able to do with
// them.
func redirectCases() []doerCase {
	const refused = fetch.ErrRedirect
	// to redirects a GET.
	to := func(name, location, arrives string) doerCase {
		return doerCase{name: name, answer: redirect(302, location), arrives: arrives}
	}
	bad := func(name, location string) doerCase {
		return doerCase{name: "to " + name, answer: redirect(302, location), kind: refused, status: 302}
	}
	cases := []doerCase{
		{name: "loop", answer: redirect(302, casePath), kind: refused, status: 302},
		{name: "loop over two servers", answer: redirect(302, "{http}://{other}/hop?{http}://{here}/case"), kind: refused, status: 302},
		{name: "10 redirects", serve: countdown, url: "{http}://{here}/case?10", arrives: "GET {http}://{here}/case?0"},
		{name: "11 redirects", serve: countdown, url: "{http}://{here}/case?11", kind: refused, status: 302},
		{name: "no Location", answer: answer("302 Found", "Content-Length: 5") + "hello", status: 302, want: "hello"},
		{name: "empty Location", answer: answer("302 Found", "Location: ", "Content-Length: 5") + "hello", status: 302, want: "hello"},
		{name: "two different Locations", answer: answer("302 Found", "Location: /a", "Location: /b", "Content-Length: 0"), kind: refused, status: 302},
		{name: "two equal Locations", answer: answer("302 Found", "Location: /a", "Location: /a", "Content-Length: 0"), arrives: "GET {http}://{here}/a"},
		{name: "304 with a Location", answer: answer("304 Not Modified", "Location: /a"), status: 304},
		{name: "201 with a Location", answer: answer("201 Created", "Location: /a", "Content-Length: 5") + "hello", status: 201, want: "hello"},
		{name: "300 with a Location", answer: answer("300 Multiple Choices", "Location: /a", "Content-Length: 5") + "hello", status: 300, want: "hello"},
		{name: "with an endless body", serve: flood(answer("302 Found", "Location: /a", "Content-Length: 9000000000000000"), strings.Repeat("x", 64<<10), 64<<20), arrives: "GET {http}://{here}/a"},
		{name: "with a body in chunks", answer: answer("302 Found", "Location: /a", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n", arrives: "GET {http}://{here}/a"},
		{name: "closed after the redirect", answer: redirect(302, "/a"), end: (*peer).slam, arrives: "GET {http}://{here}/a"},

		to("to a path", "/a?b=c", "GET {http}://{here}/a?b=c"),
		to("to a relative path", "a", "GET {http}://{here}/a"),
		to("to a path with dots", "./x/../../a", "GET {http}://{here}/a"),
		to("to an absolute URL", "{http}://{here}/a", "GET {http}://{here}/a"),
		to("to an uppercase scheme", "{HTTP}://{here}/a", "GET {http}://{here}/a"),
		to("to a URL without a path", "{http}://{other}", "GET {http}://{other}/"),
		to("to a URL without a scheme", "//{other}/a", "GET {http}://{other}/a"),
		to("to a fragment", "/a#b", "GET {http}://{here}/a"),
		to("to a path with a space", "/a b", "GET {http}://{here}/a%20b"),
		to("to a query with a space", "/a?b c", "GET {http}://{here}/a?b%20c"),
		to("to a path that is not ASCII", "/ä", "GET {http}://{here}/%C3%A4"),
		to("to escaped characters", "/a%2Fb%20c?d=%26", "GET {http}://{here}/a%2Fb%20c?d=%26"),
		to("to user info", "{http}://a:b@{here}/a", "GET {http}://{here}/a"),
		to("to user info elsewhere", "{http}://a:b@{other}/a", "GET {http}://{other}/a"),
		{name: "to a query", url: "{http}://{here}/case?0=1", serve: onQuery("0=1", "?b=c"), arrives: "GET {http}://{here}/case?b=c"},

		bad("a file", "file:///etc/passwd"),
		bad("ftp", "ftp://{other}/"),
		bad("a script", "javascript:alert(1)"),
		bad("data", "data:text/plain,hello"),
		bad("a malformed URL", "{http}://[::1/"),
		bad("a bad escape", "/%zz"),
		bad("no host", "{http}:///a"),
		bad("a port and no host", "{http}://:80/"),
		bad("port 0", "{http}://127.0.0.1:0/"),
		bad("port 65536", "{http}://127.0.0.1:65536/"),
		bad("a URL of more than 64 KiB", "/"+strings.Repeat("x", 64<<10)),
		{name: "to where no server is", absent: true, answer: redirect(302, "{http}://127.0.0.1:1/?{secret}"), kind: fetch.ErrDial, status: 302},
		{name: "to where no server is, by way of another", absent: true, answer: redirect(302, "{http}://{here}/hop?{http}://127.0.0.1:1/"), kind: fetch.ErrDial, status: 307},

		{name: "http to https", once: true, https: true, answer: redirect(302, "https://{secure}/a"), arrives: "GET https://{secure}/a"},
		// What was asked for in secret would be told, or changed, in the clear.
		{name: "https to http", once: true, https: true, url: "https://{secure}/case?{secret}", answer: redirect(302, "{http}://{other}/a"), kind: refused, status: 302, check: nothingAt("http://")},

		{name: "307 of a POST to another origin", method: "POST", body: "a body", answer: redirect(307, "{http}://{other}/a"), arrives: "POST {http}://{other}/a a body"},
		{name: "308 of a PUT to another origin", method: "PUT", body: "a body", answer: redirect(308, "{http}://{other}/a"), arrives: "PUT {http}://{other}/a a body"},
	}
	return append(append(cases, methodCases()...), originCases()...)
}

// methodCases are what becomes of method and body: a 307 or 308 repeats the request; a 303 makes a
// GET of every method but HEAD, 301 and 302 only of POST.
func methodCases() []doerCase {
	var cases []doerCase
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT"} {
			c := doerCase{name: fmt.Sprint(status, " of a ", method), method: method, answer: redirect(status, "/a"), arrives: method + " {http}://{here}/a"}
			if method == "POST" || method == "PUT" {
				c.body = "a body"
				c.header = http.Header{"Content-Type": {"text/plain"}}
				if status < 303 && method == "POST" || status == 303 {
					c.arrives = "GET {http}://{here}/a"
					c.check = withoutBody
				} else {
					c.arrives += " a body"
				}
			}
			cases = append(cases, c)
		}
	}
	return cases
}

func withoutBody(x *exchange, _ fetch.Result) {
	for _, field := range []string{"Content-Type", "Content-Length", "Transfer-Encoding"} {
		assert.NotContains(x.t, x.last().header, field, "a request without a body describes one")
	}
}

// originCases are where the caller's header fields go. A token is meant for the origin of
// the URL, and a server must not be able to have it sent elsewhere, whatever way around it chooses.
func originCases() []doerCase {
	private := http.Header{"Authorization": {"Bearer {secret}"}, "Cookie": {"a={secret}"}, "X-Custom": {"{secret}"}}
	var cases []doerCase
	for _, c := range []doerCase{
		{name: "path", answer: redirect(302, "/a"), arrives: "GET {http}://{here}/a", check: fields(true)},
		{name: "own origin", answer: redirect(302, "{http}://{here}/a"), arrives: "GET {http}://{here}/a", check: fields(true)},
		{name: "own origin twice", answer: redirect(302, "/hop?/a"), arrives: "GET {http}://{here}/a", check: fields(true)},
		{name: "another port", answer: redirect(302, "{http}://{other}/a"), arrives: "GET {http}://{other}/a", check: fields(false)},
		{name: "another port without a scheme", answer: redirect(302, "//{other}/a"), arrives: "GET {http}://{other}/a", check: fields(false)},
		{name: "another port by 307", answer: redirect(307, "{http}://{other}/a"), arrives: "GET {http}://{other}/a", check: fields(false)},
		{name: "another host", answer: redirect(302, "{http}://localhost:{port}/a"), arrives: "GET {http}://localhost:{port}/a", check: fields(false)},
		{name: "another scheme", once: true, https: true, answer: redirect(302, "https://{secure}/a"), arrives: "GET https://{secure}/a", check: fields(false)},
		{name: "another origin and on", answer: redirect(302, "{http}://{other}/hop?/a"), arrives: "GET {http}://{other}/a", check: fields(false)},
		{name: "another origin and back", answer: redirect(302, "{http}://{other}/hop?{http}://{here}/a"), arrives: "GET {http}://{here}/a", check: fields(false)},
	} {
		c.name = "header to " + c.name
		c.header = private
		cases = append(cases, c)
	}
	return append(cases,
		doerCase{name: "Host to a path", ownHost: true, header: http.Header{"Host": {"virtual.invalid"}}, answer: redirect(302, "/a"), arrives: "GET {http}://virtual.invalid/a"},
		doerCase{name: "Host to another origin", ownHost: true, header: http.Header{"Host": {"virtual.invalid"}}, answer: redirect(302, "{http}://{other}/a"), arrives: "GET {http}://{other}/a"},
		doerCase{name: "Host to another origin and back", ownHost: true, header: http.Header{"Host": {"virtual.invalid"}}, answer: redirect(302, "{http}://{other}/hop?{http}://{here}/a"), arrives: "GET {http}://{here}/a"},
	)
}

// fields checks whether the request that was redirected has the caller's header.
func fields(kept bool) func(*exchange, fetch.Result) {
	return func(x *exchange, _ fetch.Result) {
		for _, field := range []string{"Authorization", "Cookie", "X-Custom", "X-Token"} {
			_, came := x.last().header[field]
			assert.Equal(x.t, kept, came, "whether the header field %s comes to %s", field, x.last().url)
		}
	}
}

// nothingAt checks that no request came with the scheme.
func nothingAt(scheme string) func(*exchange, fetch.Result) {
	return func(x *exchange, _ fetch.Result) {
		for _, a := range x.arrivals() {
			expect(x.t, !strings.HasPrefix(a.url, scheme), "%s was requested", a.url)
		}
	}
}

// countdown redirects from /case?3 to /case?2 and so on, to /case?0.
func countdown(p *peer, r *http.Request) {
	if n, _ := strconv.Atoi(r.URL.RawQuery); n > 0 {
		p.send(redirect(302, fmt.Sprint(casePath, "?", n-1)))
	} else {
		p.write(good("GET " + p.url(r)))
	}
}

// onQuery redirects to location from one query, and answers to others well.
func onQuery(query, location string) func(*peer, *http.Request) {
	return func(p *peer, r *http.Request) {
		if r.URL.RawQuery == query {
			p.send(redirect(302, location))
		} else {
			p.write(good("GET " + p.url(r)))
		}
	}
}
