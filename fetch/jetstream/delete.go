package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	js "github.com/nats-io/nats.go/jetstream"
)

// Delete has the broker at job's Address forget the job, with what is queued and what has been fetched, and its workers end. A job that
// has had all its results needs no Delete. Its manifest and bodies stay; whoever runs it makes it anew. If there is no such job the error
// is an [ErrNoJob].
func Delete(ctx context.Context, job Job) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	if job.Address == "" {
		return errors.New("jetstream: there is no Address to delete a job at: that of an embedded broker is in its Dir")
	}
	c, err := connect(ctx, job, nil)
	if err != nil {
		return err
	}
	defer c.close()
	err = c.delete(ctx)
	if errors.Is(err, js.ErrStreamNotFound) {
		err = ErrNoJob
	}
	if lost := c.lost(); err != nil && lost != nil {
		err = lost
	}
	if err = explained(err); err != nil {
		return fmt.Errorf("jetstream: job %v: %w", job, err)
	}
	return nil
}

// delete deletes the streams, and tells the workers.
func (c *conn) delete(ctx context.Context) error {
	work := c.DeleteStream(ctx, c.job.workStream())
	results := c.DeleteStream(ctx, c.job.resultStream())
	_ = c.nc.Publish(c.job.subject("control"), []byte(toldEnd))
	_ = c.nc.FlushTimeout(farewell)
	if work == nil && errors.Is(results, js.ErrStreamNotFound) { // it was in the midst of its beginning, or its end
		return nil
	}
	return cmp.Or(results, work)
}
