package rules

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Distrust is how long an origin that has sent an unsolicited response is thought capable of it. It
// gets a new connection for each request meanwhile.
const Distrust = time.Minute

// maxSuspects is how many origins are distrusted at the most.
const maxSuspects = 10_000

// Suspects are the origins that were caught of late. Its zero value has none.
type Suspects struct {
	any   atomic.Bool // has ever had one
	mu    sync.Mutex
	until map[Origin]time.Time
}

// Add adds o.
func (s *Suspects) Add(o Origin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if len(s.until) >= maxSuspects {
		maps.DeleteFunc(s.until, func(_ Origin, until time.Time) bool {
			return now.After(until) || len(s.until) >= maxSuspects
		})
	}
	if s.until == nil {
		s.until = make(map[Origin]time.Time)
	}
	s.until[o] = now.Add(Distrust)
	s.any.Store(true)
}

// Has reports whether o is distrusted.
func (s *Suspects) Has(o Origin) bool {
	if !s.any.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.until[o])
}

// Len returns how many origins are known.
func (s *Suspects) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.until)
}
