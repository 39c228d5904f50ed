package fetch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"fetchbench/fetch/internal/rules"
)

// RoundTripper returns c as the transport of an [http.Client], or of a library that takes one. It
// shares c's connections, and keeps c's limits, address policy and proxies; redirects are the
// http.Client's.
//
// Bodies are in memory as a whole, those of requests too, within MaxBody: a response is returned
// when it is complete, and one that is not is an error. An error is an [*Error], which the
// http.Client wraps in one that shows the whole URL, or, after its own Timeout, replaces. What a
// net/http transport has and this one has not: HTTP/2, streaming, trailers, upgrades (101),
// CONNECT, [http.Response.TLS] and net/http/httptrace.
func (c *Client) RoundTripper() http.RoundTripper { return roundTripper{c} }

type roundTripper struct{ c *Client }

// CloseIdleConnections is called by that of [http.Client].
func (t roundTripper) CloseIdleConnections() { t.c.CloseIdleConnections() }

// RoundTrip implements [http.RoundTripper].
func (t roundTripper) RoundTrip(hreq *http.Request) (*http.Response, error) {
	if hreq.Body != nil {
		defer hreq.Body.Close()
	}
	if hreq.URL == nil {
		return nil, newError(ErrBadURL, nil, errors.New("no URL"))
	}
	t.c.once.Do(t.c.init)
	req := &Request{Method: hreq.Method, URL: hreq.URL.String(), Header: hreq.Header}
	x := exchange{client: t.c, redirects: &rules.Redirects{Max: -1}}
	header := func(name, value string) {
		if req.Header = req.Header.Clone(); req.Header == nil {
			req.Header = http.Header{}
		}
		req.Header.Set(name, value)
	}
	switch {
	case hreq.Host != "" && hreq.Host != hreq.URL.Host:
		header("Host", hreq.Host)
	case hreq.Header["Host"] != nil:
		header("Host", "") // net/http does not send that one either
	}
	if hreq.Close {
		header("Connection", "close")
	}
	if err := t.readBody(hreq, req); err != nil {
		return nil, err
	}
	if x.prepare(hreq.Context(), req, time.Now()); x.result.Err == nil {
		x.run()
	}
	if x.result.Err != nil {
		return nil, x.result.Err
	}
	return x.response(hreq), nil
}

// readBody reads the body of hreq into req, unless hreq's context ends before.
func (t roundTripper) readBody(hreq *http.Request, req *Request) (err error) {
	if hreq.Body == nil || hreq.Body == http.NoBody {
		return nil
	}
	done := make(chan error, 1)
	go func() { // a Read that blocks ends when the body is closed, or by itself
		var err error
		req.Body, err = rules.ReadAll(hreq.Body, t.c.maxBody)
		done <- err
	}()
	select {
	case err = <-done:
	case <-hreq.Context().Done():
		return contextError(hreq.Context(), req)
	}
	switch n := hreq.ContentLength; {
	case is[rules.TooLargeError](err):
		return newError(ErrTooLarge, req, err)
	case err == nil && n > 0 && int64(len(req.Body)) != n:
		err = fmt.Errorf("%d bytes, and the ContentLength is %d", len(req.Body), n)
	}
	if err != nil {
		return newError(ErrBadURL, req, redacted{"the request's body: " + redact(err).Error(), err})
	}
	return nil
}

// response returns the outcome of x, the response to hreq.
func (x *exchange) response(hreq *http.Request) *http.Response {
	res := &x.result
	resp := &http.Response{
		StatusCode: res.Status, Status: strings.TrimSpace(strconv.Itoa(res.Status) + " " + http.StatusText(res.Status)),
		Proto: res.Proto(), ProtoMajor: 1, ProtoMinor: 1, Header: res.Header(), Request: hreq,
		Body: io.NopCloser(bytes.NewReader(res.Body)), ContentLength: int64(len(res.Body)), Uncompressed: x.decoded,
	}
	if resp.Proto == "HTTP/1.0" {
		resp.ProtoMinor = 0
	}
	if resp.Close = x.closed; x.decoded || res.Unverified {
		resp.ContentLength = -1
	}
	if hreq.Method == http.MethodHead {
		resp.ContentLength = -1
		if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil {
			resp.ContentLength = n
		}
	}
	return resp
}
