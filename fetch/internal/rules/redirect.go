package rules

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
)

// A Hop is one of the HTTP requests that a caller's request leads to.
type Hop struct {
	Method string
	URL    *url.URL // from ParseURL
	Host   string   // the Host to send
	Header http.Header
	Body   bool // the caller's body goes along
}

// Redirects says which redirects are followed.
type Redirects struct {
	Max            int // negative: none is followed
	KeepHeaders    []string
	AllowDowngrade bool
}

// Next returns the hop that an answer to hop with that status and header asks for, nil if it is
// itself the answer, or why the redirect is refused. hop is the n-th, from 0, of
// a request with the header callers.
//
// The rules are those of RFC 9110 §15.4 as browsers keep them: 307 and 308 repeat the
// request; 303 turns every method but HEAD into GET, 301 and 302 only POST.
func (r *Redirects) Next(hop *Hop, n int, callers http.Header, status int, header http.Header) (*Hop, error) {
	repeat := false
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		repeat = true
	default:
		return nil, nil
	}
	locations := header["Location"]
	if r.Max < 0 || len(locations) == 0 || locations[0] == "" {
		return nil, nil
	}
	location := locations[0]
	if slices.ContainsFunc(locations, func(l string) bool { return l != location }) {
		return nil, errors.New("two different Locations")
	}
	if n >= r.Max {
		return nil, fmt.Errorf("more than %d redirects: see MaxRedirects", r.Max)
	}
	u, err := hop.URL.Parse(location)
	if err == nil {
		u, err = url.Parse(u.String()) // which is stricter about a host once it knows the scheme
	}
	if err != nil {
		return nil, errors.New("malformed Location")
	}
	if err := checkURL(u.String(), u); err != nil {
		return nil, fmt.Errorf("its Location: %w", err)
	}
	if hop.URL.Scheme == "https" && u.Scheme == "http" && !r.AllowDowngrade {
		return nil, errors.New("from https to http: set AllowDowngrade to allow it")
	}
	if err := clean(u); err != nil {
		return nil, fmt.Errorf("its Location: %w", err)
	}

	next := &Hop{Method: hop.Method, URL: u, Host: u.Host, Header: http.Header{}}
	switch {
	case repeat:
	case status == http.StatusSeeOther && hop.Method != http.MethodHead, hop.Method == http.MethodPost:
		next.Method = http.MethodGet
	default:
		repeat = true
	}
	if sameOrigin(hop.URL, u) {
		next.Header, next.Host = hop.Header, hop.Host
	} else {
		r.keep(next.Header, callers)
	}
	next.Body = repeat && hop.Body
	if !repeat {
		next.Header = withoutBodyFields(next.Header)
	}
	return next, nil
}

// keep adds to h those of the caller's header fields that every origin may have.
func (r *Redirects) keep(h, callers http.Header) {
	for _, field := range r.KeepHeaders {
		field = http.CanonicalHeaderKey(field)
		if values := callers[field]; values != nil && field != "Host" {
			h[field] = values
		}
	}
}

// withoutBodyFields returns h less the fields that describe a body.
func withoutBodyFields(h http.Header) http.Header {
	h = maps.Clone(h)
	for _, field := range []string{"Content-Type", "Content-Encoding", "Content-Language", "Content-Location", "Content-Length"} {
		h.Del(field)
	}
	return h
}
