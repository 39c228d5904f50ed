// Package http1 speaks HTTP/1.1, as a client, on connections that it is given: it writes requests,
// one or several at once, and reads their responses (RFC 9112). Its errors say what happened; they
// have no URL and no kind.
package http1

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"fetchbench/fetch/internal/rules"
	"fetchbench/fetch/internal/socket"
)

// Limits are what a server can make a connection do. What is not positive is no limit.
type Limits struct {
	Timeout   time.Duration // of a response, from the end of the one before: see [Conn.Next]
	Stall     time.Duration // a server's silence
	MaxHeader int64         // bytes of a response's head
}

// A Conn is a connection. Between Acquire and Release it belongs to one goroutine, which writes and
// reads on it itself. The context of that request is kept until the next Acquire or Close.
//
// What is to be written waits until the first read: on a socket, one call of the poller then looks
// whether the connection is as it was left, writes, and waits for the response.
type Conn struct {
	net.Conn
	limits  *Limits
	raw     syscall.RawConn // of a socket without TLS; nil: see below
	below   syscall.RawConn // of a Conn that has a socket but may do more than read and write on it
	tls     *tls.Conn       // the Conn, with TLS
	records *socket.Records // below tls
	br      *bufio.Reader   // of the Conn itself

	buf        []byte     // where requests are put together
	out        []byte     // what the next Read has to write first
	body       []byte     // what has to be written after out
	concurrent bool       // out is to be written while the response is awaited
	writing    chan error // not nil: a goroutine writes, and sends its error
	held       []byte     // a body that waits for a 100 Continue

	sent   bool  // some of the last request has been written
	heard  bool  // something has been read since
	early  bool  // the response came before the request was written, which it has not been
	reused bool  // it has served a request before
	http11 bool  // the last response was of HTTP/1.1
	proven bool  // it has been kept after such a response
	stray  bool  // an unsolicited response has been seen
	total  int64 // bytes read
	limit  int64 // of total; negative: none
	inBody bool  // each part of what is read renews the limit on silence

	firstRead, lastRead time.Time // when something came, since the last Acquire or Next

	// For the step of readSocket, which is a method value made once.
	step        func(fd uintptr) bool
	p           []byte
	n           int
	err         error
	unsolicited bool // these came before anything was written

	mu       sync.Mutex
	done     <-chan struct{} // of the context that aborts it
	forget   func() bool     // ends that
	active   bool
	aborted  bool
	failed   error     // of the concurrent write
	end      time.Time // of the attempt; zero: none
	stall    time.Time // when the server has been silent for too long; zero: never
	holdEnd  time.Time // when held is written without a 100 Continue
	deadline time.Time // the net.Conn's
}

var (
	// ErrStale is the error of a reused connection that is no longer as it was left. Nothing has
	// been written to it.
	ErrStale = errors.New("the connection is no longer usable")

	errAborted = errors.New("aborted") // of a read or write whose context is done
)

const (
	// readBuffer is the size in bytes of what is read ahead. It has room for the head of most
	// responses, or a dozen small ones.
	readBuffer = 4 << 10
	// maxKept is the size in bytes of the largest write buffer that is kept.
	maxKept = 64 << 10
	// continueTimeout is how long a body waits for a 100 Continue. net/http's default is the same.
	continueTimeout = time.Second
	// writeGrace is how long the end of a request may come after that of its response. net/http's
	// is the same.
	writeGrace = 50 * time.Millisecond
)

// New returns a Conn over nc, which must support deadlines. An unsolicited response is noticed if
// nc has a socket; with TLS, that is if nc is over a [socket.Records].
func New(nc net.Conn, limits *Limits) *Conn {
	c := &Conn{Conn: nc, limits: limits, limit: -1}
	c.br = bufio.NewReaderSize(c, readBuffer)
	if t, ok := nc.(*tls.Conn); ok {
		c.tls = t
		c.records, _ = t.NetConn().(*socket.Records)
		return c
	}
	raw, bare := socket.Of(nc)
	if bare {
		c.raw = raw
	} else {
		c.below = raw
	}
	return c
}

