package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"fetchbench/fetch"
)

// A session is the time in which a worker has one run of its strategy. Shards go through it:
//
//	broker --pull--> shards --start, feed--> reqs --loop--> settle --> broker
//
// and are in hand from the pull until they are settled. The end of ctx ends all that waits.
type session struct {
	*worker
	ctx    context.Context
	end    context.CancelCauseFunc
	shards chan *held
	reqs   chan fetch.Request // the Fetcher's input
	slots  chan struct{}      // for those who put bodies and settle
	beat   time.Duration      // how often the broker gets a sign of life
	wait   time.Duration      // for an answer; then it gets no more of them

	mu    sync.Mutex
	hand  map[*held]struct{}
	moved bool      // a shard has been begun, or a request answered, since the last beat
	last  time.Time // when that was so
	now   time.Time // of the last look
}

// A held shard is one that the worker has.
type held struct {
	*nats.Msg
	id         string
	flags      byte
	deliveries int
	nonce      string // in the mark that it has been begun
	number     int    // of that mark, from 1; 0: it has not been begun
	reqs       []*fetch.Request
	todo       []task        // of these, for the Fetcher
	fed        chan struct{} // closed when it is its turn
	alone      bool          // it has to be the only one that is begun

	// The session's mu guards these.
	answers []answer
	missing int
	begun   bool
	moved   bool
	last    time.Time
}

// A task is one request of a shard. It is the Tag of the one that the Fetcher has for it.
type task struct {
	*held
	at int
}

const (
	mostPulled = 256 // shards at once
	settlers   = 16
	// After so many workers have ended, or been silent, with a shard, it is cut in two; one that was cut before needs one alone;
	// and a single request fails.
	mostFailures       = 2
	mostSingleFailures = 3
)

// session works until ctx is done, or it is told to stop, and returns why.
func (w *worker) session(ctx context.Context, consumers []js.Consumer, ended, abort <-chan struct{}) error {
	config := consumers[0].CachedInfo().Config
	wait, _ := time.ParseDuration(config.Metadata[ackWaitKey])
	s := &session{
		worker: w,
		shards: make(chan *held, mostPulled*len(consumers)), // each pulls again when all it has pulled is taken
		reqs:   make(chan fetch.Request),
		slots:  make(chan struct{}, settlers),
		beat:   max(10*time.Millisecond, config.AckWait/4),
		wait:   max(wait, config.AckWait),
		hand:   make(map[*held]struct{}),
		last:   time.Now(),
	}
	// Without ctx's deadline, by which a Doer fails a moment before ctx is done, or long before: that would be a result.
	s.ctx, s.end = context.WithCancelCause(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })()
	var running sync.WaitGroup
	for _, consumer := range consumers {
		running.Go(func() { s.pull(consumer) })
	}
	running.Go(s.feedShards)
	running.Go(s.beats)
	running.Go(func() {
		select {
		case <-ended:
			s.end(errEnded)
		case <-abort:
			s.end(errAborted)
		case <-s.ctx.Done():
		}
	})
	var settling sync.WaitGroup
	s.loop(&settling)
	settling.Wait()
	running.Wait()
	s.putBack()
	return context.Cause(s.ctx)
}

// pull takes shards from consumer, as many as the Fetcher needs soon.
func (s *session) pull(consumer js.Consumer) {
	size := s.limit // of a shard; one at first
	for wait := 10 * time.Millisecond; s.ctx.Err() == nil; {
		var last *held
		info := consumer.CachedInfo()
		err := s.conn.pull(s.ctx, info.Stream, info.Name, max(1, min(mostPulled, s.limit/size)), func(m *nats.Msg) {
			if h := s.take(m); h != nil {
				last, size = h, max(1, len(h.reqs))
			}
		})
		if last != nil {
			wait = 10 * time.Millisecond
			select {
			case <-last.fed:
			case <-s.ctx.Done():
			}
		}
		if err == nil || s.ctx.Err() != nil {
			continue
		}
		ctx, cancel := s.conn.ask(s.ctx)
		_, err = consumer.Info(ctx)
		cancel()
		if errors.Is(err, js.ErrConsumerNotFound) || errors.Is(err, js.ErrStreamNotFound) {
			s.end(errGone)
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(wait):
			wait = min(2*wait, time.Second)
		}
	}
}

// take makes m a held shard, or returns nil if that is in hand. There is room for it in shards.
func (s *session) take(m *nats.Msg) *held {
	h := &held{Msg: m, id: lastToken(m.Subject), deliveries: 1, nonce: rand.Text(), fed: make(chan struct{})}
	if meta, err := m.Metadata(); err == nil {
		h.deliveries = int(min(meta.NumDelivered, 1<<20))
	}
	if s.has(h.id) { // this process was stopped for a while, or the broker has forgotten who has it
		_ = m.InProgress()
		return nil
	}
	var err error
	if h.flags, h.reqs, err = decodeShard(m.Data); err != nil {
		h.reqs = nil // start tells
	}
	h.answers, h.missing = make([]answer, len(h.reqs)), len(h.reqs)
	s.mu.Lock()
	s.hand[h] = struct{}{}
	s.mu.Unlock()
	s.shards <- h
	return h
}

