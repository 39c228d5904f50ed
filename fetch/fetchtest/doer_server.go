package fetchtest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A rawServer writes its answers by hand, so that it can do so wrongly. To a request for
// /case it does what the test says, for /hop?URL it redirects to the URL, and to any
// other it answers, as it should, with an arrival's text.
type rawServer struct {
	addr   string
	config *tls.Config                                // nil: no TLS
	serve  func(p *peer, r *http.Request)             // answers a request for /case, if not nil
	accept func(p *peer) (goOn bool)                  // is called before the first request while the server is rude, if not nil
	before func(p *peer, r *http.Request) (goOn bool) // is called before the body of a request for /case is read, if not nil
	began  func()                                     // is called after serve, if not nil
	fill   func(text string) (filled string)          // replaces what stands in braces in an answer
	rude   atomic.Bool
	sent   atomic.Int64 // bytes
	early  atomic.Bool  // a body came before the server sent a 100

	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex
	stopped  bool
	open     map[*peer]bool
	accepted int
	serving  int // requests that are being answered
	arrived  []arrival
}

// An arrival is a request as it reached a rawServer.
type arrival struct {
	method, url, body string
	header            http.Header
	resumed           bool // the connection's TLS session
}

func (a arrival) String() string { return strings.TrimSpace(a.method + " " + a.url + " " + a.body) }

// A peer is a connection to a client.
type peer struct {
	net.Conn // with TLS, if the server has it
	tcp      *net.TCPConn
	server   *rawServer
	r        *bufio.Reader
	wrote    *countedWriter // that of tcp
	ended    bool           // nothing more is sent
}

// A countedWriter is a connection that counts what is written to it.
type countedWriter struct {
	net.Conn
	bytes atomic.Int64
}

func (c *countedWriter) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes.Add(int64(n))
	return n, err
}

// listen returns a server that is not yet started.
func listen(t *testing.T, config *tls.Config) *rawServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return newRawServer(l, config)
}

func newRawServer(l net.Listener, config *tls.Config) *rawServer {
	return &rawServer{addr: l.Addr().String(), config: config, listener: l, open: make(map[*peer]bool),
		fill: func(text string) string { return text }}
}

// start begins to accept connections.
func (s *rawServer) start() {
	s.running.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			counted := &countedWriter{Conn: conn}
			p := &peer{Conn: counted, tcp: conn.(*net.TCPConn), server: s, wrote: counted}
			if s.config != nil {
				p.Conn = tls.Server(counted, s.config)
			}
			p.r = bufio.NewReader(p.Conn)
			s.mu.Lock()
			s.open[p] = true
			s.accepted++
			if s.stopped {
				conn.Close()
			}
			s.mu.Unlock()
			s.running.Go(p.talk)
		}
	})
}

