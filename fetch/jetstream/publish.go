package jetstream

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

// publish sends shards until the run ends, and looks after those that are out.
func (r *run) publish() {
	if size := r.s.ShardSize; r.s.Total > 0 {
		ctx, cancel := r.conn.ask(r.ctx)
		_, _ = r.conn.Publish(ctx, r.s.Job.subject("expected"), []byte(strconv.Itoa((r.s.Total-1)/size+1))) // as with tell
		cancel()
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	reconnected := r.conn.reconnected()
	for {
		select {
		case p := <-r.queue:
			if r.err() == nil { // else it is one that is cut off by that
				r.place(p)
			}
		case <-reconnected:
			reconnected = r.conn.reconnected()
			r.reclaim()
			r.lookAfter(true) // the broker may have forgotten what it had last
		case <-ticker.C:
			r.lookAfter(false)
		case <-r.ctx.Done():
			return
		case <-r.failed:
			return
		}
	}
}

// place sees to it that p is answered: by the manifest, by an earlier run, or by a worker.
func (r *run) place(p *pending) {
	p.message = encodeShard(p.reqs)
	p.id = shardID(p.lane, p.number, p.message)
	p.missing = len(p.reqs)
	r.mu.Lock()
	r.out[p.id] = p
	r.mu.Unlock()

	var err error
	if r.s.Job.Manifest != nil {
		var data []byte
		if p.recorded != "" {
			if p.strict && p.recorded != p.id {
				r.fail(fmt.Errorf("jetstream: job %s: the input has not the requests that it had: shard %d of the manifest has others; "+
					"to resume, give the same input in the same order, and to begin anew, another Name", r.s.Job.name(), p.number))
				return
			}
			data, err = r.recall(r.s.Job.resultName(p.id))
		}
		if p.recorded != "" || p.astray {
			p.message = asAgain(p.message)
		}
		if s, err := decodeSummary(data); err == nil && len(s.answers) == len(p.reqs) {
			s.kept = true
			r.accept(p.id, s)
			return
		}
		if err == nil && p.recorded != p.id {
			err = r.keep(r.s.Job.shardName(p.lane, p.number), p.message)
		}
		if err != nil {
			r.failUnlessDone(fmt.Errorf("the manifest: %w", err))
			return
		}
	}
	if r.isResumed() {
		err = r.seek(p, p.id)
	} else {
		err = r.send(p, p.id, p.id, p.message)
	}
	r.failUnlessDone(err)
}

func (r *run) isResumed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.resumed
}

// failUnlessDone ends the run by err, if that is one, and not because of its end.
func (r *run) failUnlessDone(err error) {
	if err != nil && r.ctx.Err() == nil {
		r.fail(fmt.Errorf("jetstream: %w", err))
	}
}

// seek accepts what results there are for the part of p with this id, and sees to it that the rest is in the work stream.
func (r *run) seek(p *pending, id string) error {
	s := r.lookUp(id)
	if s != nil {
		return r.settle(id, s)
	}
	if id == p.id {
		return r.send(p, id, newName(id), p.message)
	}
	return r.sendAgain(p, id)
}

// sendAgain puts the part of p with this id into the work stream as one whose requests may have been sent.
func (r *run) sendAgain(p *pending, id string) error {
	from, to, ok := partOf(id, len(p.reqs))
	if !ok {
		return nil
	}
	return r.send(p, id, newName(id), asAgain(encodeShard(p.reqs[from:to])))
}

// newName returns a name for a message of a shard: the broker remembers for minutes those that it has had, and not that it has lost
// what they are of.
func newName(id string) string { return id + "." + rand.Text()[:8] }

// settle accepts s for the shard with this id, or sees to it that the halves are answered in its place.
func (r *run) settle(id string, s *summary) error {
	if s.form != summaryHalved {
		r.accept(id, s)
		return nil
	}
	p := r.waiting(id)
	if p == nil {
		return nil
	}
	from, to, ok := partOf(id, len(p.reqs))
	if !ok || to-from < 2 { // no worker of ours says so
		r.accept(id, &summary{form: summaryFailed, reason: "its results: " + errEncoding.Error()})
		return nil
	}
	first, second, _ := halves(id, 0)
	return cmp.Or(r.seek(p, first), r.seek(p, second))
}

