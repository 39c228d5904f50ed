package conns

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/rules"
	"fetchbench/fetch/internal/socket"
)

const password = "s3cret"

// through returns the route to a URL through a proxy, "" for none.
func through(t testing.TB, to, proxy string) Route {
	t.Helper()
	var u *url.URL
	if proxy != "" {
		var err error
		u, err = url.Parse(proxy)
		require.NoError(t, err)
	}
	r, err := RouteTo(rules.OriginOf(to), u)
	require.NoError(t, err)
	return r
}

// A peer is the other end of the connections of a Dialer. It counts those that are open.
type peer struct {
	talk func(conn net.Conn, br *bufio.Reader) // nil: it is silent
	open atomic.Int64
	addr string // that was dialed last
}

func (p *peer) dial(_ context.Context, network, addr string) (net.Conn, error) {
	if network != "tcp" {
		return nil, errors.New("the network is " + network)
	}
	p.addr = addr
	conn, other := net.Pipe()
	p.open.Add(1)
	go func() {
		br := bufio.NewReader(other)
		if p.talk != nil {
			p.talk(other, br)
		}
		io.Copy(io.Discard, br) // until the connection is closed
		other.Close()
		p.open.Add(-1)
	}()
	return conn, nil
}

// requireClosed checks that no connection is open any more.
func (p *peer) requireClosed(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool { return p.open.Load() == 0 }, 10*time.Second, time.Millisecond, "a connection is left open")
}

// says returns what responds with text to a request.
func says(text string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			io.WriteString(conn, text)
		}
	}
}

const connected = "HTTP/1.1 200 Connection established\r\n\r\n"

// A limit of time for all steps together says which of them took so long; and a caller whose own
// context ends is not kept waiting. No connection is left.
func TestDialTimeout(t *testing.T) {
	const limit = 7 * time.Second
	ended := func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	resolving := func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "i/o timeout", Name: "h.test", IsTimeout: true}}
	}
	socksMethod := func(conn net.Conn, br *bufio.Reader) { // and no more
		io.ReadFull(br, make([]byte, 3))
		conn.Write([]byte{5, 0})
	}
	for _, c := range []struct {
		name, to, proxy string
		dial            func(context.Context) (net.Conn, error) // nil: at once
		pause           time.Duration                           // of the dial
		talk            func(net.Conn, *bufio.Reader)
		step            string
	}{
		{name: "name", to: "http://h.test/", dial: resolving, step: "resolving the name"},
		{name: "name of the proxy", to: "http://h.test/", proxy: "http://p.test", dial: resolving, step: "resolving the name"},
		{name: "connecting", to: "http://h.test/", dial: ended, step: "connecting"},
		{name: "connecting, https", to: "https://h.test/", dial: ended, step: "connecting"},
		{name: "proxy", to: "http://h.test/", proxy: "http://u:" + password + "@p.test", dial: ended, step: "connecting to the proxy"},
		{name: "proxy's handshake", to: "https://h.test/", proxy: "https://u:" + password + "@p.test", step: "connecting to the proxy"},
		{name: "SOCKS proxy", to: "http://h.test/", proxy: "socks5://p.test", dial: ended, step: "connecting to the proxy"},
		{name: "CONNECT", to: "https://h.test/", proxy: "http://u:" + password + "@p.test", step: "connecting through the proxy"},
		{name: "half a response to CONNECT", to: "https://h.test/", proxy: "http://p.test", talk: says("HTTP/1.1 200 OK\r\n"), step: "connecting through the proxy"},
		{name: "SOCKS", to: "http://h.test/", proxy: "socks5://u:" + password + "@p.test", step: "connecting through the proxy"},
		{name: "SOCKS request", to: "http://h.test/", proxy: "socks5h://p.test", talk: socksMethod, step: "connecting through the proxy"},
		{name: "handshake", to: "https://h.test/", step: "the TLS handshake"},
		{name: "slow, and then a handshake", to: "https://h.test/", pause: limit - time.Second, step: "the TLS handshake"},
		{name: "handshake through a proxy", to: "https://h.test/", proxy: "http://p.test", talk: says(connected), step: "the TLS handshake"},
	} {
		for how, begin := range map[string]func(context.Context) (context.Context, context.CancelFunc){
			"limit": context.WithCancel,
			"deadline of the caller": func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, limit-time.Second/2)
			},
			"cancel of the caller": func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(limit-time.Second/2, cancel)
				return ctx, cancel
			},
		} {
			t.Run(c.name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := &peer{talk: c.talk}
					d := &Dialer{Timeout: limit, TLS: &tls.Config{}, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
						if c.dial != nil {
							return c.dial(ctx)
						}
						time.Sleep(c.pause)
						return p.dial(ctx, network, addr)
					}}
					ctx, cancel := begin(t.Context())
					defer cancel()
					begun := time.Now()
					conn, err := d.Connect(ctx, through(t, c.to, c.proxy))
					require.Error(t, err)
					assert.Nil(t, conn)
					assert.NotContains(t, err.Error(), password)
					if how == "limit" {
						assert.Equal(t, limit, time.Since(begun))
						assert.Equal(t, rules.NotConnected(limit, c.step), err)
						assert.EqualError(t, err, "no connection within 7s, "+c.step+" took too long: see DialTimeout")
					} else {
						assert.Equal(t, limit-time.Second/2, time.Since(begun))
						assert.False(t, isLimit(err), "it is the caller's limit: %v", err)
						assert.Error(t, ctx.Err(), "it is done, so that the caller can tell")
					}
					synctest.Wait()
					assert.Zero(t, p.open.Load(), "a connection is left open")
				})
			})
		}
	}
}

