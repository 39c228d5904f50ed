package conns

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/rules"
)

// A fake is a connection that counts its Close.
type fake struct {
	name   string
	world  *fakes
	route  Route
	closed atomic.Int32
	linger time.Duration // of Close
}

func (f *fake) Close() error {
	time.Sleep(f.linger)
	if f.closed.Add(1) == 1 {
		f.world.count(f.route, -1)
	}
	return nil
}

func (f *fake) isOpen() bool { return f.closed.Load() == 0 }

// fakes makes the connections of a Pool, and knows which are open.
type fakes struct {
	mu   sync.Mutex
	all  []*fake
	open map[Route]int
	peak map[Route]int
}

func (w *fakes) count(r Route, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open, w.peak = make(map[Route]int), make(map[Route]int)
	}
	w.open[r] += n
	w.peak[r] = max(w.peak[r], w.open[r])
	if w.open[r] == 0 {
		delete(w.open, r)
	}
}

func (w *fakes) connect(_ context.Context, r Route) (*fake, error) {
	w.count(r, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	f := &fake{name: fmt.Sprint(r.Host, len(w.all)), world: w, route: r}
	w.all = append(w.all, f)
	return f, nil
}

// openOnes returns the names of the connections that are open, in the order they were made in.
func (w *fakes) openOnes() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for _, f := range w.all {
		if f.isOpen() {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, " ")
}

func routeTo(host string) Route { return Route{Origin: rules.Origin{Scheme: "http", Host: host}} }

func newPool() (*Pool[*fake], *fakes) {
	w := &fakes{}
	return &Pool[*fake]{Connect: w.connect, MaxIdle: -1}, w
}

// open opens a connection, which must succeed.
func open(t testing.TB, p *Pool[*fake], host string, fresh bool) *Slot[*fake] {
	t.Helper()
	s, err := p.Open(context.Background(), routeTo(host), fresh)
	require.NoError(t, err)
	require.True(t, s.Conn.isOpen(), "a closed connection")
	require.Equal(t, routeTo(host), s.Route())
	return s
}

// requireEmpty checks that p has forgotten all.
func requireEmpty(t testing.TB, p *Pool[*fake], w *fakes) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Empty(t, p.routes)
	require.Zero(t, p.idle.len)
	require.Nil(t, p.idle.oldest)
	require.Nil(t, p.idle.newest)
	require.Nil(t, p.sweep)
	require.Empty(t, w.openOnes())
	for _, f := range w.all {
		require.EqualValues(t, 1, f.closed.Load(), "calls of Close of %s", f.name)
	}
}

// Beyond MaxIdle the least recently used connections go first, across routes.
func TestPoolMaxIdle(t *testing.T) {
	p, w := newPool()
	p.MaxIdle = 3
	slots := make(map[string]*Slot[*fake])
	for _, host := range []string{"a", "b", "c", "d"} {
		slots[host] = open(t, p, host, false)
	}
	put := func(hosts ...string) {
		for _, h := range hosts {
			p.Put(slots[h], time.Now())
		}
	}
	assert.Equal(t, "a0 b1 c2 d3", w.openOnes(), "in use, there is no limit")
	put("b", "a", "c")
	assert.Equal(t, "a0 b1 c2 d3", w.openOnes())
	put("d")
	assert.Equal(t, "a0 c2 d3", w.openOnes(), "b was put back first")
	assert.Nil(t, p.Idle(routeTo("b")))
	require.Same(t, slots["a"], p.Idle(routeTo("a")))
	put("a") // now it is the last used
	slots["e"] = open(t, p, "e", false)
	put("e")
	assert.Equal(t, "a0 d3 e4", w.openOnes())

	// Two of one route: the one used last is taken first, and the other one closed first.
	first, second := open(t, p, "a", false), open(t, p, "a", false)
	p.Put(first, time.Now())
	p.Put(second, time.Now()) // d goes
	assert.Equal(t, "a0 e4 a5", w.openOnes())
	require.Same(t, second, p.Idle(routeTo("a")))
	p.Put(second, time.Now())
	f := open(t, p, "f", false)
	p.Put(f, time.Now())
	assert.Equal(t, "a0 a5 f6", w.openOnes())
	g := open(t, p, "g", false)
	p.Put(g, time.Now())
	assert.Equal(t, "a5 f6 g7", w.openOnes())
	assert.True(t, p.CloseIdle())
	assert.False(t, p.CloseIdle(), "there are none any more")
	requireEmpty(t, p, w)

	p.MaxIdle = 0 // keeps none
	p.Put(open(t, p, "a", false), time.Now())
	requireEmpty(t, p, w)

	p.MaxIdle = -1 // keeps all
	var many []*Slot[*fake]
	for i := range 1000 {
		many = append(many, open(t, p, fmt.Sprint(i%300), true))
	}
	for _, s := range many {
		p.Put(s, time.Now())
	}
	assert.Equal(t, 1000, p.idle.len)
	assert.True(t, p.CloseIdle())
	requireEmpty(t, p, w)
}