// lookUp returns the summary that there is for the shard with this id, or nil.
func (r *run) lookUp(id string) (s *summary) {
	_ = r.conn.until(r.ctx, func(ctx context.Context) error { // s is nil if that fails
		data, err := r.conn.get(ctx, r.s.Job.subject("result", id))
		if errors.Is(err, js.ErrMsgNotFound) || errors.Is(err, js.ErrStreamNotFound) {
			return permanentError{err}
		}
		if err == nil {
			s, _ = r.open(id, data) // nil with an error
		}
		return err
	})
	return s
}

// send puts the part of p with this id into the work stream, unless it is there. The broker takes a message with this name once.
func (r *run) send(p *pending, id, name string, message []byte) error {
	m := nats.NewMsg(r.s.Job.subject("work", strconv.Itoa(p.partition), id))
	m.Data = message
	const around = 1 << 10 // subject, headers and what the broker keeps beside them
	if most := r.conn.nc.MaxPayload(); int64(len(message)) > most-around {
		r.accept(id, &summary{form: summaryFailed, reason: fmt.Sprintf(
			"a shard has %d bytes, and the broker takes %d: lower Strategy.ShardSize, or raise the broker's max_payload", len(message), most-around)})
		return nil
	}
	if int64(len(message)) > r.s.MaxBytes-around {
		r.accept(id, &summary{form: summaryFailed, reason: fmt.Sprintf(
			"a shard has %d bytes, and the queue takes %d: lower Strategy.ShardSize, or raise MaxBytes", len(message), r.s.MaxBytes)})
		return nil
	}
	looked := time.Now()
	return r.conn.until(r.ctx, func(ctx context.Context) error {
		_, err := r.conn.PublishMsg(ctx, m, js.WithMsgID(name))
		if isTaken(err) {
			return nil
		}
		if isFull(err) && time.Since(looked) > time.Second { // what empties the queue may be gone
			looked = time.Now()
			return errors.Join(err, r.ensure(ctx))
		}
		return r.ensureAfter(ctx, err, r.ensure)
	})
}

// ensureAfter returns err. If it says that there are no streams, they are made first, for the next try.
func (r *run) ensureAfter(ctx context.Context, err error, ensure func(context.Context) error) error {
	if isGone(err) {
		return errors.Join(err, ensure(ctx))
	}
	return err
}

// isGone reports whether err says that there is no stream, or nobody who would know of it.
func isGone(err error) bool {
	return errors.Is(err, js.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, js.ErrStreamNotFound)
}

// lookAfter makes the streams anew if the broker has lost them, and tells the number of shards when it is known. If
// again is set, or they were lost, all that is out is sought there.
func (r *run) lookAfter(again bool) {
	ctx, cancel := r.conn.ask(r.ctx)
	defer cancel()
	r.mu.Lock()
	created, lost := r.created, r.lost
	r.mu.Unlock()
	for i, name := range []string{r.s.Job.workStream(), r.s.Job.resultStream()} {
		stream, err := r.conn.Stream(ctx, name)
		switch {
		case errors.Is(err, js.ErrStreamNotFound), err == nil && !stream.CachedInfo().Created.Equal(created[i]):
			lost = true
		case err == nil && i == 0 && stream.CachedInfo().State.Consumers < max(1, r.s.Partitions):
			_ = r.ensureConsumers(ctx) // else the next time
		}
	}
	if lost && r.ensure(ctx) == nil {
		r.mu.Lock()
		r.lost = false
		r.mu.Unlock()
		r.reclaim()
		// Without the marks nobody can tell what of the work stream has been begun. All of it goes there again, as that.
		if work, err := r.conn.Stream(ctx, r.s.Job.workStream()); err == nil {
			_ = work.Purge(ctx)
		}
		again = true
	}
	if again && r.err() == nil {
		r.restore()
	}
	if n := r.total.Load(); n > 0 && len(r.queue) == 0 { // all are at the broker, or answered
		r.tell(ctx, n)
		r.total.Store(0)
	}
}

