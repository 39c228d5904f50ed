package fetch

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// The loop, driven through random schedules by a fake executor in virtual time: delays, failures,
// panics, Retry-After, dead hosts, cancels, breaks. Each schedule follows from its seed alone, and
// is held to the contract in Fetcher's comment. To see one again: -run 'Simulation/seed=1234'.
func TestSimulation(t *testing.T) {
	schedules := 100_000
	if raceDetectorOn || testing.Short() {
		schedules = 5_000
	}
	const chunk = 2_500
	for first := 0; first < schedules; first += chunk {
		t.Run(fmt.Sprintf("seeds=%d", first), func(t *testing.T) {
			t.Parallel()
			for seed := first; seed < first+chunk; seed++ {
				if !simulated(t, seed) {
					return
				}
			}
		})
	}
}

// raceDetectorOn is set where this is a build with one.
var raceDetectorOn bool

// A simulation is one schedule. Its executor performs a request by waiting for as long as the
// request's fate says.
type simulation struct {
	t      *testing.T
	seed   int
	rng    *rand.Rand
	f      Fetcher
	limits Limits
	n      int
	hosts  int
	holds  bool // the executor starts nothing before Flush, as Pipeline does
	dead   map[int][2]time.Duration
	begun  time.Time

	mu        sync.Mutex
	ctx       context.Context
	results   chan Result
	waiting   []*Request
	underWay  map[*Request]*time.Timer
	perHost   map[string]int
	started   map[string]time.Time // the last start at a host
	parked    map[string]time.Time
	submitted map[int]int // attempts, by Index
	total     int
	closed    int

	faults sync.Mutex
	fault  string // the first
}

func simulated(t *testing.T, seed int) (ok bool) {
	s := &simulation{t: t, seed: seed, rng: rand.New(rand.NewPCG(uint64(seed), 17))}
	synctest.Test(t, func(t *testing.T) { s.run(t) })
	return !t.Failed()
}

func (s *simulation) oneOf(choices ...int) int { return choices[s.rng.IntN(len(choices))] }

func (s *simulation) failf(format string, args ...any) {
	s.faults.Lock()
	defer s.faults.Unlock()
	if s.fault == "" {
		s.fault = fmt.Sprintf(format, args...)
	}
}

// Limits, Start and String make s a Strategy, the other methods an Executor.
func (s *simulation) Limits() Limits { return s.limits }
func (s *simulation) String() string { return "simulation" }

func (s *simulation) Start(ctx context.Context, _ Doer) Executor {
	s.ctx = ctx
	s.results = make(chan Result, s.limits.Ahead)
	s.underWay = make(map[*Request]*time.Timer)
	s.perHost, s.started, s.parked = make(map[string]int), make(map[string]time.Time), make(map[string]time.Time)
	s.submitted = make(map[int]int)
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for r, timer := range s.underWay {
			if timer.Stop() {
				s.answerLocked(r, Result{Err: contextError(ctx, r)})
			}
		}
		for _, r := range s.waiting {
			s.sendLocked(r, Result{Err: contextError(ctx, r)})
		}
		s.waiting = nil
	})
	return s
}

func (s *simulation) Results() <-chan Result { return s.results }

func (s *simulation) Submit(r *Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total++
	s.submitted[r.Index]++
	most := s.limits.Ahead
	if s.f.PerHost != nil || s.f.Rate != nil {
		most = s.limits.InFlight
	}
	if out := len(s.waiting) + len(s.underWay) + len(s.results) + 1; out > most {
		s.failf("%d requests out, at most %d", out, most)
	}
	if s.ctx.Err() != nil {
		s.sendLocked(r, Result{Err: contextError(s.ctx, r)})
		return
	}
	if p := s.f.PerHost; p != nil {
		now := time.Now()
		if last, ok := s.started[r.URL]; ok && now.Sub(last) < p.Spacing {
			s.failf("request %d started %v after the one before it at its host", r.Index, now.Sub(last))
		}
		if now.Before(s.parked[r.URL]) {
			s.failf("request %d started while its host was parked", r.Index)
		}
		s.started[r.URL] = now
	}
	s.waiting = append(s.waiting, r)
	if !s.holds {
		s.startLocked()
	}
}

