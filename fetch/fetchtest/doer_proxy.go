package fetchtest

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A proxy connects an engine to servers on loopback, and nowhere else. What a server sends passes
// as it is, byte for byte; so do the end and the reset of a connection in either direction. With
// HTTP it takes requests in absolute-form (RFC 9112 §3.2.2) and CONNECT (RFC 9110 §9.3.6);
// otherwise it speaks SOCKS5 (RFC 1928) with user and password (RFC 1929).
type proxy struct {
	scheme, addr string
	user         *url.Userinfo // nil: it demands none

	// What it does otherwise while it is rude, if these are set.
	established string                   // its answer to a CONNECT that succeeds
	accept      func(c *leg) (goOn bool) // before it reads anything
	answer      func(c *leg) (goOn bool) // instead of its reply of that stage: see goesOn
	stage       int
	refuses     bool   // no user and password are right
	began       func() // is called by hold
	rude        atomic.Bool
	sent        atomic.Int64 // bytes, by flood

	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex
	stopped  bool
	open     map[*net.TCPConn]bool // to clients and to servers
	ups      map[*upstream]bool    // that pass something on
	accepted int
	asked    []proxyRequest
}

// A proxyRequest is what a proxy was asked for: the head of a request, or a SOCKS request as if it
// were a CONNECT.
type proxyRequest struct {
	method, host, path string // no path: CONNECT
	header             http.Header
	lines              []string // the header's, as they came
	length             int64    // of the body
}

// A leg is one of the two connections that a proxy joins.
type leg struct {
	net.Conn // with TLS, if the proxy has it
	tcp      *net.TCPConn
	r        *bufio.Reader
	proxy    *proxy
}

// An upstream is the leg to a server.
type upstream struct {
	*leg
	host           string
	passed         atomic.Int64 // bytes from the server
	ended, dropped atomic.Bool
	done           chan struct{} // is closed when nothing more is passed on
}

// newProxy returns a proxy that is not yet started, whose URL has the scheme, and a user and a
// password that it demands.
func newProxy(t *testing.T, scheme string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	if scheme == "https" {
		// Another name than the servers', since an engine may keep TLS sessions by names.
		addr = strings.Replace(addr, "127.0.0.1", "localhost", 1)
	}
	p := &proxy{scheme: scheme, addr: addr, user: url.UserPassword("proxy-user", "proxy-"+secret), listener: l, open: make(map[*net.TCPConn]bool), ups: make(map[*upstream]bool)}
	p.rude.Store(true)
	return p
}

func (p *proxy) url() *url.URL { return &url.URL{Scheme: p.scheme, User: p.user, Host: p.addr} }

// start begins to accept connections.
func (p *proxy) start() {
	p.running.Go(func() {
		for {
			conn, err := p.listener.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.accepted++
			p.mu.Unlock()
			c := p.leg(conn.(*net.TCPConn))
			if p.scheme == "https" {
				c.Conn = tls.Server(conn, wellKnown())
				c.r = bufio.NewReader(c.Conn)
			}
			p.running.Go(func() { p.talk(c) })
		}
	})
}

// leg returns conn as a leg, which has to be released. The buffers of its socket are small, so that
// a server notices soon that the engine reads no more.
func (p *proxy) leg(conn *net.TCPConn) *leg {
	conn.SetReadBuffer(64 << 10)
	conn.SetWriteBuffer(64 << 10)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[conn] = true
	if p.stopped {
		conn.Close()
	}
	return &leg{Conn: conn, tcp: conn, r: bufio.NewReader(conn), proxy: p}
}

// release closes the connection.
func (c *leg) release() {
	c.tcp.Close()
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	delete(c.proxy.open, c.tcp)
}

// stop closes the proxy, and what connections there are.
func (p *proxy) stop() {
	p.listener.Close()
	p.mu.Lock()
	p.stopped = true
	for conn := range p.open {
		conn.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

// empty checks that the client closes all connections, and reports whether it does.
func (p *proxy) empty(t *testing.T) bool {
	left := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.open)
	}
	return expect(t, atLast(func() bool { return left() == 0 }),
		"%d connections to or from the proxy are left open, %v after CloseIdleConnections", left(), moment)
}

