package fetch_test

import (
	"testing"

	"go.uber.org/goleak"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestStrategies(t *testing.T) {
	for _, s := range []fetch.Strategy{
		fetch.Serial{},
		fetch.Threads{}, fetch.Threads{Limit: 1}, fetch.Threads{Limit: 3},
		fetch.Pool{}, fetch.Pool{Workers: 1}, fetch.Pool{Workers: 3}, fetch.Pool{Workers: 500},
		fetch.Semaphore{}, fetch.Semaphore{Limit: 1}, fetch.Semaphore{Limit: 3},
		fetch.Batch{}, fetch.Batch{Size: 1}, fetch.Batch{Size: 100, Limit: 7}, fetch.Batch{Size: 5, Limit: 20},
	} {
		t.Run(s.String(), func(t *testing.T) { fetchtest.TestStrategy(t, s) })
	}
}
