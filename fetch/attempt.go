package fetch

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"fetchbench/fetch/internal/rules"
)

// An attempt is the context of one attempt. It ends with the caller's context, when the attempt is
// over, when that has taken too long, and when the server is silent for too long.
type attempt struct {
	context.Context
	caller context.Context // the one that the engine was given
	cancel context.CancelCauseFunc

	timeout, idle time.Duration // not positive: no such limit
	end           time.Time     // of timeout
	timer         *time.Timer   // nil if there is no limit
	listening     atomic.Bool   // the timer is set for idle
}

// newAttempt starts an attempt, which has to be stopped.
func newAttempt(caller context.Context, timeout, idle time.Duration) *attempt {
	a := &attempt{caller: caller, timeout: timeout, idle: idle}
	a.Context, a.cancel = context.WithCancelCause(caller)
	switch {
	case timeout > 0:
		a.end = time.Now().Add(timeout)
		a.timer = time.AfterFunc(timeout, a.expire)
	case idle > 0:
		a.timer = time.AfterFunc(idle, a.expire)
		a.timer.Stop() // until the server's turn
	}
	return a
}

func (a *attempt) expire() {
	err := rules.WasSilent(a.idle)
	if a.timeout > 0 && !time.Now().Before(a.end) {
		err = rules.TookTooLong(a.timeout)
	}
	a.cancel(&Error{Kind: ErrTimeout, Err: err})
}

// listen says that it is the server's turn, or that it has just sent something.
func (a *attempt) listen() {
	if a.idle <= 0 || a.Err() != nil {
		return
	}
	d := a.idle
	if a.timeout > 0 {
		d = min(d, time.Until(a.end))
	}
	a.listening.Store(true)
	a.timer.Reset(d)
}

// busy says that it is not the server's turn.
func (a *attempt) busy() {
	switch {
	case !a.listening.Swap(false):
	case a.timeout > 0:
		a.timer.Reset(time.Until(a.end))
	default:
		a.timer.Stop()
	}
}

func (a *attempt) stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
	a.cancel(nil)
}

// expired returns the error of the limit that ended the attempt, or nil.
func (a *attempt) expired() error {
	if e, ok := context.Cause(a).(*Error); ok && a.caller.Err() == nil {
		return e
	}
	return nil
}

// A quietReader reads a body, of which every part has to come within the idle time.
type quietReader struct {
	r io.Reader
	a *attempt
}

func (q quietReader) Read(b []byte) (int, error) {
	n, err := q.r.Read(b)
	q.a.listen()
	return n, err
}

// receive puts resp into res, and frees its connection for the next request or closes it.
func (res *Result) receive(a *attempt, resp *http.Response, maxBody int64) (err error) {
	defer resp.Body.Close()
	res.setHead(resp)
	res.Body, err = readBody(resp, quietReader{resp.Body, a}, maxBody)
	// Of a body that it has decoded net/http does not tell whether there was a length; and a gzip
	// stream may go on after its end. crypto/tls accepts an end that is not signed.
	res.Unverified = err == nil && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 &&
		resp.ProtoMajor == 1 && resp.Close && rules.HasBody(resp.Request.Method, resp.StatusCode)
	return err
}

// setHead puts the head of resp into res.
func (res *Result) setHead(resp *http.Response) {
	res.Status, res.header = resp.StatusCode, resp.Header
	if resp.Request.Response != nil { // the redirect that led there
		res.URL = resp.Request.URL.String()
	}
}

// checkHead returns an error if the head of resp is odd though net/http has accepted it, and closes
// the body then.
func checkHead(resp *http.Response) error {
	err := rules.CheckHead(resp.StatusCode, resp.Header)
	if err == nil {
		return nil
	}
	resp.Body.Close()
	return &Error{Kind: ErrProtocol, Err: err}
}

// readBody reads resp's body to its end, or a little more than most bytes of it.
func readBody(resp *http.Response, body io.Reader, most int64) ([]byte, error) {
	n := resp.ContentLength
	if !rules.HasBody(resp.Request.Method, resp.StatusCode) {
		n = 0 // it is the length of the body that another response would have
	}
	if most >= 0 && n > most {
		return nil, rules.TooLargeError(most)
	}
	if n < 0 || n > rules.TrustedLength {
		return rules.ReadAll(body, most)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(body, b); err != nil {
		return nil, err
	}
	if resp.ProtoMajor > 1 {
		// The end of an HTTP/2 stream may come in a frame of its own. To close the body without
		// having seen it would reset the stream.
		_, _ = io.Copy(io.Discard, body)
	}
	return b, nil
}

// drain closes an unwanted body, after its end if that is near, so that the connection can serve
// the next request.
func drain(body io.ReadCloser, a *attempt) {
	_, _ = io.CopyN(io.Discard, quietReader{body, a}, 16<<10)
	body.Close()
}
