package rules

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Distrust is how long an origin that has sent what nobody asked for is thought capable of it. It
// gets a new connection for each request meanwhile.
const Distrust = time.Minute

// maxSuspects is how many origins are distrusted at the most.
const maxSuspects = 10_000

// Suspects are the origins that were caught of late. Its zero value has none.
type Suspects[O comparable] struct {
	any   atomic.Bool // has ever had one
	mu    sync.Mutex
	until map[O]time.Time
}

// Add adds o, and returns until when it is distrusted.
func (s *Suspects[O]) Add(o O) (until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if len(s.until) >= maxSuspects {
		maps.DeleteFunc(s.until, func(_ O, until time.Time) bool {
			return now.After(until) || len(s.until) >= maxSuspects
		})
	}
	if s.until == nil {
		s.until = make(map[O]time.Time)
	}
	until = now.Add(Distrust)
	s.until[o] = until
	s.any.Store(true)
	return until
}

// Has reports whether o is distrusted.
func (s *Suspects[O]) Has(o O) bool {
	return s.any.Load() && time.Now().Before(s.Until(o))
}

// Until returns until when o is distrusted; the zero time if it is not known.
func (s *Suspects[O]) Until(o O) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.until[o]
}

// Len returns how many origins are known.
func (s *Suspects[O]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.until)
}
