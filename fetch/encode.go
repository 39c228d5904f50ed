package fetch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"
	"time"

	"fetchbench/fetch/internal/field"
)

// How requests and results travel to other processes and machines: a byte with the version, then
// fields one after another, and last the body. Numbers are varints; strings have their length
// before them.
const encodingVersion = 4

var errEncoding = errors.New("not an encoding of this version of the package")

// AppendBinary appends r's encoding to b: all of it but the Tag. Equal requests give equal bytes.
// The error is nil. It implements [encoding.BinaryAppender].
func (r *Request) AppendBinary(b []byte) ([]byte, error) {
	return append(appendRequest(b, r), r.Body...), nil
}

// MarshalBinary returns r's encoding. It implements [encoding.BinaryMarshaler].
func (r *Request) MarshalBinary() ([]byte, error) { return r.AppendBinary(nil) }

// UnmarshalBinary sets r to what data encodes. If data is malformed, the error's kind is
// [ErrDecode], and r stays as it is. It implements [encoding.BinaryUnmarshaler].
func (r *Request) UnmarshalBinary(data []byte) error {
	decoded, err := decodeRequest(bytes.Clone(data)) // the body is a part of it
	if err == nil {
		*r = *decoded
	}
	return err
}

// AppendBinary appends r's encoding to b: all of it but r.Request, Proto and RemoteAddr. Of an error there remains its
// text, its [Kind], and what errors.Is says of common errors. The error is nil. It implements
// [encoding.BinaryAppender].
func (r *Result) AppendBinary(b []byte) ([]byte, error) {
	return append(appendResult(b, r), r.Body...), nil
}

// MarshalBinary returns r's encoding. It implements [encoding.BinaryMarshaler].
func (r *Result) MarshalBinary() ([]byte, error) { return r.AppendBinary(nil) }

// UnmarshalBinary sets r, all but r.Request, to what data encodes. If data is malformed, the
// error's kind is [ErrDecode], and r stays as it is. It implements [encoding.BinaryUnmarshaler].
func (r *Result) UnmarshalBinary(data []byte) error {
	decoded, err := decodeResult(bytes.Clone(data)) // header and body are parts of it
	if err == nil {
		if decoded.Request = r.Request; decoded.URL == "" && decoded.Status != 0 && r.Request != nil {
			decoded.URL = r.Request.URL
		}
		*r = decoded
	}
	return err
}

// appendRequest appends r's encoding without the body.
func appendRequest(b []byte, r *Request) []byte {
	b = appendInt(append(b, encodingVersion), r.Index)
	b = field.Append(field.Append(b, r.Method), r.URL)
	return appendBool(appendHeader(b, r.Header), r.Body == nil)
}

// decodeRequest is the reverse. The body is a part of data.
func decodeRequest(data []byte) (*Request, error) {
	f := fieldsOf(data)
	r := &Request{Index: f.Int(), Method: f.Text(), URL: f.Text(), Header: f.header()}
	r.Body = f.body()
	return r, f.err()
}

// appendResult appends r's encoding without the body.
func appendResult(b []byte, r *Result) []byte {
	b = append(b, encodingVersion)
	for _, n := range [...]int{r.Status, r.Attempts, int(r.Duration), int(r.FirstByte)} {
		b = appendInt(b, n)
	}
	b = appendBool(b, r.Unverified)
	url := r.URL
	if r.Request != nil && url == r.Request.URL {
		url = "" // the other side has it
	}
	b = appendError(field.Append(b, url), r.Err, 0)
	// The header's length goes before it, so that it can be parsed when it is asked for.
	var scratch [512]byte
	b = field.Append(b, appendHeader(scratch[:0], r.Header()))
	return appendBool(b, r.Body == nil)
}

// decodeResult is the reverse. Header and body are parts of data.
func decodeResult(data []byte) (Result, error) {
	f := fieldsOf(data)
	r := Result{Status: f.Int(), Attempts: f.Int(), Duration: time.Duration(f.Int()), FirstByte: time.Duration(f.Int())}
	r.Unverified, r.URL, r.Err = f.Uint() == 1, f.Text(), f.error(0)
	if header := f.Bytes(); len(header) > 0 && header[0] != 0 { // else it is nil
		r.SetHeader(func() http.Header {
			f := fields{field.Reader{Rest: header}}
			return f.header()
		})
	}
	r.Body = f.body()
	return r, f.err()
}

// appendEvent appends e's encoding: all of it but the Request.
func appendEvent(b []byte, e *Event) []byte {
	b = field.Append(field.Append(append(b, encodingVersion), e.Kind), e.Host)
	for _, n := range e.numbers() {
		b = appendInt(b, *n)
	}
	return appendError(appendInt(b, int(e.Duration)), e.Err, 0)
}

// decodeEvent is the reverse.
func decodeEvent(data []byte) (e Event, err error) {
	f := fieldsOf(data)
	e.Kind, e.Host = EventKind(f.Text()), f.Text()
	for _, n := range e.numbers() {
		*n = f.Int()
	}
	e.Duration, e.Err = time.Duration(f.Int()), f.error(0)
	return e, f.err()
}

func (e *Event) numbers() []*int {
	return []*int{&e.Status, &e.Attempts, &e.Batch, &e.Size, &e.Failed, &e.Shard, &e.PID, &e.Unanswered}
}

// fields takes an encoding apart.
type fields struct{ field.Reader }

