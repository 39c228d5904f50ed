package wire

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/rules"
)

// maxWrite is the size in bytes up to which requests are written together. A socket has room for so
// much, as a rule.
const maxWrite = 16 << 10

// DoBatch implements [fetch.BatchDoer]: it writes as many of reqs at once as it may, and
// reads their answers in order.
//
// Those are requests to the host of the first, without a body, that may be sent twice (see
// [fetch.Retry]); and only when that host has answered before on a connection that was kept. The
// others are performed one at a time; so are those whose answers many a server gets wrong: HEAD and
// conditional requests (If-None-Match and the like). Of what was written together, a request that
// has no answer when the connection ends or fails is sent again by itself, and counts another
// attempt. If the server had not announced that, the host gets one request at a time for a minute,
// and [fetch.EventPipelineOff] tells it, for each connection.
//
// The Timeout of each begins when the answer before it has been yielded, and its Duration when it
// is written: a slow answer delays those that were written after it, and a server that has fallen
// silent may cost each of them its Timeout. While yield runs it holds a connection, so it must not
// call c.
func (c *Client) DoBatch(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
	c.once.Do(c.init)
	now := time.Now()
	b := batches.Get().(*batch)
	b.exchanges = slices.Grow(b.exchanges[:0], len(reqs))[:len(reqs)]
	window, single := b.window[:0], b.single[:0]
	for i, r := range reqs {
		x := &b.exchanges[i]
		x.prepare(c, ctx, r, now)
		switch {
		case x.result.Err != nil:
			yield(x.result)
		case !x.mayShare() || len(window) > 0 && x.target.origin != window[0].target.origin:
			single = append(single, x)
		default:
			window = append(window, x)
		}
	}
	b.window, b.single = window, single
	if len(window) > 0 && !c.isProven(window[0].target.origin) {
		// The first one shows what the host can do.
		window[0].run()
		yield(window[0].result)
		window = window[1:]
	}
	for len(window) > 1 && ctx.Err() == nil && c.mayPipeline(window[0].target.origin) {
		var alone []*exchange
		alone, window = c.pipeline(ctx, window, yield)
		single = append(single, alone...)
	}
	for _, x := range append(single, window...) {
		if x.begin(time.Now()); ctx.Err() != nil {
			x.fail(ctx.Err())
		} else {
			x.run()
		}
		yield(x.result)
	}
	b.release()
}

// mayShare reports whether x may be written together with others.
func (x *exchange) mayShare() bool {
	if len(x.body) > 0 || x.closes || x.method == http.MethodHead || !rules.Repeatable(x.method, x.header) {
		return false
	}
	for name := range x.header {
		if len(name) > 3 && strings.EqualFold(name[:3], "If-") {
			return false
		}
	}
	return true
}

// A batch is what DoBatch needs memory for. It is used again, unless yield panics.
type batch struct {
	exchanges      []exchange
	window, single []*exchange
}

var batches = sync.Pool{New: func() any { return new(batch) }}

func (b *batch) release() {
	if cap(b.exchanges) <= 1024 {
		clear(b.exchanges)
		batches.Put(b)
	}
}

// mayPipeline reports whether the host of origin gets several requests in one write.
func (c *Client) mayPipeline(origin rules.Origin) bool {
	return c.isProven(origin) && !c.unpiped.Has(origin) && !c.suspects.Has(origin)
}

// pipeline writes as many requests of window together as it may, and yields those of their answers
// that come. It returns those requests that have to go on by themselves, and the rest of window.
func (c *Client) pipeline(ctx context.Context, window []*exchange, yield func(fetch.Result)) (alone, rest []*exchange) {
	for fresh := false; ; {
		var last *exchange
		var err error
		alone, rest, last, err = c.together(ctx, window, fresh, yield)
		switch origin := window[0].target.origin; {
		case err == errLost:
			fresh = true
		case err != errStale:
			if last != nil {
				yield(last.result)
			}
			return alone, rest
		case c.unpiped.Has(origin) || c.suspects.Has(origin): // what made it stale was an answer too many
			return window, nil
		}
	}
}

// errLost is that of a kept connection which was closed just when a window was written to it.
var errLost = errors.New("closed")

