package fetch

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-cleanhttp"
)

// DefaultClient is the [Doer] of a [Fetcher] that has none.
var DefaultClient = &Client{}

// A Client is the default [Doer], over net/http: HTTP/1.1 and HTTP/2, TLS, and
// the proxy that the environment names. It asks for gzip and decodes it, unless the request
// has an Accept-Encoding of its own; reads each body to its end; and keeps connections for
// the next request. The zero value is ready. Its methods may be called concurrently;
// its fields must not change, and it must not be copied, after the first of them.
//
// User info in a URL is not sent. A request whose method is idempotent is sent again by
// net/http itself if a kept connection proves to be closed; Attempts does not count that.
type Client struct {
	// Timeout bounds one attempt from the first moment to the end of the body, redirects
	// included. 0 means 30 s; a negative value means no limit but the context's.
	Timeout time.Duration
	// MaxBody is the size in bytes of the largest body that is accepted, counted after
	// decompression; a larger one is an [ErrTooLarge]. 0 means 10 MiB; a negative value, no limit.
	MaxBody int64
	// MaxRedirects is how many redirects are followed for one request; one more is
	// an [ErrRedirect]. 0 means 10; a negative value means that none is followed, and the
	// redirect itself is the result. A redirect to another origin (scheme, host or
	// port) is followed without any of the caller's header fields.
	MaxRedirects int
	// Transport makes the connections; the Client uses a clone of it. nil means one of [NewTransport].
	Transport *http.Transport

	once      sync.Once
	transport *http.Transport
	dialer    dialer       // transport's
	http      *http.Client // instead of transport, if not nil: see HTTP
}

// NewTransport returns a transport from go-cleanhttp with its own connections, made
// fit for concurrent fetching: where cleanhttp keeps GOMAXPROCS+1 idle connections to
// a host and throws further ones away, this one keeps all, for 90 s.
func NewTransport() *http.Transport {
	t := cleanhttp.DefaultPooledTransport()
	t.MaxIdleConns = 0 // no limit
	t.MaxIdleConnsPerHost = maxLimit
	return t
}

// HTTP returns a [Doer] that performs requests by c.Do, with c's transport, cookies,
// redirect policy and timeout; nil means [http.DefaultClient]. Of the fields of
// the [Client] that it returns, Timeout (none, unless set) and MaxBody apply.
//
// A transport that nobody tuned throws most connections away: see [NewTransport].
func HTTP(c *http.Client) *Client {
	if c == nil {
		c = http.DefaultClient
	}
	return &Client{Timeout: -1, http: c}
}

// Do implements [Doer].
func (c *Client) Do(ctx context.Context, req *Request) Result {
	res := Result{Request: req}
	// Its end is what a dial that is no longer needed goes by, so there is always one.
	var attempt context.Context
	var cancel context.CancelFunc
	if d := c.timeout(); d > 0 {
		attempt, cancel = context.WithTimeout(ctx, d)
	} else {
		attempt, cancel = context.WithCancel(ctx)
	}
	defer cancel()
	hreq, err := newHTTPRequest(&hop{Context: attempt, caller: ctx}, req)
	if err != nil {
		res.Err = newError(ErrBadURL, req, err)
		return res
	}
	if c.http != nil {
		hreq.Header = hreq.Header.Clone() // its cookie jar writes to it
	}
	res.Attempts = 1
	begun := time.Now()
	err = c.exchange(hreq, req, &res)
	res.Duration = time.Since(begun)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		res.Err = contextError(ctx, req)
	case attempt.Err() != nil:
		res.Err = newError(ErrTimeout, req, fmt.Errorf("no whole answer in %v", c.timeout()))
	default:
		res.Err = classify(req, err)
		if KindOf(res.Err) == ErrBadURL {
			res.Attempts = 0 // net/http refused it before any I/O
		}
	}
	return res
}

// CloseIdleConnections closes the connections that no request is using.
func (c *Client) CloseIdleConnections() {
	if c.http != nil {
		c.http.CloseIdleConnections()
		return
	}
	c.once.Do(c.init)
	c.transport.CloseIdleConnections()
}

