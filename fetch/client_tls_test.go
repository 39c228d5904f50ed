package fetch_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// tlsServer starts a server with TLS, configured by configure unless that is nil. Its certificate
// is for 127.0.0.1, ::1 and example.com.
func tlsServer(t *testing.T, h http.Handler, configure func(*tls.Config)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{}
	if configure != nil {
		configure(s.TLS)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// rootsOf returns what to trust for the certificate of s.
func rootsOf(s *httptest.Server) *x509.CertPool {
	return s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
}

// dialTo returns a Dial that connects to s, whatever the address.
func dialTo(s *httptest.Server) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
	}
}

// A second connection to a server resumes the TLS session of the first.
func TestClientResumesTLS(t *testing.T) {
	resumed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.TLS.DidResume) })
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			s := tlsServer(t, resumed, func(c *tls.Config) { c.MaxVersion = version })
			config := &tls.Config{RootCAs: rootsOf(s)}
			c := tidy(t, &fetch.Client{TLS: config})
			for i := range 3 {
				res := get(t, c, s.URL)
				require.NoError(t, res.Err)
				assert.Equal(t, fmt.Sprint(i > 0), string(res.Body), "connection %d", i)
				c.CloseIdleConnections()
			}
			assert.Nil(t, config.ClientSessionCache, "the caller's configuration is not changed")
			assert.Nil(t, config.NextProtos)

			// By a cache of the caller's, other Clients too.
			config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
			for i := range 2 {
				c := tidy(t, &fetch.Client{TLS: config})
				assert.Equal(t, fmt.Sprint(i > 0), string(get(t, c, s.URL).Body), "Client %d", i)
			}
		})
	}
}

// A server that asks for the client's certificate gets it.
func TestClientCertificate(t *testing.T) {
	s := tlsServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.PeerCertificates[0].Subject.Organization)
	}), func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
	certificates := s.TLS.Certificates // one serves as well as another
	res := get(t, tidy(t, &fetch.Client{TLS: &tls.Config{RootCAs: rootsOf(s), Certificates: certificates}}), s.URL)
	require.NoError(t, res.Err)
	assert.Equal(t, "[Acme Co]", string(res.Body))

	res = get(t, tidy(t, &fetch.Client{TLS: &tls.Config{RootCAs: rootsOf(s)}}), s.URL)
	assert.ErrorIs(t, res.Err, fetch.ErrTLS, "without one: %v", res.Err)
}

// The server is told the host of the URL, or the ServerName, and its certificate has to be for
// that.
func TestClientServerName(t *testing.T) {
	s := tlsServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.ServerName, " ", r.Host, " ", r.TLS.NegotiatedProtocol)
	}), func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} })
	for _, c := range []struct{ serverName, url, want string }{
		{"", "https://example.com/", "example.com example.com http/1.1"},
		{"", "https://Example.COM:8443/", "Example.COM Example.COM:8443 http/1.1"},
		{"", "https://127.0.0.1/", " 127.0.0.1 http/1.1"}, // an address is not sent (RFC 6066 §3)
		{"", "https://[::1]:8443/", " [::1]:8443 http/1.1"},
		{"", "https://other.test/", ""},
		{"example.com", "https://other.test/", "example.com other.test http/1.1"},
		{"other.test", "https://example.com/", ""},
	} {
		client := tidy(t, &fetch.Client{TLS: &tls.Config{RootCAs: rootsOf(s), ServerName: c.serverName}, Dial: dialTo(s)})
		res := get(t, client, c.url)
		if c.want == "" {
			assert.ErrorIs(t, res.Err, fetch.ErrTLS, "%v", c)
			continue
		}
		require.NoError(t, res.Err, "%v", c)
		assert.Equal(t, c.want, string(res.Body), "%v", c)
	}
}

// A handshake that gets no response ends by DialTimeout, and the caller is told what took so long.
func TestClientSilentHandshake(t *testing.T) {
	for limit, want := range map[time.Duration]time.Duration{0: 10 * time.Second, 3 * time.Second: 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			c := &fetch.Client{DialTimeout: limit, Dial: func(context.Context, string, string) (net.Conn, error) {
				conn, peer := net.Pipe()
				go func() { io.Copy(io.Discard, peer); peer.Close() }()
				return conn, nil
			}}
			begun := time.Now()
			res := get(t, c, "https://host.test/")
			assert.ErrorIs(t, res.Err, fetch.ErrTimeout)
			assert.ErrorContains(t, res.Err, fmt.Sprintf("no connection within %v, the TLS handshake took too long: see DialTimeout", want))
			assert.Equal(t, want, time.Since(begun))
			assert.Equal(t, want, res.Duration)
		})
	}
}