// reclaim sees to it that this is still the one publisher, after a time in which the broker may have thought it gone.
func (r *run) reclaim() {
	if r.broker == nil {
		err := r.conn.until(r.ctx, func(ctx context.Context) error { return r.ensureAfter(ctx, r.claim(ctx), r.ensure) })
		if errors.Is(err, errClaimed) {
			r.begun = false // it is the other's
			r.failUnlessDone(err)
		}
	}
}

// tell puts the number of shards where Status finds it.
func (r *run) tell(ctx context.Context, total int64) {
	text := []byte(strconv.FormatInt(total, 10))
	_, _ = r.conn.Publish(ctx, r.s.Job.subject("total"), text) // if it cannot be told, Status does not tell it
}

// restore publishes again what is out and not at the broker.
func (r *run) restore() {
	r.mu.Lock()
	out := make([]*pending, 0, len(r.out))
	for _, p := range r.out {
		out = append(out, p)
	}
	r.mu.Unlock()
	for _, p := range out {
		p.message = asAgain(p.message) // the marks may be lost, too
		r.failUnlessDone(r.seek(p, p.id))
		if r.ctx.Err() != nil || r.err() != nil {
			return
		}
	}
}

// The names in the manifest.
func (j Job) shardName(lane, number int) string {
	return fmt.Sprintf("%s/shards/%d/%d/%d", j.name(), lane, number/1000, number)
}
func (j Job) resultName(id string) string { return j.name() + "/results/" + id[:2] + "/" + id }

// recorded returns how many requests the shard has that the manifest has of this number, and its id; or 0 if it has none.
func (r *run) recorded(lane, number int) (n int, id string, err error) {
	if r.s.Job.Manifest == nil {
		return 0, "", nil
	}
	name := r.s.Job.shardName(lane, number)
	data, err := r.recall(name)
	if err != nil {
		return 0, "", fmt.Errorf("the manifest: %w", err)
	}
	if data == nil {
		return 0, "", nil
	}
	_, reqs, err := decodeShard(data)
	if err != nil {
		return 0, "", fmt.Errorf("the manifest: %s: %w; without it, its requests would be fetched again", name, err)
	}
	if most := r.s.Ahead * r.s.ShardSize; len(reqs) > most {
		return 0, "", fmt.Errorf("the manifest has a shard of %d requests: Ahead times ShardSize is %d, and has to be that at least", len(reqs), most)
	}
	return len(reqs), shardID(lane, number, encodeShard(reqs)), nil
}

// checkManifest returns an error if the shards of the manifest are of other partitions.
func (r *run) checkManifest() error {
	if r.s.Job.Manifest == nil {
		return nil
	}
	name, partitions := r.s.Job.name()+"/partitions", strconv.Itoa(r.s.Partitions)
	was, err := r.recall(name)
	if err == nil && was == nil {
		return r.keep(name, []byte(partitions))
	}
	if err == nil && string(was) != partitions {
		err = fmt.Errorf("the job was begun with %s Partitions, not %s", was, partitions)
	}
	return err
}

// keep puts data into the manifest, with some patience.
func (r *run) keep(name string, data []byte) error {
	return persist(r.ctx, func() error { return put(r.ctx, r.s.Job.Manifest, name, data) })
}

// recall gets data from the manifest, with some patience: nil if there is none of that name.
func (r *run) recall(name string) (data []byte, err error) {
	err = persist(r.ctx, func() (err error) {
		data, err = get(r.ctx, r.s.Job.Manifest, name)
		if errors.Is(err, fs.ErrNotExist) {
			data, err = nil, nil
		} else if data == nil {
			data = []byte{}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// persist calls try up to three times, until it succeeds.
func persist(ctx context.Context, try func() error) (err error) {
	for wait := 50 * time.Millisecond; wait < time.Second; wait *= 4 {
		if err = try(); err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return err
}
