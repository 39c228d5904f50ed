package fetch

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"time"

	"fetchbench/fetch/internal/http1"
	"fetchbench/fetch/internal/rules"
)

// A Request is one URL to fetch. Nothing in this package changes the Header or the Body, so
// Requests may share them.
type Request struct {
	// Index is the position in the caller's input, from 0, whatever is skipped. The Fetcher sets
	// it.
	Index int
	// Tag is the caller's own. It is never sent, and does not go to other processes.
	Tag any
	// Method is the HTTP method. "" means GET.
	Method string
	// URL is absolute, and its scheme is http or https.
	URL string
	// Header holds the header fields to send. It may be nil. Names that an engine acts on (Host,
	// User-Agent, Accept-Encoding, Connection and the like) must be in canonical form, or the
	// request is an [ErrBadURL]; Content-Length, Transfer-Encoding and Trailer are the engine's
	// own. Without a User-Agent, [Client] sends "fetchbench"; an empty one is not sent. Other
	// origins that a redirect leads to get none of the fields: see [Client].KeepHeaders.
	Header http.Header
	// Body is sent as it is. It may be nil.
	Body []byte

	state requestState // the loop's, while the Request is in it
}

// A Result is the outcome of one [Request].
type Result struct {
	// Request is the request that this is the outcome of.
	Request *Request
	// URL is where the response came from, after redirects. It is not redacted: it may have user
	// info and a query. A Doer may leave it empty where no redirect was followed; a [Fetcher] sets
	// it.
	URL string
	// Status is the HTTP status code, or 0 if no response came. With an error it may be the status
	// of the last redirect, if its target did not respond.
	Status int
	// Body is the response's body, decoded. It is the caller's to keep.
	Body []byte
	// Err is nil if a complete response came, whatever its status: see [Result.OK]. The engines of
	// this module return an [*Error], strategies also a [*PanicError].
	Err error
	// Unverified is set if only the end of the connection told where the body ends (RFC 9112 §8),
	// so that a part of it may be missing. [HTTPClient] also sets it for a gzip body after which
	// the server closes the connection, whether it had a length or not.
	Unverified bool
	// Attempts counts the requests sent, retries included, but not those that redirects lead to. A
	// child of a [Shard] that ended without a response counts as one, whether it had sent the
	// request or not.
	Attempts int
	// Duration is the service time of the last attempt: from its start to the last byte of the
	// body. Waiting for a worker or a policy is not part of it.
	Duration time.Duration
	// FirstByte is the part of Duration before the first byte of the response, or of an
	// informational one (1xx), came. Redirects before it are part of it. 0 means that it is not
	// known: only [Client] tells it.
	FirstByte time.Duration

	conn        *connInfo
	header      http.Header
	head        []byte             // if not nil, header is made of it at the first use
	parseHeader func() http.Header // the same, by a function
}

// OK reports whether a complete response came, and its status is a 2xx.
func (r *Result) OK() bool { return r.Err == nil && r.Status >= 200 && r.Status <= 299 }

// Failure returns nil if r is OK, r.Err if that is set, and else a [*StatusError].
func (r *Result) Failure() error {
	if r.Err != nil || r.OK() {
		return r.Err
	}
	e := &StatusError{Status: r.Status}
	if r.Request != nil {
		e.URL = rules.SafeURL(r.Request.URL)
	}
	return e
}

// Header returns the response's header, nil if no response came.
func (r *Result) Header() http.Header {
	switch {
	case r.head != nil:
		r.header, r.head = http1.ParseHeader(r.head), nil
	case r.parseHeader != nil:
		r.header, r.parseHeader = r.parseHeader(), nil
	}
	return r.header
}

// SetHeader sets what [Result.Header] returns: the value of parse, which is called when a header is
// first asked for. nil means no header. It is for those who write a [Doer].
func (r *Result) SetHeader(parse func() http.Header) {
	r.header, r.head, r.parseHeader = nil, nil, parse
}

// Proto returns the protocol of the response, such as HTTP/1.1, or "" if it is not known. The
// engines of this module tell it, but not from other processes.
func (r *Result) Proto() string {
	if r.conn == nil {
		return ""
	}
	return r.conn.proto
}

// RemoteAddr returns the address that the response came from: the server's, or a proxy's. It is the
// zero AddrPort if it is not known: only [Client] tells it, for TCP, and not from other processes.
func (r *Result) RemoteAddr() (addr netip.AddrPort) {
	if r.conn != nil {
		addr = r.conn.remoteAddr
	}
	return addr
}

// A connInfo is what a Result tells of its connection. It is the same for all Results of one.
type connInfo struct {
	proto      string
	remoteAddr netip.AddrPort
}

// Decode stores the JSON document in the body in the value that v points to. It returns r.Err if
// that is set, and an error of kind [ErrDecode] if the body is not one JSON document that fits v.
// It does not look at the status, since errors too come as JSON: check [Result.OK] first.
func (r *Result) Decode(v any) error {
	if r.Err != nil {
		return r.Err
	}
	if err := json.Unmarshal(r.Body, v); err != nil {
		return newError(ErrDecode, r.Request, redact(err))
	}
	return nil
}

// A Doer performs one request. It is called by several goroutines at once, and returns soon after
// ctx is done. Strategies set the Result's Request.
type Doer interface {
	Do(ctx context.Context, req *Request) Result
}

// A DoerFunc is a function that is a [Doer].
type DoerFunc func(ctx context.Context, req *Request) Result

// Do calls f.
func (f DoerFunc) Do(ctx context.Context, req *Request) Result { return f(ctx, req) }

// A BatchDoer can also send several requests before it reads the first response. [Pipeline] uses
// it.
type BatchDoer interface {
	Doer
	// DoBatch performs reqs, all for one scheme and host, and calls yield once with the Result of
	// each, in any order, from one goroutine at a time, and not after it has returned. The Results'
	// Request is one of reqs.
	DoBatch(ctx context.Context, reqs []*Request, yield func(Result))
}

// doerOr returns d, or [DefaultClient] if d is nil.
func doerOr(d Doer) Doer {
	if d == nil {
		return DefaultClient
	}
	return d
}
