package fetchtest

import (
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// Answers that are too much or too slow. The servers do not send without end, so that an
// engine that takes all they have fails its test and not the machine.
func limitCases() []doerCase {
	const (
		chunked = "Transfer-Encoding: chunked"
		ample   = 64 << 20 // what is sent at most of what is endless
	)
	x64K := strings.Repeat("x", 64<<10)
	hello := gzipped("hello")
	zipped := func(body string, fields ...string) string {
		return head(append(fields, fmt.Sprintf("Content-Length: %d", len(body)))...) + body
	}
	tooLarge, protocol := fetch.ErrTooLarge, fetch.ErrProtocol
	return []doerCase{
		// The head, of which an engine reads 256 KiB at most.
		{name: "endless status line", serve: flood("HTTP/1.1 200 ", x64K, ample), kind: tooLarge, check: readLittle},
		{name: "endless header line", serve: flood("HTTP/1.1 200 OK\r\nX: ", x64K, ample), kind: tooLarge, check: readLittle},
		{name: "endless header name", serve: flood("HTTP/1.1 200 OK\r\n", x64K, ample), kind: tooLarge, check: readLittle},
		{name: "endless header lines", serve: flood("HTTP/1.1 200 OK\r\n", strings.Repeat("X-Field: value\r\n", 4096), ample), kind: tooLarge, check: readLittle},
		{name: "10 000 header lines", answer: head(strings.Repeat("X-Field: abcdefghijklmnopqrs\r\n", 10_000)+"Content-Length: 5") + "hello", kind: tooLarge},
		{name: "1 000 header lines", answer: head(strings.Repeat("X-Field: abcdefghijklmnopqrs\r\n", 1_000)+"Content-Length: 5") + "hello", want: "hello"},
		{name: "1xx without end", serve: flood("", strings.Repeat(answer("103 Early Hints", "Link: </style.css>"), 1024), ample),
			deadline: true, kind: tooLarge, or: []fetch.Kind{protocol, fetch.ErrTimeout}, check: readLittle},
		{name: "trailers without end", serve: flood(head(chunked)+"5\r\nhello\r\n0\r\n", strings.Repeat("X-Field: value\r\n", 4096), ample),
			kind: protocol, or: []fetch.Kind{tooLarge}, status: 200, check: readLittle},
		{name: "endless chunk extension", serve: flood(head(chunked)+"5;", x64K, ample),
			kind: protocol, or: []fetch.Kind{tooLarge}, status: 200, check: readLittle},

		// The body, of which it accepts 10 MiB.
		{name: "10 MiB", serve: flood(head(fmt.Sprintf("Content-Length: %d", 10<<20)), x64K, 10<<20), want: anything, check: func(x *exchange, res fetch.Result) {
			expect(x.t, len(res.Body) == 10<<20, "a body of 10 MiB is not too large: expected is all of it, and not %d bytes", len(res.Body))
		}},
		{name: "a byte more than 10 MiB", serve: flood(head()+"x", x64K, 10<<20), kind: tooLarge, status: 200},
		{name: "endless by its length", serve: flood(head("Content-Length: 9000000000000000000"), x64K, ample), kind: tooLarge, status: 200},
		{name: "endless by its chunks", serve: flood(head(chunked), fmt.Sprintf("%x\r\n%s\r\n", len(x64K), x64K), ample), kind: tooLarge, status: 200},
		{name: "endless chunk", serve: flood(head(chunked)+"ffffffffffffffff\r\n", x64K, ample), kind: tooLarge, or: []fetch.Kind{protocol}, status: 200},
		{name: "endless until the connection ends", serve: flood(head(), x64K, ample), kind: tooLarge, status: 200},
		{name: "claim of a gigabyte and no body", answer: head("Content-Length: 1073741824"), deadline: true,
			kind: tooLarge, or: []fetch.Kind{fetch.ErrTimeout}, status: 200},

		// Compressed, where what counts is the size of the decoded body.
		{name: "gzip bomb", serve: func(p *peer, _ *http.Request) { p.write(zipped(bomb(), "Content-Encoding: gzip")) }, kind: tooLarge, status: 200},
		{name: "gzip twice", answer: zipped(gzipped(hello), "Content-Encoding: gzip, gzip"), want: anything, or: []fetch.Kind{fetch.ErrDecode}, check: notHalfDecoded},
		{name: "gzip of what is no gzip", answer: zipped("hello", "Content-Encoding: gzip"), kind: fetch.ErrDecode, or: []fetch.Kind{fetch.ErrTruncated}, status: 200},
		{name: "gzip with a wrong checksum", answer: zipped(hello[:len(hello)-8]+"\x00\x00\x00\x00"+hello[len(hello)-4:], "Content-Encoding: gzip"), kind: fetch.ErrDecode, status: 200},
		{name: "gzip with wrong data", answer: zipped(hello[:10]+"\xff\xff\xff\xff"+hello[14:], "Content-Encoding: gzip"), kind: fetch.ErrDecode, status: 200},
		{name: "gzip and what is no gzip", answer: zipped(hello+"hello, world", "Content-Encoding: gzip"), kind: fetch.ErrDecode, status: 200},
		{name: "gzip that is cut off", answer: zipped(hello[:len(hello)-9], "Content-Encoding: gzip"), kind: fetch.ErrDecode, or: []fetch.Kind{fetch.ErrTruncated}, status: 200},
		{name: "gzip that the connection's end cuts off", answer: head("Content-Encoding: gzip", "Content-Length: 1000") + hello, end: (*peer).close,
			kind: fetch.ErrTruncated, or: []fetch.Kind{fetch.ErrDecode}, status: 200},

		// Time. An engine's own limits are longer than the deadline.
		{name: "head by the byte", serve: drip("HTTP/1.1 200 OK\r\nX: ", "x"), deadline: true, kind: fetch.ErrTimeout},
		{name: "head by the line", serve: drip("HTTP/1.1 200 OK\r\n", "X-Field: value\r\n"), deadline: true, kind: fetch.ErrTimeout},
		{name: "body by the byte", serve: drip(head("Content-Length: 100000"), "x"), deadline: true, kind: fetch.ErrTimeout, status: 200},
		{name: "body by the chunk", serve: drip(head(chunked), "1\r\nx\r\n"), deadline: true, kind: fetch.ErrTimeout, status: 200},
		{name: "body by the byte until the connection ends", serve: drip(head(), "x"), deadline: true, kind: fetch.ErrTimeout, status: 200},
		{name: "1xx again and again", serve: drip("", answer("102 Processing")), deadline: true, kind: fetch.ErrTimeout, or: []fetch.Kind{protocol}},
	}
}

// readLittle checks that the engine has given up early: what it read is at most what the
// server sent, less what waits in the buffers of both sockets.
func readLittle(x *exchange, _ fetch.Result) {
	atLast(x.here.settled)
	assert.Less(x.t, x.here.sent.Load(), int64(16<<20), "bytes that the server could send of a head, or what has to be as small")
}

// notHalfDecoded checks that a body that is compressed twice is what its header says.
func notHalfDecoded(x *exchange, res fetch.Result) {
	if res.Err != nil {
		return
	}
	want := map[string]string{"gzip, gzip": gzipped(gzipped("hello")), "gzip": gzipped("hello"), "": "hello"}
	coding := res.Header().Get("Content-Encoding")
	expect(x.t, want[coding] == string(res.Body), "the body is not what the header says, with the Content-Encoding %q: %s", coding, short(res.Body))
}

// zeros is 1 MiB of zeros, compressed to 1 KiB.
var zeros = sync.OnceValue(func() string { return gzipped(string(make([]byte, 1<<20))) })

// bomb is 1 GiB of zeros in some 1 MiB, a gzip stream of many members.
var bomb = sync.OnceValue(func() string { return strings.Repeat(zeros(), 1<<10) })
