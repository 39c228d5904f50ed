package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"fetchbench/fetch/internal/rules"
)

// A PerHost is a [Doer] that is polite to each host (name and port of a request's URL), and
// keeps one that is slow or dead from holding up the others.
//
// A request waits, first come, first served, until its host has less than Limit requests under
// way, Spacing has passed since the last one began, and the host is not parked: one that
// answers 429 or 503 with Retry-After is parked for that time, up to MaxPark. Meanwhile a [Pool],
// [Semaphore] or [Batch] has another request performed in its place; the other strategies do
// not. Since a strategy takes no more than a number of requests ahead, those that wait hold the
// others up once there are that many: shuffle an input that has all URLs of a host in a row, and give
// the strategy a limit well above what waits.
//
// A host that has shown no sign of life (an [ErrDial], [ErrDNS] or [ErrTimeout]) Failures times
// in a row is down: requests to it fail at once with the last such error, and Attempts 0, but for
// one from time to time that finds out whether it is back: after a second, then after twice
// as long each time, up to MaxPark.
//
// What a redirect leads to is not looked at: that a host redirects is a sign of life, whatever comes of it; only
// a Retry-After counts, wherever it comes from. A Doer within a PerHost must not use the same
// PerHost. A PerHost may be used by several goroutines at once, and must not be copied or changed
// after its first use. The zero value is ready. It forgets hosts that nothing has to
// be remembered of.
type PerHost struct {
	// Doer performs the requests. nil means [DefaultClient].
	Doer Doer
	// Limit is how many requests of a host are under way at the most. 0 means 8.
	Limit int
	// Spacing is the least time from the beginning of one request of a host to that of the
	// next. By default there is none.
	Spacing time.Duration
	// MaxPark is the longest time that a host is parked for, or that is between two attempts to
	// find out whether it is back. 0 means a minute.
	MaxPark time.Duration
	// Failures is how many signs of death in a row mean that a host is down. 0 means 3; a
	// negative value, that none is ever thought down.
	Failures int

	mu    sync.Mutex
	hosts map[rules.Host]*hostState
	sweep int // how many hosts make it worth while to look for those to forget
}

// A hostState is what a PerHost knows of a host. The PerHost's mu guards it.
type hostState struct {
	key      rules.Host
	underWay int
	called   int // those that waited, and may begin as soon as they have their places back
	waiting  []*turn
	next     time.Time   // no request begins before: parked, or for the sake of spacing
	timer    *time.Timer // if not nil: calls admit at the time of next, or before

	failures int // signs of death in a row
	last     error
	failed   time.Time     // when that was
	probe    time.Time     // if it is down: when a request may find out whether it is back; zero: one does
	pause    time.Duration // from the last probe to the next
}

// A turn is what a request waits for.
type turn struct {
	come chan struct{} // closed when it has come, or never will
	err  error         // why it never will
}

// Do implements [Doer].
func (p *PerHost) Do(ctx context.Context, req *Request) (res Result) {
	p.check()
	h, err := p.enter(ctx, rules.HostOf(req.URL))
	if ctx.Err() != nil {
		err = contextError(ctx, req)
	}
	if h != nil {
		res.Err = ErrPanic // unless Do returns
		defer func() { p.leave(ctx, h, &res) }()
	}
	if err == nil {
		return doerOr(p.Doer).Do(ctx, req)
	}
	if down, ok := err.(*downError); ok {
		err = newError(KindOf(down.last), req, unsentError{down})
	}
	return Result{Request: req, Err: err}
}

// CloseIdleConnections calls the method of the same name that the Doer has, if it has one.
func (p *PerHost) CloseIdleConnections() { closeIdle(p.Doer) }

// enter returns the host of key when a request to it may begin, which has to leave again; or
// nil and why it must not.
func (p *PerHost) enter(ctx context.Context, key rules.Host) (*hostState, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	h := p.host(key, now)
	if p.isDown(h) {
		if h.probe.IsZero() || now.Before(h.probe) {
			return nil, h.downError(now)
		}
		h.probe = time.Time{} // this request is the one
	}
	if len(h.waiting) == 0 && h.called == 0 && h.underWay < p.limit() && !now.Before(h.next) {
		p.begin(h, now)
		return h, nil
	}
	t := &turn{come: make(chan struct{})}
	h.waiting = append(h.waiting, t)
	for {
		p.admit(h, time.Now())
		p.mu.Unlock()
		stepAside(ctx, func() {
			select {
			case <-t.come:
			case <-ctx.Done():
			}
		})
		p.mu.Lock()
		now = time.Now()
		if i := slices.Index(h.waiting, t); i >= 0 {
			h.waiting = slices.Delete(h.waiting, i, i+1)
		} else if t.err == nil {
			h.called--
		}
		switch {
		case t.err != nil:
			return nil, t.err
		case ctx.Err() != nil:
			if h.probe.IsZero() {
				h.probe = now // in case this was to be it
			}
			p.admit(h, now)
			p.forget(h, now)
			return nil, ctx.Err()
		case !now.Before(h.next):
			p.begin(h, now)
			p.admit(h, now)
			return h, nil
		}
		// The host has been parked since it was called, and while it got its place back.
		t.come = make(chan struct{})
		h.waiting = slices.Insert(h.waiting, 0, t)
	}
}