func isLimit(err error) bool {
	_, ok := errors.AsType[rules.TimeoutError](err)
	return ok
}

// Without a limit, only the context ends an attempt.
func TestDialWithoutTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{}
		d := &Dialer{Timeout: -1, TLS: &tls.Config{}, Dial: p.dial}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		begun := time.Now()
		_, err := d.Connect(ctx, through(t, "https://h.test/", ""))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 24*time.Hour, time.Since(begun))
	})
}

// The deadlines of the steps are not those of the connection.
func TestDialLeavesNoDeadline(t *testing.T) {
	server, client := certified(t)
	for _, c := range []struct {
		to, proxy string
		talk      func(net.Conn, *bufio.Reader) net.Conn // up to the end of what Connect does
	}{
		{"http://h.test/", "", func(conn net.Conn, _ *bufio.Reader) net.Conn { return conn }},
		{"http://h.test/", "socks5://p.test", func(conn net.Conn, br *bufio.Reader) net.Conn {
			acceptSOCKS(conn, br, "")
			return conn
		}},
		{"https://example.com/", "http://p.test", func(conn net.Conn, br *bufio.Reader) net.Conn {
			says(connected)(conn, br)
			secure := tls.Server(conn, server)
			secure.Handshake()
			return secure
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{talk: func(conn net.Conn, br *bufio.Reader) {
				conn = c.talk(conn, br)
				time.Sleep(time.Hour)
				io.WriteString(conn, "late")
			}}
			d := &Dialer{Timeout: time.Second, TLS: client, Dial: p.dial}
			conn, err := d.Connect(t.Context(), through(t, c.to, c.proxy))
			require.NoError(t, err, "%v", c.proxy)
			b := make([]byte, 4)
			_, err = io.ReadFull(conn, b)
			require.NoError(t, err, "%v", c.proxy)
			assert.Equal(t, "late", string(b))
			conn.Close()
		})
	}
}

// certified returns the configuration of a server for example.com, and that of a client that trusts
// it.
func certified(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(nil) // for its certificate
	defer s.Close()
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
}

