package fetch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
const encodingVersion = 2

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

// AppendBinary appends r's encoding to b: all of it but r.Request. Of an error there remains its
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
	b = field.Append(b, r.Method)
	b = field.Append(b, r.URL)
	b = appendHeader(b, r.Header)
	return appendBool(b, r.Body == nil)
}

// decodeRequest is the reverse. The body is a part of data.
func decodeRequest(data []byte) (*Request, error) {
	f := fieldsOf(data)
	r := &Request{Index: f.Int(), Method: f.Text(), URL: f.Text(), Header: f.header()}
	r.Body = f.body(f.Uint() == 1)
	return r, f.err()
}

// appendResult appends r's encoding without the body.
func appendResult(b []byte, r *Result) []byte {
	b = appendInt(append(b, encodingVersion), r.Status)
	b = appendInt(b, r.Attempts)
	b = appendInt(b, int(r.Duration))
	b = appendBool(b, r.Unverified)
	url := r.URL
	if r.Request != nil && url == r.Request.URL {
		url = "" // the other side has it
	}
	b = field.Append(b, url)
	b = appendError(b, r.Err, 0)
	// The header's length goes before it, so that it can be parsed when it is asked for.
	var scratch [512]byte
	b = field.Append(b, appendHeader(scratch[:0], r.Header()))
	return appendBool(b, r.Body == nil)
}

// decodeResult is the reverse. Header and body are parts of data.
func decodeResult(data []byte) (Result, error) {
	f := fieldsOf(data)
	r := Result{Status: f.Int(), Attempts: f.Int(), Duration: time.Duration(f.Int()), Unverified: f.Uint() == 1, URL: f.Text(), Err: f.error(0)}
	if header := f.Bytes(); len(header) > 0 && header[0] != 0 { // else it is nil
		r.SetHeader(func() http.Header {
			f := fields{field.Reader{Rest: header}}
			return f.header()
		})
	}
	r.Body = f.body(f.Uint() == 1)
	if err := f.err(); err != nil {
		return Result{}, err
	}
	return r, nil
}

// appendEvent appends e's encoding: all of it but the Request.
func appendEvent(b []byte, e *Event) []byte {
	b = field.Append(append(b, encodingVersion), e.Kind)
	b = field.Append(b, e.Host)
	for _, n := range e.numbers() {
		b = appendInt(b, *n)
	}
	b = appendInt(b, int(e.Duration))
	return appendError(b, e.Err, 0)
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
	f := &fields{}
	if len(data) == 0 || data[0] != encodingVersion {
		f.Fail()
	} else {
		f.Rest = data[1:]
	}
	return f
}

func (f *fields) err() error {
	if f.Bad {
		return newError(ErrDecode, nil, errEncoding)
	}
	return nil
}

// body returns the rest. A field before it told whether it is nil or empty.
func (f *fields) body(isNil bool) []byte {
	if isNil && len(f.Rest) == 0 {
		return nil
	}
	return f.Rest[:len(f.Rest):len(f.Rest)]
}

func appendUint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }
func appendInt(b []byte, v int) []byte     { return binary.AppendVarint(b, int64(v)) }

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendHeader appends 0 for nil, else 1 more than the number of names, and the names with their
// values.
func appendHeader(b []byte, h http.Header) []byte {
	if h == nil {
		return append(b, 0)
	}
	b = appendUint(b, uint64(len(h))+1)
	// Sorted, so that equal headers give equal bytes.
	names := make([]string, 0, 32)
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b = field.Append(b, name)
		b = appendUint(b, uint64(len(h[name])))
		for _, v := range h[name] {
			b = field.Append(b, v)
		}
	}
	return b
}

func (f *fields) header() http.Header {
	n := f.Uint()
	if n == 0 || n-1 > uint64(len(f.Rest)) {
		f.Bad = f.Bad || n != 0
		return nil
	}
	h := make(http.Header, min(n-1, 64))
	for range n - 1 {
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

// The forms of an error. Errors nest no deeper than maxDepth.
const (
	errNone   = iota
	errFetch  // an *Error: kind, URL, cause
	errPanic  // a *PanicError: URL, stack, value as text, value as an error
	errKind   // a Kind
	errRemote // any other: its text, and what can be found in it
	maxDepth  = 8
)

// sentinels are the errors that errors.Is finds in the other process too.
var sentinels = []error{
	context.Canceled, context.DeadlineExceeded, os.ErrDeadlineExceeded, io.EOF, io.ErrUnexpectedEOF,
	net.ErrClosed, fs.ErrNotExist, fs.ErrPermission, errors.ErrUnsupported,
}

// appendError appends err. If a method of err panics, as that of a nil pointer may, its text is
// what fmt makes of it.
func appendError(b []byte, err error, depth int) (out []byte) {
	if err == nil {
		return append(b, errNone)
	}
	start := len(b)
	defer func() {
		if recover() != nil {
			out = field.Append(append(b[:start], errRemote), fmt.Sprint(err))
			out = append(out, 0, 0, errNone) // nothing is found in it
		}
	}()
	if depth < maxDepth {
		switch e := err.(type) {
		case *Error:
			b = append(b, errFetch)
			b = field.Append(b, e.Kind)
			b = field.Append(b, e.URL)
			return appendError(b, e.Err, depth+1)
		case Kind:
			return field.Append(append(b, errKind), e)
		case *PanicError:
			b = append(b, errPanic)
			b = field.Append(b, e.URL)
			b = field.Append(b, e.Stack)
			b = field.Append(b, fmt.Sprint(e.Value))
			cause, _ := e.Value.(error)
			return appendError(b, cause, depth+1)
		}
	}
	b = append(b, errRemote)
	b = field.Append(b, err.Error())
	var found uint64
	for i, s := range sentinels {
		if errors.Is(err, s) {
			found |= 1 << i
		}
	}
	b = appendUint(b, found)
	errno, _ := errors.AsType[syscall.Errno](err)
	b = appendUint(b, uint64(errno))
	if depth >= maxDepth {
		return append(b, errNone)
	}
	if inner, ok := errors.AsType[*PanicError](err); ok {
		return appendError(b, inner, depth+1)
	}
	if inner, ok := errors.AsType[*Error](err); ok {
		return appendError(b, inner, depth+1)
	}
	if kind := KindOf(err); kind != "" {
		return appendError(b, kind, depth+1)
	}
	return append(b, errNone)
}

func (f *fields) error(depth int) error {
	form := f.Uint()
	if form == errNone {
		return nil
	}
	if depth > maxDepth {
		f.Fail()
		return nil
	}
	switch form {
	case errFetch:
		return &Error{Kind: Kind(f.Text()), URL: f.Text(), Err: f.error(depth + 1)}
	case errPanic:
		e := &PanicError{URL: f.Text(), Stack: f.Bytes(), Value: f.Text()}
		if cause := f.error(depth + 1); cause != nil {
			e.Value = cause
		}
		return e
	case errKind:
		return Kind(f.Text())
	case errRemote:
		e := &remoteError{text: f.Text()}
		found := f.Uint()
		for i, s := range sentinels {
			if found&(1<<i) != 0 {
				e.is = append(e.is, s)
			}
		}
		if errno := f.Uint(); errno != 0 {
			e.is = append(e.is, syscall.Errno(errno))
		}
		if inner := f.error(depth + 1); inner != nil {
			e.is = append(e.is, inner)
		}
		return e
	}
	f.Fail()
	return nil
}

// A remoteError is an error of another process: its text, and the errors that errors.Is and
// errors.As found in it there.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }
