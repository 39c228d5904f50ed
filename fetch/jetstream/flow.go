package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/wake"
)

// A flow is what the caller's goroutine does in a run: it takes requests, makes shards of them, and hands
// out the results. Only what is in done, and the end of the run, can hold it up.
type flow struct {
	*run
	caller  context.Context
	most    int // requests ahead
	ahead   int // requests taken and not handed out
	ended   bool
	partial []partial
	sent    map[*pending]struct{}

	ready  *pending         // whose results are being handed out
	next   int              // of them
	begun  int              // of them: bodies before it have been fetched, or are among
	bodies []*body          // those that are being fetched
	rest   []*fetch.Request // to be answered by an error: the run has failed, or is canceled
	why    func(*fetch.Request) error
	said   bool // of a result
}

// A partial is a shard that is not full.
type partial struct {
	reqs     []*fetch.Request
	bytes    int    // about so many
	number   int    // of it in its partition
	size     int    // how many requests make it full; 0: that is not known yet
	recorded string // the id of the one that the manifest has; "": none
	astray   bool   // one was sent before it was as large as the manifest's, in a pause: later ones are others, too
	missing  int    // how many numbers in a row it has not had
}

// manyMissing is how many numbers in a row the manifest has not, when it is not asked for more.
const manyMissing = 64

// shardBytes is about how large a shard may become: a broker takes a MiB in a message, if it is not told otherwise.
const shardBytes = 512 << 10

func newFlow(r *run, caller context.Context) *flow {
	return &flow{
		run:     r,
		caller:  caller,
		most:    r.s.Ahead * r.s.ShardSize,
		partial: make([]partial, max(1, r.s.Partitions)),
		sent:    make(map[*pending]struct{}),
	}
}

func (f *flow) loop(reqs iter.Seq[*fetch.Request], yield func(fetch.Result) bool) {
	wake := wake.From(f.caller)
	for r := range reqs {
		if r != nil {
			f.ahead++
			f.take(r)
		} else if f.ahead > 0 && f.await(wake) && !yield(f.pop()) {
			return
		}
		// Hand out what is ready, and wait for results where the input has to.
		for f.ahead == f.most || len(f.sent) >= f.s.Ahead || f.has() {
			f.await(nil)
			if !yield(f.pop()) {
				return
			}
		}
		if f.caller.Err() != nil || f.err() != nil && (f.said || f.ahead > 0) {
			break // after a failure as soon as there is a request to say it of
		}
	}
	f.ended = f.caller.Err() == nil && f.err() == nil
	f.flush()
	for f.ahead > 0 {
		f.await(nil)
		if !yield(f.pop()) {
			return
		}
	}
}

// take makes r a part of a shard, which goes out when it is full.
func (f *flow) take(r *fetch.Request) {
	if f.why != nil {
		f.rest = append(f.rest, r)
		return
	}
	n := partition(r.URL, len(f.partial))
	p := &f.partial[n]
	if p.size == 0 {
		recorded := 0
		if p.missing < manyMissing {
			var err error
			recorded, p.recorded, err = f.recorded(n, p.number)
			f.failUnlessDone(err)
			if p.missing++; recorded > 0 {
				p.missing = 0
			}
		}
		p.size = cmp.Or(recorded, f.s.ShardSize)
	}
	bytes := len(r.URL) + len(r.Body) + 64
	for name, values := range r.Header {
		for _, v := range values {
			bytes += len(name) + len(v) + 8
		}
	}
	if p.recorded == "" && len(p.reqs) > 0 && p.bytes+bytes > shardBytes {
		f.send(n)
		f.take(r)
		return
	}
	p.bytes += bytes
	p.reqs = append(p.reqs, r)
	if len(p.reqs) >= p.size {
		f.send(n)
	}
}

// send hands the partial shard of partition n to the publisher.
func (f *flow) send(n int) {
	p := &f.partial[n]
	full := len(p.reqs) == p.size
	s := &pending{reqs: p.reqs, partition: n, number: p.number, recorded: p.recorded, strict: full && !p.astray, astray: p.astray}
	*p = partial{number: p.number + 1, missing: p.missing, astray: p.astray || p.recorded != "" && !full}
	f.sent[s] = struct{}{}
	f.queue <- s // there is room for all that may be out
}

