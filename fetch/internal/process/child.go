package process

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A child is a child process, as the parent sees it. One goroutine starts the process and waits for
// its end, one writes to it, and one reads from it. They end with the process: kill ends it, and
// hangUp asks it to end by itself.
type child[T, R any] struct {
	number int
	delay  time.Duration // before its start
	tasks  chan *task[T] // to the process; room for a window of them
	hangUp context.CancelFunc
	kill   context.CancelCauseFunc

	pid     int
	startup atomic.Int64 // time.Duration from start to ready, 0 until then
	heard   atomic.Int64 // bytes that came since the Group asked

	// Used by the Group's goroutine alone:
	ready         bool
	out           map[uint64]*task[T] // handed to it, and without a result
	silent, stuck int                 // ticks without a sign of life, and without a result
}

// start adds a child whose process will be started after delay. What it does is sent to events, and
// last, exactly once, that it is gone.
func (g *Group[T, R]) start(number int, delay time.Duration) {
	hungUp, hangUp := context.WithCancel(context.Background())
	life, kill := context.WithCancelCause(context.Background())
	c := &child[T, R]{
		number: number,
		delay:  delay,
		tasks:  make(chan *task[T], g.Window),
		hangUp: hangUp,
		kill:   kill,
		out:    make(map[uint64]*task[T]),
	}
	g.children = append(g.children, c)
	go func() {
		defer hangUp()
		select {
		case <-time.After(delay):
		case <-life.Done():
		}
		err := g.live(c, life, hungUp)
		g.events <- event[T, R]{child: c, what: gone, err: err}
	}()
}

// live is the life of c's process, from its start to its end. The error is why it ended, nil if it
// was told to.
func (g *Group[T, R]) live(c *child[T, R], life, hungUp context.Context) error {
	begun := time.Now()
	p, err := startProcess(life)
	if hungUp.Err() != nil && err != nil {
		return nil
	}
	if err != nil {
		return err
	}
	c.pid = p.pid

	// A pipe that is closed ends a write under way; the other side sees its end.
	defer context.AfterFunc(hungUp, func() { p.in.Close() })()
	var piping sync.WaitGroup
	piping.Go(func() {
		if g.write(c, p.in, life) == nil || hungUp.Err() != nil {
			return
		}
		select { // its process has ended, and life is about to
		case <-time.After(pipeGrace):
			c.kill(errPipe)
		case <-life.Done():
		}
	})
	piping.Go(func() {
		if err := g.read(c, p.out, begun); err != nil {
			c.kill(err)
		}
	})
	err = p.wait()
	p.in.Close()
	// What it wrote last is still to be read. If it has left the pipe to a process of its own
	// that lives on, there is no end to be read.
	p.out.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	told := hungUp.Err() != nil
	c.kill(nil) // ends write
	piping.Wait()
	p.out.Close()

	name := fmt.Sprintf("child process %d", c.pid)
	ready := c.startup.Load() > 0
	switch cause := context.Cause(life); {
	case cause != nil && cause != context.Canceled:
		return fmt.Errorf("%s was killed: %w", name, cause)
	case told:
		return nil
	case !ready && err == nil:
		return fmt.Errorf("%s ended before it was ready: %w", name, g.errMain())
	case !ready:
		return fmt.Errorf("%s ended before it was ready: %w: see its stderr, or: %w", name, err, g.errMain())
	case err == nil:
		return fmt.Errorf("%s ended by itself", name)
	}
	return fmt.Errorf("%s ended: %w", name, err)
}

var errPipe = errors.New("it takes no more tasks: does something in the program close file descriptor 3?")

// pipeGrace is how long a process may still be there when its pipe is closed.
const pipeGrace = time.Second

// write sends c the hello, then every task. It ends with life, or with an error when the pipe is
// closed.
func (g *Group[T, R]) write(c *child[T, R], to io.Writer, life context.Context) error {
	w := bufio.NewWriterSize(to, 64<<10)
	err := writeFrame(w, frameHello, uint64(g.tick), g.hello, nil)
	var fields []byte
	for err == nil {
		if len(c.tasks) == 0 {
			if err = w.Flush(); err != nil {
				break
			}
		}
		select {
		case t := <-c.tasks:
			var body []byte
			fields, body = g.h.Encode(fields[:0], t.v)
			if err = writeFrame(w, frameTask, t.id, fields, body); err == errTooLarge {
				g.events <- event[T, R]{child: c, what: unsent, id: t.id, err: err}
				err = nil
			}
		case <-life.Done():
			return nil
		}
	}
	return err
}

// read passes on to events what c, begun then, sends until the end of the pipe.
func (g *Group[T, R]) read(c *child[T, R], from io.Reader, begun time.Time) error {
	r := bufio.NewReaderSize(counted{from, &c.heard}, 64<<10)
	for {
		e := event[T, R]{child: c}
		what, payload, err := readFrame(r)
		if err == errFrame {
			return err
		}
		if err != nil {
			return nil // the process has ended, or is about to
		}
		switch e.what = what; what {
		case frameReady:
			c.startup.Store(int64(time.Since(begun)))
		case frameResult:
			if e.id, payload, err = cutNumber(payload); err == nil {
				e.result, err = g.h.Decode(payload)
			}
		case frameEvent:
			e.payload = payload
		case frameBeat:
		default:
			err = errFrame
		}
		if err != nil {
			return errFrame
		}
		g.events <- e
	}
}

// counted adds the number of bytes read to n.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// info is called when c is ready or gone.
func (c *child[T, R]) info() Info {
	return Info{Number: c.number, PID: c.pid, Startup: time.Duration(c.startup.Load())}
}

// unanswered returns the tasks that c has, in the order in which they were submitted.
func (c *child[T, R]) unanswered() []*task[T] {
	return slices.SortedFunc(maps.Values(c.out), func(a, b *task[T]) int { return cmp.Compare(a.id, b.id) })
}
