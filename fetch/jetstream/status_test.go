package jetstream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/jetstream"
)

// Status tells how far a job is, to its own process and to others.
func TestStatus(t *testing.T) {
	for name, job := range map[string]jetstream.Job{
		"embedded": {Name: "watched"},
		"address":  {Name: "watched", Address: listening(t)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := jetstream.Status(t.Context(), job)
			require.ErrorIs(t, err, jetstream.ErrNoJob)

			gate := make(chan struct{})
			doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
				if r.Index >= 40 {
					select {
					case <-gate:
					case <-ctx.Done():
					}
				}
				return fetch.Result{Status: 200, Attempts: 1}
			})
			s := jetstream.Strategy{Job: job, Workers: 1, ShardSize: 10, Each: fetch.Pool{Workers: 10}}
			f := fetch.Fetcher{Strategy: s, Doer: doer}
			got := 0
			for r := range f.Fetch(t.Context(), numbered("http://h.test", 100)) {
				require.NoError(t, r.Err)
				if got++; got != 40 {
					continue
				}
				// 40 are done, and the others wait for the gate.
				var p jetstream.Progress
				require.Eventually(t, func() bool {
					p, err = jetstream.Status(t.Context(), job)
					require.NoError(t, err)
					return p.Shards == 10 && p.Done == 4
				}, 5*time.Second, 10*time.Millisecond, "%v", &p)
				assert.Equal(t, 6, p.InFlight+p.Pending)
				assert.Positive(t, p.InFlight)
				assert.Positive(t, p.Pending)
				assert.Zero(t, p.Redelivered)
				assert.Positive(t, p.PerSecond)
				assert.InDelta(t, 6/p.PerSecond, p.Left.Seconds(), 0.01)
				assert.Regexp(t, `^4 of 10 shards done, \d in flight, \d pending, 0 redelivered, [0-9.]+/s`, p.String())
				close(gate)
			}
			assert.Equal(t, 100, got)
			_, err = jetstream.Status(t.Context(), job)
			require.ErrorIs(t, err, jetstream.ErrNoJob)
		})
	}
	_, err := jetstream.Status(t.Context(), jetstream.Job{})
	require.ErrorContains(t, err, "a job needs a Name, or an Address")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("why"))
	_, err = jetstream.Status(ctx, jetstream.Job{Name: "n", Address: "nats://127.0.0.1:1"})
	require.ErrorContains(t, err, "why")
}

// What the caller says of the length of the input is there before that has been read.
func TestStatusOfALongInput(t *testing.T) {
	job := jetstream.Job{Name: "long"}
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 10, Ahead: 2, Total: 995}, Doer: fine}
	got := 0
	for r := range f.Fetch(t.Context(), numbered("http://h.test", 995)) {
		require.NoError(t, r.Err)
		if got++; got == 500 {
			p, err := jetstream.Status(t.Context(), job)
			require.NoError(t, err)
			assert.Equal(t, 100, p.Shards)
			assert.InDelta(t, 50, p.Done, 2)
			assert.Positive(t, p.Left)
		}
	}
	assert.Equal(t, 995, got)
}
