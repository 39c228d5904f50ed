package fetch

import (
	"context"
	"net/http"

	"fetchbench/fetch/internal/rules"
)

// redirect returns the request that resp, the answer to hreq, asks for; nil if
// resp is itself the answer; or an error of kind ErrRedirect.
func (c *Client) redirect(a *attempt, hreq *http.Request, req *Request, resp *http.Response, hops int) (*http.Request, error) {
	policy := rules.Redirects{Max: c.limits().MaxRedirects, KeepHeaders: c.KeepHeaders, AllowDowngrade: c.AllowDowngrade}
	hop := rules.Hop{Method: hreq.Method, URL: hreq.URL, Host: hreq.Host, Header: hreq.Header, Body: hreq.Body != nil}
	next, err := policy.Next(&hop, hops, req.Header, resp.StatusCode, resp.Header)
	if err != nil {
		return nil, &Error{Kind: ErrRedirect, Err: err}
	}
	if next == nil {
		return nil, nil
	}
	again := newHopRequest(newHop(a), next)
	if next.Body {
		setBody(again, req.Body)
	}
	return again, nil
}

// newHopRequest returns the request for h, as yet without a body.
func newHopRequest(ctx context.Context, h *rules.Hop) *http.Request {
	hreq := http.Request{Method: h.Method, URL: h.URL, Host: h.Host, Header: h.Header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if hreq.Header == nil {
		hreq.Header = http.Header{}
	}
	return hreq.WithContext(ctx)
}
