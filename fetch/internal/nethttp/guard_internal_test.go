package nethttp

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Some servers close an idle connection with a 408, which is no answer to anybody.
func TestGuardKnows408(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	closed := make(chan bool)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
				time.Sleep(20 * time.Millisecond) // for the connection to be idle
				io.WriteString(conn, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
				io.Copy(io.Discard, conn)
			}
			conn.Close()
			closed <- true
		}
	}()
	tr := newTransport(nil)
	defer tr.CloseIdle()
	for range 5 {
		resp, err := get(t.Context(), tr, "http://"+l.Addr().String())
		require.NoError(t, err)
		require.Equal(t, 204, resp.StatusCode)
		<-closed // by the client
	}
	assert.Zero(t, tr.suspects.Len())
}

// Connections that are closed because nobody uses them are no sign that something was found there.
func TestGuardAndCloseIdleConnections(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	defer server.Close()
	tr := newTransport(nil)
	defer tr.CloseIdle()
	done := make(chan struct{})
	var closing, fetching sync.WaitGroup
	closing.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				tr.CloseIdle()
			}
		}
	})
	for range 8 {
		fetching.Go(func() {
			for range 200 {
				_, err := get(t.Context(), tr, server.URL)
				assert.NoError(t, err)
			}
		})
	}
	fetching.Wait()
	close(done)
	closing.Wait()
	assert.Zero(t, tr.suspects.Len())
}
