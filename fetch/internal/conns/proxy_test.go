package conns

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/rules"
)

// Where requests go by way of a proxy, and which proxies there can be.
func TestRouteTo(t *testing.T) {
	for _, c := range []struct {
		to, proxy string
		host      string // of the Route
		err       string
	}{
		{to: "http://h.test", host: "h.test"},
		{to: "https://h.test", host: "h.test"},
		{to: "http://h.test", proxy: "http://u:s3cret@p.test"},
		{to: "http://h.test", proxy: "https://p.test"},
		{to: "https://h.test", proxy: "http://p.test:8080", host: "h.test"},
		{to: "https://h.test", proxy: "https://p.test", host: "h.test"},
		{to: "http://h.test", proxy: "socks5://u:s3cret@p.test", host: "h.test"},
		{to: "https://h.test:8443", proxy: "socks5h://p.test", host: "h.test:8443"},
		{to: "http://h.test", proxy: "ftp://u:s3cret@p.test", err: "proxy ftp://p.test: the scheme is not http, https, socks5 or socks5h"},
		{to: "http://h.test", proxy: "//u:s3cret@p.test", err: "the scheme is not http, https, socks5 or socks5h"},
		{to: "http://h.test", proxy: "http://u:s3cret@:80", err: "proxy http://: no host"},
		{to: "http://h.test", proxy: "http:p.test", err: "no host"},
	} {
		var proxy *url.URL
		if c.proxy != "" {
			var err error
			proxy, err = url.Parse(c.proxy)
			require.NoError(t, err)
		}
		r, err := RouteTo(rules.OriginOf(c.to), proxy)
		if c.err != "" {
			require.ErrorContains(t, err, c.err, "%v", c)
			assert.NotContains(t, err.Error(), password)
			_, ok := errors.AsType[ProxyError](err)
			assert.True(t, ok)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, c.host, r.Host, "%v", c)
		assert.Equal(t, c.proxy, r.Proxy)
		assert.Equal(t, c.host == "", r.Forwards())
		assert.Equal(t, r, r.Clone())
	}
	// What is forwarded shares connections, whatever its host; and user info tells proxies apart.
	assert.Equal(t, through(t, "http://a.test", "http://p.test"), through(t, "http://b.test", "http://p.test"))
	assert.NotEqual(t, through(t, "http://a.test", "http://u:1@p.test"), through(t, "http://a.test", "http://u:2@p.test"))
	assert.NotEqual(t, through(t, "https://a.test", "http://p.test"), through(t, "https://b.test", "http://p.test"))
}

func TestProxyAuthorization(t *testing.T) {
	assert.Empty(t, ProxyAuthorization(nil))
	assert.Empty(t, ProxyAuthorization(&url.URL{Host: "p.test"}))
	assert.Equal(t, "Basic dTpwIHc=", ProxyAuthorization(&url.URL{User: url.UserPassword("u", "p w")}))
	assert.Equal(t, "Basic dTo=", ProxyAuthorization(&url.URL{User: url.User("u")}))
}

// What a proxy is asked to connect to, and that it gets no more than that.
func TestConnectRequest(t *testing.T) {
	server, client := certified(t)
	for _, c := range []struct{ to, proxy, dialed, want string }{
		{"https://example.com/", "http://p.test", "p.test:80",
			"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nUser-Agent: fetchbench\r\n\r\n"},
		{"https://example.com:8443/", "http://u:p%20w@p.test:3128", "p.test:3128",
			"CONNECT example.com:8443 HTTP/1.1\r\nHost: example.com:8443\r\nUser-Agent: fetchbench\r\nProxy-Authorization: Basic dTpwIHc=\r\n\r\n"},
		{"https://[::1]/", "http://[::2]", "[::2]:80",
			"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\nUser-Agent: fetchbench\r\n\r\n"},
		{"https://127.0.0.1/", "https://example.com", "example.com:443",
			"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: 127.0.0.1:443\r\nUser-Agent: fetchbench\r\n\r\n"},
	} {
		got := make(chan string, 1)
		p := &peer{talk: func(conn net.Conn, br *bufio.Reader) {
			if strings.HasPrefix(c.proxy, "https") {
				conn = tls.Server(conn, server)
				br = bufio.NewReader(conn)
			}
			var head strings.Builder
			for !strings.HasSuffix(head.String(), "\r\n\r\n") {
				line, err := br.ReadString('\n')
				if err != nil {
					break
				}
				head.WriteString(line)
			}
			got <- head.String()
			io.WriteString(conn, connected)
			tls.Server(conn, server).Handshake()
		}}
		d := &Dialer{TLS: client, Dial: p.dial}
		conn, err := d.Connect(t.Context(), through(t, c.to, c.proxy))
		require.NoError(t, err, "%v", c)
		assert.Equal(t, c.want, <-got)
		assert.Equal(t, c.dialed, p.addr)
		conn.Close()
		p.requireClosed(t)
	}
}

