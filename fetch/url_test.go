package fetch_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// What cannot be sent as it stands is told before any I/O, and without the request's
// secrets, which a mistake in a URL may have put anywhere.
func TestBadRequests(t *testing.T) {
	const good = "http://127.0.0.1:1/"
	for _, c := range []struct {
		name string
		req  fetch.Request
		text string
	}{
		{"empty", fetch.Request{URL: ""}, "empty"},
		{"no scheme", fetch.Request{URL: "example.com/path"}, "no scheme"},
		{"no scheme, with a port", fetch.Request{URL: "127.0.0.1:8080/ping"}, "no scheme: it has to begin with http:// or https://"},
		{"no scheme, a name with a port", fetch.Request{URL: "localhost:8080/x"}, "no scheme: it has to begin with http:// or https://"},
		{"no scheme, nothing but a port", fetch.Request{URL: "example.com:80"}, "no scheme: it has to begin with http:// or https://"},
		{"no scheme, IPv6 with a port", fetch.Request{URL: "[::1]:8080/"}, "no scheme: it has to begin with http:// or https://"},
		{"relative", fetch.Request{URL: "/path"}, "no scheme"},
		{"no scheme but slashes", fetch.Request{URL: "//example.com/path"}, "no scheme"},
		{"ftp", fetch.Request{URL: "ftp://example.com/"}, "neither http nor https"},
		{"file", fetch.Request{URL: "file:///etc/passwd"}, "neither http nor https"},
		{"mailto", fetch.Request{URL: "mailto:someone@example.com"}, "neither http nor https"},
		{"opaque", fetch.Request{URL: "http:example.com"}, "no host"},
		{"one slash", fetch.Request{URL: "http:/example.com/"}, "no host"},
		{"three slashes", fetch.Request{URL: "http:///example.com/"}, "no host"},
		{"nothing else", fetch.Request{URL: "http://"}, "no host"},
		{"no host", fetch.Request{URL: "http://:80/"}, "no host"},
		{"no host but a user", fetch.Request{URL: "http://user@/"}, "no host"},
		// A dialer would take the rest, ":80", for this machine.
		{"host of a soft hyphen", fetch.Request{URL: "http://\u00ad/"}, "the host is not an international domain name"},
		{"host of a soft hyphen, with a port", fetch.Request{URL: "http://\u00ad:80/"}, "the host is not an international domain name"},
		{"host of a zero width space", fetch.Request{URL: "http://\u200b/"}, "the host is not an international domain name"},
		{"host of a soft hyphen, escaped", fetch.Request{URL: "http://%C2%AD/"}, "the host is not an international domain name"},
		{"port 0", fetch.Request{URL: "http://127.0.0.1:0/"}, "port"},
		{"port 65536", fetch.Request{URL: "http://127.0.0.1:65536/"}, "port"},
		{"port 99999", fetch.Request{URL: "http://127.0.0.1:99999/"}, "port"},
		{"port beyond int", fetch.Request{URL: "http://127.0.0.1:99999999999999999999/"}, "port"},
		{"port -1", fetch.Request{URL: "http://127.0.0.1:-1/"}, "malformed"},
		{"port http", fetch.Request{URL: "http://127.0.0.1:http/"}, "malformed"},
		{"line feed", fetch.Request{URL: "http://127.0.0.1:1/\nHost: x"}, "malformed"},
		{"NUL", fetch.Request{URL: "http://127.0.0.1:1/\x00"}, "malformed"},
		{"DEL", fetch.Request{URL: "http://127.0.0.1:1/\x7f"}, "malformed"},
		{"space before", fetch.Request{URL: " http://127.0.0.1:1/"}, "malformed"},
		{"space in the host", fetch.Request{URL: "http://exam ple.com/"}, "malformed"},
		{"open bracket", fetch.Request{URL: "http://[::1/"}, "malformed"},
		{"bad escape", fetch.Request{URL: "http://127.0.0.1:1/%zz"}, "malformed"},
		{"long", fetch.Request{URL: good + strings.Repeat("x", 64<<10)}, "longer than 65536 bytes"},
		{"long by a byte", fetch.Request{URL: good + strings.Repeat("x", 64<<10+1-len(good))}, "longer than 65536 bytes"},

		{"method with a space", fetch.Request{URL: good, Method: "GET /"}, "invalid method"},
		{"method with a line feed", fetch.Request{URL: good, Method: "GET\r\nX: " + secret}, "invalid method"},
		{"method not ASCII", fetch.Request{URL: good, Method: "GÉT"}, "invalid method"},
		// The field is named, and its value is not shown; nor is what is no field name.
		{"field value", fetch.Request{URL: good, Header: http.Header{"X-Token": {secret + "\r\nX: y"}}}, "invalid header field value for X-Token"},
		{"second field value", fetch.Request{URL: good, Header: http.Header{"X-Token": {"good", secret + "\x00"}}}, "invalid header field value for X-Token"},
		{"field value of several fields", fetch.Request{URL: good, Header: http.Header{"Accept": {secret}, "X-Token": {"\x7f" + secret}}}, "invalid header field value for X-Token"},
		{"host field", fetch.Request{URL: good, Header: http.Header{"Host": {"a\r\nX: " + secret}}}, "invalid header field value for Host"},
		{"field of a long name", fetch.Request{URL: good, Header: http.Header{strings.Repeat("X", 5000): {secret + "\n"}}}, "invalid header field value for XXXXXXXXX"},
		{"host with a space", fetch.Request{URL: good, Header: http.Header{"Host": {"a b"}}}, "invalid header field value for Host"},
		{"host with a path", fetch.Request{URL: good, Header: http.Header{"Host": {"a/b"}}}, "invalid header field value for Host"},
		{"host with a quote", fetch.Request{URL: good, Header: http.Header{"Host": {"a\"b"}}}, "invalid header field value for Host"},
		{"host with a user", fetch.Request{URL: good, Header: http.Header{"Host": {"u:p@a"}}}, "invalid header field value for Host"},
		{"host with a port only", fetch.Request{URL: good, Header: http.Header{"Host": {":80"}}}, "invalid header field value for Host"},
		{"field name like an error", fetch.Request{URL: good, Header: http.Header{"invalid header field value for " + secret: {"x"}}}, "invalid header field name"},
		{"field name", fetch.Request{URL: good, Header: http.Header{secret + " X": {secret}}}, "invalid header field name"},
		{"field name with a quote", fetch.Request{URL: good, Header: http.Header{"\"" + secret + "\"": {secret}}}, "invalid header field name"},
		{"no field name", fetch.Request{URL: good, Header: http.Header{"": {secret}}}, "invalid header field name"},

		{"password, port", fetch.Request{URL: "http://u:" + secret + "@127.0.0.1:0/?" + secret}, "http://127.0.0.1:0/: bad URL"},
		{"password, scheme", fetch.Request{URL: "ftp://u:" + secret + "@127.0.0.1/#" + secret}, "ftp://127.0.0.1/: bad URL"},
		{"password, no scheme", fetch.Request{URL: "u:" + secret + "@127.0.0.1/"}, ""},
		{"password, no scheme but slashes", fetch.Request{URL: "//u:" + secret + "@127.0.0.1/"}, ""},
		{"password, no slashes", fetch.Request{URL: "http:u:" + secret + "@127.0.0.1/"}, ""},
		{"password, one slash", fetch.Request{URL: "http:/u:" + secret + "@127.0.0.1/"}, ""},
		{"password, three slashes", fetch.Request{URL: "http:///u:" + secret + "@127.0.0.1/"}, ""},
		{"password, bracket", fetch.Request{URL: "http://u:" + secret + "@[::1/?" + secret}, ""},
		{"password, no host", fetch.Request{URL: "http://u:" + secret + "@/?" + secret}, ""},
		{"password with a slash", fetch.Request{URL: "http://u:" + secret + "/x@127.0.0.1/?" + secret}, ""},
		{"password with a question mark", fetch.Request{URL: "http://u:" + secret + "?x@127.0.0.1/"}, ""},
		{"password with a hash", fetch.Request{URL: "http://u:" + secret + "#x@127.0.0.1/"}, ""},
		{"password with an at", fetch.Request{URL: "http://u:x@" + secret + "@127.0.0.1:0/"}, "http://127.0.0.1:0/: bad URL"},
		{"password with a space", fetch.Request{URL: "http://u: " + secret + "@127.0.0.1/"}, "http://127.0.0.1/: bad URL"},
		{"password with a percent sign", fetch.Request{URL: "http://u:%zz" + secret + "@127.0.0.1/"}, "http://127.0.0.1/: bad URL"},
		{"password with a line feed", fetch.Request{URL: "http://u:\n" + secret + "@127.0.0.1/"}, "http://127.0.0.1/: bad URL"},
		{"password and a very long URL", fetch.Request{URL: "http://u:" + secret + strings.Repeat("x", 64<<10) + "@127.0.0.1/"}, "http://127.0.0.1/: bad URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, client := range map[string]engine{
				"Client":     &fetch.Client{Dial: noDial(t)},
				"HTTPClient": fetch.HTTPClient{Client: &http.Client{Transport: &http.Transport{DialContext: noDial(t)}}},
			} {
				res := client.Do(t.Context(), &c.req)
				require.Error(t, res.Err, name)
				assert.ErrorIs(t, res.Err, fetch.ErrBadURL, name)
				assert.ErrorContains(t, res.Err, c.text, name)
				assert.NotContains(t, res.Err.Error(), secret, name)
				assert.NotContains(t, res.Err.Error(), "\n", name)
				assert.Less(t, len(res.Err.Error()), 1000, name)
				assert.Zero(t, res.Attempts, name)
				assert.Zero(t, res.Status, name)
				assert.Same(t, &c.req, res.Request, name)
			}
		})
	}
}

