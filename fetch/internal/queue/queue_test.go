package queue_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/queue"
)

// A FIFO does what a slice does, whatever is pushed and popped.
func TestFIFO(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var q queue.FIFO[int]
	var want []int
	for i := range 100_000 {
		switch n := rng.IntN(10); {
		case n < 5 || len(want) == 0:
			q.Push(i)
			want = append(want, i)
		default:
			require.Equal(t, want[0], q.Peek())
			require.Equal(t, want[0], q.Pop())
			want = want[1:]
		}
		require.Equal(t, len(want), q.Len())
	}
	for len(want) > 0 {
		require.Equal(t, want[0], q.Pop())
		want = want[1:]
	}
	assert.Zero(t, q.Peek(), "of an empty one")
}

// A FIFO that stays short takes little memory, however much goes through it.
func TestFIFOIsBounded(t *testing.T) {
	var q queue.FIFO[int]
	for range 50 {
		q.Push(0)
	}
	allocs := testing.AllocsPerRun(10_000, func() {
		q.Push(1)
		q.Pop()
	})
	assert.Zero(t, allocs)
}

// Timers come in the order of their times, and not before them.
func TestTimers(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	var timers queue.Timers[time.Duration]
	var want []time.Duration
	for now := range time.Duration(20_000) {
		if rng.IntN(2) == 0 {
			at := now + time.Duration(rng.IntN(100))
			timers.Push(at, at)
			want = append(want, at)
			slices.Sort(want)
		}
		for v, ok := timers.Pop(now); ok; v, ok = timers.Pop(now) {
			require.Equal(t, want[0], v)
			want = want[1:]
		}
		at, ok := timers.Next()
		require.Equal(t, len(want) > 0, ok)
		require.Equal(t, len(want), timers.Len())
		if ok {
			require.Equal(t, want[0], at)
			require.Greater(t, at, now)
		}
	}
}
