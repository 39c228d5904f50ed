package fetch

import "context"

// Serial fetches one URL at a time, on the caller's goroutine. It is the baseline, and the right
// choice for a few URLs or a server that must not be pressed.
type Serial struct{}

// Limits implements [Strategy].
func (Serial) Limits() Limits { return Limits{InFlight: 1, Ahead: 1} }

func (Serial) String() string { return "serial" }

// Start implements [Strategy].
func (Serial) Start(ctx context.Context, d Doer) Executor {
	return &serialRun{ctx: ctx, d: d, results: make(chan Result, 1)}
}

// A serialRun performs the one request submitted when the loop has nothing else to do.
type serialRun struct {
	ctx     context.Context
	d       Doer
	request *Request
	results chan Result
}

func (x *serialRun) Submit(r *Request)      { x.request = r }
func (x *serialRun) Results() <-chan Result { return x.results }
func (x *serialRun) Close()                 {}

func (x *serialRun) Flush() {
	if r := x.request; r != nil {
		x.request = nil
		Perform(x.ctx, x.d, r, x.results)
	}
}
