package fetch

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"fetchbench/fetch/internal/queue"
	"fetchbench/fetch/internal/rules"
)

// A PerHost is polite to each host (name and port of a request's URL), and keeps one that is slow
// or dead from holding up the others. It is a policy of [Fetcher].
//
// A request waits, first come, first served, until its host has fewer than Limit requests under
// way, Spacing has passed since the last one started, and the host is not parked: one that answers
// 429 or 503 with Retry-After is parked for that time, up to MaxPark. Other hosts' requests start
// meanwhile, as far as Lookahead allows. In an input that has all URLs of a host in a row, that is
// not far: shuffle it.
//
// A host is down if a request to it failed by [ErrDial], [ErrDNS] or [ErrTimeout], Failures times
// in a row, and it has answered nothing since the failed request began: one answer, to whatever
// request, is a sign of life. A timeout of a request that has failed before does not count.
//
// The requests to a host that is down are held, and one of them asks whether it is back, once a
// second, up to four at once if they get no response. One that is refused is held again, and has used
// up nothing of Retry; so is one that is refused by a host which has answered before, for up to
// Patience. One that times out has failed, and it is for Retry to decide. (So a row of URLs that all
// hang, much longer than Limit, may pass for a dead host.) The others fail, without having been sent,
// only when the host has been down for Patience. After that, new ones fail at once, but for one from
// time to time that asks: after a second, then after twice as long each time, up to MaxPark.
//
// Requests held for hosts that have never answered take at most half of Lookahead. Beyond that,
// those of the host that has been down longest fail first (unless it is the first such host, and
// the only one that there are requests for); and a run that came to that does not wait, when
// nothing else is left to do, for such hosts. So a list full of dead hosts is not slowed by them.
//
// The target of a redirect is not looked at: that a host redirects is a sign of life, whatever
// comes of it; only a Retry-After counts, wherever it comes from. The zero value is ready. Idle,
// healthy hosts are forgotten.
type PerHost struct {
	// Limit is how many requests of a host are under way at most. 0 means 8.
	Limit int
	// Spacing is the least time from the start of one request of a host to that of the next. 0
	// means none.
	Spacing time.Duration
	// MaxPark is the longest time that a host is parked for, or that is between two attempts to
	// find out whether it is back. 0 means a minute.
	MaxPark time.Duration
	// Failures is how many in a row mean that a host is down. 0 means 3; a negative value, that no
	// host is ever thought down.
	Failures int
	// Patience is how long a host may be down before its requests fail. 0 means 10 s; a negative
	// value, that they fail at once.
	Patience time.Duration
	// Lookahead is how many requests may be taken from the input and not handed out, if that is more
	// than the strategy's own bound. 0 means 16 times the requests that it has under way at once.
	Lookahead int
}

func (p *PerHost) check() {
	if p != nil {
		limit("PerHost.Limit", p.Limit, 0, maxLimit)
		notNegative("PerHost.Spacing", p.Spacing)
		notNegative("PerHost.MaxPark", p.MaxPark)
		limit("PerHost.Lookahead", p.Lookahead, 0, maxLimit)
	}
}

// defaults returns p with defaults in place of zeros, for a strategy with this many requests under
// way.
func (p PerHost) defaults(inFlight int) PerHost {
	p.Limit = cmp.Or(p.Limit, 8)
	p.MaxPark = min(cmp.Or(p.MaxPark, time.Minute), forEver)
	p.Spacing = min(p.Spacing, forEver)
	p.Failures = max(cmp.Or(p.Failures, 3), 0) // 0: never
	p.Patience = min(cmp.Or(p.Patience, 10*time.Second), forEver)
	p.Lookahead = cmp.Or(p.Lookahead, min(16*inFlight, maxLimit))
	return p
}

// hosts is the state of a [PerHost] in a run; its times are since the run began. Of a host with
// waiting requests, either one may start, and the host is in ready; or one may at some time, and it
// is in timed; or enough are under way, and done will look at it again.
type hosts struct {
	PerHost
	tell    func(Event)
	known   map[rules.Host]*host
	sweep   int // how many known hosts make it worthwhile to forget some
	ready   queue.FIFO[*host]
	timed   queue.Timers[*host]
	failing queue.FIFO[failing]

	pending int                // requests added and not done
	unheard int                // of the held, those for hosts that have never answered
	held    int                // those waiting for hosts that are down
	down    map[*host]struct{} // those hosts
	fallen  int                // how often a host that had never answered went down
	probes  int                // requests under way that ask whether a host is back
	crowded bool               // hosts have been given up since too many requests were held
}

