package process

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

type (
	testGroup = Group[string, string]
	testChild = child[string, string]
)

// A large result takes its time. While bytes of it come its child does not hang, though it can
// neither finish another task nor give a sign of life.
func TestLargeResultsAreNotAHang(t *testing.T) {
	life, kill := context.WithCancelCause(t.Context())
	c := &testChild{ready: true, kill: kill, out: map[uint64]*task[string]{1: {}}}
	g := &testGroup{Config: Config{Hang: time.Second}, tick: time.Second / silentTicks, served: true, children: []*testChild{c}}
	for range 10 * silentTicks {
		c.heard.Add(64 << 10)
		g.lookAfter()
	}
	assert.NoError(t, life.Err())
	for range 10 * silentTicks { // beats alone, within what claims to be a large result
		c.heard.Add(2 * frameHead)
		g.lookAfter()
	}
	assert.ErrorContains(t, context.Cause(life), "no sign of life for 1s")
}

// A child that is not ready in time is killed, sooner if the program may not call Connect.
func TestHandshakePatience(t *testing.T) {
	for served, patience := range map[bool]time.Duration{false: handshake, true: 10 * handshake} {
		life, kill := context.WithCancelCause(t.Context())
		c := &testChild{kill: kill}
		g := &testGroup{Config: Config{Hang: time.Minute, Main: "test.Main()"}, tick: time.Second, served: served, children: []*testChild{c}}
		for waited := time.Duration(0); waited < patience; waited += g.tick {
			g.lookAfter()
			assert.NoError(t, life.Err(), "%v, served: %t", waited, served)
		}
		g.lookAfter()
		assert.ErrorContains(t, context.Cause(life), "the program has to call test.Main() first thing in main")
	}
}

// deaf is a handler that is told only of children.
type deaf struct{ Handler[string, string] }

func (deaf) Started(Info)           {}
func (deaf) Ended(Info, int, error) {}

// A process that fails to start is tried again, less and less often, and at no cost while another
// one serves.
func TestReplace(t *testing.T) {
	g := &testGroup{Config: Config{Processes: 1, Restarts: 1}, ctx: t.Context(), h: deaf{}, children: []*testChild{{ready: true}}}
	end := func() { // before it starts
		g.children[len(g.children)-1].kill(nil)
		g.running.Wait()
	}
	failed := &testChild{}
	var delays []time.Duration
	for range 6 {
		assert.True(t, g.replaceLocked(failed))
		failed = g.children[len(g.children)-1]
		delays = append(delays, failed.delay.Round(100*time.Millisecond))
		end()
	}
	ms := time.Millisecond
	assert.Equal(t, []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1000 * ms, 1000 * ms}, delays)
	assert.Zero(t, g.restarts)

	g.children = nil
	assert.True(t, g.replaceLocked(&testChild{ready: true}))
	assert.Zero(t, g.children[0].delay)
	end()
	g.children = nil
	assert.False(t, g.replaceLocked(&testChild{ready: true}), "over the limit")
	assert.False(t, g.replaceLocked(&testChild{}), "over the limit, and no other is ready")
}