// flush sends all partial shards.
func (f *flow) flush() {
	for n := range f.partial {
		if len(f.partial[n].reqs) > 0 && f.why == nil {
			f.send(n)
		}
	}
	if f.ended && f.why == nil {
		total := 0
		for n := range f.partial {
			total += f.partial[n].number
		}
		f.total.Store(int64(total))
	}
}

// has reports whether there is a result to hand out without waiting.
func (f *flow) has() bool {
	return f.ready != nil || len(f.rest) > 0 || f.why == nil && len(f.done) > 0
}

// await waits until there is a result to hand out, of which there has to be one to come, or
// until wake: it reports which.
func (f *flow) await(wake <-chan struct{}) bool {
	if f.ready != nil || len(f.rest) > 0 {
		return true
	}
	if len(f.sent) == 0 {
		f.flush() // what they all wait for is in there
	}
	select {
	case f.ready = <-f.done:
		delete(f.sent, f.ready)
		f.next, f.begun = 0, 0
	case <-wake:
		return false
	case <-f.failed:
		f.giveUp(func(r *fetch.Request) error {
			return fetch.NewError(f.caller, r, &fetch.Error{Kind: fetch.ErrShard, Err: jobError{f.err()}})
		})
	case <-f.ctx.Done():
		f.giveUp(func(r *fetch.Request) error { return fetch.NewError(f.caller, r, f.caller.Err()) })
	}
	return true
}

// giveUp answers all that has no result.
func (f *flow) giveUp(why func(*fetch.Request) error) {
	f.why = why
	for s := range f.sent {
		f.rest = append(f.rest, s.reqs...)
	}
	clear(f.sent)
	for n := range f.partial {
		f.rest = append(f.rest, f.partial[n].reqs...)
		f.partial[n].reqs = nil
	}
}

// pop returns the result that await has waited for.
func (f *flow) pop() fetch.Result {
	f.ahead--
	if f.ready == nil {
		r := f.rest[0]
		f.rest = f.rest[1:]
		f.said = true
		return fetch.Result{Request: r, Err: f.why(r)}
	}
	a := f.ready.answers[f.next]
	a.Request = f.ready.reqs[f.next]
	if e, ok := a.Err.(*fetch.Error); ok && e.Kind == fetch.ErrShard && e.URL == "" {
		a.Err = fetch.NewError(context.Background(), a.Request, e)
	}
	if a.body != "" {
		f.takeBody(&a)
	}
	f.ready.answers[f.next] = answer{}
	if f.next++; f.next == len(f.ready.reqs) {
		f.ready = nil
	}
	return a.Result
}

// A body is one that is on its way from the Store.
type body struct {
	data []byte
	err  error
	done chan struct{}
}

var errGoexit = errors.New("the Store called runtime.Goexit")

// bodiesAhead is how many bodies are fetched at once.
const bodiesAhead = 8

// takeBody gets the body of a, the next result, from where the worker has put it.
func (f *flow) takeBody(a *answer) {
	if f.s.Bodies == nil {
		a.Err = fetch.NewError(f.caller, a.Request, &fetch.Error{Kind: fetch.ErrShard, Err: &StoredError{Name: a.body}})
		return
	}
	f.begun = max(f.begun, f.next)
	for f.begun < len(f.ready.answers) && len(f.bodies) < bodiesAhead {
		if name := f.ready.answers[f.begun].body; name != "" {
			b := &body{err: errGoexit, done: make(chan struct{})}
			f.bodies = append(f.bodies, b)
			f.running.Go(func() {
				defer close(b.done)
				var missing error // for good
				b.err = persist(f.ctx, func() (err error) {
					if b.data, err = get(f.ctx, f.s.Bodies, name); errors.Is(err, fs.ErrNotExist) {
						missing, err = err, nil
					}
					return err
				})
				b.err = cmp.Or(b.err, missing)
			})
		}
		f.begun++
	}
	b := f.bodies[0]
	f.bodies = f.bodies[1:]
	<-b.done // a Store's methods end soon after ctx
	if b.err != nil {
		a.Err = fetch.NewError(f.caller, a.Request, &fetch.Error{Kind: fetch.ErrShard, Err: fmt.Errorf("its body: %w", b.err)})
		return
	}
	a.Body = b.data
}
