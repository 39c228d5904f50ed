package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"fetchbench/fetch/internal/conns"
	"fetchbench/fetch/internal/rules"
)

// A Kind says in a word what went wrong. It is an error, for errors.Is(err, fetch.ErrTimeout).
type Kind string

// Error returns the kind's name.
func (k Kind) Error() string { return string(k) }

// The kinds of errors that this module returns.
const (
	// ErrBadURL: the request cannot be sent as it stands, because of its URL, its method, a header
	// or, with [Client.RoundTripper], its body. It is found before any I/O.
	ErrBadURL Kind = "bad URL"
	// ErrDNS: the host's name does not resolve.
	ErrDNS Kind = "DNS"
	// ErrDial: no connection could be made. If that is a proxy's fault, the cause is a
	// [ProxyError].
	ErrDial Kind = "dial"
	// ErrAddress: the client's AllowAddr refuses the address.
	ErrAddress Kind = "address refused"
	// ErrTLS: the TLS handshake failed, the server's certificate included.
	ErrTLS Kind = "TLS"
	// ErrTimeout: the attempt took longer than its limit, the server was silent for too long, or
	// the caller's context reached its deadline. Such an error is a [context.DeadlineExceeded] too.
	ErrTimeout Kind = "timeout"
	// ErrReset: the server closed the connection before its response began.
	ErrReset Kind = "connection reset"
	// ErrProtocol: what came is not HTTP.
	ErrProtocol Kind = "protocol"
	// ErrTruncated: the connection ended before the response did.
	ErrTruncated Kind = "truncated"
	// ErrTooLarge: the body, decoded, is larger than the client's MaxBody, or the response's head
	// than its MaxHeaderBytes.
	ErrTooLarge Kind = "too large"
	// ErrDecode: the body is not what its Content-Encoding says, or, from [Result.Decode], not JSON
	// of the wanted form.
	ErrDecode Kind = "decode"
	// ErrRedirect: the server redirects too often, from https to http, or to something other than
	// an http URL.
	ErrRedirect Kind = "redirect"
	// ErrCanceled: the caller's context was canceled before the response was complete. Such an
	// error is a [context.Canceled] too.
	ErrCanceled Kind = "canceled"
	// ErrPanic: the Doer panicked; see [PanicError].
	ErrPanic Kind = "panic"
	// ErrLost: what was to perform the request is gone: the child processes of a [Shard] that it
	// was handed to ended without a result, or could not be started; or the workers of a strategy
	// for several machines.
	ErrLost Kind = "lost"
)

// KindOf returns the kind of err, or "" if it has none.
func KindOf(err error) Kind {
	k, _ := errors.AsType[Kind](err)
	return k
}

// An Error is what went wrong with one request. Its text shows the URL without user info, query and
// fragment, and no header value.
type Error struct {
	Kind Kind
	// URL is the request's, safe to show: without user info, query and fragment.
	URL string
	// Err is the cause, or nil.
	Err error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("fetch: ")
	if e.URL != "" {
		b.WriteString(rules.SafeURL(e.URL) + ": ")
	}
	b.WriteString(string(e.Kind))
	if e.Err != nil {
		b.WriteString(": " + rules.Shorten(e.Err.Error(), 512)) // one line
	}
	return b.String()
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// Is makes every timeout a [context.DeadlineExceeded], and every cancellation a [context.Canceled],
// whatever noticed it first.
func (e *Error) Is(target error) bool {
	return e.Kind == ErrTimeout && target == context.DeadlineExceeded ||
		e.Kind == ErrCanceled && target == context.Canceled
}

// Timeout reports whether the kind is [ErrTimeout], as net.Error's method does.
func (e *Error) Timeout() bool { return e.Kind == ErrTimeout }

// A redacted error has a text without what a server, a URL or a header may have put into it.
type redacted struct {
	text string
	error
}

func (e redacted) Error() string { return e.text }
func (e redacted) Unwrap() error { return e.error }

// redact returns err, one of another package, without what it quotes: net/http, net/url and
// encoding/json quote what they were given.
func redact(err error) error {
	text, _, found := strings.Cut(err.Error(), `"`)
	if !found {
		return err
	}
	return redacted{strings.TrimRight(text, " :"), err}
}

// A StatusError says that a response is complete, and its status is not a 2xx: see
// [Result.Failure].
type StatusError struct {
	// URL is the request's, safe to show, as in [Error].
	URL    string
	Status int
}

func (e *StatusError) Error() string {
	where := ""
	if e.URL != "" {
		where = rules.SafeURL(e.URL) + ": "
	}
	return strings.TrimRight(fmt.Sprintf("fetch: %sstatus %d %s", where, e.Status, http.StatusText(e.Status)), " ")
}

// A ProxyError is the cause of an [ErrDial]: a proxy could not be reached, or did not connect to
// the server.
type ProxyError struct {
	// Proxy is the proxy's URL, without user info.
	Proxy string
	// Status is that of the proxy's response to CONNECT, such as 407 or 502; 0 if there was none.
	// (For an http URL the proxy's response is the result.)
	Status int
	// Err is the cause, nil if there was a response.
	Err error
}

func (e *ProxyError) Error() string { return conns.ProxyError(*e).Error() }

// Unwrap returns the cause.
func (e *ProxyError) Unwrap() error { return e.Err }

// A PanicError is the Err of a request whose [Doer] panicked, or called [runtime.Goexit] (but with
// [Serial], whose Doer runs on the caller's goroutine, that ends the caller). It is an [*Error] of
// kind [ErrPanic] too.
type PanicError struct {
	// URL is the request's, safe to show, as in [Error].
	URL string
	// Value is what the Doer panicked with; in a child of a [Shard], the text of that. The error's
	// text has it in one line, and otherwise as it is: no more secret than the Doer keeps it.
	Value any
	// Stack is the stack of the panic, as [runtime/debug.Stack] formats it.
	Stack []byte
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("fetch: %s: panic: %s", rules.SafeURL(e.URL), rules.Shorten(fmt.Sprint(e.Value), 512))
}

// Unwrap returns an *Error of kind ErrPanic, whose cause is the Value if that is an error.
func (e *PanicError) Unwrap() error {
	cause, _ := e.Value.(error)
	return &Error{Kind: ErrPanic, URL: e.URL, Err: cause}
}

// An unsentError is the cause of the error of a request that a policy did not let start: it says
// nothing about the host.
type unsentError struct{ error }

func (e unsentError) Unwrap() error { return e.error }

// newError returns an *Error for r.
func newError(k Kind, r *Request, cause error) *Error {
	e := &Error{Kind: k, Err: cause}
	if r != nil {
		e.URL = rules.SafeURL(r.URL)
	}
	return e
}

// contextError returns the *Error for a request that ended, or did not begin, because ctx, the
// caller's context, is done.
func contextError(ctx context.Context, r *Request) *Error {
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != err {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return newError(ErrTimeout, r, err)
	}
	return newError(ErrCanceled, r, err)
}
