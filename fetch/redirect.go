package fetch

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// redirect returns the request that resp, the answer to hreq, asks for; nil if
// resp is itself the answer; or an error of kind ErrRedirect.
//
// The rules are those of RFC 9110 §15.4 as browsers keep them: 307 and 308 repeat the
// request; 303 turns every method but HEAD into GET, 301 and 302 only POST.
func (c *Client) redirect(a *attempt, hreq *http.Request, req *Request, resp *http.Response, hops int) (*http.Request, error) {
	repeat := false
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		repeat = true
	default:
		return nil, nil
	}
	locations := resp.Header["Location"]
	if c.MaxRedirects < 0 || len(locations) == 0 || locations[0] == "" {
		return nil, nil
	}
	location := locations[0]
	if slices.ContainsFunc(locations, func(l string) bool { return l != location }) {
		return nil, &Error{Kind: ErrRedirect, Err: errors.New("two different Locations")}
	}
	if most := c.maxRedirects(); hops >= most {
		return nil, &Error{Kind: ErrRedirect, Err: fmt.Errorf("more than %d redirects", most)}
	}
	u, err := hreq.URL.Parse(location)
	if err == nil {
		u, err = url.Parse(u.String()) // which is stricter about a host once it knows the scheme
	}
	if err != nil {
		return nil, &Error{Kind: ErrRedirect, Err: errors.New("malformed Location")}
	}
	if err := checkURL(u.String(), u); err != nil {
		return nil, &Error{Kind: ErrRedirect, Err: fmt.Errorf("its Location: %w", err)}
	}
	if hreq.URL.Scheme == "https" && u.Scheme == "http" && !c.AllowDowngrade {
		return nil, &Error{Kind: ErrRedirect, Err: errors.New("from https to http: set AllowDowngrade if that may be")}
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
	next, err := http.NewRequestWithContext(newHop(a), method, "", nil)
	if err != nil {
		return nil, err // not reached: the method is hreq's, or GET
	}
	next.URL, next.Host = u, u.Host
	if sameOrigin(hreq.URL, u) {
		next.Header, next.Host = hreq.Header, hreq.Host
	} else {
		c.keep(next.Header, req.Header)
	}
	if !repeat && len(req.Body) > 0 {
		next.Header = withoutBodyFields(next.Header)
	}
	if repeat && hreq.Body != nil {
		setBody(next, req.Body)
	}
	return next, nil
}

// sameOrigin reports whether a and b have the same scheme, host and port (RFC 6454 §4). Of names
// that are not ASCII only the same spelling counts: what Unicode takes for one letter in two
// cases may be two hosts.
func sameOrigin(a, b *url.URL) bool {
	to, from := origin{a.Scheme, a.Host}.addr(), origin{b.Scheme, b.Host}.addr()
	return a.Scheme == b.Scheme && (to == from || isASCII(to) && isASCII(from) && strings.EqualFold(to, from))
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// keep adds to h those of the caller's header fields that every origin may have.
func (c *Client) keep(h, callers http.Header) {
	for _, field := range c.KeepHeaders {
		field = http.CanonicalHeaderKey(field)
		if values := callers[field]; values != nil && field != "Host" {
			h[field] = values
		}
	}
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
	return cmp.Or(c.MaxRedirects, 10)
}