// A host is what is known of one host.
type host struct {
	key     rules.Host
	out     int // requests under way
	waiting queue.FIFO[*Request]
	queued  bool          // in ready
	alarm   time.Duration // when timed has it looked at; 0: not at all
	next    time.Duration // no request starts before: parked, or for Spacing

	heard    bool          // it has answered
	answered time.Duration // the last time
	failures int           // in a row
	last     error         // of the last failure
	failed   time.Duration // its time
	since    time.Duration // when it went down; 0: it is not down
	hopeless bool          // down for so long that nothing is held for it
	probing  int           // requests under way that ask whether it is back
	probe    time.Duration // when the next one may
	pause    time.Duration // from one such request to the next
}

// failing is a request that is to fail without having been sent.
type failing struct {
	r   *Request
	err *downError
}

func newHosts(p *PerHost, limits Limits, tell func(Event)) *hosts {
	return &hosts{
		PerHost: p.defaults(limits.InFlight),
		tell:    tell,
		known:   make(map[rules.Host]*host),
		down:    make(map[*host]struct{}),
	}
}

// add has r wait for its host.
func (p *hosts) add(r *Request, now time.Duration) {
	h := p.host(rules.HostOf(r.URL), now)
	r.state.host = h
	p.pending++
	if h.hopeless && (h.waiting.Len() > 0 || h.probing > 0 || now < h.probe) {
		p.failing.Push(failing{r, p.downError(h, now)})
		return
	}
	h.waiting.Push(r)
	p.hold(h, 1, now)
	p.schedule(h, now)
}

// hold counts n more, or -n fewer, requests waiting for h, if that is down. If too many are held, it
// gives up the host that has been down longest and never answered. Not one that has answered, which
// may have restarted; nor the first, if the run has requests for no other: it may be about to start.
func (p *hosts) hold(h *host, n int, now time.Duration) {
	if h.since == 0 || h.hopeless {
		return
	}
	if !h.heard {
		p.unheard += n
	}
	if p.held += n; h.waiting.Len() == 0 {
		delete(p.down, h)
		return
	}
	p.down[h] = struct{}{}
	for p.unheard > p.Lookahead/2 {
		var oldest *host
		for h := range p.down {
			if !h.heard && (oldest == nil || h.since < oldest.since) {
				oldest = h
			}
		}
		if oldest == nil || p.fallen == 1 && p.pending == oldest.waiting.Len()+oldest.out {
			return
		}
		p.crowded = true
		p.giveUp(oldest, now)
	}
}

// giveUp has the requests held for h fail.
func (p *hosts) giveUp(h *host, now time.Duration) {
	if _, ok := p.down[h]; ok {
		p.held -= h.waiting.Len()
		if !h.heard {
			p.unheard -= h.waiting.Len()
		}
		delete(p.down, h)
	}
	h.hopeless = true
	for err := p.downError(h, now); h.waiting.Len() > 0; {
		p.failing.Push(failing{h.waiting.Pop(), err})
	}
}

// schedule sees to it that h is looked at when its next request may start.
func (p *hosts) schedule(h *host, now time.Duration) {
	at, end := h.next, h.since+p.Patience
	switch {
	case h.queued || h.waiting.Len() == 0:
		return
	case !p.hasPlace(h) && (h.since == 0 || h.hopeless):
		return // its next result will
	case h.since == 0:
	case !h.hopeless && now >= end:
		p.giveUp(h, now)
		return
	default:
		if at = max(at, h.probe); !p.hasPlace(h) {
			at = end
		}
		if !h.hopeless {
			at = min(at, end)
		}
	}
	if at <= now {
		h.queued = true
		p.ready.Push(h)
	} else if h.alarm == 0 || at < h.alarm {
		h.alarm = at
		p.timed.Push(at, h)
	}
}

// mayStart reports whether a request of h, which is in ready, may still start.
func (p *hosts) mayStart(h *host, now time.Duration) bool {
	if h.waiting.Len() == 0 || now < h.next {
		return false
	}
	return p.hasPlace(h) && (h.since == 0 || now >= h.probe)
}

