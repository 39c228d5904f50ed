package fetch

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

func suspects(c *Client) int {
	c.dialer.mu.Lock()
	defer c.dialer.mu.Unlock()
	return c.dialer.suspects.Len()
}

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
	c := &Client{}
	defer c.CloseIdleConnections()
	for range 5 {
		res := c.Do(t.Context(), &Request{URL: "http://" + l.Addr().String()})
		require.NoError(t, res.Err)
		require.Equal(t, 204, res.Status)
		<-closed // by the client
	}
	assert.Zero(t, suspects(c))
}

// Connections that are closed because nobody uses them are no sign that something was found there.
func TestGuardAndCloseIdleConnections(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	defer server.Close()
	c := &Client{}
	defer c.CloseIdleConnections()
	done := make(chan struct{})
	var closing, fetching sync.WaitGroup
	closing.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				c.CloseIdleConnections()
			}
		}
	})
	for range 8 {
		fetching.Go(func() {
			for range 200 {
				res := c.Do(t.Context(), &Request{URL: server.URL})
				assert.NoError(t, res.Err)
			}
		})
	}
	fetching.Wait()
	close(done)
	closing.Wait()
	assert.Zero(t, suspects(c))
}
