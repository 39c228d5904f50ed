package fetch_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// A small strategy performs requests when the loop waits. It is full when most are out, which is
// less than its Limits say.
type small struct {
	t     *testing.T
	most  int
	ended *int // how many were submitted before InputEnded; -1: it was not called
}

func (small) Limits() fetch.Limits { return fetch.Limits{InFlight: 8, Ahead: 16} }
func (small) String() string       { return "small" }

func (s small) Start(ctx context.Context, d fetch.Doer) fetch.Executor {
	*s.ended = -1
	return &smallRun{small: s, ctx: ctx, d: d, results: make(chan fetch.Result, 16)}
}

type smallRun struct {
	small
	ctx       context.Context
	d         fetch.Doer
	held      []*fetch.Request
	submitted int
	results   chan fetch.Result
}

func (x *smallRun) Submit(r *fetch.Request) {
	assert.False(x.t, x.Full())
	x.held = append(x.held, r)
	x.submitted++
}

func (x *smallRun) Flush() {
	for _, r := range x.held {
		fetch.Perform(x.ctx, x.d, r, x.results)
	}
	x.held = nil
}

func (x *smallRun) Results() <-chan fetch.Result { return x.results }
func (x *smallRun) Close()                       {}
func (x *smallRun) Full() bool                   { return len(x.held)+len(x.results) >= x.most }

func (x *smallRun) InputEnded() {
	assert.Equal(x.t, -1, *x.ended, "it is called once")
	*x.ended = x.submitted
}

// The methods that an Executor may have: nothing is submitted while it is full, whatever the
// policies, and it is told of the end of the input, but not if the loop ends before that.
func TestExecutorMethods(t *testing.T) {
	for name, f := range map[string]fetch.Fetcher{
		"no policy": {},
		"ordered":   {Ordered: true},
		"retry":     {Retry: &fetch.Retry{Backoff: time.Microsecond}},
		"per host":  {PerHost: &fetch.PerHost{}},
	} {
		for _, most := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/%d", name, most), func(t *testing.T) {
				var ended int
				f.Strategy = small{t, most, &ended}
				f.Doer = fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result { return fetch.Result{Status: 200, Attempts: 1} })
				input := func(yield func(fetch.Request) bool) {
					for i := 0; i < 100 && yield(fetch.Request{URL: fmt.Sprintf("http://host%d.test/", i%10)}); i++ {
					}
				}
				got := 0
				for r := range f.Fetch(t.Context(), input) {
					require.NoError(t, r.Err)
					got++
				}
				assert.Equal(t, 100, got)
				assert.Equal(t, 100, ended)
				for range f.Fetch(t.Context(), input) {
					break
				}
				assert.Equal(t, -1, ended, "the loop was left")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				for range f.Fetch(ctx, input) {
					cancel()
				}
				assert.Equal(t, -1, ended, "the loop was canceled")
			})
		}
	}
}