// maxProbes is how many requests ask at once whether a host is back: more than one, since it may be
// the URL of the first that hangs.
const maxProbes = 4

// hasPlace reports whether another request to h may be under way.
func (p *hosts) hasPlace(h *host) bool {
	return h.out < p.Limit && (h.since == 0 || h.probing < maxProbes)
}

// advance looks at the hosts whose time has come. stuck tells that the run has nothing to do but to
// wait for hosts that are down.
func (p *hosts) advance(now time.Duration, stuck bool) {
	for h, ok := p.timed.Pop(now); ok; h, ok = p.timed.Pop(now) {
		if h.alarm <= now { // else there is a later one
			h.alarm = 0
		}
		p.schedule(h, now)
	}
	if stuck && p.crowded {
		for h := range p.down {
			if !h.heard {
				p.giveUp(h, now)
			}
		}
	}
}

// wake returns when a host has to be looked at, if that is not for a result to say.
func (p *hosts) wake() (at time.Duration, ok bool) {
	if p.failing.Len() > 0 {
		return 0, true
	}
	return p.timed.Next()
}

// peek returns the request that may start next, or nil. The hosts take turns.
func (p *hosts) peek(now time.Duration) *Request {
	for p.ready.Len() > 0 {
		h := p.ready.Peek()
		if p.mayStart(h, now) {
			return h.waiting.Peek()
		}
		p.ready.Pop()
		h.queued = false
		p.schedule(h, now)
	}
	return nil
}

// begin counts r in, which peek has returned.
func (p *hosts) begin(r *Request, now time.Duration) {
	h := p.ready.Pop()
	h.queued = false
	h.waiting.Pop()
	h.out++
	r.state.begun = now
	if h.since > 0 {
		r.state.probe = true
		h.probing++
		h.probe = now + h.pause
		p.probes++
		p.hold(h, -1, now)
	}
	if p.Spacing > 0 {
		h.next = max(h.next, now+p.Spacing)
	}
	p.schedule(h, now)
}

// done counts r out, which has ended in res; known is false if that says nothing of the host. It
// reports whether r was refused, and waits for its host again.
func (p *hosts) done(r *Request, res *Result, begun time.Time, now time.Duration, known bool) (again bool) {
	h := r.state.host
	h.out--
	p.pending--
	probe := r.state.probe
	if probe {
		r.state.probe = false
		h.probing--
		p.probes--
	}
	if after, ok := retryAfter(res, begun.Add(now)); ok && after > 0 {
		p.park(h, min(after, p.MaxPark), now)
	}
	switch {
	case known && alive(res) && (r.state.begun >= h.failed || !cutOff(res)):
		p.goUp(h, now)
		if cutOff(res) && p.Failures > 1 {
			h.failures = 1 // it may be going down, but no number of these alone says so
		}
	case known && dead(res) && h.answered <= r.state.begun:
		silent := KindOf(res.Err) == ErrTimeout
		if !silent || r.state.tries == 0 {
			h.failures++ // else it may be the URL, which has failed before
		}
		h.last, h.failed = res.Err, now
		if h.since == 0 && p.Failures > 0 && h.failures >= p.Failures {
			p.goDown(h, now)
		} else if probe && h.hopeless {
			h.pause = min(2*h.pause, p.MaxPark)
			h.probe = now + h.pause
		}
		again = !silent && h.since > 0 && !h.hopeless && now < h.since+p.Patience
	case probe:
		h.probe = now // it said nothing: another one may ask at once
	}
	if known && dead(res) && KindOf(res.Err) == ErrDial && h.heard && h.since == 0 && p.Failures > 0 {
		// It was not sent, and may be one of many that a host refuses as it goes down, while it
		// still answers others: it waits for what comes of that.
		if r.state.refused == 0 {
			r.state.refused = max(1, now)
		}
		again = now < r.state.refused+p.Patience
		h.next = max(h.next, now+refusedPause)
	}
	if again {
		p.pending++
		h.waiting.Push(r)
		p.hold(h, 1, now)
	}
	p.schedule(h, now)
	return again
}

// park keeps requests from h for some time, since it asked for that.
func (p *hosts) park(h *host, d, now time.Duration) {
	if now >= h.next { // else it is parked already, or about to start another one
		p.tell(Event{Kind: EventHostParked, Host: h.key.String(), Duration: d})
	}
	h.next = max(h.next, now+d)
}

