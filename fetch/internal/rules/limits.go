package rules

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Limits are what a server can make an engine do. A zero is the default, a negative value no limit
// (or no redirect).
type Limits struct {
	Timeout, IdleRead time.Duration
	MaxHead, MaxBody  int64
	MaxRedirects      int
}

// OrDefault returns l with the defaults in place of zeros.
func (l Limits) OrDefault() Limits {
	return Limits{
		Timeout:      cmp.Or(l.Timeout, 30*time.Second),
		IdleRead:     cmp.Or(l.IdleRead, 15*time.Second),
		MaxHead:      cmp.Or(l.MaxHead, 256<<10),
		MaxBody:      cmp.Or(l.MaxBody, 10<<20),
		MaxRedirects: cmp.Or(l.MaxRedirects, 10),
	}
}

// A TimeoutError is that of an attempt which has reached one of its limits.
type TimeoutError struct{ error }

// Timeout implements [net.Error].
func (TimeoutError) Timeout() bool { return true }

// Temporary implements [net.Error].
func (TimeoutError) Temporary() bool { return true }

// TookTooLong is the error of an attempt that took longer than Timeout.
func TookTooLong(timeout time.Duration) error {
	return TimeoutError{fmt.Errorf("no complete response within %v: see Timeout", timeout)}
}

// Handshake is how long a TLS handshake may take.
const Handshake = 10 * time.Second

// NoHandshake is the error of an attempt whose TLS handshake took longer.
var NoHandshake error = TimeoutError{fmt.Errorf("no TLS handshake within %v", Handshake)}

// WasSilent is the error of an attempt whose server was silent for longer than IdleRead.
func WasSilent(idle time.Duration) error {
	return TimeoutError{fmt.Errorf("the server sent nothing for %v: see IdleRead", idle)}
}

// CheckHead returns what is odd about the head of an answer that net/http accepts, or nil.
func CheckHead(status int, header http.Header) error {
	switch {
	case status < 100:
		return errors.New("the status is no number from 100 to 999")
	case status == http.StatusSwitchingProtocols:
		return errors.New("the server switches protocols, unasked")
	}
	for name := range header {
		// Some take "Content-Length : 5" for a length and others do not, so where
		// the body ends would depend on who reads it (RFC 9112 §5.1).
		if strings.IndexByte(name, ' ') >= 0 {
			return errors.New("there is a space in the name of a header field")
		}
	}
	return nil
}
