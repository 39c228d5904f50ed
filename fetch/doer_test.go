package fetch_test

import (
	"crypto/tls"
	"testing"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// The default engine keeps the contract of every engine.
func TestDoer(t *testing.T) {
	quiet(t)
	fetchtest.TestDoer(t, func() fetch.Doer {
		transport := fetch.NewTransport()
		transport.TLSClientConfig = &tls.Config{RootCAs: fetchtest.Roots()}
		return &fetch.Client{Transport: transport}
	})
}
