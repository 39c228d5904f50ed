package fetch

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"fetchbench/fetch/internal/nethttp"
	"fetchbench/fetch/internal/rules"
)

// An HTTPClient is a [Doer] that performs requests by an [http.Client], with that one's transport,
// cookies, redirect policy and timeout. It is as fast and safe as the client is; of the promises in
// SECURITY.md it keeps those about errors and bodies, but what a proxy answers to CONNECT is in the
// error. The zero value is ready.
//
// A transport that was not tuned throws most connections away: see [NewTransport].
type HTTPClient struct {
	// Client performs the requests. nil means [http.DefaultClient].
	Client *http.Client
	// Timeout bounds one attempt from its start to the end of the body, redirects included, beside
	// the Client's own. 0 means no limit.
	Timeout time.Duration
	// MaxBody is the size in bytes of the largest body that is accepted, counted after decompression;
	// a larger one is an [ErrTooLarge]. 0 means 10 MiB; a negative value, no limit.
	MaxBody int64
}

// Do implements [Doer].
func (c HTTPClient) Do(ctx context.Context, req *Request) Result {
	a := nethttp.NewAttempt(ctx, c.Timeout, 0)
	defer a.Stop()
	return perform(ctx, a, req, false, func(hreq *http.Request, res *Result) error {
		hreq = hreq.WithContext(a)
		hreq.Header = hreq.Header.Clone() // a cookie jar writes to it
		client := *cmp.Or(c.Client, http.DefaultClient)
		check := client.CheckRedirect
		client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
			res.setHead(next.Response) // the outcome, if its target does not respond
			if check != nil {
				return check(next, via)
			}
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		}
		resp, err := client.Do(hreq)
		if err != nil && resp != nil { // only if its redirect policy refused
			res.setHead(resp)
			return &Error{Kind: ErrRedirect, Err: redact(errors.Unwrap(err))}
		}
		if err == nil {
			err = nethttp.CheckHead(resp)
		}
		if err != nil {
			return err
		}
		return res.receive(resp, rules.Limits{MaxBody: c.MaxBody}.OrDefault().MaxBody)
	})
}

// CloseIdleConnections closes the client's connections that no request is using.
func (c HTTPClient) CloseIdleConnections() {
	cmp.Or(c.Client, http.DefaultClient).CloseIdleConnections()
}