func (s *simulation) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.startLocked()
}

func (s *simulation) startLocked() {
	for len(s.waiting) > 0 && len(s.underWay) < s.limits.InFlight {
		r := s.waiting[0]
		s.waiting = s.waiting[1:]
		s.perHost[r.URL]++
		if p := s.f.PerHost; p != nil && s.perHost[r.URL] > p.defaults(1).Limit {
			s.failf("%d requests under way at %s", s.perHost[r.URL], r.URL)
		}
		delay, res := s.fate(r)
		s.underWay[r] = time.AfterFunc(delay, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.answerLocked(r, res)
			s.startLocked()
		})
	}
}

// answerLocked ends a request that was under way.
func (s *simulation) answerLocked(r *Request, res Result) {
	delete(s.underWay, r)
	s.perHost[r.URL]--
	s.sendLocked(r, res)
}

func (s *simulation) sendLocked(r *Request, res Result) {
	res.Request = r
	if after, ok := retryAfter(&res, time.Now()); ok && s.f.PerHost != nil {
		if end := time.Now().Add(min(after, s.f.PerHost.defaults(1).MaxPark)); end.After(s.parked[r.URL]) {
			s.parked[r.URL] = end
		}
	}
	select {
	case s.results <- res:
	default:
		s.failf("no room for a result")
	}
}

func (s *simulation) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	for r, timer := range s.underWay {
		timer.Stop()
		delete(s.underWay, r)
	}
}

// fate decides what becomes of an attempt: the same for the same seed, whoever comes first.
func (s *simulation) fate(r *Request) (time.Duration, Result) {
	rng := rand.New(rand.NewPCG(uint64(s.seed), uint64(r.Index)<<16|uint64(s.submitted[r.Index])))
	delay := time.Duration(rng.IntN(50_000)) * time.Microsecond
	var host int
	fmt.Sscanf(r.URL, "http://%d.test/", &host)
	if phase, ok := s.dead[host]; ok {
		if now := time.Since(s.begun); now >= phase[0] && now < phase[1] {
			kind := ErrDial
			if host%2 == 1 {
				kind, delay = ErrTimeout, time.Second
			}
			return delay, Result{Err: newError(kind, r, nil), Attempts: 1, Duration: delay}
		}
	}
	header := func(after string) func() http.Header {
		return func() http.Header { return http.Header{"Retry-After": {after}} }
	}
	res := Result{Status: 200, Attempts: 1, Duration: delay}
	switch rng.IntN(12) {
	case 0:
		res.Status = 503
	case 1:
		res.Status = 429
		res.SetHeader(header(fmt.Sprint(rng.IntN(3))))
	case 2:
		res = Result{Err: newError(ErrReset, r, errors.New("reset")), Attempts: 1}
	case 3:
		res = Result{Err: newError(ErrTimeout, r, nil), Attempts: 1}
	case 4:
		res = Result{Err: newPanicError(r, "a bug")}
	case 5:
		res.Status = 404
	}
	return delay, res
}

