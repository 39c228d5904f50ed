package fetch

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// A large answer takes its time: while bytes of it come, its child does not hang, though
// it can neither answer nor give a sign of life.
func TestLargeAnswersAreNoHang(t *testing.T) {
	life, kill := context.WithCancelCause(t.Context())
	c := &child{ready: true, kill: kill, out: map[uint64]*task{1: {}}}
	s := &supervisor{shard: Shard{Hang: time.Second}, tick: time.Second / silentTicks, served: true, children: []*child{c}}
	for range 10 * silentTicks {
		c.heard.Add(64 << 10)
		s.lookAfter()
	}
	assert.NoError(t, life.Err())
	for range 10 * silentTicks { // beats alone, within what claims to be a large answer
		c.heard.Add(2 * frameHead)
		s.lookAfter()
	}
	assert.ErrorContains(t, context.Cause(life), "no sign of life for 1s")
}

// A child that is not ready in time is killed, sooner if the program may lack ShardMain.
func TestHandshakePatience(t *testing.T) {
	for served, patience := range map[bool]time.Duration{false: handshake, true: 10 * handshake} {
		life, kill := context.WithCancelCause(t.Context())
		c := &child{kill: kill}
		s := &supervisor{shard: Shard{Hang: time.Minute}, tick: time.Second, served: served, children: []*child{c}}
		for waited := time.Duration(0); waited < patience; waited += s.tick {
			s.lookAfter()
			assert.NoError(t, life.Err(), "%v, served: %t", waited, served)
		}
		s.lookAfter()
		assert.ErrorContains(t, context.Cause(life), "call fetch.ShardMain")
	}
}

// A process that fails to start is tried again, less and less often, and at no cost while
// another one serves.
func TestReplace(t *testing.T) {
	s := &supervisor{shard: Shard{Processes: 1, Restarts: 1}, events: make(chan shardEvent, 20), children: []*child{{ready: true}}}
	end := func() { // before it starts
		c := s.children[len(s.children)-1]
		c.hangUp()
		c.kill(nil)
		<-s.events
	}
	failed := &child{}
	var delays []time.Duration
	for range 6 {
		assert.True(t, s.replace(failed))
		failed = s.children[len(s.children)-1]
		delays = append(delays, failed.delay.Round(100*time.Millisecond))
		end()
	}
	ms := time.Millisecond
	assert.Equal(t, []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1000 * ms, 1000 * ms}, delays)
	assert.Zero(t, s.restarts)

	s.children = nil
	assert.True(t, s.replace(&child{ready: true}))
	assert.Zero(t, s.children[0].delay)
	end()
	s.children = nil
	assert.False(t, s.replace(&child{ready: true}), "over the limit")
	assert.False(t, s.replace(&child{}), "over the limit, and none serves")
}