// together is pipeline on one connection. The last of the results is for the caller to yield: who
// gets that may begin with the next requests, for which the connection is free now.
func (c *Client) together(ctx context.Context, window []*exchange, fresh bool, yield func(fetch.Result)) (alone, rest []*exchange, last *exchange, err error) {
	first := window[0]
	first.begin(time.Now())
	conn, err := c.get(ctx, &first.target, first.end, fresh)
	if err != nil {
		return window, nil, nil, nil // each by itself gets to know why
	}
	keep := false
	defer func() { // also if yield panics
		if conn.rest() && keep {
			c.put(conn, time.Now())
		} else {
			c.drop(conn)
		}
	}()
	now := first.begun
	if !conn.kept || c.MaxConnsPerHost > 0 {
		now = time.Now() // some time has passed since
	}
	if err := conn.begin(ctx, now, first.end); err != nil {
		return window, nil, nil, nil
	}
	conn.buf = conn.buf[:0]
	for i, x := range window {
		if conn.buf = x.appendHead(conn.buf); len(conn.buf) > maxWrite {
			window, rest = window[:i+1], window[i+1:]
			break
		}
	}
	conn.out, conn.aside = conn.buf, conn.raw == nil
	written, read := now, conn.total // when it was now
	for i, x := range window {
		if i > 0 {
			x.begun, x.end = written, conn.turn(now)
		}
		again, keeps, err := x.receive(conn)
		if i == len(window)-1 || err != nil || !keeps {
			keeps = conn.wrote(err == nil) && keeps
		}
		if conn.total > read || err != nil {
			read, now = conn.total, time.Now()
		}
		x.over = now
		heard := conn.heard || i > 0 && conn.br.Buffered() > 0
		switch {
		case again:
			alone = append(alone, x)
		case err == nil:
			x.result.Duration = x.over.Sub(x.begun)
		case err == errStale:
			return nil, nil, nil, errStale
		case i == 0 && conn.kept && !heard && x.mayRepeat(conn, err):
			sentAgain(window)
			return nil, nil, nil, errLost
		case keeps || x.isFinal(err, i == 0 || heard):
			x.fail(err)
		default:
			c.unpipe(ctx, conn, x, len(window)-i, err)
			return append(alone, sentAgain(window[i:])...), rest, nil, nil
		}
		switch {
		case again:
		case i == len(window)-1:
			last = x
		default:
			yield(x.result)
			now = time.Now()
		}
		if !keeps && i < len(window)-1 {
			// As the server has announced, or since there is no use in reading on.
			conn.host.proven.Store(false)
			return append(alone, sentAgain(window[i+1:])...), rest, nil, nil
		}
		keep = keeps && i == len(window)-1 && conn.isClean()
	}
	return alone, rest, last, nil
}

// sentAgain counts the attempt that xs are about to make, unless their context is done.
func sentAgain(xs []*exchange) []*exchange {
	xs[0].forget() // only of the first there may be a part of an answer
	for _, x := range xs {
		if x.ctx.Err() == nil {
			x.result.Attempts++
		}
	}
	return xs
}

// isFinal reports whether x, which was written together with others, would fare no better by
// itself: the server has sent what is no good, or has taken too long over it.
func (x *exchange) isFinal(err error, own bool) bool {
	switch fetch.NewError(x.ctx, nil, err).Kind {
	case fetch.ErrTooLarge, fetch.ErrDecode, fetch.ErrRedirect, fetch.ErrCanceled:
		return true
	case fetch.ErrTimeout:
		return own || x.ctx.Err() != nil
	}
	return false
}

// unpipe has the host of conn get one request at a time for a while, since so many of what was
// written together had no answer.
func (c *Client) unpipe(ctx context.Context, conn *conn, x *exchange, unanswered int, err error) {
	c.unpiped.Add(conn.host.origin)
	fetch.Emit(ctx, fetch.Event{
		Kind:       fetch.EventPipelineOff,
		Host:       conn.host.origin.String(),
		Unanswered: unanswered,
		Err:        fetch.NewError(ctx, x.result.Request, err),
		Duration:   rules.Distrust,
	})
}
