// Package process runs a program's tasks in copies of the program: child processes that are
// started, watched, replaced when they end or hang, and ended with their parent. What a task is,
// its caller knows.
package process

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"fetchbench/fetch/internal/queue"
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
// called by several goroutines at once, the others by one at a time; they must not block.
type Handler[T, R any] interface {
	// Encode returns a task's encoding in two parts. The first is b with something appended.
	Encode(b []byte, task T) (fields, body []byte)
	// Decode returns the result that a child has sent. An error means that it is malformed.
	Decode(payload []byte) (R, error)
	// Repeatable reports whether a task may be done twice.
	Repeatable(task T) bool
	// Either Done or Lost is called for each task: with its result, or with the reason why it has no
	// result, which is ctx.Err() if ctx is done. others counts the children that had the task before,
	// tries all that had it.
	Done(task T, result R, others int)
	Lost(task T, tries int, err error)
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

// A Group hands tasks to children, passes on their results, and replaces children that are gone. It
// has no goroutine of its own for that: each call of Submit, and each goroutine that hears from a
// child, does its part of it. Nothing blocks while mu is held, since the channels have room.
//
//	Submit → waiting → child.tasks → pipe → child process
//	Handler ← pipe ← child process
type Group[T, R any] struct {
	Config
	h       Handler[T, R]
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	hello   []byte
	tick    time.Duration // how often the children are looked after

	mu       sync.Mutex
	children []*child[T, R]
	waiting  queue.FIFO[*task[T]] // to be handed out
	suspects queue.FIFO[*task[T]] // to be handed out for the last time
	quiet    *child[T, R]         // gets suspects only, one at a time
	restarts int
	served   bool           // a child has been ready
	failed   []*child[T, R] // gone before that
	failure  error          // why there are no children, if there are none
	ids      uint64
}

// A task is a task on its way through children.
type task[T any] struct {
	v     T
	id    uint64
	tries int // children that it has been handed to
}

const (
	handshake   = 5 * time.Second  // after which a child that is not ready will never be
	silence     = 10 * time.Second // after which a child without a sign of life is hung
	silentTicks = 8                // the same in ticks, of which each has a sign of life

	abortGrace = 50 * time.Millisecond // for children that are told to end and have tasks
	endGrace   = 2 * time.Second       // for children that are told to end and have none
	pipeGrace  = time.Second           // for children whose pipe is closed
)

// NewGroup starts children. The end of ctx ends them.
func NewGroup[T, R any](ctx context.Context, c Config, h Handler[T, R]) *Group[T, R] {
	g := &Group[T, R]{Config: c, h: h, tick: max(time.Millisecond, min(c.Hang, silence)/silentTicks)}
	g.hello, g.failure = c.Hello()
	g.ctx, g.cancel = context.WithCancel(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.failure != nil:
	case isChild:
		g.failure = fmt.Errorf("this process is itself a child, and can have no children: unless one of its tasks wants them, %w", g.errMain())
	case !connected.Load():
		g.failure = g.errMain()
	default:
		for i := range g.Processes {
			g.startLocked(i, 0)
		}
	}
	g.running.Go(g.supervise)
	return g
}

func (g *Group[T, R]) errMain() error {
	return fmt.Errorf("the program has to call %s first thing in main, or in TestMain", g.Main)
}

// Submit hands over a task. It does not block.
func (g *Group[T, R]) Submit(v T) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ids++
	g.waiting.Push(&task[T]{v: v, id: g.ids})
	g.handOutLocked()
}

// Close ends the children, and returns when they have ended.
func (g *Group[T, R]) Close() {
	g.cancel()
	g.running.Wait()
}

// supervise looks after the children until ctx is done, and then has them end.
func (g *Group[T, R]) supervise() {
	ticker := time.NewTicker(g.tick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			g.lookAfter()
		case <-g.ctx.Done():
			g.end()
			return
		}
	}
}

// handle acts on what c has sent, if that is not a result. An error means that it is malformed.
func (g *Group[T, R]) handle(c *child[T, R], what frameType, payload []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.silent = 0
	switch what {
	case frameReady:
		c.ready, g.served = true, true
		c.Startup = time.Since(c.begun)
		g.h.Started(c.Info)
		for _, failed := range g.failed { // the program calls Connect: they may be ready next time
			g.replaceLocked(failed)
		}
		g.failed = nil
		g.handOutLocked()
	case frameEvent:
		return g.h.Event(c.Number, payload)
	case frameBeat:
	default:
		return errFrame
	}
	return nil
}

