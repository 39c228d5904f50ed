package fetch

import (
	"strings"

	"fetchbench/fetch/internal/rules"
)

// safeURL returns raw without user info, query and fragment, and short enough for a line of text.
// Where raw is odd it shows rather too little than a password. What it returns it would return
// again: a part that was cut off may have made the rest look odd.
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
	return rules.Shorten(scheme+authority+path, 256)
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
