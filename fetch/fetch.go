package fetch

import (
	"cmp"
	"context"
	"encoding/json"
	"iter"
	"maps"
	"net/http"
	"slices"
	"time"

	"fetchbench/fetch/internal/wake"
)

// A Request is one URL to fetch. Nothing in this package changes the Header or
// the Body, so Requests may share them.
type Request struct {
	// Index is the position in the input, from 0. [Fetcher.Fetch] sets it.
	Index int
	// Method is the HTTP method. "" means GET.
	Method string
	// URL is absolute, and its scheme http or https.
	URL string
	// Header holds the header fields to send. It may be nil.
	Header http.Header
	// Body is sent as it is. It may be nil.
	Body []byte
}

// A Result is the outcome of one [Request].
type Result struct {
	// Request is the request that this is the outcome of.
	Request *Request
	// Status is the HTTP status code, or 0 if no response came. With an error it may be that of the last
	// redirect, if no response came from where that leads to.
	Status int
	// Body is the response's body, decoded. It is the caller's to keep.
	Body []byte
	// Err is nil if a whole response came, whatever its status: see [Result.OK].
	// The engines of this module return an [*Error], strategies also a [*PanicError].
	Err error
	// Unverified is set if nothing told where the body ends but the end of the connection
	// (RFC 9112 §8), so that a part of it may be missing. [Client] also sets it for a
	// body in gzip after which the server closes the connection, length or not.
	Unverified bool
	// Attempts counts the requests sent, retries included, but not those that redirects lead to. A child of a [Shard] that ended
	// without an answer counts as one, whether it had sent the request or not.
	Attempts int
	// Duration is the service time of the last attempt: from the moment a worker
	// began to the last byte of the body, the time spent waiting for a worker excluded.
	Duration time.Duration

	header http.Header
	parse  func() http.Header // makes header when it is asked for, if not nil
}

// OK reports whether a whole response came, and its status is a 2xx.
func (r *Result) OK() bool { return r.Err == nil && r.Status >= 200 && r.Status <= 299 }

// Header returns the response's header, nil if no response came.
func (r *Result) Header() http.Header {
	if r.parse != nil {
		r.header, r.parse = r.parse(), nil
	}
	return r.header
}

// SetHeader sets what [Result.Header] returns. It is for those who write a [Doer].
func (r *Result) SetHeader(h http.Header) { r.header, r.parse = h, nil }

// SetHeaderFunc sets a function that [Result.Header] calls when it is first asked, and whose
// result it returns. It is for those who write a [Doer] that parses what is asked for, and only that.
func (r *Result) SetHeaderFunc(parse func() http.Header) { r.header, r.parse = nil, parse }

// Decode stores the JSON document in the body in the value that v points to. It
// returns r.Err if that is set, and an error of kind [ErrDecode] if the body is
// not one JSON document that fits v. It does not look at the status, since
// errors too come as JSON: check [Result.OK] first.
func (r *Result) Decode(v any) error {
	if r.Err != nil {
		return r.Err
	}
	if err := json.Unmarshal(r.Body, v); err != nil {
		return newError(ErrDecode, r.Request, err)
	}
	return nil
}

// A Fetcher fetches URLs by a [Strategy] through a [Doer]. The zero value is
// ready: it uses [Pool] and [DefaultClient]. A Fetcher may be used by several
// goroutines at once if its Strategy and Doer may; those of this module may.
type Fetcher struct {
	// Strategy decides how many requests are under way at once. nil means Pool{}.
	Strategy Strategy
	// Doer performs the requests. nil means [DefaultClient]. A [Shard] does not use it: see [ShardMain].
	Doer Doer
	// Ordered makes the results come in the order of the input. By default they
	// come as they are ready. While one slow request holds the order up, results
	// behind it are kept; once the strategy's bound of requests ahead is reached (see
	// [Bounded]), nothing more is taken from the input until it is answered.
	Ordered bool
}

// Fetch fetches each of reqs and returns the results, one for each Request that
// was taken from the input, under the contract in [Strategy]. Nothing happens
// until the results are ranged over; each range is a run of its own.
//
// The input and the body of the loop over the results run on one goroutine,
// the caller's, so they may share variables without locks. An input that blocks
// therefore holds up the loop as well: results that are ready wait with it. An input that
// is fed by the loop, as a crawler's is, has to end when it runs dry: fetch in rounds.
//
// After ctx is done no more of the input is taken, and the results of what was
// taken have errors of kind [ErrCanceled] (or [ErrTimeout], for a deadline). The loop
// just ends: ask ctx.Err() whether the input was fetched to its end.
func (f *Fetcher) Fetch(ctx context.Context, reqs iter.Seq[Request]) iter.Seq[Result] {
	if reqs == nil {
		panic("fetch: Fetch of a nil sequence")
	}
	strategy, doer := f.Strategy, doerOr(f.Doer)
	if strategy == nil {
		strategy = Pool{}
	}
	// Within the Doer of another run: what that one has in its context is not for this one.
	ctx = context.WithValue(wake.With(ctx, nil), placeKey{}, nil)
	if f.Ordered {
		return ordered(ctx, strategy, doer, numbered(reqs))
	}
	return strategy.Run(ctx, doer, numbered(reqs))
}

// Get is [Fetcher.Fetch] of GET requests for urls.
func (f *Fetcher) Get(ctx context.Context, urls ...string) iter.Seq[Result] {
	return f.Fetch(ctx, URLs(urls...))
}

// URLs returns a GET request for each of urls, an input for [Fetcher.Fetch].
func URLs(urls ...string) iter.Seq[Request] {
	return func(yield func(Request) bool) {
		for _, u := range urls {
			if !yield(Request{URL: u}) {
				return
			}
		}
	}
}

// numbered makes the one copy of each Request that is handed on by pointer.
func numbered(reqs iter.Seq[Request]) iter.Seq[*Request] {
	return func(yield func(*Request) bool) {
		i := 0
		for r := range reqs {
			r.Index = i
			i++
			if !yield(&r) {
				return
			}
		}
	}
}

// ordered runs s and holds back each result until those before it have been
// handed out. While as many requests as s may have ahead are taken and not handed
// out, the input pauses (it yields nil), so held never holds more than that.
func ordered(ctx context.Context, s Strategy, d Doer, reqs iter.Seq[*Request]) iter.Seq[Result] {
	window := 1024
	if b, ok := s.(Bounded); ok {
		_, window = b.Bounds()
	}
	return func(yield func(Result) bool) {
		taken, received, next := 0, 0, 0
		held := make(map[int]Result)
		paced := func(yield func(*Request) bool) {
			for r := range reqs {
				taken++
				if !yield(r) {
					return
				}
				for taken-next >= window && ctx.Err() == nil {
					before := received
					if !yield(nil) {
						return
					}
					if received == before {
						break // s owes nothing, so it has lost a result
					}
				}
			}
		}
		for res := range s.Run(ctx, d, paced) {
			received++
			held[res.Request.Index] = res
			for res, ok := held[next]; ok; res, ok = held[next] {
				delete(held, next)
				next++
				if !yield(res) {
					return
				}
			}
		}
		// Something is left only if s broke the contract and lost a result: its
		// mistake must not cost the results after it.
		byIndex := func(a, b Result) int { return cmp.Compare(a.Request.Index, b.Request.Index) }
		for _, res := range slices.SortedFunc(maps.Values(held), byIndex) {
			if !yield(res) {
				return
			}
		}
	}
}
