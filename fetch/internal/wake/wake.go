// Package wake is for inputs of a strategy whose requests come from elsewhere, at any time.
package wake

import (
	"context"
	"iter"
)

type key struct{}

// With returns a ctx in which wake ends the pauses of an input early: see [From]. nil takes it out.
func With(ctx context.Context, wake <-chan struct{}) context.Context {
	return context.WithValue(ctx, key{}, wake)
}

// From returns the channel that ends a pause early, or nil. An input whose requests
// come from elsewhere, and so at any time, puts it into the context: it pauses while it has
// none, so that results are handed out, and the next request must not have to wait for a result.
func From(ctx context.Context) <-chan struct{} {
	wake, _ := ctx.Value(key{}).(<-chan struct{})
	return wake
}

// A Feed is the input of one run of a strategy: requests R for each T that is added. While none is added it
// pauses, if there are requests without a result, since whoever adds may be waiting for results before
// it adds more. Add and Close are for that goroutine, the rest for the one of the run's loop.
type Feed[T, R any] struct {
	in   chan T
	wake chan struct{}
	owed int // requests without a result
	got  int // results
}

// NewFeed returns a Feed with room for size of what has been added and not been taken.
func NewFeed[T, R any](size int) *Feed[T, R] {
	return &Feed[T, R]{in: make(chan T, size), wake: make(chan struct{}, 1)}
}

// Context returns the context for the run.
func (f *Feed[T, R]) Context(ctx context.Context) context.Context { return With(ctx, f.wake) }

// Add hands t to the strategy. It blocks while there is no room, until ctx is done: then it reports false.
func (f *Feed[T, R]) Add(ctx context.Context, t T) bool {
	select {
	case f.in <- t:
	case <-ctx.Done():
		return false
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return true
}

// Close ends the input. There must be no Add after it.
func (f *Feed[T, R]) Close() { close(f.in) }

// Received has to be called for each result that the loop receives for a request of the Feed.
func (f *Feed[T, R]) Received() {
	f.owed--
	f.got++
}

// All returns the input: what take returns for each that was added, and R's zero value for a pause.
func (f *Feed[T, R]) All(take func(T) []R) iter.Seq[R] {
	var pause R
	return func(yield func(R) bool) {
		inVain := 0
		for {
			if len(f.in) == 0 && f.owed > 0 && inVain < 2 {
				select {
				case <-f.wake: // for requests that have been taken already, perhaps
				default:
				}
				if len(f.in) > 0 {
					continue
				}
				before := f.got
				if !yield(pause) {
					return
				}
				// It was for nothing if wake told of a request that had been taken
				// just before, but twice in a row only if the strategy does not pause.
				if inVain++; f.got > before {
					inVain = 0
				}
				continue
			}
			t, ok := <-f.in
			if !ok {
				return
			}
			inVain = 0
			for _, r := range take(t) {
				f.owed++
				if !yield(r) {
					return
				}
			}
		}
	}
}