// Acquire gives c to a request with that context, whose attempt ends at end (zero: never). The
// server's silence is counted from now on. Release or Close has to follow.
func (c *Conn) Acquire(ctx context.Context, now, end time.Time) error {
	c.sent, c.heard, c.inBody = false, false, false
	c.out, c.body, c.held, c.concurrent = nil, nil, nil, false
	done := ctx.Done()
	c.mu.Lock()
	other := c.done != done
	c.active, c.done = true, done
	c.end, c.holdEnd = end, time.Time{}
	c.armStallLocked(now)
	c.mu.Unlock()
	if other {
		if c.forget != nil {
			c.forget()
			c.forget = nil
		}
		if done != nil {
			c.forget = context.AfterFunc(ctx, func() { c.abort(done) })
		}
	}
	return ctx.Err() // after it has become active: else the end of ctx might be missed
}

// Release takes c from its request, and reports whether c is fit for another. That needs keep: the
// last response was complete, and neither side wants the connection closed.
func (c *Conn) Release(keep bool) (fit bool) {
	fit = c.finishWrite(keep) && keep && !c.early && c.held == nil && c.isClean()
	c.mu.Lock()
	defer c.mu.Unlock()
	fit = fit && !c.aborted
	c.active, c.reused, c.proven = false, true, c.proven || fit && c.http11
	if cap(c.buf) > maxKept {
		c.buf = nil
	}
	return fit
}

// Reused reports whether c has served a request before.
func (c *Conn) Reused() bool { return c.reused }

// Proven reports whether c has been kept open after a response of HTTP/1.1, so that several
// requests may be sent at once.
func (c *Conn) Proven() bool { return c.proven }

// Stray reports whether the server has sent an unsolicited response, other than a 408 (Request
// Timeout), which some close an idle connection with.
func (c *Conn) Stray() bool { return c.stray }

// Sent reports whether some of what was to be written has been.
func (c *Conn) Sent() bool { return c.sent }

// Heard reports whether something has come since the last Acquire or Next, or was there already.
func (c *Conn) Heard() bool { return c.heard || c.br.Buffered() > 0 }

// Times returns when the first and the last part of the response came, as far as it has been read.
// (What came with the end of the response before came then.)
func (c *Conn) Times() (first, last time.Time) { return c.firstRead, c.lastRead }

// abort makes reads and writes fail, if c belongs to a request whose context has that Done.
func (c *Conn) abort(done <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active && c.done == done {
		c.aborted = true
		c.Conn.SetDeadline(past)
	}
}

var past = time.Unix(1, 0)

// Close closes the connection. One that was given up gets no closing alert of TLS, which would wait
// for a server that does not read.
func (c *Conn) Close() error {
	if c.forget != nil {
		c.forget()
	}
	c.mu.Lock()
	aborted := c.aborted
	c.mu.Unlock()
	if aborted && c.records != nil {
		c.records.CloseNow()
	}
	return c.Conn.Close()
}

// Next begins the turn of the next of several requests that were sent at once, and returns when its
// attempt ends.
func (c *Conn) Next(now time.Time) (end time.Time) {
	c.heard, c.inBody, c.firstRead = false, false, c.lastRead
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limits.Timeout > 0 {
		c.end = now.Add(c.limits.Timeout)
	}
	c.armStallLocked(now)
	return c.end
}

// armStall says that the server has just sent something, or that it is its turn.
func (c *Conn) armStall() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armStallLocked(time.Now())
}

// armStallLocked counts the server's silence from now on, and sets a deadline unless the present one
// is early enough. One that is too early does no harm: see expired. So as a rule nothing has to be
// set, since each request may take longer than the one before.
func (c *Conn) armStallLocked(now time.Time) {
	c.stall = time.Time{}
	if c.limits.Stall > 0 && c.held == nil { // else the request has not ended
		c.stall = now.Add(c.limits.Stall)
	}
	due := c.dueLocked()
	if !c.aborted && !due.IsZero() && (c.deadline.IsZero() || c.deadline.After(due)) {
		c.setDeadlineLocked(due)
	}
}

// disarmStall says that it is not the server's turn, and sets the deadline to the end of the
// attempt alone: a write must not be interrupted too early.
func (c *Conn) disarmStall() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stall = time.Time{}
	if !c.aborted && !c.deadline.Equal(c.end) {
		c.setDeadlineLocked(c.end)
	}
}

