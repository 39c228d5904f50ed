package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"fetchbench/fetch"
)

// A Worker fetches shards of a [Job] that some [Strategy] is run for.
type Worker struct {
	// Job has the Name and the Address that the Strategy's has.
	Job Job
	// Fetcher fetches what is in the shards, which overlap: the worker does not wait for the last
	// requests of one before it begins those of the next. Its policies hold over all that the
	// worker has. Ordered means nothing here.
	Fetcher fetch.Fetcher
	// Bodies is where the worker puts bodies larger than BodiesOver: only their name goes with the
	// results. A body that cannot be put there, in three attempts, makes its result an error of
	// kind fetch.ErrLost. nil means that all bodies go with the results, and a whole shard of them
	// has to fit into the worker's memory.
	Bodies Store
	// BodiesOver is the size in bytes of the largest body that goes with the results. 0 means 64 KiB.
	BodiesOver int
	// Wait is how long the worker waits for the broker and the job to be there. 0 means a minute, and a negative
	// value without end.
	Wait time.Duration
}

// Work fetches shards of a job until the job has ended, when it returns nil, or ctx is done, when it returns
// ctx's cause. Shards that it has not finished then go back to the broker, and to other workers, at once. Any number of workers, on any
// machines, may work for a job, and each may come and go at any time. If there is no such job within
// Wait, because it has not begun or has ended, the error is an [ErrNoJob]. If the broker is away for five minutes, or takes nothing
// for as long, the error says so. A job whose publisher has gone without ending it has its workers wait.
func Work(ctx context.Context, w Worker) error {
	w.Fetcher.Stream(ctx, make(chan fetch.Request)) // which panics if a field cannot be used
	wait := w.Wait
	if wait == 0 {
		wait = time.Minute
	}
	begun := time.Now()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		c, err := connect(ctx, w.Job, embeddedBroker(w.Job))
		if err == nil {
			defer c.close()
			w.Wait = wait
			return newWorker(w, c).run(ctx)
		}
		if w.Job.check() != nil || errors.Is(err, nats.ErrAuthorization) || wait >= 0 && time.Since(begun) > wait {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// A worker goes through sessions: from the moment at which there is something to do, to an abort.
type worker struct {
	Worker
	conn  *conn
	limit int // requests under way
}

func newWorker(w Worker, c *conn) *worker {
	if w.Fetcher.Strategy == nil {
		w.Fetcher.Strategy = fetch.Pool{}
	}
	if w.BodiesOver < 0 {
		panic(fmt.Sprintf("jetstream: Worker.BodiesOver is %d", w.BodiesOver))
	}
	if w.BodiesOver == 0 {
		w.BodiesOver = 64 << 10
	}
	return &worker{Worker: w, conn: c, limit: w.Fetcher.Strategy.Limits().InFlight}
}

var (
	errEnded   = errors.New("the job has ended")
	errAborted = errors.New("nobody waits for the results")
	errGone    = errors.New("the broker has no such job now")
)

func (w *worker) run(ctx context.Context) error {
	ended, abort := make(chan struct{}), make(chan struct{}, 1)
	end := sync.OnceFunc(func() { close(ended) })
	sub, err := w.conn.nc.Subscribe(w.Job.subject("control"), func(m *nats.Msg) {
		if string(m.Data) == toldEnd {
			end()
			return
		}
		select {
		case abort <- struct{}{}:
		default: // it has not come to the one before
		}
	})
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	defer sub.Unsubscribe()

	joined, since := false, time.Now() // the time since which there is no job
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		consumers, err := w.consumers(ctx)
		if len(consumers) > 0 {
			joined = true
			err = w.session(ctx, consumers, ended, abort)
			since, pause = time.Now(), 10*time.Millisecond
		} else if w.Wait >= 0 && time.Since(since) > w.Wait && ctx.Err() == nil {
			if joined && errors.Is(err, js.ErrStreamNotFound) {
				return nil // it ended, and that was not heard
			}
			if why := explained(err); why != err {
				return fmt.Errorf("jetstream: no job %v: %w", w.Job, why)
			}
			return fmt.Errorf("jetstream: %w: %v, for %v", ErrNoJob, w.Job, w.Wait)
		}
		if lost := w.conn.lost(); lost != nil && ctx.Err() == nil {
			return fmt.Errorf("jetstream: %w", lost)
		}
		if broken, ok := errors.AsType[permanentError](err); ok {
			return broken.error
		}
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-abort:
		case <-time.After(pause):
		}
	}
}

// consumers returns the consumers of the job's work stream, one for each partition.
func (w *worker) consumers(ctx context.Context) (all []js.Consumer, err error) {
	ctx, cancel := w.conn.ask(ctx)
	defer cancel()
	stream, err := w.conn.Stream(ctx, w.Job.workStream())
	if err != nil {
		return nil, err
	}
	partitions, err := strconv.Atoi(stream.CachedInfo().Config.Metadata[partitionsKey])
	if err != nil || partitions > maxPartitions {
		return nil, errors.New("a stream of another's has the name of the job's")
	}
	for p := range max(1, partitions) {
		consumer, err := stream.Consumer(ctx, consumerName(p))
		if err != nil {
			return nil, err
		}
		all = append(all, consumer)
	}
	return all, nil
}