// admit calls those who wait for h, and has itself called when there may be more to call. One
// who is called has yet to get its place with the strategy, so where there is Spacing
// it is called alone. As all below, admit is called with mu held.
func (p *PerHost) admit(h *hostState, now time.Time) {
	for len(h.waiting) > 0 && h.underWay+h.called < p.limit() && (h.called == 0 || p.Spacing == 0) {
		if d := h.next.Sub(now); d > 0 {
			if h.timer == nil {
				h.timer = time.AfterFunc(d, func() {
					p.mu.Lock()
					defer p.mu.Unlock()
					h.timer = nil
					p.admit(h, time.Now())
				})
			}
			return
		}
		h.called++
		h.pop(nil)
	}
}

// begin counts a request in.
func (p *PerHost) begin(h *hostState, now time.Time) {
	h.underWay++
	if p.Spacing > 0 {
		h.next = now.Add(p.Spacing)
	}
}

// pop calls the first of those who wait, or tells it why it never will be.
func (h *hostState) pop(err error) {
	t := h.waiting[0]
	h.waiting[0] = nil
	h.waiting = h.waiting[1:]
	t.err = err
	close(t.come)
}

// leave says that a request to h has ended in res.
func (p *PerHost) leave(ctx context.Context, h *hostState, res *Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	h.underWay--
	if after, ok := retryAfter(res, now); ok {
		h.next = later(h.next, now.Add(min(after, p.maxPark())))
	}
	switch {
	case ctx.Err() == nil && alive(res):
		h.failures, h.last, h.pause = 0, nil, 0
	case ctx.Err() == nil && dead(res):
		h.failures++
		h.last, h.failed = res.Err, now
		if p.isDown(h) && (h.pause == 0 || h.probe.IsZero()) {
			h.pause = min(max(time.Second, 2*h.pause), p.maxPark())
			h.probe = now.Add(h.pause)
		}
		for p.isDown(h) && len(h.waiting) > 0 {
			h.pop(h.downError(now))
		}
	default: // nothing is known
		if h.probe.IsZero() {
			h.probe = now // in case this was to be it
		}
	}
	p.admit(h, now)
	p.forget(h, now)
}

// alive reports whether res is a sign of life of the host that was asked.
func alive(res *Result) bool {
	switch KindOf(res.Err) {
	case "":
		return res.Err == nil
	case ErrTLS, ErrReset, ErrProtocol, ErrTruncated, ErrTooLarge, ErrDecode, ErrRedirect:
		return true
	}
	return res.Status != 0
}

// dead reports whether res is a sign of death: for want of any other, and not our own doing.
func dead(res *Result) bool {
	switch KindOf(res.Err) {
	case ErrDial, ErrDNS, ErrTimeout:
		_, unsent := errors.AsType[unsentError](res.Err)
		return !unsent && rules.LocalLimit(res.Err) == ""
	}
	return false
}

func (p *PerHost) isDown(h *hostState) bool { return p.failures() > 0 && h.failures >= p.failures() }

func (h *hostState) downError(now time.Time) *downError {
	return &downError{last: h.last, failures: h.failures, next: max(0, h.probe.Sub(now))}
}

// A downError is the cause of the error of a request that was not sent because its host is down.
type downError struct {
	last     error
	failures int
	next     time.Duration
}

func (e *downError) Error() string {
	return fmt.Sprintf("the host is down: no sign of life %d times in a row, and no attempt in the next %v: %v",
		e.failures, e.next.Round(time.Millisecond), e.Unwrap())
}

// Unwrap returns the cause of the last failure, without the URL that it was at.
func (e *downError) Unwrap() error {
	if last, ok := errors.AsType[*Error](e.last); ok && last.Err != nil {
		return last.Err
	}
	return KindOf(e.last)
}

// remembered is how many hosts' failures are kept in mind without need.
const remembered = 10_000

// host returns the state of key's host, a new one if there is none.
func (p *PerHost) host(key rules.Host, now time.Time) *hostState {
	h := p.hosts[key]
	if h != nil {
		return h
	}
	if p.hosts == nil {
		p.hosts = make(map[rules.Host]*hostState)
	}
	if len(p.hosts) >= max(p.sweep, 1024) {
		for _, h := range p.hosts {
			if h.idle() && (len(p.hosts) > remembered || now.Sub(h.failed) > p.maxPark()) {
				h.failures = 0
			}
			p.forget(h, now)
		}
		p.sweep = 2 * len(p.hosts)
	}
	key = rules.Host{Name: strings.Clone(key.Name), Port: strings.Clone(key.Port)} // and not the whole URL
	h = &hostState{key: key}
	p.hosts[key] = h
	return h
}

// forget forgets h if nothing has to be remembered of it.
func (p *PerHost) forget(h *hostState, now time.Time) {
	if len(h.waiting) == 0 && h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	if h.idle() && h.failures == 0 && !now.Before(h.next) {
		delete(p.hosts, h.key)
	}
}

func (h *hostState) idle() bool { return h.underWay+h.called+len(h.waiting) == 0 }

func (p *PerHost) check() {
	p.limit()
	notNegative("PerHost.Spacing", p.Spacing)
	notNegative("PerHost.MaxPark", p.MaxPark)
}

func (p *PerHost) limit() int             { return limit("PerHost.Limit", p.Limit, 8, maxLimit) }
func (p *PerHost) maxPark() time.Duration { return cmp.Or(p.MaxPark, time.Minute) }

// failures returns the number of failures after which a host is down, or 0 if none ever is.
func (p *PerHost) failures() int {
	return max(cmp.Or(p.Failures, 3), 0)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