// newHTTPRequest checks r and translates it.
func newHTTPRequest(ctx context.Context, r *Request) (*http.Request, error) {
	hreq, err := http.NewRequestWithContext(ctx, r.Method, r.URL, nil)
	if _, ok := errors.AsType[*url.Error](err); ok {
		return nil, errMalformed
	}
	if err != nil {
		return nil, errors.New("invalid method")
	}
	if err := checkURL(r.URL, hreq.URL); err != nil {
		return nil, err
	}
	hreq.URL.User = nil
	escapeSpaces(hreq.URL)
	if r.Header != nil {
		hreq.Header = r.Header
		if h := r.Header.Get("Host"); h != "" {
			// Of one that is not valid, net/http would send what is left of it, perhaps nothing.
			if u, err := url.Parse("http://" + h); err != nil || u.Host != h || u.Hostname() == "" || strings.ContainsAny(h, `"<>`) {
				return nil, errors.New("invalid header field value for Host")
			}
			hreq.Host = h
		}
	}
	setBody(hreq, r.Body)
	return hreq, nil
}

// setBody makes body the one of hreq, in the way that lets a transport send it again.
func setBody(hreq *http.Request, body []byte) {
	if len(body) == 0 {
		return
	}
	hreq.ContentLength = int64(len(body))
	hreq.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	hreq.Body, _ = hreq.GetBody()
}

// exchange sends hreq and follows redirects, and puts the answer into res.
func (c *Client) exchange(hreq *http.Request, req *Request, res *Result) error {
	if c.http != nil {
		resp, err := c.http.Do(hreq)
		if err != nil && resp != nil { // only if its redirect policy refused
			res.Status, res.header = resp.StatusCode, resp.Header
			return &Error{Kind: ErrRedirect, Err: errors.Unwrap(err)}
		}
		if err != nil {
			return err
		}
		return c.receive(resp, res)
	}
	c.once.Do(c.init)
	for hops := 0; hreq != nil; hops++ {
		next, err := c.send(hreq, req, res, hops)
		if err != nil {
			return err
		}
		hreq = next
	}
	return nil
}

// send sends hreq and puts the answer into res, or returns the request that it redirects to.
func (c *Client) send(hreq *http.Request, req *Request, res *Result, hops int) (*http.Request, error) {
	h := hreq.Context().(*hop)
	c.dialer.enter(h, origin{hreq.URL.Scheme, hreq.URL.Host})
	defer c.dialer.leave(h)
	resp, err := c.transport.RoundTrip(hreq)
	if err != nil {
		res.Status, res.header = 0, nil
		return nil, err
	}
	next, err := c.redirect(hreq, req, resp, hops)
	if next == nil && err == nil {
		return nil, c.receive(resp, res)
	}
	res.Status, res.header = resp.StatusCode, resp.Header
	drain(resp.Body)
	return next, err
}

// receive puts resp into res.
func (c *Client) receive(resp *http.Response, res *Result) (err error) {
	res.Status, res.header = resp.StatusCode, resp.Header
	res.Body, err = readBody(resp, c.maxBody())
	return err
}

// readBody reads the body to its end, which frees the connection for the next
// request, or closes it after most bytes, which closes the connection.
func readBody(resp *http.Response, most int64) ([]byte, error) {
	defer resp.Body.Close()
	tooLarge := func() error { return &Error{Kind: ErrTooLarge, Err: fmt.Errorf("more than %d bytes", most)} }
	n := resp.ContentLength
	switch {
	case resp.Request.Method == http.MethodHead, resp.StatusCode == http.StatusNoContent, resp.StatusCode == http.StatusNotModified:
		n = 0 // it is the length of the body that another answer would have
	}
	if most >= 0 && n > most {
		return nil, tooLarge()
	}
	// A length is a claim: up to 1 MiB it is trusted for the size of the buffer.
	if n >= 0 && n <= 1<<20 {
		body := make([]byte, n)
		if _, err := io.ReadFull(resp.Body, body); err != nil {
			return nil, err
		}
		if resp.ProtoMajor > 1 {
			// The end of an HTTP/2 stream may come in a frame of its own. To close the
			// body without having seen it would reset the stream.
			_, _ = io.Copy(io.Discard, resp.Body)
		}
		return body, nil
	}
	if most < 0 || most == math.MaxInt64 {
		return io.ReadAll(resp.Body)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > most {
		return nil, tooLarge()
	}
	return body, nil
}

// drain closes a body that nobody wants, after its end if that is near, so that
// the connection can serve the next request.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 16<<10)
	body.Close()
}

