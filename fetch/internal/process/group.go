// Package process runs a program's tasks in copies of the program: child processes that are
// started, watched, replaced when they end or hang, and ended with their parent. What a task is,
// its caller knows.
package process

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A Config says how many children a [Group] has, and how it treats them. All fields must be set.
type Config struct {
	Processes int
	Window    int                    // tasks that a child has at most
	Attempts  int                    // children that a task is handed to at most
	Restarts  int                    // children that are replaced in all
	Hang      time.Duration          // how long a child that has tasks may go without a result
	Hello     func() ([]byte, error) // returns the first message to each child
	Main      string                 // for errors: the call that leads to Connect
}

// A Handler knows what tasks of type T and their results of type R are. Encode and Decode are
// called by several goroutines, the others by one; they must not block.
type Handler[T, R any] interface {
	// Encode returns a task's encoding in two parts. The first is b with something appended.
	Encode(b []byte, task T) (fields, body []byte)
	// Decode returns the result that a child has sent. An error means that it is malformed.
	Decode(payload []byte) (R, error)
	// Repeatable reports whether a task may be done twice.
	Repeatable(task T) bool
	// One of Done, Lost and Canceled is called for each task: there is a result, there is none
	// because of err, or ctx is done. others counts the children that had the task before, tries all
	// that had it.
	Done(task T, result R, others int)
	Lost(task T, tries int, err error)
	Canceled(task T)
	// Event is called for each event that a child has sent. An error means that it is malformed.
	Event(child int, payload []byte) error
	// Started is called when a child is ready, Ended when it has ended without a result for
	// unanswered tasks; err is why, nil if it was told to end.
	Started(Info)
	Ended(info Info, unanswered int, err error)
}

// Info describes a child.
type Info struct {
	Number  int           // from 0 to Processes-1; one that replaces another has the same
	PID     int           // 0 if it could not be started
	Startup time.Duration // from the start of the process until it was ready; 0 if it never was
}

// A Group hands tasks to children, passes on their results, and replaces children that are gone.
// One goroutine does all of it. It blocks in its select alone: the channels that it sends on have
// room.
//
//	Submit → queue → run → child.tasks → pipe → child process
//	Handler ← run ← events ← pipe ← child process
type Group[T, R any] struct {
	Config
	h       Handler[T, R]
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	queue   chan T
	events  chan event[T, R] // received until each child has told that it is gone

	hello    []byte
	tick     time.Duration // how often the children are looked after
	children []*child[T, R]
	quiet    *child[T, R] // gets suspects only, one at a time
	again    []*task[T]   // to be handed to another child
	suspects []*task[T]   // to be handed to another child for the last time
	restarts int
	served   bool           // a child has been ready
	failed   []*child[T, R] // gone before that
	ending   bool           // the children have been told to end
	failure  error          // why there are no children
	ids      uint64
}

// A task is a task on its way through children.
type task[T any] struct {
	v     T
	id    uint64
	tries int // children that it has been handed to
}

// An event is something that a child, or its process, did.
type event[T, R any] struct {
	child   *child[T, R]
	what    frameType // or gone
	id      uint64    // of the task that a result is for
	result  R
	payload []byte
	err     error // why it is gone, or the task could not be sent
}

const (
	gone   frameType = 0   // the child is
	unsent frameType = 255 // the task is
)

const (
	handshake   = 5 * time.Second  // after which a child that is not ready will never be
	silence     = 10 * time.Second // after which a child without a sign of life is hung
	silentTicks = 8                // the same in ticks, of which each has a sign of life

	abortGrace = 50 * time.Millisecond // for children that are told to end and have tasks
	endGrace   = 2 * time.Second       // for children that are told to end and have none
)

// NewGroup starts children. The end of ctx ends them.
func NewGroup[T, R any](ctx context.Context, c Config, h Handler[T, R]) *Group[T, R] {
	g := &Group[T, R]{
		Config: c,
		h:      h,
		queue:  make(chan T, c.Processes*c.Window),
		events: make(chan event[T, R], 2*c.Window),
		tick:   max(time.Millisecond, min(c.Hang, silence)/silentTicks),
	}
	g.hello, g.failure = c.Hello()
	g.ctx, g.cancel = context.WithCancel(ctx)
	g.running.Go(g.run)
	return g
}

