package fetch

import (
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/rules"
)

// Whatever a line of input says: what is accepted has a host to dial, and what is shown
// has no secret and does nothing to a terminal.
func FuzzURL(f *testing.F) {
	for _, raw := range []string{
		"", "http://a.invalid/", "https://u:p@a.invalid:443/b;c?d=e#f", "HTTP://A", "http://:80/", "http://a:0", "http://a:99999/", "ftp://a/",
		"//a/b", "http:a", "http:///a", "mailto:a@b", "http://[::1%25eth0]:80/", "http://[::1", "http://a/\x00\x7f", "http://ä.invalid/ö?ü",
		"http://u:p/q@a", "http://u:p?q@a", "http://u:p#q@a", "/", "?", "#", "@", "]/", "@/", "[", "\u202e\u2028\xff", "http://a/http://b?c",
		"https://user:password@a.invalid:8080/b?c#d", "https://user:password@a.invalid/password", "http://a@b@c/d@e", "http:/a", "//a",
		"http://a\x00", "http://%41/", "http://xn--/",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		shown := rules.SafeURL(raw)
		assert.Equal(t, shown, rules.SafeURL(shown), "it would show something else of what it has shown")
		assert.NotContains(t, shown, "?")
		assert.NotContains(t, shown, "#")
		assert.LessOrEqual(t, len(shown), 3000)
		assert.NotContains(t, strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return 0
			}
			return r
		}, shown), "\x00", "characters that do not print")
		if u, err := url.Parse(raw); err == nil && u.Host != "" && u.User != nil {
			_, rest, _ := strings.Cut(shown, "//")
			authority, _, _ := strings.Cut(rest, "/")
			assert.NotContains(t, authority, "@", "user info")
			if _, _, err := rules.ParseURL(raw); err == nil {
				scheme, rest, _ := strings.Cut(raw, "//")
				end := strings.IndexAny(rest+"/", "/?#")
				host := rest[strings.LastIndexByte(rest[:end], '@')+1:]
				assert.Equal(t, rules.SafeURL(scheme+"//"+host), shown, "what is shown depends on the user info")
			}
		}
		const secret = "s3cret"
		if !strings.Contains(raw, secret) {
			assert.NotContains(t, rules.SafeURL("http://user:"+secret+raw+"@a.invalid/"), secret, "a password, escaped or not")
			assert.NotContains(t, rules.SafeURL("http://user:"+url.QueryEscape(raw)+"@a.invalid/?"+secret+raw), secret, "a query")
		}

		hreq, err := newHTTPRequest(&Request{URL: raw})
		if err != nil {
			text := newError(ErrBadURL, &Request{URL: raw}, err).Error()
			assert.Equal(t, "fetch: "+strings.TrimPrefix(shown+": ", ": ")+"bad URL: "+err.Error(), text)
			return
		}
		assert.NotEmpty(t, hreq.URL.Hostname())
		assert.Contains(t, []string{"http", "https"}, hreq.URL.Scheme)
		assert.Nil(t, hreq.URL.User)
		assert.LessOrEqual(t, len(raw), rules.MaxURL)
		require.True(t, strings.HasPrefix(raw, rules.OriginOf(raw).String()))
		assert.False(t, strings.ContainsFunc(hreq.URL.Host, func(r rune) bool { return r > unicode.MaxASCII }), "not in Punycode")
		u, _, err := rules.ParseURL(rules.OriginOf(raw).String())
		require.NoError(t, err)
		assert.Equal(t, hreq.URL.Host, u.Host)
		assert.Equal(t, hreq.URL.Scheme, u.Scheme)
	})
}
