package fetch

import (
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
	return newHopRequest(a, next, req.Body)
}

// newHopRequest returns the request for h, with body if it goes along.
func newHopRequest(a *attempt, h *rules.Hop, body []byte) (*http.Request, error) {
	hreq, err := http.NewRequestWithContext(newHop(a), h.Method, "", nil)
	if err != nil {
		return nil, err // not reached: the method is one that was accepted before, or GET
	}
	hreq.URL, hreq.Host, hreq.Header = h.URL, h.Host, h.Header
	if h.Body {
		setBody(hreq, body)
	}
	return hreq, nil
}
