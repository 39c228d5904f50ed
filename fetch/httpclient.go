package fetch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"fetchbench/fetch/internal/conns"
	"fetchbench/fetch/internal/rules"
)

// An HTTPClient is a [Doer] that performs requests by an [http.Client], with that one's transport,
// cookies, redirect policy and timeout. It is as fast and safe as the client is; of the promises in
// SECURITY.md it keeps those about errors and bodies. The zero value is ready.
//
// A transport that was not tuned throws most connections away: see [NewTransport].
type HTTPClient struct {
	// Client performs the requests. nil means [http.DefaultClient].
	Client *http.Client
	// Timeout bounds one attempt from its start to the end of the body, redirects included, beside
	// the Client's own. 0 means no limit.
	Timeout time.Duration
	// MaxBody is the size in bytes of the largest body that is accepted, counted after
	// decompression; a larger one is an [ErrTooLarge]. 0 means 10 MiB; a negative value, no limit.
	MaxBody int64
}

// NewTransport returns a transport from go-cleanhttp with its own connections, made fit for
// concurrent fetching: where cleanhttp keeps GOMAXPROCS+1 idle connections to a host, this one
// keeps up to 512, which is also its limit for all hosts together. What a proxy responds to CONNECT
// is a [ProxyError].
func NewTransport() *http.Transport {
	t := cleanhttp.DefaultPooledTransport()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 512, 512
	t.OnProxyConnectResponse = func(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		return conns.ProxyError{Proxy: rules.SafeURL(proxy.String()), Status: resp.StatusCode}
	}
	return t
}

// Do implements [Doer].
func (c HTTPClient) Do(ctx context.Context, req *Request) Result {
	res := Result{Request: req}
	hreq, err := newHTTPRequest(req)
	if err != nil {
		res.Err = newError(ErrBadURL, req, err)
		return res
	}
	attempt, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.Timeout > 0 {
		attempt, cancel = context.WithTimeoutCause(attempt, c.Timeout, rules.TookTooLong(c.Timeout))
		defer cancel()
	}
	res.Attempts = 1
	begun := time.Now()
	err = c.do(hreq.WithContext(attempt), &res)
	res.Duration = time.Since(begun)
	if err == nil {
		return res
	}
	if limit, ok := context.Cause(attempt).(rules.TimeoutError); ok {
		err = limit
	}
	res.Body = nil
	res.Err = NewError(ctx, req, err)
	if KindOf(res.Err) == ErrBadURL {
		res.Attempts = 0 // net/http refused it before any I/O
	}
	return res
}

// CloseIdleConnections closes the client's connections that no request is using.
func (c HTTPClient) CloseIdleConnections() {
	cmp.Or(c.Client, http.DefaultClient).CloseIdleConnections()
}

// do performs hreq and puts the response into res.
func (c HTTPClient) do(hreq *http.Request, res *Result) error {
	client := *cmp.Or(c.Client, http.DefaultClient)
	check := client.CheckRedirect
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		res.setHead(next.Response) // the outcome, if its target does not respond
		if check != nil {
			return check(next, via)
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}
	resp, err := client.Do(hreq)
	if err != nil {
		if resp != nil { // only if its redirect policy refused
			res.setHead(resp)
			return &Error{Kind: ErrRedirect, Err: redact(errors.Unwrap(err))}
		}
		return err
	}
	defer resp.Body.Close()
	if err := rules.CheckHead(resp.StatusCode, resp.Header); err != nil {
		return err
	}
	res.setHead(resp)
	res.Body, err = readBody(resp, cmp.Or(c.MaxBody, defaultMaxBody))
	// Of a body that it has decoded net/http does not tell whether there was a length; and a gzip
	// stream may go on after its end. crypto/tls accepts an end that is not signed.
	res.Unverified = err == nil && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 &&
		resp.ProtoMajor == 1 && resp.Close && rules.HasBody(resp.Request.Method, resp.StatusCode)
	return err
}

// newHTTPRequest translates r for net/http.
func newHTTPRequest(r *Request) (*http.Request, error) {
	u, _, err := rules.ParseURL(r.URL)
	if err != nil {
		return nil, err
	}
	hreq := &http.Request{Method: cmp.Or(r.Method, http.MethodGet), URL: u, Host: u.Host, Header: r.Header.Clone(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if !rules.ValidName(hreq.Method) {
		return nil, errors.New("invalid method")
	}
	if r.Header == nil {
		hreq.Header = http.Header{}
	}
	if err := rules.CheckHeader(r.Header); err != nil {
		return nil, err
	}
	hreq.Host = cmp.Or(r.Header.Get("Host"), u.Host)
	if hreq.Method != http.MethodGet && hreq.Header["Idempotency-Key"] == nil && rules.Repeatable(hreq.Method, r.Header) {
		hreq.Header["Idempotency-Key"] = []string{} // which is not sent, and has net/http repeat it
	}
	if len(r.Body) > 0 {
		hreq.ContentLength = int64(len(r.Body))
		hreq.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Body)), nil }
		hreq.Body, _ = hreq.GetBody()
	}
	return hreq, nil
}

// setHead puts the head of resp into res.
func (res *Result) setHead(resp *http.Response) {
	res.Status, res.header = resp.StatusCode, resp.Header
	res.conn = &connInfo{proto: resp.Proto}
	if resp.Request.Response != nil { // the redirect that led there
		res.URL = resp.Request.URL.String()
	}
}

// readBody reads resp's body to its end, or to more than limit bytes.
func readBody(resp *http.Response, limit int64) ([]byte, error) {
	n := resp.ContentLength
	if !rules.HasBody(resp.Request.Method, resp.StatusCode) {
		n = 0 // it is the length of the body that another response would have
	}
	if limit >= 0 && n > limit {
		return nil, rules.BodyTooLarge(limit)
	}
	if n < 0 || n > rules.TrustedLength {
		return rules.ReadAll(resp.Body, limit)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(resp.Body, b); err != nil {
		return nil, err
	}
	if resp.ProtoMajor > 1 {
		// The end of an HTTP/2 stream may come in a frame of its own. To close the body without
		// having seen it would reset the stream.
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	return b, nil
}
