package fetch

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A child is a child process, as the parent sees it. Its goroutines are one that starts the
// process and waits for its end, one that writes to it, and one that reads from it. They end with
// the process, which is what kill is for; hangUp asks it to end by itself.
type child struct {
	shard  int
	delay  time.Duration // before its start
	tasks  chan *task    // to the process; room for a window of them
	hangUp context.CancelFunc
	kill   context.CancelCauseFunc

	pid     int
	startup atomic.Int64 // time.Duration from start to ready, 0 until then
	heard   atomic.Int64 // bytes that came since the supervisor asked
	events  chan<- shardEvent

	// The supervisor's alone:
	ready         bool
	out           map[uint64]*task // handed to it, and not answered
	silent, stuck int              // ticks without a sign of life, and without a result
}

var errHandshake = errors.New("the program has to call fetch.ShardMain(doer) first thing in main, or in TestMain")

// startChild returns a child whose process will be started after delay. It tells events
// of everything that happens, and at last, exactly once, that it is gone.
func startChild(shard int, delay time.Duration, window int, hello []byte, events chan<- shardEvent) *child {
	hungUp, hangUp := context.WithCancel(context.Background())
	life, kill := context.WithCancelCause(context.Background())
	c := &child{
		shard:  shard,
		delay:  delay,
		tasks:  make(chan *task, window),
		hangUp: hangUp,
		kill:   kill,
		events: events,
		out:    make(map[uint64]*task),
	}
	go func() {
		defer hangUp()
		select {
		case <-time.After(delay):
		case <-life.Done():
		}
		err := c.live(life, hungUp, hello)
		events <- shardEvent{child: c, what: shardGone, err: err}
	}()
	return c
}

// live is the process from its start to its end. Its error is why it ended, nil if it was told to.
func (c *child) live(life, hungUp context.Context, hello []byte) error {
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
		if c.write(p.in, hello, life) == nil || hungUp.Err() != nil {
			return
		}
		select { // its process has ended, and life is about to
		case <-time.After(pipeGrace):
			c.kill(errPipe)
		case <-life.Done():
		}
	})
	piping.Go(func() {
		if err := c.read(p.out, begun); err != nil {
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
		return fmt.Errorf("%s ended before it was ready: %w", name, errHandshake)
	case !ready:
		return fmt.Errorf("%s ended before it was ready: %w: see its stderr, or: %w", name, err, errHandshake)
	case err == nil:
		return fmt.Errorf("%s ended by itself", name)
	}
	return fmt.Errorf("%s ended: %w", name, err)
}

var errPipe = errors.New("it takes no more requests: does something in the program close file descriptor 3?")

// pipeGrace is how long a process may still be there when its pipe is closed.
const pipeGrace = time.Second

// write sends hello, and then every task. It ends with life, or with an error when the pipe is closed.
func (c *child) write(to io.WriteCloser, hello []byte, life context.Context) error {
	w := bufio.NewWriterSize(to, 64<<10)
	err := writeFrame(w, frameHello, hello, nil)
	var fields []byte
	for err == nil {
		if len(c.tasks) == 0 {
			if err = w.Flush(); err != nil {
				break
			}
		}
		select {
		case t := <-c.tasks:
			fields = appendRequest(fields[:0], t.id, t.Request)
			tooLarge := writeFrame(w, frameRequest, fields, t.Body)
			if tooLarge == errFrameSize {
				r := Result{Err: newError(ErrShard, t.Request, fmt.Errorf("the request is %w", tooLarge))}
				c.events <- shardEvent{child: c, what: frameResult, id: t.id, result: r}
			} else {
				err = tooLarge
			}
		case <-life.Done():
			return nil
		}
	}
	return err
}

// read tells events of what the process, begun then, sends until the end of the pipe.
func (c *child) read(from io.Reader, begun time.Time) error {
	r := bufio.NewReaderSize(counted{from, &c.heard}, 64<<10)
	for {
		e := shardEvent{child: c}
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
			e.id, e.result, err = decodeResult(payload)
		case frameBatch:
			e.batch, err = decodeBatch(payload)
		case frameRetry:
			e.retry, err = decodeRetry(payload)
		case framePipeline:
			e.pipeline, err = decodePipeline(payload)
		case frameBeat:
		default:
			err = errFrame
		}
		if err != nil {
			return err
		}
		c.events <- e
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

// info is what a Trace is told about c. It is called when c is ready or gone.
func (c *child) info() ShardInfo {
	return ShardInfo{Shard: c.shard, PID: c.pid, Startup: time.Duration(c.startup.Load())}
}

// unanswered returns the tasks that c has, in the order in which they were taken.
func (c *child) unanswered() []*task {
	return slices.SortedFunc(maps.Values(c.out), func(a, b *task) int { return cmp.Compare(a.id, b.id) })
}

var errChild = errors.New("this process is itself the child of a Shard, and can have no children: if that is not " +
	"its Doer's doing, the program has to call fetch.ShardMain(doer) first thing in main, or in TestMain")

// isChild: this process, or one that it descends from, has been started by a Shard.
var isChild = os.Getenv(shardEnv) != ""

// shardEnv tells a child that it is one: it is the number (inode) of the pipe on its file
// descriptor 3, which a process that merely inherited the environment does not have there.
const shardEnv = "FETCHBENCH_SHARD"
