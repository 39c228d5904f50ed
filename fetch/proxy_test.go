package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/socket"
)

// proxyVariables are those that name a proxy to Go, curl and others.
var proxyVariables = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}

// setProxies sets the variables, in the spelling that both Go and curl read, and unsets the others.
func setProxies(t *testing.T, vars map[string]string) {
	for _, name := range proxyVariables {
		t.Setenv(name, "")
		t.Setenv(strings.ToLower(name), vars[name])
	}
}

// A program that sets nothing but the variables has its requests go through the proxy, and no others.
func TestProxyFromEnvironment(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := parseProxyAuth(r); user != "user" || password != secret {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		assert.Empty(t, r.Header.Get("Authorization"), "the proxy's user info is not for the server")
		fmt.Fprint(w, "proxied ", r.URL)
	}))
	defer proxy.Close()
	direct := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Empty(t, r.Header.Get("Proxy-Authorization"), "it is not for servers")
		fmt.Fprint(w, "direct ", r.RequestURI)
	}))
	defer direct.Close()
	addr := strings.TrimPrefix(proxy.URL, "http://")
	with := "http://user:" + secret + "@" + addr
	for _, c := range []struct {
		name string
		vars map[string]string
		url  string
		want string // the body, or a part of the error
	}{
		{"nothing set", nil, "http://host.test/a", "direct /a"},
		{"HTTP_PROXY", map[string]string{"HTTP_PROXY": with}, "http://host.test/a?b", "proxied http://host.test/a?b"},
		{"HTTP_PROXY without a scheme", map[string]string{"HTTP_PROXY": "user:" + secret + "@" + addr}, "http://host.test/", "proxied http://host.test/"},
		{"a port", map[string]string{"HTTP_PROXY": with}, "http://host.test:8080/", "proxied http://host.test:8080/"},
		{"HTTPS_PROXY is for https alone", map[string]string{"HTTPS_PROXY": with}, "http://host.test/", "direct /"},
		{"HTTPS_PROXY", map[string]string{"HTTPS_PROXY": with}, "https://host.test/",
			"dial: proxy http://" + addr + ": status 502 (Bad Gateway) in response to CONNECT"},
		{"HTTPS_PROXY without a password", map[string]string{"HTTPS_PROXY": proxy.URL}, "https://host.test/",
			"dial: proxy http://" + addr + ": status 407 (Proxy Authentication Required) in response to CONNECT"},
		{"NO_PROXY, a host", map[string]string{"HTTP_PROXY": with, "NO_PROXY": "other.test,host.test"}, "http://host.test/", "direct /"},
		{"NO_PROXY, a domain", map[string]string{"HTTP_PROXY": with, "NO_PROXY": ".test"}, "http://host.test/", "direct /"},
		{"NO_PROXY, a port", map[string]string{"HTTP_PROXY": with, "NO_PROXY": "host.test:81"}, "http://host.test/", "proxied http://host.test/"},
		{"NO_PROXY, all", map[string]string{"HTTP_PROXY": with, "NO_PROXY": "*"}, "http://host.test/", "direct /"},
		{"localhost has none", map[string]string{"HTTP_PROXY": with}, direct.URL + "/a", "direct /a"},
		{"scheme that no proxy has", map[string]string{"HTTP_PROXY": "gopher://user:" + secret + "@" + addr}, "http://host.test/",
			"dial: proxy gopher://" + addr + ": the scheme is not http, https, socks5 or socks5h"},
		// Without it they would go to the server, and the network might see what it must not.
		{"malformed", map[string]string{"HTTP_PROXY": "http://user:" + secret + "%zz@" + addr}, "http://host.test/", "dial: proxy from the environment: malformed URL"},
		{"malformed, without a scheme", map[string]string{"HTTP_PROXY": "user:" + secret + "%zz@" + addr}, "http://host.test/", "dial: proxy " + addr + ": the scheme is not http"},
		{"malformed, for https", map[string]string{"HTTPS_PROXY": "http://user:" + secret + "%zz@" + addr}, "https://host.test/", "dial: proxy from the environment: malformed URL"},
		{"malformed, for the other scheme", map[string]string{"HTTP_PROXY": with, "HTTPS_PROXY": "http://user:" + secret + "%zz@" + addr}, "http://host.test/",
			"dial: proxy from the environment: malformed URL"},
		{"malformed, and NO_PROXY", map[string]string{"HTTP_PROXY": "http://user:" + secret + "%zz@" + addr, "NO_PROXY": "*"}, "http://host.test/",
			"dial: proxy from the environment: malformed URL"},
		{"not there", map[string]string{"HTTP_PROXY": "http://user:" + secret + "@127.0.0.1:1"}, "http://host.test/",
			"dial: proxy http://127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			setProxies(t, c.vars)
			client := tidy(t, &fetch.Client{Dial: func(ctx context.Context, network, to string) (net.Conn, error) {
				if strings.HasPrefix(to, "host.test:") {
					to = strings.TrimPrefix(direct.URL, "http://")
				}
				return new(net.Dialer).DialContext(ctx, network, to)
			}})
			res := get(t, client, c.url)
			if !strings.HasPrefix(c.want, "dial: ") {
				require.NoError(t, res.Err)
				assert.Equal(t, c.want, string(res.Body))
				return
			}
			assert.ErrorContains(t, res.Err, c.want)
			assert.NotContains(t, res.Err.Error(), secret)
			assert.ErrorIs(t, res.Err, fetch.ErrDial)
		})
	}
	t.Run("none is wanted", func(t *testing.T) {
		setProxies(t, map[string]string{"HTTP_PROXY": with})
		client := tidy(t, &fetch.Client{Proxy: proxyURL(nil), Dial: dialsTo(strings.TrimPrefix(direct.URL, "http://"))})
		assert.Equal(t, "direct /", string(get(t, client, "http://host.test/").Body))
	})
}

