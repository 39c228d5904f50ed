package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/rules"
)

// A conn is a connection. Between begin and rest it belongs to one goroutine, which writes and
// reads on it; only abort may be called by others.
//
// What is to be written waits in out until the first Read: on a socket, one call of the poller
// then looks whether the connection is as it was left, writes, and waits for the answer.
type conn struct {
	net.Conn
	host *host
	raw  syscall.RawConn // the socket's, nil if there is TLS or no socket
	tls  *tls.Conn       // nil without TLS
	sock *socket         // below tls, nil if nobody knows what it has received
	br   *bufio.Reader   // of the conn itself

	out     []byte // what the next Read has to write first
	buf     []byte // where requests are put together
	sent    bool   // some of the last request has been written
	heard   bool   // something has been read since
	kept    bool   // it has served a request before
	total   int64  // bytes read
	limit   int64  // of total; negative: none
	rolling bool   // each part of what is read renews the idle time
	idle    time.Time

	// For the step of exchange, which is a method value made once.
	step   func(fd uintptr) bool
	p      []byte
	n      int
	err    error
	strays bool // n bytes were read before anything was written

	mu       sync.Mutex
	done     <-chan struct{} // of the context that aborts it
	forget   func() bool     // ends that
	active   bool
	aborted  bool
	end      time.Time // of the attempt; zero: none
	silence  time.Time // when the server has been silent for too long; zero: never
	deadline time.Time // the net.Conn's
}

var (
	// errStale is that of a kept connection that is no longer as it was left. Nothing has been written to it.
	errStale = errors.New("the connection is of no use any more")
	// errAborted is what a read or write returns when the context is done.
	errAborted = errors.New("aborted")
)

// errWouldBlock is that of a socket that has nothing to be read. For crypto/tls it is a
// timeout, after which a connection goes on.
var errWouldBlock net.Error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "nothing to be read" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// readBuffer is the size in bytes of what is read ahead. It has room for the head of most answers,
// and a dozen small ones.
const readBuffer = 4 << 10

func newConn(h *host, nc net.Conn) *conn {
	c := &conn{Conn: nc, host: h, limit: -1}
	c.br = bufio.NewReaderSize(c, readBuffer)
	return c
}

// begin gives c to a request with that context, whose attempt ends at end, for the server to
// answer from now on. It has to rest again, or be closed.
func (c *conn) begin(ctx context.Context, now, end time.Time) error {
	c.sent, c.heard, c.rolling = false, false, false
	done := ctx.Done()
	c.mu.Lock()
	other := c.done != done
	c.active, c.done = true, done
	c.end = end
	c.hush(now)
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

// rest takes c from its request, and reports whether it is fit for another.
func (c *conn) rest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active = false
	return !c.aborted
}

// abort makes reads and writes fail, if c belongs to a request whose context has that Done.
func (c *conn) abort(done <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active && c.done == done {
		c.aborted = true
		c.Conn.SetDeadline(past)
	}
}

var past = time.Unix(1, 0)

// Close closes the connection.
func (c *conn) Close() error {
	if c.forget != nil {
		c.forget()
	}
	return c.Conn.Close()
}

// turn says that it is the turn of the next request that was written, and returns when that ends.
func (c *conn) turn(now time.Time) (end time.Time) {
	c.heard, c.rolling = false, false
	c.mu.Lock()
	defer c.mu.Unlock()
	if timeout := c.host.client.limits.Timeout; timeout > 0 {
		c.end = now.Add(timeout)
	}
	c.hush(now)
	return c.end
}

// listen says that the server has just sent something, or that it is its turn.
func (c *conn) listen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hush(time.Now())
}

// hush lets the server be silent for the idle time from now on, and sets a deadline, if there is none
// yet that is early enough. One that is too early does no harm: see expired. So as a rule nothing
// has to be set, since each request may take longer than the one before. mu is held.
func (c *conn) hush(now time.Time) {
	c.silence = time.Time{}
	if idle := c.host.client.limits.IdleRead; idle > 0 {
		c.silence = now.Add(idle)
	}
	due := c.due()
	if !c.aborted && !due.IsZero() && (c.deadline.IsZero() || c.deadline.After(due)) {
		c.set(due)
	}
}

// due returns when c has to give up; zero: never. mu is held.
func (c *conn) due() time.Time {
	if c.end.IsZero() || !c.silence.IsZero() && c.silence.Before(c.end) {
		return c.silence
	}
	return c.end
}

// speak says that it is not the server's turn, and sets the deadline to the end of the attempt
// alone: a write must not be interrupted too early.
func (c *conn) speak() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silence = time.Time{}
	if !c.aborted && !c.deadline.Equal(c.end) {
		c.set(c.end)
	}
}

func (c *conn) set(deadline time.Time) {
	c.deadline = deadline
	c.Conn.SetDeadline(deadline)
}

// expired returns why the deadline has passed, or nil if it was too early, and sets a new one then.
func (c *conn) expired() error {
	now := time.Now()
	limits := &c.host.client.limits
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.aborted:
		return errAborted
	case !c.end.IsZero() && !now.Before(c.end):
		return rules.TookTooLong(limits.Timeout)
	case !c.silence.IsZero() && !now.Before(c.silence):
		return rules.WasSilent(limits.IdleRead)
	}
	c.set(c.due())
	return nil
}

