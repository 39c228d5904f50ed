package fetch

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"fetchbench/fetch/internal/rules"
)

// A Retry has requests sent again that may succeed then, and not so often that an outage gets worse
// by it. It is a policy of [Fetcher].
//
// Sent again are requests that can be repeated: GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110
// §9.2.2), and others that have an Idempotency-Key in their header. And only where it can help:
// after the statuses 408, 425, 429, 500, 502, 503 and 504, and the kinds [ErrDial], [ErrReset],
// [ErrTimeout], [ErrTruncated] and, if it is temporary, [ErrDNS].
//
// Between attempts it waits for a random part of a time that doubles (exponential backoff with full
// jitter), or for what the server's Retry-After says, up to MaxWait. It does not wait past the
// context's deadline: the last outcome is the result then, as it is when Attempts or the Budget are
// used up. Other requests use the place meanwhile. The zero value is ready.
type Retry struct {
	// Attempts is how many there are at most, the first included. 0 means 3.
	Attempts int
	// Budget is the share of the requests that may be retries, all requests of a run taken together;
	// and 10 are in reserve. Of what good times do not use, no more than 90 are saved up. 0 means 0.2,
	// so a server that always fails sees at most 1.2 times the requests. At most 10, which is no limit
	// with the default Attempts.
	Budget float64
	// Backoff is the longest wait before the second attempt; it doubles with each. 0 means 100 ms.
	Backoff time.Duration
	// MaxWait is the longest wait before any attempt, Retry-After included. 0 means 10 s.
	MaxWait time.Duration
}

const (
	reserve = 10 // how far retries may get ahead of what has been earned
	savings = 90 // how much quiet times can save up for them
)

// check panics if a field has a value that it must not have.
func (r *Retry) check() {
	if r == nil {
		return
	}
	limit("Retry.Attempts", r.Attempts, 0, 1000)
	if !(r.Budget >= 0 && r.Budget <= 10) {
		panic("fetch: Retry.Budget is " + strconv.FormatFloat(r.Budget, 'g', -1, 64) + ": it must be from 0 to 10")
	}
	notNegative("Retry.Backoff", r.Backoff)
	notNegative("Retry.MaxWait", r.MaxWait)
}

// defaults returns r with defaults in place of zeros.
func (r Retry) defaults() Retry {
	return Retry{
		Attempts: cmp.Or(r.Attempts, 3),
		Budget:   cmp.Or(r.Budget, 0.2),
		Backoff:  cmp.Or(r.Backoff, 100*time.Millisecond),
		MaxWait:  min(cmp.Or(r.MaxWait, 10*time.Second), forEver),
	}
}

// retries is the state of a [Retry] in a run.
type retries struct {
	Retry
	debt float64 // retries less what the requests have earned
}

func newRetries(r *Retry) *retries { return &retries{Retry: r.defaults()} }

// earn is called for each request, when its first attempt has ended.
func (r *retries) earn() { r.debt = max(-savings, r.debt-r.Budget) }

// spend takes a retry from the budget, if that allows one.
func (r *retries) spend() bool {
	if r.Budget >= float64(r.Attempts-1) {
		return true // not even if every request fails could they be more
	}
	if r.debt > reserve-1 {
		return false
	}
	r.debt++
	return true
}

// again returns how long to wait before the next attempt after res, the outcome of this many, and
// whether there should be one.
func (r *retries) again(res *Result, tries int, now time.Time) (wait time.Duration, ok bool) {
	if tries >= r.Attempts || !helps(res) || !rules.Repeatable(res.Request.Method, res.Request.Header) {
		return 0, false
	}
	return r.wait(res, tries, now), true
}

// wait returns the time between the attempt that ended in res and the next.
func (r *retries) wait(res *Result, tries int, now time.Time) time.Duration {
	first := min(r.Backoff, r.MaxWait)
	longest := first
	for range tries - 1 {
		longest = min(2*longest, r.MaxWait)
	}
	wait := rand.N(longest + 1)
	if after, ok := retryAfter(res, now); ok {
		wait = after + min(wait, first) // those that were sent away together must not come back together
	}
	return min(wait, r.MaxWait)
}

// helps reports whether another attempt may end better than res.
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
		return false // this machine's own limit, which has been waited for
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

// retryAfter returns the time for which a 429 or 503 asks to be left alone (RFC 9110 §10.2.3).
func retryAfter(res *Result, now time.Time) (time.Duration, bool) {
	if res.Err != nil || res.Status != http.StatusTooManyRequests && res.Status != http.StatusServiceUnavailable {
		return 0, false
	}
	h := res.Header()
	if len(h) == 0 {
		return 0, false
	}
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

// notNegative panics if a field that is a time is negative.
func notNegative(field string, d time.Duration) {
	if d < 0 {
		panic("fetch: " + field + " is " + d.String())
	}
}
