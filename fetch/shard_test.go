//go:build unix

package fetch_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

func init() {
	beforeTests = func() {
		runProgram()
		fetch.ShardMain(&inChild{})
	}
	strategies = append(strategies,
		fetch.Shard{Processes: 2, Each: fetch.Pool{Workers: 3}},
		fetch.Shard{Processes: 1, Each: fetch.Serial{}},
		fetch.Shard{Processes: 3, Each: fetch.Semaphore{Limit: 1}},
		fetch.Batch{Size: 10, Each: fetch.Shard{Processes: 3, Each: fetch.Pool{Workers: 4}}},
	)
}

// inChild is the Doer of the children of these tests. The host of a URL says what it does.
type inChild struct{ client fetch.Client }

func (d *inChild) Do(ctx context.Context, r *fetch.Request) fetch.Result {
	host, _, _ := strings.Cut(strings.TrimPrefix(r.URL, "http://"), ".test")
	res := fetch.Result{Status: 200, Body: []byte(fetchtest.Pong), Attempts: 1, Duration: time.Millisecond}
	switch host {
	case "ok":
	case "exit":
		os.Exit(7)
	case "crash":
		go panic("a panic that no Doer recovers")
		select {}
	case "hang":
		select {}
	case "stop":
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		<-ctx.Done()
	case "garbage":
		syscall.Write(4, bytes.Repeat([]byte("garbage"), 100))
		<-ctx.Done()
	case "close":
		syscall.Close(4)
	case "deaf":
		time.Sleep(20 * time.Millisecond) // it has all that has been sent
		deafen()
		select {}
	case "steal": // a byte of a request
		for n := 0; n != 1; n, _ = syscall.Read(3, make([]byte, 1)) {
			runtime.Gosched()
		}
		<-ctx.Done()
	case "nilerror":
		res.Err = (*nilError)(nil)
	case "nilpanic":
		panic((*nilError)(nil))
	case "args":
		res.Body = []byte(strings.Join(os.Args[1:], " "))
	case "tag":
		res.Body = fmt.Append(nil, r.Index, " ", r.Tag)
	case "moved":
		res.URL = "http://moved.test/there"
	case "emit":
		fetch.Emit(ctx, engineEvent)
	case "ordered":
		res.Body = []byte(strconv.Itoa(orderedAhead(ctx)))
	case "once": // crashes the first time only
		if f, err := os.OpenFile(string(r.Body), os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			f.Close()
			os.Exit(7)
		}
	case "exec":
		out, err := exec.Command("sh", "-c", `for fd in 3 4; do (: <&$fd) 2>/dev/null && echo open $fd; done; echo "mark $FETCHBENCH_SHARD"`).Output()
		res.Body, res.Err = out, err
	case "procs":
		res.Body = []byte(strconv.Itoa(runtime.GOMAXPROCS(0)))
	case "heir": // leaves the pipe to a process that lives on
		cmd := exec.Command("sleep", "60")
		cmd.ExtraFiles = []*os.File{os.NewFile(4, "")}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		os.WriteFile(string(r.Body), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
		os.Exit(7)
	case "goexit":
		runtime.Goexit()
	case "panic":
		panic(fmt.Errorf("a panic of %d", r.Index))
	case "print":
		fmt.Println("printed by a Doer")
		syscall.Write(1, []byte("written to descriptor 1\n"))
	case "pid":
		res.Body = []byte(strconv.Itoa(os.Getpid()))
	case "memory":
		res.Body = fmt.Append(nil, os.Getpid(), " ", peakMemory())
	case "quick":
		time.Sleep(10 * time.Millisecond)
	case "dead":
		select {
		case <-time.After(10 * time.Second):
		case <-ctx.Done():
		}
		return fetch.Result{Attempts: 1, Err: &fetch.Error{Kind: fetch.ErrTimeout, URL: r.URL}}
	case "slow":
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	case "slowpid":
		time.Sleep(200 * time.Millisecond)
		res.Body = []byte(strconv.Itoa(os.Getpid()))
	case "wait":
		<-ctx.Done()
		return fetch.Result{Err: &fetch.Error{Kind: fetch.ErrCanceled, URL: r.URL, Err: ctx.Err()}}
	case "rawwait":
		<-ctx.Done()
		return fetch.Result{Err: ctx.Err()}
	case "large":
		res.Body = bytes.Repeat([]byte("x"), 1<<20)
	case "echo":
		res.Body = r.Body
		h := r.Header.Clone()
		h.Set("Method", r.Method)
		res.SetHeader(func() http.Header { return h })
	case "error":
		res = fetch.Result{Err: remoteErrors[r.Index], Attempts: 3}
	case "nested":
		f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}}
		for r := range f.Get(ctx, "http://ok.test/") {
			res = fetch.Result{Err: r.Err}
		}
	default:
		if strings.Contains(r.URL, "/ping") || strings.Contains(r.URL, "/echo") {
			return d.client.Do(ctx, r)
		}
		return fetchtest.Remote.Do(ctx, r)
	}
	return res
}

// nilError is an error whose methods panic.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// orderedAhead returns how many requests a Fetch in the order of the input takes ahead at most,
// while its first one takes long.
func orderedAhead(ctx context.Context) (most int) {
	f := fetch.Fetcher{
		Strategy: fetch.Pool{Workers: 2},
		Doer: fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
			if r.Index == 0 {
				time.Sleep(300 * time.Millisecond)
			}
			return fetch.Result{Status: 200}
		}),
		Ordered: true,
	}
	taken, received := 0, 0
	for range f.Fetch(ctx, func(yield func(fetch.Request) bool) {
		for range 10_000 {
			taken++
			most = max(most, taken-received)
			if !yield(fetch.Request{URL: "http://nested.test/"}) {
				return
			}
		}
	}) {
		received++
	}
	return most
}