// has reports whether a shard with this id is in hand, and gets on.
func (s *session) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(time.Now())
	for h := range s.hand {
		if h.id == id && s.isAlive(h) {
			return true
		}
	}
	return false
}

func lastToken(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

// feedShards hands the shards to the Fetcher: one after the other or, if they are small, several at
// once.
func (s *session) feedShards() {
	for s.ctx.Err() == nil {
		var several []*held
		select {
		case h := <-s.shards:
			several = append(several, h)
			for n := len(h.reqs); n < s.limit && len(s.shards) > 0; n += len(h.reqs) { // there is no other receiver
				h = <-s.shards
				several = append(several, h)
			}
		case <-s.ctx.Done():
			return
		}
		var starting sync.WaitGroup
		for _, h := range several {
			close(h.fed)
			starting.Go(func() { s.start(h) })
		}
		starting.Wait()
		for _, h := range several {
			s.feed(h)
		}
		for _, h := range several {
			if h.alone && s.idle() {
				s.start(h)
				s.feed(h)
				s.idle()
			}
		}
	}
}

// feed hands what is to be done of h to the Fetcher.
func (s *session) feed(h *held) {
	for i, t := range h.todo {
		r := *h.reqs[t.at]
		r.Tag = &h.todo[i]
		select {
		case s.reqs <- r:
		case <-s.ctx.Done():
			return
		}
		if i == 0 {
			s.mu.Lock()
			h.begun, h.moved, s.moved = true, true, true
			s.mu.Unlock()
		}
	}
}

// idle waits until no shard in hand is begun, those aside that do not get on. It reports whether the session goes on.
func (s *session) idle() bool {
	for s.isBusy() {
		select {
		case <-s.ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return s.ctx.Err() == nil
}

func (s *session) isBusy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(time.Now())
	for h := range s.hand {
		if h.number > 0 && s.isAlive(h) {
			return s.ctx.Err() == nil
		}
	}
	return false
}

// loop fetches until the session ends.
func (s *session) loop(settling *sync.WaitGroup) {
	f := s.Fetcher
	f.Strategy = each{Strategy: f.Strategy, s: s}
	f.Ordered = false
	for res := range f.Stream(s.ctx, s.reqs) {
		if s.ctx.Err() != nil {
			continue // what it says may be so because of that
		}
		t := res.Request.Tag.(*task)
		res.Attempts += t.number - 1
		a := answer{Result: res}
		large := s.Bodies != nil && len(a.Body) > s.BodiesOver
		if !large && !s.answer(t.held, t.at, a) {
			continue
		}
		select { // while there is no slot, the Fetcher waits
		case s.slots <- struct{}{}:
			settling.Go(func() {
				defer func() { <-s.slots }()
				if large {
					s.putBody(t.held, t.at, &a)
					if !s.answer(t.held, t.at, a) {
						return
					}
				}
				s.settle(t.held)
			})
		case <-s.ctx.Done():
		}
	}
}

// An each is the worker's strategy and, once started, its executor. A request has the Index there
// that it has in the publisher's input; and if the executor cannot go on the session ends, so that
// others get what it has.
type each struct {
	fetch.Strategy
	fetch.Executor
	s *session
}

func (e each) Start(ctx context.Context, d fetch.Doer) fetch.Executor {
	e.Executor = e.Strategy.Start(ctx, d)
	return e
}

func (e each) Submit(r *fetch.Request) {
	t := r.Tag.(*task)
	r.Index = t.reqs[t.at].Index
	e.Executor.Submit(r)
}

func (e each) Err() error {
	if x, ok := e.Executor.(interface{ Err() error }); ok && x.Err() != nil {
		e.s.end(permanentError{fmt.Errorf("jetstream: the strategy %v cannot go on: %w", e.Strategy, x.Err())})
	}
	return nil
}

// answer notes the answer of a request of h, and reports whether it is the last.
func (s *session) answer(h *held, at int, a answer) bool {
	a.Request = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	h.answers[at] = a
	h.missing--
	h.moved, s.moved = true, true
	return h.missing == 0
}

// beats tells the broker, for each shard in hand that gets on, that it does.
func (s *session) beats() {
	ticker := time.NewTicker(s.beat)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case now := <-ticker.C:
			s.mu.Lock()
			s.look(now)
			var alive []*held
			for h := range s.hand {
				if s.isAlive(h) {
					alive = append(alive, h)
				}
			}
			s.mu.Unlock()
			for _, h := range alive {
				_ = h.InProgress() // if it is lost, so is the connection
			}
		}
	}
}

// look notes when something moved: that is cheaper than to ask what time it is for each answer. The session's mu is held.
func (s *session) look(now time.Time) {
	s.now = now
	if s.moved {
		s.moved, s.last = false, now
	}
	for h := range s.hand {
		if h.moved {
			h.moved, h.last = false, now
		}
	}
}

// isAlive reports whether h has been begun, or something of it answered, not long before the last look, or whether it waits for
// others of which that can be said. The session's mu is held.
func (s *session) isAlive(h *held) bool {
	last := h.last
	if !h.begun {
		last = s.last
	}
	return s.now.Sub(last) < s.wait-s.beat
}
