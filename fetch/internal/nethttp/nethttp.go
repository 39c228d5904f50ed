// Package nethttp guards net/http's transport: no more connections are opened to a host than it has
// requests, an unsolicited response does not reach the next request, each address is allowed before
// it is used, and an attempt has limits of its own.
//
// A [Transport] performs HTTP requests, each within an [Attempt]. It knows nothing of what they are
// for. Its errors are those of net/http and package rules.
package nethttp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"fetchbench/fetch/internal/rules"
)

// A Transport performs HTTP requests. Its methods may be called concurrently.
type Transport struct {
	transport   *http.Transport
	opener      rules.Dialer
	multiplexed bool         // connections without TLS carry HTTP/2
	closing     atomic.Int32 // calls of CloseIdle under way
	suspects    rules.Suspects

	mu    sync.Mutex
	hosts map[rules.Origin]*host // those with requests or connections
}

// Options are what a [Transport] is to keep to.
type Options struct {
	Allow   func(netip.AddrPort) error // which addresses may be connected to; nil: all
	Timeout time.Duration              // the one that attempts have; not positive: none
	MaxHead int64                      // the size in bytes of the largest response head
}

var (
	errProxied = rules.AddressError{Reason: errors.New("the address policy cannot be enforced through a proxy: unset Transport.Proxy or Allow")}
	errDialTLS = rules.AddressError{Reason: errors.New("the address policy cannot be enforced by Transport.DialTLSContext: use DialContext and TLSClientConfig")}
)

// New returns a Transport over a clone of base.
func New(base *http.Transport, o Options) *Transport {
	clone := base.Clone()
	t := &Transport{transport: clone, hosts: make(map[rules.Origin]*host)}
	clone.MaxResponseHeaderBytes = o.MaxHead
	// A transport that has a DialContext does not speak HTTP/2 unless it is told to. Clone has made
	// base ready: it has this entry if it speaks it.
	if base.TLSNextProto["h2"] != nil {
		clone.ForceAttemptHTTP2 = true
	}
	t.multiplexed = clone.Protocols != nil && clone.Protocols.UnencryptedHTTP2() && !clone.Protocols.HTTP1()

	t.opener = rules.Dialer{Dial: rules.DialTCP, Allow: o.Allow, CloseIdle: t.CloseIdle, Patience: rules.Patience(o.Timeout)}
	//lint:ignore SA1019 a caller's transport may have them, and they must not be lost
	dial, dialTLS := clone.Dial, clone.DialTLS
	switch {
	case clone.DialContext != nil:
		t.opener.Dial = clone.DialContext
	case dial != nil:
		t.opener.Dial = func(_ context.Context, network, addr string) (net.Conn, error) { return dial(network, addr) }
	}
	clone.DialContext = t.dial

	// Without this, net/http makes an error of the text of a proxy's response to CONNECT.
	onConnect := clone.OnProxyConnectResponse
	clone.OnProxyConnectResponse = func(ctx context.Context, proxy *url.URL, req *http.Request, resp *http.Response) (err error) {
		if onConnect != nil {
			err = onConnect(ctx, proxy, req, resp)
		}
		if err == nil && resp.StatusCode != http.StatusOK {
			err = rules.ProxyError(resp.StatusCode)
		}
		return err
	}
	if o.Allow == nil {
		return t
	}
	if clone.DialTLSContext != nil || dialTLS != nil {
		refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errDialTLS }
		clone.DialContext, clone.DialTLSContext = refuse, refuse
	}
	if proxy := clone.Proxy; proxy != nil {
		clone.Proxy = func(r *http.Request) (*url.URL, error) {
			u, err := proxy(r)
			if u != nil {
				return nil, errProxied
			}
			return u, err
		}
	}
	return t
}

// CloseIdle closes the connections that no request is using. One that is closed just when it has
// been kept looks like one on which something was found.
func (t *Transport) CloseIdle() {
	t.closing.Add(1)
	defer t.closing.Add(-1)
	t.transport.CloseIdleConnections()
}

