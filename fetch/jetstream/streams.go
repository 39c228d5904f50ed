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
)

// The streams of a job, and what they have:
//
//	fetch-NAME-work     work.PARTITION.ID   a shard that is not acknowledged; once at a time
//	fetch-NAME-results  result.ID           its summary: the first
//	                    chunk.ID.NONCE.I    a part of one that is too large for a message
//	                    begun.ID.N          a mark: the shard has been begun for the Nth time, by the worker whose nonce it has
//	                    back.ID.N           a mark: that worker has put it back, and did not end because of it
//	                    claim               the nonce of the publisher
//	                    total, expected     the number of shards, and about what it will be, for Status
//
// The broker takes each subject once. Marks are there before what they tell of: they outlive a broker that is killed, which
// its own count of deliveries need not.
const (
	partitionsKey = "fetch-partitions" // of the work stream's metadata: their number
	sizeKey       = "fetch-shard-size" // and Strategy.ShardSize
	ackWaitKey    = "fetch-ack-wait"   // of a consumer's: Strategy.AckWait
)

// signOfLife is how long the broker waits for one of the worker that has a shard, if AckWait is not shorter. It comes
// four times as often, as long as the shard gets on. Tests change it.
var signOfLife = 15 * time.Second

// ensure makes what of the streams and consumers is not there.
func (r *run) ensure(ctx context.Context) error {
	if err := r.ensureStreams(ctx); err != nil {
		return err
	}
	return r.ensureConsumers(ctx)
}

