package fetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

var (
	errProxied  = &Error{Kind: ErrAddress, Err: errors.New("there is a proxy, which would connect to what it likes: unset Transport.Proxy or Allow")}
	errNotAsked = &Error{Kind: ErrAddress, Err: errors.New("the connections are an http.Client's, which does not ask Allow: use a Client with its Transport")}
	errDialTLS  = &Error{Kind: ErrAddress, Err: errors.New("the Transport has a DialTLSContext, which Allow is not asked by: use DialContext and TLSClientConfig")}
)

// init makes d the dialer of c's transport.
func (d *dialer) init(c *Client) {
	t := c.transport
	d.allow, d.transport = c.Allow, t
	d.patience = 5 * time.Second
	if c.timeout() > 0 {
		d.patience = min(d.patience, c.timeout()/2)
	}
	//lint:ignore SA1019 a caller's transport may have them, and they must not be lost
	dial, dialTLS := t.Dial, t.DialTLS
	switch {
	case t.DialContext != nil:
		d.dial = t.DialContext
	case dial != nil:
		d.dial = func(_ context.Context, network, addr string) (net.Conn, error) { return dial(network, addr) }
	default:
		d.dial = dialTCP
	}
	t.DialContext = d.DialContext
	d.multiplexed = t.Protocols != nil && t.Protocols.UnencryptedHTTP2() && !t.Protocols.HTTP1()
	if d.allow != nil && (t.DialTLSContext != nil || dialTLS != nil) {
		refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errDialTLS }
		t.DialContext, t.DialTLSContext = refuse, refuse
	}
}

// open opens a connection. That this machine has no file or port to spare is not the
// URL's fault, and passes as a rule: it tries again for some time.
func (d *dialer) open(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx = context.WithValue(ctx, allowKey{}, d.allow)
	begun := time.Now()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		conn, err := d.dial(ctx, network, addr)
		if err == nil {
			return d.allowed(conn)
		}
		if localLimit(err) == "" || time.Since(begun)+pause > d.patience {
			return nil, err
		}
		if isFileLimit(err) {
			d.closeIdle()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// closeIdle closes the connections that no request is using. One that is closed just when it has
// been kept looks like one on which something was found.
func (d *dialer) closeIdle() {
	d.closing.Add(1)
	defer d.closing.Add(-1)
	d.transport.CloseIdleConnections()
}

// allowed returns conn if it leads to where it may. That has been asked before if the dial was
// dialTCP's, but other ones connect to what they like.
func (d *dialer) allowed(conn net.Conn) (net.Conn, error) {
	if d.allow == nil {
		return conn, nil
	}
	address := ""
	if addr := conn.RemoteAddr(); addr != nil {
		address = addr.String()
	}
	if err := refusal(d.allow, address); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

type allowKey struct{}

// dialTCP is the DialContext of NewTransport. It asks the Allow that ctx carries about each address.
func dialTCP(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	if allow, _ := ctx.Value(allowKey{}).(func(netip.AddrPort) error); allow != nil {
		d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return refusal(allow, address)
		}
	}
	return d.DialContext(ctx, network, addr)
}

// refusal returns why allow does not allow address, or nil. It is called on a goroutine of
// net/http's, where nobody could recover from a panic.
func refusal(allow func(netip.AddrPort) error, address string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the Client's Allow panicked: %v", v)
		}
		if err != nil {
			err = &Error{Kind: ErrAddress, Err: fmt.Errorf("%s: %w", shorten(address, 64), err)}
		}
	}()
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return errors.New("it is no IP address and port")
	}
	return allow(addr)
}

// localLimit tells what to do if err is this machine's fault and not the URL's, or "".
func localLimit(err error) string {
	switch {
	case isFileLimit(err):
		return "too many open files: lower the strategy's limit or raise ulimit -n"
	case errors.Is(err, syscall.EADDRNOTAVAIL) && !isIPv6(err):
		return "no free local port: lower the strategy's limit, or let connections be reused"
	}
	return ""
}

func isFileLimit(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		ok && strings.Contains(dns.Err, syscall.EMFILE.Error()) // of which it keeps the text alone
}

// isIPv6 reports whether err is of a dial to an IPv6 address. There a machine that has no
// IPv6 says what it says if it has no port.
func isIPv6(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok {
		return false
	}
	to, ok := op.Addr.(*net.TCPAddr)
	return ok && to.IP.To4() == nil
}
