package fetch

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"fetchbench/fetch/internal/rules"
)

// A Retry is a [Doer] that tries again what may succeed then, and not so often that an
// outage gets worse by it.
//
// Tried again are requests that can be repeated: GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC
// 9110 §9.2.2), and others that have an Idempotency-Key in their header. And only where it can
// help: after the statuses 408, 425, 429, 500, 502, 503 and 504, and the kinds [ErrDial],
// [ErrReset], [ErrTimeout], [ErrTruncated] and, if it is temporary, [ErrDNS].
//
// Between attempts it waits for a random part of a time that doubles (exponential backoff with
// full jitter), or for what the server's Retry-After says, up to MaxWait. It does not wait
// past the context's deadline: the last outcome is the result then, as it is when Attempts or
// the Budget are used up. Meanwhile a [Pool], [Semaphore] or [Batch] has another request
// performed in its place; the other strategies do not.
//
// A Retry may be used by several goroutines at once, and must not be copied or changed after
// its first use. The zero value is ready.
type Retry struct {
	// Doer performs each attempt. nil means [DefaultClient].
	Doer Doer
	// Attempts is how many there are at the most, the first included. 0 means 3.
	Attempts int
	// Budget is the share of the requests that may be retries, all requests of this Retry
	// taken together; and 10 are in reserve. Of what good times do not use, no more than 90 are
	// saved up. 0 means 0.2, so a server that always fails sees at most 1.2 times the requests. At most 10, which is no limit with the
	// default Attempts.
	Budget float64
	// Backoff is the longest wait before the second attempt; it doubles with each. 0 means 100 ms.
	Backoff time.Duration
	// MaxWait is the longest wait before any attempt, Retry-After included. 0 means 10 s.
	MaxWait time.Duration

	mu   sync.Mutex
	debt float64 // retries less what the requests have earned
}

const (
	reserve = 10 // how far retries may get ahead of what has been earned
	savings = 90 // how much quiet times can save up for them
)

// Do implements [Doer]. The result is that of the last attempt, with the Attempts of all.
func (r *Retry) Do(ctx context.Context, req *Request) Result {
	r.check()
	r.earn()
	attempts := 0
	for try := 1; ; try++ {
		res := doerOr(r.Doer).Do(ctx, req)
		attempts += res.Attempts
		res.Attempts = attempts
		if ctx.Err() != nil || try >= r.attempts() || !helps(&res) || !repeatable(req) {
			return res
		}
		wait := r.wait(try, &res)
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait || !r.spend() {
			return res
		}
		traceFrom(ctx).retrying(RetryInfo{Index: req.Index, URL: safeURL(req.URL), Attempts: attempts, Status: res.Status, Err: res.Err, Wait: wait})
		stepAside(ctx, func() { sleep(ctx, wait) })
		if ctx.Err() != nil {
			return Result{Request: req, Err: contextError(ctx, req), Attempts: attempts, Duration: res.Duration}
		}
	}
}

// CloseIdleConnections calls the method of the same name that the Doer has, if it has one.
func (r *Retry) CloseIdleConnections() { closeIdle(r.Doer) }

// helps reports whether another attempt may end better than in res.
func helps(res *Result) bool {
	if res.Err == nil {
		switch res.Status {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	if _, unsent := errors.AsType[unsentError](res.Err); unsent || rules.LocalLimit(res.Err) != "" {
		return false // it is not the host's answer, and there has been patience
	}
	switch KindOf(res.Err) {
	case ErrDial, ErrReset, ErrTimeout, ErrTruncated:
		return true
	case ErrDNS:
		dns, ok := errors.AsType[*net.DNSError](res.Err)
		return ok && (dns.IsTemporary || dns.IsTimeout)
	}
	return false
}

// repeatable reports whether req may be sent twice.
func repeatable(req *Request) bool {
	return rules.Idempotent(strings.ToUpper(req.Method)) || len(req.Header["Idempotency-Key"]) > 0 || len(req.Header["X-Idempotency-Key"]) > 0
}

// wait returns the time between the attempt that ended in res and the next.
func (r *Retry) wait(try int, res *Result) time.Duration {
	most := min(r.maxWait(), forEver)
	first := min(cmp.Or(r.Backoff, 100*time.Millisecond), most)
	longest := first
	for range try - 1 {
		longest = min(2*longest, most)
	}
	wait := rand.N(longest + 1)
	if after, ok := retryAfter(res, time.Now()); ok {
		// All that were sent away together must not come back together.
		wait = after + min(wait, first)
	}
	return min(wait, most)
}

// retryAfter returns the time for which a 429 or 503 asks to be left alone (RFC 9110 §10.2.3).
func retryAfter(res *Result, now time.Time) (time.Duration, bool) {
	if res.Err != nil || res.Status != http.StatusTooManyRequests && res.Status != http.StatusServiceUnavailable {
		return 0, false
	}
	h := res.Header()
	value := strings.TrimSpace(h.Get("Retry-After"))
	if value != "" && strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(forEver/time.Second) {
			return forEver, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date // the server's clock, whatever ours says
	}
	return min(max(0, at.Sub(now)), forEver), true
}

// forEver is a time that no caller of retryAfter waits for, and that can be added to another.
const forEver = 365 * 24 * time.Hour

// earn is called for each request, and spend before each retry, which must not be if that is false.
func (r *Retry) earn() {
	share := cmp.Or(r.Budget, 0.2)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.debt = max(-savings, r.debt-share)
}

func (r *Retry) spend() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.debt > reserve-1 {
		return false
	}
	r.debt++
	return true
}

// check panics if a field has a value that it must not have.
func (r *Retry) check() {
	r.attempts()
	if !(r.Budget >= 0 && r.Budget <= 10) {
		panic("fetch: Retry.Budget is " + strconv.FormatFloat(r.Budget, 'g', -1, 64) + ": it must be from 0 to 10")
	}
	notNegative("Retry.Backoff", r.Backoff)
	notNegative("Retry.MaxWait", r.MaxWait)
}

func (r *Retry) maxWait() time.Duration { return cmp.Or(r.MaxWait, 10*time.Second) }

func (r *Retry) attempts() int { return limit("Retry.Attempts", r.Attempts, 3, 1000) }

// notNegative panics if a field that is a time is negative.
func notNegative(field string, d time.Duration) {
	if d < 0 {
		panic("fetch: " + field + " is " + d.String())
	}
}

// closeIdle closes the idle connections of d, if it has a way for that.
func closeIdle(d Doer) {
	if c, ok := doerOr(d).(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// doerOr returns d, or what stands for nil.
func doerOr(d Doer) Doer {
	if d == nil {
		return DefaultClient
	}
	return d
}
