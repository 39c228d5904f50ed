//go:build unix

package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// programEnv names what this test binary does in place of the tests.
const programEnv = "PROCESS_TEST_PROGRAM"

func init() {
	childMain = func() {
		program := os.Getenv(programEnv)
		if program == "exits" && isChild {
			os.Exit(5)
		}
		if program == "sleeps" && isChild {
			time.Sleep(time.Minute)
		}
		if program != "does not connect" {
			if p := Connect(); p != nil {
				serve(p)
			}
		}
		if program == "" {
			return
		}
		h := newHandler()
		h.started = func(i Info) { fmt.Println("started", i.PID) }
		g := NewGroup(context.Background(), config(3), h)
		for range 3 {
			g.Submit(&job{text: "wait"})
		}
		for range 3 {
			fmt.Println((<-h.outcomes).err)
		}
		g.Close()
		os.Exit(0)
	}
}

// serve is a child. It performs up to a window of tasks at once.
func serve(p *Parent) {
	if string(p.Hello) != "hello" {
		os.Exit(9)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.Ready(cancel)
	emit := func(event string) { p.SendEvent([]byte(event)) }
	var running sync.WaitGroup
	p.Receive(func(id uint64, payload []byte) error {
		running.Go(func() {
			perform, arg, _ := strings.Cut(string(payload), " ")
			text := performers[perform](ctx, arg, emit)
			if err := p.SendResult(id, []byte(text[:len(text)/2]), []byte(text[len(text)/2:])); err != nil {
				p.SendResult(id, []byte(err.Error()), nil)
			}
			p.Flush()
		})
		return nil
	})
	running.Wait()
	os.Exit(0)
}

// performers are what the tasks of these tests ask for.
var performers = map[string]func(ctx context.Context, arg string, emit func(string)) string{
	"echo": func(_ context.Context, arg string, _ func(string)) string { return arg },
	"pid":  func(context.Context, string, func(string)) string { return strconv.Itoa(os.Getpid()) },
	"wait": func(ctx context.Context, _ string, emit func(string)) string {
		emit("waits")
		<-ctx.Done()
		return "aborted"
	},
	"slow": func(context.Context, string, func(string)) string { time.Sleep(300 * time.Millisecond); return "slow" },
	"emit": func(_ context.Context, arg string, emit func(string)) string { emit(arg); return "emitted" },
	"spoil": func(ctx context.Context, _ string, emit func(string)) string {
		emit("malformed")
		<-ctx.Done()
		return ""
	},
	"exit": func(context.Context, string, func(string)) string { os.Exit(7); return "" },
	"end":  func(context.Context, string, func(string)) string { os.Exit(0); return "" },
	"hang": func(_ context.Context, _ string, emit func(string)) string { emit("hangs"); select {} },
	"stop": func(ctx context.Context, _ string, _ func(string)) string {
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		<-ctx.Done()
		return "continued"
	},
	"once": func(_ context.Context, file string, _ func(string)) string { // exits the first time only
		if f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			f.Close()
			os.Exit(7)
		}
		return "twice"
	},
	"garbage": func(ctx context.Context, _ string, _ func(string)) string {
		syscall.Write(4, bytes.Repeat([]byte("garbage"), 100))
		<-ctx.Done()
		return ""
	},
	"steal": func(ctx context.Context, _ string, _ func(string)) string { // a byte of a task
		for n := 0; n != 1; n, _ = syscall.Read(3, make([]byte, 1)) {
			time.Sleep(time.Microsecond)
		}
		<-ctx.Done()
		return ""
	},
	"close": func(context.Context, string, func(string)) string { syscall.Close(4); return "" },
}

// A job is a task of these tests.
type job struct {
	n     int
	text  string
	once  bool   // not repeatable
	large []byte // sent, too
}

// An outcome is what a handler was told of a job.
type outcome struct {
	*job
	what   string // done, lost or canceled
	result string
	tries  int // others, or all
	err    error
}

type handler struct {
	outcomes chan outcome
	started  func(Info)
	emitted  func()

	mu     sync.Mutex
	alive  map[int]bool
	up     []Info
	gone   []error
	left   []int // unanswered, of those gone
	events []string
}

func newHandler() *handler {
	return &handler{outcomes: make(chan outcome, 10_000), alive: map[int]bool{}, started: func(Info) {}, emitted: func() {}}
}

func (h *handler) Encode(b []byte, j *job) (fields, body []byte) {
	return append(b, j.text...), j.large
}

