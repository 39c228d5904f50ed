package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"fetchbench/fetch"
)

// A run is one of a [Strategy]. Shards go around in it:
//
//	Submit --queue--> publish --work stream--> workers --result stream--> collect --done--> deliver --results
//
// and are in out from the publish to the collect. Whoever waits for the broker or a Store does so
// until ctx is done, which is at Close at the latest.
type run struct {
	s        Strategy
	doer     fetch.Doer
	caller   context.Context
	ctx      context.Context // of all but the loop
	cancel   context.CancelFunc
	running  sync.WaitGroup
	queue    chan *pending
	done     chan *pending
	total    atomic.Int64  // shards, once the input has ended
	complete atomic.Bool   // the loop has had all results; set before cancel
	failed   chan struct{} // closed when the run has no more use
	once     sync.Once
	failure  error

	broker  *broker
	conn    *conn
	nonce   string             // of this publisher
	claimed *nats.Subscription // by which others know that it is there
	begun   bool               // the job is this run's

	// What collect has accepted and not had the broker delete, in bytes and summaries: see forget.
	forgettable, forgettables int

	results chan fetch.Result
	closed  chan struct{}
	left    atomic.Int64 // requests in shards whose results are not in results yet

	lock    sync.Mutex
	partial []partial // by lane: one for each partition, and as many for retries
	held    int       // requests in there
	next    int       // one more than the largest Index so far
	sent    map[*pending]struct{}
	shards  int  // so many were
	ended   bool // the input
	over    bool // the run has failed, or is canceled

	mu      sync.Mutex
	out     map[string]*pending // by id
	created [2]time.Time        // of the streams
	lost    bool                // one of them, with what was there
	resumed bool                // there may be results of an earlier run
}

// A pending shard is one without all of its results.
type pending struct {
	reqs      []*fetch.Request
	partition int
	number    int    // in its lane
	lane      int    // that number is of this one: see run.partial
	recorded  string // the id of the one that the manifest has of this number; "": none
	strict    bool   // it has to be that one
	astray    bool   // the manifest may have its requests under other numbers
	id        string
	message   []byte

	// The run's mu guards these, until the shard is in done.
	answers []answer // by request
	has     []bool   // those; nil: none, or all
	missing int
}

// mostResults is how many results wait for the loop in this process, beside those of a shard.
const mostResults = 64

func newRun(ctx context.Context, s Strategy, d fetch.Doer) *run {
	lanes := 2 * max(1, s.Partitions)
	r := &run{
		s:       s,
		doer:    d,
		caller:  ctx,
		queue:   make(chan *pending, s.Ahead+1+lanes), // Submit may send two; InputEnded, all
		done:    make(chan *pending, 1),
		failed:  make(chan struct{}),
		results: make(chan fetch.Result, min(mostResults, s.Ahead*s.ShardSize)),
		closed:  make(chan struct{}),
		partial: make([]partial, lanes),
		sent:    make(map[*pending]struct{}),
		out:     make(map[string]*pending),
		nonce:   rand.Text(),
	}
	r.ctx, r.cancel = context.WithCancel(ctx)
	r.running.Go(r.serve)
	r.running.Go(r.deliver)
	return r
}

func (r *run) fail(err error) {
	r.once.Do(func() {
		r.failure = err
		close(r.failed)
	})
}

// err returns why the run has failed, or nil.
func (r *run) err() error {
	select {
	case <-r.failed:
		return r.failure
	default:
		return nil
	}
}

// serve is all of the run but what the loop asks, and deliver.
func (r *run) serve() {
	err := r.begin()
	if err == nil {
		var running sync.WaitGroup
		for range r.s.Workers {
			w := newWorker(Worker{
				Job: r.s.Job, Fetcher: fetch.Fetcher{Strategy: r.s.Each, Doer: r.doer}, Bodies: r.s.Bodies, BodiesOver: r.s.BodiesOver, Wait: -1,
			}, r.conn)
			running.Go(func() {
				err := w.run(r.ctx)
				if err == nil {
					err = errors.New("jetstream: another process has ended the job")
				}
				if r.ctx.Err() == nil {
					r.fail(err)
				}
			})
		}
		running.Go(r.collect)
		r.publish()
		running.Wait()
	}
	if err != nil && r.ctx.Err() == nil {
		r.fail(err)
		<-r.ctx.Done()
	}
	r.end()
}

