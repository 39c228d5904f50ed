package fetch_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// gibibyte is a gzip stream of 1 GiB of zeros, about 1 MiB.
var gibibyte = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(make([]byte, 64<<20))
	w.Close()
	return bytes.Repeat(b.Bytes(), 16)
})

// Servers that send without end make the client keep no more than MaxBody for each of the
// requests that are under way.
func TestClientMemory(t *testing.T) {
	const (
		atOnce = 64
		most   = 2 << 20
	)
	for name, answer := range map[string]func(*net.TCPConn, *http.Request){
		"bomb": sends("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: gzip\r\n\r\n" + string(gibibyte())),
		"body without end": func(conn *net.TCPConn, _ *http.Request) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			zeros := make([]byte, 64<<10)
			for err := error(nil); err == nil; {
				_, err = conn.Write(zeros)
			}
		},
		"chunks without end": func(conn *net.TCPConn, _ *http.Request) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			chunk := append(append([]byte("10000\r\n"), make([]byte, 64<<10)...), "\r\n"...)
			for err := error(nil); err == nil; {
				_, err = conn.Write(chunk)
			}
		},
		"head without end": func(conn *net.TCPConn, _ *http.Request) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			line := bytes.Repeat([]byte("X: y\r\n"), 10_000)
			for err := error(nil); err == nil; {
				_, err = conn.Write(line)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := serveRaw(t, answer)
			// On a busy machine, with the race detector, all of them together may take long.
			const long = 5 * time.Minute
			client := tidy(t, &fetch.Client{MaxBody: most, Timeout: long, DialTimeout: long, StallTimeout: long})
			f := fetch.Fetcher{Strategy: fetch.Pool{Workers: atOnce}, Doer: client}
			peak := mostMemory(t)
			for r := range f.Get(t.Context(), slices.Repeat([]string{url}, 2*atOnce)...) {
				require.ErrorIs(t, r.Err, fetch.ErrTooLarge)
			}
			used := peak()
			t.Logf("%d MiB at the most", used>>20)
			bound := int64(atOnce*most + 64<<20)
			if raceDetector { // with it a sync.Pool forgets on purpose some of what it is given
				bound *= 2
			}
			assert.LessOrEqual(t, used, bound, "bytes")
		})
	}
}

// raceDetector is set where this is a build with one.
var raceDetector bool

// mostMemory begins to measure, and returns a function that tells how many bytes the Go
// runtime has had from the system at the most, above those that it had in the beginning.
func mostMemory(t *testing.T) func() int64 {
	sample := func() int64 {
		s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		metrics.Read(s)
		return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
	}
	for range 3 { // what a sync.Pool has outlives two collections
		debug.FreeOSMemory()
	}
	before := sample()
	var peak atomic.Int64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			peak.Store(max(peak.Load(), sample()))
			select {
			case <-time.After(2 * time.Millisecond):
			case <-done:
				return
			}
		}
	}()
	stop := sync.OnceFunc(func() { close(done); <-ended })
	t.Cleanup(stop)
	return func() int64 {
		stop()
		return peak.Load() - before
	}
}