func parseProxyAuth(r *http.Request) (user, password string, ok bool) {
	fake := &http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	return fake.BasicAuth()
}

// What a proxy says is neither told nor heeded.
func TestProxyText(t *testing.T) {
	server := serveRaw(t, sends("HTTP/1.1 407 tls: "+secret+"\r\n\r\n"))
	proxy, err := url.Parse(strings.Replace(server, "http://", "http://user:"+secret+"@", 1))
	require.NoError(t, err)
	transport := fetch.NewTransport()
	transport.Proxy = http.ProxyURL(proxy)
	for name, client := range map[string]engine{
		"Client":     &fetch.Client{Proxy: proxyURL(proxy)},
		"HTTPClient": fetch.HTTPClient{Client: &http.Client{Transport: transport}},
	} {
		res := get(t, tidy(t, client), "https://a.invalid/?"+secret)
		assert.ErrorIs(t, res.Err, fetch.ErrDial, name)
		assert.ErrorContains(t, res.Err, "fetch: https://a.invalid/: dial: proxy "+server+": status 407 (Proxy Authentication Required) in response to CONNECT", name)
		assert.NotContains(t, res.Err.Error(), secret, name)
		var e *fetch.ProxyError
		require.ErrorAs(t, res.Err, &e, name)
		assert.Equal(t, fetch.ProxyError{Proxy: server, Status: 407}, *e, name)
	}
}

// A proxy that cannot be used is an error without its password, and not a reason to go without.
func TestClientProxyUnusable(t *testing.T) {
	// A CGI program must not heed HTTP_PROXY, which its client may have set by a header field Proxy.
	t.Setenv("REQUEST_METHOD", "GET")
	t.Setenv("HTTP_PROXY", "http://user:"+secret+"@a.invalid/")
	proxy := func(scheme, host string) *url.URL {
		return &url.URL{Scheme: scheme, User: url.UserPassword("user", secret), Host: host}
	}
	refusal := errors.New("no proxy for strangers")
	for _, c := range []struct {
		proxy func(*url.URL) (*url.URL, error)
		text  string
		cause error
	}{
		{nil, "proxy from the environment: refusing to use HTTP_PROXY value in CGI environment", nil},
		{func(*url.URL) (*url.URL, error) { return url.Parse(fmt.Sprint("http://user:", secret, "@[::1")) }, "proxy from Client.Proxy: parse", nil},
		{func(*url.URL) (*url.URL, error) { return nil, refusal }, "proxy from Client.Proxy: no proxy for strangers", refusal},
		{proxyURL(proxy("ftp", "127.0.0.1:1")), "proxy ftp://127.0.0.1:1: the scheme is not http, https, socks5 or socks5h", nil},
		{proxyURL(proxy("http", ":1")), "proxy http://: no host", nil},
		{proxyURL(proxy("http", "a b")), "proxy http://a%20b: malformed", nil},
	} {
		res := get(t, tidy(t, &fetch.Client{Proxy: c.proxy, Dial: noDial(t)}), "http://a.invalid/?"+secret)
		assert.ErrorIs(t, res.Err, fetch.ErrDial, c.text)
		assert.ErrorContains(t, res.Err, "fetch: http://a.invalid/: dial: "+c.text)
		assert.NotContains(t, res.Err.Error(), secret)
		if c.cause != nil {
			assert.ErrorIs(t, res.Err, c.cause)
		}
	}
}