// dueLocked returns when something has to happen next; zero: never.
func (c *Conn) dueLocked() (due time.Time) {
	for _, t := range [...]time.Time{c.end, c.stall, c.holdEnd} {
		if due.IsZero() || !t.IsZero() && t.Before(due) {
			due = t
		}
	}
	return due
}

// setDeadlineLocked sets the deadline, but not that of a concurrent write, which stays as
// disarmStall has set it.
func (c *Conn) setDeadlineLocked(deadline time.Time) {
	c.deadline = deadline
	if c.writing != nil {
		c.Conn.SetReadDeadline(deadline)
	} else {
		c.Conn.SetDeadline(deadline)
	}
}

// expired returns why the deadline has passed, or nil if it was too early, and sets a new one then.
func (c *Conn) expired() (err error) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.failed != nil:
		err = c.failed
	case c.aborted:
		err = errAborted
	case !c.end.IsZero() && !now.Before(c.end):
		err = rules.TookTooLong(c.limits.Timeout)
	case !c.stall.IsZero() && !now.Before(c.stall):
		err = rules.WasSilent(c.limits.Stall)
	case !c.holdEnd.IsZero() && !now.Before(c.holdEnd):
		c.holdEnd = time.Time{}
	}
	if err != nil {
		c.aborted = true
		return err
	}
	c.setDeadlineLocked(c.dueLocked())
	return nil
}

