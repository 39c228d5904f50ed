package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"fetchbench/fetch"
)

// A run is the Executor of a [Strategy]: this makes shards of the requests, and results of what
// is in done. Only reading the manifest can hold up the loop.

// A partial is a shard that is not full.
type partial struct {
	pending
	bytes  int // about so many
	size   int // how many requests make it full; 0: that is not known yet
	absent int // how many numbers in a row the manifest has not had
}

// manyMissing is how many numbers in a row the manifest has not, when it is not asked for more.
const manyMissing = 64

// shardBytes is about how large a shard may become: a broker takes a MiB in a message, if it is not told otherwise.
const shardBytes = 512 << 10

// Submit makes req a part of a shard, which goes out when it is full.
func (r *run) Submit(req *fetch.Request) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.over {
		r.running.Go(func() { r.refuse(req) })
		return
	}
	lane := partition(req.URL, len(r.partial)/2)
	if req.Index < r.next { // a retry: a run that is resumed must not depend on when it comes
		lane += len(r.partial) / 2
	}
	r.next = max(r.next, req.Index+1)
	r.addLocked(lane, req)
}

func (r *run) addLocked(lane int, req *fetch.Request) {
	p := &r.partial[lane]
	if p.size == 0 {
		recorded := 0
		if p.absent < manyMissing {
			var err error
			recorded, p.recorded, err = r.recorded(lane, p.number)
			r.failUnlessDone(err)
			if p.absent++; recorded > 0 {
				p.absent = 0
			}
		}
		p.size = cmp.Or(recorded, r.s.ShardSize)
	}
	bytes := len(req.URL) + len(req.Body) + 64
	for name, values := range req.Header {
		for _, v := range values {
			bytes += len(name) + len(v) + 8
		}
	}
	if p.recorded == "" && len(p.reqs) > 0 && p.bytes+bytes > shardBytes {
		r.sendLocked(lane)
		r.addLocked(lane, req)
		return
	}
	p.bytes += bytes
	p.reqs = append(p.reqs, req)
	r.held++
	if len(p.reqs) >= p.size {
		r.sendLocked(lane)
	}
}

// sendLocked hands a partial shard, if it is not empty, to the publisher.
func (r *run) sendLocked(lane int) {
	p, partitions := &r.partial[lane], len(r.partial)/2
	if len(p.reqs) == 0 {
		return
	}
	asRecorded := len(p.reqs) == p.size && lane < partitions
	s := p.pending
	s.partition, s.lane, s.strict = lane%partitions, lane, asRecorded && !s.astray
	*p = partial{absent: p.absent}
	p.number, p.astray = s.number+1, s.astray || s.recorded != "" && !asRecorded
	r.held -= len(s.reqs)
	r.left.Add(int64(len(s.reqs)))
	r.sent[&s] = struct{}{}
	r.shards++
	r.queue <- &s // there is room, since the loop heeds Full
}

// Full reports whether Ahead shards are out: where requests are large, shards have few of them.
func (r *run) Full() bool {
	r.lock.Lock()
	defer r.lock.Unlock()
	return len(r.sent) >= r.s.Ahead
}

// Flush sends the shards that are not full if all that the loop can be waiting for is in there.
func (r *run) Flush() {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.held > 0 && r.left.Load() == 0 && len(r.results) == 0 { // in this order: see handOver
		for lane := range r.partial {
			r.sendLocked(lane)
		}
	}
}

// InputEnded sends them since nothing more comes to fill them.
func (r *run) InputEnded() {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.ended = true
	for lane := range r.partial {
		r.sendLocked(lane)
	}
	r.total.Store(int64(r.shards))
}

func (r *run) Results() <-chan fetch.Result { return r.results }

// Err returns an [ErrJob] if the run has failed.
func (r *run) Err() error {
	if err := r.err(); err != nil {
		return jobError{err}
	}
	return nil
}

// Close ends the run, and all that it has begun.
func (r *run) Close() {
	all := r.ended && r.held == 0 && r.left.Load() == 0 && len(r.results) == 0
	r.complete.Store(all && r.err() == nil && r.caller.Err() == nil)
	close(r.closed)
	r.cancel()
	r.running.Wait()
}

// deliver hands over what is in done, until the run has failed or is canceled, and then refuses the
// rest.
func (r *run) deliver() {
	for r.ctx.Err() == nil && r.err() == nil {
		select {
		case p := <-r.done:
			r.lock.Lock()
			delete(r.sent, p)
			r.lock.Unlock()
			if !r.handOver(p) {
				return
			}
		case <-r.failed:
		case <-r.ctx.Done():
		}
	}
	r.lock.Lock()
	var rest []*fetch.Request
	for s := range r.sent {
		rest = append(rest, s.reqs...)
	}
	for _, p := range r.partial {
		rest = append(rest, p.reqs...)
	}
	r.sent, r.partial, r.over = nil, nil, true
	r.lock.Unlock()
	for _, req := range rest {
		r.refuse(req)
	}
}

// refuse answers req when the run is over.
func (r *run) refuse(req *fetch.Request) {
	r.put(fetch.Result{Request: req, Err: fetch.NewError(r.caller, req, &fetch.Error{Kind: fetch.ErrLost, Err: r.Err()})})
}

// put waits until there is room for res in results. It reports false if the loop has ended.
func (r *run) put(res fetch.Result) bool {
	select {
	case r.results <- res:
		return true
	case <-r.closed:
		return false
	}
}

// handOver puts the results of p into results. It reports false if the loop has ended.
func (r *run) handOver(p *pending) bool {
	var bodies []<-chan body // that are being fetched
	begun := 0               // bodies before it have been fetched, or are among them
	for i := range p.answers {
		a := &p.answers[i]
		a.Request = p.reqs[i]
		if e, ok := a.Err.(*fetch.Error); ok && e.Kind == fetch.ErrLost && e.URL == "" {
			a.Err = fetch.NewError(context.Background(), a.Request, e)
		}
		var err error
		if a.body != "" && r.s.Bodies == nil {
			err = &StoredError{Name: a.body}
		} else if a.body != "" {
			for ; begun < len(p.answers) && len(bodies) < bodiesAhead; begun++ {
				if name := p.answers[begun].body; name != "" {
					bodies = append(bodies, r.getBody(name))
				}
			}
			b := <-bodies[0] // a Store's methods end soon after ctx
			bodies = bodies[1:]
			if a.Body = b.data; b.err != nil {
				err = fmt.Errorf("its body: %w", b.err)
			}
		}
		if err != nil {
			a.Err = fetch.NewError(r.caller, a.Request, &fetch.Error{Kind: fetch.ErrLost, Err: err})
		}
		if !r.put(a.Result) {
			return false
		}
		*a = answer{}
		r.left.Add(-1) // after put: if it is 0 and results is empty, the loop has them all
	}
	return true
}

// A body is one from the Store.
type body struct {
	data []byte
	err  error
}

var errGoexit = errors.New("the Store called runtime.Goexit")

// bodiesAhead is how many bodies are fetched at once.
const bodiesAhead = 8

// getBody gets a body from where the worker has put it.
func (r *run) getBody(name string) <-chan body {
	got := make(chan body, 1)
	r.running.Go(func() {
		b := body{err: errGoexit}
		defer func() { got <- b }()
		var missing error // for good
		b.err = persist(r.ctx, func() (err error) {
			if b.data, err = get(r.ctx, r.s.Bodies, name); errors.Is(err, fs.ErrNotExist) {
				missing, err = err, nil
			}
			return err
		})
		if b.err = cmp.Or(b.err, missing); b.err != nil {
			b.data = nil
		}
	})
	return got
}
