package rules

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// HasBody reports whether a response with that status, to a request with that method, has a body (RFC
// 9112 §6.3).
func HasBody(method string, status int) bool {
	return method != http.MethodHead && status >= 200 &&
		status != http.StatusNoContent && status != http.StatusNotModified
}

// A TooLargeError is the error of a response that is larger than a limit allows.
type TooLargeError struct{ error }

// BodyTooLarge is the error of a body that is larger than so many bytes.
func BodyTooLarge(limit int64) error {
	return TooLargeError{fmt.Errorf("more than %d bytes: see MaxBody", limit)}
}

// HeaderTooLarge is the error of a response whose head is larger than so many bytes.
func HeaderTooLarge(limit int64) error {
	return TooLargeError{fmt.Errorf("a header of more than %d bytes: see MaxHeaderBytes", limit)}
}

// TrustedLength is the length in bytes up to which a server's claim of how long the body will be is
// enough to make a buffer of that size.
const TrustedLength = 1 << 20

const chunkSize = 32 << 10

// chunks are what ReadAll reads into. They are used again, so that many large bodies at once, all
// refused in the end, take the memory of what has been read and no more.
var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// ReadAll reads r to its end, or to more than limit bytes if that is not negative, which is a
// [TooLargeError].
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	var full []*[chunkSize]byte
	last, n := chunks.Get().(*[chunkSize]byte), 0
	defer func() {
		for _, c := range append(full, last) {
			chunks.Put(c)
		}
	}()
	for {
		if n == chunkSize {
			full = append(full, last)
			last, n = chunks.Get().(*[chunkSize]byte), 0
		}
		m, err := r.Read(last[n:])
		n += m
		size := len(full)*chunkSize + n
		if limit >= 0 && int64(size) > limit {
			return nil, BodyTooLarge(limit)
		}
		if err == io.EOF {
			body := bytes.NewBuffer(make([]byte, 0, size))
			for _, c := range full {
				body.Write(c[:])
			}
			body.Write(last[:n])
			return body.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// Repeatable reports whether a request may be sent twice: it is idempotent by its method, in any
// case of letters (RFC 9110 §9.2.2), or has an Idempotency-Key.
func Repeatable(method string, header http.Header) bool {
	for _, m := range []string{"", "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"} {
		if strings.EqualFold(method, m) {
			return true
		}
	}
	for name, values := range header {
		if len(values) > 0 && (strings.EqualFold(name, "Idempotency-Key") || strings.EqualFold(name, "X-Idempotency-Key")) {
			return true
		}
	}
	return false
}