// engineEvent is what an engine tells of.
var engineEvent = fetch.Event{Kind: fetch.EventPipelineOff, Host: "http://emit.test", Unanswered: 2, Err: io.EOF, Duration: time.Second}

// DoBatch answers each request with the number of those that came together.
func (d *inChild) DoBatch(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
	for _, r := range reqs {
		res := d.Do(ctx, r)
		res.Request, res.Body = r, []byte(strconv.Itoa(len(reqs)))
		yield(res)
	}
}

// peakMemory returns the most memory that this process has had, in KiB. It is nil where the system
// does not tell.
var peakMemory func() int

// urls is the input of n requests for what url returns for their index.
func urls(n int, url func(i int) string) iter.Seq[fetch.Request] {
	return func(yield func(fetch.Request) bool) {
		for i := range n {
			if !yield(fetch.Request{URL: url(i)}) {
				return
			}
		}
	}
}

// A herd follows the children of a Shard by the Trace of its Fetcher.
type herd struct {
	mu      sync.Mutex
	alive   []int
	started []fetch.Event
	gone    []fetch.Event
}

func (h *herd) trace(e fetch.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch e.Kind {
	case fetch.EventShardUp:
		h.alive = append(h.alive, e.PID)
		h.started = append(h.started, e)
	case fetch.EventShardDown:
		h.alive = slices.DeleteFunc(h.alive, func(pid int) bool { return pid == e.PID })
		h.gone = append(h.gone, e)
	}
}

// signal sends sig to a child that is alive and has not had one, if there is such a child.
func (h *herd) signal(sig syscall.Signal) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.alive) == 0 {
		return false
	}
	i := rand.IntN(len(h.alive))
	pid := h.alive[i]
	h.alive = slices.Delete(h.alive, i, i+1)
	return syscall.Kill(pid, sig) == nil
}

// requireNone fails t if a child is left, be it as a zombie.
func (h *herd) requireNone(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Empty(t, h.alive)
	// Those that have not got as far as to be ready are gone, too.
	require.GreaterOrEqual(t, len(h.gone), len(h.started))
	for _, i := range h.gone {
		if i.PID != 0 {
			require.ErrorIs(t, syscall.Kill(i.PID, 0), syscall.ESRCH, "process %d", i.PID)
		}
	}
}

// Children that are killed and stopped cost no result, and no URL is fetched more often
// than they had it.
func TestShardSurvivesKills(t *testing.T) {
	if testing.Short() {
		t.Skip("20 000 URLs and the time to notice a stopped process")
	}
	const n, kills, window = 20_000, 10, 32
	server := fetchtest.NewServer(t, fetchtest.Latency(2*time.Millisecond))
	var h herd
	seen := make([]int, n)
	received, signals := 0, 0
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 4, Each: fetch.Pool{Workers: window / 2}, Hang: time.Second}, Trace: h.trace}
	next := n / (kills + 2)
	for r := range f.Fetch(t.Context(), urls(n, server.Ping)) {
		require.True(t, r.OK(), "%v", r.Err)
		seen[r.Request.Index]++
		received++
		if received >= next && signals <= kills {
			sig := syscall.SIGKILL
			if signals == kills/2 {
				sig = syscall.SIGSTOP
			}
			if h.signal(sig) {
				signals++
				next = received + n/(2*kills+4) + rand.IntN(n/(2*kills+4))
			}
		}
	}
	require.Equal(t, kills+1, signals)
	for i, times := range seen {
		require.Equal(t, 1, times, "results for request %d", i)
	}
	h.requireNone(t)
	duplicates := server.Requests() - n
	t.Logf("%d children killed, 1 stopped: %d URLs fetched twice", kills, duplicates)
	assert.LessOrEqual(t, duplicates, signals*window, "what the children had that were killed")
	bad := 0
	for _, i := range h.gone {
		if i.Err != nil {
			bad++
			assert.LessOrEqual(t, i.Unanswered, window)
		}
	}
	assert.Equal(t, signals, bad, "children that did not end because they were told to")
}

// A request that ruins its process fails alone, after as many attempts as it may have.
func TestShardPoison(t *testing.T) {
	for _, poison := range []struct{ host, text string }{
		{"exit", "exit status 7"},
		{"crash", "exit status 2"},
		{"garbage", "sent what is not a frame"},
		{"close", "exit status"},
		{"hang", "no result came for 1s"},
		{"stop", "no sign of life for 1s"},
	} {
		for _, attempts := range []int{1, 2, 3} {
			t.Run(fmt.Sprintf("%s/%d attempts", poison.host, attempts), func(t *testing.T) {
				if testing.Short() && attempts == 2 {
					t.Skip("between the others")
				}
				var h herd
				f := fetch.Fetcher{Trace: h.trace, Strategy: fetch.Shard{
					Processes: 2,
					Each:      fetch.Pool{Workers: 4},
					Attempts:  attempts,
					Hang:      time.Second,
				}}
				const n, poisoned = 300, 100
				failed := 0
				seen := make([]bool, n)
				for r := range f.Fetch(t.Context(), urls(n, func(i int) string {
					if i == poisoned {
						return "http://" + poison.host + ".test/"
					}
					return "http://ok.test/"
				})) {
					require.False(t, seen[r.Request.Index])
					seen[r.Request.Index] = true
					if r.OK() {
						continue
					}
					failed++
					require.ErrorIs(t, r.Err, fetch.ErrLost)
					require.ErrorContains(t, r.Err, poison.text)
					require.Equal(t, attempts, r.Attempts)
					if attempts > 1 {
						require.Equal(t, poisoned, r.Request.Index, "another one's request")
						require.ErrorContains(t, r.Err, fmt.Sprintf("children that had it and ended before: %d", attempts-1))
					}
				}
				require.NotContains(t, seen, false)
				if attempts > 1 {
					require.Equal(t, 1, failed)
				} else {
					require.LessOrEqual(t, failed, 8, "what one child had")
				}
				require.Len(t, h.gone, 2+attempts, "each child that it ruined is replaced")
				h.requireNone(t)
			})
		}
	}
}

// Many requests that ruin their process, among others: still it is they alone that fail.
func TestShardManyPoisons(t *testing.T) {
	for _, attempts := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d attempts", attempts), func(t *testing.T) {
			var h herd
			f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2, Each: fetch.Pool{Workers: 4}, Attempts: attempts, Restarts: 1000}, Trace: h.trace}
			isPoison := func(i int) bool { return i%20 == 7 }
			const n = 400
			seen := make([]bool, n)
			for r := range f.Fetch(t.Context(), urls(n, func(i int) string {
				if isPoison(i) {
					return "http://exit.test/"
				}
				return "http://ok.test/"
			})) {
				i := r.Request.Index
				require.False(t, seen[i])
				seen[i] = true
				require.Equal(t, !isPoison(i), r.OK(), "request %d: %v", i, r.Err)
			}
			require.NotContains(t, seen, false)
			h.requireNone(t)
		})
	}
}

// The child that is ready first leaves to the others what they are there for.
func TestShardStart(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 3, Each: fetch.Pool{Workers: 4}}}
	pids := map[string]int{}
	for r := range f.Fetch(t.Context(), urls(12, func(int) string { return "http://slowpid.test/" })) {
		require.True(t, r.OK(), "%v", r.Err)
		pids[string(r.Body)]++
	}
	require.Len(t, pids, 3)
	for _, n := range pids {
		require.Equal(t, 4, n)
	}
}

// A slow server is no hang, as long as there is an answer now and then.
func TestShardSlowServer(t *testing.T) {
	var h herd
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1, Each: fetch.Pool{Workers: 1}, Hang: time.Second}, Trace: h.trace}
	for r := range f.Fetch(t.Context(), urls(4, func(int) string { return "http://slow.test/" })) {
		require.True(t, r.OK(), "%v", r.Err)
		require.Equal(t, 1, r.Attempts)
	}
	require.Len(t, h.started, 1)
}

// A request whose first process crashed is fetched by another, and that counts as an attempt.
func TestShardAttempts(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2}}
	marker := filepath.Join(t.TempDir(), "marker")
	for r := range f.Fetch(t.Context(), slices.Values([]fetch.Request{{URL: "http://once.test/", Body: []byte(marker)}})) {
		require.True(t, r.OK(), "%v", r.Err)
		require.Equal(t, 2, r.Attempts)
	}
}

// The end of a child is noticed at once, even if another process has its pipe.
func TestShardHeir(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1, Attempts: 1}}
	file := filepath.Join(t.TempDir(), "pid")
	for r := range f.Fetch(t.Context(), slices.Values([]fetch.Request{{URL: "http://heir.test/", Body: []byte(file)}})) {
		require.ErrorContains(t, r.Err, "exit status 7")
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	pid, err := strconv.Atoi(string(text))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL), "it has ended by itself: the loop waited for it")
}

// The processors are divided among the children.
func TestShardProcessors(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2}}
	for r := range f.Get(t.Context(), "http://procs.test/") {
		require.Equal(t, strconv.Itoa((runtime.GOMAXPROCS(0)+1)/2), string(r.Body), "%v", r.Err)
	}
}

// Programs that a Doer starts are no children of the Shard, and have nothing of its pipes.
func TestShardDoerThatExecs(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}}
	for r := range f.Get(t.Context(), "http://exec.test/") {
		require.NoError(t, r.Err)
		require.Equal(t, "mark \n", string(r.Body))
	}
}

// What may have been sent is not sent again if that might do it twice.
func TestShardRepeats(t *testing.T) {
	key := http.Header{"Idempotency-Key": {"7"}}
	for _, c := range []struct {
		method string
		header http.Header
		repeat bool
	}{
		{"", nil, true}, {"GET", nil, true}, {"get", nil, true}, {"HEAD", nil, true}, {"OPTIONS", nil, true}, {"PUT", nil, true},
		{"Delete", nil, true}, {"POST", key, true}, {"PATCH", key, true},
		{"POST", nil, false}, {"PATCH", nil, false}, {"PURGE", nil, false},
	} {
		t.Run(fmt.Sprint(c.method, len(c.header)), func(t *testing.T) {
			f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}}
			r := one(t, &f, fetch.Request{Method: c.method, URL: "http://exit.test/", Header: c.header})
			require.ErrorIs(t, r.Err, fetch.ErrLost)
			if c.repeat {
				require.Equal(t, 3, r.Attempts)
			} else {
				require.Equal(t, 1, r.Attempts)
				require.ErrorContains(t, r.Err, "not repeated, since it may have been sent")
			}
		})
	}
}

// one returns the result of one request.
func one(t *testing.T, f *fetch.Fetcher, r fetch.Request) fetch.Result {
	t.Helper()
	results := slices.Collect(f.Fetch(t.Context(), slices.Values([]fetch.Request{r})))
	require.Len(t, results, 1)
	return results[0]
}

// When no child is left, and none may be started any more, each request still has its result.
func TestShardRestarts(t *testing.T) {
	var h herd
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2, Each: fetch.Pool{Workers: 2}, Restarts: 3, Attempts: 100}, Trace: h.trace}
	received := 0
	for r := range f.Fetch(t.Context(), urls(100, func(int) string { return "http://exit.test/" })) {
		require.ErrorIs(t, r.Err, fetch.ErrLost)
		require.ErrorContains(t, r.Err, "3 children were replaced before: see Restarts")
		received++
	}
	require.Equal(t, 100, received)
	require.Len(t, h.started, 5)
	h.requireNone(t)
}