// settle takes the task with this id from c: it has a result, or could not be sent because of
// unsent. An error means that c has no such task.
func (g *Group[T, R]) settle(c *child[T, R], id uint64, result R, unsent error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := c.out[id]
	if t == nil {
		return errFrame
	}
	delete(c.out, id)
	c.silent, c.stuck = 0, 0
	if unsent != nil {
		g.h.Lost(t.v, t.tries-1, unsent)
	} else {
		g.h.Done(t.v, result, t.tries-1)
	}
	g.handOutLocked()
	return nil
}

// gone drops c, whose process has ended because of err. Its tasks go to other children, or are lost
// if they must not, and another child takes its place.
func (g *Group[T, R]) gone(c *child[T, R], err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.children = slices.DeleteFunc(g.children, func(other *child[T, R]) bool { return other == c })
	if c == g.quiet {
		g.quiet = nil
	}
	g.h.Ended(c.Info, len(c.out), err)
	why := err
	if !g.served {
		g.failed = append(g.failed, c)
	} else if !g.replaceLocked(c) {
		why = fmt.Errorf("%w; %d children were replaced before: see Restarts", err, g.restarts)
	}
	if len(g.children) == 0 {
		g.failure = why
	}
	for _, id := range slices.Sorted(maps.Keys(c.out)) { // in the order in which they were submitted
		switch t := c.out[id]; {
		case g.ctx.Err() != nil:
			g.h.Lost(t.v, t.tries, g.ctx.Err())
		case !g.h.Repeatable(t.v):
			g.h.Lost(t.v, t.tries, fmt.Errorf("%w; not repeated, since it may have been sent", err))
		case t.tries >= g.Attempts:
			g.h.Lost(t.v, t.tries, fmt.Errorf("%w; children that had it and ended before: %d", err, t.tries-1))
		case t.tries == g.Attempts-1:
			g.suspects.Push(t)
		default:
			g.waiting.Push(t)
		}
	}
	g.handOutLocked()
}

// replaceLocked starts a child in c's place, unless too many have been replaced. If c was never
// ready it waits, longer each time, since there may be no room for another process; while others
// are ready, that does not count.
func (g *Group[T, R]) replaceLocked(c *child[T, R]) bool {
	if g.ctx.Err() != nil {
		return true
	}
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
	g.startLocked(c.Number, delay)
	return true
}

// handOutLocked hands out tasks that wait, as far as there is room. If they will not get a child any
// more, it settles them.
func (g *Group[T, R]) handOutLocked() {
	if over := cmp.Or(g.ctx.Err(), g.failure); over != nil {
		for _, tasks := range []*queue.FIFO[*task[T]]{&g.waiting, &g.suspects} {
			for tasks.Len() > 0 {
				t := tasks.Pop()
				g.h.Lost(t.v, t.tries, over)
			}
		}
		return
	}
	for g.waiting.Len() > 0 {
		c := g.leastLoadedLocked()
		if c == nil {
			break
		}
		g.giveLocked(c, g.waiting.Pop())
	}
	if g.quiet == nil && g.suspects.Len() > 0 {
		g.quiet = g.leastLoadedLocked()
	}
	switch {
	case g.quiet == nil || len(g.quiet.out) > 0:
	case g.suspects.Len() == 0:
		g.quiet = nil
	default:
		g.giveLocked(g.quiet, g.suspects.Pop())
	}
}

// leastLoadedLocked returns the child with the most room for tasks, or nil if none has any.
func (g *Group[T, R]) leastLoadedLocked() *child[T, R] {
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

// giveLocked hands t to c.
func (g *Group[T, R]) giveLocked(c *child[T, R], t *task[T]) {
	if len(c.out) == 0 {
		c.stuck = 0
	}
	t.tries++
	c.out[t.id] = t
	c.tasks <- t
}

// lookAfter kills children that hang. It counts ticks, not time, so that a process that was itself
// stopped for a while does not blame its children.
func (g *Group[T, R]) lookAfter() {
	g.mu.Lock()
	defer g.mu.Unlock()
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

// end gives the children, whose pipes are being closed, the time to end by themselves.
func (g *Group[T, R]) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handOutLocked()
	for _, c := range g.children {
		grace := endGrace
		if len(c.out) > 0 {
			grace = abortGrace
		}
		if !c.ready {
			c.kill(nil)
		}
		time.AfterFunc(grace, func() {
			c.kill(fmt.Errorf("it did not end within %v when it was told to: tasks have to end when their context is done", grace))
		})
	}
}