// setup chooses the schedule.
func (s *simulation) setup() {
	inFlight := 1 + s.rng.IntN(8)
	s.limits = Limits{InFlight: inFlight, Ahead: inFlight * (1 + s.rng.IntN(3))}
	if s.rng.IntN(4) == 0 {
		s.limits.Batch = 1 + s.rng.IntN(20)
		s.limits.InFlight, s.limits.Ahead = min(s.limits.InFlight, s.limits.Batch), min(s.limits.Ahead, s.limits.Batch)
	}
	s.n = s.oneOf(0, 1, 2, 10, 30, 60)
	s.hosts = 1 + s.rng.IntN(6)
	s.holds = s.rng.IntN(3) == 0
	s.dead = make(map[int][2]time.Duration)
	for host := range s.hosts {
		if s.rng.IntN(4) == 0 {
			from := time.Duration(s.rng.IntN(200)) * time.Millisecond
			s.dead[host] = [2]time.Duration{from, from + time.Duration(s.oneOf(1, 100, 3000, 100_000))*time.Millisecond}
		}
	}
	s.f = Fetcher{Strategy: s, Ordered: s.rng.IntN(2) == 0}
	if s.rng.IntN(2) == 0 {
		s.f.Retry = &Retry{Attempts: s.oneOf(0, 1, 2, 5), Budget: float64(s.oneOf(0, 1, 10)), Backoff: time.Duration(s.oneOf(0, 1, 50)) * time.Millisecond}
	}
	if s.rng.IntN(2) == 0 {
		s.f.PerHost = &PerHost{
			Limit:     s.oneOf(0, 1, 2, 3),
			Spacing:   time.Duration(s.oneOf(0, 0, 1, 30)) * time.Millisecond,
			MaxPark:   time.Duration(s.oneOf(0, 100, 1500)) * time.Millisecond,
			Failures:  s.oneOf(0, -1, 1, 2),
			Patience:  time.Duration(s.oneOf(0, -1, 500, 5000)) * time.Millisecond,
			Lookahead: s.oneOf(0, 0, 1, 4, 20),
		}
	}
	if s.rng.IntN(4) == 0 {
		s.f.Rate = rate.NewLimiter(rate.Limit(s.oneOf(20, 100, 1000)), s.oneOf(1, 1, 5))
		if s.rng.IntN(20) == 0 {
			s.f.Rate = rate.NewLimiter(10, 0)
		}
	}
	if s.rng.IntN(4) == 0 {
		s.f.Trace = func(e Event) { _ = e.String() }
	}
}

func (s *simulation) run(t *testing.T) {
	s.setup()
	s.begun = time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	canceled := func() bool { return ctx.Err() != nil }
	breakAt, cancelAt, panicAt, inputPanicAt := -1, -1, -1, -1
	switch s.rng.IntN(9) {
	case 0:
		breakAt = s.rng.IntN(s.n + 1)
	case 1:
		cancelAt = s.rng.IntN(s.n + 1)
	case 2:
		panicAt = s.rng.IntN(s.n + 1)
	case 3:
		inputPanicAt = s.rng.IntN(s.n + 1)
	case 4:
		timer := time.AfterFunc(time.Duration(s.rng.IntN(500))*time.Millisecond, cancel)
		defer timer.Stop()
	case 5:
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, time.Duration(1+s.rng.IntN(500))*time.Millisecond)
		defer end()
	}

	window := s.limits.Ahead
	if s.f.Retry != nil && s.limits.InFlight > 1 {
		window = max(window, 2*s.limits.InFlight)
	}
	if p := s.f.PerHost; p != nil {
		window = max(window, p.defaults(s.limits.InFlight).Lookahead)
	}
	taken, received := 0, 0
	takenThen := -1 // when ctx was done
	request := func(i int) Request {
		if canceled() && takenThen < 0 {
			takenThen = taken
		}
		if b := s.limits.Batch; b > 0 && i%b == 0 && received < i {
			s.failf("request %d taken before the batch before it is done: %d received", i, received)
		}
		taken++
		if taken-received > window {
			s.failf("%d taken and not handed out, at most %d", taken-received, window)
		}
		return Request{Index: -7, Tag: i, URL: fmt.Sprintf("http://%d.test/", i*i%s.hosts)}
	}
	seq := func(yield func(Request) bool) {
		for i := range s.n {
			if i == inputPanicAt {
				panic("the input")
			}
			if s.rng.IntN(20) == 0 {
				time.Sleep(time.Duration(s.rng.IntN(30)) * time.Millisecond)
			}
			if !yield(request(i)) {
				return
			}
		}
	}
	var results iter.Seq[Result]
	var sending sync.WaitGroup
	queue := &Queue{}
	added := 0
	switch mode := s.rng.IntN(3); {
	case mode == 0 && s.limits.Batch == 0 && inputPanicAt < 0: // Stream: what is in its channel is not taken yet
		reqs := make(chan Request)
		streaming, stop := context.WithCancel(ctx)
		defer sending.Wait()
		defer stop()
		window++ // the one in the sender's hand
		sending.Go(func() {
			defer close(reqs)
			for i := range s.n {
				if i%7 == 3 {
					time.Sleep(20 * time.Millisecond)
				}
				select {
				case reqs <- Request{Tag: i, URL: fmt.Sprintf("http://%d.test/", i*i%s.hosts)}:
				case <-streaming.Done():
					return
				}
			}
		})
		results = s.f.Stream(ctx, reqs)
		taken = s.n // not counted
		if s.n > 0 {
			takenThen = s.n
		}
		defer func() { taken = 0 }()
		s.check(t, results, ctx, cancel, breakAt, cancelAt, panicAt, &received, nil, nil)
		return
	case mode == 1 && inputPanicAt < 0:
		results = s.f.FetchQueue(ctx, queue)
		for ; added < min(3, s.n); added++ {
			queue.Add(Request{Tag: added, URL: fmt.Sprintf("http://%d.test/", added*added%s.hosts)})
		}
		more := func() {
			for range 2 {
				if added < s.n {
					queue.Add(Request{Tag: added, URL: fmt.Sprintf("http://%d.test/", added*added%s.hosts)})
					added++
				}
			}
		}
		all := func() int { return added - queue.Len() }
		s.check(t, results, ctx, cancel, breakAt, cancelAt, panicAt, &received, more, all)
		return
	}
	s.check(t, s.f.Fetch(ctx, seq), ctx, cancel, breakAt, cancelAt, panicAt, &received, nil, func() int { return taken })
	if takenThen >= 0 && taken > takenThen+1 {
		t.Fatalf("seed %d: %d requests taken after the end of ctx", s.seed, taken-takenThen)
	}
}