// Open takes an idle connection unless it has to be fresh; Drop closes one.
func TestPoolOpen(t *testing.T) {
	p, w := newPool()
	s := open(t, p, "a", false)
	assert.Nil(t, p.Idle(routeTo("a")), "it is in use")
	p.Put(s, time.Now())
	assert.Nil(t, p.Idle(routeTo("b")))
	require.Same(t, s, open(t, p, "a", false))
	p.Put(s, time.Now())
	fresh := open(t, p, "a", true)
	assert.NotSame(t, s, fresh)
	p.Drop(fresh)
	assert.Equal(t, "a0", w.openOnes())
	require.Same(t, s, p.Idle(routeTo("a")))
	p.Drop(s)
	requireEmpty(t, p, w)
}

// A route has at the most MaxPerRoute connections. What would need more waits, in turn, for one
// that is put back or dropped.
func TestPoolWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, w := newPool()
		p.MaxPerRoute = 2
		a, b := open(t, p, "a", false), open(t, p, "a", false)
		p.Put(open(t, p, "b", false), time.Now()) // other routes are not concerned
		got := make([]chan *Slot[*fake], 4)
		for i := range got {
			got[i] = make(chan *Slot[*fake], 1)
			go func() { got[i] <- open(t, p, "a", i == 3) }()
			synctest.Wait()
			assert.Empty(t, got[i], "no more than two")
		}
		p.Put(a, time.Now())
		require.Same(t, a, <-got[0], "the first that waits gets the connection itself")
		p.Drop(b)
		c := <-got[1]
		assert.Equal(t, "a0 b2 a3", w.openOnes(), "a new one in the place of the dropped one")
		synctest.Wait()
		assert.Empty(t, got[2])
		p.Put(c, time.Now())
		require.Same(t, c, <-got[2])
		p.Put(a, time.Now()) // to the one that wants a fresh one
		d := <-got[3]
		assert.Equal(t, "b2 a3 a4", w.openOnes(), "the connection goes for it")
		p.Put(c, time.Now())
		p.Put(d, time.Now())
		// With idle ones there, a fresh one takes the place of the least recently used.
		e := open(t, p, "a", true)
		assert.Equal(t, "b2 a4 a5", w.openOnes())
		p.Put(e, time.Now())
		assert.Equal(t, 2, w.peak[routeTo("a")])
		p.CloseIdle()
		requireEmpty(t, p, w)
	})
}

// A place is free again if Connect fails or panics, and the next one that waits gets it.
func TestPoolConnectFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, w := newPool()
		p.MaxPerRoute = 1
		own := errors.New("no way")
		proceed := make(chan func())
		connect := p.Connect
		p.Connect = func(ctx context.Context, r Route) (*fake, error) {
			if fail := <-proceed; fail != nil {
				fail()
				return nil, own
			}
			return connect(ctx, r)
		}
		failed := make(chan error, 2)
		go func() {
			_, err := p.Open(t.Context(), routeTo("a"), false)
			failed <- err
		}()
		synctest.Wait()
		go func() {
			defer func() { failed <- fmt.Errorf("%v", recover()) }()
			p.Open(t.Context(), routeTo("a"), false)
		}()
		synctest.Wait()
		got := make(chan *Slot[*fake], 1)
		go func() { got <- open(t, p, "a", false) }()
		synctest.Wait()
		proceed <- func() {}
		assert.Equal(t, own, <-failed)
		proceed <- func() { panic("Connect") }
		assert.EqualError(t, <-failed, "Connect")
		proceed <- nil
		p.Drop(<-got)
		requireEmpty(t, p, w)
	})
}