func (h *handler) Decode(payload []byte) (string, error) {
	if string(payload) == "malformed" {
		return "", errors.New("malformed")
	}
	return string(payload), nil
}
func (h *handler) Repeatable(j *job) bool { return !j.once }
func (h *handler) Done(j *job, result string, others int) {
	h.outcomes <- outcome{j, "done", result, others, nil}
}
func (h *handler) Lost(j *job, tries int, err error) {
	what := "lost"
	if err == context.Canceled { // ctx is done
		what = "canceled"
	}
	h.outcomes <- outcome{j, what, "", tries, err}
}

func (h *handler) Event(child int, payload []byte) error {
	if string(payload) == "malformed" {
		return errors.New("malformed")
	}
	h.emitted()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, fmt.Sprint(child, " ", string(payload)))
	return nil
}

func (h *handler) Started(i Info) {
	h.started(i)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alive[i.PID] = true
	h.up = append(h.up, i)
}

func (h *handler) Ended(i Info, unanswered int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.alive, i.PID)
	h.gone = append(h.gone, err)
	h.left = append(h.left, unanswered)
}

// kill sends sig to a child, if one is ready that has not had a signal.
func (h *handler) kill(sig syscall.Signal) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for pid, ok := range h.alive {
		if ok {
			h.alive[pid] = false
			return syscall.Kill(pid, sig) == nil
		}
	}
	return false
}

const window = 8

func config(processes int) Config {
	return Config{
		Processes: processes,
		Window:    window,
		Attempts:  3,
		Restarts:  100,
		Hang:      time.Second,
		Hello:     func() ([]byte, error) { return []byte("hello"), nil },
		Main:      "test.Main()",
	}
}

// do has a Group do jobs, calls each after each outcome, and returns the outcomes in the order of
// the jobs.
func do(t *testing.T, c Config, h *handler, jobs []*job, each func(received int)) []outcome {
	t.Helper()
	g := NewGroup(t.Context(), c, h)
	all := make([]outcome, len(jobs))
	received := 0
	receive := func() {
		o := <-h.outcomes
		require.Nil(t, all[o.n].job, "a second outcome of %v", o)
		all[o.n] = o
		received++
		if each != nil {
			each(received)
		}
	}
	for i, j := range jobs {
		if i-received == c.Processes*c.Window {
			receive()
		}
		j.n = i
		g.Submit(j)
	}
	for received < len(jobs) {
		receive()
	}
	g.Close()
	require.Empty(t, h.outcomes)
	require.Empty(t, h.alive)
	for _, i := range h.up {
		require.ErrorIs(t, syscall.Kill(i.PID, 0), syscall.ESRCH, "process %d", i.PID)
	}
	return all
}

// echoes is n jobs, but for those that odd has.
func echoes(n int, odd map[int]*job) []*job {
	jobs := make([]*job, n)
	for i := range jobs {
		jobs[i] = &job{text: fmt.Sprint("echo ", i)}
		if j := odd[i]; j != nil {
			jobs[i] = j
		}
	}
	return jobs
}

func requireEcho(t *testing.T, o outcome) {
	t.Helper()
	require.Equal(t, "done", o.what, "job %d: %v", o.n, o.err)
	require.Equal(t, fmt.Sprint(o.n), o.result)
}

// Each task has one result, and the children end when they are told to.
func TestGroup(t *testing.T) {
	h := newHandler()
	for _, o := range do(t, config(3), h, echoes(2000, nil), nil) {
		requireEcho(t, o)
		require.Zero(t, o.tries)
	}
	require.NotEmpty(t, h.up, "one child may do all before the others are ready")
	for _, i := range h.up {
		assert.Positive(t, i.Startup)
		assert.Contains(t, []int{0, 1, 2}, i.Number)
	}
	assert.Equal(t, []error{nil, nil, nil}, h.gone)
	assert.Equal(t, []int{0, 0, 0}, h.left)
}

// The child that is ready first leaves to the others half of its window.
func TestGroupStart(t *testing.T) {
	jobs := make([]*job, 3*window/2)
	for i := range jobs {
		jobs[i] = &job{text: "slow"}
	}
	h := newHandler()
	for _, o := range do(t, config(3), h, jobs, nil) {
		require.Equal(t, "slow", o.result, "%v", o.err)
	}
	require.Len(t, h.up, 3)
}

// Children that are killed cost no result.
func TestGroupKills(t *testing.T) {
	const n, kills = 5000, 10
	h := newHandler()
	killed := 0
	for _, o := range do(t, config(3), h, echoes(n, nil), func(received int) {
		if received > killed*n/(kills+2) && killed < kills && h.kill(syscall.SIGKILL) {
			killed++
		}
	}) {
		requireEcho(t, o)
	}
	require.Equal(t, kills, killed)
	bad := 0
	for i, err := range h.gone {
		if err != nil {
			bad++
			assert.ErrorContains(t, err, "signal: killed")
			assert.LessOrEqual(t, h.left[i], window)
		}
	}
	assert.Equal(t, kills, bad)
}

