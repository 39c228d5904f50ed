// Package socket tells what a connection has received that has not been read yet, without waiting
// for it: an HTTP/1.1 connection is fit for another request only if that is nothing.
package socket

import (
	"crypto/tls"
	"io"
	"net"
	"syscall"
)

// ErrWouldBlock is the error of a read that would have to wait. For crypto/tls it is a timeout,
// after which a connection goes on.
var ErrWouldBlock net.Error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "nothing to be read" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// A Records is the connection below a [crypto/tls.Conn]. It follows the TLS records in what is read
// (RFC 8446 §5.1), since crypto/tls does not tell that it has a part of one. It belongs to one
// goroutine at a time.
type Records struct {
	net.Conn
	raw   syscall.RawConn // nil: what has been received is not known
	below *Records        // of Conn, if that has TLS too, to a proxy
	now   bool

	head [5]byte
	n    int // bytes of a record's head
	left int // bytes of its content
}

// NewRecords returns a Records over nc.
func NewRecords(nc net.Conn) *Records {
	r := &Records{Conn: nc}
	if t, ok := nc.(*tls.Conn); ok {
		r.below, _ = t.NetConn().(*Records)
	} else {
		r.raw, _ = Of(nc)
	}
	return r
}

// DontWait sets whether a Read that would have to wait fails with [ErrWouldBlock].
func (r *Records) DontWait(now bool) {
	r.now = now
	if r.below != nil {
		r.below.DontWait(now)
	}
}

// Between reports whether what has been read ends with a record.
func (r *Records) Between() bool {
	return r.n == 0 && r.left == 0 && (r.below == nil || r.below.Between())
}

// CloseNow closes the connection below all TLS, which has no time to send its closing alerts.
func (r *Records) CloseNow() error {
	if r.below != nil {
		return r.below.CloseNow()
	}
	return r.Conn.Close()
}

func (r *Records) Read(p []byte) (n int, err error) {
	switch {
	case !r.now || r.below != nil:
		n, err = r.Conn.Read(p)
	case r.raw != nil:
		n, err = ReadNow(r.raw, p)
	default:
		return 0, ErrWouldBlock
	}
	for b := p[:n]; len(b) > 0; {
		if r.left > 0 {
			m := min(r.left, len(b))
			r.left -= m
			b = b[m:]
			continue
		}
		m := copy(r.head[r.n:], b)
		b = b[m:]
		if r.n += m; r.n == len(r.head) {
			r.n, r.left = 0, int(r.head[3])<<8|int(r.head[4])
		}
	}
	return n, err
}

// EOF returns n and err, or io.EOF for the 0 bytes by which a system call tells the end.
func EOF(n int, err error) (int, error) {
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, err
}