// errHeadTooLarge is that of a Read beyond the limit.
var errHeadTooLarge = &fetch.Error{Kind: fetch.ErrTooLarge, Err: errors.New("its head is larger than MaxHead")}

// Read writes what is to be written, and reads.
func (c *conn) Read(p []byte) (int, error) {
	if c.limit >= 0 {
		if c.total >= c.limit {
			return 0, errHeadTooLarge
		}
		p = p[:min(int64(len(p)), c.limit-c.total)]
	}
	for {
		n, err := c.read(p)
		if n > 0 {
			c.total += int64(n)
			c.heard = true
			if c.rolling {
				c.listen()
			}
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		if err := c.expired(); err != nil {
			return 0, err
		}
	}
}

func (c *conn) read(p []byte) (int, error) {
	switch {
	case c.raw != nil:
		return c.exchange(p)
	case c.out == nil:
		return c.Conn.Read(p)
	}
	if err := c.check(); err != nil {
		return 0, err
	}
	if err := c.write(c.out); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// write writes b, which is out, and listens. Where that fails since the server has closed the
// connection, it may have answered before, so it is not an error.
func (c *conn) write(b []byte) error {
	c.out = nil
	c.speak()
	defer c.listen()
	n, err := c.Conn.Write(b)
	c.sent = c.sent || n > 0
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if err := c.expired(); err != nil {
			return err
		}
		return errAborted // not reached: the deadline was exact
	}
	if c.sent && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
		return nil
	}
	return err
}

// check returns errStale if something has come on a kept connection that no request has asked for,
// or its end. It is noted if that was an answer.
func (c *conn) check() error {
	if !c.kept {
		return nil
	}
	var b [64]byte
	var n int
	var err error
	switch {
	case c.raw != nil:
		n, err = readNow(c.raw, b[:])
	case c.tls != nil && c.sock != nil:
		c.sock.now = true
		n, err = c.tls.Read(b[:])
		c.sock.now = false
	default:
		return nil
	}
	if n == 0 && errors.Is(err, errWouldBlock) {
		return nil
	}
	c.stray(b[:n])
	return errStale
}

// stray notes that b came, though nobody had asked for it.
func (c *conn) stray(b []byte) {
	if len(b) > 0 && !is408(b) {
		c.host.client.suspects.Add(c.host.origin)
	}
}

// is408 reports whether b begins like the answer that some servers close an idle connection with.
func is408(b []byte) bool {
	return len(b) >= 12 && string(b[:7]) == "HTTP/1." && string(b[8:12]) == " 408"
}

// A socket is what a tls.Conn reads from. While now is set, a read that would have to wait fails.
type socket struct {
	net.Conn
	raw syscall.RawConn
	now bool
}

func (s *socket) Read(p []byte) (int, error) {
	if s.now {
		return readNow(s.raw, p)
	}
	return s.Conn.Read(p)
}

// eof is the end of what a socket has to give, which a system call tells by 0 bytes.
func eof(n int, err error) (int, error) {
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, err
}

// cut reports whether a Read may have failed because of the limit. textproto does not always say so.
func (c *conn) cut() bool { return c.limit >= 0 && c.total >= c.limit }

// taken returns how many bytes have been taken from the buffer.
func (c *conn) taken() int64 { return c.total - int64(c.br.Buffered()) }

// peek returns what br has buffered, as it stands there until more is read.
func peek(br *bufio.Reader) []byte {
	b, _ := br.Peek(br.Buffered())
	return b
}

// readHead reads until parseHead has understood a head, which stays in the buffer. Its size is
// 0 if it is odd.
func (c *conn) readHead() (a answer, size int, err error) {
	for {
		b := peek(c.br)
		if len(b) > 0 {
			var v verdict
			if a, size, v = parseHead(b); v != partial {
				return a, size, nil
			}
			if len(b) == c.br.Size() {
				return a, 0, nil
			}
		}
		if _, err := c.br.Peek(len(b) + 1); err != nil {
			if err == io.EOF && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return a, 0, err
		}
	}
}

// writeGrace is how long the end of a request may come after that of its answer. net/http has the same.
const writeGrace = 50 * time.Millisecond

// writeAside writes head and body while the owner of c reads. wrote waits for its end, but not for long, since
// the answer is there already, and reports whether all has been written.
func (c *conn) writeAside(head, body []byte) (wrote func() bool, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	c.speak()
	c.sent = true
	done := make(chan error, 1)
	go func() {
		buffers := net.Buffers{head, body}
		_, err := buffers.WriteTo(c.Conn)
		if err == nil {
			c.listen()
		}
		done <- err
	}()
	return func() bool {
		grace := time.NewTimer(writeGrace)
		defer grace.Stop()
		select {
		case err := <-done:
			return err == nil
		case <-grace.C:
		case <-c.done:
		}
		c.mu.Lock()
		c.aborted = true
		c.Conn.SetDeadline(past)
		c.mu.Unlock()
		<-done
		return false
	}, nil
}

// isClean reports whether c has nothing left of what came. It is noted if it has.
func (c *conn) isClean() bool {
	if c.br.Buffered() == 0 {
		return true
	}
	c.stray(peek(c.br))
	return false
}
