package fetch_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// beforeTests is what a process has to do that may not be the tests' own.
var beforeTests = func() {}

func TestMain(m *testing.M) {
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
	fetch.Batch{}, fetch.Batch{Size: 1}, fetch.Batch{Size: 100, Limit: 7}, fetch.Batch{Size: 5, Limit: 20},
}

func TestStrategies(t *testing.T) {
	for _, s := range strategies {
		t.Run(s.String(), func(t *testing.T) { fetchtest.TestStrategy(t, s) })
	}
}