// remoteErrors are what the Doer of a child returns, by the index of the request.
var remoteErrors = []error{
	&fetch.Error{Kind: fetch.ErrTimeout, URL: "http://error.test/", Err: errors.New("too slow")},
	&fetch.Error{Kind: fetch.ErrDial, URL: "http://error.test/", Err: fmt.Errorf("dial: %w", syscall.ECONNREFUSED)},
	fmt.Errorf("wrapped: %w", &fetch.Error{Kind: fetch.ErrTLS, URL: "http://error.test/"}),
	io.ErrUnexpectedEOF,
	errors.New("of no kind"),
	fetch.ErrReset,
	errors.Join(io.EOF, fmt.Errorf("mine: %w", fetch.ErrDecode)),
	&fetch.PanicError{URL: "http://error.test/", Value: "a string", Stack: []byte("a stack")},
	fmt.Errorf("wrapped: %w", &fetch.PanicError{URL: "http://error.test/", Value: io.EOF, Stack: []byte("a stack")}),
}

// An error has the same kind, text and causes in the parent as in the child.
func TestShardErrors(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}, Ordered: true}
	received := 0
	for r := range f.Fetch(t.Context(), urls(len(remoteErrors), func(int) string { return "http://error.test/" })) {
		want := remoteErrors[r.Request.Index]
		received++
		assert.Equal(t, 3, r.Attempts)
		assert.EqualError(t, r.Err, want.Error())
		assert.Equal(t, fetch.KindOf(want), fetch.KindOf(r.Err))
		for _, target := range []error{context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNREFUSED, fetch.ErrPanic, fetch.ErrTLS, fetch.ErrReset, fetch.ErrDecode} {
			assert.Equal(t, errors.Is(want, target), errors.Is(r.Err, target), "%v is %v", r.Err, target)
		}
		wantError, isError := errors.AsType[*fetch.Error](want)
		gotError, _ := errors.AsType[*fetch.Error](r.Err)
		if isError {
			assert.Equal(t, wantError.URL, gotError.URL)
		}
		wantPanic, isPanic := errors.AsType[*fetch.PanicError](want)
		gotPanic, _ := errors.AsType[*fetch.PanicError](r.Err)
		if isPanic {
			require.NotNil(t, gotPanic)
			assert.Equal(t, fmt.Sprint(wantPanic.Value), fmt.Sprint(gotPanic.Value))
			assert.Equal(t, wantPanic.Stack, gotPanic.Stack)
		}
	}
	assert.Equal(t, len(remoteErrors), received)
}

// All of a request gets to the child, and all of a result back.
func TestShardCarriesEverything(t *testing.T) {
	reqs := []fetch.Request{
		{Method: "POST", URL: "http://echo.test/?q=ü#f", Header: http.Header{"A": {"1", "2"}, "B": nil, "C": {""}}, Body: []byte("body")},
		{Method: "get", URL: "http://echo.test/", Header: http.Header{}, Body: []byte{}},
		{URL: "http://echo.test/", Header: http.Header{"X": {strings.Repeat("y", 100_000)}}, Body: bytes.Repeat([]byte("z"), 5<<20)},
	}
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}}
	received := 0
	for r := range f.Fetch(t.Context(), slices.Values(reqs)) {
		want := reqs[r.Request.Index]
		received++
		require.NoError(t, r.Err)
		assert.Equal(t, 200, r.Status)
		assert.Equal(t, 1, r.Attempts)
		assert.Equal(t, time.Millisecond, r.Duration)
		assert.Equal(t, want.Body, r.Body)
		header := want.Header.Clone()
		header.Set("Method", want.Method)
		assert.Equal(t, header, r.Header())
		assert.Equal(t, header, r.Header(), "asked for again")
	}
	assert.Equal(t, 3, received)
}

// An error whose methods panic is an error all the same, and costs no other request.
func TestShardNilErrors(t *testing.T) {
	var h herd
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}, Ordered: true, Trace: h.trace}
	var errs []error
	for r := range f.Get(t.Context(), "http://nilerror.test/", "http://nilpanic.test/", "http://ok.test/") {
		errs = append(errs, r.Err)
	}
	require.Len(t, errs, 3)
	assert.EqualError(t, errs[0], "<nil>")
	assert.ErrorIs(t, errs[1], fetch.ErrPanic)
	assert.NoError(t, errs[2])
	assert.Len(t, h.started, 1)
}

// deafen closes the pipe that requests come from. Of a process that did so, the error says
// deafText.
var (
	deafen   = func() { syscall.Close(3) }
	deafText = ""
)

// A child that gets no more requests, or no whole ones, is replaced, and answers nothing wrongly.
func TestShardBrokenPipe(t *testing.T) {
	for host, text := range map[string]string{"deaf": deafText, "steal": "exit status 2"} {
		t.Run(host, func(t *testing.T) {
			var h herd
			f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1, Each: fetch.Pool{Workers: 4}}, Trace: h.trace}
			received := 0
			for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
				for i := range 60 {
					r := fetch.Request{URL: "http://ok.test/"}
					if i == 30 {
						r = fetch.Request{Method: "POST", URL: "http://" + host + ".test/"}
					}
					if !yield(r) {
						return
					}
					if i >= 30 {
						time.Sleep(2 * time.Millisecond)
					}
				}
			}) {
				received++
				if r.Request.Index == 30 {
					assert.ErrorIs(t, r.Err, fetch.ErrLost)
					assert.ErrorContains(t, r.Err, "may have been sent")
					assert.ErrorContains(t, r.Err, text)
				} else {
					assert.True(t, r.OK(), "%v", r.Err)
				}
			}
			assert.Equal(t, 60, received)
			assert.Len(t, h.started, 2)
			h.requireNone(t)
		})
	}
}

// What a child's strategy is told about requests to come is not for a Fetch within a Doer.
func TestShardNestedFetch(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1, Each: fetch.Pool{Workers: 4}}}
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for i := range 100 {
			host := "ok"
			if i == 0 {
				host = "ordered"
			}
			if !yield(fetch.Request{URL: "http://" + host + ".test/"}) {
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
	}) {
		require.True(t, r.OK(), "%v", r.Err)
		if r.Request.Index == 0 {
			assert.Equal(t, "4", string(r.Body), "requests ahead: as many as of a pool of 2")
		}
	}
}