// connections returns how many connections clients have made.
func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// settled reports whether all that the servers have sent is passed on, as far as they and the
// clients are still there.
func (p *proxy) settled(servers []*rawServer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for u := range p.ups {
		wrote := int64(-1)
		for _, s := range servers {
			wrote = max(wrote, s.wrote(u.tcp.LocalAddr().String()))
		}
		if wrote != u.passed.Load() {
			return false
		}
	}
	return true
}

// requests returns what the proxy has been asked for.
func (p *proxy) requests() []proxyRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

func (p *proxy) note(r *proxyRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, *r)
}

// check checks that the proxy got nothing that is not for it, given the caller's header.
func (p *proxy) check(t *testing.T, header http.Header) {
	for _, r := range p.requests() {
		if p.user == nil {
			assert.NotContains(t, r.header, "Proxy-Authorization", "the proxy's URL has no user info")
		}
		if r.path != "" {
			continue // such a request is the proxy's to pass on
		}
		assert.NotContains(t, r.host, "@", "the proxy got the URL's user info in a CONNECT")
		assert.NotContains(t, r.header, "Authorization", "the proxy got the URL's user info in a CONNECT")
		for field, values := range r.header {
			given, is := header[field]
			expect(t, !is || !slices.Equal(given, values), "the proxy got the caller's header field %s in a CONNECT", field)
		}
	}
}

// talk serves a client.
func (p *proxy) talk(c *leg) {
	defer c.release()
	if secured, ok := c.Conn.(*tls.Conn); ok && secured.Handshake() != nil {
		return
	}
	switch {
	case p.rude.Load() && p.accept != nil && !p.accept(c):
	case strings.HasPrefix(p.scheme, "socks"):
		p.socks(c)
	default:
		p.http(c)
	}
	c.closeWrite()
	io.Copy(io.Discard, c.tcp) // whether the client closes the connection as well can still be seen
}

// goesOn reports whether the proxy is to send its reply of that stage, and has not sent another.
func (c *leg) goesOn(stage int) bool {
	p := c.proxy
	return !p.rude.Load() || p.answer == nil || p.stage != stage || p.answer(c)
}

// http serves a client that speaks HTTP.
func (p *proxy) http(c *leg) {
	var up *upstream
	end := io.EOF // of what the client sends
	defer func() { up.finish(end) }()
	for {
		r, err := readProxyRequest(c.r)
		if errors.Is(err, errBadRequest) {
			c.send(proxyAnswer("400 Bad Request", err.Error(), "Connection: close"))
			return
		}
		if err != nil {
			end = err
			return
		}
		p.note(r)
		if !p.isPermitted(r.header.Get("Proxy-Authorization")) {
			c.send(proxyAnswer("407 Proxy Authentication Required", whoAreYou, `Proxy-Authenticate: Basic realm="fetchtest"`))
			if !r.skipBody(c.r) {
				return
			}
			continue
		}
		if !c.goesOn(0) {
			return
		}
		if up != nil && (up.host != r.host || r.path == "") {
			up.drop()
			up = nil
		}
		switch {
		case up == nil:
			if up, err = p.dial(r.host); errors.Is(err, syscall.ECONNRESET) {
				c.reset()
				return
			}
			if err != nil {
				c.send(proxyAnswer("502 Bad Gateway", "no connection"))
				if !r.skipBody(c.r) {
					return
				}
				continue
			}
			if r.path == "" {
				established := answer("200 OK")
				if p.rude.Load() {
					established = cmp.Or(p.established, established)
				}
				c.send(established)
			}
			p.running.Go(func() { up.passTo(c) })
		case up.ended.Load():
			return // and so has the connection to the client
		}
		if r.path == "" {
			end = up.passFrom(c.r)
			return
		}
		up.Write(r.originForm()) // if this fails, the server has ended, and passTo tells the client
		body := &io.LimitedReader{R: c.r, N: r.length}
		if end = up.passFrom(body); body.N > 0 {
			return
		}
	}
}

// isPermitted reports whether these are the credentials that the proxy demands.
func (p *proxy) isPermitted(authorization string) bool {
	if p.rude.Load() && p.refuses {
		return false
	}
	if p.user == nil {
		return true
	}
	password, _ := p.user.Password()
	return authorization == "Basic "+base64.StdEncoding.EncodeToString([]byte(p.user.Username()+":"+password))
}

