package fetch_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// decodedResult returns what is left of res after its encoding.
func decodedResult(t *testing.T, res fetch.Result) (got fetch.Result) {
	t.Helper()
	require.NoError(t, got.UnmarshalBinary(encoded(t, &res)))
	return got
}

// A Result tells the protocol and address of its connection.
func TestClientResultConn(t *testing.T) {
	here := serve(t, answers([]byte("hello")))
	addr := netip.MustParseAddrPort(here.Listener.Addr().String())
	there := serve(t, http.RedirectHandler(here.URL, http.StatusFound))
	secure := tlsServer(t, answers([]byte("hello")), nil)
	old := serveRaw(t, sends("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
	short := serveRaw(t, sends("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"))
	client := tidy(t, &fetch.Client{TLS: &tls.Config{RootCAs: rootsOf(secure)}})
	for _, c := range []struct {
		name, url, proto string
		addr             netip.AddrPort
	}{
		{"a server", here.URL, "HTTP/1.1", addr},
		{"again", here.URL, "HTTP/1.1", addr},
		{"a redirect", there.URL, "HTTP/1.1", addr},
		{"TLS", secure.URL, "HTTP/1.1", netip.MustParseAddrPort(secure.Listener.Addr().String())},
		{"HTTP/1.0", old, "HTTP/1.0", netip.MustParseAddrPort(strings.TrimPrefix(old, "http://"))},
		{"a body that breaks off", short, "HTTP/1.1", netip.MustParseAddrPort(strings.TrimPrefix(short, "http://"))},
		{"nothing there", "http://127.0.0.1:1", "", netip.AddrPort{}},
		{"a bad URL", "http://%zz", "", netip.AddrPort{}},
	} {
		res := get(t, client, c.url)
		assert.Equal(t, c.proto, res.Proto(), c.name)
		assert.Equal(t, c.addr, res.RemoteAddr(), c.name)
	}
	assert.Empty(t, (&fetch.Result{}).Proto())
	assert.Equal(t, netip.AddrPort{}, (&fetch.Result{}).RemoteAddr())

	// Through a proxy it is the proxy's address.
	proxied := tidy(t, &fetch.Client{Proxy: func(*url.URL) (*url.URL, error) { return url.Parse(here.URL) }})
	res := get(t, proxied, "http://host.test/")
	assert.Equal(t, addr, res.RemoteAddr())

	// Of IPv6, and of a Dial that has the long form of an IPv4 address.
	for ip, want := range map[string]string{"2001:db8::1": "[2001:db8::1]:80", "fe80::1%eth0": "[fe80::1%eth0]:80", "192.0.2.1": "192.0.2.1:80"} {
		ipAddr := netip.MustParseAddr(ip)
		c := tidy(t, &fetch.Client{Dial: dialWrapped(func(conn *net.TCPConn) net.Conn {
			a := ipAddr.As16()
			return addressedConn{conn, &net.TCPAddr{IP: a[:], Zone: ipAddr.Zone(), Port: 80}}
		})})
		res := get(t, c, here.URL)
		require.NoError(t, res.Err)
		assert.Equal(t, want, res.RemoteAddr().String())
	}

	// HTTPClient tells the protocol.
	res = get(t, tidy(t, fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}}), here.URL)
	assert.Equal(t, "HTTP/1.1", res.Proto())
	assert.Equal(t, netip.AddrPort{}, res.RemoteAddr())
	assert.Zero(t, res.FirstByte)
}

type addressedConn struct {
	net.Conn
	addr net.Addr
}

func (c addressedConn) RemoteAddr() net.Addr { return c.addr }

// FirstByte is the time up to the response's first byte, of Duration.
func TestClientFirstByte(t *testing.T) {
	const pause = 60 * time.Millisecond
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		before, within := r.FormValue("before"), r.FormValue("within")
		if before != "" {
			time.Sleep(pause) // the service time
		}
		if to := r.FormValue("to"); to != "" {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("Content-Length", "2")
		io.WriteString(w, "x")
		if within != "" {
			http.NewResponseController(w).Flush()
			time.Sleep(pause) // the time that the body takes
		}
		io.WriteString(w, "x")
	}))
	c := tidy(t, &fetch.Client{})
	check := func(res fetch.Result, name string, first, rest bool) {
		t.Helper()
		require.NoError(t, res.Err)
		assert.Equal(t, "xx", string(res.Body))
		assert.Positive(t, res.FirstByte, name)
		assert.LessOrEqual(t, res.FirstByte, res.Duration, name)
		if first {
			assert.GreaterOrEqual(t, res.FirstByte, pause, name)
		}
		if rest {
			assert.GreaterOrEqual(t, res.Duration-res.FirstByte, pause*9/10, name)
		}
		got := decodedResult(t, res)
		assert.Equal(t, res.FirstByte, got.FirstByte, name)
		assert.Equal(t, res.Duration, got.Duration, name)
	}
	for range 2 { // on a new connection, and again
		check(get(t, c, s.URL), "at once", false, false)
		check(get(t, c, s.URL+"/?before=1"), "a slow server", true, false)
		check(get(t, c, s.URL+"/?within=1"), "a slow body", false, true)
		check(get(t, c, s.URL+"/?before=1&within=1"), "both", true, true)
		check(get(t, c, s.URL+"/?before=1&to=/"), "a redirect counts", true, false)
	}
	var reqs []*fetch.Request
	for range 4 {
		reqs = append(reqs, &fetch.Request{URL: s.URL + "/?before=1"})
	}
	c.DoBatch(t.Context(), reqs, func(res fetch.Result) { check(res, "one of several in a write", true, false) })

	res := get(t, c, "http://127.0.0.1:1/")
	assert.Zero(t, res.FirstByte)
	res = get(t, c, serveRaw(t, sends("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")))
	assert.ErrorIs(t, res.Err, fetch.ErrTruncated)
	assert.Positive(t, res.FirstByte, "a response came")
}
