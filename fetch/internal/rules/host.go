package rules

import (
	"cmp"
	"net"
	"net/netip"
	"strings"
)

// Origin returns the scheme and host of an absolute URL as they are written: what
// stands before the path. Requests with equal Origins may share a connection.
func Origin(raw string) string {
	i := strings.Index(raw, "://")
	if i < 0 {
		return raw
	}
	if end := strings.IndexAny(raw[i+3:], "/?#"); end >= 0 {
		return raw[:i+3+end]
	}
	return raw
}

// A Host is who answers a URL, however that is spelled: a name or address, and a port. It need not be valid.
type Host struct{ Name, Port string }

// String returns name:port.
func (h Host) String() string { return net.JoinHostPort(h.Name, h.Port) }

// HostOf returns the Host of raw.
func HostOf(raw string) Host {
	scheme, host, _ := strings.Cut(Origin(raw), "://")
	host = host[strings.LastIndexByte(host, '@')+1:]
	port := ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], strings.TrimLeft(host[i+1:], "0")
	}
	if strings.HasPrefix(host, "[") {
		if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			host = ip.String()
		}
	}
	return Host{strings.ToLower(strings.TrimSuffix(host, ".")), cmp.Or(port, DefaultPort(scheme))}
}
