package fetch

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"time"

	"fetchbench/fetch/internal/rules"
)

// Shard spreads the requests over child processes of this same program, each of
// which runs the strategy Each. It is for what one process cannot do well: use more cores
// than one Go runtime keeps busy, have a heap for each, or survive a Doer that crashes.
// Each Fetch starts its own children, with connections of their own, so one long Fetch
// costs less than many short ones. Each child takes a thread of this process, too.
//
// The program has to call [ShardMain] first, which gives the children their Doer. The Doer of
// the [Fetcher] is not used, and the values in the context do not cross to another process:
// the children have a context of their own, which is canceled when the caller's is done. A
// child whose Doer has not returned 50 ms later is killed. At the end of the input a child
// that has nothing under way may take up to 2 s to end.
//
// The limit is that of Each, times Processes: 64 times GOMAXPROCS for the zero value. Requests
// go to whichever child has room; a child holds up to twice the limit of Each.
//
// A child that ends or hangs is replaced, and its unanswered requests go to others. So a URL
// may be fetched more than once, but has one result, whose Attempts counts the other children
// that had it, too. Requests whose method is not idempotent (POST, PATCH and whatever else
// RFC 9110 §9.2.2 does not list) are not repeated, since they may have been sent: all those that
// the child had fail with errors of kind [ErrShard]. When no child is left and none may be
// started, so do all requests that remain.
//
// Of an error, the text crosses to the parent, its [Kind], and what errors.Is says of the context's
// errors, system error numbers and the like; other types and values do not. The Value of a
// [PanicError] comes as its text. Within a Shard, each child has batches of its own: between
// those of a [Batch], other children go on.
//
// Whatever a child prints, on stdout too, appears on this process's stderr; its stdin is
// empty. The processors are divided among the children: each has GOMAXPROCS/Processes,
// rounded up. The children end before the loop does, or within a second if this process is
// killed. Shard needs a Unix system; elsewhere all results are errors that wrap
// [errors.ErrUnsupported].
type Shard struct {
	// Processes is the number of child processes, at most 1024. 0 means GOMAXPROCS.
	Processes int
	// Each is the strategy that each child runs. nil means Pool{}. A strategy from another
	// package must be registered with gob.Register, and only its exported fields cross. If it
	// is not a [Bounded], its limit is assumed to be 64.
	Each Strategy
	// Attempts is how many children a request is handed to at the most. It is handed to another
	// child if the one that had it ended without answering. 0 means 3. On its last attempt, if
	// that is not its first, a request has a child to itself, so that if it crashes the child,
	// no other request is lost.
	Attempts int
	// Restarts is how many children are replaced in one run. 0 means 16 for each process.
	// One that could not be started is tried again, uncounted, while another is ready; if none ever
	// was, it is not.
	Restarts int
	// Hang is how long a child may have requests and answer none of them before it is killed;
	// an answer that is on its way counts. 0 means 5 minutes; it has to be more than a Doer may
	// take, which by default is 30 s for [Client]. A process that has stopped altogether is
	// noticed after 10 s, or Hang if that is less.
	Hang time.Duration
}

