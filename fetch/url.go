package fetch

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
)

var errMalformed = errors.New("malformed")

// checkURL returns why raw, which was parsed into u, is no absolute http or https URL,
// or nil. Its errors quote nothing of the URL, which may have a password anywhere.
func checkURL(raw string, u *url.URL) error {
	switch {
	case raw == "":
		return errors.New("empty")
	case len(raw) > maxURL:
		return errors.New("longer than " + strconv.Itoa(maxURL) + " bytes")
	}
	switch u.Scheme {
	case "http", "https":
	case "":
		return errors.New("no scheme: it has to begin with http:// or https://")
	default:
		return errors.New("the scheme is neither http nor https")
	}
	// url.Parse takes ":80" for a host; a dialer takes it for this machine.
	if u.Hostname() == "" {
		return errors.New("no host")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return errors.New("the port is not between 1 and 65535")
		}
	}
	return nil
}

// hostOf returns the scheme and host of an absolute URL as they are written: what
// stands before the path. Requests with equal hostOf may share a connection.
func hostOf(raw string) string {
	i := strings.Index(raw, "://")
	if i < 0 {
		return raw
	}
	if end := strings.IndexAny(raw[i+3:], "/?#"); end >= 0 {
		return raw[:i+3+end]
	}
	return raw
}

// safeURL returns raw without user info, query and fragment, and short enough
// for a line of text. It makes no error of a URL that does not parse.
func safeURL(raw string) string {
	const long = 256
	s := raw
	if len(s) > maxURL {
		s = s[:maxURL]
	}
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		s = s[:i]
	}
	// Everything up to the last @ of the authority goes; where the URL is odd
	// (no scheme, or an @ in the path), rather too much than too little.
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		scheme := ""
		if i := strings.Index(s, "://"); i >= 0 && i < at {
			scheme = s[:i+3]
			if authority := s[i+3:]; strings.IndexByte(authority, '/') >= 0 && strings.IndexByte(authority, '/') < at-i-3 {
				// The @ may belong to the path. Cut the user info alone if there is one.
				path := strings.IndexByte(authority, '/')
				user := strings.LastIndexByte(authority[:path], '@')
				return shorten(scheme+authority[user+1:], long)
			}
		}
		s = scheme + s[at+1:]
	}
	return shorten(s, long)
}

// shorten cuts s to at most n bytes, and escapes what does not print.
func shorten(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "..."
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}