// goUp notes a sign of life.
func (p *hosts) goUp(h *host, now time.Duration) {
	p.hold(h, -h.waiting.Len(), now)
	delete(p.down, h)
	if h.since > 0 {
		p.tell(Event{Kind: EventHostUp, Host: h.key.String(), Duration: now - h.since})
	}
	h.heard, h.answered = true, now
	h.failures, h.last, h.since, h.hopeless = 0, nil, 0, false
}

// refusedPause is how long a host that has refused a request, and is not down, is left alone.
const refusedPause = 50 * time.Millisecond

func (p *hosts) goDown(h *host, now time.Duration) {
	if h.since = max(1, now); !h.heard {
		p.fallen++
	}
	h.pause = min(time.Second, p.MaxPark)
	h.probe = now + h.pause
	p.tell(Event{Kind: EventHostDown, Host: h.key.String(), Err: h.last})
	if p.Patience < 0 {
		p.giveUp(h, now)
	} else {
		p.hold(h, h.waiting.Len(), now)
	}
}

// fail returns a request that is to fail, and why; or nil.
func (p *hosts) fail() (*Request, error) {
	if p.failing.Len() == 0 {
		return nil, nil
	}
	f := p.failing.Pop()
	p.pending--
	return f.r, newError(KindOf(f.err.last), f.r, unsentError{f.err})
}

// drain takes the requests that wait.
func (p *hosts) drain(take func(*Request)) {
	for p.failing.Len() > 0 {
		take(p.failing.Pop().r)
	}
	for _, h := range p.known {
		for h.waiting.Len() > 0 {
			take(h.waiting.Pop())
		}
	}
	p.held, p.unheard = 0, 0
	clear(p.down)
}

// remembered is how many hosts that have failed, or are parked, are kept in mind without requests.
const remembered = 10_000

// host returns what is known of key's host.
func (p *hosts) host(key rules.Host, now time.Duration) *host {
	h := p.known[key]
	if h != nil {
		return h
	}
	if len(p.known) >= max(p.sweep, 1024) {
		for _, h := range p.known {
			idle := h.out == 0 && h.waiting.Len() == 0
			if idle && (len(p.known) > remembered || now >= h.next && (h.failures == 0 || now-h.failed > p.MaxPark)) {
				delete(p.known, h.key)
			}
		}
		p.sweep = 2 * len(p.known)
	}
	key = rules.Host{Name: strings.Clone(key.Name), Port: strings.Clone(key.Port)} // not the whole URL
	h = &host{key: key}
	p.known[key] = h
	return h
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

// cutOff reports whether res is of a connection that ended too early. That was alive once, but may
// have ended because the host went down.
func cutOff(res *Result) bool {
	kind := KindOf(res.Err)
	return kind == ErrReset || kind == ErrTruncated
}

// dead reports whether res may mean that the host is down: there is no sign of life, and it is not
// this machine's own doing.
func dead(res *Result) bool {
	switch KindOf(res.Err) {
	case ErrDial, ErrDNS, ErrTimeout:
		_, unsent := errors.AsType[unsentError](res.Err)
		return res.Status == 0 && !unsent && rules.LocalLimit(res.Err) == ""
	}
	return false
}

// A downError is why a request to a host that is down was not sent.
type downError struct {
	last     error // the host's
	down     time.Duration
	patience time.Duration
	crowded  bool
}

func (p *hosts) downError(h *host, now time.Duration) *downError {
	return &downError{last: h.last, down: now - h.since, patience: p.Patience, crowded: p.crowded}
}

func (e *downError) Error() string {
	why := ""
	if e.crowded && e.down < e.patience {
		why = ", and too many requests wait for such hosts: see PerHost.Lookahead"
	} else if e.patience > 0 {
		why = ": see PerHost.Patience"
	}
	return fmt.Sprintf("the host is down, for %v now%s: %v", e.down.Round(time.Millisecond), why, e.Unwrap())
}

// Unwrap returns the cause of the host's last failure, without the URL that it was at.
func (e *downError) Unwrap() error {
	if last, ok := errors.AsType[*Error](e.last); ok && last.Err != nil {
		return last.Err
	}
	return KindOf(e.last)
}
