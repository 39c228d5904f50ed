package http1

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchbench/fetch/internal/rules"
)

// A Request is a request that [rules.CheckRequest] accepts.
type Request struct {
	Method string
	Target string // what the request line names: a path with its query, or for a proxy a URL
	Host   string
	Header http.Header
	Body   []byte
	// ProxyAuthorization is the field of that name, unless it is empty or Header has one.
	ProxyAuthorization string
	Close              bool // ask the server to close the connection

	closes bool // the header asks for that
	gzip   bool // gzip was asked for, and is to be decoded
}

// small is the size in bytes of the largest request that is put together before it is written.
const small = 16 << 10

// Send has the first read write req, after what was sent before, and reports whether the server is
// likely to take more in the same write.
func (c *Conn) Send(req *Request) (more bool) {
	several := c.out != nil
	if !several {
		c.buf = c.buf[:0]
	}
	req.closes = asksToClose(req.Header)
	req.gzip = req.asksForGzip()
	c.buf = req.appendHead(c.buf)
	hasBody := len(req.Body) > 0
	switch {
	case hasBody && len(c.buf) <= small && strings.EqualFold(req.Header.Get("Expect"), "100-continue"):
		c.held = req.Body
		c.mu.Lock()
		c.holdEnd = time.Now().Add(continueTimeout)
		c.armStallLocked(time.Now())
		c.mu.Unlock()
	case len(c.buf)+len(req.Body) <= small:
		c.buf = append(c.buf, req.Body...)
		c.concurrent = c.raw == nil && (hasBody || several)
	default:
		c.body = req.Body
		c.concurrent = hasBody || c.raw == nil
	}
	c.out = c.buf
	return len(c.buf) <= small
}

// ours are the header fields that are written whether the caller has them or not, or never are.
var ours = map[string]bool{"Host": true, "User-Agent": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true}

// appendHead appends the head of req to b.
func (req *Request) appendHead(b []byte) []byte {
	b = append(b, req.Method...)
	b = append(b, ' ')
	b = append(b, req.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, req.Host...)
	b = append(b, "\r\n"...)
	h := req.Header
	if agents, ok := h["User-Agent"]; !ok {
		b = append(b, "User-Agent: fetchbench\r\n"...)
	} else if len(agents) > 0 && agents[0] != "" {
		b = appendField(b, "User-Agent", agents[0])
	}
	switch {
	case len(req.Body) > 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(req.Body)), 10)
		b = append(b, "\r\n"...)
	case req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
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
	if req.gzip {
		b = append(b, "Accept-Encoding: gzip\r\n"...)
	}
	if req.ProxyAuthorization != "" && h.Get("Proxy-Authorization") == "" {
		b = appendField(b, "Proxy-Authorization", req.ProxyAuthorization)
	}
	if req.Close && !req.closes {
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

// asksForGzip reports whether gzip is asked for without the caller's doing, as net/http does: not
// for a part of a body, nor for none.
func (req *Request) asksForGzip() bool {
	return req.Method != http.MethodHead && (len(req.Header) == 0 ||
		req.Header.Get("Accept-Encoding") == "" && req.Header.Get("Range") == "")
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

// MayShare reports whether req may be sent together with others, before their responses: it may be
// sent twice, and is none of those whose responses many servers get wrong then.
func (req *Request) MayShare() bool {
	if len(req.Body) > 0 || req.Method == http.MethodHead || asksToClose(req.Header) || !rules.Repeatable(req.Method, req.Header) {
		return false
	}
	for name := range req.Header {
		if len(name) > 3 && strings.EqualFold(name[:3], "If-") {
			return false
		}
	}
	return true
}
