package fetchtest

import (
	"context"
	"net"
	"net/url"
	"testing"

	"fetchbench/fetch"
)

// A Route says how a new engine has to reach its servers in [TestRoutes].
type Route struct {
	// Proxy is the proxy for all requests: its scheme is http, https, socks5 or socks5h, and it may
	// have user info. nil means no proxy, not even one that the environment names.
	Proxy *url.URL
	// Dial makes the connections. nil means the engine's own way.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// TestRoutes checks that an engine keeps the contract of [TestDoer] by other routes: through a
// proxy that forwards requests, through tunnels made by CONNECT, and through SOCKS5. newDoer
// returns a new engine for a Route. It should trust [Roots], or it is spared the routes with TLS.
//
// The proxies pass everything on as it is, so most cases have the same outcome as without one.
// Also required of the engine:
//
//  1. A proxy gets the user info of its own URL. Of a request in a tunnel it learns the host and
//     the port, and no header field. A server gets no Proxy-Authorization.
//  2. A tunnel that fails is an [fetch.ErrDial], whatever status the proxy answered with; the text
//     of the error names the proxy and the status, but shows no user info and nothing else of what
//     the proxy sent. A proxy that closes the connection may be an [fetch.ErrReset] instead, and
//     one that does not speak its protocol an [fetch.ErrProtocol]. The head of its response is
//     bounded as a server's is.
//  3. A proxy's response to a request that it should forward is the result, whatever its status.
//  4. A Dial that tries one address after another gets the time and the host name for that.
//
// What [TestDoer] says of the process holds here too.
func TestRoutes(t *testing.T, newDoer func(Route) fetch.Doer) {
	trusting := trusts(t, newDoer(Route{}))
	for _, w := range []way{
		{name: "http", proxy: "http"},
		{name: "connect", proxy: "http", tls: true},
		{name: "socks", proxy: "socks5"},
	} {
		w.test(t, append(families(), family{"proxy", proxyCases(w)}), trusting, newDoer)
	}
	// Of the other proxies and schemes only what has to do with connections is of interest.
	for _, w := range []way{
		{name: "https proxy", proxy: "https"},
		{name: "connect by https proxy", proxy: "https", tls: true},
		{name: "socks with tls", proxy: "socks5h", tls: true},
	} {
		if trusting {
			w.test(t, []family{{"connection", connectionCases()}, {"proxy", proxyCases(w)}}, trusting, newDoer)
		}
	}
	dial := way{name: "dial"}
	dial.test(t, []family{{"eyeballs", eyeballCases()}}, trusting, newDoer)
}
