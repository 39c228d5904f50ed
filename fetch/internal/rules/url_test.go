package rules_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch/internal/rules"
)

// Where a URL is odd, any part of it may be the password.
func TestSafeURL(t *testing.T) {
	for _, c := range []struct{ raw, want string }{
		{"", ""},
		{"http://a.invalid", "http://a.invalid"},
		{"http://a.invalid/b", "http://a.invalid/b"},
		{"http://a.invalid:80/b/c", "http://a.invalid:80/b/c"},
		{"http://a.invalid/b?c=d", "http://a.invalid/b"},
		{"http://a.invalid/b#c?d", "http://a.invalid/b"},
		{"http://u:p@a.invalid/b?c=d#e", "http://a.invalid/b"},
		{"http://a.invalid?c@d", "http://a.invalid"},
		{"http://a.invalid:99999/", "http://a.invalid:99999/"},
		{"http://[::1]:80/b", "http://[::1]:80/b"},
		{"http://[fe80::1]/b", "http://[fe80::1]/b"},
		{"http://[::1]:80/b@c?d", "http://[::1]:80/b@c"},
		{"http://u:p@a.invalid/b@c", "http://a.invalid/b@c"},
		{"http://a.invalid/b@c", "http://a.invalid/b@c"},
		{"http://a.invalid/@b", "http://a.invalid/@b"},
		{"http://a.invalid:80/@b", "http://a.invalid:80/@b"},
		{"http://u@a.invalid", "http://a.invalid"},
		{"http://u:p@q@a.invalid/", "http://a.invalid/"},
		{"http://u:p/", "http://u"},
		{"http://u:p/q@a.invalid/", "http://u"},
		{"http://u:p:80/q@a.invalid/", "http://u"},
		{"http://u:p]/q@a.invalid/", "http://u"},
		{"http://u:/q@a.invalid/", "http://u"},
		{"http://u:p?q@a.invalid/", "http://u"},
		{"http://u:p@/q@a.invalid/", "http://"},
		{"http:///u:p@a.invalid/", "http://"},
		{"http:/u:p@a.invalid/", "http"},
		{"/u:p@a.invalid/", ""},
		{"u:p@a.invalid/b", "a.invalid/b"},
		{"u:p@a.invalid/http://b", "a.invalid/http://b"},
		{"u:p://q@a.invalid/", "u"},
		{"view-source:http://u:p@a.invalid/", "view-source"},
		{"/path", "/path"},
		{"not a URL", "not a URL"},
		{"http://a.invalid/\x00\n", `http://a.invalid/\x00\n`},
		{"http://a.invalid/\r\n\x1b[31m\u202e", `http://a.invalid/\r\n\x1b[31m\u202e`},
		{"http://a.invalid/" + strings.Repeat("x", 1000), "http://a.invalid/" + strings.Repeat("x", 236) + "..."},
	} {
		assert.Equal(t, c.want, rules.SafeURL(c.raw), "%q", c.raw)
	}
}

func TestOrigin(t *testing.T) {
	for raw, want := range map[string]rules.Origin{
		"http://h/p": {"http", "h"}, "http://h:1?q": {"http", "h:1"}, "https://h#f": {"https", "h"}, "http://h": {"http", "h"},
		"HTTP://H": {"HTTP", "H"}, "http://u@h?://": {"http", "u@h"}, "odd": {"odd", ""}, "": {},
	} {
		o := rules.OriginOf(raw)
		assert.Equal(t, want, o, "%q", raw)
		assert.Equal(t, o, o.Clone())
		if o.Host != "" {
			assert.Equal(t, o, rules.OriginOf(o.String()))
		}
	}
	for o, want := range map[rules.Origin]string{
		{"http", "h"}: "h:80", {"https", "h"}: "h:443", {"HTTPS", "h"}: "h:443", {"http", "h:1"}: "h:1", {"https", "[::1]"}: "[::1]:443", {"http", "[::1]:8"}: "[::1]:8",
	} {
		assert.Equal(t, want, o.Address())
	}
}
