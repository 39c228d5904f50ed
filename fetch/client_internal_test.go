package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A crawl sees millions of hosts: however a request ends, nothing is left of its host after the
// last connection.
func TestClientForgetsEachHost(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "http://redirected-"+r.Host+"/", http.StatusFound)
		case "/file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		case "/odd":
			conn, _, err := http.NewResponseController(w).Hijack()
			if assert.NoError(t, err) {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nA B: c\r\nContent-Length: 0\r\n\r\n")
				conn.Close()
			}
			return
		case "/cut":
			panic(http.ErrAbortHandler)
		case "/large":
			w.Write(make([]byte, 1<<20))
		}
		io.WriteString(w, "hello")
	}))
	defer server.Close()
	c := &Client{MaxBody: 1000, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "refused") {
			return nil, errors.New("refused")
		}
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}}
	defer c.CloseIdleConnections()

	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for _, path := range []string{"/", "/away", "/file", "/odd", "/cut", "/large", "/"} {
				res := c.Do(t.Context(), &Request{URL: fmt.Sprintf("http://host%d.invalid%s", i/2, path)})
				assert.Equal(t, map[string]Kind{"/file": ErrRedirect, "/odd": ErrProtocol, "/cut": ErrReset, "/large": ErrTooLarge}[path], KindOf(res.Err), path)
			}
			c.Do(t.Context(), &Request{URL: fmt.Sprintf("http://refused%d.invalid/", i)})
		})
	}
	wg.Wait()
	// No goroutine but the requests' own uses the pool.
	routes := reflect.ValueOf(&c.pool).Elem().FieldByName("routes")
	assert.NotZero(t, routes.Len(), "connections were kept")
	assert.LessOrEqual(t, routes.Len(), 20, "10 hosts and where they redirect to")
	c.CloseIdleConnections()
	assert.Zero(t, routes.Len())
}
