package fetch

import (
	"context"
	"errors"
	"net"

	"fetchbench/fetch/internal/rules"
)

var (
	errProxied  = &Error{Kind: ErrAddress, Err: errors.New("there is a proxy, which would connect to what it likes: unset Transport.Proxy or Allow")}
	errNotAsked = &Error{Kind: ErrAddress, Err: errors.New("the connections are an http.Client's, which does not ask Allow: use a Client with its Transport")}
	errDialTLS  = &Error{Kind: ErrAddress, Err: errors.New("the Transport has a DialTLSContext, which Allow is not asked by: use DialContext and TLSClientConfig")}
)

// init makes d the dialer of c's transport.
func (d *dialer) init(c *Client) {
	t := c.transport
	d.transport = t
	d.opener = rules.Dialer{Dial: rules.DialTCP, Allow: c.Allow, CloseIdle: d.closeIdle, Patience: rules.Patience(c.limits().Timeout)}
	//lint:ignore SA1019 a caller's transport may have them, and they must not be lost
	dial, dialTLS := t.Dial, t.DialTLS
	switch {
	case t.DialContext != nil:
		d.opener.Dial = t.DialContext
	case dial != nil:
		d.opener.Dial = func(_ context.Context, network, addr string) (net.Conn, error) { return dial(network, addr) }
	}
	t.DialContext = d.DialContext
	d.multiplexed = t.Protocols != nil && t.Protocols.UnencryptedHTTP2() && !t.Protocols.HTTP1()
	if c.Allow != nil && (t.DialTLSContext != nil || dialTLS != nil) {
		refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errDialTLS }
		t.DialContext, t.DialTLSContext = refuse, refuse
	}
}

// closeIdle closes the connections that no request is using. One that is closed just when it has
// been kept looks like one on which something was found.
func (d *dialer) closeIdle() {
	d.closing.Add(1)
	defer d.closing.Add(-1)
	d.transport.CloseIdleConnections()
}