// One that waits may be canceled at any stage: no connection or place is lost.
func TestPoolCancel(t *testing.T) {
	newFull := func(t *testing.T) (*Pool[*fake], *fakes, *Slot[*fake]) {
		p, w := newPool()
		p.MaxPerRoute = 1
		return p, w, open(t, p, "a", false)
	}
	t.Run("beforehand", func(t *testing.T) {
		p, w, s := newFull(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := p.Open(ctx, routeTo("a"), false)
		assert.Equal(t, context.Canceled, err)
		p.Put(s, time.Now())
		p.Drop(open(t, p, "a", false))
		requireEmpty(t, p, w)
	})
	t.Run("while it waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, w, s := newFull(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begun := time.Now()
			last := make(chan *Slot[*fake], 1)
			go func() {
				time.Sleep(time.Millisecond)
				last <- open(t, p, "a", false) // behind it
			}()
			_, err := p.Open(ctx, routeTo("a"), false)
			assert.Equal(t, context.DeadlineExceeded, err)
			assert.Equal(t, time.Second, time.Since(begun))
			p.Put(s, time.Now())
			require.Same(t, s, <-last, "it passes over the one that has gone")
			p.Drop(s)
			requireEmpty(t, p, w)
		})
	})
	t.Run("while it connects", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, w, s := newFull(t)
			connect := p.Connect
			p.Connect = func(ctx context.Context, _ Route) (*fake, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error)
			go func() {
				_, err := p.Open(ctx, routeTo("a"), false)
				failed <- err
			}()
			synctest.Wait()
			p.Drop(s)
			synctest.Wait()
			cancel()
			assert.Equal(t, context.Canceled, <-failed)
			p.Connect = connect
			p.Drop(open(t, p, "a", false))
			requireEmpty(t, p, w)
		})
	})
	// Just when it is handed a connection, or the right to make one.
	for name, hand := range map[string]func(*Pool[*fake], *Slot[*fake]){
		"with a Put":  func(p *Pool[*fake], s *Slot[*fake]) { p.Put(s, time.Now()) },
		"with a Drop": func(p *Pool[*fake], s *Slot[*fake]) { p.Drop(s) },
	} {
		t.Run(name, func(t *testing.T) {
			outcomes := make(map[bool]int)
			for range 300 {
				p, w, s := newFull(t)
				ctx, cancel := context.WithCancel(context.Background())
				h := p.routes[routeTo("a")]
				mine := make(chan *Slot[*fake], 1)
				h.waiting = append(h.waiting, mine)
				hand(p, s)
				cancel()
				got, err := p.await(ctx, h, mine) // both are ready
				outcomes[err == nil]++
				switch {
				case err != nil:
					assert.Equal(t, context.Canceled, err)
				case got != nil:
					p.Put(got, time.Now())
				default:
					p.release(h)
				}
				p.CloseIdle()
				requireEmpty(t, p, w)
			}
			assert.Len(t, outcomes, 2, "one of the two outcomes did not happen: %v", outcomes)
		})
	}
}

// Many are handed connections and canceled at the same time.
func TestPoolHandOver(t *testing.T) {
	p, w := newPool()
	p.MaxPerRoute = 2
	var running sync.WaitGroup
	var got, canceled atomic.Int64
	for n := range 8 {
		running.Go(func() {
			random := rand.New(rand.NewPCG(uint64(n), 7))
			for range 300 {
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan struct{})
				go func() {
					defer close(done)
					for range random.IntN(50) {
						runtime.Gosched()
					}
					cancel()
				}()
				s, err := p.Open(ctx, routeTo("a"), n == 0)
				<-done
				switch {
				case err != nil:
					canceled.Add(1)
				case random.IntN(3) == 0:
					got.Add(1)
					p.Drop(s)
				default:
					got.Add(1)
					p.Put(s, time.Now())
				}
			}
		})
	}
	running.Wait()
	assert.EqualValues(t, 8*300, got.Load()+canceled.Load())
	assert.Positive(t, got.Load())
	assert.LessOrEqual(t, w.peak[routeTo("a")], 2)
	p.CloseIdle()
	requireEmpty(t, p, w)
}

