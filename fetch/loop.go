package fetch

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"fetchbench/fetch/internal/queue"
)

// A loop is one run of a [Fetcher]. All of it happens on the caller's goroutine, so it is plain
// state:
//
//	input → take → waiting, for a policy → submit → out → receive → held, for the order → hand out
//
// The caller's body runs in advance alone, between two steps of the loop. If that returns false,
// the body has ended the loop: its caller returns at once, and close does the rest.
//
// It cannot deadlock: it waits only if something is out, which comes back since the executor has
// room for it, or for a time that a policy named, or for Stream's input.
type loop struct {
	ctx      context.Context
	yield    func(Result) bool
	trace    func(Event)
	strategy Strategy
	executor Executor
	results  <-chan Result
	isFull   func() bool // the executor's Full
	limits   Limits
	window   int // requests taken and not handed out, at most
	most     int // requests out, at most

	input      <-chan Request // Stream's; nil: none, or no more
	exhausted  bool           // the input has ended
	stopped    bool           // no more input, and nothing more is submitted
	taken      int
	pending    int                // taken and not handed out
	out        int                // submitted and not received
	held       map[int]Result     // for the order, by Index; nil: the order does not matter
	next       int                // the Index to be handed out next
	done       queue.FIFO[Result] // to be handed out
	batch      Event
	batchBegun time.Time

	// The policies, and their time: since the run began.
	policies bool
	begun    time.Time
	deadline time.Duration // of ctx; 0: none
	retry    *retries
	later    queue.Timers[*Request] // to be sent again
	hosts    *hosts                 // nil: waiting has the requests that may start
	waiting  queue.FIFO[*Request]
	pace     *pace
	paced    bool // the next request waits for its time
	timer    *time.Timer
}

func newLoop(ctx context.Context, f *Fetcher, s Strategy, limits Limits, yield func(Result) bool) *loop {
	l := &loop{ctx: ctx, yield: yield, strategy: s, limits: limits, window: limits.Ahead, most: limits.Ahead, begun: time.Now()}
	l.policies = f.Retry != nil || f.PerHost != nil || f.Rate != nil
	if end, ok := ctx.Deadline(); ok {
		l.deadline = max(1, end.Sub(l.begun))
	}
	if f.Ordered {
		l.held = make(map[int]Result)
	}
	if f.Retry != nil {
		l.retry = newRetries(f.Retry)
		if limits.InFlight > 1 {
			l.window = max(l.window, 2*limits.InFlight) // those that wait leave their places to others
		}
	}
	if f.PerHost != nil {
		l.hosts = newHosts(f.PerHost, limits, l.tell)
		l.window = max(l.window, l.hosts.Lookahead)
	}
	if f.Rate != nil {
		l.pace = &pace{limiter: f.Rate, begun: l.begun}
	}
	if l.hosts != nil || l.pace != nil {
		l.most = limits.InFlight // so that what is submitted starts
	}
	if f.Trace != nil {
		var mu sync.Mutex
		l.trace = func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			f.Trace(e)
		}
	}
	l.executor = s.Start(withTrace(ctx, l.trace), doerOr(f.Doer))
	l.results = l.executor.Results()
	l.isFull = func() bool { return false }
	if x, ok := l.executor.(interface{ Full() bool }); ok {
		l.isFull = x.Full
	}
	return l
}

