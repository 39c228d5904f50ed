package rules

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// SafeURL returns raw without user info, query and fragment, and short enough for a line of text.
// Where raw is odd it shows rather too little than a password. What it returns it would return
// again: a part that was cut off may have made the rest look odd.
func SafeURL(raw string) string { return withoutSecrets(withoutSecrets(raw)) }

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
	return Shorten(scheme+authority+path, 256)
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

// Shorten escapes what does not print, and cuts s to at most n bytes, dots included. What
// it returns it would return again.
func Shorten(s string, n int) string {
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
