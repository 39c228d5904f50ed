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
