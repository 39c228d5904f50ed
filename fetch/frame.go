package fetch

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
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

// What a Shard and its children say to each other: frames, each of a head (version, type,
// and four bytes each for the payload's length and its CRC-32C, since something else may write to
// the same descriptor) and a payload of fields one after another. Numbers are varints, strings
// have their length before them. To the child goes one hello, then requests until the pipe is
// closed; from it comes one ready, then results, events and beats until its process ends.
type frameType byte

const (
	frameHello    frameType = iota + 1 // a shardHello, in gob
	frameReady                         // empty: the child has understood the hello
	frameRequest                       // see appendRequest
	frameResult                        // see appendResult
	frameBatch                         // a BatchInfo: see appendBatch
	frameRetry                         // a RetryInfo: see appendRetry
	framePipeline                      // a PipelineInfo: see appendPipeline
	frameBeat                          // empty: the child is alive
)

const (
	frameVersion = 1
	frameHead    = 10
	maxFrame     = 1 << 30
)

var errFrame = errors.New("it sent what is no frame: does something in the program write to file descriptor 4?")

// writeFrame writes a frame whose payload is fields, and body after them.
func writeFrame(w *bufio.Writer, t frameType, fields, body []byte) error {
	n := len(fields) + len(body)
	if n > maxFrame {
		return errFrameSize
	}
	head := append(w.AvailableBuffer(), frameVersion, byte(t))
	head = binary.BigEndian.AppendUint32(head, uint32(n))
	head = binary.BigEndian.AppendUint32(head, crc32.Update(crc32.Checksum(fields, castagnoli), castagnoli, body))
	w.Write(head) // a bufio.Writer keeps its first error
	w.Write(fields)
	_, err := w.Write(body)
	return err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errFrameSize = fmt.Errorf("more than the %d MiB that go to or from a child process at once", maxFrame>>20)

// readFrame reads a frame. The error is io.EOF only where one ends and the next would begin.
func readFrame(r *bufio.Reader) (frameType, []byte, error) {
	head, err := r.Peek(frameHead)
	if err == io.EOF && len(head) > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, nil, err
	}
	t, n, sum := frameType(head[1]), int(binary.BigEndian.Uint32(head[2:])), binary.BigEndian.Uint32(head[6:])
	if head[0] != frameVersion || t < frameHello || t > frameBeat || n > maxFrame {
		return 0, nil, errFrame
	}
	r.Discard(frameHead) // cannot fail: it has been peeked at

	// A length is a claim: memory for more than a MiB is made as that much comes.
	payload := make([]byte, 0, min(n, 1<<20))
	for len(payload) < n {
		have := len(payload)
		payload = slices.Grow(payload, min(n-have, max(have, 1<<20)))
		payload = payload[:min(n, cap(payload))]
		if _, err := io.ReadFull(r, payload[have:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
	if crc32.Checksum(payload, castagnoli) != sum {
		return 0, nil, errFrame
	}
	return t, payload, nil
}

// fields takes a payload apart.
type fields struct{ field.Reader }

func fieldsOf(b []byte) fields { return fields{field.Reader{Rest: b}} }

// body returns the rest. Whether it is nil or empty was told by a field before it.
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

// appendRequest appends the fields of r, all but the body.
func appendRequest(b []byte, id uint64, r *Request) []byte {
	b = appendUint(b, id)
	b = appendInt(b, r.Index)
	b = field.Append(b, r.Method)
	b = field.Append(b, r.URL)
	b = appendHeader(b, r.Header)
	return appendBool(b, r.Body == nil)
}

func decodeRequest(payload []byte) (id uint64, r *Request, err error) {
	f := fieldsOf(payload)
	id = f.Uint()
	r = &Request{Index: f.Int(), Method: f.Text(), URL: f.Text(), Header: f.header()}
	r.Body = f.body(f.Uint() == 1)
	if f.Bad {
		return 0, nil, errFrame
	}
	return id, r, nil
}

// appendResult appends the fields of r, all but the request and the body.
func appendResult(b []byte, id uint64, r *Result) []byte {
	b = appendUint(b, id)
	b = appendInt(b, r.Status)
	b = appendInt(b, r.Attempts)
	b = appendInt(b, int(r.Duration))
	b = appendBool(b, r.Unverified)
	b = appendError(b, r.Err, 0)
	// The header's length goes before it, so that it can be parsed when it is asked for.
	var scratch [512]byte
	b = field.Append(b, appendHeader(scratch[:0], r.Header()))
	return appendBool(b, r.Body == nil)
}

func decodeResult(payload []byte) (id uint64, r Result, err error) {
	f := fieldsOf(payload)
	id = f.Uint()
	r = Result{Status: f.Int(), Attempts: f.Int(), Duration: time.Duration(f.Int()), Unverified: f.Uint() == 1, Err: f.error(0)}
	if header := f.Bytes(); len(header) > 0 && header[0] != 0 { // else it is nil
		r.parse = func() http.Header {
			f := fieldsOf(header)
			return f.header()
		}
	}
	r.Body = f.body(f.Uint() == 1)
	if f.Bad {
		return 0, Result{}, errFrame
	}
	return id, r, nil
}

func appendBatch(b []byte, info BatchInfo) []byte {
	b = appendInt(b, info.Number)
	b = appendInt(b, info.Size)
	b = appendInt(b, info.Failed)
	return appendInt(b, int(info.Duration))
}

func decodeBatch(payload []byte) (BatchInfo, error) {
	f := fieldsOf(payload)
	info := BatchInfo{Number: f.Int(), Size: f.Int(), Failed: f.Int(), Duration: time.Duration(f.Int())}
	if f.Bad {
		return BatchInfo{}, errFrame
	}
	return info, nil
}

func appendRetry(b []byte, info RetryInfo) []byte {
	b = appendInt(b, info.Index)
	b = field.Append(b, info.URL)
	b = appendInt(b, info.Attempts)
	b = appendInt(b, info.Status)
	b = appendInt(b, int(info.Wait))
	return appendError(b, info.Err, 0)
}

func decodeRetry(payload []byte) (RetryInfo, error) {
	f := fieldsOf(payload)
	info := RetryInfo{Index: f.Int(), URL: f.Text(), Attempts: f.Int(), Status: f.Int(), Wait: time.Duration(f.Int()), Err: f.error(0)}
	if f.Bad {
		return RetryInfo{}, errFrame
	}
	return info, nil
}

func appendPipeline(b []byte, info PipelineInfo) []byte {
	b = field.Append(b, info.Host)
	b = appendInt(b, info.Unanswered)
	b = appendInt(b, int(info.Off))
	return appendError(b, info.Err, 0)
}

func decodePipeline(payload []byte) (PipelineInfo, error) {
	f := fieldsOf(payload)
	info := PipelineInfo{Host: f.Text(), Unanswered: f.Int(), Off: time.Duration(f.Int()), Err: f.error(0)}
	if f.Bad {
		return PipelineInfo{}, errFrame
	}
	return info, nil
}

// appendHeader appends 0 for nil, else 1 more than the number of names, and them with their values.
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
		var values []string // nil if there are none: it keeps net/http from adding its own
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

// The forms in which an error crosses. Errors nest no deeper than maxDepth.
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

// appendError appends err. If a method of err panics, as that of a nil pointer may, what
// crosses is its text as fmt has it then.
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

// A remoteError is an error of a child process: its text, and those errors that
// errors.Is and errors.As found in it there.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }
