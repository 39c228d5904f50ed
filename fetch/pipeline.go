package fetch

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"

	"fetchbench/fetch/internal/rules"
	"fetchbench/fetch/internal/wake"
)

// pipelined performs reqs in groups of up to most requests of one host, each by
// one call of DoBatch, with at most limit requests under way.
//
// It is flow with one more place for a request to be: in groups, taken and not
// started. Groups that are not full start before anything waits for a result, or
// the loop could wait for a request that nobody performs. results has room for
// all that is out, so no send blocks, and started groups end by themselves.
func pipelined(ctx context.Context, d BatchDoer, reqs iter.Seq[*Request], limit, most int) iter.Seq[Result] {
	return func(yield func(Result) bool) {
		if ctx.Err() != nil {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		results := make(chan Result, limit)
		groups := make(map[string][]*Request) // by host
		out := 0                              // started, and their results not received
		wake := wake.From(ctx)

		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()

		receive := func() bool {
			out--
			return yield(<-results)
		}
		start := func(host string) bool {
			group := groups[host]
			delete(groups, host)
			for out+len(group) > limit {
				if !receive() {
					return false
				}
			}
			out += len(group)
			running.Go(func() { answerAll(ctx, d, group, results) })
			return true
		}
		startAll := func() bool {
			for host := range groups {
				if !start(host) {
					return false
				}
			}
			return true
		}
		for r := range reqs {
			if r == nil {
				if !startAll() {
					return
				}
				if out > 0 {
					select {
					case res := <-results:
						out--
						if !yield(res) {
							return
						}
					case <-wake:
					}
				}
			} else {
				host := rules.Origin(r.URL)
				groups[host] = append(groups[host], r)
				if len(groups[host]) == most && !start(host) {
					return
				}
			}
			for len(results) > 0 {
				if !receive() {
					return
				}
			}
			if ctx.Err() != nil {
				break
			}
		}
		if !startAll() {
			return
		}
		for out > 0 {
			if !receive() {
				return
			}
		}
	}
}

// answerAll sends exactly one Result for each request of group, whatever d does.
func answerAll(ctx context.Context, d BatchDoer, group []*Request, results chan<- Result) {
	owed := slices.Clone(group)
	fail := func(err func(r *Request) error) {
		for _, r := range owed {
			results <- Result{Request: r, Err: err(r)}
		}
		owed = nil
	}
	if ctx.Err() != nil {
		fail(func(r *Request) error { return contextError(ctx, r) })
		return
	}
	returned := false
	defer func() {
		v := recover()
		if v == nil && !returned {
			v = errGoexit
		}
		if v == nil {
			v = errors.New("DoBatch returned without an answer to this request")
		}
		fail(func(r *Request) error { return newPanicError(r, v) })
	}()
	d.DoBatch(ctx, group, func(res Result) {
		if i := slices.Index(owed, res.Request); i >= 0 {
			owed = slices.Delete(owed, i, i+1)
			results <- res
		}
	})
	returned = true
}
