package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

// A conn is a connection to a job's broker.
type conn struct {
	js.JetStream
	nc  *nats.Conn
	job Job

	mu    sync.Mutex
	again chan struct{}   // closed when the connection is there again
	since time.Time       // when it was lost; zero: it is not
	why   error           // of the broker, which does not permit something; nil: it does
	alive context.Context // done when it is lost: nothing that was asked will be answered
	lose  context.CancelFunc
}

const (
	patience = 5 * time.Second        // for one answer of the broker
	outage   = 5 * time.Minute        // after which a broker that has not come back will not
	farewell = 500 * time.Millisecond // for what the broker is told by those who leave
)

// connect returns a connection to the broker of j, which is b if that is embedded, or why there is none.
func connect(ctx context.Context, j Job, b *broker) (*conn, error) {
	if err := j.check(); err != nil {
		return nil, err
	}
	c := &conn{job: j, again: make(chan struct{})}
	c.alive, c.lose = context.WithCancel(context.Background())
	options := []nats.Option{
		nats.Name("fetch " + j.name()),
		nats.Timeout(patience),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectBufSize(-1), // what cannot be sent fails, and is sent again by whoever knows
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { // without it nats.go prints
			if errors.Is(err, nats.ErrPermissionViolation) {
				c.refused(err)
			}
		}),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { c.disconnected() }),
		nats.ReconnectHandler(func(*nats.Conn) { c.connected() }),
	}
	if j.Credentials != "" {
		if _, err := os.Stat(j.Credentials); err != nil {
			return nil, fmt.Errorf("jetstream: Job.Credentials: %w", err)
		}
		options = append(options, nats.UserCredentials(j.Credentials))
	}
	if j.TLS != nil {
		options = append(options, nats.Secure(j.TLS))
	}
	dial := &dialer{ctx: ctx}
	if j.Address != "" {
		options = append(options, nats.SetCustomDialer(dial))
	} else if b != nil {
		options = append(options, nats.InProcessServer(b))
	} else {
		return nil, fmt.Errorf("jetstream: %w: there is no Address, and it is not running in this process", ErrNoJob)
	}
	nc, err := nats.Connect(j.Address, options...)
	dial.connected()
	if err == nil {
		c.nc = nc
		c.JetStream, err = js.New(nc)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("jetstream: no connection to %s: %w", j.where(), err)
	}
	return c, nil
}

func (c *conn) disconnected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since = time.Now()
	c.lose()
}

func (c *conn) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since = time.Time{}
	c.lose()
	c.alive, c.lose = context.WithCancel(context.Background())
	close(c.again)
	c.again = make(chan struct{})
}

// refused notes that the broker does not permit what was asked, which it does not answer either.
func (c *conn) refused(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.why = err
	c.lose()
}

// close ends the connection.
func (c *conn) close() {
	c.nc.Close()
	c.disconnected()
}

// ask returns a context for one question to the broker: it is done when there will be no answer, too.
func (c *conn) ask(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	return c.whileAlive(ctx, cancel)
}

// whileAlive returns ctx, which cancel ends, and so does the loss of the connection.
func (c *conn) whileAlive(ctx context.Context, cancel func()) (context.Context, context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stop := context.AfterFunc(c.alive, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// reconnected returns a channel that is closed when a connection that was lost is there again.
func (c *conn) reconnected() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.again
}

// lost returns why there is no use in waiting for the broker, or nil.
func (c *conn) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.why != nil:
		return fmt.Errorf("the user at %s lacks a permission that package jetstream's documentation lists: %w", c.job.where(), c.why)
	case c.nc.IsClosed():
		err := c.nc.LastError()
		if err == nil {
			err = nats.ErrConnectionClosed
		}
		return fmt.Errorf("the connection to %s has ended: %w", c.job.where(), err)
	case !c.since.IsZero() && time.Since(c.since) > outage:
		return fmt.Errorf("%s has been away for more than %v", c.job.where(), outage)
	}
	return nil
}

