package wire

import (
	"bufio"
	"cmp"
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
	host  *host
	raw   syscall.RawConn // of a socket without TLS; nil: see below
	tls   *tls.Conn       // nil without TLS
	sock  *socket         // below tls
	under syscall.RawConn // of what has a socket but may do more than read and write on it; else nil
	br    *bufio.Reader   // of the conn itself

	out     []byte // what the next Read has to write first
	body    []byte // what has to be written after out
	aside   bool   // out is to be written while the answer is awaited
	writing chan error
	buf     []byte // where requests are put together
	sent    bool   // some of the last request has been written
	heard   bool   // something has been read since
	early   bool   // the answer came before the request was written, which it has not been
	kept    bool   // it has served a request before
	total   int64  // bytes read
	limit   int64  // of total; negative: none
	rolling bool   // each part of what is read renews the idle time
	idle    time.Time

	// For the step of readSocket, which is a method value made once.
	step    func(fd uintptr) bool
	p       []byte
	n       int
	err     error
	unasked bool // these came before anything was written

	mu       sync.Mutex
	done     <-chan struct{} // of the context that aborts it
	forget   func() bool     // ends that
	active   bool
	aborted  bool
	failed   error     // of what is written aside
	end      time.Time // of the attempt; zero: none
	silence  time.Time // when the server has been silent for too long; zero: never
	deadline time.Time // the net.Conn's
}

var (
	// errStale is that of a kept connection that is no longer as it was left. Nothing has been
	// written to it.
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
	c.out, c.body, c.aside = nil, nil, false
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

// hush lets the server be silent for the idle time from now on, and sets a deadline, if there is
// none yet that is early enough. One that is too early does no harm: see expired. So as a rule
// nothing has to be set, since each request may take longer than the one before. mu is held.
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

// set sets the deadline, but that of what is written aside: it stays as speak has set it.
func (c *conn) set(deadline time.Time) {
	c.deadline = deadline
	if c.writing != nil {
		c.Conn.SetReadDeadline(deadline)
	} else {
		c.Conn.SetDeadline(deadline)
	}
}

// expired returns why the deadline has passed, or nil if it was too early, and sets a new one then.
func (c *conn) expired() error {
	now := time.Now()
	limits := &c.host.client.limits
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.failed != nil:
		return c.failed
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
	case c.raw != nil && !c.aside:
		return c.readSocket(p)
	case c.out == nil:
		return c.Conn.Read(p)
	}
	if n, err := c.check(p); n > 0 || err != nil {
		return n, err
	}
	if c.aside {
		c.writeAside()
	} else if err := c.write(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// write writes out, and listens. Where that fails since the server has closed the
// connection, it may have answered before, so it is not an error.
func (c *conn) write() error {
	b := c.out
	c.out = nil
	c.speak()
	defer c.listen()
	n, err := c.Conn.Write(b)
	c.sent = c.sent || n > 0
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return cmp.Or(c.expired(), rules.TookTooLong(c.host.client.limits.Timeout))
	case c.sent && isClosed(err):
		return nil
	}
	return err
}

// isClosed reports whether err is that of a write on a connection that the server has closed.
func isClosed(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// check reads what has come before anything is written: see before.
func (c *conn) check(p []byte) (n int, err error) {
	err = errWouldBlock
	switch {
	case c.raw != nil:
		n, err = readNow(c.raw, p)
	case c.tls != nil:
		c.sock.now = true
		n, err = c.tls.Read(p)
		c.sock.now = false
	}
	if n > 0 || !errors.Is(err, errWouldBlock) {
		return c.before(p[:n], err)
	}
	if c.kept && (c.sock != nil && !c.sock.isBetween() || c.under != nil && hasMore(c.under)) {
		return 0, errStale
	}
	return 0, nil
}

// before returns what a Read does if b, or err, came before anything was written. On a kept
// connection that is errStale. But a new one may be that of a server which answers whatever it is
// asked: then that is read, and nothing is written, so that there is no second answer.
func (c *conn) before(b []byte, err error) (int, error) {
	if c.kept {
		c.stray(b)
		return 0, errStale
	}
	c.out, c.body, c.aside, c.early = nil, nil, false, true
	return len(b), err
}

// stray notes that b came unsolicited.
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
	raw syscall.RawConn // nil: what it has received is not known
	now bool

	// Where it is among the records (RFC 8446 §5.1): crypto/tls keeps to itself that it has a part
	// of one.
	head [5]byte
	n    int // bytes of a record's head
	left int // bytes of its content
}

func (s *socket) Read(p []byte) (n int, err error) {
	switch {
	case !s.now:
		n, err = s.Conn.Read(p)
	case s.raw != nil:
		n, err = readNow(s.raw, p)
	default:
		return 0, errWouldBlock
	}
	for b := p[:n]; len(b) > 0; {
		if s.left > 0 {
			m := min(s.left, len(b))
			s.left -= m
			b = b[m:]
			continue
		}
		m := copy(s.head[s.n:], b)
		b = b[m:]
		if s.n += m; s.n == len(s.head) {
			s.n, s.left = 0, int(s.head[3])<<8|int(s.head[4])
		}
	}
	return n, err
}

// isBetween reports whether what has been read ends with a record.
func (s *socket) isBetween() bool { return s.n == 0 && s.left == 0 }

// eof is the end of what a socket has to give, which a system call tells by 0 bytes.
func eof(n int, err error) (int, error) {
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, err
}

// cut reports whether a Read may have failed because of the limit. textproto does not always say
// so.
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

// writeAside writes out and body while the owner of c reads: a server need not read all of a
// request, or of several, before its answers are read. It ends before wrote does.
func (c *conn) writeAside() {
	c.speak()
	c.sent = true
	done, head, body := make(chan error, 1), c.out, c.body
	c.mu.Lock()
	c.writing = done
	c.mu.Unlock()
	c.out, c.body, c.aside = nil, nil, false
	go func() {
		_, err := c.Conn.Write(head)
		if err == nil && len(body) > 0 {
			_, err = c.Conn.Write(body)
		}
		if err == nil || isClosed(err) {
			c.listen() // it may have answered before
		} else if !errors.Is(err, os.ErrDeadlineExceeded) { // that the Read gets too
			c.mu.Lock()
			c.failed = err
			c.Conn.SetDeadline(past)
			c.mu.Unlock()
		}
		done <- err
	}()
}

// writeGrace is how long the end of a request may come after that of its answer. net/http has the
// same.
const writeGrace = 50 * time.Millisecond

// wrote waits for the end of what is written aside, but not for long after the answer, and no time
// at all if there is none. It reports whether all has been written.
func (c *conn) wrote(answered bool) bool {
	if c.writing == nil {
		return true
	}
	done := c.done
	if !answered {
		c.abort(done)
	}
	grace := time.AfterFunc(writeGrace, func() { c.abort(done) })
	err := <-c.writing
	inTime := grace.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = nil
	if !c.aborted {
		c.set(c.deadline) // of writes too
	}
	return err == nil && inTime
}

// isClean reports whether c has nothing left of what came. It is noted if it has.
func (c *conn) isClean() bool {
	if c.br.Buffered() == 0 {
		return true
	}
	c.stray(peek(c.br))
	return false
}
