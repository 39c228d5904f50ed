package fetch

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"

	"fetchbench/fetch/internal/conns"
	"fetchbench/fetch/internal/rules"
)

// NewError returns the *Error for r, which failed with err: one of net, crypto/tls, compress/gzip
// or net/http, or one that wraps such an error, or an *Error, whose Kind and cause it takes. ctx is
// the one that the request was made with; if that is done, the error says so. It is for those who
// write a [Doer].
func NewError(ctx context.Context, r *Request, err error) *Error {
	if ctx.Err() != nil {
		return contextError(ctx, r)
	}
	// First those that may wrap an error of one of the caller's functions.
	if e, ok := errors.AsType[conns.AddressError](err); ok {
		return newError(ErrAddress, r, e)
	}
	if e, ok := errors.AsType[conns.ProxyError](err); ok && rules.LocalLimit(err) == "" {
		if e.Err != nil {
			e.Err = redact(e.Err)
		}
		return newError(ErrDial, r, (*ProxyError)(&e))
	}
	switch err.(type) {
	case *net.OpError, conns.HandshakeError: // of the caller's Dial or TLS configuration, perhaps
	default:
		// http.Client wraps every error in one that shows the whole URL.
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		if e, ok := errors.AsType[*Error](err); ok { // from the engine itself
			return newError(e.Kind, r, e.Err)
		}
	}
	if e, ok := errors.AsType[rules.TooLargeError](err); ok {
		return newError(ErrTooLarge, r, e)
	}
	if e, ok := errors.AsType[rules.TimeoutError](err); ok {
		return newError(ErrTimeout, r, e)
	}
	if advice := rules.LocalLimit(err); advice != "" {
		return newError(ErrDial, r, fmt.Errorf("%s: %w", advice, redact(err)))
	}
	kind := kindOf(err)
	if field, ok := strings.CutPrefix(err.Error(), "net/http: invalid header field value for "); ok {
		err = rules.InvalidValue(strings.Trim(field, `"`)) // the name is valid, so it may be shown
	}
	return newError(kind, r, redact(err))
}

// kindOf finds the kind of an error of net/http and what is below it.
func kindOf(err error) Kind {
	netErr, isNet := errors.AsType[net.Error](err)
	opErr, isOp := errors.AsType[*net.OpError](err)
	text, _, _ := strings.Cut(err.Error(), `"`) // what is quoted is the server's
	begins := func(prefix string) bool { return strings.HasPrefix(text, prefix) }
	switch {
	case is[*net.DNSError](err):
		return ErrDNS
	case isNet && netErr.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return ErrTimeout
	case is[*tls.CertificateVerificationError](err), is[tls.RecordHeaderError](err), is[tls.AlertError](err),
		strings.Contains(text, "tls: "), strings.Contains(text, "HTTP response to HTTPS"):
		return ErrTLS
	case isOp && (opErr.Op == "dial" || opErr.Op == "proxyconnect"):
		return ErrDial
	case strings.Contains(text, "response headers exceeded"), strings.Contains(text, "response header list larger"):
		return ErrTooLarge
	case errors.Is(err, io.ErrUnexpectedEOF), begins("http: unexpected EOF"): // in a trailer
		return ErrTruncated
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed),
		strings.Contains(text, "server closed"):
		return ErrReset
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), is[flate.CorruptInputError](err):
		return ErrDecode
	case begins("net/http: invalid header field"), begins("http: invalid Host header"):
		return ErrBadURL
	case begins("stopped after"), // http.Client's redirects
		begins("failed to parse Location"), begins("unsupported protocol scheme"), begins("http: no Host in request URL"):
		return ErrRedirect
	case is[conns.HandshakeError](err): // whatever a function in the TLS configuration returns
		return ErrTLS
	}
	return ErrProtocol
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
