package rules

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// CheckRequest returns why a request with that method and header cannot be sent, or nil.
func CheckRequest(method string, h http.Header) error {
	if !ValidName(method) {
		return errors.New("invalid method")
	}
	if method == http.MethodConnect {
		return errors.New("the method is CONNECT: tunnels are not supported")
	}
	if h == nil {
		return nil
	}
	if err := CheckHeader(h); err != nil {
		return err
	}
	if !isASCII(h.Get("Host")) {
		return InvalidValue("Host")
	}
	for name, values := range h {
		if !ValidName(name) {
			return errors.New("invalid header field name")
		}
		for _, v := range values {
			if !ValidValue(v) {
				return InvalidValue(name)
			}
		}
	}
	return nil
}

// CheckHeader returns why h cannot be sent, or nil. That names and values are well formed is left to
// CheckRequest, or to net/http.
func CheckHeader(h http.Header) error {
	for name := range h {
		if canonical := http.CanonicalHeaderKey(name); canonical != name && framing[canonical] {
			return errors.New("the header field " + Shorten(name, 64) + " has to be written " + canonical)
		}
	}
	if host := h.Get("Host"); host != "" {
		// Of one that is not valid, net/http would send what is left of it, perhaps nothing.
		if u, err := url.Parse("http://" + host); err != nil || u.Host != host || u.Hostname() == "" || strings.ContainsAny(host, `"<>`) {
			return InvalidValue("Host")
		}
	}
	return nil
}

// framing are fields that engines write themselves, or act on. Under another spelling they would be
// sent as they are, beside those, and the server might see the end of the request elsewhere.
var framing = map[string]bool{
	"Accept-Encoding": true, "Authorization": true, "Connection": true, "Content-Length": true, "Expect": true,
	"Host": true, "Trailer": true, "Transfer-Encoding": true, "User-Agent": true,
}

// BasicAuth returns user as the value of an Authorization or Proxy-Authorization field (RFC 7617).
func BasicAuth(user *url.Userinfo) string {
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}

// InvalidValue returns the error for a header field whose value cannot be sent.
func InvalidValue(name string) error {
	return errors.New("invalid header field value for " + Shorten(name, 64))
}

// ValidName reports whether name is a token (RFC 9110 §5.6.2), as names of header fields and methods are.
func ValidName(name string) bool {
	for i := range len(name) {
		if !IsToken(name[i]) {
			return false
		}
	}
	return name != ""
}

// IsToken reports whether tokens may have c.
func IsToken(c byte) bool { return tokens[c] }

var tokens = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		t[c] = true
	}
	return t
}()

// ValidValue reports whether v may be the value of a header field (RFC 9110 §5.5): it has no
// control character but the tab.
func ValidValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
