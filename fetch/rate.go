package fetch

import (
	"errors"
	"time"

	"golang.org/x/time/rate"
)

// A pace holds the starts of a run to [Fetcher].Rate. Its times are since the run began.
type pace struct {
	limiter  *rate.Limiter
	begun    time.Time
	reserved *rate.Reservation // for the next request; nil: none
	at       time.Duration     // when that may start
}

var (
	errRateNever = errors.New("Fetcher.Rate lets no request start: its limit or its burst is 0")
	errRateLate  = errors.New("Fetcher.Rate would not let it start before the context's deadline")
)

// admit reports whether a request may start now. If not, it may at the time at, or never, for the
// reason returned; deadline is that of the run, 0 if it has none.
func (p *pace) admit(now, deadline time.Duration) (bool, error) {
	if p.reserved == nil {
		if p.limiter.AllowN(p.begun.Add(now), 1) {
			return true, nil
		}
		p.reserved = p.limiter.ReserveN(p.begun.Add(now), 1)
		wait := p.reserved.DelayFrom(p.begun.Add(now))
		if wait > forEver { // the limit is 0, or the burst
			p.reserved.Cancel()
			p.reserved = nil
			return false, errRateNever
		}
		p.at = now + wait
	}
	switch {
	case deadline > 0 && p.at >= deadline:
		return false, errRateLate
	case now < p.at:
		return false, nil
	}
	p.reserved = nil
	return true, nil
}

// close gives back what is reserved.
func (p *pace) close() {
	if p.reserved != nil {
		p.reserved.Cancel()
	}
}