// begin connects to the broker, and sees to it that there are streams.
func (r *run) begin() (err error) {
	if err := r.s.Job.check(); err != nil {
		return err
	}
	if err := r.checkManifest(); err != nil {
		return fmt.Errorf("jetstream: job %s: the manifest: %w", r.s.Job.name(), err)
	}
	if r.s.Job.Address == "" {
		if r.broker, err = startBroker(r.s.Job); err != nil {
			return err
		}
	}
	if r.conn, err = connect(r.ctx, r.s.Job, r.broker); err != nil {
		return err
	}
	begin := r.ctx
	if r.broker != nil {
		begin = context.WithoutCancel(begin) // a stream that it makes while it is stopped has goroutines that nothing ends
	}
	ctx, cancel := context.WithTimeout(begin, 2*patience+time.Duration(r.s.Partitions)*100*time.Millisecond) // a cluster may be starting, too
	defer cancel()
	var last error
	step := func(try func(context.Context) error) {
		if err == nil {
			err = r.conn.until(ctx, func(ctx context.Context) error {
				err := try(ctx)
				if ctx.Err() == nil {
					last = err
				}
				return err
			})
		}
	}
	withStreams := func(try func(context.Context) error) { // the broker may lose them in between
		step(func(ctx context.Context) error { return r.ensureAfter(ctx, try(ctx), r.ensureStreams) })
	}
	r.begun = r.broker != nil // nobody else's, whatever comes of it
	step(r.ensureStreams)
	if r.broker == nil {
		withStreams(r.claim)
	}
	r.begun = r.begun || err == nil
	withStreams(r.reset)
	withStreams(r.ensureConsumers)
	if err != nil && last != nil && r.ctx.Err() == nil {
		err = last
	}
	if err = explained(err); err != nil {
		return fmt.Errorf("jetstream: job %s at %s: %w", r.s.Job.name(), r.s.Job.where(), err)
	}
	return nil
}

// end tells the workers, takes away what nobody needs any more, and closes the connection.
func (r *run) end() {
	if r.broker != nil {
		r.broker.forget()
	}
	if r.conn != nil {
		if r.begun {
			r.leave()
		}
		r.conn.close()
	}
	if r.broker != nil {
		r.broker.stop()
	}
}

// What the workers are told.
const (
	toldEnd   = "end"   // the job is done
	toldAbort = "abort" // it is not, and nobody waits for it
)

func (r *run) leave() {
	reconnected := r.conn.reconnected()
	if r.complete.Load() && !r.conn.nc.IsConnected() {
		select { // it would be a pity if what nobody needs stayed there, and its workers
		case <-reconnected:
		case <-time.After(patience):
		}
	}
	if !r.conn.nc.IsConnected() {
		return
	}
	wait := farewell
	if r.complete.Load() {
		wait = patience
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if r.isOusted(ctx) {
		return
	}
	if r.complete.Load() || r.s.Job.Name == "" {
		_ = r.conn.delete(ctx) // what stays is a job that may be resumed
	} else {
		_ = r.forPartitions(func(p int) error { // no worker gets another shard
			_, err := r.conn.PauseConsumer(ctx, r.s.Job.workStream(), consumerName(p), time.Now().AddDate(100, 0, 0))
			return err
		})
		_ = r.conn.nc.Publish(r.s.Job.subject("control"), []byte(toldAbort))
	}
	if r.claimed != nil {
		_ = r.claimed.Unsubscribe()
	}
	flush := farewell
	if r.broker != nil {
		flush = patience // for what it is doing yet: a stream that it makes while it is stopped has goroutines that nobody ends
	}
	_ = r.conn.nc.FlushTimeout(flush)
}

// isOusted reports whether the job has become another process's: one that has taken this for gone.
func (r *run) isOusted(ctx context.Context) bool {
	if r.broker != nil {
		return false
	}
	claim, err := r.conn.get(ctx, r.s.Job.subject("claim"))
	return err == nil && string(claim) != r.nonce
}
