package wire

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/rules"
)

// An exchange is what becomes of one of the caller's requests: one HTTP request and its answer,
// and again for each redirect.
type exchange struct {
	client *Client
	ctx    context.Context
	result fetch.Result
	begun  time.Time
	end    time.Time // of the attempt; zero: none
	over   time.Time // when the last HTTP request was

	// The HTTP request.
	target target
	method string
	host   string // for the field of that name
	header http.Header
	body   []byte
	hop    *rules.Hop // the same for redirects; nil for the caller's own until it is asked for
	hops   int        // redirects that have been followed
	closes bool       // the caller's header says that the connection is to be closed
	unzip  bool       // gzip was asked for
	alone  bool       // the host is distrusted: the connection is for this one request
}

// prepare makes x an exchange for req that begins now, or one with an error.
func (x *exchange) prepare(c *Client, ctx context.Context, req *fetch.Request, now time.Time) {
	x.client, x.ctx = c, ctx
	x.result.Request = req
	if ctx.Err() != nil {
		x.result.Err = fetch.NewError(ctx, req, ctx.Err())
		return
	}
	x.method, x.header, x.body = cmp.Or(req.Method, http.MethodGet), req.Header, req.Body
	if err := x.aim(req.URL); err != nil {
		x.result.Err = fetch.NewError(ctx, req, &fetch.Error{Kind: fetch.ErrBadURL, Err: err})
		return
	}
	if x.header != nil {
		x.closes = asksToClose(x.header)
		x.host = cmp.Or(x.header.Get("Host"), x.host)
	}
	x.result.Attempts = 1
	x.begin(now)
}

// aim checks the request, and finds where it goes.
func (x *exchange) aim(raw string) (err error) {
	var ok bool
	if x.target, ok = split(raw); !ok {
		u, user, err := rules.ParseURL(raw)
		if err != nil {
			return err
		}
		if x.target, err = targetOf(u); err != nil {
			return err
		}
		if x.client.UserInfo && user != nil {
			password, _ := user.Password()
			x.header = withBasicAuth(x.header, user.Username(), password)
		}
	}
	x.host = withoutZone(x.target.origin.Host)
	return checkRequest(x.method, x.header)
}

// begin begins an attempt, or goes on with one after a redirect.
func (x *exchange) begin(now time.Time) {
	if x.hops == 0 {
		x.begun = now
	}
	if timeout := x.client.limits.Timeout; timeout > 0 {
		x.end = now.Add(timeout)
	}
}

// run performs x to its end.
func (x *exchange) run() {
	for again := true; again; {
		var err error
		if again, err = x.perform(); err != nil {
			x.fail(err)
			return
		}
	}
	x.result.Duration = x.over.Sub(x.begun)
}

func (x *exchange) fail(err error) {
	x.result.Duration = time.Since(x.begun)
	x.result.Body = nil
	x.result.Err = fetch.NewError(x.ctx, x.result.Request, err)
}

// perform does one HTTP request. again tells that there is a redirect to follow.
func (x *exchange) perform() (again bool, err error) {
	for fresh := false; ; {
		again, repeat, err := x.once(fresh)
		switch {
		case err == errStale:
		case repeat:
			fresh = true
			x.result.Attempts++
		default:
			return again, err
		}
	}
}

// once is perform on one connection, which it gets, and gives back or drops. If fresh is set, that
// is a new one. repeat tells that x may be sent again after err.
func (x *exchange) once(fresh bool) (again, repeat bool, err error) {
	c := x.client
	conn, err := c.get(x.ctx, &x.target, x.end, fresh || c.suspects.Has(x.target.origin))
	if err != nil {
		return false, false, err
	}
	keep := false
	defer func() { // also if a function of the caller's panics
		x.over = time.Now()
		if fit := conn.rest(); fit && keep {
			c.put(conn, x.over)
		} else {
			c.drop(conn)
		}
	}()
	x.alone = c.suspects.Has(x.target.origin)
	if conn.kept && x.alone {
		return false, false, errStale // it was caught meanwhile
	}
	now := x.begun
	if !conn.kept || x.hops > 0 || c.MaxConnsPerHost > 0 {
		now = time.Now() // some time may have passed since
	}
	if err := conn.begin(x.ctx, now, x.end); err != nil {
		return false, false, err
	}
	again, keep, err = x.on(conn)
	return again, err != nil && conn.kept && x.mayRepeat(conn, err), err
}

