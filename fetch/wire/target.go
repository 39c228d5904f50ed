package wire

import (
	"errors"
	"net/url"
	"strings"

	"fetchbench/fetch/internal/rules"
)

// A target is where a request goes, and what it asks for there.
type target struct {
	origin rules.Origin
	path   string // with the query: what stands in the request line
}

// split takes raw apart, if it is a URL of the usual kind, of which nothing has to be changed
// before it is sent: rules.ParseURL would accept it, and its String and RequestURI return the same.
func split(raw string) (t target, ok bool) {
	switch {
	case len(raw) > rules.MaxURL:
		return t, false
	case strings.HasPrefix(raw, "http://"):
		t.origin.Scheme = "http"
	case strings.HasPrefix(raw, "https://"):
		t.origin.Scheme = "https"
	default:
		return t, false
	}
	begin := len(t.origin.Scheme) + len("://")
	i := begin
	for i < len(raw) && inHost[raw[i]] {
		i++
	}
	if i == begin {
		return t, false
	}
	if i < len(raw) && raw[i] == ':' {
		i++
		port, digits := 0, i
		for ; i < len(raw) && i < digits+5 && raw[i] >= '0' && raw[i] <= '9'; i++ {
			port = 10*port + int(raw[i]-'0')
		}
		if port < 1 || port > 65535 {
			return t, false
		}
	}
	end := i
	if i == len(raw) || raw[i] != '/' {
		return t, false
	}
	for i < len(raw) && inPath[raw[i]] {
		i++
	}
	if i < len(raw) && raw[i] == '?' {
		for i < len(raw) && raw[i] > ' ' && raw[i] < 0x7f && raw[i] != '#' {
			i++
		}
	}
	t.origin.Host, t.path = raw[begin:end], raw[end:]
	return t, i == len(raw)
}

// inHost and inPath are the characters that a URL may have there as they are.
var (
	inHost = set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._")
	inPath = set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~$&+,/:;=@")
)

func set(chars string) (s [256]bool) {
	for i := range len(chars) {
		s[chars[i]] = true
	}
	return s
}

// targetOf returns u, which is one of rules.ParseURL, as a target.
func targetOf(u *url.URL) (target, error) {
	if !isASCII(u.Host) {
		return target{}, errors.New("the host is not ASCII: write it in Punycode")
	}
	return target{rules.Origin{Scheme: u.Scheme, Host: u.Host}, u.RequestURI()}, nil
}

// isASCII reports whether s is nothing but printable ASCII characters.
func isASCII(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// withoutZone returns host less the zone of an IPv6 address, which means something on this machine
// only.
func withoutZone(host string) string {
	if !strings.HasPrefix(host, "[") {
		return host
	}
	i, j := strings.IndexByte(host, '%'), strings.IndexByte(host, ']')
	if i < 0 || j < i {
		return host
	}
	return host[:i] + host[j:]
}