// What a Dial says for an error is found in that of Connect, which is one of a dial.
func TestDialErrors(t *testing.T) {
	own := errors.New("no way")
	op := &net.OpError{Op: "dial", Net: "tcp", Err: own}
	refused := AddressError{own}
	for _, proxy := range []string{"", "http://u:" + password + "@p.test", "socks5://u:" + password + "@p.test"} {
		for _, own := range []error{own, op, refused, fmt.Errorf("%w", context.DeadlineExceeded)} {
			d := &Dialer{Timeout: time.Minute, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, own }}
			_, err := d.Connect(t.Context(), through(t, "https://h.test/", proxy))
			require.ErrorIs(t, err, own)
			assert.False(t, isLimit(err))
			assert.NotContains(t, err.Error(), password)
			if own != error(refused) {
				opErr, ok := errors.AsType[*net.OpError](err)
				require.True(t, ok)
				assert.Equal(t, "dial", opErr.Op)
			}
			proxyErr, ok := errors.AsType[ProxyError](err)
			assert.Equal(t, proxy != "", ok)
			if proxy != "" {
				assert.Equal(t, strings.Replace(proxy, "u:"+password+"@", "", 1), proxyErr.Proxy)
				assert.Zero(t, proxyErr.Status)
			} else if own == error(op) || own == error(refused) {
				assert.Equal(t, own, err, "as it is")
			}
		}
	}
}

// A lack of files makes idle connections go, and then does not wait.
func TestDialWithoutFiles(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{}
			dials, closed := 0, false
			d := &Dialer{Patience: time.Minute, CloseIdle: func() bool {
				was := closed
				closed = true
				return !was
			}}
			d.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if dials++; !closed {
					return nil, os.NewSyscallError("socket", errno)
				}
				return p.dial(ctx, network, addr)
			}
			begun := time.Now()
			conn, err := d.Connect(t.Context(), through(t, "http://h.test/", ""))
			require.NoError(t, err)
			assert.Zero(t, time.Since(begun))
			assert.Equal(t, 2, dials)
			conn.Close()
		})
	}
}

// A lack of files or ports often passes: it is tried again, more and more rarely, for as long as
// there is patience, and the context.
func TestDialPatience(t *testing.T) {
	for _, cause := range []error{
		os.NewSyscallError("socket", syscall.EMFILE),
		os.NewSyscallError("connect", syscall.EADDRNOTAVAIL),
		&net.DNSError{Err: "dial udp: socket: " + syscall.EMFILE.Error(), Name: "h.test"},
	} {
		for _, c := range []struct {
			name              string
			until             time.Duration // it fails
			patience, limit   time.Duration
			cancel            time.Duration // 0: not
			ok, tooLong       bool
			least, most       time.Duration
			fewest, mostDials int
		}{
			{name: "passes", until: time.Second, patience: 5 * time.Second, ok: true, least: time.Second, most: 1200 * time.Millisecond, fewest: 5, mostDials: 20},
			{name: "does not pass", until: time.Hour, patience: 5 * time.Second, least: 4800 * time.Millisecond, most: 5 * time.Second, fewest: 20, mostDials: 50},
			{name: "no patience", until: time.Hour, fewest: 1, mostDials: 1},
			{name: "limit", until: time.Hour, patience: time.Hour, limit: time.Second, tooLong: true, least: time.Second, most: time.Second, fewest: 5, mostDials: 20},
			{name: "cancel", until: time.Hour, patience: time.Hour, cancel: time.Second, least: time.Second, most: time.Second, fewest: 5, mostDials: 20},
		} {
			t.Run(fmt.Sprint(cause, "/", c.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := &peer{}
					begun, dials := time.Now(), 0
					d := &Dialer{Patience: c.patience, Timeout: c.limit, CloseIdle: func() bool { return false }}
					d.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
						if dials++; time.Since(begun) < c.until {
							return nil, cause
						}
						return p.dial(ctx, network, addr)
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if c.cancel > 0 {
						time.AfterFunc(c.cancel, cancel)
					}
					conn, err := d.Connect(ctx, through(t, "http://h.test/", ""))
					took := time.Since(begun)
					assert.GreaterOrEqual(t, took, c.least)
					assert.LessOrEqual(t, took, c.most)
					assert.GreaterOrEqual(t, dials, c.fewest)
					assert.LessOrEqual(t, dials, c.mostDials)
					switch {
					case c.ok:
						require.NoError(t, err)
						conn.Close()
					case c.tooLong:
						assert.True(t, isLimit(err), "%v", err)
					default:
						assert.ErrorIs(t, err, cause)
						assert.NotEmpty(t, rules.LocalLimit(err))
					}
				})
			})
		}
	}
}