// A redirect to a host that is nothing to IDNA does not lead to this machine.
func TestRedirectToNoHost(t *testing.T) {
	for _, to := range []string{"http://%C2%AD/", "http://%C2%AD:80/", "//%E2%80%8B/"} {
		server := hopServer(t)
		dials := 0
		client := tidy(t, &fetch.Client{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(server, "http://"))
		}})
		res := get(t, client, hopTo("http://a.invalid", 302, to))
		assert.ErrorIs(t, res.Err, fetch.ErrRedirect, to)
		assert.Equal(t, 1, dials, to)
	}
}

// What each URL makes of the request's head, and where it goes.
func TestURLs(t *testing.T) {
	server := hopServer(t)
	for _, c := range []struct{ url, addr, host, uri string }{
		{"http://a.invalid", "a.invalid:80", "a.invalid", "/"},
		{"http://a.invalid/", "a.invalid:80", "a.invalid", "/"},
		{"HTTP://A.invalid/Path", "A.invalid:80", "A.invalid", "/Path"},
		{"http://a.invalid:80/", "a.invalid:80", "a.invalid:80", "/"},
		{"http://a.invalid:/", "a.invalid:80", "a.invalid", "/"},
		{"http://a.invalid:65535/", "a.invalid:65535", "a.invalid:65535", "/"},
		{"http://a.invalid?q", "a.invalid:80", "a.invalid", "/?q"},
		{"http://a.invalid/?", "a.invalid:80", "a.invalid", "/?"},
		{"http://a.invalid/p?q=r&q=s;t", "a.invalid:80", "a.invalid", "/p?q=r&q=s;t"},
		{"http://a.invalid/p#f?q", "a.invalid:80", "a.invalid", "/p"},
		{"http://a.invalid/a%2fb%20c", "a.invalid:80", "a.invalid", "/a%2fb%20c"},
		{"http://a.invalid/ä b", "a.invalid:80", "a.invalid", "/%C3%A4%20b"},
		// A space that was sent as it is would end the URL there.
		{"http://a.invalid/a b?c d HTTP/1.0", "a.invalid:80", "a.invalid", "/a%20b?c%20d%20HTTP/1.0"},
		{"http://a.invalid/@b", "a.invalid:80", "a.invalid", "/@b"},
		{"http://user:password@a.invalid/", "a.invalid:80", "a.invalid", "/"},
		{"http://127.0.0.1:8080/", "127.0.0.1:8080", "127.0.0.1:8080", "/"},
		{"http://[::1]/", "[::1]:80", "[::1]", "/"},
		{"http://[::1]:8080/", "[::1]:8080", "[::1]:8080", "/"},
		{"http://[fe80::1%25eth0]/", "[fe80::1%eth0]:80", "[fe80::1]", "/"},
		// Such a zone is no address, but what is left of it must not get into Host.
		{"http://[fe80::1%25%5D:80]/", "[fe80::1%]:80]:80", "[fe80::1]", "/"},
		{"http://a\u00ad.invalid/", "a.invalid:80", "a.invalid", "/"},
		{"http://bücher.invalid/", "xn--bcher-kva.invalid:80", "xn--bcher-kva.invalid", "/"},
	} {
		t.Run(c.url, func(t *testing.T) {
			var dialed string
			client := tidy(t, &fetch.Client{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				dialed = addr
				return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(server, "http://"))
			}})
			a := decoded[arrived](t, client, &fetch.Request{URL: c.url})
			assert.Equal(t, c.addr, dialed)
			assert.Equal(t, c.host, a.Host)
			assert.Equal(t, c.uri, a.URI)
			assert.NotContains(t, a.Header, "Authorization")
		})
	}
	t.Run("64 KiB", func(t *testing.T) {
		raw := server + "/" + strings.Repeat("x", 64<<10-len(server)-1)
		a := decoded[arrived](t, tidy(t, &fetch.Client{}), &fetch.Request{URL: raw})
		assert.Equal(t, raw, server+a.URI)
	})
}
