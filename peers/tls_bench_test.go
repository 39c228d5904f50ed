package peers

import (
	"crypto/tls"
	"crypto/x509"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"

	"fetchbench/fetch"
)

// tlsClients are those of BenchmarkTLS. All speak HTTP/1.1, for which net/http has to be told so.
var tlsClients = []client{
	{"tls-errgroup-tuned", func(url string) (func(n int) error, func()) {
		c := tuned()
		transport := c.Transport.(*http.Transport)
		transport.TLSClientConfig = trusting()
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetHTTP1(true)
		return func(n int) error { return errgroupGets(c, only(url), n) }, c.CloseIdleConnections
	}},
	{"tls-fasthttp", func(url string) (func(n int) error, func()) {
		c := newFasthttp()
		c.TLSConfig = trusting()
		return func(n int) error { return fasthttpGets(c.Do, only(url), n, limit) }, c.CloseIdleConnections
	}},
	{"tls-fetch-pool", ours(fetch.Pool{Workers: limit}, func() engine { return &fetch.Client{TLS: trusting()} })},
}

// trusting returns a configuration that trusts httptest's certificate, which is the same in each
// process.
func trusting() *tls.Config {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{RootCAs: pool}
}

// BenchmarkTLS is BenchmarkPeers over TLS. The connections are opened before the timed part.
func BenchmarkTLS(b *testing.B) {
	for _, i := range rand.Perm(len(tlsClients)) {
		c := tlsClients[i]
		b.Run("client="+c.name, func(b *testing.B) {
			s := startServer(b)
			c.get(b, s, s.secure).report(b, c.name)
		})
	}
}
