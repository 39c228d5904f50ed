package rules

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// A TimeoutError is the error of an attempt that has reached one of its limits.
type TimeoutError struct{ error }

// Timeout implements [net.Error].
func (TimeoutError) Timeout() bool { return true }

// Temporary implements [net.Error].
func (TimeoutError) Temporary() bool { return true }

// TookTooLong is the error of an attempt that took longer than Timeout.
func TookTooLong(timeout time.Duration) error {
	return TimeoutError{fmt.Errorf("no complete response within %v: see Timeout", timeout)}
}

// NotConnected is the error of an attempt that has no connection within DialTimeout, because of
// step.
func NotConnected(timeout time.Duration, step string) error {
	return TimeoutError{fmt.Errorf("no connection within %v, %s took too long: see DialTimeout", timeout, step)}
}

// WasSilent is the error of an attempt whose server was silent for longer than StallTimeout.
func WasSilent(stall time.Duration) error {
	return TimeoutError{fmt.Errorf("the server sent nothing for %v: see StallTimeout", stall)}
}

// CheckHead returns what is wrong with the head of a response that net/http accepts, or nil.
func CheckHead(status int, header http.Header) error {
	switch {
	case status < 100:
		return errors.New("the status is not a number from 100 to 999")
	case status == http.StatusSwitchingProtocols:
		return errors.New("the server switches protocols (101): upgrades are not supported")
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