// mayRepeat reports whether x can be sent again after err, since conn had been closed, or was being
// closed, when it was sent.
func (x *exchange) mayRepeat(conn *conn, err error) bool {
	_, limit := errors.AsType[rules.TimeoutError](err)
	return !conn.heard && !limit && x.ctx.Err() == nil && (!conn.sent || rules.Repeatable(x.method, x.header))
}

// small is the size in bytes of the largest request that is put together before it is written.
const small = 16 << 10

// on does x on conn.
func (x *exchange) on(conn *conn) (again, keep bool, err error) {
	conn.buf = x.appendHead(conn.buf[:0])
	if len(conn.buf)+len(x.body) <= small {
		conn.buf = append(conn.buf, x.body...)
		conn.out, conn.aside = conn.buf, len(x.body) > 0 && conn.raw == nil
	} else {
		conn.out, conn.body, conn.aside = conn.buf, x.body, true
	}
	again, keep, err = x.receive(conn)
	keep = conn.wrote(err == nil) && keep && !x.alone
	return again, keep && conn.isClean(), err
}

// receive reads the answer to x from conn. keep tells whether it can serve another request.
func (x *exchange) receive(conn *conn) (again, keep bool, err error) {
	limits := &x.client.limits
	begun := conn.taken()
	conn.limit = -1
	if limits.MaxHead >= 0 {
		conn.limit = begun + limits.MaxHead + readBuffer // about: see below
	}
	a, size, err := conn.readHead()
	if err != nil {
		return false, false, err
	}
	if size == 0 || a.zipped && x.unzip {
		return x.receiveOdd(conn, begun)
	}
	if limits.MaxHead >= 0 && int64(size) > limits.MaxHead {
		return false, false, errHeadTooLarge
	}
	conn.limit, conn.rolling = -1, true
	hasBody := rules.HasBody(x.method, a.status)
	if hasBody && a.length < 0 {
		return x.receiveOdd(conn, begun)
	}
	x.setStatus(a.status)
	n := a.length
	if !hasBody {
		n = 0
	}
	keep = x.keeps(conn, a.keeps(), a.http11, a.length > 0)
	if isRedirect(a.status) {
		header := parseHeader(peek(conn.br)[:size])
		x.result.SetHeader(func() http.Header { return header })
		again, err := x.follow(header)
		if again || err != nil {
			conn.br.Discard(size)
			return again, keep && drained(conn, n), err
		}
	}
	if limits.MaxBody >= 0 && n > limits.MaxBody || n > rules.TrustedLength {
		head := append([]byte(nil), peek(conn.br)[:size]...)
		x.result.SetHeader(func() http.Header { return parseHeader(head) })
		conn.br.Discard(size)
		if limits.MaxBody >= 0 && n > limits.MaxBody {
			return false, false, rules.TooLargeError(limits.MaxBody)
		}
		x.result.Body, err = rules.ReadAll(io.LimitReader(conn.br, n), limits.MaxBody)
		if err == nil && int64(len(x.result.Body)) < n {
			err = io.ErrUnexpectedEOF
		}
		return false, keep, err
	}
	// One piece of memory for the head and the body.
	b := make([]byte, size+int(n))
	head := b[:size:size]
	m := copy(b, peek(conn.br))
	conn.br.Discard(m)
	x.result.SetHeader(func() http.Header { return parseHeader(head) })
	if m < len(b) {
		if _, err := io.ReadFull(conn.br, b[m:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return false, false, err
		}
	}
	x.result.Body = b[size:]
	return false, keep, nil
}

// receiveOdd is receive by net/http's reader. What conn has buffered begins with the head, whose
// first byte was that with the number begun.
func (x *exchange) receiveOdd(conn *conn, begun int64) (again, keep bool, err error) {
	limits := &x.client.limits
	conn.rolling = false
	hreq := &http.Request{Method: x.method}
	var resp *http.Response
	for informational := true; informational; {
		resp, err = http.ReadResponse(conn.br, hreq)
		if conn.cut() || err == nil && limits.MaxHead >= 0 && conn.taken()-begun > limits.MaxHead { // and not only about
			err = errHeadTooLarge
		}
		if err != nil {
			return false, false, err
		}
		informational = resp.StatusCode >= 100 && resp.StatusCode <= 199 && resp.StatusCode != http.StatusSwitchingProtocols
	}
	err = rules.CheckHead(resp.StatusCode, resp.Header)
	if err == nil && resp.ProtoMajor != 1 {
		err = fmt.Errorf("the version is HTTP/%d.%d", resp.ProtoMajor, resp.ProtoMinor)
	}
	if err != nil {
		return false, false, &fetch.Error{Kind: fetch.ErrProtocol, Err: err}
	}
	conn.limit, conn.rolling = -1, true
	conn.listen()
	x.setStatus(resp.StatusCode)
	x.result.SetHeader(func() http.Header { return resp.Header })
	hasBody := rules.HasBody(x.method, resp.StatusCode)
	toTheEnd := hasBody && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0
	length := resp.Header.Get("Content-Length")
	keep = x.keeps(conn, !resp.Close && !toTheEnd, resp.ProtoMinor >= 1, length != "" && length != "0")
	if again, err := x.follow(resp.Header); again || err != nil {
		n, err2 := io.CopyN(io.Discard, resp.Body, mostDrained)
		return again, keep && err2 == io.EOF && n < mostDrained, err
	}
	n, body := resp.ContentLength, io.Reader(resp.Body)
	if x.unzip && hasBody && n != 0 && strings.EqualFold(resp.Header.Get("Content-Encoding"), "gzip") {
		resp.Header.Del("Content-Encoding")
		resp.Header.Del("Content-Length")
		zip := unzippers.Get().(*gzip.Reader)
		defer func() {
			zip.Reset(bytes.NewReader(nil)) // or it would keep the connection in memory
			unzippers.Put(zip)
		}()
		switch err := zip.Reset(body); err {
		case nil:
			body = zip
		case io.EOF: // nothing is compressed to nothing, by some
		default:
			return false, false, err
		}
		n = -1
	}
	switch {
	case !hasBody:
		x.result.Body = []byte{}
	case limits.MaxBody >= 0 && n > limits.MaxBody:
		err = rules.TooLargeError(limits.MaxBody)
	default:
		x.result.Body, err = rules.ReadAll(body, limits.MaxBody)
	}
	if err != nil {
		return false, false, err
	}
	x.result.Unverified = toTheEnd
	return false, keep, nil
}

// setStatus notes that a response has come, and from where.
func (x *exchange) setStatus(status int) {
	x.result.Status = status
	if x.hops > 0 {
		x.result.URL = x.hop.URL.String()
	}
}

// keeps reports whether conn can serve another request after an answer whose head says so, and
// notes what that tells of the host. announced tells that it has a Content-Length over 0.
func (x *exchange) keeps(conn *conn, keep, http11, announced bool) bool {
	if x.result.Status == http.StatusNoContent && announced {
		x.client.suspects.Add(conn.host.origin) // the body may follow, though a 204 has none
		return false
	}
	if !keep || x.closes || conn.early {
		return false
	}
	if http11 && !conn.host.proven.Load() {
		conn.host.proven.Store(true)
	}
	return true
}

var unzippers = sync.Pool{New: func() any { return new(gzip.Reader) }}

// follow makes x the request that an answer with that header redirects to, if there is one.
func (x *exchange) follow(header http.Header) (again bool, err error) {
	if !isRedirect(x.result.Status) {
		return false, nil
	}
	if x.hop == nil {
		u, _, err := rules.ParseURL(x.result.Request.URL)
		if err != nil {
			return false, err // not reached: it was accepted before
		}
		x.hop = &rules.Hop{Method: x.method, URL: u, Host: x.host, Header: x.header, Body: len(x.body) > 0}
	}
	next, err := x.client.redirects.Next(x.hop, x.hops, x.result.Request.Header, x.result.Status, header)
	if next == nil && err == nil {
		return false, nil
	}
	if err == nil {
		var t target
		if t, err = targetOf(next.URL); err == nil {
			x.hop, x.target = next, t
			x.hops++
			x.method, x.header, x.host = next.Method, next.Header, withoutZone(next.Host)
			x.closes = asksToClose(x.header)
			if !next.Body {
				x.body = nil
			}
			return true, nil
		}
	}
	return false, &fetch.Error{Kind: fetch.ErrRedirect, Err: err}
}

// forget forgets an answer.
func (x *exchange) forget() {
	x.result.Status, x.result.Body = 0, nil
	x.result.SetHeader(nil)
}

func isRedirect(status int) bool { return status >= 301 && status <= 308 }

// mostDrained is how many bytes of an unwanted body are read, so that the connection can serve the
// next request.
const mostDrained = 16 << 10

// drained reads an unwanted body of n bytes, and reports whether it has.
func drained(conn *conn, n int64) bool {
	if n > mostDrained {
		return false
	}
	_, err := conn.br.Discard(int(n))
	return err == nil
}
