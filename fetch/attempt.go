package fetch

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"fetchbench/fetch/internal/rules"
)

// An attempt is the context of one attempt. It ends with the caller's context, when the
// attempt is over, when that has taken too long, and when the server is silent for too long.
type attempt struct {
	context.Context
	caller context.Context // the one that the Client was given
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

// expire is called when the timer says that a limit has been reached.
func (a *attempt) expire() {
	if a.timeout > 0 && !time.Now().Before(a.end) {
		a.cancel(&Error{Kind: ErrTimeout, Err: rules.TookTooLong(a.timeout)})
	} else {
		a.cancel(&Error{Kind: ErrTimeout, Err: rules.WasSilent(a.idle)})
	}
}

// listen says that it is the server's turn, or that it has just sent something. From
// now on it must not be silent for longer than idle.
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

// busy says that it is not the server's turn: the silence is ours.
func (a *attempt) busy() {
	switch {
	case !a.listening.Swap(false):
	case a.timeout > 0:
		a.timer.Reset(time.Until(a.end))
	default:
		a.timer.Stop()
	}
}

// stop ends the attempt.
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
