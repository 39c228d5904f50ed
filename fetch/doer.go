package fetch

import "context"

// A Doer performs one request. It is called by several goroutines at once, and
// returns soon after ctx is done. Strategies set the Result's Request to the one they asked for.
type Doer interface {
	Do(ctx context.Context, req *Request) Result
}

// A DoerFunc is a function that is a [Doer].
type DoerFunc func(ctx context.Context, req *Request) Result

// Do calls f.
func (f DoerFunc) Do(ctx context.Context, req *Request) Result { return f(ctx, req) }

// A BatchDoer can also send several requests before it reads the first answer.
type BatchDoer interface {
	Doer
	// DoBatch performs reqs, all for one scheme and host, and calls yield once with
	// the Result of each, in any order, from any one goroutine at a time; it calls
	// it no more after it has returned. The Results' Request is one of reqs.
	DoBatch(ctx context.Context, reqs []*Request, yield func(Result))
}
