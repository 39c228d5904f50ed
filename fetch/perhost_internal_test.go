package fetch

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/rules"
)

// A fakeRun drives the state of a PerHost alone, with a clock of its own.
type fakeRun struct {
	t *testing.T
	*hosts
	now  time.Duration
	told []Event
}

func newFakeRun(t *testing.T, p PerHost) *fakeRun {
	f := &fakeRun{t: t, now: time.Second}
	f.hosts = newHosts(&p, Limits{InFlight: 64, Ahead: 128}, func(e Event) { f.told = append(f.told, e) })
	return f
}

// request adds a request for host.
func (f *fakeRun) request(host string) *Request {
	r := &Request{URL: "http://" + host + ".test/"}
	f.add(r, f.now)
	return r
}

// start starts the next request, nil if none may start.
func (f *fakeRun) start() *Request {
	f.advance(f.now, false)
	r := f.peek(f.now)
	if r != nil {
		f.begin(r, f.now)
	}
	return r
}

// mustStart starts the next request, which has to be r.
func (f *fakeRun) mustStart(r *Request) {
	f.t.Helper()
	require.Same(f.t, r, f.start())
}

// end ends r, and reports whether it waits again.
func (f *fakeRun) end(r *Request, res Result) bool {
	res.Request = r
	return f.done(r, &res, time.Time{}, f.now, true)
}

// failed returns the errors of the requests that fail without having been sent.
func (f *fakeRun) failed() map[*Request]error {
	f.advance(f.now, false)
	all := make(map[*Request]error)
	for r, err := f.fail(); r != nil; r, err = f.fail() {
		all[r] = err
	}
	return all
}

// state returns what is known of a host.
func (f *fakeRun) state(name string) *host { return f.known[rules.HostOf("http://"+name+".test/")] }

// bringDown has host fail three times.
func (f *fakeRun) bringDown(host string) {
	f.t.Helper()
	for range 3 {
		r := f.request(host)
		f.mustStart(r)
		require.False(f.t, f.end(r, timedOut))
	}
	require.NotZero(f.t, f.state(host).since)
}

var (
	answered = Result{Status: 200}
	refused  = Result{Err: &Error{Kind: ErrDial}}
	timedOut = Result{Err: &Error{Kind: ErrTimeout}}
)

// One response to any request that came after a failed one began is a sign of life, in whatever order they end.
func TestHostsSignOfLife(t *testing.T) {
	f := newFakeRun(t, PerHost{Limit: 10, Failures: 2})
	var rs []*Request
	for range 4 {
		rs = append(rs, f.request("a"))
	}
	for _, r := range rs {
		f.mustStart(r)
	}
	f.now += time.Second
	f.end(rs[0], answered)
	f.now += time.Second
	for _, r := range rs[1:] {
		f.end(r, timedOut)
		assert.Zero(t, f.state("a").failures, "it began before the host answered")
	}
	// One that began after the last response counts.
	for i := range 2 {
		assert.Zero(t, f.state("a").since)
		r := f.request("a")
		f.mustStart(r)
		f.now += time.Second
		f.end(r, timedOut)
		assert.Equal(t, i+1, f.state("a").failures)
	}
	assert.Equal(t, f.now, f.state("a").since)
	require.Len(t, f.told, 1)
	assert.Equal(t, EventHostDown, f.told[0].Kind)

	// A response to one that began long before brings it up.
	f = newFakeRun(t, PerHost{Limit: 10})
	early := f.request("a")
	f.mustStart(early)
	f.bringDown("a")
	held := f.request("a")
	assert.Nil(t, f.start())
	f.now += 500 * time.Millisecond
	f.end(early, Result{Status: 404})
	f.mustStart(held)
	require.Len(t, f.told, 2)
	assert.Equal(t, Event{Kind: EventHostUp, Host: "a.test:80", Duration: 500 * time.Millisecond}, f.told[1])
}

// One request a second asks whether a host is back. They take turns, so that a URL that can never
// be fetched does not speak for all.
func TestHostsProbe(t *testing.T) {
	f := newFakeRun(t, PerHost{})
	f.bringDown("a")
	first, second := f.request("a"), f.request("a")
	other := f.request("b")
	f.mustStart(other)
	for i := range 9 {
		assert.Nil(t, f.start())
		f.now += time.Second - 1
		assert.Nil(t, f.start(), "too early")
		f.now++
		probe := []*Request{first, second}[i%2]
		f.mustStart(probe)
		assert.Nil(t, f.start(), "one at a time")
		assert.True(t, f.end(probe, refused), i)
	}
	assert.Empty(t, f.failed())
	f.now += time.Second
	all := f.failed()
	assert.Len(t, all, 2, "Patience is over")
	for _, r := range []*Request{first, second} {
		assert.EqualError(t, all[r], "fetch: http://a.test/: dial: the host is down, for 10s now: see PerHost.Patience: dial")
	}
	assert.Zero(t, f.held)

	// New requests fail at once, but for a probe.
	for pause := time.Second; pause < 100*time.Second; pause *= 2 {
		f.now = f.state("a").probe
		probe := f.request("a")
		late := f.request("a")
		assert.Contains(t, f.failed(), late)
		f.mustStart(probe)
		late = f.request("a")
		assert.Contains(t, f.failed(), late)
		assert.False(t, f.end(probe, refused))
		assert.Equal(t, f.now+min(2*pause, time.Minute), f.state("a").probe)
	}
	f.now = f.state("a").probe
	probe := f.request("a")
	f.mustStart(probe)
	f.end(probe, answered)
	for range 8 {
		f.mustStart(f.request("a"))
	}
	f.end(other, answered)
}

