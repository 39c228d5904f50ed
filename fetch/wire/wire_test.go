package wire_test

import (
	"crypto/tls"
	"os"
	"testing"

	"go.uber.org/goleak"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
	"fetchbench/fetch/wire"
)

func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=1 "+os.Getenv("GORACE"))
	goleak.VerifyTestMain(m)
}

func TestDoer(t *testing.T) {
	fetchtest.TestDoer(t, func() fetch.Doer {
		return &wire.Client{TLS: &tls.Config{RootCAs: fetchtest.Roots()}}
	})
}
