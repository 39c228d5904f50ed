package conns

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"
)

// A Pool counts the connections of each [Route], and keeps those that no request is using. Of these
// it closes the least recently used ones if there are too many, and those that have been idle for
// too long. A route is forgotten with its last connection, so a Pool does not grow with the number
// of routes. Its methods may be called concurrently.
type Pool[C io.Closer] struct {
	Connect     func(ctx context.Context, r Route) (C, error)
	MaxPerRoute int           // connections of a route, in use or idle; 0: no limit
	MaxIdle     int           // idle connections in all; negative: no limit
	IdleTimeout time.Duration // not positive: no limit

	mu     sync.Mutex
	routes map[Route]*route[C]
	idle   list[C]
	sweep  *time.Timer // closes connections that have been idle for too long; nil if there are none
}

// A Slot is a connection's place in a [Pool], for as long as the connection is open.
type Slot[C io.Closer] struct {
	Conn       C
	route      *route[C]
	since      time.Time // it has been idle
	prev, next *Slot[C]  // in the list of idle ones
}

// Route returns where the connection leads.
func (s *Slot[C]) Route() Route { return s.route.key }

// A route has the connections of one Route. The Pool's mu guards it.
type route[C io.Closer] struct {
	key     Route
	open    int        // connections, those that are being made included
	idle    []*Slot[C] // the last used is the last
	waiting []chan *Slot[C]
}

// Idle returns the most recently used idle connection for r, or nil. Put or Drop has to follow.
func (p *Pool[C]) Idle(r Route) *Slot[C] {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.routes[r]
	if h == nil || len(h.idle) == 0 {
		return nil
	}
	return p.takeLocked(h, len(h.idle)-1)
}

// Open makes a connection for r, or takes one that has become idle meanwhile, unless fresh is set.
// If r has as many as it may, it waits for one, or for the end of one. Put or Drop has to follow.
func (p *Pool[C]) Open(ctx context.Context, r Route, fresh bool) (*Slot[C], error) {
	p.mu.Lock()
	h := p.routes[r]
	if h == nil {
		h = &route[C]{key: r.Clone()}
		if p.routes == nil {
			p.routes = make(map[Route]*route[C])
		}
		p.routes[h.key] = h
	}
	var old *Slot[C]
	switch {
	case !fresh && len(h.idle) > 0:
		old = p.takeLocked(h, len(h.idle)-1)
		p.mu.Unlock()
	case p.MaxPerRoute <= 0 || h.open < p.MaxPerRoute:
		h.open++
		p.mu.Unlock()
	case len(h.idle) > 0:
		old = p.takeLocked(h, 0)
		p.mu.Unlock()
	default:
		mine := make(chan *Slot[C], 1)
		h.waiting = append(h.waiting, mine)
		p.mu.Unlock()
		var err error
		if old, err = p.await(ctx, h, mine); err != nil {
			return nil, err
		}
	}
	if old != nil && !fresh {
		return old, nil
	}
	if old != nil { // it has to go for the new one
		old.Conn.Close()
	}
	made := false
	defer func() {
		if !made { // it has failed, or a function of the caller's has panicked
			p.release(h)
		}
	}()
	conn, err := p.Connect(ctx, r)
	if err != nil {
		return nil, err
	}
	made = true
	return &Slot[C]{Conn: conn, route: h}, nil
}

// await waits for what mine brings: a connection, or nil for the right to make one.
func (p *Pool[C]) await(ctx context.Context, h *route[C], mine chan *Slot[C]) (*Slot[C], error) {
	select {
	case s := <-mine:
		return s, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(h.waiting, mine)
	if i >= 0 {
		h.waiting = slices.Delete(h.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 { // it has come after all, for another one
		if s := <-mine; s != nil {
			p.Put(s, s.since)
		} else {
			p.release(h)
		}
	}
	return nil, ctx.Err()
}

// Put takes back a connection that is fit for another request, at the time now.
func (p *Pool[C]) Put(s *Slot[C], now time.Time) {
	h := s.route
	s.since = now
	p.mu.Lock()
	if len(h.waiting) > 0 {
		h.waiting[0] <- s
		h.waiting = slices.Delete(h.waiting, 0, 1)
		p.mu.Unlock()
		return
	}
	h.idle = append(h.idle, s)
	p.idle.add(s)
	if p.sweep == nil && p.IdleTimeout > 0 {
		p.sweep = time.AfterFunc(p.IdleTimeout, p.closeExpired)
	}
	var old *Slot[C]
	if p.MaxIdle >= 0 && p.idle.len > p.MaxIdle {
		old = p.evictLocked()
	}
	p.mu.Unlock()
	if old != nil {
		p.Drop(old)
	}
}

// Drop closes a connection that is not fit for another request.
func (p *Pool[C]) Drop(s *Slot[C]) {
	s.Conn.Close()
	p.release(s.route)
}

// CloseIdle closes the idle connections, and reports whether there were any.
func (p *Pool[C]) CloseIdle() bool { return p.closeIdle(time.Time{}) }

// release counts a connection out, or lets a request that waits for one make its own.
func (p *Pool[C]) release(h *route[C]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(h.waiting) > 0 {
		h.waiting[0] <- nil
		h.waiting = slices.Delete(h.waiting, 0, 1)
		return
	}
	if h.open--; h.open == 0 { // h is forgotten with its last
		delete(p.routes, h.key)
	}
}

// takeLocked takes the i-th of h's idle connections.
func (p *Pool[C]) takeLocked(h *route[C], i int) *Slot[C] {
	s := h.idle[i]
	h.idle = slices.Delete(h.idle, i, i+1)
	p.idle.remove(s)
	return s
}

// evictLocked takes the connection that has been idle for the longest time. Drop has to follow: the
// connection counts until it is closed.
func (p *Pool[C]) evictLocked() *Slot[C] {
	h := p.idle.oldest.route
	return p.takeLocked(h, slices.Index(h.idle, p.idle.oldest))
}

func (p *Pool[C]) closeExpired() { p.closeIdle(time.Now().Add(-p.IdleTimeout)) }

// closeIdle closes the connections that have been idle since limit or before, all if that is zero.
func (p *Pool[C]) closeIdle(limit time.Time) bool {
	var expired []*Slot[C]
	p.mu.Lock()
	for s := p.idle.oldest; s != nil && (limit.IsZero() || !s.since.After(limit)); s = p.idle.oldest {
		expired = append(expired, p.evictLocked())
	}
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	if s := p.idle.oldest; s != nil && p.IdleTimeout > 0 {
		p.sweep = time.AfterFunc(max(time.Until(s.since)+p.IdleTimeout, p.IdleTimeout/8), p.closeExpired)
	}
	p.mu.Unlock()
	for _, s := range expired {
		p.Drop(s)
	}
	return len(expired) > 0
}

// A list is the idle connections of a Pool, in the order in which they were put back.
type list[C io.Closer] struct {
	oldest, newest *Slot[C]
	len            int
}

func (l *list[C]) add(s *Slot[C]) {
	s.prev, s.next = l.newest, nil
	if l.newest != nil {
		l.newest.next = s
	} else {
		l.oldest = s
	}
	l.newest = s
	l.len++
}

func (l *list[C]) remove(s *Slot[C]) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.oldest = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		l.newest = s.prev
	}
	s.prev, s.next = nil, nil
	l.len--
}