// What ends without telling anything of the host is no failed probe.
func TestHostsProbeUnknown(t *testing.T) {
	f := newFakeRun(t, PerHost{})
	f.bringDown("a")
	probe, next := f.request("a"), f.request("a")
	f.now += time.Second
	f.mustStart(probe)
	assert.False(t, f.done(probe, &Result{Request: probe, Err: ErrCanceled}, time.Time{}, f.now, false))
	f.mustStart(next)
	assert.False(t, f.end(next, Result{Err: ErrBadURL}))
	third := f.request("a")
	f.mustStart(third)
	assert.False(t, f.end(third, answered))
}

// Requests held for hosts that have never answered take half of Lookahead; beyond that, those of the host that has been
// down longest fail first. One that has answered may have restarted, and is no concern of theirs.
func TestHostsHeld(t *testing.T) {
	f := newFakeRun(t, PerHost{Lookahead: 30})
	r := f.request("d")
	f.mustStart(r)
	f.end(r, answered)
	for _, name := range []string{"d", "a", "b", "c"} {
		f.now += 10 * time.Millisecond
		f.bringDown(name)
	}
	for range 5 {
		for _, name := range []string{"c", "b", "a", "d"} {
			f.request(name)
		}
	}
	assert.Equal(t, 20, f.held)
	assert.Empty(t, f.failed())

	last := f.request("c")
	all := f.failed()
	assert.Len(t, all, 5)
	for r, err := range all {
		assert.Equal(t, "http://a.test/", r.URL)
		assert.EqualError(t, err, "fetch: http://a.test/: timeout: the host is down, for 20ms now, and too many requests wait for such hosts: see PerHost.Lookahead: timeout")
	}
	assert.NotContains(t, all, last)
	assert.Equal(t, 16, f.held)

	for range 100 {
		f.request("d")
	}
	assert.Empty(t, f.failed())
	assert.Equal(t, 116, f.held, "all of d, which has answered")

	// It is back.
	f.now += time.Second
	for range 3 { // a probe for each
		if probe := f.start(); probe.URL == "http://d.test/" {
			f.end(probe, answered)
		}
	}
	assert.Equal(t, 9, f.held, "those of b and c, but for the probes")
	for range 8 {
		assert.Equal(t, "http://d.test/", f.start().URL)
	}
}

// A silent probe does not keep others from asking, up to Limit: it may be its URL that hangs.
func TestHostsProbesHang(t *testing.T) {
	f := newFakeRun(t, PerHost{Limit: 3})
	f.bringDown("a")
	for range 5 {
		f.request("a")
	}
	var probes []*Request
	for range 3 {
		assert.Nil(t, f.start(), "too early")
		f.now += time.Second
		probes = append(probes, f.start())
		require.NotNil(t, probes[len(probes)-1])
	}
	f.now += time.Second
	assert.Nil(t, f.start(), "Limit")
	assert.False(t, f.end(probes[0], timedOut))
	f.now += time.Second
	last := f.start()
	f.end(last, answered)
	assert.Zero(t, f.held)
	assert.Zero(t, f.state("a").since)
	f.now += 20 * time.Second
	for _, r := range probes[1:] {
		f.end(r, timedOut)
	}
	assert.Zero(t, f.state("a").since, "it has answered since they began")
}

// The first host that is down from the beginning is waited for if the run has requests for no other.
func TestHostsOnly(t *testing.T) {
	f := newFakeRun(t, PerHost{Lookahead: 20})
	f.bringDown("a")
	for range 20 {
		f.request("a")
	}
	assert.Empty(t, f.failed())
	f.request("b")
	f.request("a")
	assert.Len(t, f.failed(), 21)
	f.mustStart(f.requestOf("b"))
}

// requestOf returns the next request of a host.
func (f *fakeRun) requestOf(name string) *Request { return f.state(name).waiting.Peek() }

// A run that had too many requests of dead hosts does not wait for such, when nothing else is left to do.
func TestHostsStuck(t *testing.T) {
	f := newFakeRun(t, PerHost{Lookahead: 20})
	r := f.request("d")
	f.mustStart(r)
	f.end(r, answered)
	for _, name := range []string{"a", "b", "d"} {
		f.now++
		f.bringDown(name)
	}
	for _, name := range []string{"a", "b", "d"} {
		f.request(name)
	}
	f.advance(f.now, true)
	assert.Empty(t, f.failed(), "they are few")
	for range 9 {
		f.request("a")
	}
	assert.Len(t, f.failed(), 10, "those of a")
	assert.Equal(t, 2, f.held)
	f.advance(f.now, true)
	assert.Len(t, f.failed(), 1, "that of b")
	assert.Equal(t, 1, f.held, "that of d, which has answered")
}

