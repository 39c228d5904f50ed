package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	js "github.com/nats-io/nats.go/jetstream"
)

// Progress is how far a job is, in shards. A shard that was cut in two counts as done, and its halves as to be done.
type Progress struct {
	// Shards is how many there are in all: about as many as [Strategy.Total] says, until the input has been read to its end. 0
	// means that this is not known.
	Shards int
	// Done is how many have been answered.
	Done int
	// InFlight is how many the workers have now, and Pending how many more wait at the broker. Shards that have not been
	// taken from the input are in neither: see [Strategy.Ahead].
	InFlight, Pending int
	// Redelivered is how many of those in flight are not with their first worker.
	Redelivered int
	// PerSecond is how many were answered in a second lately, counting back from now to the last but ninety-nine.
	PerSecond float64
	// Left is how long the rest will take at that rate. It is 0 if Shards is, or nothing is left, or nothing was done lately.
	Left time.Duration
}

// String returns one line.
func (p Progress) String() string {
	of := ""
	if p.Shards > 0 {
		of = fmt.Sprintf(" of %d", p.Shards)
	}
	line := fmt.Sprintf("%d%s shards done, %d in flight, %d pending, %d redelivered, %.1f/s", p.Done, of, p.InFlight, p.Pending, p.Redelivered, p.PerSecond)
	if p.Left > 0 {
		line += fmt.Sprintf(", %v left", p.Left.Round(time.Second))
	}
	return line
}

// Status asks the broker how far job is, from any process that can reach it; an embedded broker can be reached only from the
// process that runs the job, and the job needs a Name. If there is no such job the error is an [ErrNoJob].
// Each call makes a connection and asks a few questions: once a second is often enough.
func Status(ctx context.Context, job Job) (Progress, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	if job == (Job{}) {
		return Progress{}, fmt.Errorf("jetstream: %w to ask for: a job needs a Name, or an Address", ErrNoJob)
	}
	c, err := connect(ctx, job, embeddedBroker(job))
	if err != nil {
		return Progress{}, err
	}
	defer c.close()
	p, err := c.progress(ctx)
	if lost := c.lost(); err != nil && lost != nil {
		err = lost
	}
	err = explained(err)
	if errors.Is(err, js.ErrStreamNotFound) || errors.Is(err, js.ErrConsumerNotFound) {
		err = ErrNoJob
	}
	if err != nil {
		return Progress{}, fmt.Errorf("jetstream: the status of job %s at %s: %w", job.name(), job.where(), err)
	}
	return p, nil
}

func (c *conn) progress(ctx context.Context) (p Progress, err error) {
	work, err := c.Stream(ctx, c.job.workStream())
	if err != nil {
		return p, err
	}
	defer func() {
		if isGone(err) { // since then
			err = js.ErrStreamNotFound
		}
	}()
	for consumers := work.ListConsumers(ctx); ; {
		info, ok := <-consumers.Info()
		if !ok {
			if err := consumers.Err(); err != nil {
				return p, err
			}
			break
		}
		p.InFlight += info.NumAckPending
		p.Redelivered += info.NumRedelivered
	}
	p.Pending = max(0, int(work.CachedInfo().State.Msgs)-p.InFlight)

	results, err := c.Stream(ctx, c.job.resultStream())
	if err != nil {
		return p, err
	}
	if p.Done, err = c.answered(ctx, results, 1); err != nil {
		return p, err
	}
	if err := c.rate(ctx, results, &p); err != nil {
		return p, err
	}
	todo := p.InFlight + p.Pending
	m, err := results.GetLastMsgForSubject(ctx, c.job.subject("total"))
	if err == nil {
		// Now all there is to do is at the broker; some of what is done may be in the manifest alone.
		p.Shards, _ = strconv.Atoi(string(m.Data))
		p.Done = max(0, p.Shards-todo)
	} else if errors.Is(err, js.ErrMsgNotFound) {
		m, err = results.GetLastMsgForSubject(ctx, c.job.subject("expected"))
		if err == nil {
			p.Shards, _ = strconv.Atoi(string(m.Data))
			todo = max(todo, p.Shards-p.Done)
		}
	}
	if err != nil && !errors.Is(err, js.ErrMsgNotFound) {
		return p, err
	}
	if p.PerSecond > 0 && p.Shards > 0 {
		p.Left = time.Duration(float64(todo) / p.PerSecond * float64(time.Second))
	}
	return p, nil
}

// answered returns how many summaries results has from the sequence number on.
func (c *conn) answered(ctx context.Context, results js.Stream, from uint64) (int, error) {
	consumer, err := results.CreateConsumer(ctx, js.ConsumerConfig{
		FilterSubject:     c.job.subject("result", "*"),
		DeliverPolicy:     js.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		AckPolicy:         js.AckNonePolicy,
		InactiveThreshold: patience,
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err != nil {
		return 0, err
	}
	info := consumer.CachedInfo()
	return int(info.NumPending), results.DeleteConsumer(ctx, info.Name)
}

// rate sets p.PerSecond.
func (c *conn) rate(ctx context.Context, results js.Stream, p *Progress) error {
	const lately = 100
	last := results.CachedInfo().State.LastSeq
	first, err := results.GetMsg(ctx, max(1, last-min(last, lately-1)), js.WithGetMsgSubject(c.job.subject("result", "*")))
	if errors.Is(err, js.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := c.answered(ctx, results, first.Sequence)
	if elapsed := time.Since(first.Time); elapsed > 0 {
		p.PerSecond = float64(n) / elapsed.Seconds()
	}
	return err
}