// A panic has its stack, and costs only its own request; Goexit does not cost more.
func TestShardPanics(t *testing.T) {
	var h herd
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}, Ordered: true, Trace: h.trace}
	for r := range f.Get(t.Context(), "http://ok.test/", "http://panic.test/", "http://goexit.test/", "http://ok.test/") {
		switch r.Request.Index {
		case 1:
			p, ok := errors.AsType[*fetch.PanicError](r.Err)
			require.True(t, ok)
			assert.EqualError(t, p.Value.(error), "a panic of 1")
			assert.Contains(t, string(p.Stack), "inChild")
		case 2:
			require.ErrorIs(t, r.Err, fetch.ErrPanic)
		default:
			require.True(t, r.OK(), "%v", r.Err)
		}
	}
	require.Len(t, h.started, 1)
}

// A batch ends when all children have done their part of it, and none has one of the next before.
func TestShardInBatch(t *testing.T) {
	const n, size = 95, 10
	var h herd
	received := 0
	var batches []fetch.Event
	f := fetch.Fetcher{Strategy: fetch.Batch{Size: size, Each: fetch.Shard{Processes: 3, Each: fetch.Pool{Workers: 4}}}}
	pids := map[string]bool{}
	f.Trace = func(e fetch.Event) {
		h.trace(e)
		switch e.Kind { // on the loop's goroutine
		case fetch.EventStart:
			assert.GreaterOrEqual(t, received, e.Request.Index/size*size, "results when request %d starts", e.Request.Index)
		case fetch.EventBatch:
			assert.Equal(t, min(n, size*(len(batches)+1)), received)
			batches = append(batches, e)
		}
	}
	for r := range f.Fetch(t.Context(), urls(n, func(i int) string {
		if i%5 == 0 {
			return "http://panic.test/"
		}
		return "http://slowpid.test/"
	})) {
		pids[string(r.Body)] = true
		received++
	}
	require.Equal(t, n, received)
	require.Len(t, batches, 10)
	for i, b := range batches {
		assert.Equal(t, i, b.Batch)
		assert.Equal(t, min(size, n-i*size), b.Size, "the last one is not full")
		assert.Equal(t, (b.Size+4)/5, b.Failed)
		assert.Positive(t, b.Duration)
	}
	assert.Len(t, pids, 1+3, "processes that had a part, and the body of a panic")
	h.requireNone(t)
}

// Events of the children and their engines reach the Trace, with the child's number.
func TestShardTrace(t *testing.T) {
	var h herd
	var mu sync.Mutex
	var engine []fetch.Event
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2, Each: fetch.Pool{Workers: 1}}, Trace: func(e fetch.Event) {
		h.trace(e)
		mu.Lock()
		defer mu.Unlock()
		if e.Kind == fetch.EventPipelineOff {
			engine = append(engine, e)
		}
	}}
	results := 0
	for range f.Fetch(t.Context(), urls(40, func(i int) string { return []string{"http://emit.test/", "http://slowpid.test/"}[i/38] })) {
		results++
	}
	require.Equal(t, 40, results)
	require.Len(t, engine, 38)
	for _, e := range engine {
		want := engineEvent
		want.Shard, want.Err = e.Shard, e.Err
		assert.Equal(t, want, e)
		assert.ErrorIs(t, e.Err, io.EOF)
		assert.Contains(t, []int{0, 1}, e.Shard)
	}
	require.Len(t, h.started, 2)
	require.Len(t, h.gone, 2)
	for _, e := range h.started {
		assert.Positive(t, e.Duration)
	}
	assert.ElementsMatch(t, []int{0, 1}, []int{h.started[0].Shard, h.started[1].Shard})
	for _, e := range h.gone {
		assert.NoError(t, e.Err)
		assert.Zero(t, e.Unanswered)
	}
	h.requireNone(t)
}

// mine is a strategy of another package than fetch. That it is known to gob is up to it.
type mine struct{ Name string }

func (mine) Limits() fetch.Limits { return fetch.Pool{Workers: 2}.Limits() }

func (m mine) Start(ctx context.Context, d fetch.Doer) fetch.Executor {
	return fetch.Pool{Workers: 2}.Start(ctx, fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		res := d.Do(ctx, r)
		res.Body = []byte(m.Name)
		return res
	}))
}

func (m mine) String() string { return m.Name }

type unregistered struct{ fetch.Pool }

// limitless says that it performs no requests.
type limitless struct{ fetch.Pool }

func (limitless) Limits() fetch.Limits { return fetch.Limits{} }

// unencodable panics when it is to be sent.
type unencodable struct{ fetch.Pool }

func (unencodable) GobEncode() ([]byte, error) { panic("no way") }

// foreign returns results of requests that it was not given.
type foreign struct{ Foreign bool }

func (foreign) Limits() fetch.Limits { return fetch.Limits{InFlight: 1, Ahead: 1} }
func (foreign) String() string       { return "foreign" }
func (foreign) Start(context.Context, fetch.Doer) fetch.Executor {
	return &foreignRun{results: make(chan fetch.Result, 1)}
}

type foreignRun struct{ results chan fetch.Result }

func (x *foreignRun) Submit(*fetch.Request)        { x.results <- fetch.Result{Request: &fetch.Request{}} }
func (x *foreignRun) Flush()                       {}
func (x *foreignRun) Results() <-chan fetch.Result { return x.results }
func (x *foreignRun) Close()                       {}

func init() {
	gob.Register(mine{})
	gob.Register(unencodable{})
	gob.Register(foreign{})
}