// splice connects conn to addr, until either side closes.
func splice(conn net.Conn, addr string) {
	server, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		io.Copy(server, conn)
		server.Close()
	})
	io.Copy(conn, server)
	conn.Close()
	up.Wait()
}

// A proxy may send informational responses before that to CONNECT, as each server may (RFC 9110
// §15.2).
func TestClientConnectInformational(t *testing.T) {
	secure := serveTLS(t, answers([]byte("hello")))
	for _, c := range []struct {
		responses string
		status    int // of the ProxyError; 0: there is none
	}{
		{"HTTP/1.1 200 OK\r\n\r\n", 0},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 0},
		{"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nVia: x\r\n\r\n", 0},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 502 Bad Gateway\r\n\r\n", 502},
		{"HTTP/1.1 101 Switching Protocols\r\n\r\n", 101}, // which ends what is HTTP
	} {
		proxy, err := url.Parse(serveRaw(t, func(conn *net.TCPConn, r *http.Request) {
			io.WriteString(conn, c.responses)
			splice(conn, r.Host)
		}))
		require.NoError(t, err)
		client := tidy(t, &fetch.Client{Proxy: proxyURL(proxy), TLS: trust(secure)})
		res := get(t, client, secure.URL)
		if c.status == 0 {
			require.NoError(t, res.Err, c.responses)
			assert.Equal(t, "hello", string(res.Body), c.responses)
			continue
		}
		assert.ErrorIs(t, res.Err, fetch.ErrDial, c.responses)
		var e *fetch.ProxyError
		require.ErrorAs(t, res.Err, &e, c.responses)
		assert.Equal(t, c.status, e.Status, c.responses)
	}
}

// The zone of an address has a meaning on this machine alone. It may have spaces, which would end
// the URL in a request line.
func TestClientProxyZones(t *testing.T) {
	for _, c := range []struct{ url, target, host string }{
		{"http://[fe80::1%25eth0]:8080/x", "http://[fe80::1]:8080/x", "[fe80::1]:8080"},
		{"http://[fe80::1%25a%20b]/x", "http://[fe80::1]/x", "[fe80::1]"},
		{"http://[fe80::1%25%5D:80]/x", "http://[fe80::1]/x", "[fe80::1]"},
		{"https://[fe80::1%25eth0]:8080/x", "[fe80::1]:8080", "[fe80::1]:8080"},
		{"https://[fe80::1%25a%20b]/x", "[fe80::1]:443", "[fe80::1]:443"},
	} {
		var target, host string
		proxy, err := url.Parse(serveRaw(t, func(conn *net.TCPConn, r *http.Request) {
			target, host = r.RequestURI, r.Host
			io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		}))
		require.NoError(t, err)
		res := get(t, tidy(t, &fetch.Client{Proxy: proxyURL(proxy)}), c.url)
		var e *fetch.ProxyError
		assert.True(t, res.Status == 403 || errors.As(res.Err, &e) && e.Status == 403, "%s: the request was well formed: %v", c.url, res.Err)
		assert.Equal(t, c.target, target, c.url)
		assert.Equal(t, c.host, host, c.url)
	}
}

// An unsolicited response is noticed through proxies too, below two layers of TLS as well: the next
// request must not get it.
func TestClientProxyStray(t *testing.T) {
	for name, serveProxy := range map[string]func(*testing.T, http.Handler) *httptest.Server{"http": serve, "https": serveTLS11} {
		t.Run(name, func(t *testing.T) {
			stray, sent := make(chan bool), make(chan error, 1)
			secure := serveTLS11(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/first" {
					io.WriteString(w, r.URL.Path)
					return
				}
				conn, _, err := w.(http.Hijacker).Hijack()
				if !assert.NoError(t, err) {
					return
				}
				defer conn.Close()
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n/first")
				select {
				case <-stray:
				case <-t.Context().Done():
					return
				}
				_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray")
				sent <- err
				io.Copy(io.Discard, conn)
			}))
			proxy := serveProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := w.(http.Hijacker).Hijack()
				if assert.NoError(t, err) {
					io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
					splice(conn, r.Host)
				}
			}))
			u, err := url.Parse(proxy.URL)
			require.NoError(t, err)
			var conns []net.Conn
			client := tidy(t, &fetch.Client{Proxy: proxyURL(u), TLS: trust(secure), Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err == nil {
					conns = append(conns, conn)
				}
				return conn, err
			}})
			res := get(t, client, secure.URL+"/first")
			require.NoError(t, res.Err)
			require.Len(t, conns, 1)
			stray <- true
			require.NoError(t, <-sent)
			raw, _ := socket.Of(conns[0])
			require.Eventually(t, func() bool { return socket.HasData(raw) }, soon, time.Millisecond, "it has arrived")
			for range 2 {
				res = get(t, client, secure.URL+"/next")
				require.NoError(t, res.Err)
				assert.Equal(t, "/next", string(res.Body))
			}
			assert.Greater(t, len(conns), 1, "the connection was used again")
		})
	}
}

