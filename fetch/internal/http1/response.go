package http1

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"fetchbench/fetch/internal/rules"
)

// A Response is the head of a response. Its body has to be read, or skipped, before the next head.
type Response struct {
	Status int
	Proto  string // HTTP/1.1 or HTTP/1.0
	// KeepAlive says that the connection stays open, as far as both heads tell. ReadBody and Skip
	// may find that it cannot be used again.
	KeepAlive bool
	// Unverified says that only the end of the connection tells where the body ends.
	Unverified bool
	// Decoded says that the body is compressed, and that ReadBody decodes it.
	Decoded bool
	// Header is the header, and Head what it can be parsed from by ParseHeader: one of them is set
	// by ReadBody. Before that, see [Conn.Header].
	Header http.Header
	Head   []byte

	length  int64 // of the body; negative: not known
	hasBody bool
	size    int            // of the head, which is in the buffer; 0: it has been read
	reader  *http.Response // of net/http's reader, or nil
}

// ReadHead writes what is to be written, and reads the head of the response to req.
func (c *Conn) ReadHead(req *Request) (r Response, err error) {
	begun := c.taken()
	c.limit = -1
	if c.limits.MaxHeader >= 0 {
		c.limit = begun + c.limits.MaxHeader + readBuffer // about: see below
	}
	h, size, err := c.scanHead()
	if err != nil {
		return r, err
	}
	hasBody := rules.HasBody(req.Method, h.status)
	if size == 0 || h.zipped && req.gzip || hasBody && h.length < 0 {
		return c.readOddHead(req, begun)
	}
	if c.limits.MaxHeader >= 0 && int64(size) > c.limits.MaxHeader {
		return r, rules.HeaderTooLarge(c.limits.MaxHeader)
	}
	r = Response{Status: h.status, Proto: "HTTP/1.1", hasBody: hasBody, size: size}
	if !h.http11 {
		r.Proto = "HTTP/1.0"
	}
	if hasBody {
		r.length = h.length
	}
	c.beginBody(h.http11, int64(c.br.Buffered()-size) < r.length)
	r.KeepAlive = h.keepsAlive() && !c.refuses(req, &r, h.length > 0)
	return r, nil
}

// beginBody says that the final response's head has been read, and whether more of it may have to
// come. A request's body that has waited for a 100 Continue is not sent any more.
func (c *Conn) beginBody(http11, more bool) {
	c.limit, c.inBody, c.http11 = -1, true, http11
	if c.held != nil {
		c.held, c.early = nil, true
	}
	if more {
		c.armStall()
	}
}

// refuses reports whether c cannot be kept although the response's head allows it. announced tells
// that there is a Content-Length over 0.
func (c *Conn) refuses(req *Request, r *Response, announced bool) bool {
	if r.Status == http.StatusNoContent && announced {
		c.stray = true // the body may follow, though a 204 has none
		return true
	}
	return req.closes || req.Close
}

// scanHead reads until parseHead has understood a head, which stays in the buffer. Its size is 0 if
// it is odd.
func (c *Conn) scanHead() (h head, size int, err error) {
	for {
		b := c.peek()
		if len(b) > 0 {
			var v verdict
			if h, size, v = parseHead(b); v != partial {
				return h, size, nil
			}
			if len(b) == c.br.Size() {
				return h, 0, nil
			}
		}
		if _, err := c.br.Peek(len(b) + 1); err != nil {
			if err == io.EOF && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return h, 0, err
		}
	}
}