// handle replaces what answers a request for /case.
func (s *rawServer) handle(serve func(p *peer, r *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve = serve
}

// empty checks that the client closes all connections, and reports whether it does.
func (s *rawServer) empty(t *testing.T) bool {
	return expect(t, atLast(func() bool { return s.left() == 0 }),
		"%d of the %d connections to the server are left open, %v after CloseIdleConnections", s.left(), s.connections(), moment)
}

// stop closes the server, and what connections there are.
func (s *rawServer) stop() {
	s.listener.Close()
	s.mu.Lock()
	s.stopped = true
	for p := range s.open {
		p.tcp.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// settled reports whether nothing is being answered.
func (s *rawServer) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.serving == 0
}

// wrote returns how many bytes have been sent to the client with that address, or -1 if it has no
// connection.
func (s *rawServer) wrote(client string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.open {
		if p.tcp.RemoteAddr().String() == client {
			return p.wrote.bytes.Load()
		}
	}
	return -1
}

// arrivals returns the requests that have come, but for those that only ask how the server is.
func (s *rawServer) arrivals() []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []arrival
	for _, a := range s.arrived {
		if !strings.Contains(a.url, nextPath) {
			all = append(all, a)
		}
	}
	return all
}

// left returns how many connections are open.
func (s *rawServer) left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// connections returns how many connections there have been.
func (s *rawServer) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

const (
	casePath = "/case" // is answered as the case says
	hopPath  = "/hop"  // redirects to its query
	nextPath = "/next" // is asked for after the case
)

// talk serves the connection until the client closes it, even if the server has ended it before.
func (p *peer) talk() {
	s := p.server
	defer func() {
		p.close()
		io.Copy(io.Discard, p.tcp)
		p.tcp.Close()
		s.mu.Lock()
		delete(s.open, p)
		s.mu.Unlock()
	}()
	if secured, ok := p.Conn.(*tls.Conn); ok && secured.Handshake() != nil {
		return
	}
	if s.accept != nil && s.rude.Load() && !s.accept(p) {
		return
	}
	for !p.ended {
		r, err := http.ReadRequest(p.r)
		if err != nil {
			if err != io.EOF {
				p.send("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			}
			return
		}
		p.answer(r)
	}
}

func (p *peer) answer(r *http.Request) {
	s := p.server
	a := arrival{method: r.Method, url: p.url(r), header: r.Header}
	if secured, ok := p.Conn.(*tls.Conn); ok {
		a.resumed = secured.ConnectionState().DidResume
	}
	s.mu.Lock()
	s.arrived = append(s.arrived, a) // as yet without a body
	arrived := len(s.arrived) - 1
	s.serving++
	serve := s.serve
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.serving--
		s.mu.Unlock()
	}()
	rest, goOn := io.Reader(r.Body), true
	switch {
	case r.URL.Path == casePath && s.before != nil:
		if goOn = s.before(p, r); !goOn {
			rest = io.LimitReader(p.r, 1) // whether the client sends anything yet
		}
	case r.Header.Get("Expect") != "":
		p.send(answer("100 Continue"))
	}
	body, _ := io.ReadAll(io.LimitReader(rest, 1<<20))
	a.body = string(body)
	s.mu.Lock()
	s.arrived[arrived] = a
	s.mu.Unlock()
	switch {
	case !goOn:
		p.close()
	case r.URL.Path == casePath && serve != nil:
		serve(p, r)
		s.begin()
	case r.URL.Path == hopPath:
		p.send(redirect(http.StatusTemporaryRedirect, r.URL.RawQuery))
	default:
		p.wellDone(r, a)
	}
}

// url is the URL that r, a request on this connection, is for.
func (p *peer) url(r *http.Request) string {
	if p.server.config != nil {
		return "https://" + r.Host + r.RequestURI
	}
	return "http://" + r.Host + r.RequestURI
}

// wellDone answers as a server should.
func (p *peer) wellDone(r *http.Request, a arrival) {
	text := good(a.String())
	if r.Method == http.MethodHead {
		text = text[:strings.Index(text, "\r\n\r\n")+4]
	}
	p.write(text)
}

func (s *rawServer) begin() {
	if s.began != nil {
		s.began()
	}
}

// send writes text, in one write, and reports whether it could.
func (p *peer) send(text string) bool { return p.write(p.server.fill(text)) }

func (p *peer) write(text string) bool { return p.writeBytes([]byte(text)) }

func (p *peer) writeBytes(b []byte) bool {
	n, err := p.Conn.Write(b)
	p.server.sent.Add(int64(n))
	return err == nil
}

// close tells the client that nothing more comes. Whether the client closes the connection
// as well can still be seen.
func (p *peer) close() {
	if p.ended {
		return
	}
	p.ended = true
	if secured, ok := p.Conn.(*tls.Conn); ok {
		_ = secured.CloseWrite() // fails if there was no handshake
	}
	p.tcp.CloseWrite()
}

// slam closes the connection in both directions.
func (p *peer) slam() {
	p.ended = true
	p.tcp.Close()
}

// reset breaks the connection off.
func (p *peer) reset() {
	p.tcp.SetLinger(0)
	p.slam()
}

// head is the begin of a good answer, with fields.
func head(fields ...string) string { return answer("200 OK", fields...) }

// answer is the head of an answer with status and fields.
func answer(status string, fields ...string) string {
	return "HTTP/1.1 " + status + "\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

// good is an answer with body.
func good(body string) string { return head(fmt.Sprintf("Content-Length: %d", len(body))) + body }

// redirect is an answer that redirects to location.
func redirect(status int, location string) string {
	return answer(fmt.Sprint(status, " Moved"), "Location: "+location, "Content-Length: 0")
}

// flood answers with head and then with pieces, about most bytes of them. Then it ends the
// connection.
func flood(head, piece string, most int) func(*peer, *http.Request) {
	return func(p *peer, _ *http.Request) {
		piece := []byte(piece)
		ok := p.write(head)
		for sent := 0; ok && sent < most; sent += len(piece) {
			ok = p.writeBytes(piece)
		}
		p.close()
	}
}

// drip answers with head and then with a piece every few milliseconds.
func drip(head, piece string) func(*peer, *http.Request) {
	return func(p *peer, _ *http.Request) {
		for ok := p.write(head); ok; ok = p.write(piece) {
			time.Sleep(5 * time.Millisecond)
		}
		p.ended = true
	}
}

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// known is who signs the certificates of the suite's servers.
var known = sync.OnceValue(newAuthority)

// wellKnown is the configuration of a server that known has certified.
var wellKnown = sync.OnceValue(func() *tls.Config { return known().server(24 * time.Hour) })

func newAuthority() authority {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "fetchtest"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	return authority{must(x509.ParseCertificate(der)), key}
}

// server is the configuration of a server with a certificate for 127.0.0.1, ::1, localhost and
// no other, unless names are given. It ends after d.
func (a authority) server(d time.Duration, names ...string) *tls.Config {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "fetchtest"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(d),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: names,
	}
	if names == nil {
		template.DNSNames, template.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	der := must(x509.CreateCertificate(rand.Reader, template, a.cert, &a.key.PublicKey, a.key))
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: a.key}}, NextProtos: []string{"http/1.1"}}
}

// must is for what fails only if the machine has no randomness.
func must[T any](v T, err error) T {
	if err != nil {
		panic("fetchtest: " + err.Error())
	}
	return v
}
