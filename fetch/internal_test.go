package fetch

import (
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
)

func TestSafeURL(t *testing.T) {
	for raw, want := range map[string]string{
		"http://host/path":                     "http://host/path",
		"http://user:pass@host/path?q=1#f":     "http://host/path",
		"http://host/a@b":                      "http://host/a@b",
		"http://user:pass@host/a@b":            "http://host/a@b",
		"user:pass@host/path":                  "host/path",
		"http://user:p@ss@host/":               "http://host/",
		"http://user:pa/ss@host/":              "http://user",
		"http://user:pass/":                    "http://user",
		"http://[::1]:80/p":                    "http://[::1]:80/p",
		"http://[fe80::1]/p":                   "http://[fe80::1]/p",
		"http://host:99999/":                   "http://host:99999/",
		"http://host/\x00\n":                   `http://host/\x00\n`,
		"":                                     "",
		"http://h/" + strings.Repeat("a", 999): "http://h/" + strings.Repeat("a", 247) + "...",
	} {
		assert.Equal(t, want, safeURL(raw), "%q", raw)
	}
}

func TestHostOf(t *testing.T) {
	for raw, want := range map[string]string{
		"http://h/p": "http://h", "http://h:1?q": "http://h:1", "https://h#f": "https://h", "http://h": "http://h", "odd": "odd",
	} {
		assert.Equal(t, want, hostOf(raw), "%q", raw)
	}
}

func FuzzURL(f *testing.F) {
	for _, raw := range []string{
		"", "http://host/", "https://user:pass@host:8080/p?q#f", "http://:80/", "http://[::1%25eth0]:80/", "ftp://x/",
		"http://host:99999/", "HTTP://HOST", "//host", "http:/host", "http://a@b@c/d@e", "http://h\x00", "http://%41/", "http://xn--/",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.Parse(raw)
		if err == nil && checkURL(raw, u) == nil {
			if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || len(raw) > maxURL {
				t.Errorf("%q is accepted", raw)
			}
			if password, _ := u.User.Password(); len(password) > 8 && strings.Contains(safeURL(raw), password) &&
				!strings.Contains(u.Host+u.EscapedPath(), password) {
				t.Errorf("%q shows its password as %q", raw, safeURL(raw))
			}
		}
		safe := safeURL(raw)
		if strings.ContainsFunc(safe, unicode.IsControl) || strings.ContainsAny(safe, "?#") {
			t.Errorf("%q is shown as %q", raw, safe)
		}
	})
}