// whoAreYou is the body of a 407.
const whoAreYou = "who are you?"

// proxyAnswer is an answer of the proxy's own.
func proxyAnswer(status, body string, fields ...string) string {
	return answer(status, append(fields, fmt.Sprintf("Content-Length: %d", len(body)))...) + body
}

var errBadRequest = errors.New("bad request")

// readProxyRequest reads the head of a request.
func readProxyRequest(from *bufio.Reader) (*proxyRequest, error) {
	first, err := readLine(from)
	if err != nil {
		return nil, err
	}
	r := &proxyRequest{header: http.Header{}}
	for {
		line, err := readLine(from)
		if err != nil {
			return nil, err
		}
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		r.header.Add(name, strings.TrimSpace(value))
		if !strings.HasPrefix(http.CanonicalHeaderKey(name), "Proxy-") {
			r.lines = append(r.lines, line)
		}
	}
	words := strings.Split(first, " ")
	if len(words) != 3 || words[2] != "HTTP/1.1" {
		return nil, fmt.Errorf("%w: no request line", errBadRequest)
	}
	if r.method = words[0]; r.method == http.MethodConnect {
		r.host = words[1]
		return r, nil
	}
	rest, ok := strings.CutPrefix(words[1], "http://")
	if !ok {
		return nil, fmt.Errorf("%w: the target is not in absolute-form", errBadRequest)
	}
	end := strings.IndexAny(rest+"/", "/?#")
	r.host, r.path = rest[:end], rest[end:]
	if !strings.HasPrefix(r.path, "/") {
		r.path = "/" + r.path
	}
	r.length, err = strconv.ParseInt(cmp.Or(r.header.Get("Content-Length"), "0"), 10, 64)
	switch {
	case err != nil || r.header["Transfer-Encoding"] != nil:
		return nil, fmt.Errorf("%w: the length of the body is not known", errBadRequest)
	case strings.Contains(r.path, "#") || strings.Contains(r.host, "@"):
		return nil, fmt.Errorf("%w: the target has a fragment or user info", errBadRequest)
	case !strings.EqualFold(r.host, r.header.Get("Host")):
		return nil, fmt.Errorf("%w: Host is not that of the target", errBadRequest)
	}
	return r, nil
}

func readLine(from *bufio.Reader) (string, error) {
	line, err := from.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

// originForm returns the head as it goes to the server, without what is the proxy's.
func (r *proxyRequest) originForm() []byte {
	return []byte(r.method + " " + r.path + " HTTP/1.1\r\n" + strings.Join(append(r.lines, ""), "\r\n") + "\r\n")
}

// skipBody reads the body, which goes nowhere, and reports whether another request may follow. It
// does not if the client may keep its body to itself.
func (r *proxyRequest) skipBody(from io.Reader) bool {
	if r.header["Expect"] != nil {
		return false
	}
	_, err := io.CopyN(io.Discard, from, r.length)
	return err == nil
}

// socks serves a client that speaks SOCKS5.
func (p *proxy) socks(c *leg) {
	const version, noAuthentication, password, unacceptable = 5, 0, 2, 0xff
	method := byte(noAuthentication)
	if p.user != nil {
		method = password
	}
	head, err := readBytes(c.r, 2)
	if err != nil || head[0] != version {
		return
	}
	methods, err := readBytes(c.r, int(head[1]))
	if err != nil || !c.goesOn(0) {
		return
	}
	if !bytes.Contains(methods, []byte{method}) {
		c.send(string([]byte{version, unacceptable}))
		return
	}
	c.send(string([]byte{version, method}))
	if method == password && !p.login(c) {
		return
	}
	host, err := readSOCKSRequest(c.r)
	if err != nil {
		return
	}
	p.note(&proxyRequest{method: http.MethodConnect, host: host})
	if !c.goesOn(2) {
		return
	}
	up, err := p.dial(host)
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		c.reset()
		return
	case err != nil:
		c.send(socksReply(5)) // connection refused
		return
	}
	c.send(socksReply(0))
	p.running.Go(func() { up.passTo(c) })
	up.finish(up.passFrom(c.r))
}

// socksReply is the reply to a request (RFC 1928 §6), with the address 0.0.0.0:0.
func socksReply(code byte) string { return string([]byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0}) }

