package fetch_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// hostURLs is a URL of each of n hosts, in 127.0.0.0/8, so many times.
func hostURLs(n, times, port int) func(yield func(fetch.Request) bool) {
	return func(yield func(fetch.Request) bool) {
		for range times {
			for i := range n {
				if !yield(fetch.Request{URL: fmt.Sprintf("http://127.%d.%d.%d:%d/", 1+i>>16, i>>8&255, i&255, port)}) {
					return
				}
			}
		}
	}
}

// residentKB returns how much memory this process has.
func residentKB(t *testing.T) (kb int) {
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, after, ok := strings.Cut(string(status), "VmRSS:")
	require.True(t, ok)
	_, err = fmt.Sscan(after, &kb)
	require.NoError(t, err)
	return kb
}

// Files and memory are bounded, however many hosts there are. If a connection to each were kept,
// the rest of the program would be left without files.
func TestManyHosts(t *testing.T) {
	if testing.Short() {
		t.Skip("60 000 connections to 20 000 hosts take some seconds")
	}
	port := freePort(t)
	startServer(t, fmt.Sprint(":", port))
	files := openFiles(t)
	before := residentKB(t)
	const hosts, times = 20_000, 3
	client := tidy(t, &fetch.Client{})
	f := fetch.Fetcher{Doer: client}
	received, mostFiles, mostKB := 0, 0, 0
	for r := range f.Fetch(t.Context(), hostURLs(hosts, times, port)) {
		require.True(t, r.OK(), "%v", r.Err)
		if received++; received%1000 == 0 {
			mostFiles, mostKB = max(mostFiles, openFiles(t)), max(mostKB, residentKB(t))
		}
	}
	assert.Equal(t, hosts*times, received)
	t.Logf("%d open files, and %d before; %d MiB resident, and %d before", mostFiles, files, mostKB>>10, before>>10)
	assert.Less(t, mostFiles-files, 1200, "open files")
	assert.Less(t, (mostKB-before)>>10, 100, "MiB of memory")
	client.CloseIdleConnections()
	assert.Eventually(t, func() bool { return openFiles(t) <= files }, soon, time.Millisecond, "files that are left")
}

// A million hosts with one URL each take no more than a hundred thousand do.
func TestMillionHosts(t *testing.T) {
	if testing.Short() {
		t.Skip("a million connections take a minute or two")
	}
	port := freePort(t)
	startServer(t, fmt.Sprint(":", port))
	client := tidy(t, &fetch.Client{})
	f := fetch.Fetcher{Doer: client}
	received := 0
	type peak struct{ files, heapKB, goroutines int }
	var few, many peak
	for r := range f.Fetch(t.Context(), hostURLs(1_000_000, 1, port)) {
		if !r.OK() {
			t.Fatal(r.Err)
		}
		if received++; received%20_000 == 0 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			p := &many
			if received <= 100_000 {
				p = &few
			}
			*p = peak{max(p.files, openFiles(t)), max(p.heapKB, int(m.HeapAlloc>>10)), max(p.goroutines, runtime.NumGoroutine())}
		}
	}
	assert.Equal(t, 1_000_000, received)
	t.Logf("during 100 000 hosts %d files, %d KiB of live heap, %d goroutines; after that %d, %d, %d",
		few.files, few.heapKB, few.goroutines, many.files, many.heapKB, many.goroutines)
	assert.LessOrEqual(t, many.files, few.files+64, "open files")
	assert.LessOrEqual(t, float64(many.heapKB), 1.25*float64(few.heapKB)+1<<10, "KiB of live heap")
	assert.LessOrEqual(t, many.goroutines, few.goroutines+64, "goroutines")
}