// Run implements [Strategy]. The Doer is not used: see [ShardMain].
func (s Shard) Run(ctx context.Context, _ Doer, reqs iter.Seq[*Request]) iter.Seq[Result] {
	s = s.defaults()
	_, ahead := s.Bounds()
	return func(yield func(Result) bool) {
		if ctx.Err() != nil {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		// Both have room for every request ahead: no send on them ever blocks.
		queue := make(chan *Request, ahead)
		results := make(chan Result, ahead)

		// On whatever path the loop ends, the supervisor ends its children, and then itself.
		var running sync.WaitGroup
		defer running.Wait()
		defer close(queue)
		defer cancel()
		children := newSupervisor(ctx, s, results)
		running.Go(func() { children.run(queue) })

		flow(ctx, ahead, reqs, func(r *Request) { queue <- r }, results, yield)
	}
}

// defaults returns s with defaults in place of zeros.
func (s Shard) defaults() Shard {
	s.Processes = limit("Shard.Processes", s.Processes, runtime.GOMAXPROCS(0), 1024)
	s.Attempts = limit("Shard.Attempts", s.Attempts, 3, maxLimit)
	s.Restarts = limit("Shard.Restarts", s.Restarts, 16*s.Processes, maxLimit)
	if s.Hang < 0 {
		panic(fmt.Sprintf("fetch: Shard.Hang is %v", s.Hang))
	}
	if s.Hang == 0 {
		s.Hang = 5 * time.Minute
	}
	switch s.Each.(type) {
	case nil:
		s.Each = Pool{}
	case Shard, *Shard:
		panic("fetch: Shard.Each is a Shard: children have no children")
	}
	limit("Shard's requests at once, Processes times those of Each,", s.Processes*s.window()/2, 0, maxLimit)
	return s
}

// Bounds implements [Bounded].
func (s Shard) Bounds() (inFlight, ahead int) {
	s = s.defaults()
	n := s.Processes * s.window() / 2
	return n, 2 * n
}

// window returns how many requests a child has at the most: those that it performs, and as
// many more, so that it need not wait for the next while results are on their way.
func (s Shard) window() int {
	inFlight := defaultLimit
	if b, ok := s.Each.(Bounded); ok {
		inFlight, _ = b.Bounds()
		if inFlight < 1 {
			panic(fmt.Sprintf("fetch: Shard.Each has %d requests under way, says its method Bounds", inFlight))
		}
	}
	return 2 * inFlight
}

func (s Shard) String() string {
	s = s.defaults()
	return fmt.Sprintf("shard(%d,%v)", s.Processes, s.Each)
}

// A shardHello is the first that a child is told.
type shardHello struct {
	Each   Strategy
	Window int
	Procs  int           // its GOMAXPROCS
	Beat   time.Duration // between signs of life
}

func init() {
	for _, s := range []Strategy{Serial{}, Threads{}, Pool{}, Semaphore{}, Batch{}} {
		gob.Register(s)
	}
}

func encodeHello(s Shard, beat time.Duration) ([]byte, error) {
	var b bytes.Buffer
	hello := shardHello{
		Each:   s.Each,
		Window: s.window(),
		Procs:  (runtime.GOMAXPROCS(0) + s.Processes - 1) / s.Processes,
		Beat:   beat,
	}
	if err := gob.NewEncoder(&b).Encode(hello); err != nil {
		return nil, fmt.Errorf("Shard.Each cannot be sent to a child process, see gob.Register: %w", err)
	}
	return b.Bytes(), nil
}

// A supervisor starts the children of one run, hands requests to them and their results
// on, and replaces those that are gone. All of it happens on one goroutine, which never
// blocks but in its select: the channels that it sends on have room.
//
//	flow --queue--> supervisor --child.tasks--> pipe --> child process
//	flow <-results-- supervisor <--events-- pipe <-- child process
type supervisor struct {
	ctx     context.Context
	shard   Shard
	window  int    // of each child
	hello   []byte // nil if failure is why there is none
	trace   *Trace
	results chan<- Result
	events  chan shardEvent // received until each child has told that it is gone

	tick     time.Duration // how often the children are looked after
	children []*child      // those that are not gone yet
	quiet    *child        // gets suspects only, one at a time
	again    []*task       // to be handed to another child
	suspects []*task       // those whose next attempt is the last
	restarts int
	served   bool     // a child has been ready
	failed   []*child // those that were gone before one was
	ending   bool     // the children have been told to end
	failure  error    // why there are no children, once there are none
	ids      uint64
}

// A task is a request on its way through children.
type task struct {
	*Request
	id    uint64
	tries int // children that it has been handed to
}

// A shardEvent is something that a child, or its process, did.
type shardEvent struct {
	child    *child
	what     frameType // or shardGone
	id       uint64    // of the task that a result is for
	result   Result
	batch    BatchInfo
	retry    RetryInfo
	pipeline PipelineInfo
	err      error // why it is gone
}

const shardGone frameType = 0

func newSupervisor(ctx context.Context, s Shard, results chan<- Result) *supervisor {
	tick := max(time.Millisecond, min(s.Hang, silence)/silentTicks)
	window := s.window()
	hello, err := encodeHello(s, tick)
	return &supervisor{
		ctx:     ctx,
		shard:   s,
		window:  window,
		hello:   hello,
		failure: err,
		trace:   traceFrom(ctx),
		results: results,
		events:  make(chan shardEvent, 2*window),
		tick:    tick,
	}
}

const (
	handshake   = 5 * time.Second  // after which a child that is not ready will never be
	silence     = 10 * time.Second // after which a child without a sign of life is hung
	silentTicks = 8                // the same in ticks, of which each has a sign of life

	// What children may take to end once they are told to: when the loop is waiting for
	// results of requests that have been canceled, and when nothing is under way.
	abortGrace = 50 * time.Millisecond
	endGrace   = 2 * time.Second
)

// run supervises until queue is closed and all children are gone. The end of ctx, which
// comes before queue is closed, tells it to end them.
func (s *supervisor) run(queue <-chan *Request) {
	s.startAll()
	ticker := time.NewTicker(s.tick)
	defer ticker.Stop()
	var late <-chan time.Time
	var grace time.Duration
	done := s.ctx.Done()
	for queue != nil || len(s.children) > 0 {
		var in <-chan *Request
		if s.hasRoom() {
			in = queue
		}
		select {
		case r, ok := <-in:
			if !ok {
				queue = nil
				continue
			}
			s.ids++
			s.take(&task{Request: r, id: s.ids})
		case e := <-s.events:
			s.handle(e)
		case <-ticker.C:
			s.lookAfter()
		case <-done:
			done = nil
			grace = s.end()
			late = time.After(grace)
		case <-late:
			for _, c := range s.children {
				c.kill(fmt.Errorf("it did not end within %v when it was told to: a Doer has to return when its context is done", grace))
			}
		}
	}
}

func (s *supervisor) startAll() {
	if s.failure == nil && isChild {
		s.failure = errChild
	}
	if s.failure == nil && !shardMainCalled.Load() {
		s.failure = errHandshake
	}
	if s.failure != nil {
		return
	}
	for i := range s.shard.Processes {
		s.start(i, 0)
	}
}

func (s *supervisor) start(shard int, delay time.Duration) {
	s.children = append(s.children, startChild(shard, delay, s.window, s.hello, s.events))
}

// hasRoom reports whether the next request would be taken somewhere.
func (s *supervisor) hasRoom() bool {
	return s.ending || len(s.children) == 0 || len(s.again) == 0 && s.roomiest() != nil
}

// roomiest returns the child with the most room for requests, or nil if none has any.
func (s *supervisor) roomiest() *child {
	var best *child
	most := s.window
	for _, c := range s.children {
		switch {
		case !c.ready && c.delay > 0: // it may never be
		case !c.ready:
			most = s.window / 2 // the rest is for those that are about to be ready
		case c != s.quiet && (best == nil || len(c.out) < len(best.out)):
			best = c
		}
	}
	if best != nil && len(best.out) >= most {
		return nil
	}
	return best
}

func (s *supervisor) take(t *task) {
	switch {
	case s.ending:
		s.answer(t, Result{Err: contextError(s.ctx, t.Request)})
	case len(s.children) == 0:
		s.fail(t, s.failure)
	default:
		s.give(s.roomiest(), t)
	}
}

// give hands t to c. The send does not block: tasks has room for a window.
func (s *supervisor) give(c *child, t *task) {
	if len(c.out) == 0 {
		c.stuck = 0
	}
	t.tries++
	c.out[t.id] = t
	c.tasks <- t
}

func (s *supervisor) answer(t *task, r Result) {
	r.Request = t.Request
	s.results <- r
}

func (s *supervisor) fail(t *task, cause error) {
	s.answer(t, Result{Attempts: t.tries, Err: newError(ErrShard, t.Request, cause)})
}

func (s *supervisor) handle(e shardEvent) {
	c := e.child
	c.silent = 0
	switch e.what {
	case frameReady:
		c.ready, s.served = true, true
		s.trace.shardStarted(c.info())
		for _, failed := range s.failed { // the program does call ShardMain: they may be ready next time
			if !s.ending {
				s.replace(failed)
			}
		}
		s.failed = nil
	case frameResult:
		t := c.out[e.id]
		if t == nil {
			c.kill(errFrame) // it has no such request
			return
		}
		delete(c.out, e.id)
		c.stuck = 0
		r := e.result
		r.Attempts += t.tries - 1
		if s.ctx.Err() != nil && (KindOf(r.Err) == ErrCanceled || errors.Is(r.Err, context.Canceled)) {
			r.Err = contextError(s.ctx, t.Request) // which knows the caller's cause
		}
		s.answer(t, r)
	case frameBatch:
		e.batch.Shard = c.shard
		s.trace.batchDone(e.batch)
	case frameRetry:
		e.retry.Shard = c.shard
		s.trace.retrying(e.retry)
	case framePipeline:
		e.pipeline.Shard = c.shard
		s.trace.pipelineOff(e.pipeline)
	case shardGone:
		s.gone(c, e.err)
	}
	s.handOut()
}

// gone lets go of c, whose process has ended: its requests go to others, or are
// answered if they must not, and another child takes its place.
func (s *supervisor) gone(c *child, err error) {
	s.children = slices.DeleteFunc(s.children, func(other *child) bool { return other == c })
	if c == s.quiet {
		s.quiet = nil
	}
	info := c.info()
	info.Unanswered, info.Err = len(c.out), err
	s.trace.shardGone(info)
	for _, t := range c.unanswered() {
		switch {
		case s.ending:
			s.take(t)
		case !rules.Idempotent(t.Method):
			s.fail(t, fmt.Errorf("%w; the %s may have been sent, so it is not repeated", err, t.Method))
		case t.tries >= s.shard.Attempts:
			s.fail(t, fmt.Errorf("%w; children that ended with this request before: %d", err, t.tries-1))
		case t.tries == s.shard.Attempts-1:
			s.suspects = append(s.suspects, t)
		default:
			s.again = append(s.again, t)
		}
	}
	switch {
	case s.ending:
	case !s.served:
		s.failed = append(s.failed, c)
	case !s.replace(c):
		err = fmt.Errorf("%w; %d children were replaced before: see Shard.Restarts", err, s.restarts)
	}
	if len(s.children) == 0 && !s.ending {
		s.failure = err
		s.flush()
	}
}

// replace starts a child in c's place, unless too many have been replaced. Where c was never
// ready it waits, longer each time: there may be no room for another process. While others
// are ready, that does not count.
func (s *supervisor) replace(c *child) bool {
	isReady := func(c *child) bool { return c.ready }
	if c.ready || !slices.ContainsFunc(s.children, isReady) {
		if s.restarts == s.shard.Restarts {
			return false
		}
		s.restarts++
	}
	delay := time.Duration(0)
	if !c.ready {
		delay = min(max(100*time.Millisecond, 2*c.delay), time.Second)
	}
	s.start(c.shard, delay)
	return true
}

// handOut hands requests that were with children that are gone to others.
func (s *supervisor) handOut() {
	for len(s.again) > 0 {
		c := s.roomiest()
		if c == nil {
			break
		}
		s.give(c, s.again[0])
		s.again = s.again[1:]
	}
	if s.quiet == nil && len(s.suspects) > 0 {
		s.quiet = s.roomiest()
	}
	if s.quiet == nil || len(s.quiet.out) > 0 {
		return
	}
	if len(s.suspects) == 0 {
		s.quiet = nil
		return
	}
	s.give(s.quiet, s.suspects[0])
	s.suspects = s.suspects[1:]
}

// flush answers all requests that are with no child: there is none for them.
func (s *supervisor) flush() {
	for _, t := range append(s.again, s.suspects...) {
		s.take(t)
	}
	s.again, s.suspects = nil, nil
}

// lookAfter kills children that hang. It counts its own ticks, and not time, so that a
// process that was itself stopped for a while does not blame its children for that.
func (s *supervisor) lookAfter() {
	patience := handshake
	if s.served {
		patience *= 10 // the program does call ShardMain: its children are just slow to start
	}
	for _, c := range s.children {
		c.silent++
		if len(c.out) > 0 {
			c.stuck++
		}
		if c.heard.Swap(0) > 8*frameHead {
			c.silent, c.stuck = 0, 0 // more than beats: an answer is on its way
		}
		switch {
		case !c.ready:
			if time.Duration(c.silent)*s.tick > patience {
				c.kill(fmt.Errorf("it did not answer: %w", errHandshake))
			}
		case c.silent > silentTicks:
			c.kill(fmt.Errorf("it gave no sign of life for %v", silentTicks*s.tick))
		case time.Duration(c.stuck)*s.tick > s.shard.Hang:
			c.kill(fmt.Errorf("it had requests, and answered none of them for %v: see Shard.Hang", s.shard.Hang))
		}
	}
}

// end tells the children to end, and returns how long they may take for it.
func (s *supervisor) end() time.Duration {
	s.ending = true
	s.flush()
	grace := endGrace
	for _, c := range s.children {
		c.hangUp()
		if !c.ready {
			c.kill(nil)
		}
		if len(c.out) > 0 {
			grace = abortGrace
		}
	}
	return grace
}
