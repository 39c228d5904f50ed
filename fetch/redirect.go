package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// redirect returns the request that resp, the answer to hreq, asks for; nil if
// resp is itself the answer; or an error of kind ErrRedirect.
//
// The rules are those of RFC 9110 §15.4 as browsers keep them: 307 and 308 repeat the
// request; 303 turns every method but HEAD into GET, 301 and 302 only POST.
func (c *Client) redirect(hreq *http.Request, req *Request, resp *http.Response, hops int) (*http.Request, error) {
	repeat := false
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		repeat = true
	default:
		return nil, nil
	}
	location := resp.Header.Get("Location")
	if c.MaxRedirects < 0 || location == "" {
		return nil, nil
	}
	if most := c.maxRedirects(); hops >= most {
		return nil, &Error{Kind: ErrRedirect, Err: fmt.Errorf("more than %d redirects", most)}
	}
	ref, err := url.Parse(location)
	if err != nil {
		return nil, &Error{Kind: ErrRedirect, Err: errors.New("malformed Location")}
	}
	u := hreq.URL.ResolveReference(ref)
	if err := checkURL(u.String(), u); err != nil {
		return nil, &Error{Kind: ErrRedirect, Err: fmt.Errorf("its Location: %w", err)}
	}
	u.User = nil
	escapeSpaces(u)

	method := hreq.Method
	switch {
	case repeat:
	case resp.StatusCode == http.StatusSeeOther && method != http.MethodHead, method == http.MethodPost:
		method = http.MethodGet
	default:
		repeat = true
	}
	h := hreq.Context().(*hop)
	next, err := http.NewRequestWithContext(&hop{Context: h.Context, caller: h.caller}, method, "", nil)
	if err != nil {
		return nil, err // not reached: the method is hreq's, or GET
	}
	next.URL, next.Host = u, u.Host
	if hreq.URL.Scheme == u.Scheme && hreq.URL.Host == u.Host {
		next.Header, next.Host = hreq.Header, hreq.Host
		if !repeat && len(req.Body) > 0 {
			next.Header = withoutBodyFields(hreq.Header)
		}
	}
	if repeat && hreq.Body != nil {
		setBody(next, req.Body)
	}
	return next, nil
}

// withoutBodyFields returns h less the fields that describe a body.
func withoutBodyFields(h http.Header) http.Header {
	h = h.Clone()
	for _, field := range []string{"Content-Type", "Content-Encoding", "Content-Language", "Content-Location", "Content-Length"} {
		h.Del(field)
	}
	return h
}

func (c *Client) maxRedirects() int {
	if c.MaxRedirects == 0 {
		return 10
	}
	return c.MaxRedirects
}
