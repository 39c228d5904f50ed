package fetch

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"fetchbench/fetch/internal/process"
	"fetchbench/fetch/internal/rules"
)

// Shard spreads the requests over child processes of this same program, each of which runs the
// strategy Each. It is for what one process cannot do well: use more cores than one Go runtime
// keeps busy, have a heap for each, or survive a Doer that crashes. Each Fetch starts its own
// children, with connections of their own, so one long Fetch costs less than many short ones. Each
// child takes a thread of this process, too.
//
// The program has to call [ShardMain] first, which gives the children their Doer. A [Fetcher] with
// a Shard and a Doer panics. Values in the context do not cross to another process: the children
// have a context of their own, which is canceled when the caller's is done. A child whose Doer has
// not returned 50 ms later is killed. At the end of the input a child that has nothing under way
// may take up to 2 s to end.
//
// The limit is that of Each, times Processes: 64 times GOMAXPROCS for the zero value. Requests go
// to whichever child has room; a child holds up to twice the limit of Each. The Fetcher's policies
// hold for all children together. For batches, put the Shard into a [Batch].
//
// A child that ends or hangs is replaced, and its unanswered requests go to others. So a URL may be
// fetched more than once, but has one result, whose Attempts counts the other children that had it,
// too. Requests that must not be repeated (see [Retry]) are not, since they may have been sent: all
// those that the child had fail with errors of kind [ErrLost]. When no child is left and none may
// be started, so do all requests that remain.
//
// Of an error, the text crosses to the parent, its [Kind], and what errors.Is says of the context's
// errors, system error numbers and the like; other types and values do not. The Value of a
// [PanicError] comes as its text.
//
// Whatever a child prints, on stdout too, appears on this process's stderr; its stdin is empty. The
// processors are divided among the children: each has GOMAXPROCS/Processes, rounded up. The
// children end before the loop does, or within a second if this process is killed. Shard needs a
// Unix system; elsewhere all results are errors that wrap [errors.ErrUnsupported].
type Shard struct {
	// Processes is the number of child processes, at most 1024. 0 means GOMAXPROCS.
	Processes int
	// Each is the strategy that each child runs. nil means Pool{}. A strategy from another package
	// must be registered with gob.Register, and only its exported fields cross.
	Each Strategy
	// Attempts is how many children a request is handed to at most. It is handed to another child if
	// the one that had it ended without a result. 0 means 3. On its last attempt, if that is not its
	// first, a request has a child to itself, so that if it crashes the child, no other request is
	// lost.
	Attempts int
	// Restarts is how many children are replaced in one run. 0 means 16 for each process. One that
	// could not be started is tried again, uncounted, while another is ready; if none ever was, it is
	// not.
	Restarts int
	// Hang is how long a child that has requests may go without a result before it is killed; a
	// result that is on its way counts. 0 means 5 minutes; it has to be more than a Doer may take,
	// which by default is 30 s for [Client]. A process that has stopped altogether is noticed after
	// 10 s, or Hang if that is less.
	Hang time.Duration
}

// defaults returns s with defaults in place of zeros, and the limit of Each.
func (s Shard) defaults() (Shard, int) {
	s.Processes = limit("Shard.Processes", s.Processes, runtime.GOMAXPROCS(0), 1024)
	s.Attempts = limit("Shard.Attempts", s.Attempts, 3, maxLimit)
	s.Restarts = limit("Shard.Restarts", s.Restarts, 16*s.Processes, maxLimit)
	notNegative("Shard.Hang", s.Hang)
	if s.Hang == 0 {
		s.Hang = 5 * time.Minute
	}
	if s.Each == nil {
		s.Each = Pool{}
	}
	if performsElsewhere(s.Each) != "" {
		panic("fetch: Shard.Each is " + s.Each.String() + ": children have no children")
	}
	l := limitsOf(s.Each)
	if l.Batch > 0 {
		panic("fetch: Shard.Each is " + s.Each.String() + ": put the Shard into the Batch, as its Each")
	}
	limit("Shard's requests at once, Processes times those of Each,", s.Processes*l.InFlight, 0, maxLimit)
	return s, l.InFlight
}

// Limits implements [Strategy].
func (s Shard) Limits() Limits {
	s, each := s.defaults()
	return twice(s.Processes * each)
}

func (s Shard) String() string {
	s, _ = s.defaults()
	return fmt.Sprintf("shard(%d,%v)", s.Processes, s.Each)
}

// Remote implements [RemoteStrategy].
func (Shard) Remote() string { return "give it to fetch.ShardMain(doer), first thing in main" }

// A shardHello is the first message sent to a child.
type shardHello struct {
	Each  Strategy
	Procs int // its GOMAXPROCS
}

func init() {
	for _, s := range []Strategy{Serial{}, Threads{}, Pool{}, Semaphore{}, Pipeline{}, Batch{}} {
		gob.Register(s)
	}
}

// Start implements [Strategy]. The Doer is not used: see [ShardMain].
func (s Shard) Start(ctx context.Context, _ Doer) Executor {
	s, each := s.defaults()
	x := &shardRun{ctx: ctx, results: make(chan Result, 2*s.Processes*each)}
	x.group = process.NewGroup(ctx, process.Config{
		Processes: s.Processes,
		Window:    2 * each,
		Attempts:  s.Attempts,
		Restarts:  s.Restarts,
		Hang:      s.Hang,
		Hello:     s.hello,
		Main:      "fetch.ShardMain(doer)",
	}, x)
	return x
}

