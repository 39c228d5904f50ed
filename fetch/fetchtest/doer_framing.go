package fetchtest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// Where an answer begins and ends, and what it consists of: RFC 9112.
func framingCases() []doerCase {
	const chunked = "Transfer-Encoding: chunked"
	zipped := gzipped("hello")
	cases := []doerCase{
		// §6.3: Content-Length.
		{name: "empty body", answer: head("Content-Length: 0")},
		{name: "body shorter than its length", answer: head("Content-Length: 6") + "hello", end: (*peer).close, kind: fetch.ErrTruncated, status: 200},
		{name: "no body but a length", answer: head("Content-Length: 6"), end: (*peer).close, kind: fetch.ErrTruncated, status: 200},
		{name: "body longer than its length", answer: head("Content-Length: 5") + "hello, world", want: "hello"},
		{name: "two equal lengths", answer: head("Content-Length: 5", "Content-Length: 5") + "hello", want: "hello"},
		{name: "two different lengths", answer: head("Content-Length: 5", "Content-Length: 3") + "hello", kind: fetch.ErrProtocol},
		{name: "large body", answer: good(large), want: large},

		// §7.1: chunks.
		{name: "chunks", answer: head(chunked) + "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", want: "hello"},
		{name: "chunks with extensions and trailers", answer: head(chunked, "Trailer: X-Sum") + "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\nX-Sum: 1\r\n\r\n", want: "hello"},
		{name: "chunk size in lowercase hex", answer: head(chunked) + "1a\r\n" + large[:26] + "\r\n0\r\n\r\n", want: large[:26]},
		{name: "chunk size in uppercase hex", answer: head(chunked) + "1A\r\n" + large[:26] + "\r\n0\r\n\r\n", want: large[:26]},
		{name: "chunk size with zeros before", answer: head(chunked) + "0005\r\nhello\r\n000\r\n\r\n", want: "hello"},
		{name: "no chunk but the last", answer: head(chunked) + "0\r\n\r\n"},
		{name: "large chunk", answer: head(chunked) + fmt.Sprintf("%x\r\n", len(large)) + large + "\r\n0\r\n\r\n", want: large},
		{name: "chunks and a length", answer: head(chunked, "Content-Length: 3") + "5\r\nhello\r\n0\r\n\r\n", want: "hello"},
		{name: "a length and chunks", answer: head("Content-Length: 3", chunked) + "5\r\nhello\r\n0\r\n\r\n", want: "hello"},
		{name: "no last chunk", answer: head(chunked) + "5\r\nhello\r\n", end: (*peer).close, kind: fetch.ErrTruncated, status: 200},
		{name: "closed after the last chunk's size", answer: head(chunked) + "5\r\nhello\r\n0\r\n", end: (*peer).close, kind: fetch.ErrTruncated, status: 200},
		{name: "closed in a chunk", answer: head(chunked) + "5\r\nhel", end: (*peer).close, kind: fetch.ErrTruncated, status: 200},
		{name: "closed in a chunk's size", answer: head(chunked) + "5", end: (*peer).close, kind: fetch.ErrTruncated, status: 200},
		{name: "chunk longer than its size", answer: head(chunked) + "4\r\nhello\r\n0\r\n\r\n", kind: fetch.ErrProtocol, status: 200},
		{name: "no line end after a chunk", answer: head(chunked) + "5\r\nhello0\r\n\r\n", kind: fetch.ErrProtocol, status: 200},
		{name: "chunks twice", answer: head("Transfer-Encoding: chunked, chunked") + "5\r\nhello\r\n0\r\n\r\n", kind: fetch.ErrProtocol},
		{name: "chunks announced twice", answer: head(chunked, chunked) + "5\r\nhello\r\n0\r\n\r\n", kind: fetch.ErrProtocol},
		{name: "unknown transfer coding", answer: head("Transfer-Encoding: rot13") + "uryyb", end: (*peer).close, kind: fetch.ErrProtocol},

		// §6.3: the end of the connection is the end of the body, if nothing else tells.
		{name: "HTTP 1.1 without a length", answer: head() + "hello", end: (*peer).close, want: "hello", unverified: true},
		{name: "HTTP 1.0 without a length", answer: "HTTP/1.0 200 OK\r\n\r\nhello", end: (*peer).close, want: "hello", unverified: true},
		{name: "HTTP 1.0 with a length", answer: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", end: (*peer).close, want: "hello"},
		{name: "HTTP 1.0 that keeps the connection", answer: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", want: "hello"},
		{name: "HTTP 1.0 that leaves the close to the client", answer: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", want: "hello"},
		// Over TLS that is an end without a close_notify, as of one who cuts the connection: it may be an
		// error.
		{name: "HTTP 1.1 without a length, closed in both directions", answer: head() + "hello", end: (*peer).slam, want: "hello", unverified: true,
			orTLS: []fetch.Kind{fetch.ErrTruncated}},

		// §6.3: answers that have no body, whatever they say.
		{name: "204", answer: answer("204 No Content"), status: 204},
		{name: "204 with a length", answer: answer("204 No Content", "Content-Length: 5"), status: 204},
		{name: "304 with a length", answer: answer("304 Not Modified", "Content-Length: 5"), status: 304},
		{name: "304 with chunks announced", answer: answer("304 Not Modified", chunked), status: 304},
		{name: "HEAD", method: "HEAD", answer: head("Content-Length: 5")},
		{name: "HEAD of more than MaxBody", method: "HEAD", answer: head("Content-Length: 99999999999")},
		{name: "HEAD without a length", method: "HEAD", answer: head()},
		{name: "HEAD with chunks announced", method: "HEAD", answer: head(chunked)},
		{name: "HEAD with gzip announced", method: "HEAD", answer: head("Content-Encoding: gzip", "Content-Length: 25")},

		// §4: the status line.
		{name: "status without a reason", answer: "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", want: "hello"},
		{name: "status 404", answer: answer("404 Not Found", "Content-Length: 5") + "hello", status: 404, want: "hello"},
		{name: "status 999", answer: answer("999 Odd", "Content-Length: 5") + "hello", status: 999, want: "hello"},
		{name: "HTTP 1.2", answer: "HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello", want: "hello"},
		{name: "HTTP 0.9", answer: "hello\n", end: (*peer).close, kind: fetch.ErrProtocol},

		// §5: header lines.
		{name: "line feeds without carriage returns", answer: "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", want: "hello"},
		{name: "folded header line", answer: head("X-Folded: a\r\n b", "Content-Length: 5") + "hello", want: "hello", or: []fetch.Kind{fetch.ErrProtocol}},
		{name: "field names in any case", answer: head("cOnTeNt-LeNgTh: 5") + "hello", want: "hello"},
		{name: "no space after the colon", answer: head("Content-Length:5") + "hello", want: "hello"},
		{name: "space around a length", answer: head("Content-Length: \t 5 \t") + "hello", want: "hello"},

		// RFC 9110 §15.2: informational answers come before the answer.
		{name: "100 before the answer", answer: answer("100 Continue") + good("hello"), want: "hello"},
		{name: "103 before the answer", answer: answer("103 Early Hints", "Link: </style.css>; rel=preload") + good("hello"), want: "hello"},
		{name: "several 1xx before the answer", answer: answer("102 Processing") + answer("103 Early Hints") + answer("199 Odd") + good("hello"), want: "hello"},
		{name: "closed after a 100", answer: answer("100 Continue"), end: (*peer).close, kind: fetch.ErrReset, or: []fetch.Kind{fetch.ErrTruncated}},
		// What would follow is no HTTP, and is not asked for.
		{name: "unsolicited 101", answer: answer("101 Switching Protocols", "Upgrade: x", "Connection: Upgrade"), kind: fetch.ErrProtocol},
		{name: "unsolicited 101 with a body", answer: answer("101 Switching Protocols", "Upgrade: x", "Connection: Upgrade", "Content-Length: 5") + "hello", end: (*peer).close, kind: fetch.ErrProtocol},

		// RFC 9110 §8.4: content codings. The engine asks for gzip by itself, and decodes it.
		{name: "gzip", answer: head("Content-Encoding: gzip", fmt.Sprintf("Content-Length: %d", len(zipped))) + zipped, want: "hello"},
		{name: "gzip in uppercase", answer: head("Content-Encoding: GZIP", fmt.Sprintf("Content-Length: %d", len(zipped))) + zipped, want: "hello"},
		{name: "gzip in chunks", answer: head("Content-Encoding: gzip", chunked) + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(zipped), zipped), want: "hello"},
		{name: "gzip of several members", answer: head("Content-Encoding: gzip", fmt.Sprintf("Content-Length: %d", 2*len(zipped))) + zipped + zipped, want: "hellohello"},
		{name: "gzip of nothing", answer: head("Content-Encoding: gzip", "Content-Length: 0")},
		{name: "gzip that the caller asked for", header: http.Header{"Accept-Encoding": {"gzip"}},
			answer: head("Content-Encoding: gzip", fmt.Sprintf("Content-Length: %d", len(zipped))) + zipped, want: zipped},
	}
	for _, length := range []string{"-5", "+5", "five", "5 5", "5.0", "0x5", "", "99999999999999999999"} {
		cases = append(cases, doerCase{name: fmt.Sprintf("length %q", length), kind: fetch.ErrProtocol,
			answer: head("Content-Length: "+length) + "hello", end: (*peer).close})
	}
	for _, size := range []string{"", "x", "-5", "+5", "0x5", "5 5", "10000000000000005", "fffffffffffffffff"} {
		cases = append(cases, doerCase{name: fmt.Sprintf("chunk size %q", size), kind: fetch.ErrProtocol, status: 200,
			answer: head(chunked) + size + "\r\nhello\r\n0\r\n\r\n"})
	}
	for _, l := range [][2]string{
		{"nothing", ""},
		{"a banner", "SSH-2.0-OpenSSH_9.6"},
		{"a page", "<html><body>hello</body></html>"},
		{"no status", "HTTP/1.1"},
		{"no version", "HTTP 200 OK"},
		{"another protocol", "ICY 200 OK"},
		{"lowercase", "http/1.1 200 OK"},
		{"no space", "HTTP/1.1200 OK"},
		{"letters", "HTTP/1.1 OK 200"},
		{"two digits", "HTTP/1.1 20 OK"},
		{"four digits", "HTTP/1.1 2000 OK"},
		{"a negative status", "HTTP/1.1 -20 OK"},
		{"a status with a plus", "HTTP/1.1 +20 OK"},
		{"status 000", "HTTP/1.1 000 OK"},
		{"status 099", "HTTP/1.1 099 OK"},
		{"NUL", "\x00\x00\x00\x00"},
	} {
		cases = append(cases, doerCase{name: "status line: " + l[0], kind: fetch.ErrProtocol, answer: l[1] + "\r\nContent-Length: 5\r\n\r\nhello"})
	}
	for _, l := range [][2]string{
		{"space before the colon", "X-A : b"},
		{"space in the name", "X A: b"},
		{"NUL in the name", "X-\x00A: b"},
		{"DEL in the name", "X-\x7fA: b"},
		{"no name", ": b"},
		{"no colon", "hello"},
	} {
		cases = append(cases, doerCase{name: "header line: " + l[0], kind: fetch.ErrProtocol, answer: head(l[1], "Content-Length: 5") + "hello"})
	}
	return append(cases,
		// Who takes this for no length hands out whatever follows as the body.
		doerCase{name: "space before the colon of a length", kind: fetch.ErrProtocol, answer: head("Content-Length : 5") + "hello, world", end: (*peer).close},
		doerCase{name: "unknown content coding", answer: head("Content-Encoding: br", "Content-Length: 5") + "hello", want: "hello",
			check: func(x *exchange, res fetch.Result) {
				assert.Equal(x.t, "br", res.Header().Get("Content-Encoding"), "what is not decoded says so")
			}})
}

// large is more than a buffer, and a whole number of socket writes is not likely to end where it
// does.
var large = strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", 8_011)

// gzipped returns text compressed.
func gzipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}
