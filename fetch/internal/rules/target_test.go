package rules_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/rules"
)

// What SplitURL takes, ParseURL takes for the same.
func FuzzSplitURL(f *testing.F) {
	for _, raw := range []string{
		"http://h.test/", "https://h.test:8443/a/b?c=d&e", "http://127.0.0.1:80/", "http://h:0/", "http://h:65536/", "http://h:99999/", "http://h:080/",
		"http://h", "http://h?a", "http://h/#a", "http://u@h/", "http://[::1]/", "http://h/%zz", "http://h/a b", "http://h/?a b", "http://h//a", "http:///a",
		"http://:80/", "HTTP://h/", "http://h:/", "http://h/ä", "http://h/?ä", "http://-/", "http://./", "http://_/", "http://h/?#", "http://h/?a#b", "http://h/\x7f", "http://h/?\"<>^`{|}",
		"http://h/a:b@c;d=e,f!*'()", "http://h:1234567/", "http://h%41/", "http://h\\a/", "http://bücher.test/",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		o, path, ok := rules.SplitURL(raw)
		if !ok {
			return
		}
		u, user, err := rules.ParseURL(raw)
		require.NoError(t, err)
		require.Nil(t, user)
		require.Equal(t, rules.Origin{Scheme: u.Scheme, Host: u.Host}, o)
		require.Equal(t, u.RequestURI(), path)
		require.Equal(t, raw, o.String()+path)
		require.Equal(t, o, rules.OriginOf(raw))
	})
}

// The usual URLs are taken: they have to be cheap.
func TestSplitURL(t *testing.T) {
	for _, raw := range []string{"http://h.test/", "https://h.test:8443/a/b-c_d.e~f?g=h&i=%20", "http://127.0.0.1:80/~u/a;b=c", "https://x--y.TEST/"} {
		_, _, ok := rules.SplitURL(raw)
		assert.True(t, ok, raw)
	}
}

func TestWithoutZone(t *testing.T) {
	for host, want := range map[string]string{
		"h.test": "h.test", "h.test:80": "h.test:80", "127.0.0.1": "127.0.0.1", "[::1]": "[::1]", "[::1]:80": "[::1]:80",
		"[fe80::1%eth0]": "[fe80::1]", "[fe80::1%eth0]:80": "[fe80::1]:80", "[fe80::1%]": "[fe80::1]", "": "", "a%b": "a%b",
	} {
		assert.Equal(t, want, rules.WithoutZone(host), host)
	}
}