// Submit hands over a task. It does not block while no more than Processes times Window are without
// a result.
func (g *Group[T, R]) Submit(v T) { g.queue <- v }

// Close ends the children, and returns when they have ended.
func (g *Group[T, R]) Close() {
	g.cancel()
	close(g.queue)
	g.running.Wait()
}

// run supervises until queue is closed and all children are gone.
func (g *Group[T, R]) run() {
	g.startAll()
	ticker := time.NewTicker(g.tick)
	defer ticker.Stop()
	var late <-chan time.Time
	var grace time.Duration
	queue, done := g.queue, g.ctx.Done()
	for queue != nil || len(g.children) > 0 {
		var in <-chan T
		if g.hasRoom() {
			in = queue
		}
		select {
		case v, ok := <-in:
			if !ok {
				queue = nil
				continue
			}
			g.add(v)
			for len(queue) > 0 && g.hasRoom() { // a select for each would cost more
				g.add(<-queue)
			}
		case e := <-g.events:
			g.handle(e)
			for range len(g.events) {
				g.handle(<-g.events)
			}
		case <-ticker.C:
			g.lookAfter()
		case <-done:
			done = nil
			grace = g.end()
			late = time.After(grace)
		case <-late:
			for _, c := range g.children {
				c.kill(fmt.Errorf("it did not end within %v when it was told to: tasks have to end when their context is done", grace))
			}
		}
	}
}

func (g *Group[T, R]) startAll() {
	switch {
	case g.failure != nil:
	case isChild:
		g.failure = fmt.Errorf("this process is itself a child, and can have no children: unless one of its tasks wants them, %w", g.errMain())
	case !connected.Load():
		g.failure = g.errMain()
	default:
		for i := range g.Processes {
			g.start(i, 0)
		}
	}
}

func (g *Group[T, R]) errMain() error {
	return fmt.Errorf("the program has to call %s first thing in main, or in TestMain", g.Main)
}

// hasRoom reports whether the next task would be taken somewhere.
func (g *Group[T, R]) hasRoom() bool {
	return g.ending || len(g.children) == 0 || len(g.again) == 0 && g.leastLoaded() != nil
}

// leastLoaded returns the child with the most room for tasks, or nil if none has any.
func (g *Group[T, R]) leastLoaded() *child[T, R] {
	var best *child[T, R]
	most := g.Window
	for _, c := range g.children {
		switch {
		case !c.ready && c.delay > 0: // it may never be
		case !c.ready:
			most = g.Window / 2 // the rest is for those that are about to be ready
		case c != g.quiet && (best == nil || len(c.out) < len(best.out)):
			best = c
		}
	}
	if best != nil && len(best.out) >= most {
		return nil
	}
	return best
}

func (g *Group[T, R]) add(v T) {
	g.ids++
	g.take(&task[T]{v: v, id: g.ids})
}

// take hands out t or, if there are no children for it, settles it.
func (g *Group[T, R]) take(t *task[T]) {
	switch {
	case g.ending:
		g.h.Canceled(t.v)
	case len(g.children) == 0:
		g.h.Lost(t.v, t.tries, g.failure)
	default:
		g.give(g.leastLoaded(), t)
	}
}

// give hands t to c. The send does not block: tasks has room for a window.
func (g *Group[T, R]) give(c *child[T, R], t *task[T]) {
	if len(c.out) == 0 {
		c.stuck = 0
	}
	t.tries++
	c.out[t.id] = t
	c.tasks <- t
}

func (g *Group[T, R]) handle(e event[T, R]) {
	c := e.child
	c.silent = 0
	switch e.what {
	case frameReady:
		c.ready, g.served = true, true
		g.h.Started(c.info())
		for _, failed := range g.failed { // the program calls Connect: they may be ready next time
			if !g.ending {
				g.replace(failed)
			}
		}
		g.failed = nil
	case frameResult, unsent:
		t := c.out[e.id]
		if t == nil {
			c.kill(errFrame) // it has no such task
			return
		}
		delete(c.out, e.id)
		c.stuck = 0
		if e.what == unsent {
			g.h.Lost(t.v, t.tries-1, e.err)
		} else {
			g.h.Done(t.v, e.result, t.tries-1)
		}
	case frameEvent:
		if g.h.Event(c.number, e.payload) != nil {
			c.kill(errFrame)
		}
	case gone:
		g.gone(c, e.err)
	}
	g.handOut()
}