// RoundTrip performs req, which it takes over, within a. It returns the response, whose body has to be
// closed, and how often req was sent: net/http repeats one that may be repeated if a kept connection
// proves to be closed. A response whose head is odd is an error, even though net/http accepts it.
func (t *Transport) RoundTrip(a *Attempt, req *http.Request) (resp *http.Response, sent int, err error) {
	x := t.begin(a, rules.Origin{Scheme: req.URL.Scheme, Host: req.URL.Host})
	defer func() {
		if resp == nil { // it has failed, or a function of the caller's has panicked
			x.end()
		}
	}()
	*req = *req.WithContext(httptrace.WithClientTrace(x, &x.trace)) // in place, to save a copy
	req.Close = t.suspects.Has(x.host.origin)
	resp, err = t.transport.RoundTrip(req)
	for errors.Is(err, errStray) && x.Err() == nil {
		// Nothing has been written, but net/http knows that only if the body was to come later. It
		// has closed the connection, and a new one is not refused, so this comes to an end.
		if req.GetBody != nil {
			req.Body, _ = req.GetBody()
		}
		req.Close = true
		resp, err = t.transport.RoundTrip(req)
	}
	x.returned.Store(true)
	x.listen()
	sent = int(x.sent.Load())
	if err == nil {
		err = CheckHead(resp)
	}
	if err != nil {
		return nil, sent, err
	}
	if n := resp.Header.Get("Content-Length"); resp.StatusCode == http.StatusNoContent && resp.ProtoMajor == 1 && n != "" && n != "0" {
		t.suspects.Add(x.host.origin) // the body that it announces may follow, though a 204 has none
	}
	x.body = body{resp.Body, x}
	resp.Body = &x.body
	return resp, sent, nil
}

// CheckHead returns an error if the head of resp is odd though net/http has accepted it, and closes
// the body then.
func CheckHead(resp *http.Response) error {
	err := rules.CheckHead(resp.StatusCode, resp.Header)
	if err != nil {
		resp.Body.Close()
	}
	return err
}

// An exchange is the context of one HTTP request, and what is known of it until its response's body
// is closed. It leads from the context of a dial, which net/http detaches from the request's, back
// to the request.
type exchange struct {
	*Attempt
	t        *Transport
	host     *host
	sent     atomic.Int32 // how often the request was sent
	returned atomic.Bool  // RoundTrip is over
	ended    atomic.Bool  // it does not count as a request of host's any more
	conn     *guardedConn // that has been sent to last, or nil
	trace    httptrace.ClientTrace
	body     body
}

type exchangeKey struct{}

// Value implements [context.Context].
func (x *exchange) Value(key any) any {
	if key == (exchangeKey{}) {
		return x
	}
	return x.Attempt.Value(key)
}

// begin returns the exchange of a request to o, which has to be ended.
func (t *Transport) begin(a *Attempt, o rules.Origin) *exchange {
	x := &exchange{Attempt: a, t: t, host: t.enter(o)}
	x.trace.GetConn = func(string) { x.busy() } // to look for a connection may take a while
	x.trace.GotConn = x.gotConn
	x.trace.WroteRequest = func(info httptrace.WroteRequestInfo) {
		if info.Err == nil && !x.returned.Load() { // else it comes too late to matter
			x.listen()
		}
	}
	x.trace.PutIdleConn = x.putIdleConn
	return x
}

// end counts the request out, once.
func (x *exchange) end() {
	if !x.ended.Swap(true) {
		x.t.change(x.host, -1, 0)
	}
}

// A body is that of a response. Every part of it has to come within the idle time.
type body struct {
	io.ReadCloser
	x *exchange
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.x.listen()
	return n, err
}

func (b *body) Close() error {
	defer b.x.end()
	return b.ReadCloser.Close()
}
