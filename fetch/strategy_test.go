package fetch_test

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// beforeTests is what a process has to do that may not be the tests' own.
var beforeTests = func() {}

func TestMain(m *testing.M) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		os.Unsetenv(name) // the servers are here
		os.Unsetenv(strings.ToLower(name))
	}
	beforeTests()
	// For the children: the race detector has every program end a second later.
	os.Setenv("GORACE", "atexit_sleep_ms=1 "+os.Getenv("GORACE"))
	goleak.VerifyTestMain(m)
}

var strategies = []fetch.Strategy{
	fetch.Serial{},
	fetch.Threads{}, fetch.Threads{Limit: 1}, fetch.Threads{Limit: 3},
	fetch.Pool{}, fetch.Pool{Workers: 1}, fetch.Pool{Workers: 3}, fetch.Pool{Workers: 500},
	fetch.Semaphore{}, fetch.Semaphore{Limit: 1}, fetch.Semaphore{Limit: 3},
	fetch.Pipeline{Limit: 64}, fetch.Pipeline{Limit: 1}, fetch.Pipeline{Limit: 12, Depth: 3},
	fetch.Batch{}, fetch.Batch{Size: 1}, fetch.Batch{Size: 100, Each: fetch.Pool{Workers: 7}},
	fetch.Batch{Size: 5, Each: fetch.Pool{Workers: 20}}, fetch.Batch{Size: 5, Each: fetch.Serial{}},
	fetch.Batch{Size: 20, Each: fetch.Semaphore{Limit: 8}}, fetch.Batch{Size: 100, Each: fetch.Pipeline{Limit: 16, Depth: 4}},
	Hostwise{Hosts: 1}, Hostwise{Hosts: 4},
}

// Each strategy carries requests as Executor's contract says.
func TestStrategies(t *testing.T) {
	for _, s := range strategies {
		t.Run(s.String(), func(t *testing.T) { fetchtest.TestStrategy(t, s) })
	}
}

// With each strategy a Fetcher's caller gets what its contract says.
func TestFetchers(t *testing.T) {
	for _, s := range strategies {
		t.Run(s.String(), func(t *testing.T) { fetchtest.TestFetcher(t, s) })
	}
}
