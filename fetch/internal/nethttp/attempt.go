package nethttp

import (
	"context"
	"sync/atomic"
	"time"

	"fetchbench/fetch/internal/rules"
)

// An Attempt is the context of one attempt at a request, redirects included. It ends with the
// caller's context, when it is stopped, when it has taken too long, and when the server is silent
// for too long.
type Attempt struct {
	context.Context
	caller context.Context // the one that the engine was given
	cancel context.CancelCauseFunc

	timeout, idle time.Duration // not positive: no such limit
	end           time.Time     // of timeout
	timer         *time.Timer   // nil if there is no limit
	listening     atomic.Bool   // the timer is set for idle
}

// NewAttempt starts an attempt, which has to be stopped. It may take timeout in all, and the server
// may be silent for idle; what is not positive is no limit.
func NewAttempt(caller context.Context, timeout, idle time.Duration) *Attempt {
	a := &Attempt{caller: caller, timeout: timeout, idle: idle}
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

// Stop ends the attempt.
func (a *Attempt) Stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
	a.cancel(nil)
}

// Expired returns the error of the limit that ended the attempt, a [rules.TimeoutError], or nil.
func (a *Attempt) Expired() error {
	if e, ok := context.Cause(a).(rules.TimeoutError); ok && a.caller.Err() == nil {
		return e
	}
	return nil
}

func (a *Attempt) expire() {
	err := rules.WasSilent(a.idle)
	if a.timeout > 0 && !time.Now().Before(a.end) {
		err = rules.TookTooLong(a.timeout)
	}
	a.cancel(err)
}

// listen says that it is the server's turn, or that it has just sent something.
func (a *Attempt) listen() {
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
func (a *Attempt) busy() {
	switch {
	case !a.listening.Swap(false):
	case a.timeout > 0:
		a.timer.Reset(time.Until(a.end))
	default:
		a.timer.Stop()
	}
}