// A request that times out again tells of its URL, not of the host; one that is refused tells of the host.
func TestHostsRepeatedFailures(t *testing.T) {
	f := newFakeRun(t, PerHost{})
	r := f.request("a")
	for range 10 {
		f.mustStart(r)
		require.False(t, f.end(r, timedOut))
		r.state.tries++
		f.add(r, f.now)
	}
	assert.Zero(t, f.state("a").since)
	f.mustStart(r)
	assert.False(t, f.end(r, refused))
	f.add(r, f.now)
	f.mustStart(r)
	assert.True(t, f.end(r, refused), "the third: it is down, and holds the request")
	assert.NotZero(t, f.state("a").since)
	assert.Equal(t, 1, f.held)
}

// A connection that was cut off is a sign of life only if it was made after the host's last
// failure, and may be the first sign of an outage.
func TestHostsCutOff(t *testing.T) {
	for _, cut := range []Result{{Err: &Error{Kind: ErrReset}}, {Status: 200, Err: &Error{Kind: ErrTruncated}}} {
		f := newFakeRun(t, PerHost{Limit: 20})
		var early []*Request
		for range 5 {
			early = append(early, f.request("a"))
			f.mustStart(early[len(early)-1])
		}
		f.now++
		for range 3 {
			f.end(early[0], cut)
			assert.Equal(t, 1, f.state("a").failures, "however many")
			early = early[1:]
		}
		f.now++
		for range 2 {
			f.request("a")
			assert.True(t, f.end(f.start(), refused))
			f.now += refusedPause
		}
		assert.NotZero(t, f.state("a").since)
		f.end(early[0], cut)
		assert.NotZero(t, f.state("a").since, "it was made before")
		f.now += time.Second
		probe := f.start()
		f.end(probe, cut)
		assert.Zero(t, f.state("a").since, "it was made after")
	}
}

// A crawl sees millions of hosts: they must not fill the memory.
func TestPerHostForgets(t *testing.T) {
	const n = 100_000
	for _, c := range []struct {
		name    string
		spacing time.Duration
		res     Result
		most    int // hosts known at any time
	}{
		{"none", 0, answered, 1024},
		{"spacing", time.Second, answered, 30_000}, // 10 000 a second
		{"failures", 0, refused, 2 * remembered},
		{"both", time.Second, refused, 60_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeRun(t, PerHost{Spacing: c.spacing})
			most := 0
			for i := range n {
				if i%10_000 == 0 {
					f.now += time.Second
				}
				r := f.request(fmt.Sprint(i))
				f.mustStart(r)
				f.end(r, c.res)
				most = max(most, len(f.known))
			}
			assert.LessOrEqual(t, most, c.most)
			assert.Zero(t, f.ready.Len())
			assert.LessOrEqual(t, f.timed.Len(), most)
		})
	}
}

// A host with requests is not forgotten, nor one that is parked.
func TestPerHostRemembers(t *testing.T) {
	f := newFakeRun(t, PerHost{Limit: 1, Spacing: time.Hour})
	r := f.request("busy")
	f.mustStart(r)
	waiting := f.request("busy")
	parked := f.request("parked")
	f.mustStart(parked)
	f.end(parked, answered)
	busy, other := f.state("busy"), f.state("parked")
	for i := range 10_000 {
		r := f.request(fmt.Sprint(i))
		f.mustStart(r)
		f.end(r, answered)
	}
	assert.Same(t, busy, f.state("busy"))
	assert.Same(t, other, f.state("parked"))
	f.end(r, answered)
	f.now += time.Hour
	f.mustStart(waiting)
	f.end(waiting, answered)
	f.now += time.Hour
	for i := range 30_000 {
		r := f.request(fmt.Sprint("x", i))
		f.mustStart(r)
		f.end(r, answered)
	}
	assert.Nil(t, f.state("parked"))
}

// The requests that wait when a run is canceled leave nothing behind.
func TestHostsDrain(t *testing.T) {
	f := newFakeRun(t, PerHost{Limit: 1, Failures: 1})
	a, b := f.request("a"), f.request("a")
	f.mustStart(a)
	c := f.request("c")
	f.mustStart(c)
	assert.True(t, f.end(c, refused), "held")
	d := f.request("c")
	drained := func() (all []*Request) {
		f.drain(func(r *Request) { all = append(all, r) })
		return all
	}
	assert.ElementsMatch(t, []*Request{b, c, d}, drained())
	assert.Zero(t, f.held)
	f.end(a, answered)
	assert.Empty(t, drained())
	assert.Nil(t, f.start())
}