// readOddHead is ReadHead by net/http's reader. What is in the buffer begins with the head, whose
// first byte was that with the number begun.
func (c *Conn) readOddHead(req *Request, begun int64) (r Response, err error) {
	c.inBody = false
	hreq := &http.Request{Method: req.Method}
	var resp *http.Response
	for informational := true; informational; {
		resp, err = http.ReadResponse(c.br, hreq)
		// textproto does not always say that a read has failed because of the limit.
		if limit := c.limits.MaxHeader; c.limit >= 0 && (c.total >= c.limit || err == nil && c.taken()-begun > limit) {
			err = rules.HeaderTooLarge(limit)
		}
		if err != nil {
			return r, err
		}
		if resp.StatusCode == http.StatusContinue && c.held != nil {
			c.sendHeld()
		}
		informational = resp.StatusCode >= 100 && resp.StatusCode <= 199 && resp.StatusCode != http.StatusSwitchingProtocols
	}
	if err := rules.CheckHead(resp.StatusCode, resp.Header); err != nil {
		return r, err
	}
	if resp.ProtoMajor != 1 {
		return r, fmt.Errorf("the version is HTTP/%d.%d", resp.ProtoMajor, resp.ProtoMinor)
	}
	c.beginBody(resp.ProtoMinor >= 1, true)
	r = Response{Status: resp.StatusCode, Proto: resp.Proto, Header: resp.Header, reader: resp, length: resp.ContentLength}
	r.hasBody = rules.HasBody(req.Method, r.Status)
	r.Unverified = r.hasBody && r.length < 0 && len(resp.TransferEncoding) == 0
	length := resp.Header.Get("Content-Length")
	r.KeepAlive = !resp.Close && !r.Unverified && !c.refuses(req, &r, length != "" && length != "0")
	r.Decoded = req.gzip && r.hasBody && r.length != 0 && strings.EqualFold(resp.Header.Get("Content-Encoding"), "gzip")
	return r, nil
}

// Header returns the header of r, whose body has not been read yet.
func (c *Conn) Header(r *Response) http.Header {
	if r.reader != nil {
		return r.Header
	}
	return ParseHeader(c.peek()[:r.size])
}

// ReadBody reads the body of r to its end, decoded, or to more than limit bytes, which is a
// [rules.TooLargeError]. A negative limit is none.
func (c *Conn) ReadBody(r *Response, limit int64) (body []byte, err error) {
	defer func() {
		if err != nil {
			r.KeepAlive, body = false, nil
		}
	}()
	if r.reader != nil {
		return c.readOddBody(r, limit)
	}
	n := r.length
	if limit >= 0 && n > limit || n > rules.TrustedLength {
		r.Head = bytes.Clone(c.peek()[:r.size])
		c.br.Discard(r.size)
		if limit >= 0 && n > limit {
			return nil, rules.BodyTooLarge(limit)
		}
		body, err = rules.ReadAll(io.LimitReader(c.br, n), limit)
		if err == nil && int64(len(body)) < n {
			err = io.ErrUnexpectedEOF
		}
		return body, err
	}
	// One piece of memory for the head and the body.
	b := make([]byte, r.size+int(n))
	r.Head = b[:r.size:r.size]
	m := copy(b, c.peek())
	c.br.Discard(m)
	if m < len(b) {
		if _, err := io.ReadFull(c.br, b[m:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return b[r.size:], nil
}

func (c *Conn) readOddBody(r *Response, limit int64) ([]byte, error) {
	if !r.hasBody {
		return []byte{}, nil
	}
	n, body := r.length, io.Reader(r.reader.Body)
	if r.Decoded {
		h := r.reader.Header
		h.Del("Content-Encoding")
		h.Del("Content-Length")
		zip := unzippers.Get().(*gzip.Reader)
		defer func() {
			zip.Reset(bytes.NewReader(nil)) // or it would keep the connection in memory
			unzippers.Put(zip)
		}()
		switch err := zip.Reset(body); err {
		case nil:
			body = zip
		case io.EOF: // nothing is compressed to nothing, by some
		default:
			return nil, err
		}
		n = -1
	}
	if limit >= 0 && n > limit {
		return nil, rules.BodyTooLarge(limit)
	}
	return rules.ReadAll(body, limit)
}

var unzippers = sync.Pool{New: func() any { return new(gzip.Reader) }}

// maxSkipped is how many bytes of an unwanted body are read, so that the connection can serve the
// next request.
const maxSkipped = 16 << 10

// Skip reads the body of r, which is not wanted, if that is short.
func (c *Conn) Skip(r *Response) {
	if r.reader != nil {
		n, err := io.CopyN(io.Discard, r.reader.Body, maxSkipped)
		r.KeepAlive = r.KeepAlive && err == io.EOF && n < maxSkipped
		return
	}
	c.br.Discard(r.size)
	skipped := false
	if r.length <= maxSkipped {
		_, err := c.br.Discard(int(r.length))
		skipped = err == nil
	}
	r.KeepAlive = r.KeepAlive && skipped
}
