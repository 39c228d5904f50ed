package jetstream

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/rules"
)

// start finds what there is to do of h for the Fetcher. If that is nothing, h is answered, since it
// has been begun too often, say; or it has to be started alone; or the session ends.
func (s *session) start(h *held) {
	if err := s.mark(h); err != nil {
		s.giveUp(err)
		return
	}
	if h.number == 0 {
		return
	}
	earlier := h.number - 1 // times that it was begun
	if earlier > 0 || h.deliveries > 1 {
		if _, err := s.conn.get(s.ctx, s.Job.subject("result", h.id)); err == nil {
			s.finish(h) // another worker has answered, and did not come to acknowledge it
			return
		}
	}
	failures := 0
	if earlier > 0 {
		failures = max(0, earlier-s.count("back", h.id))
	}
	switch {
	case h.reqs == nil:
		s.answerAll(h, &summary{form: summaryFailed, reason: "a worker cannot read it: it is " + errEncoding.Error()})
	case len(h.reqs) > 1 && (failures >= mostFailures || failures > 0 && h.id != rootOf(h.id)):
		s.answerAll(h, &summary{form: summaryHalved}) // the publisher sends the halves
	case failures >= mostSingleFailures:
		h.answers[0] = s.refusal(h, "workers that ended, or were silent, with this request: %d", failures)
		s.settle(h)
	default:
		s.choose(h, earlier > 0 || h.flags&again != 0)
	}
}

// mark notes at the broker that h is begun, and with that finds how often it was before. It does not yet, but sets h.alone, if
// h is a request that has its last chance: whether it is this one that ends workers, and not another that they had at the
// time, can be told only if they have nothing else.
func (s *session) mark(h *held) error {
	if s.Job.Name == "" { // the broker ends with this process, which has nobody else's to count
		h.number = h.deliveries
		return nil
	}
	for n := 1; ; {
		if n >= mostSingleFailures && len(h.reqs) == 1 && !h.alone && n-1-s.count("back", h.id) >= mostSingleFailures-1 {
			h.alone = true
			return nil
		}
		subject := s.Job.subject("begun", h.id, strconv.Itoa(n))
		err := s.put(subject, []byte(h.nonce))
		if isTaken(err) {
			if data, err := s.conn.get(s.ctx, subject); err != nil || string(data) != h.nonce { // else the broker's answer was lost
				n = max(n, s.count("begun", h.id)) + 1
				continue
			}
			err = nil
		}
		if err == nil {
			h.number = n
		}
		return err
	}
}

// count returns how many marks of a kind a shard has.
func (s *session) count(kind, id string) int {
	ctx, cancel := s.conn.ask(s.ctx)
	defer cancel()
	stream, err := s.conn.Stream(ctx, s.Job.resultStream())
	if err != nil {
		return 0
	}
	info, err := stream.Info(ctx, js.WithSubjectFilter(s.Job.subject(kind, id, "*")))
	if err != nil {
		return 0
	}
	return len(info.State.Subjects)
}

// giveUp ends the session, since the broker has not taken something for minutes: its disk is full, say.
func (s *session) giveUp(err error) {
	s.end(permanentError{fmt.Errorf("jetstream: the broker takes no results: %w", err)})
}

// choose sets what there is to do of h. It answers the rest: what may have been sent, and must not
// be sent again.
func (s *session) choose(h *held, again bool) {
	for i, r := range h.reqs {
		if !again || rules.Repeatable(r.Method, r.Header) {
			h.todo = append(h.todo, task{h, i})
			continue
		}
		s.answer(h, i, s.refusal(h, "a worker has had the request, and did not finish its shard; it may have been sent, so it is not repeated"))
	}
	if len(h.todo) == 0 {
		s.settle(h)
	}
}

// refusal returns an error for a request of h.
func (s *session) refusal(h *held, format string, args ...any) answer {
	a := failures(1, format, args...)[0]
	a.Attempts = h.number - 1
	return a
}

// settle sends the results of h, all of which are there.
func (s *session) settle(h *held) {
	s.answerAll(h, &summary{form: summaryResults, answers: h.answers})
}