// gone drops c, whose process has ended. Its tasks go to other children, or are lost if they must
// not, and another child takes its place.
func (g *Group[T, R]) gone(c *child[T, R], err error) {
	g.children = slices.DeleteFunc(g.children, func(other *child[T, R]) bool { return other == c })
	if c == g.quiet {
		g.quiet = nil
	}
	g.h.Ended(c.info(), len(c.out), err)
	for _, t := range c.unanswered() {
		switch {
		case g.ending:
			g.take(t)
		case !g.h.Repeatable(t.v):
			g.h.Lost(t.v, t.tries, fmt.Errorf("%w; not repeated, since it may have been sent", err))
		case t.tries >= g.Attempts:
			g.h.Lost(t.v, t.tries, fmt.Errorf("%w; children that had it and ended before: %d", err, t.tries-1))
		case t.tries == g.Attempts-1:
			g.suspects = append(g.suspects, t)
		default:
			g.again = append(g.again, t)
		}
	}
	switch {
	case g.ending:
	case !g.served:
		g.failed = append(g.failed, c)
	case !g.replace(c):
		err = fmt.Errorf("%w; %d children were replaced before: see Restarts", err, g.restarts)
	}
	if len(g.children) == 0 && !g.ending {
		g.failure = err
		g.flush()
	}
}

// replace starts a child in c's place, unless too many have been replaced. If c was never ready it
// waits, longer each time, since there may be no room for another process; while others are ready,
// that does not count.
func (g *Group[T, R]) replace(c *child[T, R]) bool {
	isReady := func(c *child[T, R]) bool { return c.ready }
	if c.ready || !slices.ContainsFunc(g.children, isReady) {
		if g.restarts == g.Restarts {
			return false
		}
		g.restarts++
	}
	delay := time.Duration(0)
	if !c.ready {
		delay = min(max(100*time.Millisecond, 2*c.delay), time.Second)
	}
	g.start(c.number, delay)
	return true
}

// handOut hands out the tasks of children that are gone.
func (g *Group[T, R]) handOut() {
	for len(g.again) > 0 {
		c := g.leastLoaded()
		if c == nil {
			break
		}
		g.give(c, g.again[0])
		g.again = g.again[1:]
	}
	if g.quiet == nil && len(g.suspects) > 0 {
		g.quiet = g.leastLoaded()
	}
	if g.quiet == nil || len(g.quiet.out) > 0 {
		return
	}
	if len(g.suspects) == 0 {
		g.quiet = nil
		return
	}
	g.give(g.quiet, g.suspects[0])
	g.suspects = g.suspects[1:]
}

// flush settles the tasks that wait for a child, since they will not get one.
func (g *Group[T, R]) flush() {
	for _, t := range append(g.again, g.suspects...) {
		g.take(t)
	}
	g.again, g.suspects = nil, nil
}

// lookAfter kills children that hang. It counts ticks, not time, so that a process that was itself
// stopped for a while does not blame its children.
func (g *Group[T, R]) lookAfter() {
	patience := handshake
	if g.served {
		patience *= 10 // the program calls Connect: its children are slow to start
	}
	for _, c := range g.children {
		c.silent++
		if len(c.out) > 0 {
			c.stuck++
		}
		if c.heard.Swap(0) > 8*frameHead {
			c.silent, c.stuck = 0, 0 // more than beats: a result is on its way
		}
		switch {
		case !c.ready:
			if time.Duration(c.silent)*g.tick > patience {
				c.kill(fmt.Errorf("it did not answer: %w", g.errMain()))
			}
		case c.silent > silentTicks:
			c.kill(fmt.Errorf("it gave no sign of life for %v", silentTicks*g.tick))
		case time.Duration(c.stuck)*g.tick > g.Hang:
			c.kill(fmt.Errorf("it had tasks, and no result came for %v: see Hang", g.Hang))
		}
	}
}

// end tells the children to end, and returns how long they may take for it.
func (g *Group[T, R]) end() time.Duration {
	g.ending = true
	g.flush()
	grace := endGrace
	for _, c := range g.children {
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