// A task that ruins its process is lost alone, after as many attempts as it may have.
func TestGroupPoison(t *testing.T) {
	for _, poison := range []struct{ text, want string }{
		{"exit", "ended: exit status 7"},
		{"end", "ended by itself"},
		{"garbage", "sent what is not a frame"},
		{"spoil", "sent what is not a frame"},
		{"echo malformed", "sent what is not a frame"},
		{"close", "exit status"},
		{"hang", "no result came for 1s: see Hang"},
		{"stop", "no sign of life for 1s"},
	} {
		for _, attempts := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/%d attempts", poison.text, attempts), func(t *testing.T) {
				t.Parallel()
				c := config(2)
				c.Attempts = attempts
				h := newHandler()
				lost := 0
				for _, o := range do(t, c, h, echoes(100, map[int]*job{40: {text: poison.text}}), nil) {
					if o.what == "done" {
						requireEcho(t, o)
						continue
					}
					lost++
					require.Equal(t, "lost", o.what)
					require.ErrorContains(t, o.err, poison.want)
					require.Equal(t, attempts, o.tries)
					if attempts > 1 {
						require.Equal(t, 40, o.n, "another task")
						require.ErrorContains(t, o.err, fmt.Sprintf("children that had it and ended before: %d", attempts-1))
					}
				}
				if attempts > 1 {
					require.Equal(t, 1, lost)
				} else {
					require.LessOrEqual(t, lost, window)
				}
				require.Len(t, h.gone, 2+attempts, "each child that it ruined is replaced")
			})
		}
	}
}

// Another child does the task of one that ended.
func TestGroupAttempts(t *testing.T) {
	once := &job{text: "once " + filepath.Join(t.TempDir(), "marker")}
	o := do(t, config(2), newHandler(), []*job{once}, nil)[0]
	assert.Equal(t, "twice", o.result)
	assert.Equal(t, 1, o.tries, "others")
}

// A task that must not be repeated is not, be it the one to blame or not.
func TestGroupRepeatable(t *testing.T) {
	jobs := []*job{{text: "wait", once: true}, {text: "exit", once: true}, {text: "exit"}}
	for _, o := range do(t, config(1), newHandler(), jobs, nil) {
		require.Equal(t, "lost", o.what)
		if o.once {
			assert.Equal(t, 1, o.tries)
			assert.ErrorContains(t, o.err, "exit status 7; not repeated, since it may have been sent")
		} else {
			assert.Equal(t, 3, o.tries)
		}
	}
}

// When no child is left and none may be started, each task still has its outcome.
func TestGroupRestarts(t *testing.T) {
	jobs := make([]*job, 100)
	for i := range jobs {
		jobs[i] = &job{text: "exit"}
	}
	c, h := config(2), newHandler()
	c.Restarts, c.Attempts = 3, 100
	for _, o := range do(t, c, h, jobs, nil) {
		require.Equal(t, "lost", o.what)
		require.ErrorContains(t, o.err, "3 children were replaced before: see Restarts")
	}
	assert.Len(t, h.up, 5)
}

// A child that gets no whole tasks is replaced, and does nothing wrongly.
func TestGroupStolenByte(t *testing.T) {
	h := newHandler()
	jobs := echoes(400, map[int]*job{20: {text: "steal", once: true}})
	for _, o := range do(t, config(1), h, jobs, func(int) { time.Sleep(100 * time.Microsecond) }) {
		if o.n == 20 {
			assert.Equal(t, "lost", o.what)
			assert.ErrorContains(t, o.err, "exit status 2")
		} else {
			requireEcho(t, o)
		}
	}
	assert.Len(t, h.up, 2)
}

// Events arrive in order, with the number of the child.
func TestGroupEvents(t *testing.T) {
	h := newHandler()
	for _, text := range []string{"a", "b", ""} {
		h.events = nil
		assert.Equal(t, "emitted", do(t, config(1), h, []*job{{text: "emit " + text}}, nil)[0].result)
		assert.Equal(t, []string{"0 " + text}, h.events)
	}
}

// zeros returns n bytes that take no memory.
func zeros(t *testing.T, n int) []byte {
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Munmap(b) })
	return b
}

