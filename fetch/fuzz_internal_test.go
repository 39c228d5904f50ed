package fetch

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/rules"
)

// Whatever a server writes into Retry-After, no wait is negative or longer than MaxWait.
func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{"", "0", "5", "-5", "+5", " 5 ", "5.5", "0x5", "99999999999999999999", "9223372036854775807", "soon",
		"Sat, 01 Jan 2050 00:00:05 GMT", "Saturday, 01-Jan-50 00:00:05 GMT", "Sat Jan  1 00:00:05 2050", "Sat, 01 Jan 9999 00:00:05 GMT", "5, 6"} {
		f.Add(v, "", 503)
		f.Add(v, "Sat, 01 Jan 2050 00:00:00 GMT", 429)
	}
	r := newRetries(&Retry{})
	f.Fuzz(func(t *testing.T, value, date string, status int) {
		res := &Result{Status: status, header: http.Header{"Retry-After": {value}, "Date": {date}}}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		after, ok := retryAfter(res, now)
		assert.GreaterOrEqual(t, after, time.Duration(0))
		assert.True(t, ok || after == 0)
		assert.True(t, !ok || status == 429 || status == 503)
		for try := 1; try < 5; try++ {
			wait := r.wait(res, try, now)
			assert.GreaterOrEqual(t, wait, time.Duration(0))
			assert.LessOrEqual(t, wait, 10*time.Second)
			if ok && after <= 10*time.Second {
				assert.GreaterOrEqual(t, wait, after)
			}
		}
		assert.True(t, now.Add(after).After(now) || after == 0, "it overflows")
	})
}

// Whatever a server writes into Location, what is followed is an http URL with a host, without user
// info, never from https to http, and other origins do not get the caller's header.
func FuzzLocation(f *testing.F) {
	for _, v := range []string{"", "/to", "to", "../to", "?a=b", "#part", "//b.test/to", "http://b.test/to", "https://b.test/", "HTTP://A.test:80/to",
		"http://a.test:81/", "file:///etc/passwd", "ftp://b.test/", "javascript:alert(1)", "http:///to", "http://:80/", "http://u:p@b.test/",
		"http://[::1]/", "http://[::1%25eth0]/", "http://a.test@b.test/", "http:\\\\b.test\\", "/a b?c d", "/ä", "/%zz", "http://fa\u1e9e.test/", "http://a.test\x00.b.test/", "\thttp://b.test/", "http://a.test./", "///b.test/", "http:b.test"} {
		for _, from := range []string{"http://a.test/path?query", "https://a.test:8443/", "http://fa\u00df.test/"} {
			for _, status := range []int{301, 303, 307} {
				f.Add(from, v, "POST", status)
			}
		}
	}
	c := &Client{Proxy: func(*url.URL) (*url.URL, error) { return nil, nil }}
	c.init()
	f.Fuzz(func(t *testing.T, from, location, method string, status int) {
		req := &Request{Method: method, URL: from, Header: http.Header{"X-Secret": {"s3cret"}, "Content-Type": {"text/plain"}}, Body: []byte("body")}
		x := exchange{client: c, redirects: &c.redirects}
		if x.prepare(t.Context(), req, time.Now()); x.result.Err != nil {
			return
		}
		x.result.Status = status
		next, err := x.redirect(http.Header{"Location": {location}})
		if err != nil {
			require.Equal(t, ErrRedirect, KindOf(err))
			text := NewError(context.Background(), req, err).Error()
			assert.NotContains(t, text, "\n")
			return
		}
		if next == nil {
			return
		}
		was := x.hop.URL
		require.NoError(t, x.follow(next))
		assert.Contains(t, []string{"http", "https"}, next.URL.Scheme)
		assert.NotEmpty(t, next.URL.Hostname())
		assert.Nil(t, next.URL.User)
		assert.False(t, was.Scheme == "https" && next.URL.Scheme == "http", "https to http")
		again, err := url.Parse(next.URL.String())
		require.NoError(t, err)
		assert.Equal(t, next.URL.Host, again.Host)
		assert.False(t, strings.ContainsFunc(next.URL.Host, func(r rune) bool { return r >= utf8.RuneSelf }), "not in Punycode")
		same := next.URL.Scheme == was.Scheme && strings.EqualFold(next.URL.Hostname(), was.Hostname()) && portOf(next.URL) == portOf(was)
		assert.Equal(t, same, len(next.Header["X-Secret"]) > 0, "%s to %s", was.Host, next.URL.Host)
		assert.True(t, next.Body || next.Header["Content-Type"] == nil, "the type of no body")

		// And that is what is sent.
		assert.Equal(t, rules.Origin{Scheme: next.URL.Scheme, Host: next.URL.Host}, x.route.Origin)
		assert.Equal(t, next.URL.RequestURI(), x.req.Target)
		assert.Equal(t, next.Header, x.req.Header)
		assert.Equal(t, next.Body, x.req.Body != nil)
	})
}

func portOf(u *url.URL) string {
	if u.Port() != "" {
		return u.Port()
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}
