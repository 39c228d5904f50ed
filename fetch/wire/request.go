package wire

import (
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"fetchbench/fetch/internal/rules"
)

// checkRequest returns why a request with that method and header cannot be sent, or nil.
func checkRequest(method string, h http.Header) error {
	if !rules.ValidName(method) {
		return errors.New("invalid method")
	}
	if method == http.MethodConnect {
		return errors.New("CONNECT asks for a tunnel, which there is none of here")
	}
	if h == nil {
		return nil
	}
	if err := rules.CheckHeader(h); err != nil {
		return err
	}
	if !isASCII(h.Get("Host")) {
		return rules.InvalidValue("Host")
	}
	for name, values := range h {
		if !rules.ValidName(name) {
			return errors.New("invalid header field name")
		}
		for _, v := range values {
			if !rules.ValidValue(v) {
				return rules.InvalidValue(name)
			}
		}
	}
	return nil
}

// ours are the header fields that are written whether the caller has them or not, or never are.
var ours = map[string]bool{"Host": true, "User-Agent": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true}

// appendHead appends the head of x's request to b.
func (x *exchange) appendHead(b []byte) []byte {
	b = append(b, x.method...)
	b = append(b, ' ')
	b = append(b, x.target.path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, x.host...)
	b = append(b, "\r\n"...)
	h := x.header
	if agents, ok := h["User-Agent"]; !ok {
		b = append(b, "User-Agent: fetchbench\r\n"...)
	} else if len(agents) > 0 && agents[0] != "" {
		b = appendField(b, "User-Agent", agents[0])
	}
	switch {
	case len(x.body) > 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(x.body)), 10)
		b = append(b, "\r\n"...)
	case x.method == http.MethodPost || x.method == http.MethodPut || x.method == http.MethodPatch:
		b = append(b, "Content-Length: 0\r\n"...) // RFC 9110 §8.6
	}
	if len(h) > 0 {
		for _, name := range slices.Sorted(maps.Keys(h)) {
			if !ours[name] {
				for _, v := range h[name] {
					b = appendField(b, name, v)
				}
			}
		}
	}
	if x.unzip = x.asksForGzip(); x.unzip {
		b = append(b, "Accept-Encoding: gzip\r\n"...)
	}
	if x.alone && !x.closes {
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, strings.Trim(value, " \t")...)
	return append(b, "\r\n"...)
}

// asksForGzip reports whether x asks for gzip by itself, as net/http does: not for a part of
// a body, nor for none.
func (x *exchange) asksForGzip() bool {
	return x.method != http.MethodHead && (len(x.header) == 0 ||
		x.header.Get("Accept-Encoding") == "" && x.header.Get("Range") == "")
}

// asksToClose reports whether the caller's header asks the server to close the connection.
func asksToClose(h http.Header) bool {
	for _, v := range h["Connection"] {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.Trim(token, " \t"), "close") {
				return true
			}
		}
	}
	return false
}

// withBasicAuth returns h with the user and password of a URL, unless it has an Authorization of
// its own.
func withBasicAuth(h http.Header, user, password string) http.Header {
	if h.Get("Authorization") != "" {
		return h
	}
	h = maps.Clone(h)
	if h == nil {
		h = http.Header{}
	}
	h["Authorization"] = []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}
	return h
}