func TestShardOfAnyStrategy(t *testing.T) {
	received := 0
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2, Each: mine{Name: "mine"}}}
	for r := range f.Fetch(t.Context(), urls(300, func(int) string { return "http://ok.test/" })) {
		require.Equal(t, "mine", string(r.Body), "%v", r.Err)
		received++
	}
	require.Equal(t, 300, received)

	f.Strategy = fetch.Shard{Processes: 2, Each: unregistered{}}
	for r := range f.Get(t.Context(), "http://ok.test/") {
		require.ErrorIs(t, r.Err, fetch.ErrLost)
		require.ErrorContains(t, r.Err, "see gob.Register")
	}

	f.Strategy = fetch.Shard{Processes: 1, Each: foreign{}, Restarts: 1}
	for r := range f.Get(t.Context(), "http://ok.test/") {
		require.ErrorIs(t, r.Err, fetch.ErrLost)
		require.ErrorContains(t, r.Err, "exit status 2", "of a panic")
	}

	assert.PanicsWithValue(t, "fetch: the limits of pool(64) are {InFlight:0 Ahead:0 Batch:0}", func() {
		fetch.Shard{Each: limitless{}}.Limits()
	})
	f.Strategy = fetch.Shard{Each: unencodable{}}
	assert.PanicsWithValue(t, "no way", func() { // here, where the caller can recover
		for range f.Get(t.Context(), "http://ok.test/") {
		}
	})
}

// Requests share a write in the children, too, and no request waits for ever for others to join it.
func TestShardPipelines(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2, Each: fetch.Pipeline{Limit: 64, Depth: 8}}}
	together, received := 0, 0
	for r := range f.Fetch(t.Context(), urls(301, func(int) string { return "http://ok.test/" })) {
		require.True(t, r.OK(), "%v", r.Err)
		n, err := strconv.Atoi(string(r.Body))
		require.NoError(t, err)
		together = max(together, n)
		received++
	}
	require.Equal(t, 301, received)
	require.Equal(t, 8, together, "requests in one call of DoBatch")
}

// Every strategy of this package can be sent, and is what it was.
func TestStrategiesAreGobEncodable(t *testing.T) {
	for _, s := range []fetch.Strategy{
		fetch.Serial{}, fetch.Threads{Limit: 3}, fetch.Pool{}, fetch.Pool{Workers: 3}, fetch.Semaphore{Limit: 3},
		fetch.Pipeline{Limit: 3, Depth: 2}, fetch.Batch{Size: 7, Each: fetch.Semaphore{Limit: 3}},
		fetch.Shard{Processes: 2, Each: fetch.Pipeline{Limit: 3}, Hang: time.Second},
	} {
		gob.Register(s) // as init has, but for Shard, which children do not need
		var b bytes.Buffer
		require.NoError(t, gob.NewEncoder(&b).Encode(&s))
		var got fetch.Strategy
		require.NoError(t, gob.NewDecoder(&b).Decode(&got))
		assert.Equal(t, s, got)
	}
}

// Requests that come one by one are fetched as they come, even while a slow one is under way.
func TestShardTrickle(t *testing.T) {
	for _, each := range []fetch.Strategy{
		fetch.Pool{Workers: 2}, fetch.Semaphore{Limit: 2}, fetch.Pipeline{Limit: 2, Depth: 2},
	} {
		t.Run(each.String(), func(t *testing.T) {
			var order []string
			f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1, Each: each}}
			input := func(yield func(fetch.Request) bool) {
				hosts := []string{"ok", "slow", "ok", "ok", "ok"}
				for _, host := range hosts {
					if !yield(fetch.Request{URL: "http://" + host + ".test/"}) {
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
			for r := range f.Fetch(t.Context(), input) {
				require.NoError(t, r.Err)
				order = append(order, r.Request.URL)
			}
			require.Len(t, order, 5)
			assert.Equal(t, "http://slow.test/", order[4], "the quick ones had to wait for the slow one: %v", order)
		})
	}
}

// Whenever the loop ends, no process, pipe or goroutine is left.
func TestShardBreak(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2}}
	for range f.Get(t.Context(), "http://ok.test/") { // whatever is opened once
	}
	for _, k := range []int{0, 1, 1000} {
		t.Run(strconv.Itoa(k), func(t *testing.T) {
			var h herd
			before := openFiles(t)
			received := 0
			input := urls(1_000_000, func(i int) string {
				if i%7 == 6 {
					return "http://wait.test/" // until it is told to end
				}
				return "http://ok.test/"
			})
			if k == 0 {
				next, stop := iter.Pull(f.Fetch(t.Context(), input))
				_, ok := next()
				require.True(t, ok)
				stop()
			} else {
				input = urls(1_000_000, func(int) string { return "http://ok.test/" })
				for range f.Fetch(t.Context(), input) {
					if received++; received == k {
						break
					}
				}
			}
			h.requireNone(t)
			requireOpenFiles(t, before)
		})
	}
	t.Run("nothing to fetch", func(t *testing.T) {
		before := openFiles(t)
		for range f.Get(t.Context()) {
		}
		requireOpenFiles(t, before)
	})
	t.Run("panic", func(t *testing.T) {
		var h herd
		before := openFiles(t)
		require.Panics(t, func() {
			for range f.Fetch(t.Context(), urls(1_000_000, func(int) string { return "http://ok.test/" })) {
				panic("in the loop")
			}
		})
		h.requireNone(t)
		requireOpenFiles(t, before)
	})
}

// openFiles returns how many files this process has open.
func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/dev/fd")
	require.NoError(t, err)
	return len(entries)
}

// requireOpenFiles fails t if more files than limit stay open. What an earlier test or the
// runtime has open for a moment is let pass.
func requireOpenFiles(t *testing.T, limit int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for openFiles(t) > limit && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	require.LessOrEqual(t, openFiles(t), limit, "open files")
}