// fieldsOf returns the fields after the version.
func fieldsOf(data []byte) *fields {
	if len(data) == 0 || data[0] != encodingVersion {
		return &fields{field.Reader{Bad: true}}
	}
	return &fields{field.Reader{Rest: data[1:]}}
}

func (f *fields) err() error {
	if f.Bad {
		return newError(ErrDecode, nil, errEncoding)
	}
	return nil
}

// body returns the rest, after a field that tells whether it is nil.
func (f *fields) body() []byte {
	if f.Uint() == 1 && len(f.Rest) == 0 {
		return nil
	}
	return slices.Clip(f.Rest)
}

func appendInt(b []byte, v int) []byte { return binary.AppendVarint(b, int64(v)) }

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendHeader appends 0 for nil, else 1, the number of names, and the names with their values.
func appendHeader(b []byte, h http.Header) []byte {
	if h == nil {
		return append(b, 0)
	}
	b = binary.AppendUvarint(append(b, 1), uint64(len(h)))
	names := slices.AppendSeq(make([]string, 0, 32), maps.Keys(h))
	slices.Sort(names) // so that equal headers give equal bytes
	for _, name := range names {
		b = binary.AppendUvarint(field.Append(b, name), uint64(len(h[name])))
		for _, v := range h[name] {
			b = field.Append(b, v)
		}
	}
	return b
}

func (f *fields) header() http.Header {
	if f.Uint() == 0 {
		return nil
	}
	n := f.Count()
	h := make(http.Header, min(n, 64))
	for range n {
		name := f.Text()
		var values []string // nil if there are none: that keeps net/http from adding its own
		for range f.Count() {
			values = append(values, f.Text())
		}
		if f.Bad {
			return nil
		}
		h[name] = values
	}
	return h
}

// The forms of an error. Of one that is nested deeper than maxDepth, errText is what is left.
const (
	errNone     = iota
	errText     // of no other form: its text, and the errors that can be found in it, up to errNone
	errSentinel // one of sentinels: its index
	errNumber   // a syscall.Errno
	errKind     // a Kind
	errFetch    // an *Error: kind, URL, cause
	errPanic    // a *PanicError: URL, stack, value as text, value as an error
	maxDepth    = 8
)

// sentinels are the errors that errors.Is finds in the other process too.
var sentinels = []error{
	context.Canceled, context.DeadlineExceeded, os.ErrDeadlineExceeded, io.EOF, io.ErrUnexpectedEOF,
	net.ErrClosed, fs.ErrNotExist, fs.ErrPermission, errors.ErrUnsupported,
}

// An encodableError has a form of its own.
type encodableError interface {
	error
	appendTo(b []byte, depth int) []byte
}

func (k Kind) appendTo(b []byte, _ int) []byte { return field.Append(append(b, errKind), k) }

func (e *Error) appendTo(b []byte, depth int) []byte {
	b = field.Append(field.Append(append(b, errFetch), e.Kind), e.URL)
	return appendError(b, e.Err, depth+1)
}

func (e *PanicError) appendTo(b []byte, depth int) []byte {
	b = field.Append(field.Append(append(b, errPanic), e.URL), e.Stack)
	cause, _ := e.Value.(error)
	return appendError(field.Append(b, fmt.Sprint(e.Value)), cause, depth+1)
}

// appendError appends err. If a method of err panics, as that of a nil pointer may, its text is
// what fmt makes of it.
func appendError(b []byte, err error, depth int) (out []byte) {
	if err == nil {
		return append(b, errNone)
	}
	defer func() {
		if recover() != nil {
			out = append(field.Append(append(b, errText), fmt.Sprint(err)), errNone)
		}
	}()
	if e, ok := err.(encodableError); ok && depth < maxDepth {
		return e.appendTo(b, depth)
	}
	out = field.Append(append(b, errText), err.Error())
	for i, s := range sentinels {
		if errors.Is(err, s) {
			out = append(out, errSentinel, byte(i))
		}
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		out = binary.AppendUvarint(append(out, errNumber), uint64(errno))
	}
	if e, ok := errors.AsType[encodableError](err); ok && depth < maxDepth {
		out = e.appendTo(out, depth+1)
	}
	return append(out, errNone)
}

func (f *fields) error(depth int) error {
	form := f.Uint()
	if depth > 2*maxDepth {
		form = 0xff // none
	}
	switch form {
	case errNone:
		return nil
	case errText:
		e := &remoteError{text: f.Text()}
		for found := f.error(depth + 1); found != nil; found = f.error(depth + 1) {
			e.found = append(e.found, found)
		}
		return e
	case errSentinel:
		if i := f.Uint(); i < uint64(len(sentinels)) {
			return sentinels[i]
		}
	case errNumber:
		return syscall.Errno(f.Uint())
	case errKind:
		return Kind(f.Text())
	case errFetch:
		return &Error{Kind: Kind(f.Text()), URL: f.Text(), Err: f.error(depth + 1)}
	case errPanic:
		e := &PanicError{URL: f.Text(), Stack: f.Bytes(), Value: f.Text()}
		if cause := f.error(depth + 1); cause != nil {
			e.Value = cause
		}
		return e
	}
	f.Fail()
	return nil
}

// A remoteError is an error of another process: its text, and what errors.Is and errors.As found in
// it there.
type remoteError struct {
	text  string
	found []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.found }