// close ends the run, whatever ended the loop.
func (l *loop) close() {
	if l.pace != nil {
		l.pace.close()
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	l.executor.Close()
}

func (l *loop) now() time.Duration { return time.Since(l.begun) }

func (l *loop) tell(e Event) {
	if l.trace != nil {
		l.trace(e)
	}
}

// take begins to work on r, for which there is room.
func (l *loop) take(r *Request) {
	r.Index = l.taken
	r.state = requestState{index: l.taken}
	l.taken++
	l.pending++
	if l.limits.Batch > 0 {
		if l.batch.Size == 0 {
			l.batchBegun = time.Now()
		}
		l.batch.Size++
	}
	if !l.policies {
		l.submit(r)
		return
	}
	l.enqueue(r) // and not start: there may be results that the policies have to know of first
}

// hasRoom reports whether another request may be taken.
func (l *loop) hasRoom() bool {
	return l.pending < l.window && (l.limits.Batch == 0 || l.batch.Size < l.limits.Batch) && !l.isFull()
}

// settle hands out the results that are there, and waits until another request may be taken or the
// run is stopped.
func (l *loop) settle() bool {
	for l.advance() {
		if l.stopped || l.hasRoom() {
			return true
		}
		l.wait()
	}
	return false
}

// finish hands out all that is left after the end of the input.
func (l *loop) finish() {
	l.exhausted = true
	if x, ok := l.executor.(interface{ InputEnded() }); ok && !l.stopped {
		x.InputEnded()
	}
	for l.advance() {
		if l.pending == 0 {
			if l.batch.Size > 0 {
				l.endBatch()
			}
			return
		}
		l.wait()
	}
}

// advance does all that can be done without waiting. Before each result that it hands out it shows
// the policies all that have come, and starts what may start, since the body may take its time.
func (l *loop) advance() bool {
	for {
		for len(l.results) > 0 && (l.policies || l.done.Len() == 0) {
			l.receive(<-l.results)
		}
		if !l.stopped && l.ctx.Err() != nil {
			l.stop(func(r *Request) error { return contextError(l.ctx, r) })
		}
		l.start()
		if l.done.Len() == 0 {
			return true
		}
		if !l.handOut(l.done.Pop()) {
			return false
		}
	}
}

// wait waits for a result, for Stream's input, for a time that a policy named or for the end of ctx.
func (l *loop) wait() {
	if l.out > 0 && len(l.results) == 0 {
		l.executor.Flush()
	}
	at, timed := l.wake()
	if l.out > 0 && !timed && l.input == nil {
		l.receive(<-l.results)
		return
	}
	var input <-chan Request
	if l.hasRoom() {
		input = l.input
	}
	var timer <-chan time.Time
	if timed {
		if l.timer == nil {
			l.timer = time.NewTimer(at - l.now())
		} else {
			l.timer.Reset(at - l.now())
		}
		timer = l.timer.C
	}
	var done <-chan struct{}
	if !l.stopped {
		done = l.ctx.Done()
	}
	select {
	case res := <-l.results:
		l.receive(res)
	case r, ok := <-input:
		if ok {
			l.take(&r)
		} else {
			l.input = nil
		}
	case <-timer:
	case <-done:
	}
}

// wake returns when a policy lets the next request go on, if that is not for a result to say.
func (l *loop) wake() (at time.Duration, ok bool) {
	if !l.policies || l.stopped {
		return 0, false
	}
	at, ok = l.later.Next()
	if l.hosts != nil {
		if t, has := l.hosts.wake(); has && (!ok || t < at) {
			at, ok = t, true
		}
	}
	if l.paced && (!ok || l.pace.at < at) {
		at, ok = l.pace.at, true
	}
	return at, ok
}

// enqueue puts r among those that wait for their start.
func (l *loop) enqueue(r *Request) {
	if l.hosts != nil {
		l.hosts.add(r, l.now())
	} else {
		l.waiting.Push(r)
	}
}

// start submits the requests that may start now, and concludes those that may not at all.
func (l *loop) start() {
	if !l.policies || l.stopped {
		return
	}
	now := l.now()
	l.paced = false
	for r, ok := l.later.Pop(now); ok; r, ok = l.later.Pop(now) {
		l.enqueue(r)
	}
	if l.hosts != nil {
		l.hosts.advance(now, l.isStuck())
	}
	for l.out < l.most && !l.isFull() {
		r := l.peek(now)
		if r == nil {
			break
		}
		if l.pace != nil {
			ok, err := l.pace.admit(now, l.deadline)
			if !ok && err == nil {
				l.paced = true
				break
			}
			if err != nil {
				l.pop(r, now)
				res := Result{Request: r, Attempts: r.state.attempts, Err: newError(ErrTimeout, r, unsentError{err})}
				if l.hosts != nil {
					l.hosts.done(r, &res, l.begun, now, false)
				}
				l.conclude(res)
				continue
			}
		}
		l.pop(r, now)
		l.submit(r)
	}
	if l.hosts != nil {
		for r, err := l.hosts.fail(); r != nil; r, err = l.hosts.fail() {
			l.conclude(Result{Request: r, Attempts: r.state.attempts, Err: err})
		}
	}
}

// isStuck reports whether nothing is left to do but to ask hosts that are down.
func (l *loop) isStuck() bool {
	return (l.exhausted || !l.hasRoom()) && l.pending-len(l.held)-l.done.Len() == l.hosts.held+l.hosts.probes
}

// peek returns the request that may start next, or nil.
func (l *loop) peek(now time.Duration) *Request {
	if l.hosts != nil {
		return l.hosts.peek(now)
	}
	return l.waiting.Peek()
}

// pop takes r, which peek has returned.
func (l *loop) pop(r *Request, now time.Duration) {
	if l.hosts != nil {
		l.hosts.begin(r, now)
	} else {
		l.waiting.Pop()
	}
}

func (l *loop) submit(r *Request) {
	l.out++
	r.state.out = true
	if l.trace != nil {
		l.trace(Event{Kind: EventStart, Request: r})
	}
	l.executor.Submit(r)
}

// receive decides what the result of an attempt means: another one, or the end of its request.
func (l *loop) receive(res Result) {
	r := res.Request
	if r == nil || !r.state.out {
		panic(fmt.Sprintf("fetch: the executor of %v returned a result that is not of a request that is out", l.strategy))
	}
	l.out--
	r.state.out = false
	if res.URL == "" && res.Status != 0 {
		res.URL = r.URL
	}
	if res.Err != nil && !l.stopped {
		if x, ok := l.executor.(interface{ Err() error }); ok && x.Err() != nil {
			why := x.Err()
			l.conclude(res)
			l.stop(func(r *Request) error { return newError(ErrLost, r, why) })
			return
		}
	}
	if !l.policies || l.isLast(&res) {
		l.conclude(res)
	}
}

// isLast asks the policies what res means to them, and reports whether its request ends with it.
func (l *loop) isLast(res *Result) bool {
	r, now := res.Request, l.now()
	res.Attempts += r.state.attempts
	over := l.stopped || l.ctx.Err() != nil
	if l.hosts != nil && l.hosts.done(r, res, l.begun, now, !over) {
		r.state.attempts = res.Attempts
		return false // it found its host still down, and waits for it
	}
	if l.retry == nil || over {
		return true
	}
	if r.state.tries++; r.state.tries == 1 {
		l.retry.earn()
	}
	wait, ok := l.retry.again(res, r.state.tries, l.begun.Add(now))
	if !ok || l.deadline > 0 && now+wait >= l.deadline || !l.retry.spend() {
		return true
	}
	r.state.attempts = res.Attempts
	l.later.Push(now+wait, r)
	l.tell(Event{Kind: EventRetry, Request: r, Status: res.Status, Err: res.Err, Attempts: res.Attempts, Duration: wait})
	return false
}

// stop ends the input, and concludes all that is not out.
func (l *loop) stop(err func(*Request) error) {
	l.stopped, l.input = true, nil
	end := func(r *Request) { l.conclude(Result{Request: r, Attempts: r.state.attempts, Err: err(r)}) }
	for l.waiting.Len() > 0 {
		end(l.waiting.Pop())
	}
	for l.later.Len() > 0 {
		r, _ := l.later.Pop(math.MaxInt64)
		end(r)
	}
	if l.hosts != nil {
		l.hosts.drain(end)
	}
}

// conclude hands over res, its request's last, to be handed out as soon as the order allows.
func (l *loop) conclude(res Result) {
	if res.Err != nil {
		l.batch.Failed++
	}
	if l.held == nil {
		l.done.Push(res)
		return
	}
	l.held[res.Request.state.index] = res
	for res, ok := l.held[l.next]; ok; res, ok = l.held[l.next] {
		delete(l.held, l.next)
		l.next++
		l.done.Push(res)
	}
}

func (l *loop) handOut(res Result) bool {
	l.pending--
	res.Request.state = requestState{}
	if l.trace != nil {
		l.trace(Event{Kind: EventEnd, Request: res.Request, Status: res.Status, Err: res.Err, Attempts: res.Attempts, Duration: res.Duration})
	}
	if !l.yield(res) {
		return false
	}
	if l.pending == 0 && l.limits.Batch > 0 && l.batch.Size == l.limits.Batch {
		l.endBatch()
	}
	return true
}

func (l *loop) endBatch() {
	e := l.batch
	l.batch = Event{Batch: e.Batch + 1}
	if l.limits.Batch > 0 {
		e.Kind, e.Duration = EventBatch, time.Since(l.batchBegun)
		l.tell(e)
	}
}

// A requestState is what the loop knows of a request that it has taken.
type requestState struct {
	index    int           // Request.Index, whatever a Doer does to that
	id       uint64        // in a child of a Shard: the parent's name for it
	out      bool          // submitted and not received
	probe    bool          // asks whether its host is back
	tries    int           // attempts that count for Retry
	attempts int           // requests sent before this attempt
	begun    time.Duration // when it was submitted
	refused  time.Duration // when its host first refused it, though not down; 0: it did not
	host     *host
}
