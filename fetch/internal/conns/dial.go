// Package conns makes connections, over TCP or a given dial function, with TLS and through proxies,
// and keeps those that no request is using.
//
// Its errors have no kind: package fetch adds it. No error shows the user info of a proxy.
package conns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"fetchbench/fetch/internal/rules"
	"fetchbench/fetch/internal/socket"
)

// A DialFunc makes a connection, as [net.Dialer.DialContext] does.
type DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// A Dialer makes connections. Its methods may be called concurrently.
type Dialer struct {
	Dial      DialFunc                   // nil: TCP over IPv4 or IPv6, whichever connects first (RFC 6555)
	Allow     func(netip.AddrPort) error // which addresses may be connected to; nil: all
	TLS       *tls.Config                // the server's name is added
	Timeout   time.Duration              // of all steps together; not positive: no limit
	Patience  time.Duration              // with a lack of files or ports on this machine
	CloseIdle func() (any bool)          // closes idle connections
}

// An AddressError is the reason why an address may not be connected to.
type AddressError struct{ Reason error }

func (e AddressError) Error() string { return e.Reason.Error() }
func (e AddressError) Unwrap() error { return e.Reason }

// A HandshakeError is the error of a TLS handshake. It may be that of the connection, or of a
// function in the TLS configuration.
type HandshakeError struct{ Err error }

func (e HandshakeError) Error() string { return e.Err.Error() }
func (e HandshakeError) Unwrap() error { return e.Err }

// Connect makes a connection for r: to the server, over TLS if its scheme is https, or to a proxy
// that forwards requests.
func (d *Dialer) Connect(ctx context.Context, r Route) (_ net.Conn, err error) {
	caller := ctx
	if d.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	a := attempt{Dialer: d, step: "connecting"}
	ready := false
	defer func() { // also if a function of the caller's panics
		if !ready && a.conn != nil {
			a.conn.Close()
		}
	}()
	if r.Proxy == "" {
		err = a.open(ctx, r.Address())
	} else {
		err = a.openThroughProxy(ctx, r)
	}
	if err == nil && r.Scheme == "https" {
		a.step = "the TLS handshake"
		err = a.handshake(ctx, r.Host)
	}
	if err == nil {
		ready = true
		return a.conn, nil
	}
	if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
		<-ctx.Done() // a step that has the same deadline may end a moment earlier
	}
	if ctx.Err() != nil && caller.Err() == nil {
		if _, ok := errors.AsType[*net.DNSError](err); ok {
			a.step = "resolving the name"
		}
		return nil, rules.NotConnected(d.Timeout, a.step)
	}
	return nil, err
}

// An attempt is a connection that is being made.
type attempt struct {
	*Dialer
	conn net.Conn
	step string // that is under way
}

// open connects to addr. A lack of files or ports on this machine is not the URL's fault, and
// passes as a rule: it tries again for some time.
func (a *attempt) open(ctx context.Context, addr string) (err error) {
	dial := a.Dial
	if dial == nil {
		dial = a.dialTCP
	}
	begun := time.Now()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		if a.conn, err = dial(ctx, "tcp", addr); err == nil {
			break
		}
		a.conn = nil
		switch {
		case rules.IsFileLimit(err) && a.CloseIdle():
			continue
		case rules.LocalLimit(err) == "" || time.Since(begun)+pause > a.Patience:
			return dialError(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return dialError(err)
		}
	}
	if a.conn == nil {
		return dialError(errors.New("no connection from Dial"))
	}
	if a.Allow != nil && a.Dial != nil { // which connects where it likes
		address := ""
		if to := a.conn.RemoteAddr(); to != nil {
			address = to.String()
		}
		if err := refusal(a.Allow, address); err != nil {
			return err
		}
	}
	if err := a.conn.SetDeadline(time.Time{}); err != nil {
		return dialError(fmt.Errorf("connections of Dial have to support deadlines: %w", err))
	}
	return nil
}

// dialError returns err as that of a dial, whatever a Dial of the caller's makes of it.
func dialError(err error) error {
	op, isOp := err.(*net.OpError)
	_, refused := errors.AsType[AddressError](err)
	if isOp && op.Op == "dial" || refused || rules.LocalLimit(err) != "" {
		return err
	}
	return &net.OpError{Op: "dial", Net: "tcp", Err: err}
}

// dialTCP is the default Dial. It asks Allow about each address before it connects.
func (d *Dialer) dialTCP(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := net.Dialer{KeepAlive: 30 * time.Second}
	if d.Allow != nil {
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return refusal(d.Allow, address)
		}
	}
	return dialer.DialContext(ctx, network, addr)
}

// refusal returns why allow refuses address, or nil. It may be called on a goroutine of package
// net's, where a panic would end the program.
func refusal(allow func(netip.AddrPort) error, address string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the Client's AllowAddr panicked: %v", v)
		}
		if err != nil {
			err = AddressError{fmt.Errorf("%s: %w", rules.Shorten(address, 64), err)}
		}
	}()
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return errors.New("not an IP address and port")
	}
	return allow(addr)
}

// handshake makes the connection one with TLS to a server with that host.
func (a *attempt) handshake(ctx context.Context, host string) error {
	config := a.TLS
	if config.ServerName == "" {
		u := url.URL{Host: rules.WithoutZone(host)}
		config = config.Clone()
		config.ServerName = u.Hostname()
	}
	conn := tls.Client(socket.NewRecords(a.conn), config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return HandshakeError{err}
	}
	a.conn = conn
	return nil
}
