package fetch_test

import (
	"crypto/tls"
	"net/url"
	"testing"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// The default engine keeps the contract of every engine.
func TestDoer(t *testing.T) {
	quiet(t)
	fetchtest.TestDoer(t, func() fetch.Doer {
		return &fetch.Client{TLS: &tls.Config{RootCAs: fetchtest.Roots()}}
	})
}

// It does so through proxies too.
func TestDoerByRoutes(t *testing.T) {
	fetchtest.TestRoutes(t, func(r fetchtest.Route) fetch.Doer {
		return &fetch.Client{
			TLS:   &tls.Config{RootCAs: fetchtest.Roots()},
			Proxy: func(*url.URL) (*url.URL, error) { return r.Proxy, nil },
			Dial:  r.Dial,
		}
	})
}