// What a proxy may respond to CONNECT.
func TestConnectResponses(t *testing.T) {
	server, client := certified(t)
	endless := func(begin string) func(net.Conn, *bufio.Reader) {
		return func(conn net.Conn, br *bufio.Reader) {
			says(begin)(conn, br)
			for err := error(nil); err == nil; {
				_, err = io.WriteString(conn, "X-Y: "+strings.Repeat("z", 1000)+"\r\n")
			}
		}
	}
	for _, c := range []struct {
		name   string
		talk   func(net.Conn, *bufio.Reader)
		ok     bool
		status int
		text   string
	}{
		{name: "200", talk: says(connected), ok: true},
		{name: "200 with fields", talk: says("HTTP/1.1 200 OK\r\nVia: x\r\nContent-Length: 5\r\n\r\n"), ok: true}, // RFC 9110 §9.3.6: no body
		{name: "200 of HTTP/1.0", talk: says("HTTP/1.0 200 OK\r\n\r\n"), ok: true},
		{name: "204", talk: says("HTTP/1.1 204 No Content\r\n\r\n"), ok: true},
		{name: "407", talk: says("HTTP/1.1 407 Authenticate " + password + "\r\nProxy-Authenticate: Basic\r\nContent-Length: 6\r\n\r\ns3cret"), status: 407, text: "status 407 (Proxy Authentication Required)"},
		{name: "502", talk: says("HTTP/1.1 502 Bad Gateway\r\n\r\n"), status: 502, text: "status 502 (Bad Gateway)"},
		{name: "302", talk: says("HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n"), status: 302, text: "status 302 (Found)"},
		{name: "garbage", talk: says("220 smtp.test ESMTP\r\n\r\n"), text: "malformed HTTP"},
		{name: "closed", talk: func(conn net.Conn, _ *bufio.Reader) { conn.Close() }},
		{name: "closed after the request", talk: func(conn net.Conn, br *bufio.Reader) { says("")(conn, br); conn.Close() }, text: "EOF"},
		{name: "closed in the head", talk: func(conn net.Conn, br *bufio.Reader) { says("HTTP/1.1 200 OK\r\nA: b")(conn, br); conn.Close() }, text: "unexpected EOF"},
		{name: "endless head", talk: endless("HTTP/1.1 200 OK\r\n")},
		{name: "endless line", talk: endless("HTTP/1.1 200 OK\r\nX-Y: " + strings.Repeat("z", 1<<16))},
		{name: "early data", talk: says(connected + "hello"), text: "data after the response to CONNECT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var sent atomic.Int64
			p := &peer{talk: func(conn net.Conn, br *bufio.Reader) {
				c.talk(counting{conn, &sent}, br)
				if c.ok {
					tls.Server(conn, server).Handshake()
				}
			}}
			d := &Dialer{TLS: client, Dial: p.dial}
			conn, err := d.Connect(t.Context(), through(t, "https://example.com/", "http://user:"+password+"@p.test:3128/"))
			if c.ok {
				require.NoError(t, err)
				conn.Close()
				p.requireClosed(t)
				return
			}
			proxyErr, ok := errors.AsType[ProxyError](err)
			require.True(t, ok, "%v", err)
			assert.Equal(t, "http://p.test:3128/", proxyErr.Proxy)
			assert.Equal(t, c.status, proxyErr.Status)
			assert.Equal(t, c.status == 0, proxyErr.Err != nil)
			assert.ErrorContains(t, err, "proxy http://p.test:3128/: ")
			assert.ErrorContains(t, err, c.text)
			assert.NotContains(t, err.Error(), password)
			p.requireClosed(t)
			assert.LessOrEqual(t, sent.Load(), int64(2*maxConnect), "bytes that were read")
		})
	}
	// Data that comes a moment later is taken for the server's, and is not a handshake.
	p := &peer{talk: func(conn net.Conn, br *bufio.Reader) {
		says(connected)(conn, br)
		reading := make(chan struct{})
		go func() { defer close(reading); io.Copy(io.Discard, br) }()
		io.WriteString(conn, "hello, hello")
		<-reading
	}}
	d := &Dialer{TLS: client, Dial: p.dial}
	_, err := d.Connect(t.Context(), through(t, "https://example.com/", "http://p.test"))
	_, ok := errors.AsType[tls.RecordHeaderError](err)
	assert.True(t, ok, "%v", err)
	p.requireClosed(t)
}