func (c *Client) init() {
	if c.Transport == nil {
		c.transport = NewTransport()
	} else {
		c.transport = c.Transport.Clone()
		// A transport that has a DialContext does not speak HTTP/2 unless it is told to.
		// Clone has made the original ready: it has this entry if it speaks it.
		if c.Transport.TLSNextProto["h2"] != nil {
			c.transport.ForceAttemptHTTP2 = true
		}
	}
	c.dialer.dial = c.transport.DialContext
	//lint:ignore SA1019 a caller's transport may have it, and it must not be lost
	if dial := c.transport.Dial; c.dialer.dial == nil && dial != nil {
		c.dialer.dial = func(_ context.Context, network, addr string) (net.Conn, error) { return dial(network, addr) }
	}
	if c.dialer.dial == nil {
		c.dialer.dial = new(net.Dialer).DialContext
	}
	c.transport.DialContext = c.dialer.DialContext
}

func (c *Client) timeout() time.Duration {
	if c.Timeout == 0 {
		return 30 * time.Second
	}
	return c.Timeout
}

func (c *Client) maxBody() int64 {
	if c.MaxBody == 0 {
		return 10 << 20
	}
	return c.MaxBody
}

// classify returns err, which net/http gave for r, as an *Error.
func classify(r *Request, err error) *Error {
	// http.Client wraps every error in one that shows the whole URL.
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if e, ok := errors.AsType[*Error](err); ok { // from exchange itself
		return newError(e.Kind, r, e.Err)
	}
	if advice := localLimit(err); advice != "" {
		return newError(ErrDial, r, fmt.Errorf("%s: %w", advice, err))
	}
	kind := kindOf(err)
	if field, ok := strings.CutPrefix(err.Error(), "net/http: invalid header field value for "); ok {
		// The field's name is valid, so it may be shown.
		err = errors.New("invalid header field value for " + shorten(strings.Trim(field, `"`), 64))
	}
	return newError(kind, r, err)
}

// localLimit tells what to do if err is this machine's fault and not the URL's, or "".
func localLimit(err error) string {
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "too many open files: lower the strategy's limit or raise ulimit -n"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "no free local port: lower the strategy's limit, or let connections be reused"
	}
	return ""
}

// kindOf finds the kind of an error of net/http and what is below it.
func kindOf(err error) Kind {
	_, dns := errors.AsType[*net.DNSError](err)
	netErr, isNet := errors.AsType[net.Error](err)
	opErr, isOp := errors.AsType[*net.OpError](err)
	text, _, _ := strings.Cut(err.Error(), `"`) // what is quoted is the server's
	switch {
	case dns:
		return ErrDNS
	case isNet && netErr.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return ErrTimeout
	case isTLS(err), strings.Contains(text, "tls: "), strings.Contains(text, "HTTP response to HTTPS"):
		return ErrTLS
	case isOp && (opErr.Op == "dial" || opErr.Op == "proxyconnect"):
		return ErrDial
	case errors.Is(err, io.ErrUnexpectedEOF):
		return ErrTruncated
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		strings.Contains(text, "server closed"):
		return ErrReset
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), isFlate(err):
		return ErrDecode
	case strings.HasPrefix(text, "net/http: invalid header field"), strings.HasPrefix(text, "http: invalid Host header"):
		return ErrBadURL
	case strings.HasPrefix(text, "stopped after"), // http.Client's redirects
		strings.HasPrefix(text, "failed to parse Location"),
		strings.HasPrefix(text, "unsupported protocol scheme"),
		strings.HasPrefix(text, "http: no Host in request URL"):
		return ErrRedirect
	}
	return ErrProtocol
}

func isTLS(err error) bool {
	_, cert := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	return cert || record || alert
}

func isFlate(err error) bool {
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	return corrupt
}