// until calls try, with a context of its own, until it returns nil, a permanentError, or there is no use in it.
func (c *conn) until(ctx context.Context, try func(context.Context) error) error {
	begun := time.Now()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		tctx, cancel := c.ask(ctx)
		err := try(tctx)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if permanent, ok := errors.AsType[permanentError](err); ok {
			return permanent.error
		}
		if lost := c.lost(); lost != nil {
			return lost
		}
		if isFull(err) {
			begun = time.Now() // it will be less so
		}
		if time.Since(begun) > outage {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// A permanentError is one that trying again does not help against.
type permanentError struct{ error }

// isTaken reports whether the broker refuses a message since it has one of that subject.
func isTaken(err error) bool {
	api, ok := errors.AsType[*js.APIError](err)
	return ok && (strings.Contains(api.Description, "per subject") ||
		api.ErrorCode == js.JSErrCodeStreamWrongLastSequence || api.ErrorCode == js.JSErrCodeStreamWrongLastSequenceConstant)
}

// isFull reports whether the broker refuses a message since the stream has no room.
func isFull(err error) bool {
	api, ok := errors.AsType[*js.APIError](err)
	return ok && (strings.Contains(api.Description, "maximum bytes") || strings.Contains(api.Description, "maximum messages exceeded"))
}

// pull calls each with the next n messages of a consumer. It returns nil when there were as many, or none has come for
// some time; an error if the consumer has to be looked up again; and ctx's when that is done.
//
// It is the Fetch of nats.go but for its end: what the broker has sent by then goes to each, too. Otherwise
// it would count as handed out, and nobody would have it.
func (c *conn) pull(ctx context.Context, stream, consumer string, n int, each func(*nats.Msg)) error {
	sub, err := c.nc.SubscribeSync(c.nc.NewInbox())
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	const expires, heartbeat = 30 * time.Second, 5 * time.Second
	request := fmt.Sprintf(`{"batch":%d,"expires":%d,"idle_heartbeat":%d}`, n, expires, heartbeat)
	if err := c.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+stream+"."+consumer, sub.Subject, []byte(request)); err != nil {
		return err
	}
	alive, cancel := c.whileAlive(context.WithCancel(ctx))
	defer cancel()
	var last error
	for n > 0 && last == nil {
		wait, cancel := context.WithTimeout(alive, 2*heartbeat)
		m, err := sub.NextMsgWithContext(wait)
		cancel()
		if err != nil {
			last = err
			break
		}
		switch status := m.Header.Get("Status"); status { // of the client protocol: see nats.go
		case "":
			each(m)
			n--
		case "100": // a sign of life
		case "404", "408": // that is all for now
			return nil
		default:
			last = fmt.Errorf("%s %s", status, m.Header.Get("Description"))
		}
	}
	if n == 0 {
		return nil
	}
	if sub.Drain() == nil && c.nc.IsConnected() {
		_ = c.nc.FlushTimeout(farewell) // now all is here that ever will be
	}
	for m, err := sub.NextMsg(time.Millisecond); err == nil; m, err = sub.NextMsg(time.Millisecond) {
		if m.Header.Get("Status") == "" {
			each(m)
		}
	}
	return cmp.Or(ctx.Err(), last)
}

// A dialer gives up when its context is done, in the midst of the broker's greeting, too.
type dialer struct {
	ctx context.Context

	mu    sync.Mutex
	done  bool
	stops []func() bool
}

// Dial implements [nats.CustomDialer].
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	socket, err := (&net.Dialer{Timeout: patience}).DialContext(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.done {
		d.stops = append(d.stops, context.AfterFunc(d.ctx, func() { socket.Close() }))
	}
	return socket, nil
}

// connected leaves the connection alone from now on.
func (d *dialer) connected() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done = true
	for _, stop := range d.stops {
		stop()
	}
}