// What an address policy says holds for a Dial too, and closes its connection.
func TestDialAllow(t *testing.T) {
	own := errors.New("not there")
	for name, c := range map[string]struct {
		allow func(netip.AddrPort) error
		wrap  func(net.Conn) net.Conn
		text  string
	}{
		"refused":     {func(netip.AddrPort) error { return own }, at("192.0.2.1", 80), "192.0.2.1:80: not there"},
		"allowed":     {func(netip.AddrPort) error { return nil }, at("192.0.2.1", 80), ""},
		"panics":      {func(netip.AddrPort) error { panic("oops") }, at("192.0.2.1", 80), "192.0.2.1:80: the Client's AllowAddr panicked: oops"},
		"no address":  {func(netip.AddrPort) error { return nil }, func(c net.Conn) net.Conn { return c }, "pipe: not an IP address and port"},
		"nil address": {func(netip.AddrPort) error { return nil }, func(c net.Conn) net.Conn { return addressed{c, nil} }, ": not an IP address and port"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &peer{}
			d := &Dialer{Allow: c.allow, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := p.dial(ctx, network, addr)
				return c.wrap(conn), err
			}}
			conn, err := d.Connect(t.Context(), through(t, "http://h.test/", ""))
			if c.text == "" {
				require.NoError(t, err)
				conn.Close()
				p.requireClosed(t)
				return
			}
			_, ok := errors.AsType[AddressError](err)
			assert.True(t, ok)
			assert.EqualError(t, err, c.text)
			p.requireClosed(t)
		})
	}
	// Without a Dial it is asked before anything is sent there.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	d := &Dialer{Allow: func(netip.AddrPort) error { return own }}
	_, err = d.Connect(t.Context(), through(t, "http://"+l.Addr().String()+"/", ""))
	assert.ErrorIs(t, err, own)
	require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = l.Accept()
	assert.Error(t, err, "a connection was made")
	l.Close()
}

type addressed struct {
	net.Conn
	addr net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.addr }

func at(ip string, port int) func(net.Conn) net.Conn {
	return func(c net.Conn) net.Conn {
		return addressed{c, &net.TCPAddr{IP: net.ParseIP(ip), Port: port}}
	}
}

// A connection over TLS tells what has been received of it; a panic in its handshake leaves none
// open.
func TestDialTLS(t *testing.T) {
	server, client := certified(t)
	p := &peer{talk: func(conn net.Conn, _ *bufio.Reader) {
		secure := tls.Server(conn, server)
		secure.Handshake()
	}}
	d := &Dialer{TLS: client, Dial: p.dial}
	conn, err := d.Connect(t.Context(), through(t, "https://example.com/", ""))
	require.NoError(t, err)
	assert.Equal(t, "example.com:443", p.addr)
	secure, ok := conn.(*tls.Conn)
	require.True(t, ok)
	assert.IsType(t, &socket.Records{}, secure.NetConn())
	assert.Empty(t, client.ServerName, "the configuration is not changed")
	conn.Close()
	p.requireClosed(t)

	_, err = d.Connect(t.Context(), through(t, "https://other.test/", ""))
	_, ok = errors.AsType[*tls.CertificateVerificationError](err)
	assert.True(t, ok, "%v", err)
	p.requireClosed(t)

	d.TLS = client.Clone()
	d.TLS.VerifyConnection = func(tls.ConnectionState) error { panic("of the caller's") }
	assert.PanicsWithValue(t, "of the caller's", func() { d.Connect(t.Context(), through(t, "https://example.com/", "")) })
	p.requireClosed(t)
}