func (r *run) ensureStreams(ctx context.Context) error {
	j, partitions, size := r.s.Job, strconv.Itoa(r.s.Partitions), strconv.Itoa(r.s.ShardSize)
	work, err := r.stream(ctx, js.StreamConfig{
		Name:                 j.workStream(),
		Subjects:             []string{j.subject("work", "*", "*")},
		Retention:            js.WorkQueuePolicy,
		Storage:              js.FileStorage,
		Replicas:             max(1, j.Replicas),
		Discard:              js.DiscardNew,
		MaxBytes:             r.s.MaxBytes,
		MaxMsgsPerSubject:    1, // a shard that waits in it cannot be published again
		DiscardNewPerSubject: true,
		Metadata:             map[string]string{partitionsKey: partitions, sizeKey: size},
	})
	if err != nil {
		return err
	}
	if was := work.Config.Metadata[partitionsKey]; was != partitions {
		return permanentError{fmt.Errorf("it was begun with %s Partitions, not %s", was, partitions)}
	}
	if was := work.Config.Metadata[sizeKey]; was != size && j.Manifest == nil {
		return permanentError{fmt.Errorf("it was begun with a ShardSize of %s, not %s; only with a Manifest may that change", was, size)}
	}
	results, err := r.stream(ctx, js.StreamConfig{
		Name: j.resultStream(),
		Subjects: []string{
			j.subject("result", "*"), j.subject("chunk", "*", "*", "*"),
			j.subject("begun", "*", "*"), j.subject("back", "*", "*"), j.subject("claim"), j.subject("total"), j.subject("expected"),
		},
		Storage:              js.FileStorage,
		Replicas:             max(1, j.Replicas),
		Discard:              js.DiscardNew,
		MaxMsgsPerSubject:    1, // the first summary of a shard is the one
		DiscardNewPerSubject: true,
		AllowDirect:          true,
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := [2]time.Time{work.Created, results.Created}
	if now != r.created && !r.created[0].IsZero() {
		r.lost = true
	}
	r.created = now
	r.resumed = r.resumed || results.State.LastSeq > 0 || work.State.LastSeq > 0
	return nil
}

// stream returns what is known of a stream, which is made if it is not there.
func (r *run) stream(ctx context.Context, cfg js.StreamConfig) (*js.StreamInfo, error) {
	stream, err := r.conn.CreateStream(ctx, cfg)
	if errors.Is(err, js.ErrStreamNameAlreadyInUse) { // with another limit, say
		stream, err = r.conn.Stream(ctx, cfg.Name)
	}
	if err != nil {
		return nil, err
	}
	return stream.CachedInfo(), nil
}

func consumerName(partition int) string { return "p" + strconv.Itoa(partition) }

// forPartitions calls do for each partition, some at once, and returns one of the errors.
func (r *run) forPartitions(do func(p int) error) error {
	var running sync.WaitGroup
	slots := make(chan struct{}, 16)
	errs := make(chan error, 1)
	for p := range max(1, r.s.Partitions) {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if err := do(p); err != nil {
				select {
				case errs <- err:
				default:
				}
			}
		})
	}
	running.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func (r *run) ensureConsumers(ctx context.Context) error {
	wait := min(r.s.AckWait, signOfLife)
	backoff := []time.Duration{wait, wait, 2 * wait, 4 * wait}
	pending := max(256, 2*r.s.Ahead)
	if r.s.Partitions > 0 {
		pending = 1
	}
	return r.forPartitions(func(p int) error {
		_, err := r.conn.CreateOrUpdateConsumer(ctx, r.s.Job.workStream(), js.ConsumerConfig{
			Durable:       consumerName(p),
			FilterSubject: r.s.Job.subject("work", strconv.Itoa(p), "*"),
			AckPolicy:     js.AckExplicitPolicy,
			AckWait:       backoff[0],
			BackOff:       backoff,
			MaxDeliver:    -1, // workers know when it is enough: see start. A message that is not delivered any more is lost
			MaxAckPending: pending,
			MaxWaiting:    1 << 14,
			Metadata:      map[string]string{ackWaitKey: r.s.AckWait.String()},
		})
		return err
	})
}

// reset deletes the consumers that an earlier run has left behind, if no worker can have a shard any more: what they
// had is there for others at once. It also ends the pause; see leave.
func (r *run) reset(ctx context.Context) error {
	return r.forPartitions(func(p int) error {
		consumer, err := r.conn.Consumer(ctx, r.s.Job.workStream(), consumerName(p))
		if err == nil && (r.broker != nil || consumer.CachedInfo().Paused) {
			err = r.conn.DeleteConsumer(ctx, r.s.Job.workStream(), consumerName(p))
		}
		if errors.Is(err, js.ErrConsumerNotFound) {
			return nil
		}
		return err
	})
}

// claim makes this the one process that runs the job, or finds that it still is. The claim of one that is gone is removed by
// its sequence number, so that of several who do that only one succeeds.
func (r *run) claim(ctx context.Context) error {
	if r.claimed == nil {
		sub, err := r.conn.nc.Subscribe(r.s.Job.subject("publisher", r.nonce), func(m *nats.Msg) { m.Respond(nil) })
		if err != nil {
			return err
		}
		r.claimed = sub
	}
	_, err := r.conn.Publish(ctx, r.s.Job.subject("claim"), []byte(r.nonce))
	if !isTaken(err) {
		return err
	}
	results, err := r.conn.Stream(ctx, r.s.Job.resultStream())
	if err != nil {
		return err
	}
	m, err := results.GetLastMsgForSubject(ctx, r.s.Job.subject("claim"))
	if err != nil {
		return err
	}
	if string(m.Data) == r.nonce {
		return nil
	}
	if !isName(string(m.Data)) {
		return permanentError{errEncoding}
	}
	asked, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err = r.conn.nc.RequestWithContext(asked, r.s.Job.subject("publisher", string(m.Data)), nil)
	if err == nil {
		return permanentError{errClaimed}
	}
	if asked.Err() != nil && ctx.Err() == nil {
		return errors.New("another process is running it, which does not answer: it is stopped, or gone and the broker has not noticed yet")
	}
	if errors.Is(err, nats.ErrNoResponders) {
		if err = results.DeleteMsg(ctx, m.Sequence); err == nil || errors.Is(err, js.ErrMsgNotFound) {
			err = errors.New("the claim of one that is gone") // again
		}
	}
	return err
}

var errClaimed = errors.New("another process is running it: a job may have only one publisher")