// Connections are closed when they have been idle for IdleTimeout, or an eighth more.
func TestPoolIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, w := newPool()
		p.IdleTimeout = 8 * time.Second
		begun := time.Now()
		at := func(s float64) {
			time.Sleep(time.Until(begun.Add(time.Duration(s * float64(time.Second)))))
			synctest.Wait()
		}
		a, b, c := open(t, p, "a", false), open(t, p, "b", false), open(t, p, "b", false)
		p.Put(a, time.Now())
		at(3)
		p.Put(b, time.Now())
		p.Put(c, time.Now())
		at(5)
		require.Same(t, c, p.Idle(routeTo("b"))) // used again
		at(7.9)
		assert.Equal(t, "a0 b1 b2", w.openOnes())
		at(8)
		assert.Equal(t, "b1 b2", w.openOnes())
		at(10)
		p.Put(c, time.Now())
		at(10.9)
		assert.Equal(t, "b1 b2", w.openOnes())
		at(12)
		assert.Equal(t, "b2", w.openOnes())
		at(17.9)
		assert.Equal(t, "b2", w.openOnes())
		at(19)
		requireEmpty(t, p, w) // nor is there a timer

		p.Put(open(t, p, "a", false), time.Now())
		at(20)
		p.CloseIdle()
		requireEmpty(t, p, w)
		p.Put(open(t, p, "a", false), time.Now())
		at(27.5) // the timer of before the CloseIdle would have fired
		assert.Equal(t, "a4", w.openOnes())
		at(29)
		requireEmpty(t, p, w)

		p.IdleTimeout = -1
		p.Put(open(t, p, "a", false), time.Now())
		at(1e6)
		assert.Equal(t, "a5", w.openOnes())
		p.CloseIdle()
		requireEmpty(t, p, w)
	})
}

// A crawl sees millions of hosts: each is forgotten with its last connection.
func TestPoolForgets(t *testing.T) {
	p, w := newPool()
	p.MaxIdle, p.MaxPerRoute = 100, 2
	refused := errors.New("refused")
	connect := p.Connect
	p.Connect = func(ctx context.Context, r Route) (*fake, error) {
		if strings.HasSuffix(r.Host, "7") {
			return nil, refused
		}
		return connect(ctx, r)
	}
	for i := range 100_000 {
		s, err := p.Open(t.Context(), routeTo(fmt.Sprint(i)), false)
		switch {
		case i%10 == 7:
			require.Equal(t, refused, err)
		case i%10 == 3:
			p.Drop(s)
		default:
			p.Put(s, time.Now())
		}
		require.LessOrEqual(t, len(p.routes), 100)
		w.all = w.all[max(0, len(w.all)-200):]
	}
	assert.Len(t, p.routes, 100)
	p.CloseIdle()
	requireEmpty(t, p, w)
}

// What a Pool keeps of a route is not the URL that it came from, which may be long.
func TestPoolKeepsNoURL(t *testing.T) {
	p, _ := newPool()
	long := "http://h.test/" + strings.Repeat("x", 1<<20)
	s, err := p.Open(t.Context(), Route{Origin: rules.OriginOf(long)}, false)
	require.NoError(t, err)
	kept := s.Route()
	assert.Equal(t, "http://h.test", kept.Origin.String())
	assert.NotSame(t, unsafe.StringData(long), unsafe.StringData(kept.Scheme))
	assert.NotSame(t, unsafe.StringData(long[len("http://"):]), unsafe.StringData(kept.Host))
	p.Drop(s)
}

// checkLocked checks what has to hold whenever p is not locked.
func checkLocked(p *Pool[*fake], inUse map[*Slot[*fake]]bool) error {
	idle := 0
	listed := make(map[*Slot[*fake]]bool)
	for s := p.idle.oldest; s != nil; s = s.next {
		if listed[s] {
			return errors.New("a connection is in the list twice")
		}
		listed[s] = true
		if s.next == nil && p.idle.newest != s || s.next != nil && s.next.prev != s {
			return errors.New("the list is broken")
		}
	}
	for r, h := range p.routes {
		switch {
		case h.key != r:
			return errors.New("a route has another key")
		case h.open <= 0:
			return errors.New("a route without connections is remembered")
		case p.MaxPerRoute > 0 && h.open > p.MaxPerRoute:
			return fmt.Errorf("%d connections of a route", h.open)
		case len(h.idle) > h.open:
			return errors.New("more idle than open connections")
		case len(h.waiting) > 0 && (len(h.idle) > 0 || h.open < p.MaxPerRoute):
			return errors.New("one waits without need")
		}
		idle += len(h.idle)
		for _, s := range h.idle {
			switch {
			case !listed[s]:
				return errors.New("an idle connection is not in the list")
			case s.route != h:
				return errors.New("a connection of another route")
			case inUse[s]:
				return errors.New("a connection is idle and in use")
			case !s.Conn.isOpen():
				return errors.New("an idle connection is closed")
			}
		}
	}
	switch {
	case idle != p.idle.len || idle != len(listed):
		return fmt.Errorf("%d idle connections, %d in the list, whose length is %d", idle, len(listed), p.idle.len)
	case p.MaxIdle >= 0 && idle > p.MaxIdle:
		return fmt.Errorf("%d idle connections", idle)
	case idle > 0 && p.IdleTimeout > 0 && p.sweep == nil:
		return errors.New("idle connections without a timer")
	}
	return nil
}

