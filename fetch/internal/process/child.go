package process

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A child is a child process, as the parent sees it. One goroutine starts the process and waits for
// its end, one writes to it, and one reads from it. They end with the process: kill ends it, and
// the end of the Group's ctx, which closes its pipe, asks it to end by itself.
type child[T, R any] struct {
	Info                // complete when it is ready or gone
	delay time.Duration // before its start
	begun time.Time
	tasks chan *task[T] // to the process; room for a window of them
	kill  context.CancelCauseFunc
	heard atomic.Int64 // bytes that came since the Group asked

	// Under the Group's mu:
	ready         bool
	out           map[uint64]*task[T] // handed to it, and without a result
	silent, stuck int                 // ticks without a sign of life, and without a result
}

// startLocked adds a child whose process will be started after delay.
func (g *Group[T, R]) startLocked(number int, delay time.Duration) {
	life, kill := context.WithCancelCause(context.Background())
	c := &child[T, R]{
		Info:  Info{Number: number},
		delay: delay,
		tasks: make(chan *task[T], g.Window),
		kill:  kill,
		out:   make(map[uint64]*task[T]),
	}
	g.children = append(g.children, c)
	g.running.Go(func() {
		select {
		case <-time.After(delay):
		case <-life.Done():
		}
		g.gone(c, g.live(c, life))
	})
}

// live is the life of c's process, from its start to its end. The error is why it ended, nil if it
// was told to.
func (g *Group[T, R]) live(c *child[T, R], life context.Context) error {
	defer c.kill(nil)
	// Linux ends the process with the thread that started it: see Pdeathsig.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c.begun = time.Now()
	cmd, in, out, err := startProcess(life)
	if err != nil {
		if g.ctx.Err() != nil {
			return nil
		}
		return err
	}
	c.PID = cmd.Process.Pid

	// A pipe that is closed ends a write under way; the other side sees its end.
	defer context.AfterFunc(g.ctx, func() { in.Close() })()
	var piping sync.WaitGroup
	piping.Go(func() {
		if g.write(c, in, life) != nil && g.ctx.Err() == nil {
			time.AfterFunc(pipeGrace, func() { c.kill(errPipe) }) // if its process has not ended
		}
	})
	piping.Go(func() {
		if err := g.read(c, out); err != nil {
			c.kill(err)
		}
	})
	err = cmd.Wait()
	in.Close()
	// What it wrote last is still to be read. If it has left the pipe to a process of its own
	// that lives on, there is no end to be read.
	out.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	c.kill(nil) // ends write
	piping.Wait()
	out.Close()

	name := fmt.Sprintf("child process %d", c.PID)
	switch cause := context.Cause(life); {
	case cause != context.Canceled:
		return fmt.Errorf("%s was killed: %w", name, cause)
	case g.ctx.Err() != nil: // it was told to
		return nil
	case !c.ready:
		err = cmp.Or(err, errors.New("exit status 0"))
		return fmt.Errorf("%s ended before it was ready: %w: see its stderr, or: %w", name, err, g.errMain())
	case err == nil:
		return fmt.Errorf("%s ended by itself", name)
	}
	return fmt.Errorf("%s ended: %w", name, err)
}

var errPipe = errors.New("it takes no more tasks: does something in the program close file descriptor 3?")

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
				var none R
				err = g.settle(c, t.id, none, err)
			}
		case <-life.Done():
			return nil
		}
	}
	return err
}

// read handles what c sends until the end of the pipe.
func (g *Group[T, R]) read(c *child[T, R], from io.Reader) error {
	r := bufio.NewReaderSize(counted{from, &c.heard}, 64<<10)
	for {
		what, id, payload, err := readFrame(r)
		switch {
		case err == errFrame:
			return err
		case err != nil:
			return nil // the process has ended, or is about to
		case what == frameResult:
			var result R
			if result, err = g.h.Decode(payload); err == nil {
				err = g.settle(c, id, result, nil)
			}
		default:
			err = g.handle(c, what, payload)
		}
		if err != nil {
			return errFrame
		}
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