// serveTLS11 is serveTLS without HTTP/2.
func serveTLS11(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	return s
}

// Beside a real proxy, the program does what curl does with the same variables.
func TestSquid(t *testing.T) {
	squid, err := exec.LookPath("squid")
	if err != nil {
		squid = "/usr/sbin/squid"
		if _, err := os.Stat(squid); err != nil {
			t.Skip("no squid here, try: apt install squid")
		}
	}
	own := ownAddress(t)
	port := startSquid(t, squid)
	proxy := fmt.Sprint("http://127.0.0.1:", port)
	l, err := net.Listen("tcp", own+":0")
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.RequestURI, " proxied: ", r.Header.Get("Via") != "")
	}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	defer server.Close()
	curl, _ := exec.LookPath("curl")
	for _, vars := range []map[string]string{
		{}, {"HTTP_PROXY": proxy}, {"HTTP_PROXY": proxy, "NO_PROXY": own}, {"HTTP_PROXY": proxy, "NO_PROXY": "*"},
		{"HTTP_PROXY": proxy, "NO_PROXY": "example.org"}, {"HTTPS_PROXY": proxy},
	} {
		t.Run(fmt.Sprint(vars), func(t *testing.T) {
			setProxies(t, vars)
			client := tidy(t, &fetch.Client{})
			f := fetch.Fetcher{Doer: client}
			want := fmt.Sprint("/ping proxied: ", vars["HTTP_PROXY"] != "" && (vars["NO_PROXY"] == "" || vars["NO_PROXY"] == "example.org"))
			if curl != "" {
				out, err := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "10", server.URL+"/ping").Output()
				require.NoError(t, err)
				assert.Equal(t, want, string(out), "by curl")
			}
			n := 0
			for r := range f.Fetch(t.Context(), inputs(500, func(int) string { return server.URL + "/ping" })) {
				require.NoError(t, r.Err)
				require.Equal(t, want, string(r.Body))
				n++
			}
			assert.Equal(t, 500, n)
		})
	}
	t.Run("CONNECT", func(t *testing.T) {
		secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) }))
		l, err := net.Listen("tcp", own+":0")
		require.NoError(t, err)
		secure.Listener.Close()
		secure.Listener = l
		secure.StartTLS()
		defer secure.Close()
		setProxies(t, map[string]string{"HTTPS_PROXY": proxy})
		client := tidy(t, &fetch.Client{TLS: secure.Client().Transport.(*http.Transport).TLSClientConfig.Clone()})
		client.TLS.ServerName = "example.com" // that of httptest's certificate
		f := fetch.Fetcher{Doer: client}
		for r := range f.Fetch(t.Context(), inputs(200, func(int) string { return secure.URL + "/secure" })) {
			require.NoError(t, r.Err)
			require.Equal(t, "/secure", string(r.Body))
			require.Equal(t, fmt.Sprint("127.0.0.1:", port), r.RemoteAddr().String(), "the proxy's address")
		}
		l2 := get(t, client, "https://"+own+":1/")
		var e *fetch.ProxyError
		require.ErrorAs(t, l2.Err, &e)
		assert.GreaterOrEqual(t, e.Status, 500)
	})
}

// ownAddress returns an address of this machine that is not a loopback one: these have no proxy.
func ownAddress(t *testing.T) string {
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return ip.IP.String()
		}
	}
	t.Skip("this machine has no address but loopback ones, which have no proxy")
	return ""
}

// startSquid starts a squid that forwards what comes from this machine, and keeps nothing.
func startSquid(t *testing.T, program string) (port int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	conf := filepath.Join(t.TempDir(), "squid.conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, `
http_port 127.0.0.1:%d
acl here src 127.0.0.0/8
http_access allow here
cache deny all
cache_log /dev/null
access_log none
pid_filename none
shutdown_lifetime 0 seconds
`, port), 0o644))
	cmd := exec.Command(program, "-N", "-f", conf)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond, "squid listens")
	return port
}