// An idle connection that is closed, for whatever reason, counts until it is: a route has no more
// than MaxPerRoute at any moment.
func TestPoolClosesFirst(t *testing.T) {
	for name, end := range map[string]func(p *Pool[*fake]){
		"CloseIdle":   func(p *Pool[*fake]) { p.CloseIdle() },
		"MaxIdle":     func(p *Pool[*fake]) { p.Put(open(t, p, "b", false), time.Now()) },
		"IdleTimeout": func(*Pool[*fake]) { time.Sleep(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, w := newPool()
				p.MaxPerRoute, p.MaxIdle, p.IdleTimeout = 1, 1, time.Minute
				s := open(t, p, "a", false)
				s.Conn.linger = time.Second
				p.Put(s, time.Now())
				ended := make(chan struct{})
				go func() { defer close(ended); end(p) }()
				if name == "IdleTimeout" {
					time.Sleep(time.Minute)
				}
				synctest.Wait() // it is being closed
				begun := time.Now()
				s = open(t, p, "a", false)
				assert.Equal(t, time.Second, time.Since(begun))
				assert.Equal(t, 1, w.peak[routeTo("a")], "open connections")
				<-ended
				p.Drop(s)
				p.CloseIdle()
				requireEmpty(t, p, w)
			})
		})
	}
}

// Random users of a Pool, with errors, cancellation, and CloseIdle in between: what has to hold
// does at every moment.
func TestPoolSimulation(t *testing.T) {
	seeds := 60
	if testing.Short() {
		seeds = 15
	}
	for seed := range seeds {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { simulatePool(t, uint64(seed)) }) }) {
			return
		}
	}
}

func simulatePool(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 11))
	p, w := newPool()
	p.MaxPerRoute = random.IntN(4) // 0: no limit
	p.MaxIdle = random.IntN(8) - 1
	p.IdleTimeout = time.Duration(random.IntN(40)-5) * time.Millisecond
	var mu sync.Mutex
	inUse := make(map[*Slot[*fake]]bool)
	refused := errors.New("refused")
	connects := rand.New(rand.NewPCG(seed, 12))
	connect := p.Connect
	p.Connect = func(ctx context.Context, r Route) (*fake, error) {
		mu.Lock()
		pause, fails := time.Duration(connects.IntN(5))*time.Millisecond, connects.IntN(10) == 0
		mu.Unlock()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if fails {
			return nil, refused
		}
		return connect(ctx, r)
	}
	check := func() {
		mu.Lock()
		defer mu.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		if err := checkLocked(p, inUse); err != nil {
			t.Error(err)
		}
	}
	var users sync.WaitGroup
	for n := range 2 + random.IntN(12) {
		users.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(100+n)))
			for range 100 {
				r := routeTo(fmt.Sprint("r", random.IntN(4)))
				fresh := random.IntN(6) == 0
				var s *Slot[*fake]
				if !fresh {
					s = p.Idle(r)
				}
				if s == nil {
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+random.IntN(20))*time.Millisecond)
					var err error
					s, err = p.Open(ctx, r, fresh)
					if cancel(); err != nil {
						if s != nil || !errors.Is(err, refused) && !errors.Is(err, context.DeadlineExceeded) {
							t.Error(s, err)
						}
						check()
						continue
					}
				}
				mu.Lock()
				if inUse[s] || !s.Conn.isOpen() || s.Route() != r {
					t.Error("a connection in use by another, closed, or of another route")
				}
				inUse[s] = true
				mu.Unlock()
				check()
				time.Sleep(time.Duration(random.IntN(6)) * time.Millisecond)
				mu.Lock()
				delete(inUse, s)
				mu.Unlock()
				if random.IntN(4) == 0 {
					p.Drop(s)
				} else {
					p.Put(s, time.Now())
				}
				check()
				if random.IntN(30) == 0 {
					p.CloseIdle()
					check()
				}
				if random.IntN(3) == 0 {
					time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
				}
			}
		})
	}
	users.Wait()
	p.CloseIdle()
	synctest.Wait() // a timer may be closing others
	if p.MaxPerRoute > 0 {
		for r, peak := range w.peak {
			assert.LessOrEqual(t, peak, p.MaxPerRoute, "open connections of %s", r.Host)
		}
	}
	requireEmpty(t, p, w)
	assert.True(t, slices.ContainsFunc(w.all, func(f *fake) bool { return f.route == routeTo("r0") }))
}