// A cancel reaches the children, and what it aborts has the caller's cause; a Doer that does
// not care is killed.
func TestShardCancel(t *testing.T) {
	for _, host := range []string{"wait", "hang"} {
		t.Run(host, func(t *testing.T) {
			var h herd
			why := errors.New("why")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2, Each: fetch.Pool{Workers: 4}}, Trace: h.trace}
			taken, received := 0, 0
			input := urls(1000, func(i int) string {
				if taken = i + 1; taken == 16 { // all that the children have room for
					time.AfterFunc(200*time.Millisecond, func() { cancel(why) })
				}
				return "http://" + host + ".test/"
			})
			for r := range f.Fetch(ctx, input) {
				received++
				require.ErrorIs(t, r.Err, fetch.ErrCanceled)
				require.ErrorIs(t, r.Err, why)
			}
			assert.Equal(t, taken, received)
			h.requireNone(t)
		})
	}
}

// An interrupt from the terminal goes to all of its processes. The children leave it to
// their parent, which may want to end what it has begun.
func TestShardInterrupt(t *testing.T) {
	var h herd
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2}, Trace: h.trace}
	received := 0
	for r := range f.Fetch(t.Context(), urls(1000, func(int) string { return "http://ok.test/" })) {
		require.True(t, r.OK(), "%v", r.Err)
		if received++; received == 300 {
			require.True(t, h.signal(syscall.SIGINT))
		}
	}
	require.Equal(t, 1000, received)
	for _, i := range h.gone {
		require.NoError(t, i.Err)
	}
}

// A deadline of the caller's is a timeout, as with any strategy.
func TestShardDeadline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2}}
	received := 0
	for r := range f.Get(ctx, "http://wait.test/", "http://hang.test/", "http://rawwait.test/") {
		received++
		require.ErrorIs(t, r.Err, fetch.ErrTimeout)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
	}
	require.Equal(t, 3, received)
}

// Of a child that was killed because its Doer did not return, the error says that.
func TestShardLate(t *testing.T) {
	var h herd
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}, Trace: h.trace}
	for r := range f.Get(ctx, "http://hang.test/", "http://slowpid.test/") {
		if r.Request.Index == 1 {
			require.True(t, r.OK(), "%v", r.Err)
			cancel()
		} else {
			require.ErrorIs(t, r.Err, fetch.ErrCanceled)
		}
	}
	h.requireNone(t)
	require.Len(t, h.gone, 1)
	require.ErrorContains(t, h.gone[0].Err, "was killed: it did not end within 50ms when it was told to")
}

// Large results and a slow loop: the children wait, and nothing waits for ever.
func TestShardSlowLoop(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2, Each: fetch.Pool{Workers: 4}}}
	received := 0
	var live atomic.Int64
	for r := range f.Fetch(t.Context(), urls(200, func(int) string { return "http://large.test/" })) {
		require.Len(t, r.Body, 1<<20, "%v", r.Err)
		if received++; received%50 == 0 {
			time.Sleep(50 * time.Millisecond)
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			live.Store(max(live.Load(), int64(m.HeapAlloc)))
		}
	}
	require.Equal(t, 200, received)
	assert.Less(t, live.Load(), int64(2*f.Strategy.Limits().Ahead+16)<<20, "bytes of live heap, for bodies of 1 MiB")
}

// A child is no place for children.
func TestShardInShard(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}}
	for r := range f.Get(t.Context(), "http://nested.test/") {
		require.ErrorIs(t, r.Err, fetch.ErrLost)
		require.ErrorContains(t, r.Err, "this process is itself a child")
	}
	assert.PanicsWithValue(t, fmt.Sprintf("fetch: Shard.Each is shard(%d,pool(64)): children have no children", runtime.GOMAXPROCS(0)), func() {
		fetch.Shard{Each: fetch.Shard{}}.Limits()
	})
	assert.PanicsWithValue(t, "fetch: Shard.Each is batch(3,pool(64)): put the Shard into the Batch, as its Each", func() {
		fetch.Shard{Each: fetch.Batch{Size: 3}}.Limits()
	})
	assert.PanicsWithValue(t, "fetch: Shard.Processes is -1", func() { fetch.Shard{Processes: -1}.Limits() })
	assert.PanicsWithValue(t, "fetch: Shard's requests at once, Processes times those of Each, is 2000000: at most 1048576", func() {
		fetch.Shard{Processes: 2, Each: fetch.Pool{Workers: 1_000_000}}.Limits()
	})
	assert.PanicsWithValue(t, "fetch: Shard.Hang is -1s", func() { fetch.Shard{Hang: -time.Second}.Limits() })
	assert.PanicsWithValue(t, "fetch: Pool.Workers is -1", func() {
		fetch.Shard{Each: fetch.Pool{Workers: -1}}.Limits()
	})
}

// elsewhere is a strategy of another package whose requests are performed elsewhere.
type elsewhere struct{ fetch.Pool }

func (elsewhere) Remote() string { return "give it to elsewhere.Main" }

// A Doer that would not perform the requests is not dropped silently: it may have an address
// policy.
func TestShardWithADoer(t *testing.T) {
	for _, c := range []struct {
		strategy fetch.Strategy
		want     string
	}{
		{fetch.Shard{Processes: 2}, "fetch: Fetcher.Doer does not perform the requests of shard(2,pool(64)), and has to be nil: give it to fetch.ShardMain(doer), first thing in main"},
		{&fetch.Shard{Processes: 2}, "give it to fetch.ShardMain(doer)"},
		{fetch.Batch{Each: fetch.Shard{Processes: 2}}, "the requests of batch(10000,shard(2,pool(64))), and has to be nil: give it to fetch.ShardMain(doer)"},
		{elsewhere{}, "fetch: Fetcher.Doer does not perform the requests of pool(64), and has to be nil: give it to elsewhere.Main"},
	} {
		f := fetch.Fetcher{Strategy: c.strategy, Doer: &fetch.Client{AllowAddr: fetch.PublicOnly}}
		for name, run := range map[string]func(){
			"Get":        func() { f.Get(t.Context(), "http://127.0.0.1/") },
			"Stream":     func() { f.Stream(t.Context(), make(chan fetch.Request)) },
			"FetchQueue": func() { f.FetchQueue(t.Context(), &fetch.Queue{}) },
		} {
			func() {
				defer func() { assert.Contains(t, recover(), c.want, name) }()
				run()
			}()
		}
	}
	f := fetch.Fetcher{Strategy: fetch.Batch{Each: fetch.Pool{}}, Doer: fetch.DefaultClient}
	assert.NotPanics(t, func() { f.Get(t.Context()) })
}

