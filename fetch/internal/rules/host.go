package rules

import (
	"cmp"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// An Origin is the scheme and host of a URL as they are written, with the port if there is one. It
// need not be valid. Requests with equal Origins may share a connection.
type Origin struct{ Scheme, Host string }

// OriginOf returns the Origin of raw.
func OriginOf(raw string) Origin {
	scheme, host, _ := strings.Cut(raw, "://")
	if end := strings.IndexAny(host, "/?#"); end >= 0 {
		host = host[:end]
	}
	return Origin{scheme, host}
}

// String returns scheme://host.
func (o Origin) String() string { return o.Scheme + "://" + o.Host }

// Address returns the host and port to connect to.
func (o Origin) Address() string {
	u := url.URL{Host: o.Host}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), DefaultPort(o.Scheme)))
}

// Clone returns a copy of o that does not keep its URL in memory.
func (o Origin) Clone() Origin { return Origin{strings.Clone(o.Scheme), strings.Clone(o.Host)} }

// DefaultPort returns the port of a URL that names none.
func DefaultPort(scheme string) string {
	if strings.EqualFold(scheme, "https") {
		return "443"
	}
	return "80"
}

// A Host is the server of a URL, however that is spelled: a name or address, and a port. It need
// not be valid.
type Host struct{ Name, Port string }

// String returns name:port.
func (h Host) String() string { return net.JoinHostPort(h.Name, h.Port) }

// HostOf returns the Host of raw.
func HostOf(raw string) Host {
	o := OriginOf(raw)
	host := o.Host[strings.LastIndexByte(o.Host, '@')+1:]
	port := ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], strings.TrimLeft(host[i+1:], "0")
	}
	if strings.HasPrefix(host, "[") {
		if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			host = ip.String()
		}
	}
	return Host{strings.ToLower(strings.TrimSuffix(host, ".")), cmp.Or(port, DefaultPort(o.Scheme))}
}
