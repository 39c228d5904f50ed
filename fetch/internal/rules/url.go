package rules

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// MaxURL is the length in bytes of the longest URL that is accepted. RFC 9110 §4.1
// asks for at least 8000.
const MaxURL = 64 << 10

// ParseURL parses raw, an absolute http or https URL, into what may be sent: its user info
// is returned beside it. Its errors quote nothing of raw, which may have a password anywhere.
func ParseURL(raw string) (*url.URL, *url.Userinfo, error) {
	u, err := url.Parse(raw)
	if raw != "" && !strings.Contains(raw, "://") && (err != nil || u.Scheme == "" || isPort(u.Opaque)) {
		return nil, nil, errors.New("no scheme: it has to begin with http:// or https://")
	}
	if err != nil {
		return nil, nil, errors.New("malformed")
	}
	if err := checkURL(raw, u); err != nil {
		return nil, nil, err
	}
	user := u.User
	return u, user, clean(u)
}

// isPort reports whether opaque begins like a port: url.Parse takes localhost:8080 for a scheme and
// what follows it.
func isPort(opaque string) bool { return opaque != "" && '0' <= opaque[0] && opaque[0] <= '9' }

// clean removes from u, or escapes, what must not be sent. A host that is not ASCII becomes
// Punycode, mapped as browsers and net/http do (UTS 46).
func clean(u *url.URL) error {
	u.User = nil
	u.Host = strings.TrimSuffix(u.Host, ":")
	if name := u.Hostname(); !isASCII(name) {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil || ascii == "" { // of characters that do not show
			return errors.New("the host is not an international domain name")
		}
		u.Host = ascii + u.Host[strings.Index(u.Host, name)+len(name):]
	}
	// net/url escapes the spaces in its path; one in the query would end the URL.
	u.RawQuery = strings.ReplaceAll(u.RawQuery, " ", "%20")
	return nil
}

// checkURL returns why raw, which was parsed into u, is no absolute http or https URL, or nil.
func checkURL(raw string, u *url.URL) error {
	switch {
	case raw == "":
		return errors.New("empty")
	case len(raw) > MaxURL:
		return errors.New("longer than " + strconv.Itoa(MaxURL) + " bytes")
	}
	switch u.Scheme {
	case "http", "https":
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

// sameOrigin reports whether a and b, which are clean, have the same scheme, host and port (RFC
// 6454 §4).
func sameOrigin(a, b *url.URL) bool {
	to, from := Origin{a.Scheme, a.Host}.Address(), Origin{b.Scheme, b.Host}.Address()
	return a.Scheme == b.Scheme && strings.EqualFold(to, from)
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}
