package process

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

// childEnv tells a child that it is one. Its value is the number (inode) of the pipe on file
// descriptor 3, which a process that inherited the environment alone does not have there.
const childEnv = "FETCHBENCH_SHARD"

var (
	isChild   = os.Getenv(childEnv) != "" // a Group started this process, or one that it descends from
	connected atomic.Bool                 // Connect has been called, as it will be in the children
)

// A Parent is a child process's connection to its parent.
type Parent struct {
	in   *bufio.Reader
	out  io.Writer
	beat time.Duration // between signs of life
}

// Connect returns the Parent of this process, or nil if this is not a child. A program that has a
// [Group] has to call it before anything that should happen only once. A child then calls Hello,
// Receive and [Send], and exits.
func Connect() *Parent {
	connected.Store(true)
	in, out := parentPipes()
	if in == nil {
		return nil
	}
	return &Parent{in: bufio.NewReaderSize(in, 64<<10), out: out}
}

// Hello returns the parent's first message.
func (p *Parent) Hello() ([]byte, error) {
	what, payload, err := readFrame(p.in)
	if err != nil || what != frameHello {
		return nil, cmp.Or(err, errFrame)
	}
	beat, payload, err := cutNumber(payload)
	p.beat = time.Duration(beat)
	return payload, err
}

// Receive passes each task to take until there are no more or the parent is gone. Then it calls
// cancel, and the process ends soon after.
func (p *Parent) Receive(take func(id uint64, payload []byte) error, cancel func()) {
	defer leave(cancel)
	for {
		what, payload, err := readFrame(p.in)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return
		}
		var id uint64
		if err == nil && what != frameTask {
			err = errFrame
		}
		if err == nil {
			id, payload, err = cutNumber(payload)
		}
		if err == nil {
			err = take(id, payload)
		}
		if err != nil {
			// Not by cancel: what is under way is left to others.
			fmt.Fprintf(os.Stderr, "child process %d: it received what is not a task: does something in the program use file descriptor 3?\n", os.Getpid())
			os.Exit(2)
		}
	}
}

// orphanGrace is the time that tasks have to end after cancel.
const orphanGrace = 500 * time.Millisecond

// leave ends this process, after orphanGrace at the latest.
func leave(cancel func()) {
	cancel()
	time.AfterFunc(orphanGrace, func() { os.Exit(4) })
}

// A Message is sent to the parent. It is the result of the task ID or, if that is 0, an event.
type Message[V any] struct {
	ID uint64
	V  V
}

// Send sends messages, and signs of life, until messages is closed. encode is like [Handler]'s
// Encode; if a message is too large, it is called again with an error that says so. If the parent
// is gone, Send calls cancel, and the process ends soon after.
func Send[V any](p *Parent, messages <-chan Message[V], encode func(b []byte, v V, tooLarge error) (fields, body []byte), cancel func()) error {
	w := bufio.NewWriterSize(p.out, 64<<10)
	ticker := time.NewTicker(p.beat)
	defer ticker.Stop()
	err := writeFrame(w, frameReady, 0, nil, nil)
	var fields []byte
	for err == nil {
		if len(messages) == 0 {
			runtime.Gosched() // others may be about to send
		}
		if len(messages) == 0 {
			if err = w.Flush(); err != nil {
				break
			}
		}
		select {
		case m, ok := <-messages:
			if !ok {
				return w.Flush()
			}
			what := frameResult
			if m.ID == 0 {
				what = frameEvent
			}
			var body []byte
			fields, body = encode(fields[:0], m.V, nil)
			if err = writeFrame(w, what, m.ID, fields, body); err == errTooLarge {
				fields, body = encode(fields[:0], m.V, err)
				err = writeFrame(w, what, m.ID, fields, body)
			}
		case <-ticker.C:
			err = writeFrame(w, frameBeat, 0, nil, nil)
		}
	}
	leave(cancel)
	for range messages { // senders must not block
	}
	return err
}