// login checks user and password: RFC 1929.
func (p *proxy) login(c *leg) bool {
	var words []string
	if version, err := c.r.ReadByte(); err != nil || version != 1 {
		return false
	}
	for range 2 {
		n, err := c.r.ReadByte()
		if err != nil {
			return false
		}
		word, err := readBytes(c.r, int(n))
		if err != nil {
			return false
		}
		words = append(words, string(word))
	}
	if !c.goesOn(1) {
		return false
	}
	right, _ := p.user.Password()
	if words[0] != p.user.Username() || words[1] != right || p.rude.Load() && p.refuses {
		c.send("\x01\x01")
		return false
	}
	return c.send("\x01\x00")
}

// readSOCKSRequest reads a CONNECT request, and returns the host and port that it is for.
func readSOCKSRequest(r *bufio.Reader) (string, error) {
	head, err := readBytes(r, 4)
	if err != nil {
		return "", err
	}
	if head[0] != 5 || head[1] != 1 {
		return "", errBadRequest
	}
	var host string
	switch head[3] {
	case 1, 4:
		b, err := readBytes(r, int(head[3])*4)
		if err != nil {
			return "", err
		}
		addr, _ := netip.AddrFromSlice(b)
		host = addr.String()
	case 3:
		n, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		b, err := readBytes(r, int(n))
		if err != nil {
			return "", err
		}
		host = string(b)
	default:
		return "", errBadRequest
	}
	port, err := readBytes(r, 2)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port)))), nil
}

func readBytes(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// dial connects to a server, if its host is on loopback.
func (p *proxy) dial(hostPort string) (*upstream, error) {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(host); !strings.EqualFold(host, "localhost") && (err != nil || !addr.IsLoopback()) {
		return nil, errors.New("not on loopback")
	}
	conn, err := net.DialTimeout("tcp", hostPort, moment)
	if err != nil {
		return nil, err
	}
	u := &upstream{leg: p.leg(conn.(*net.TCPConn)), host: hostPort, done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ups[u] = true
	return u, nil
}

// passTo passes on to c what the server sends, and its end, unless u is dropped. It ends when the
// server does or c has failed. Then done is closed.
func (u *upstream) passTo(c *leg) {
	defer func() {
		u.proxy.mu.Lock()
		delete(u.proxy.ups, u)
		u.proxy.mu.Unlock()
		close(u.done)
	}()
	b := make([]byte, 32<<10)
	for {
		n, err := u.tcp.Read(b)
		switch {
		case u.dropped.Load():
			return
		case n > 0 && !c.send(string(b[:n])):
			u.reset()
			return
		case err == io.EOF:
			u.ended.Store(true)
			c.closeWrite()
			return
		case err != nil:
			u.ended.Store(true)
			c.reset()
			return
		}
		u.passed.Add(int64(n))
	}
}

// passFrom passes on to u what comes from r, until that fails or ends, and returns why. If u fails,
// passTo sees that, and lets the client know.
func (u *upstream) passFrom(r io.Reader) error {
	b := make([]byte, 32<<10)
	for {
		n, err := r.Read(b)
		if n > 0 {
			u.Write(b[:n])
		}
		if err != nil {
			return err
		}
	}
}

// finish passes the end of what the client sends on, and waits for that of the server. A u that is
// nil has none.
func (u *upstream) finish(end error) {
	if u == nil {
		return
	}
	if end == io.EOF {
		u.closeWrite()
	} else {
		u.reset()
	}
	<-u.done
	u.release()
}

// drop closes u, while the client goes on with another server.
func (u *upstream) drop() {
	u.dropped.Store(true)
	u.release()
	<-u.done
}

// send writes text, and reports whether it could.
func (c *leg) send(text string) bool {
	n, err := io.WriteString(c.Conn, text)
	c.proxy.sent.Add(int64(n))
	return err == nil
}

// closeWrite tells the other end that nothing more comes.
func (c *leg) closeWrite() {
	if secured, ok := c.Conn.(*tls.Conn); ok {
		_ = secured.CloseWrite() // fails if there was no handshake
	}
	c.tcp.CloseWrite()
}

// reset breaks the connection off.
func (c *leg) reset() {
	c.tcp.SetLinger(0)
	c.tcp.Close()
}