// putBody puts the body of a, the answer of the request at a place of h, into Bodies. If two workers have the shard, each has names of
// its own.
func (s *session) putBody(h *held, at int, a *answer) {
	name := fmt.Sprintf("bodies/%s/%s/%d-%s", s.Job.name(), h.id, at, h.nonce)
	err := persist(s.ctx, func() error {
		s.mu.Lock()
		h.moved = true
		s.mu.Unlock()
		return put(s.ctx, s.Bodies, name, a.Body)
	})
	a.Body = nil
	if err != nil {
		a.Err = &fetch.Error{Kind: fetch.ErrLost, Err: fmt.Errorf("its body could not be put into Worker.Bodies: %w", err)}
		return
	}
	a.body = name
}

// answerAll sends the outcome of h, which is its own only if no other worker's was there first; then h is done with.
func (s *session) answerAll(h *held, sum *summary) {
	err := s.report(h.id, sum)
	if s.ctx.Err() != nil {
		return
	}
	if err != nil {
		s.giveUp(err)
		return
	}
	beforeAck(h.id)
	s.finish(h)
}

// beforeAck is for tests.
var beforeAck = func(id string) {}

// finish acknowledges h: the broker forgets it.
func (s *session) finish(h *held) {
	ctx, cancel := s.conn.ask(s.ctx)
	defer cancel()
	_ = h.AckSync(nats.Context(ctx)) // if that is lost, h comes again, and is found to have been answered
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.hand, h)
}

// buffers have room for most summaries.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const maxBuffer = 4 << 20

// report puts the outcome of a shard into the result stream, unless one is there.
func (s *session) report(id string, sum *summary) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer) // whatever has been published has been copied
	data := sum.appendTo((*buffer)[:0])
	if *buffer = data; len(data) > maxBuffer {
		*buffer = nil
	}
	most := int(s.conn.nc.MaxPayload()) - 1024
	nonce := ""
	if len(data) > most {
		nonce = rand.Text()
		sum = &summary{form: summaryChunks, nonce: nonce, chunks: (len(data) + most - 1) / most}
		if sum.chunks > maxChunks {
			sum = &summary{form: summaryFailed, reason: "its results are too large: see Worker.Bodies, or lower Strategy.ShardSize"}
			data = nil
		}
		for i := 0; len(data) > 0; i++ {
			n := min(most, len(data))
			if err := s.put(chunkSubject(s.Job, id, nonce, i), data[:n]); err != nil && !isTaken(err) { // by ourselves: an answer was lost
				return err
			}
			data = data[n:]
		}
		data = sum.appendTo(nil)
	}
	err := s.put(s.Job.subject("result", id), data)
	if nonce != "" && isTaken(err) {
		s.dropChunks(id, nonce)
	}
	if isTaken(err) {
		return nil
	}
	return err
}

// put publishes what goes to the result stream.
func (s *session) put(subject string, data []byte) error {
	return s.conn.until(s.ctx, func(ctx context.Context) error {
		_, err := s.conn.Publish(ctx, subject, data)
		if isTaken(err) {
			return permanentError{err}
		}
		return err
	})
}

// dropChunks removes the chunks with this nonce, unless the summary that is there has them.
func (s *session) dropChunks(id, nonce string) {
	ctx, cancel := s.conn.ask(s.ctx)
	defer cancel()
	data, err := s.conn.get(ctx, s.Job.subject("result", id))
	if err != nil {
		return
	}
	if sum, err := decodeSummary(data); err == nil && sum.nonce != nonce {
		if stream, err := s.conn.Stream(ctx, s.Job.resultStream()); err == nil {
			_ = stream.Purge(ctx, js.WithPurgeSubject(s.Job.subject("chunk", id, nonce, "*"))) // they cost room, no more
		}
	}
}

// putBack gives the shards in hand back to the broker. Those that were begun get a mark, since the worker does not end because
// of them.
func (s *session) putBack() {
	if !s.conn.nc.IsConnected() || len(s.hand) == 0 {
		return
	}
	for h := range s.hand {
		if h.number > 0 && s.Job.Name != "" {
			_, _ = s.conn.PublishAsync(s.Job.subject("back", h.id, strconv.Itoa(h.number)), nil)
		}
	}
	select {
	case <-s.conn.PublishAsyncComplete():
	case <-time.After(farewell):
	}
	for h := range s.hand {
		_ = h.Nak()
	}
	_ = s.conn.nc.FlushTimeout(farewell)
}