type counting struct {
	net.Conn
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// acceptSOCKS is the server's part of RFC 1928 and, if user is not empty, of RFC 1929. It returns
// the name and port that it is to connect to, and "" if the credentials are not user.
func acceptSOCKS(conn net.Conn, br *bufio.Reader, user string) (to string) {
	read := func(n int) []byte {
		b := make([]byte, n)
		io.ReadFull(br, b)
		return b
	}
	methods := read(int(read(2)[1]))
	if user != "" {
		if !strings.Contains(string(methods), "\x02") {
			conn.Write([]byte{5, 0xff})
			return ""
		}
		conn.Write([]byte{5, 2})
		read(1)
		name := read(int(read(1)[0]))
		pass := read(int(read(1)[0]))
		if string(name)+":"+string(pass) != user {
			conn.Write([]byte{1, 1})
			return ""
		}
		conn.Write([]byte{1, 0})
	} else {
		conn.Write([]byte{5, 0})
	}
	head := read(4)
	switch head[3] {
	case 1:
		to = net.IP(read(4)).String()
	case 3:
		to = string(read(int(read(1)[0])))
	case 4:
		to = net.IP(read(16)).String()
	}
	port := read(2)
	conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return net.JoinHostPort(to, strconv.Itoa(int(port[0])<<8|int(port[1])))
}

// The name goes to a SOCKS proxy as it is, with the credentials, and what follows is the server's.
func TestSOCKS(t *testing.T) {
	for _, c := range []struct{ to, proxy, user, dialed, want string }{
		{"http://h.test/", "socks5://p.test", "", "p.test:1080", "h.test:80"},
		{"http://h.test:8080/", "socks5h://p.test:9050", "", "p.test:9050", "h.test:8080"},
		{"http://127.0.0.1/", "socks5://u:p%20w@p.test", "u:p w", "p.test:1080", "127.0.0.1:80"},
		{"http://[2001:db8::1]:81/", "socks5://p.test", "", "p.test:1080", "[2001:db8::1]:81"},
	} {
		to := make(chan string, 1)
		p := &peer{talk: func(conn net.Conn, br *bufio.Reader) {
			to <- acceptSOCKS(conn, br, c.user)
			says("HTTP/1.1 204 No Content\r\n\r\n")(conn, br)
		}}
		d := &Dialer{Dial: p.dial}
		conn, err := d.Connect(t.Context(), through(t, c.to, c.proxy))
		require.NoError(t, err, "%v", c)
		assert.Equal(t, c.want, <-to)
		assert.Equal(t, c.dialed, p.addr)
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		assert.Equal(t, 204, resp.StatusCode)
		conn.Close()
		p.requireClosed(t)
	}
}

func TestSOCKSFailures(t *testing.T) {
	greet := func(conn net.Conn, br *bufio.Reader) {
		io.ReadFull(br, make([]byte, 4)) // version, number of methods, two methods
	}
	for name, talk := range map[string]func(net.Conn, *bufio.Reader){
		"wrong password": func(conn net.Conn, br *bufio.Reader) { acceptSOCKS(conn, br, "u:other") },
		"no method":      func(conn net.Conn, br *bufio.Reader) { greet(conn, br); conn.Write([]byte{5, 0xff}) },
		"refused": func(conn net.Conn, br *bufio.Reader) {
			greet(conn, br)
			conn.Write([]byte{5, 0})
			io.ReadFull(br, make([]byte, 4+1+len("h.test")+2))
			conn.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
		},
		"garbage": func(conn net.Conn, br *bufio.Reader) {
			greet(conn, br)
			io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
		},
		"closed": func(conn net.Conn, br *bufio.Reader) { greet(conn, br); conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			p := &peer{talk: talk}
			d := &Dialer{Dial: p.dial}
			_, err := d.Connect(t.Context(), through(t, "http://h.test/", "socks5://u:"+password+"@p.test"))
			proxyErr, ok := errors.AsType[ProxyError](err)
			require.True(t, ok, "%v", err)
			assert.Equal(t, "socks5://p.test", proxyErr.Proxy)
			assert.Zero(t, proxyErr.Status)
			assert.Error(t, proxyErr.Err)
			assert.NotContains(t, err.Error(), password)
			p.requireClosed(t)
		})
	}
}
