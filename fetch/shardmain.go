package fetch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"fetchbench/fetch/internal/wake"
)

// ShardMain has to be called first in the main of a program that uses [Shard], or in the
// TestMain of its tests: before anything that should happen only once, since the children
// run all that comes before the call, too. It returns at once, but in a child process it
// fetches through d, and never returns; deferred calls do not run. d is nil for
// [DefaultClient].
//
// A child has the arguments and the environment of its parent, so d may be made of either;
// parsing flags for it is what may come before the call. Without the call a Shard fails at once,
// since its children would run the program once more. One that does not come to the call within 5 s is
// killed, and none can have children of its own.
//
// A child does not end by an interrupt from the terminal, but leaves that to its parent.
func ShardMain(d Doer) {
	shardMainCalled.Store(true)
	in, out, ok := shardPipes()
	if !ok {
		return
	}
	d = doerOr(d)
	// Not signal.Ignore, which processes that d starts would inherit.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	code := 3 // if d ends this goroutine by runtime.Goexit
	defer func() {
		if v := recover(); v != nil { // its strategy did
			fmt.Fprintf(os.Stderr, "fetch: child process of a Shard: panic: %v\n\n%s", v, debug.Stack())
			code = 2
		}
		os.Exit(code)
	}()
	if err := serveShard(in, out, d); err != nil {
		fmt.Fprintln(os.Stderr, "fetch: child process of a Shard:", err)
		code = 2
		return
	}
	code = 0
}

// shardMainCalled: the children of this process will come to ShardMain, too.
var shardMainCalled atomic.Bool

// orphanGrace is what a Doer has to notice that its context is done, when the parent is gone.
const orphanGrace = 500 * time.Millisecond

// serveShard performs the requests that come from in, and sends their results to out,
// until in ends.
func serveShard(in io.Reader, out io.Writer, d Doer) error {
	r := bufio.NewReaderSize(in, 64<<10)
	var hello shardHello
	what, payload, err := readFrame(r)
	if err != nil {
		return err
	}
	if what != frameHello {
		return errFrame
	}
	if err := gob.NewDecoder(bytes.NewReader(payload)).Decode(&hello); err != nil {
		return fmt.Errorf("the strategy that it was sent: %w", err)
	}

	runtime.GOMAXPROCS(hello.Procs)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tasks := wake.NewFeed[task, *Request](hello.Window) // the parent sends no more than that
	results := make(chan shardEvent, hello.Window)
	go receiveTasks(r, tasks, cancel)
	sent := make(chan error, 1)
	go func() {
		err := sendResults(out, results, hello.Beat)
		if err != nil { // the parent is gone, or d has closed the pipe
			leave(cancel)
		}
		sent <- err
		for range results { // nobody wants them
		}
	}()

	ids := make(map[*Request]uint64) // of requests without a result
	ctx = WithTrace(tasks.Context(ctx), &Trace{
		BatchDone:   func(b BatchInfo) { results <- shardEvent{what: frameBatch, batch: b} },
		Retrying:    func(i RetryInfo) { results <- shardEvent{what: frameRetry, retry: i} },
		PipelineOff: func(i PipelineInfo) { results <- shardEvent{what: framePipeline, pipeline: i} },
	})
	one := make([]*Request, 1)
	take := func(t task) []*Request {
		ids[t.Request] = t.id
		one[0] = t.Request
		return one
	}
	for res := range hello.Each.Run(ctx, d, tasks.All(take)) {
		if id, ok := ids[res.Request]; ok {
			delete(ids, res.Request)
			tasks.Received()
			results <- shardEvent{what: frameResult, id: id, result: res}
		}
	}
	close(results)
	return <-sent
}

// receiveTasks reads requests until their end, which cancels what is under way: then
// the parent wants no more of it, or is gone.
func receiveTasks(r *bufio.Reader, tasks *wake.Feed[task, *Request], cancel func()) {
	defer leave(cancel)
	defer tasks.Close()
	for {
		what, payload, err := readFrame(r)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return
		}
		var t task
		if err == nil {
			t.id, t.Request, err = decodeRequest(payload)
		}
		if err != nil || what != frameRequest {
			// What is under way must not be answered as canceled: others will perform it.
			fmt.Fprintln(os.Stderr, "fetch: child process of a Shard: no request came: does something in the program use file descriptor 3?")
			os.Exit(2)
		}
		tasks.Add(context.Background(), t) // there is room
	}
}

// leave ends this process, at the latest after orphanGrace.
func leave(cancel func()) {
	cancel()
	time.AfterFunc(orphanGrace, func() { os.Exit(4) })
}

// sendResults sends results, and signs of life, until results is closed.
func sendResults(out io.Writer, results <-chan shardEvent, beat time.Duration) error {
	w := bufio.NewWriterSize(out, 64<<10)
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	err := writeFrame(w, frameReady, nil, nil)
	var fields []byte
	for err == nil {
		if len(results) == 0 {
			runtime.Gosched() // there may be more that are as good as ready
		}
		if len(results) == 0 {
			if err = w.Flush(); err != nil {
				break
			}
		}
		select {
		case e, ok := <-results:
			switch {
			case !ok:
				return w.Flush()
			case e.what == frameBatch:
				fields = appendBatch(fields[:0], e.batch)
				err = writeFrame(w, frameBatch, fields, nil)
			case e.what == frameRetry:
				fields = appendRetry(fields[:0], e.retry)
				err = writeFrame(w, frameRetry, fields, nil)
			case e.what == framePipeline:
				fields = appendPipeline(fields[:0], e.pipeline)
				err = writeFrame(w, framePipeline, fields, nil)
			default:
				r := &e.result
				fields = appendResult(fields[:0], e.id, r)
				err = writeFrame(w, frameResult, fields, r.Body)
				if err == errFrameSize {
					r = &Result{Status: r.Status, Attempts: r.Attempts, Duration: r.Duration, Err: newError(ErrTooLarge, r.Request, err)}
					err = writeFrame(w, frameResult, appendResult(fields[:0], e.id, r), nil)
				}
			}
		case <-ticker.C:
			err = writeFrame(w, frameBeat, nil, nil)
		}
	}
	return err
}
