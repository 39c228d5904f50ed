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

	"fetchbench/fetch/internal/rules"
)

// NewError returns the *Error for r, which failed with err: one of net, crypto/tls, compress/gzip or
// net/http, or one that wraps such an error, or an *Error, whose Kind and cause it takes. ctx is the
// one that the request was made with; if that is done, the error says so. It is for those who write a [Doer].
func NewError(ctx context.Context, r *Request, err error) *Error {
	if ctx.Err() != nil {
		return contextError(ctx, r)
	}
	return classify(r, err)
}

// classify returns err, which net/http gave for r, as an *Error.
func classify(r *Request, err error) *Error {
	// http.Client wraps every error in one that shows the whole URL.
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if e, ok := errors.AsType[*Error](err); ok { // from exchange itself
		return newError(e.Kind, r, e.Err)
	}
	if e, ok := errors.AsType[rules.AddressError](err); ok {
		return newError(ErrAddress, r, e)
	}
	if e, ok := errors.AsType[rules.TooLargeError](err); ok {
		return newError(ErrTooLarge, r, e)
	}
	if advice := rules.LocalLimit(err); advice != "" {
		return newError(ErrDial, r, fmt.Errorf("%s: %w", advice, err))
	}
	kind := kindOf(err)
	if field, ok := strings.CutPrefix(err.Error(), "net/http: invalid header field value for "); ok {
		err = rules.InvalidValue(strings.Trim(field, `"`)) // the name is valid, so it may be shown
	}
	return newError(kind, r, err)
}

// kindOf finds the kind of an error of net/http and what is below it.
func kindOf(err error) Kind {
	_, dns := errors.AsType[*net.DNSError](err)
	netErr, isNet := errors.AsType[net.Error](err)
	opErr, isOp := errors.AsType[*net.OpError](err)
	text, _, _ := strings.Cut(err.Error(), `"`) // what is quoted is the server's
	switch {
	case dns:
		return ErrDNS
	case isNet && netErr.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return ErrTimeout
	case isTLS(err), strings.Contains(text, "tls: "), strings.Contains(text, "HTTP response to HTTPS"):
		return ErrTLS
	case isOp && (opErr.Op == "dial" || opErr.Op == "proxyconnect"):
		return ErrDial
	case strings.Contains(text, "response headers exceeded"), strings.Contains(text, "response header list larger"):
		return ErrTooLarge
	case errors.Is(err, io.ErrUnexpectedEOF), strings.HasPrefix(text, "http: unexpected EOF"): // in a trailer
		return ErrTruncated
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed),
		strings.Contains(text, "server closed"):
		return ErrReset
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), isFlate(err):
		return ErrDecode
	case strings.HasPrefix(text, "net/http: invalid header field"), strings.HasPrefix(text, "http: invalid Host header"):
		return ErrBadURL
	case strings.HasPrefix(text, "stopped after"), // http.Client's redirects
		strings.HasPrefix(text, "failed to parse Location"),
		strings.HasPrefix(text, "unsupported protocol scheme"),
		strings.HasPrefix(text, "http: no Host in request URL"):
		return ErrRedirect
	}
	return ErrProtocol
}

func isTLS(err error) bool {
	_, cert := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	return cert || record || alert
}

func isFlate(err error) bool {
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	return corrupt
}
