package fetch_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

func TestPublicOnly(t *testing.T) {
	for ip, public := range map[string]bool{
		"1.1.1.1": true, "8.8.8.8": true, "9.255.255.255": true, "11.0.0.0": true, "100.63.255.255": true, "100.128.0.0": true,
		"126.255.255.255": true, "128.0.0.0": true, "168.63.129.15": true, "172.15.255.255": true, "172.32.0.0": true,
		"192.0.1.0": true, "192.167.255.255": true, "192.169.0.0": true, "198.17.255.255": true, "198.20.0.0": true, "223.255.255.255": true,
		"2606:4700:4700::1111": true, "2a00:1450::1": true, "2001:200::1": true, "2001:4860:4860::8888": true,
		"::ffff:8.8.8.8": true, "64:ff9b::8.8.8.8": true,

		"0.0.0.0": false, "0.1.2.3": false, "10.0.0.0": false, "10.255.255.255": false, "100.64.0.0": false, "100.100.100.200": false,
		"100.127.255.255": false, "127.0.0.1": false, "127.255.255.255": false, "168.63.129.16": false, "169.254.169.254": false,
		"172.16.0.0": false, "172.31.255.255": false, "192.0.0.192": false, "192.0.2.1": false, "192.168.0.1": false,
		"198.18.0.0": false, "198.19.255.255": false, "198.51.100.7": false, "203.0.113.7": false, "224.0.0.1": false,
		"239.255.255.255": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "fe80::1": false, "fe80::1%eth0": false, "fec0::1": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false,
		"2001:db8::1": false, "2001::1": false, "2001:1ff::1": false, "2002:7f00:1::": false, "2002:808:808::1": false, "3fff::1": false, "100::1": false, "5f00::1": false,
		"::127.0.0.1": false, "::8.8.8.8": false,
		"::ffff:127.0.0.1": false, "::ffff:a9fe:a9fe": false, "::ffff:0:7f00:1": false, "64:ff9b::127.0.0.1": false, "64:ff9b::a00:1": false, "64:ff9b:1::808:808": false,
	} {
		err := fetch.PublicOnly(netip.AddrPortFrom(netip.MustParseAddr(ip), 443))
		assert.Equal(t, public, err == nil, ip)
	}
	assert.Error(t, fetch.PublicOnly(netip.AddrPort{}), "no address")
}

// However a URL writes an address that is not public: nothing arrives there.
func TestClientAllowAddr(t *testing.T) {
	var arrived atomic.Int64
	inside := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	_, port, err := net.SplitHostPort(inside.Listener.Addr().String())
	require.NoError(t, err)
	client := tidy(t, &fetch.Client{AllowAddr: fetch.PublicOnly})
	for _, host := range []string{
		"127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:169.254.169.254]",
		"169.254.169.254", "10.0.0.1", "[fd00:ec2::254]", "[fe80::1%25lo]", "255.255.255.255", "LOCALHOST", "127.0.0.1.",
		// Some resolvers know these for 127.0.0.1, others for no name at all.
		"2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "%31%32%37.0.0.1", "①②⑦.0.0.1",
	} {
		res := get(t, client, "http://"+host+":"+port+"/")
		require.Error(t, res.Err, host)
		assert.Contains(t, []fetch.Kind{fetch.ErrAddress, fetch.ErrDNS, fetch.ErrBadURL}, fetch.KindOf(res.Err), "%s: %v", host, res.Err)
	}
	assert.ErrorIs(t, get(t, client, inside.URL).Err, fetch.ErrAddress)
	assert.ErrorContains(t, get(t, client, inside.URL).Err, "address refused: "+strings.TrimPrefix(inside.URL, "http://")+": not a public address")
	assert.Zero(t, arrived.Load())
}

// Why an address is refused is shown as AllowAddr says it, quotation marks included.
func TestClientAllowAddrSaysWhy(t *testing.T) {
	refused := errors.New(`rule "inside" of "rules.txt" refuses it`)
	client := tidy(t, &fetch.Client{AllowAddr: func(netip.AddrPort) error { return refused }})
	res := get(t, client, "http://user:"+secret+"@127.0.0.1:1/?"+secret)
	assert.ErrorIs(t, res.Err, refused)
	assert.EqualError(t, res.Err, `fetch: http://127.0.0.1:1/: address refused: 127.0.0.1:1: rule "inside" of "rules.txt" refuses it`)
}

