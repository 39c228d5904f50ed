package http1

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"net/textproto"
	"strings"

	"fetchbench/fetch/internal/rules"
)

// A head is what parseHead understands of the head of a response.
type head struct {
	status int
	length int64 // of the body, by Content-Length; -1: there is none
	http11 bool  // the version is 1.1, and not 1.0
	close  bool  // there is a Connection: close
	stay   bool  // there is a Connection: keep-alive
	zipped bool  // its Content-Encoding is gzip
}

// keepsAlive reports whether the connection stays open (RFC 9112 §9.3).
func (h *head) keepsAlive() bool { return !h.close && (h.http11 || h.stay) }

// A verdict is what parseHead makes of a head.
type verdict int

const (
	partial verdict = iota // there is more to come
	common                 // it is understood
	odd                    // it is for net/http's reader to understand, or to refuse
)

// parseHead parses the response's head that b begins with, and returns its size in bytes. It accepts
// the common kind alone, and that strictly: a status line of HTTP/1.1 or 1.0 with a final status;
// header lines that end in CRLF, have a token for a name and no control characters in the value; and
// of the fields that say where the response ends, one Content-Length and Connection: close or
// keep-alive. What it accepts, net/http reads as the same.
func parseHead(b []byte) (h head, size int, v verdict) {
	line, rest, v := cutLine(b)
	if v != common {
		if !isStatusLine(line, false) {
			v = odd
		}
		return h, 0, v
	}
	if !isStatusLine(line, true) {
		return h, 0, odd
	}
	h.http11 = line[7] == '1'
	h.length = -1
	h.status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
	for {
		line, rest, v = cutLine(rest)
		if v != common {
			return h, 0, v
		}
		if len(line) == 0 {
			return h, len(b) - len(rest), common
		}
		colon := 0
		for colon < len(line) && rules.IsToken(line[colon]) {
			colon++
		}
		if colon == 0 || colon == len(line) || line[colon] != ':' || !h.field(line[:colon], trim(line[colon+1:])) {
			return h, 0, odd
		}
	}
}

// cutLine cuts a line off b. It is odd if it does not end in CRLF, or has a control character other
// than a tab. If it is partial, line is what there is of it.
func cutLine(b []byte) (line, rest []byte, v verdict) {
	i := bytes.IndexByte(b, '\n')
	line = b
	if i >= 0 {
		if i == 0 || b[i-1] != '\r' {
			return nil, nil, odd
		}
		line, rest, v = b[:i-1], b[i+1:], common
	} else if n := len(b); n > 0 && b[n-1] == '\r' {
		line = b[:n-1]
	}
	if hasControl(line) {
		return line, nil, odd
	}
	return line, rest, v
}

// hasControl reports whether b has a control character other than a tab.
func hasControl(b []byte) bool {
	// Of eight bytes at once: what is below a space, or is a DEL, sets the highest bit of its byte.
	// So may a byte that stands after such a one, and it is looked at below.
	const each, high = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 {
		w := binary.LittleEndian.Uint64(b)
		del := w ^ 0x7f*each
		if ((w-' '*each)&^w|(del-each)&^del)&high != 0 {
			break
		}
		b = b[8:]
	}
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

// isStatusLine reports whether line is one of the common kind or, if it is not whole, the beginning
// of one.
func isStatusLine(line []byte, whole bool) bool {
	const pattern = "HTTP/1.v sdd "
	if whole {
		return len(line) >= 12 && string(line[:7]) == pattern[:7] && (line[7] == '1' || line[7] == '0') && line[8] == ' ' &&
			line[9] >= '2' && isDigit(line[9]) && isDigit(line[10]) && isDigit(line[11]) && (len(line) == 12 || line[12] == ' ')
	}
	// It is if it could go on to be one.
	n := min(len(line), len(pattern))
	return isStatusLine(append(append([]byte(nil), line[:n]...), "HTTP/1.1 200 "[n:]...), true)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for n := len(b); n > 0 && (b[n-1] == ' ' || b[n-1] == '\t'); n-- {
		b = b[:n-1]
	}
	return b
}

// field notes a header field that matters here, and reports whether it is understood.
func (h *head) field(name, value []byte) bool {
	switch len(name) {
	case len("Content-Length"):
		if is(name, "content-length") {
			if h.length >= 0 || len(value) == 0 || len(value) > 18 {
				return false
			}
			h.length = 0
			for _, c := range value {
				if c < '0' || c > '9' {
					return false
				}
				h.length = 10*h.length + int64(c-'0')
			}
		}
	case len("Connection"):
		if is(name, "connection") {
			h.close = h.close || is(value, "close")
			h.stay = h.stay || is(value, "keep-alive")
			return is(value, "close") || is(value, "keep-alive")
		}
	case len("Content-Encoding"):
		if is(name, "content-encoding") {
			h.zipped = h.zipped || is(value, "gzip")
		}
	case len("Transfer-Encoding"):
		return !is(name, "transfer-encoding")
	case len("Trailer"):
		return !is(name, "trailer")
	case len("Pragma"):
		return !is(name, "pragma") // of which net/http makes a Cache-Control
	}
	return true
}

// is reports whether b is lower, which is in lower case, in any case.
func is(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// ParseHeader returns the header of a [Response]'s Head.
func ParseHeader(head []byte) http.Header {
	text := string(head) // one string for all values
	statusLine, text, _ := strings.Cut(text, "\r\n")
	h := make(http.Header, strings.Count(text, "\n"))
	for {
		line, rest, _ := strings.Cut(text, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			break
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		h[name] = append(h[name], strings.Trim(value, " \t"))
		text = rest
	}
	for _, v := range h["Connection"] {
		if strings.EqualFold(v, "close") && strings.HasPrefix(statusLine, "HTTP/1.1") {
			delete(h, "Connection") // as net/http does
			break
		}
	}
	return h
}