// check ranges over results, and holds them to the contract. taken tells how many requests were
// taken, if that is known.
func (s *simulation) check(t *testing.T, results iter.Seq[Result], ctx context.Context, cancel func(), breakAt, cancelAt, panicAt int, received *int, more func(), taken func() int) {
	seen := make(map[int]bool)
	broken := false
	var ended time.Time
	stop := context.AfterFunc(ctx, func() { s.mu.Lock(); ended = time.Now(); s.mu.Unlock() })
	defer stop()
	func() {
		defer func() {
			if v := recover(); v != nil {
				if v != "the body" && v != "the input" {
					panic(v)
				}
				broken = true
			}
		}()
		for r := range results {
			i := r.Request.Index
			if seen[i] || r.Request.Tag != i {
				s.failf("request %d (Tag %v) has a second result, or another one's Tag", i, r.Request.Tag)
			}
			seen[i] = true
			if s.f.Ordered && i != *received {
				s.failf("request %d handed out as number %d", i, *received)
			}
			if r.Request.state != (requestState{}) {
				s.failf("request %d has a state left", i)
			}
			s.mu.Lock()
			if s.submitted[i] < r.Attempts || s.f.Retry == nil && s.f.PerHost == nil && s.submitted[i] > 1 {
				s.failf("request %d: %d attempts, submitted %d times", i, r.Attempts, s.submitted[i])
			}
			if most := 1; s.f.PerHost == nil {
				if s.f.Retry != nil {
					most = s.f.Retry.defaults().Attempts
				}
				if s.submitted[i] > most {
					s.failf("request %d submitted %d times", i, s.submitted[i])
				}
			}
			s.mu.Unlock()
			if r.Err == nil && r.Status == 0 {
				s.failf("request %d has no outcome", i)
			}
			*received++
			if more != nil {
				more()
			}
			switch *received {
			case breakAt:
				broken = true
			case cancelAt:
				cancel()
			case panicAt:
				panic("the body")
			}
			if broken {
				break
			}
		}
	}()
	if !broken && taken != nil && *received != taken() {
		s.failf("%d taken, %d results", taken(), *received)
	}
	if !broken && ctx.Err() == nil && *received != s.n {
		s.failf("%d results of %d", *received, s.n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ended.IsZero() && time.Since(ended) > 100*time.Millisecond {
		s.failf("the loop ended %v after ctx", time.Since(ended))
	}
	if s.closed > 1 || s.total > 0 && s.closed != 1 {
		s.failf("the executor was closed %d times", s.closed)
	}
	if time.Since(s.begun) > 20*time.Minute {
		s.failf("it took %v", time.Since(s.begun))
	}
	require.Empty(t, s.fault, "seed %d: %+v", s.seed, s.f)
}