// AllowAddr is called at each connection, so it holds where a server redirects to, and for a dial that
// is not ours.
func TestClientAllowAddrEverywhere(t *testing.T) {
	var arrived atomic.Int64
	inside := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	outside := serve(t, http.RedirectHandler(inside.URL, http.StatusFound))
	refused := errors.New("not the one inside")
	allow := func(addr netip.AddrPort) error {
		if addr.String() == inside.Listener.Addr().String() {
			return refused
		}
		return nil
	}
	for name, dial := range map[string]dialFunc{"default": nil, "own": new(net.Dialer).DialContext} {
		t.Run(name, func(t *testing.T) {
			client := tidy(t, &fetch.Client{AllowAddr: allow, Dial: dial})
			for url, status := range map[string]int{inside.URL: 0, outside.URL: http.StatusFound} {
				res := get(t, client, url)
				assert.ErrorIs(t, res.Err, fetch.ErrAddress)
				assert.ErrorIs(t, res.Err, refused)
				assert.Equal(t, status, res.Status)
			}
			assert.Zero(t, arrived.Load())
		})
	}
}

// What would connect in the Client's stead is an error, and not a hole in the fence.
func TestClientAllowAddrAndOthers(t *testing.T) {
	var arrived atomic.Int64
	proxy := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	proxied := func(u *url.URL) (*url.URL, error) {
		if u.Hostname() == "direct.invalid" {
			return nil, nil
		}
		return url.Parse(proxy.URL)
	}
	direct := errors.New("dialed directly")
	client := tidy(t, &fetch.Client{AllowAddr: fetch.PublicOnly, Proxy: proxied, Dial: failing(direct)})
	for _, u := range []string{"http://1.1.1.1/", "https://1.1.1.1/", "http://a.invalid/"} {
		res := get(t, client, u)
		assert.ErrorIs(t, res.Err, fetch.ErrAddress)
		assert.ErrorContains(t, res.Err, "cannot be enforced through a proxy")
	}
	assert.ErrorIs(t, get(t, client, "http://direct.invalid/").Err, direct, "one that goes past the proxy")

	client = tidy(t, &fetch.Client{AllowAddr: fetch.PublicOnly, Dial: dialsTo(proxy.Listener.Addr().String())})
	for _, u := range []string{"https://a.invalid/", "http://a.invalid/"} {
		res := get(t, client, u)
		assert.ErrorIs(t, res.Err, fetch.ErrAddress)
		assert.ErrorContains(t, res.Err, "not a public address")
	}
	// A connection to what has no IP address cannot be judged.
	client = tidy(t, &fetch.Client{AllowAddr: func(netip.AddrPort) error { return nil }, Dial: func(context.Context, string, string) (net.Conn, error) {
		conn, other := net.Pipe()
		other.Close()
		return conn, nil
	}})
	res := get(t, client, "http://a.invalid/")
	assert.ErrorIs(t, res.Err, fetch.ErrAddress)
	assert.ErrorContains(t, res.Err, "not an IP address and port")
	assert.Zero(t, arrived.Load())
}

// An AllowAddr that panics refuses the address: it may run on a goroutine of package net's, where a
// panic would end the program.
func TestClientAllowAddrPanics(t *testing.T) {
	for name, dial := range map[string]dialFunc{"default": nil, "own": new(net.Dialer).DialContext} {
		server := serve(t, answers([]byte("hello")))
		client := tidy(t, &fetch.Client{AllowAddr: func(netip.AddrPort) error { panic("a bug") }, Dial: dial})
		res := get(t, client, server.URL)
		assert.ErrorIs(t, res.Err, fetch.ErrAddress, name)
		assert.ErrorContains(t, res.Err, "the Client's AllowAddr panicked: a bug", name)
	}
}
