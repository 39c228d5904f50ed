package rules

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

// A DialFunc makes a connection, as that of [net.Dialer] does.
type DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// A Dialer opens connections.
type Dialer struct {
	Dial      DialFunc
	Allow     func(netip.AddrPort) error // may be nil
	CloseIdle func()                     // closes idle connections
	Patience  time.Duration              // with what this machine lacks: see [Patience]
}

// Patience is how long a dial waits for what this machine lacks, in an attempt that may take
// so long (not positive: without a limit).
func Patience(timeout time.Duration) time.Duration {
	const most = 5 * time.Second
	if timeout > 0 {
		return min(most, timeout/2)
	}
	return most
}

// An AddressError is why an address may not be connected to.
type AddressError struct{ Reason error }

func (e AddressError) Error() string { return e.Reason.Error() }
func (e AddressError) Unwrap() error { return e.Reason }

// A ProxyError is the status, not 200, with which a proxy answered CONNECT.
type ProxyError int

func (e ProxyError) Error() string {
	return fmt.Sprintf("the proxy answered CONNECT with status %d", int(e))
}

// Open opens a connection. That this machine has no file or port to spare is not the
// URL's fault, and passes as a rule: it tries again for some time.
func (d *Dialer) Open(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx = context.WithValue(ctx, allowKey{}, d.Allow)
	begun := time.Now()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		conn, err := d.Dial(ctx, network, addr)
		if err == nil {
			return d.allowed(conn)
		}
		if LocalLimit(err) == "" || time.Since(begun)+pause > d.Patience {
			return nil, err
		}
		if isFileLimit(err) {
			d.CloseIdle()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// allowed returns conn if it leads to where it may. That has been asked before if the dial was
// DialTCP's, but other ones connect to what they like.
func (d *Dialer) allowed(conn net.Conn) (net.Conn, error) {
	if d.Allow == nil {
		return conn, nil
	}
	address := ""
	if addr := conn.RemoteAddr(); addr != nil {
		address = addr.String()
	}
	if err := refusal(d.Allow, address); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

type allowKey struct{}

// DialTCP is a DialFunc. Within Open it asks Allow about each address before it connects.
func DialTCP(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	if allow, _ := ctx.Value(allowKey{}).(func(netip.AddrPort) error); allow != nil {
		d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return refusal(allow, address)
		}
	}
	return d.DialContext(ctx, network, addr)
}

// refusal returns why allow does not allow address, or nil. It may be called on a goroutine of
// net/http's, where a panic would end the program.
func refusal(allow func(netip.AddrPort) error, address string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the Client's Allow panicked: %v", v)
		}
		if err != nil {
			err = AddressError{fmt.Errorf("%s: %w", Shorten(address, 64), err)}
		}
	}()
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return errors.New("it is no IP address and port")
	}
	return allow(addr)
}

// LocalLimit tells what to do if err is this machine's fault and not the URL's, or "".
func LocalLimit(err error) string {
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