// Read writes what is to be written, and reads. It is for c's own reader.
func (c *Conn) Read(p []byte) (int, error) {
	if c.limit >= 0 {
		if c.total >= c.limit {
			return 0, rules.HeaderTooLarge(c.limits.MaxHeader)
		}
		p = p[:min(int64(len(p)), c.limit-c.total)]
	}
	for {
		n, err := c.read(p)
		if n > 0 {
			now := time.Now()
			if c.total += int64(n); !c.heard {
				c.heard, c.firstRead = true, now
			}
			if c.lastRead = now; c.inBody {
				c.mu.Lock()
				c.armStallLocked(now)
				c.mu.Unlock()
			}
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		if err := c.expired(); err != nil {
			return 0, err
		}
		if c.held != nil && c.holdEnd.IsZero() {
			c.sendHeld()
		}
	}
}

func (c *Conn) read(p []byte) (int, error) {
	switch {
	case c.raw != nil && !c.concurrent:
		return c.readSocket(p)
	case c.out == nil:
		return c.Conn.Read(p)
	}
	if n, err := c.check(p); n > 0 || err != nil {
		return n, err
	}
	if c.concurrent {
		c.writeConcurrently()
	} else if err := c.write(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// readSocket writes out, if there is something, and reads into p.
//
// All of it happens while the poller is ready to tell of what comes from now on: since there is
// nothing to be read before the write, it will tell of the response. So no read is in vain.
func (c *Conn) readSocket(p []byte) (int, error) {
	c.p, c.n, c.err, c.unsolicited = p, 0, nil, false
	if c.step == nil {
		c.step = c.writeAndRead
	}
	err := c.raw.Read(c.step)
	c.p = nil
	switch {
	case err != nil:
		return 0, err // the deadline: as a rule it will be called again
	case c.unsolicited:
		n, err := socket.EOF(c.n, os.NewSyscallError("read", c.err))
		return c.beforeWrite(p[:n], err)
	case c.out != nil && c.err == nil: // the socket's buffer is full
		c.writeConcurrently()
		return c.readSocket(p)
	case c.out != nil:
		c.out = nil
		return 0, os.NewSyscallError("write", c.err)
	case c.err != nil:
		return 0, os.NewSyscallError("read", c.err)
	}
	return socket.EOF(c.n, nil)
}

// writeAndRead is called with c's socket whenever something may have come.
func (c *Conn) writeAndRead(fd uintptr) (done bool) {
	c.n, c.err = socket.Recv(fd, c.p)
	if c.out == nil {
		return c.err != syscall.EAGAIN
	}
	if c.err != syscall.EAGAIN {
		c.unsolicited = true
		return true
	}
	n, err := socket.Send(fd, c.out)
	switch {
	case n == len(c.out):
		c.out, c.sent = nil, true
		return false
	case n > 0 || err == syscall.EAGAIN:
		c.out, c.err, c.sent = c.out[n:], nil, c.sent || n > 0
	default:
		c.err = err
	}
	return true
}

// check reads what has come before anything is written: see beforeWrite.
func (c *Conn) check(p []byte) (n int, err error) {
	err = socket.ErrWouldBlock
	switch {
	case c.raw != nil:
		n, err = socket.ReadNow(c.raw, p)
	case c.records != nil:
		c.records.DontWait(true)
		n, err = c.tls.Read(p)
		c.records.DontWait(false)
	}
	if n > 0 || !errors.Is(err, socket.ErrWouldBlock) {
		return c.beforeWrite(p[:n], err)
	}
	if c.reused && (c.records != nil && !c.records.Between() || c.below != nil && socket.HasData(c.below)) {
		return 0, ErrStale
	}
	return 0, nil
}

// beforeWrite returns what a Read does if b, or err, came before anything was written. On a reused
// connection that is ErrStale. But a new one may lead to a server which answers whatever it is
// sent: then its response is read, and nothing is written, so that there is no second one.
func (c *Conn) beforeWrite(b []byte, err error) (int, error) {
	if c.reused {
		c.noteStray(b)
		return 0, ErrStale
	}
	c.out, c.body, c.held, c.concurrent, c.early = nil, nil, nil, false, true
	return len(b), err
}

// noteStray notes that b came unsolicited.
func (c *Conn) noteStray(b []byte) {
	is408 := len(b) >= 12 && string(b[:7]) == "HTTP/1." && string(b[8:12]) == " 408"
	c.stray = c.stray || len(b) > 0 && !is408
}

// isClean reports whether nothing is left of what came.
func (c *Conn) isClean() bool {
	if c.br.Buffered() == 0 {
		return true
	}
	c.noteStray(c.peek())
	return false
}

// peek returns what has been read ahead, as it stands there until more is read.
func (c *Conn) peek() []byte {
	b, _ := c.br.Peek(c.br.Buffered())
	return b
}

// taken returns how many bytes have been taken from the buffer.
func (c *Conn) taken() int64 { return c.total - int64(c.br.Buffered()) }

// write writes out. Where that fails since the server has closed the connection, it may have
// answered before, so that is not an error.
func (c *Conn) write() error {
	b := c.out
	c.out = nil
	c.disarmStall()
	defer c.armStall()
	n, err := c.Conn.Write(b)
	c.sent = c.sent || n > 0
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return cmp.Or(c.expired(), rules.TookTooLong(c.limits.Timeout))
	case c.sent && isClosed(err):
		return nil
	}
	return err
}

// isClosed reports whether err is that of a write on a connection that the server has closed.
func isClosed(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// writeConcurrently writes out and body while the owner of c reads: a server need not read all of a
// request, or of several, before its responses are read. finishWrite waits for its end.
func (c *Conn) writeConcurrently() {
	c.disarmStall()
	c.sent = true
	done, head, body := make(chan error, 1), c.out, c.body
	c.mu.Lock()
	c.writing = done
	c.mu.Unlock()
	c.out, c.body, c.concurrent = nil, nil, false
	go func() {
		_, err := c.Conn.Write(head)
		if err == nil && len(body) > 0 {
			_, err = c.Conn.Write(body)
		}
		if err == nil || isClosed(err) {
			c.armStall() // it may have answered before
		} else if !errors.Is(err, os.ErrDeadlineExceeded) { // that the Read gets too
			c.mu.Lock()
			c.failed = err
			c.Conn.SetDeadline(past)
			c.mu.Unlock()
		}
		done <- err
	}()
}

// sendHeld writes the body that has waited for a 100 Continue.
func (c *Conn) sendHeld() {
	c.out, c.held = c.held, nil
	c.writeConcurrently()
}

// finishWrite waits for the end of a concurrent write: a moment, if c is to be kept. It reports
// whether all has been written.
func (c *Conn) finishWrite(keep bool) bool {
	if c.writing == nil {
		return true
	}
	done := c.done
	if !keep {
		c.abort(done)
	}
	grace := time.AfterFunc(writeGrace, func() { c.abort(done) })
	err := <-c.writing
	inTime := grace.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = nil
	if !c.aborted {
		c.setDeadlineLocked(c.deadline) // of writes too
	}
	return err == nil && inTime
}