// A proxy that says nothing is a timeout, whichever limit ends it, and not the proxy's refusal.
func TestClientSilentProxy(t *testing.T) {
	for proxy, to := range map[string]string{"http://u:" + secret + "@p.test": "https://h.test/", "https://p.test": "http://h.test/", "socks5://u:" + secret + "@p.test": "http://h.test/"} {
		for _, c := range []struct {
			timeout, limit time.Duration // the Client's, and the caller's
			text           string
		}{
			{0, time.Hour, "no connection within 10s, connecting "},
			{3 * time.Second, time.Hour, "no complete response within 3s: see Timeout"},
			{0, 3 * time.Second, "context deadline exceeded"},
		} {
			synctest.Test(t, func(t *testing.T) {
				client := &fetch.Client{Timeout: c.timeout, Proxy: func(*url.URL) (*url.URL, error) { return url.Parse(proxy) }}
				client.Dial = func(context.Context, string, string) (net.Conn, error) {
					conn, peer := net.Pipe()
					go func() { io.Copy(io.Discard, peer); peer.Close() }()
					return conn, nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), c.limit)
				defer cancel()
				begun := time.Now()
				res := client.Do(ctx, &fetch.Request{URL: to})
				assert.Equal(t, fetch.ErrTimeout, fetch.KindOf(res.Err), "%v", res.Err)
				assert.ErrorContains(t, res.Err, c.text)
				assert.NotContains(t, res.Err.Error(), secret)
				assert.Contains(t, []time.Duration{3 * time.Second, 10 * time.Second}, time.Since(begun))
			})
		}
	}
}

// A withholdingConn withholds the last byte of what is written while withholds is set, until more
// is written.
type withholdingConn struct {
	net.Conn
	withholds bool
	rest      []byte
}

func (c *withholdingConn) Write(p []byte) (int, error) {
	b := append(c.rest, p...)
	c.rest = nil
	if c.withholds {
		last := len(b) - 1
		b, c.rest = b[:last], append([]byte(nil), b[last:]...)
	}
	if _, err := c.Conn.Write(b); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Of an unsolicited response, there may be half a TLS record before the next request.
func TestClientHalfRecord(t *testing.T) {
	s := tlsServer(t, nil, nil)
	config := &tls.Config{Certificates: s.TLS.Certificates}
	strays := make(chan struct{}, 4)
	url, conns := rawServer(t, func(conn net.Conn, _ *bufio.Reader) {
		w := &withholdingConn{Conn: conn}
		secure := tls.Server(w, config)
		br := bufio.NewReader(secure)
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.WriteString(secure, response(r.URL.Path))
			if r.URL.Path == "/twice" {
				w.withholds = true
				io.WriteString(secure, response("stray"))
				w.withholds = false
				strays <- struct{}{}
			}
		}
	})
	url = strings.Replace(url, "http:", "https:", 1)
	c := tidy(t, &fetch.Client{TLS: &tls.Config{RootCAs: rootsOf(s)}})
	require.Equal(t, "/once", string(get(t, c, url+"/once").Body))
	require.Equal(t, "/twice", string(get(t, c, url+"/twice").Body))
	assert.EqualValues(t, 1, conns.Load())
	<-strays // it is in the socket
	require.Equal(t, "/other", string(get(t, c, url+"/other").Body))
	assert.EqualValues(t, 2, conns.Load())
}

// A server that responds before it gets a request has responded to that one request, and no other.
func TestClientEarlyResponse(t *testing.T) {
	s := tlsServer(t, nil, nil)
	config := &tls.Config{Certificates: s.TLS.Certificates}
	for _, scheme := range []string{"http", "https"} {
		for _, method := range []string{"GET", "POST"} {
			t.Run(scheme+" "+method, func(t *testing.T) {
				early := make(chan struct{}, 4)
				url, conns := rawServer(t, func(conn net.Conn, br *bufio.Reader) {
					if scheme == "https" {
						conn = tls.Server(conn, config)
						br = bufio.NewReader(conn)
					}
					io.WriteString(conn, response("early")) // with TLS, after the handshake
					early <- struct{}{}
					for {
						r, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						io.Copy(io.Discard, r.Body)
						io.WriteString(conn, response("of "+r.URL.Path))
					}
				})
				c := tidy(t, &fetch.Client{TLS: &tls.Config{RootCAs: rootsOf(s)}})
				c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, addr)
					if err == nil && scheme == "http" {
						<-early
					}
					return conn, err
				}
				var body []byte
				if method == "POST" {
					body = make([]byte, 100_000)
				}
				for i := range 3 {
					res := c.Do(t.Context(), &fetch.Request{Method: method, URL: fmt.Sprint(scheme, strings.TrimPrefix(url, "http"), "/", i), Body: body})
					require.NoError(t, res.Err)
					assert.Equal(t, "early", string(res.Body))
					if scheme == "https" {
						<-early
						time.Sleep(20 * time.Millisecond) // for the response to the request, if that was written
					}
				}
				assert.EqualValues(t, 3, conns.Load())
			})
		}
	}
}