// What does not fit into a frame costs its own task only.
func TestGroupTooLarge(t *testing.T) {
	h := newHandler()
	jobs := []*job{{text: "echo 0"}, {text: "echo ", large: zeros(t, maxFrame+1)}, {text: "echo 2"}}
	for _, o := range do(t, config(1), h, jobs, nil) {
		if o.n == 1 {
			assert.Equal(t, "lost", o.what)
			assert.Zero(t, o.tries)
			assert.Equal(t, errTooLarge, o.err)
		} else {
			requireEcho(t, o)
		}
	}
	assert.Equal(t, []error{nil}, h.gone)
}

// A hello that cannot be made is why all tasks are lost. A panic is the caller's.
func TestGroupHello(t *testing.T) {
	c, h := config(2), newHandler()
	c.Hello = func() ([]byte, error) { return nil, errors.New("no hello") }
	for _, o := range do(t, c, h, echoes(50, nil), nil) {
		assert.EqualError(t, o.err, "no hello")
		assert.Zero(t, o.tries)
	}
	assert.Empty(t, h.gone)

	c.Hello = func() ([]byte, error) { panic("no way") }
	assert.PanicsWithValue(t, "no way", func() { NewGroup(t.Context(), c, h) })

	c = config(2)
	c.Hello = func() ([]byte, error) { return []byte("another"), nil }
	for _, o := range do(t, c, newHandler(), echoes(20, nil), nil) {
		assert.ErrorContains(t, o.err, "ended before it was ready: exit status 9")
	}
}

// The end of ctx ends the children: at once, and by force if their tasks do not care.
func TestGroupCancel(t *testing.T) {
	for _, c := range []struct {
		text, what string
		err        string // of the children
	}{
		{"wait", "done", ""},
		{"hang", "canceled", "was killed: it did not end within 50ms when it was told to"},
	} {
		t.Run(c.text, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			h := newHandler()
			var underWay sync.WaitGroup
			underWay.Add(2 * window)
			h.emitted = underWay.Done
			g := NewGroup(ctx, config(2), h)
			for i := range 2 * window {
				g.Submit(&job{n: i, text: c.text})
			}
			underWay.Wait()
			cancel()
			for range 2 * window {
				o := <-h.outcomes
				assert.Equal(t, c.what, o.what, "%v", o.err)
			}
			begun := time.Now()
			g.Close()
			assert.Less(t, time.Since(begun), 5*time.Second)
			require.Len(t, h.gone, 2)
			for _, err := range h.gone {
				if c.err == "" {
					assert.NoError(t, err)
				} else {
					assert.ErrorContains(t, err, c.err)
				}
			}
		})
	}
}

// program runs this test binary as a program, and returns what it prints.
func program(t *testing.T, name string, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), programEnv+"="+name), env...)
	out, err := cmd.Output()
	require.NoError(t, err)
	return string(out)
}

// A program whose children would not come to Connect is told so.
func TestGroupWithoutConnect(t *testing.T) {
	const advice = "the program has to call test.Main() first thing in main, or in TestMain\n"
	for name, want := range map[string]string{
		"does not connect": "",
		"exits":            "ended before it was ready: exit status 5: see its stderr, or: ",
		"sleeps":           "was killed: it did not answer: ",
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name == "sleeps" {
				t.Skip("5 s of patience")
			}
			out := program(t, name)
			assert.Equal(t, 3, strings.Count(out, want+advice), "%s", out)
		})
	}
}

// A process that inherited a child's environment is not a child, and may not have children either,
// lest a program fork without end.
func TestGroupOfAChild(t *testing.T) {
	out := program(t, "marked", childEnv+"=1")
	assert.Equal(t, 3, strings.Count(out, "this process is itself a child, and can have no children"), "%s", out)
}

// When a program is killed its children end by themselves: those that wait, and one that is
// stopped.
func TestGroupParentKilled(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), programEnv+"=orphans")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	var pids []int
	for len(pids) < 3 && lines.Scan() {
		pid, err := strconv.Atoi(strings.TrimPrefix(lines.Text(), "started "))
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	require.Len(t, pids, 3)
	if stopsOrphans {
		require.NoError(t, syscall.Kill(pids[0], syscall.SIGSTOP))
	}
	require.False(t, slices.ContainsFunc(pids, ended))
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	for _, pid := range pids {
		assert.Eventually(t, func() bool { return ended(pid) }, 2*time.Second, 10*time.Millisecond, "process %d", pid)
	}
}

var (
	// ended reports whether a process that is not a child of this one has ended.
	ended = func(pid int) bool { return syscall.Kill(pid, 0) != nil }
	// stopsOrphans: a child that is stopped ends with its parent, too.
	stopsOrphans = false
)
