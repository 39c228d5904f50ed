package fetch_test

import (
	"context"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// osThreads returns the number of threads that this process has.
func osThreads(t *testing.T) int {
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	return len(tasks)
}

// If Threads reused them, it would measure something else than it says.
func TestThreadsAreFreshAndEnd(t *testing.T) {
	runtime.LockOSThread() // so that no other goroutine gets this thread
	defer runtime.UnlockOSThread()
	const n = 200
	before := osThreads(t)

	var mu sync.Mutex
	seen := make(map[int]int)
	doer := fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
		tid := syscall.Gettid()
		runtime.Gosched() // other goroutines may run, but not on this thread
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, tid, syscall.Gettid(), "a request stays on its thread")
		seen[tid]++
		return fetch.Result{Status: 200}
	})
	assert.Equal(t, n, drain((&fetch.Fetcher{Strategy: fetch.Threads{Limit: 4}, Doer: doer}).Fetch(t.Context(), pings(n))))
	assert.Len(t, seen, n, "a thread for each URL")
	assert.NotContains(t, seen, syscall.Gettid(), "the caller's thread")

	// The system ends a thread some time after its goroutine. A few that the runtime
	// started for itself may stay.
	require.Eventually(t, func() bool { return osThreads(t) <= before+16 }, 5*time.Second, time.Millisecond,
		"%d threads before %d URLs, %d after", before, n, osThreads(t))
}

// A Doer that panics or ends its goroutine must not leave a locked thread behind.
func TestThreadsEndAfterBadDoers(t *testing.T) {
	const n = 200
	for name, end := range map[string]func(){"panic": func() { panic("a bug") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			before := osThreads(t)
			doer := fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
				end()
				return fetch.Result{}
			})
			assert.Equal(t, n, drain((&fetch.Fetcher{Strategy: fetch.Threads{Limit: 4}, Doer: doer}).Fetch(t.Context(), pings(n))))
			require.Eventually(t, func() bool { return osThreads(t) <= before+16 }, 5*time.Second, time.Millisecond)
		})
	}
}