func (s Shard) hello() ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(shardHello{s.Each, (runtime.GOMAXPROCS(0) + s.Processes - 1) / s.Processes})
	if err != nil {
		err = fmt.Errorf("Shard.Each cannot be sent to a child process, see gob.Register: %w", err)
	}
	return b.Bytes(), err
}

// A shardRun is the Executor of a Shard, and the Handler of its children's tasks.
type shardRun struct {
	ctx     context.Context
	group   *process.Group[*Request, Result]
	results chan Result
}

func (x *shardRun) Submit(r *Request)      { x.group.Submit(r) }
func (x *shardRun) Flush()                 {}
func (x *shardRun) Results() <-chan Result { return x.results }
func (x *shardRun) Close()                 { x.group.Close() }

func (x *shardRun) Encode(b []byte, r *Request) (fields, body []byte) {
	return appendRequest(b, r), r.Body
}
func (x *shardRun) Decode(payload []byte) (Result, error) { return decodeResult(payload) }
func (x *shardRun) Repeatable(r *Request) bool            { return rules.Repeatable(r.Method, r.Header) }

func (x *shardRun) Done(r *Request, res Result, others int) {
	res.Request = r
	res.Attempts += others
	if x.ctx.Err() != nil && (KindOf(res.Err) == ErrCanceled || errors.Is(res.Err, context.Canceled)) {
		res.Err = contextError(x.ctx, r) // which knows the caller's cause
	}
	x.results <- res
}

func (x *shardRun) Lost(r *Request, tries int, err error) {
	if err == x.ctx.Err() {
		x.results <- Result{Request: r, Err: contextError(x.ctx, r)}
	} else {
		x.results <- Result{Request: r, Attempts: tries, Err: newError(ErrLost, r, err)}
	}
}

func (x *shardRun) Event(child int, payload []byte) error {
	e, err := decodeEvent(payload)
	if err == nil {
		e.Shard = child
		Emit(x.ctx, e)
	}
	return err
}

func (x *shardRun) Started(i process.Info) {
	Emit(x.ctx, Event{Kind: EventShardUp, Shard: i.Number, PID: i.PID, Duration: i.Startup})
}

func (x *shardRun) Ended(i process.Info, unanswered int, err error) {
	Emit(x.ctx, Event{Kind: EventShardDown, Shard: i.Number, PID: i.PID, Duration: i.Startup, Unanswered: unanswered, Err: err})
}

// ShardMain has to be called first in the main of a program that uses [Shard], or in the TestMain
// of its tests: before anything that should happen only once, since the children run all that comes
// before the call, too. It returns at once, but in a child process it fetches through d, and never
// returns; deferred calls do not run. d is nil for [DefaultClient].
//
// A child has the arguments and the environment of its parent, so d may be made of either; parsing
// flags for it is what may come before the call. Without the call a Shard fails at once, since its
// children would run the program once more. One that does not come to the call within 5 s is
// killed, and none can have children of its own.
//
// A child does not end by an interrupt from the terminal, but leaves that to its parent.
func ShardMain(d Doer) {
	parent := process.Connect()
	if parent == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil { // its strategy did
			fmt.Fprintf(os.Stderr, "fetch: child process of a Shard: panic: %v\n\n%s", v, debug.Stack())
			os.Exit(2)
		}
		os.Exit(3) // d ended this goroutine by runtime.Goexit
	}()
	if err := serveShard(parent, doerOr(d)); err != nil {
		fmt.Fprintln(os.Stderr, "fetch: child process of a Shard:", err)
		os.Exit(2)
	}
	os.Exit(0)
}

// serveShard performs the requests that come from parent until there are no more.
func serveShard(parent *process.Parent, d Doer) error {
	var hello shardHello
	if err := gob.NewDecoder(bytes.NewReader(parent.Hello)).Decode(&hello); err != nil {
		return fmt.Errorf("the strategy that it was sent: %w", err)
	}
	runtime.GOMAXPROCS(hello.Procs)
	limits := hello.Each.Limits()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	parent.Ready(cancel)

	requests := make(chan *Request, 2*limits.InFlight) // the parent sends no more than that
	go func() {
		parent.Receive(func(id uint64, payload []byte) error {
			r, err := decodeRequest(payload)
			if err == nil {
				r.state.id = id
				requests <- r
			}
			return err
		})
		close(requests)
	}()

	x := hello.Each.Start(withTrace(ctx, func(e Event) { parent.SendEvent(appendEvent(nil, &e)) }), d)
	results, out := x.Results(), 0
	var fields []byte
	for in := requests; in != nil || out > 0; {
		next := in
		if out == limits.Ahead {
			next = nil
		}
		if len(next) == 0 && len(results) == 0 {
			runtime.Gosched() // others may be about to send
		}
		if len(next) == 0 && len(results) == 0 {
			parent.Flush()
			if out > 0 {
				x.Flush()
			}
		}
		select {
		case r, ok := <-next:
			if !ok {
				in = nil
				continue
			}
			out++
			x.Submit(r)
		case res := <-results:
			id := res.Request.state.id
			if id == 0 {
				panic(fmt.Sprintf("fetch: the executor of %v returned a result that is not of a request that is out", hello.Each))
			}
			out--
			res.Request.state.id = 0
			fields = appendResult(fields[:0], &res)
			if err := parent.SendResult(id, fields, res.Body); err != nil {
				res = Result{Status: res.Status, Attempts: res.Attempts, Duration: res.Duration, Err: newError(ErrTooLarge, res.Request, err)}
				parent.SendResult(id, appendResult(nil, &res), nil)
			}
		}
	}
	x.Close()
	parent.Flush()
	return nil
}
