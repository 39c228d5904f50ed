package conns

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"

	"fetchbench/fetch/internal/rules"
)

// A Route is where a connection leads. Requests with equal Routes may share one.
type Route struct {
	rules.Origin        // that the requests are for; the Host is empty if it is a proxy that forwards them
	Proxy        string // the URL of the proxy, with user info; "" if there is none
}

// RouteTo returns the Route for requests to o through proxy, which may be nil.
func RouteTo(o rules.Origin, proxy *url.URL) (Route, error) {
	if proxy == nil {
		return Route{Origin: o}, nil
	}
	switch {
	case defaultPorts[proxy.Scheme] == "":
		return Route{}, ProxyError{Proxy: rules.SafeURL(proxy.String()), Err: errors.New("the scheme is not http, https, socks5 or socks5h")}
	case proxy.Hostname() == "":
		return Route{}, ProxyError{Proxy: rules.SafeURL(proxy.String()), Err: errors.New("no host")}
	}
	o.Host = rules.WithoutZone(o.Host)
	if o.Scheme == "http" && (proxy.Scheme == "http" || proxy.Scheme == "https") {
		o.Host = ""
	}
	return Route{o, proxy.String()}, nil
}

// ProxiesOf returns the function that finds the proxy for a URL in c, nil if c has none. If c has a
// malformed one, every request fails, where c's own function would have them go without.
func ProxiesOf(c *httpproxy.Config) func(*url.URL) (*url.URL, error) {
	if c.HTTPProxy == "" && c.HTTPSProxy == "" {
		return nil
	}
	for _, proxy := range []string{c.HTTPProxy, c.HTTPSProxy} {
		probe := httpproxy.Config{HTTPSProxy: proxy}
		if u, _ := probe.ProxyFunc()(&url.URL{Scheme: "https", Host: "a.invalid"}); u == nil && proxy != "" {
			return func(*url.URL) (*url.URL, error) { return nil, errors.New("malformed URL") }
		}
	}
	return c.ProxyFunc()
}

// Forwards reports whether r leads to a proxy that is sent the whole URL (RFC 9112 §3.2.2).
func (r Route) Forwards() bool { return r.Host == "" }

// Clone returns a copy of r that does not keep the URL in memory.
func (r Route) Clone() Route { return Route{r.Origin.Clone(), r.Proxy} }

// ProxyAuthorization returns the value of that header field for the user info of a proxy's URL, or
// "".
func ProxyAuthorization(u *url.URL) string {
	if u == nil || u.User == nil {
		return ""
	}
	return rules.BasicAuth(u.User)
}

// A ProxyError is the error of a proxy that could not be reached, or did not connect to the server.
type ProxyError struct {
	Proxy  string // its URL, without user info
	Status int    // of its response to CONNECT; 0 if there was none
	Err    error  // nil if there was one
}

func (e ProxyError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("proxy %s: %v", e.Proxy, e.Err)
	}
	return fmt.Sprintf("proxy %s: status %d (%s) in response to CONNECT", e.Proxy, e.Status, cmp.Or(http.StatusText(e.Status), "unknown"))
}

func (e ProxyError) Unwrap() error { return e.Err }

var defaultPorts = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// openThroughProxy connects to r's proxy and, unless that forwards requests, through it to r's
// host.
func (a *attempt) openThroughProxy(ctx context.Context, r Route) error {
	u, err := url.Parse(r.Proxy)
	if err != nil {
		return ProxyError{Proxy: rules.SafeURL(r.Proxy), Err: errors.New("malformed")} // by hand
	}
	port := u.Port()
	if port == "" {
		port = defaultPorts[u.Scheme]
	}
	a.step = "connecting to the proxy"
	err = a.open(ctx, net.JoinHostPort(u.Hostname(), port))
	if err == nil && u.Scheme == "https" {
		err = a.handshake(ctx, u.Host)
	}
	if err == nil && !r.Forwards() {
		a.step = "connecting through the proxy"
		if u.Scheme == "http" || u.Scheme == "https" {
			err = a.tunnel(ctx, u, r.Address())
		} else {
			err = a.socks(ctx, u, r.Address())
		}
	}
	if _, ok := errors.AsType[ProxyError](err); err != nil && !ok {
		err = ProxyError{Proxy: rules.SafeURL(r.Proxy), Err: err}
	}
	return err
}

// maxConnect is the size in bytes of the largest response to CONNECT.
const maxConnect = 64 << 10

// tunnel has the proxy connect to addr (RFC 9110 §9.3.6).
func (a *attempt) tunnel(ctx context.Context, u *url.URL, addr string) error {
	stop := context.AfterFunc(ctx, func() { a.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: fetchbench\r\n"
	if authorization := ProxyAuthorization(u); authorization != "" {
		request += "Proxy-Authorization: " + authorization + "\r\n"
	}
	if _, err := io.WriteString(a.conn, request+"\r\n"); err != nil {
		return err
	}
	br := bufio.NewReader(io.LimitReader(a.conn, maxConnect))
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	for err == nil && resp.StatusCode >= 100 && resp.StatusCode <= 199 && resp.StatusCode != http.StatusSwitchingProtocols { // informational
		resp, err = http.ReadResponse(br, resp.Request)
	}
	switch {
	case err != nil:
		return err
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return ProxyError{Proxy: rules.SafeURL(u.String()), Status: resp.StatusCode}
	case br.Buffered() > 0:
		return errors.New("data after the response to CONNECT")
	case !stop():
		return ctx.Err() // it may have set the deadline
	}
	return nil
}

// socks has the proxy connect to addr (RFC 1928), whose name the proxy resolves.
func (a *attempt) socks(ctx context.Context, u *url.URL, addr string) error {
	var auth *proxy.Auth
	if u.User != nil {
		password, _ := u.User.Password()
		auth = &proxy.Auth{User: u.User.Username(), Password: password}
	}
	d, err := proxy.SOCKS5("tcp", u.Host, auth, nil)
	if err != nil {
		return err
	}
	// Its DialContext returns a connection of its own type, which would hide the socket.
	_, err = d.(interface {
		DialWithConn(ctx context.Context, conn net.Conn, network, addr string) (net.Addr, error)
	}).DialWithConn(ctx, a.conn, "tcp", addr)
	return err
}
