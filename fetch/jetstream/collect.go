package jetstream

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	js "github.com/nats-io/nats.go/jetstream"
)

// collect takes summaries off the result stream, in any order and perhaps more than once.
func (r *run) collect() {
	var created time.Time // of the stream that next is of
	next := uint64(0)     // all before it has been accepted
	for wait := 10 * time.Millisecond; r.ctx.Err() == nil && r.err() == nil; wait = min(2*wait, 500*time.Millisecond) {
		ctx, cancel := r.conn.ask(r.ctx)
		consumer, info, err := r.resultConsumer(ctx, created, next)
		cancel()
		if err == nil {
			if !info.Created.Equal(created) {
				next = 1
				created = info.Created
			}
			wait = 10 * time.Millisecond
			r.collectFrom(consumer, &next)
			r.drop(consumer)
		}
		if lost := r.conn.lost(); lost != nil && r.ctx.Err() == nil {
			r.fail(fmt.Errorf("jetstream: %w", lost))
		}
		select {
		case <-r.ctx.Done():
		case <-r.failed:
		case <-time.After(wait):
		}
	}
}

// drop deletes a consumer of the summaries, which would go by itself some minutes later.
func (r *run) drop(consumer js.Consumer) {
	if !r.conn.nc.IsConnected() || r.complete.Load() || r.s.Job.Name == "" { // the stream goes, too
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	_ = r.conn.DeleteConsumer(ctx, r.s.Job.resultStream(), consumer.CachedInfo().Name)
}

// mostSummaries is how many summaries are in this process's memory, beside those that the loop has.
const mostSummaries = 8

// resultConsumer returns a consumer of the summaries from next on, or from the first if the stream is another than before.
func (r *run) resultConsumer(ctx context.Context, created time.Time, next uint64) (js.Consumer, *js.StreamInfo, error) {
	stream, err := r.conn.Stream(ctx, r.s.Job.resultStream())
	if err != nil {
		return nil, nil, err
	}
	info := stream.CachedInfo()
	if !info.Created.Equal(created) {
		next = 1
	}
	consumer, err := stream.CreateConsumer(ctx, js.ConsumerConfig{
		Name:              "run-" + rand.Text()[:12],
		FilterSubject:     r.s.Job.subject("result", "*"),
		DeliverPolicy:     js.DeliverByStartSequencePolicy,
		OptStartSeq:       next,
		AckPolicy:         js.AckExplicitPolicy,
		AckWait:           30 * time.Second,
		MaxAckPending:     mostSummaries,
		InactiveThreshold: 5 * time.Minute,
		MemoryStorage:     true,
		Replicas:          1,
	})
	return consumer, info, err
}

// collectFrom accepts what consumer has, until that has to be made anew.
func (r *run) collectFrom(consumer js.Consumer, next *uint64) {
	expected := uint64(1)
	for r.ctx.Err() == nil && r.err() == nil {
		// Without a deadline: the broker ends it after 30 s, with signs of life.
		ctx, cancel := r.conn.whileAlive(context.WithCancel(r.ctx))
		batch, err := consumer.Fetch(mostSummaries, js.FetchContext(ctx))
		if err == nil {
			for m := range batch.Messages() {
				r.collectOne(m, &expected, next)
			}
			err = cmp.Or(ctx.Err(), batch.Error())
		}
		cancel()
		if err != nil {
			return
		}
	}
}

// collectOne accepts m. expected is what number it has if none before it is missing.
func (r *run) collectOne(m js.Msg, expected, next *uint64) {
	if r.ctx.Err() != nil || r.err() != nil {
		return
	}
	id := lastToken(m.Subject())
	s := &summary{}
	if p := r.waiting(id); p != nil { // else it is an earlier run's: place looks it up when it gets there
		var err error
		s, err = r.open(id, m.Data())
		if err == nil && s == nil {
			if err = r.sendAgain(p, id); err == nil {
				_ = m.NakWithDelay(time.Second) // if it is there after all, it comes again
				return
			}
		}
		if err == nil {
			err = r.settle(id, s)
		}
		if err != nil {
			r.failUnlessDone(fmt.Errorf("the results of a shard: %w", err))
			return
		}
	}
	// If one is missing, next stays before it: then it may come later, or not at all.
	if meta, err := m.Metadata(); err == nil && meta.Sequence.Consumer == *expected {
		*expected++
		*next = max(*next, meta.Sequence.Stream+1) // less if it comes a second time
	}
	m.Ack()
	r.forget(s, id, len(m.Data()), *next)
}

// waiting returns the shard that the one with this id is, or is a part of, if it has no results yet.
func (r *run) waiting(id string) *pending {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out[rootOf(id)]
}

// forget has the broker delete what has been accepted, now and then, of a job that cannot be resumed: nobody will ask for it.
// All summaries before next have been.
func (r *run) forget(s *summary, id string, bytes int, next uint64) {
	if r.s.Job.Name != "" {
		return
	}
	r.forgettable += bytes
	r.forgettables++
	if r.forgettable < 4<<20 && r.forgettables < 256 && s.nonce == "" {
		return
	}
	ctx, cancel := r.conn.ask(r.ctx)
	defer cancel()
	results, err := r.conn.Stream(ctx, r.s.Job.resultStream())
	if err != nil {
		return
	}
	// If one of these fails, what it is about goes with the rest at the end.
	_ = results.Purge(ctx, js.WithPurgeSubject(r.s.Job.subject("result", "*")), js.WithPurgeSequence(next))
	if s.nonce != "" {
		_ = results.Purge(ctx, js.WithPurgeSubject(r.s.Job.subject("chunk", id, s.nonce, "*")))
	}
	r.forgettable, r.forgettables = 0, 0
}

// get returns the one message with this subject in the result stream.
func (c *conn) get(ctx context.Context, subject string) ([]byte, error) {
	stream, err := c.Stream(ctx, c.job.resultStream())
	if err != nil {
		return nil, err
	}
	m, err := stream.GetLastMsgForSubject(ctx, subject)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

// open decodes a summary, and gets its chunks if it has any. One that is no summary answers its shard by errors. It
// returns an error if ctx is done, or the broker does not answer; and nil if the broker has lost the chunks, and not this summary with
// them any more.
func (r *run) open(id string, data []byte) (*summary, error) {
	s, err := decodeSummary(data)
	if err == nil && s.form == summaryChunks {
		var whole []byte
		for i := range s.chunks {
			begun := time.Now()
			err = r.conn.until(r.ctx, func(ctx context.Context) error {
				chunk, err := r.conn.get(ctx, chunkSubject(r.s.Job, id, s.nonce, i))
				switch {
				case isGone(err):
					return permanentError{errNoChunk}
				case errors.Is(err, js.ErrMsgNotFound):
					if stands, sequence := r.stands(ctx, id, data); !stands {
						return permanentError{errNoChunk}
					} else if time.Since(begun) > patience { // or a replica is behind
						r.remove(ctx, sequence)
						return permanentError{errNoChunk}
					}
				}
				whole = append(whole, chunk...)
				return err
			})
			if err != nil {
				break
			}
		}
		if err == errNoChunk {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		nonce := s.nonce
		if s, err = decodeSummary(whole); err == nil {
			s.nonce = nonce
		}
	}
	if err == nil && s.form == summaryChunks {
		err = errEncoding
	}
	if err != nil {
		s = &summary{form: summaryFailed, reason: "its results: " + err.Error()}
	}
	return s, nil
}

var errNoChunk = errors.New("a part of them is not there")

// stands reports whether the summary that the broker has for a shard is this one, and its sequence number.
func (r *run) stands(ctx context.Context, id string, data []byte) (bool, uint64) {
	stream, err := r.conn.Stream(ctx, r.s.Job.resultStream())
	if err != nil {
		return !isGone(err), 0
	}
	m, err := stream.GetLastMsgForSubject(ctx, r.s.Job.subject("result", id))
	if err != nil {
		return !isGone(err) && !errors.Is(err, js.ErrMsgNotFound), 0
	}
	return bytes.Equal(m.Data, data), m.Sequence
}

// remove has the broker delete the summary with this number, so that there can be another.
func (r *run) remove(ctx context.Context, sequence uint64) {
	if stream, err := r.conn.Stream(ctx, r.s.Job.resultStream()); err == nil && sequence > 0 {
		_ = stream.DeleteMsg(ctx, sequence)
	}
}

func chunkSubject(j Job, id, nonce string, i int) string {
	return j.subject("chunk", id, nonce, strconv.Itoa(i))
}

// accept gives what s has for the shard with this id to the pending one that it is a part of.
// Whatever comes twice counts once; a shard that has all of its results is done.
func (r *run) accept(id string, s *summary) {
	r.mu.Lock()
	p := r.out[rootOf(id)]
	if p == nil {
		r.mu.Unlock()
		return
	}
	from, to, ok := partOf(id, len(p.reqs))
	if !ok {
		r.mu.Unlock()
		return
	}
	answers := s.answers
	switch {
	case s.form == summaryFailed:
		answers = failures(to-from, "%s", s.reason)
	case len(answers) != to-from:
		answers = failures(to-from, "there are %d results for %d requests", len(answers), to-from)
	}
	if len(answers) == len(p.reqs) && p.has == nil { // as it is, but for shards that were cut
		p.answers, p.missing = answers, 0
	}
	for i := range answers {
		if p.missing > 0 && p.has == nil {
			p.answers, p.has = make([]answer, len(p.reqs)), make([]bool, len(p.reqs))
		}
		if at := from + i; p.missing > 0 && !p.has[at] {
			p.answers[at], p.has[at] = answers[i], true
			p.missing--
		}
	}
	if p.missing > 0 {
		r.mu.Unlock()
		return
	}
	delete(r.out, p.id)
	r.mu.Unlock()

	if r.s.Job.Manifest != nil && !s.kept && s.form != summaryFailed {
		// If it cannot be kept, the results are none the worse; the shard would be fetched once more.
		_ = r.keep(r.s.Job.resultName(p.id), (&summary{form: summaryResults, answers: p.answers}).appendTo(nil))
	}
	select {
	case r.done <- p:
	case <-r.ctx.Done():
	case <-r.failed:
	}
}
