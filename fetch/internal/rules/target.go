package rules

import "strings"

// SplitURL takes apart a URL of the usual kind, of which nothing has to be changed before it is
// sent: ParseURL would accept it, and its String and RequestURI return the same. It costs a tenth.
func SplitURL(raw string) (o Origin, path string, ok bool) {
	switch {
	case len(raw) > MaxURL:
		return o, "", false
	case strings.HasPrefix(raw, "http://"):
		o.Scheme = "http"
	case strings.HasPrefix(raw, "https://"):
		o.Scheme = "https"
	default:
		return o, "", false
	}
	begin := len(o.Scheme) + len("://")
	i := begin
	for i < len(raw) && inHost[raw[i]] {
		i++
	}
	if i == begin {
		return o, "", false
	}
	if i < len(raw) && raw[i] == ':' {
		i++
		port, digits := 0, i
		for ; i < len(raw) && i < digits+5 && raw[i] >= '0' && raw[i] <= '9'; i++ {
			port = 10*port + int(raw[i]-'0')
		}
		if port < 1 || port > 65535 {
			return o, "", false
		}
	}
	end := i
	if i == len(raw) || raw[i] != '/' {
		return o, "", false
	}
	for i < len(raw) && inPath[raw[i]] {
		i++
	}
	if i < len(raw) && raw[i] == '?' {
		for i < len(raw) && raw[i] > ' ' && raw[i] < 0x7f && raw[i] != '#' {
			i++
		}
	}
	o.Host = raw[begin:end]
	return o, raw[end:], i == len(raw)
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

// WithoutZone returns host less the zone of an IPv6 address, which has a meaning on this machine
// alone.
func WithoutZone(host string) string {
	if !strings.HasPrefix(host, "[") {
		return host
	}
	i, j := strings.IndexByte(host, '%'), strings.LastIndexByte(host, ']') // a zone may have one too
	if i < 0 || j < i {
		return host
	}
	return host[:i] + host[j:]
}
