package fetch

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
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

// escapeSpaces escapes the spaces in u's query, as net/url does in its path: one that
// is sent as it is ends the URL.
func escapeSpaces(u *url.URL) { u.RawQuery = strings.ReplaceAll(u.RawQuery, " ", "%20") }

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

// safeURL returns raw without user info, query and fragment, and short enough for
// a line of text. Where raw is odd it shows rather too little than a password. What it
// returns it would return again: a part that was cut off may have made the rest look odd.
func safeURL(raw string) string { return withoutSecrets(withoutSecrets(raw)) }

func withoutSecrets(raw string) string {
	if i := strings.IndexAny(raw, "?#"); i >= 0 {
		raw = raw[:i]
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	if ok && !strings.ContainsAny(scheme, ":/@") {
		scheme += "://"
	} else {
		scheme, rest = "", raw
	}
	authority, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	authority = authority[strings.LastIndexByte(authority, '@')+1:]
	if !isHost(authority) && strings.ContainsAny(authority+path, ":@") {
		// What stands there may be a password: of http://user:pass/word@host/, say.
		authority, _, _ = strings.Cut(authority, ":")
		path = ""
	}
	return shorten(scheme+authority+path, 256)
}

// isHost reports whether authority, which has no user info, is a host, with or without a port.
func isHost(authority string) bool {
	host := authority
	if i := strings.LastIndexByte(authority, ':'); i >= 0 {
		if port := authority[i+1:]; port != "" && strings.Trim(port, "0123456789") == "" {
			host = authority[:i]
		}
	}
	return host != "" && (host[0] == '[' || !strings.Contains(host, ":"))
}

// shorten escapes what does not print, and cuts s to at most n bytes, dots included. What
// it returns it would return again.
func shorten(s string, n int) string {
	short := cut(s, n)
	if !utf8.ValidString(short) || strings.ContainsFunc(short, func(r rune) bool { return !strconv.IsPrint(r) }) {
		q := strconv.Quote(short)
		short = q[1 : len(q)-1]
	}
	if len(s) > n || len(short) > n {
		short = cut(short, n-len("...")) + "..."
	}
	return short
}

// cut returns the first n bytes of s, or less where that would split a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := n; i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:n]
}