// The Tag stays here, and the Index crosses. Where a response came from crosses if it is elsewhere.
func TestShardTagIndexURL(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2}, Ordered: true}
	tag := t // cannot be encoded
	i := 0
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for _, host := range []string{"tag", "moved", "error", "tag"} {
			if !yield(fetch.Request{Index: 99, URL: "http://" + host + ".test/", Tag: tag}) {
				return
			}
		}
	}) {
		assert.Same(t, tag, r.Request.Tag)
		assert.Equal(t, i, r.Request.Index)
		switch i {
		case 0, 3:
			assert.Equal(t, fmt.Sprint(i, " <nil>"), string(r.Body))
			assert.Equal(t, "http://tag.test/", r.URL)
		case 1:
			assert.Equal(t, "http://moved.test/there", r.URL)
		case 2:
			assert.ErrorContains(t, r.Err, "TLS")
			assert.Empty(t, r.URL, "no response came")
		}
		i++
	}
	assert.Equal(t, 4, i)
}

// A redirect that a child's engine follows is told as it is without children.
func TestShardRedirect(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ping" {
			http.Redirect(w, r, "/there?q", http.StatusFound)
		}
	}))
	defer server.Close()
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1}}
	assert.Equal(t, server.URL+"/there?q", one(t, &f, fetch.Request{URL: server.URL + "/ping"}).URL)
	assert.Equal(t, server.URL+"/else/ping", one(t, &f, fetch.Request{URL: server.URL + "/else/ping"}).URL)
}

// A retry is the loop's: whichever child has it, it counts.
func TestShardRetry(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.URL.RawQuery]++
		if n, _ := strconv.Atoi(r.URL.RawQuery); n%3 == 0 && seen[r.URL.RawQuery] < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	retries := 0
	f := fetch.Fetcher{
		Strategy: fetch.Shard{Processes: 2, Each: fetch.Pool{Workers: 4}},
		Retry:    &fetch.Retry{Backoff: time.Millisecond, Budget: 1},
		Trace: func(e fetch.Event) {
			if e.Kind == fetch.EventRetry { // on the loop's goroutine
				retries++
				assert.Equal(t, http.StatusServiceUnavailable, e.Status)
			}
		},
	}
	const n = 60
	for r := range f.Fetch(t.Context(), urls(n, func(i int) string { return fmt.Sprint(server.URL, "/ping?", i) })) {
		require.True(t, r.OK(), "%v", r.Failure())
		want := 1
		if r.Request.Index%3 == 0 {
			want = 3
		}
		assert.Equal(t, want, r.Attempts)
	}
	assert.Equal(t, 2*n/3, retries)
	// A child that ended counts as an attempt of the request, though not as one for Retry.
	marker := filepath.Join(t.TempDir(), "marker")
	assert.Equal(t, 2, one(t, &f, fetch.Request{URL: "http://once.test/", Body: []byte(marker)}).Attempts)
}

// The limit of a host holds over all children together, and is reached.
func TestShardPerHost(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.Latency(5*time.Millisecond))
	f := fetch.Fetcher{
		Strategy: fetch.Shard{Processes: 4, Each: fetch.Pool{Workers: 4}},
		PerHost:  &fetch.PerHost{Limit: 4},
	}
	for r := range f.Fetch(t.Context(), urls(200, server.Ping)) {
		require.True(t, r.OK(), "%v", r.Err)
	}
	assert.Equal(t, 4, server.PeakInFlight())
	assert.Equal(t, 200, server.Requests())
}

// One rate holds over all children together.
func TestShardRate(t *testing.T) {
	server := fetchtest.NewServer(t)
	const n, perSecond = 100, 500
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 4}, Rate: rate.NewLimiter(perSecond, 1)}
	begun := time.Now()
	for r := range f.Fetch(t.Context(), urls(n, server.Ping)) {
		require.True(t, r.OK(), "%v", r.Err)
	}
	assert.GreaterOrEqual(t, time.Since(begun), (n-1)*time.Second/perSecond)
	assert.Equal(t, n, server.Requests())
}

// A dead host among 100 does not hold up the others.
func TestShardDeadHost(t *testing.T) {
	const hosts, each = 100, 10
	others := func(dead string) time.Duration {
		f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 2, Each: fetch.Pool{Workers: 32}}, PerHost: &fetch.PerHost{Limit: 2}}
		begun := time.Now()
		received := 0
		for r := range f.Fetch(t.Context(), urls(hosts*each, func(i int) string {
			if i%hosts == 7 {
				return "http://" + dead + ".test/"
			}
			return fmt.Sprintf("http://quick.test:%d/", 1000+i%hosts)
		})) {
			if i := r.Request.Index; i%hosts == 7 {
				continue
			}
			require.True(t, r.OK(), "%v", r.Err)
			if received++; received == (hosts-1)*each {
				break
			}
		}
		return time.Since(begun)
	}
	alive, dead := others("quick"), others("dead")
	t.Logf("%v with all hosts alive, %v with a dead one", alive, dead)
	assert.Less(t, dead, 2*alive+time.Second, "each request to the dead host takes 10 s")
}

// Ordered changes only the order.
func TestShardOrdered(t *testing.T) {
	f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 3, Each: fetch.Pool{Workers: 4}}, Ordered: true}
	next := 0
	for r := range f.Fetch(t.Context(), urls(300, func(i int) string {
		return []string{"http://quick.test/", "http://ok.test/", "http://panic.test/"}[i%7%3]
	})) {
		require.Equal(t, next, r.Request.Index)
		next++
	}
	require.Equal(t, 300, next)
}
