// Package queue has the queues of the loop and its policies. Their zero values are empty and ready.
package queue

import "time"

// A FIFO is a queue, first in, first out.
type FIFO[T any] struct {
	items []T
	head  int
}

// Len returns how many items there are.
func (q *FIFO[T]) Len() int { return len(q.items) - q.head }

// Push appends v.
func (q *FIFO[T]) Push(v T) {
	if q.head > 32 && 2*q.head >= len(q.items) { // half of it is free
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, v)
}

// Peek returns the first item, or T's zero value if there is none.
func (q *FIFO[T]) Peek() (v T) {
	if q.Len() > 0 {
		v = q.items[q.head]
	}
	return v
}

// Pop takes the first item, which must exist.
func (q *FIFO[T]) Pop() T {
	v := q.items[q.head]
	clear(q.items[q.head : q.head+1])
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return v
}

// Timers is a heap of items, each with a time: what is to be done, and when.
type Timers[T any] struct{ heap []timer[T] }

type timer[T any] struct {
	at time.Duration
	v  T
}

// Push adds v.
func (t *Timers[T]) Push(at time.Duration, v T) {
	t.heap = append(t.heap, timer[T]{at, v})
	for i := len(t.heap) - 1; i > 0 && t.heap[i].at < t.heap[(i-1)/2].at; i = (i - 1) / 2 {
		t.heap[i], t.heap[(i-1)/2] = t.heap[(i-1)/2], t.heap[i]
	}
}

// Next returns the earliest time, if there is one.
func (t *Timers[T]) Next() (at time.Duration, ok bool) {
	if len(t.heap) == 0 {
		return 0, false
	}
	return t.heap[0].at, true
}

// Pop takes the item with the earliest time, if that has come.
func (t *Timers[T]) Pop(now time.Duration) (v T, ok bool) {
	if at, ok := t.Next(); !ok || at > now {
		return v, false
	}
	v = t.heap[0].v
	last := len(t.heap) - 1
	t.heap[0], t.heap[last] = t.heap[last], timer[T]{}
	t.heap = t.heap[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child+1 < last && t.heap[child+1].at < t.heap[child].at {
			child++
		}
		if child >= last || t.heap[i].at <= t.heap[child].at {
			return v, true
		}
		t.heap[i], t.heap[child] = t.heap[child], t.heap[i]
		i = child
	}
}

// Len returns how many items there are.
func (t *Timers[T]) Len() int { return len(t.heap) }
