package rules

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Distrust is how long a [Suspects] remembers.
const Distrust = time.Minute

// maxSuspects is how many a Suspects remembers at the most.
const maxSuspects = 10_000

// A Suspects remembers for a while who was caught at something. Its zero value has none. Its methods
// may be called concurrently.
type Suspects[K comparable] struct {
	any   atomic.Bool // has ever had one
	mu    sync.Mutex
	until map[K]time.Time
}

// Add adds k.
func (s *Suspects[K]) Add(k K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if len(s.until) >= maxSuspects {
		maps.DeleteFunc(s.until, func(_ K, until time.Time) bool {
			return now.After(until) || len(s.until) >= maxSuspects
		})
	}
	if s.until == nil {
		s.until = make(map[K]time.Time)
	}
	s.until[k] = now.Add(Distrust)
	s.any.Store(true)
}

// Has reports whether k was added of late.
func (s *Suspects[K]) Has(k K) bool { return s.any.Load() && s.has(k) }

func (s *Suspects[K]) has(k K) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.until[k])
}
