package process

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
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
	Hello []byte // the parent's first message

	in    *bufio.Reader
	beat  time.Duration // between signs of life
	leave func()        // ends this process soon

	mu  sync.Mutex
	out *bufio.Writer
}

// Connect returns the Parent of this process, or nil if this is not a child. A program that has a
// [Group] has to call it before anything that should happen only once. A child then calls Ready and
// Receive, sends results and events, and exits. An interrupt from the terminal does not end it.
func Connect() *Parent {
	connected.Store(true)
	in, out := parentPipes()
	if in == nil {
		return nil
	}
	// Not signal.Ignore, which processes that this one starts would inherit.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	p := &Parent{in: bufio.NewReaderSize(in, 64<<10), out: bufio.NewWriterSize(out, 64<<10)}
	if !p.receive(frameHello, func(beat uint64, hello []byte) error {
		p.beat, p.Hello = time.Duration(beat), hello
		return nil
	}) {
		os.Exit(0)
	}
	return p
}

// receive passes the next frame, which must be of type t, to take. It returns false if the parent
// sends no more.
func (p *Parent) receive(t frameType, take func(number uint64, payload []byte) error) bool {
	what, number, payload, err := readFrame(p.in)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return false
	}
	if err == nil && what != t {
		err = errFrame
	}
	if err == nil {
		err = take(number, payload)
	}
	if err != nil {
		// Not by cancel: what is under way is left to others.
		fmt.Fprintf(os.Stderr, "child process %d: it received what is not a task: does something in the program use file descriptor 3?\n", os.Getpid())
		os.Exit(2)
	}
	return true
}

// orphanGrace is the time that tasks have to end after cancel.
const orphanGrace = 500 * time.Millisecond

// Ready tells the parent that this process is ready for tasks, and from then on that it is alive.
// When the parent is gone, or has no more tasks, cancel is called, and the process ends soon after.
func (p *Parent) Ready(cancel func()) {
	p.leave = sync.OnceFunc(func() {
		cancel()
		time.AfterFunc(orphanGrace, func() { os.Exit(4) })
	})
	p.send(frameReady, 0, nil, nil)
	p.Flush()
	go func() { // until the process ends
		for range time.Tick(p.beat) {
			p.send(frameBeat, 0, nil, nil)
			p.Flush()
		}
	}()
}

// Receive passes each task to take until there are no more or the parent is gone.
func (p *Parent) Receive(take func(id uint64, payload []byte) error) {
	for p.receive(frameTask, take) {
	}
	p.leave()
}

// SendResult sends the result of a task, in two parts as [Handler]'s Encode returns it, at the next
// Flush at the latest. If it is too large, nothing is sent, and the error says so.
func (p *Parent) SendResult(id uint64, fields, body []byte) error {
	return p.send(frameResult, id, fields, body)
}

// SendEvent sends an event, unless it is too large.
func (p *Parent) SendEvent(payload []byte) {
	p.send(frameEvent, 0, payload, nil)
	p.Flush()
}

// send buffers a frame.
func (p *Parent) send(t frameType, id uint64, fields, body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return writeFrame(p.out, t, id, fields, body)
}

// Flush sends what has not been sent.
func (p *Parent) Flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.Flush() != nil { // the parent is gone
		p.leave()
	}
}
