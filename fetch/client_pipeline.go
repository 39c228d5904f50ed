package fetch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"fetchbench/fetch/internal/http1"
	"fetchbench/fetch/internal/rules"
)

// DoBatch implements [BatchDoer]: it writes as many of reqs at once as it may, and reads their
// responses in order (RFC 9112 §9.3.2).
//
// Those are requests to the host of the first, without a body and a forwarding proxy, that may be
// sent twice (see [Retry]), on a connection that has been kept after a response. The others are
// performed one at a time; so are those whose responses many servers get wrong: HEAD and
// conditional requests (If-None-Match and the like). Of what was written together, a request that
// has no response when the connection ends or fails is sent again by itself, and counts another
// attempt. If the server had not announced that, the host gets one request at a time for a minute,
// and [EventPipelineOff] tells it, for each connection.
//
// The Timeout of each begins when the response before it has been yielded, and its Duration when it
// is written: a slow response delays those of the requests that were written after it, and a server
// that has fallen silent may cost each of them its Timeout. While yield runs it holds a connection,
// so it must not call c.
func (c *Client) DoBatch(ctx context.Context, reqs []*Request, yield func(Result)) {
	c.once.Do(c.init)
	now := time.Now()
	b := windows.Get().(*window)
	b.all = slices.Grow(b.all[:0], len(reqs))[:len(reqs)]
	shared, single := b.shared[:0], b.single[:0]
	for i, r := range reqs {
		x := &b.all[i]
		x.client, x.redirects = c, &c.redirects
		x.prepare(ctx, r, now)
		switch {
		case x.result.Err != nil:
			yield(x.result)
		case !x.req.MayShare() || x.route.Forwards() || len(shared) > 0 && x.route != shared[0].route:
			single = append(single, x)
		default:
			shared = append(shared, x)
		}
	}
	b.shared, b.single = shared, single
	for len(shared) > 1 && ctx.Err() == nil && c.mayPipeline(shared[0]) {
		var alone []*exchange
		alone, shared = c.pipeline(ctx, shared, yield)
		single = append(single, alone...)
	}
	for _, x := range append(single, shared...) {
		if x.begin(time.Now()); ctx.Err() != nil {
			x.fail(ctx.Err())
		} else {
			x.run()
		}
		yield(x.result)
	}
	b.release()
}

// A window is what DoBatch needs memory for. It is used again, unless yield panics.
type window struct {
	all            []exchange
	shared, single []*exchange
}

var windows = sync.Pool{New: func() any { return new(window) }}

func (b *window) release() {
	if cap(b.all) <= 1024 {
		clear(b.all)
		windows.Put(b)
	}
}

// mayPipeline reports whether several requests may be sent at once where x goes.
func (c *Client) mayPipeline(x *exchange) bool {
	return !c.unpiped.Has(x.route) && !c.suspects.Has(x.route)
}

// pipeline sends as many of xs at once as it may, and yields those of their results that come. It
// returns those requests that have to go on by themselves, and the rest of xs.
func (c *Client) pipeline(ctx context.Context, xs []*exchange, yield func(Result)) (alone, rest []*exchange) {
	for fresh := false; ; {
		var last *exchange
		var err error
		alone, rest, last, err = c.together(ctx, xs, fresh, yield)
		switch {
		case err == errLost:
			fresh = true
		case err != http1.ErrStale:
			if last != nil {
				yield(last.result)
			}
			return alone, rest
		case !c.mayPipeline(xs[0]): // what made it stale was an extra response
			return xs, nil
		}
	}
}

// errLost is the error of a reused connection that was closed just when requests were sent on it.
var errLost = errors.New("closed")

// together is pipeline on one connection. The last of the results is for the caller to yield, which
// may begin with the next requests: the connection is free for them then.
func (c *Client) together(ctx context.Context, xs []*exchange, fresh bool, yield func(Result)) (alone, rest []*exchange, last *exchange, err error) {
	first := xs[0]
	first.begin(time.Now())
	s, err := first.connect(fresh)
	if err != nil {
		return xs, nil, nil, nil // each by itself gets to know why
	}
	conn, keep, unread := s.Conn, false, 1
	defer func() { c.release(s, keep && unread == 0) }() // also if yield panics
	now := first.begun
	if !conn.Reused() || c.MaxConnsPerHost > 0 {
		now = time.Now() // some time has passed since
	}
	if err := conn.Acquire(ctx, now, first.end); err != nil {
		return xs, nil, nil, nil
	}
	proven, reused := conn.Proven(), conn.Reused()
	if !proven {
		xs, rest = xs[:1], xs[1:] // the first one shows what the connection can do
	}
	for i, x := range xs {
		x.req.Close = false
		if more := conn.Send(&x.req); !more && i+1 < len(xs) {
			xs, rest = xs[:i+1], xs[i+1:]
			break
		}
	}
	written := now
	for i, x := range xs {
		if i > 0 {
			x.begun, x.end = written, conn.Next(now)
		}
		var again bool
		again, keep, err = x.receive(conn)
		unread = len(xs) - 1 - i
		switch {
		case again:
			alone = append(alone, x)
		case err == nil:
			x.result.Duration = x.over.Sub(x.begun)
		case err == http1.ErrStale:
			return nil, nil, nil, err
		case i == 0 && reused && x.mayRepeat(conn, err):
			sendAgain(xs)
			return nil, nil, nil, errLost
		case keep || !proven || x.isFinal(err, i == 0 || conn.Heard()):
			x.fail(err)
		default:
			c.disablePipelining(s, x, len(xs)-i, err)
			return append(alone, sendAgain(xs[i:])...), rest, nil, nil
		}
		switch {
		case i == len(xs)-1 && !again:
			last = x
		case !again:
			yield(x.result)
		}
		now = time.Now()
		if !keep && i < len(xs)-1 {
			// As the server has announced, or since there is no use in reading on.
			return append(alone, sendAgain(xs[i+1:])...), rest, nil, nil
		}
	}
	return alone, rest, last, nil
}

// sendAgain counts the attempt that xs are about to make, unless their context is done.
func sendAgain(xs []*exchange) []*exchange {
	xs[0].forget() // only of the first there may be a part of a response
	for _, x := range xs {
		if x.ctx.Err() == nil {
			x.result.Attempts++
		}
	}
	return xs
}

// isFinal reports whether x, which was sent together with others, would fare no better by itself:
// the server has sent what is not acceptable, or has taken too long over it.
func (x *exchange) isFinal(err error, own bool) bool {
	switch NewError(x.ctx, nil, err).Kind {
	case ErrTooLarge, ErrDecode, ErrRedirect, ErrCanceled:
		return true
	case ErrTimeout:
		return own || x.ctx.Err() != nil
	}
	return false
}

// disablePipelining has the host get one request at a time for a while, since so many of what was
// sent together had no response.
func (c *Client) disablePipelining(s *slot, x *exchange, unanswered int, err error) {
	c.unpiped.Add(s.Route())
	Emit(x.ctx, Event{
		Kind:       EventPipelineOff,
		Host:       s.Route().Origin.String(),
		Unanswered: unanswered,
		Err:        NewError(x.ctx, x.result.Request, err),
		Duration:   rules.Distrust,
	})
}
