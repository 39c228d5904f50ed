package fetch_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// expecting returns a request whose body waits for a 100 Continue.
func expecting(url string, body []byte) *fetch.Request {
	return &fetch.Request{Method: "POST", URL: url, Header: http.Header{"Expect": {"100-continue"}}, Body: body}
}

// soonFrom returns what comes from c, which must not take long.
func soonFrom[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(soon):
		require.Fail(t, "nothing came")
	}
	return v
}

// eachConn runs test over connections of every kind: of TCP, of another type with a socket or
// without, and with TLS. The client dials; serve starts a server, and returns its URL.
func eachConn(t *testing.T, test func(t *testing.T, client *fetch.Client, serve func(talk func(net.Conn, *bufio.Reader)) string)) {
	type noSocket struct{ net.Conn }
	for name, wrap := range map[string]func(*net.TCPConn) net.Conn{
		"TCP":         func(conn *net.TCPConn) net.Conn { return conn },
		"wrapped TCP": func(conn *net.TCPConn) net.Conn { return struct{ *net.TCPConn }{conn} },
		"no socket":   func(conn *net.TCPConn) net.Conn { return noSocket{conn} },
	} {
		t.Run(name, func(t *testing.T) {
			test(t, &fetch.Client{Dial: dialWrapped(wrap)}, func(talk func(net.Conn, *bufio.Reader)) string {
				url, _ := rawServer(t, talk)
				return url
			})
		})
	}
	t.Run("TLS", func(t *testing.T) {
		s := tlsServer(t, nil, nil)
		test(t, &fetch.Client{TLS: &tls.Config{RootCAs: rootsOf(s)}}, func(talk func(net.Conn, *bufio.Reader)) string {
			url, _ := rawServer(t, func(conn net.Conn, _ *bufio.Reader) {
				conn = tls.Server(conn, &tls.Config{Certificates: s.TLS.Certificates})
				talk(conn, bufio.NewReader(conn))
			})
			return strings.Replace(url, "http:", "https:", 1)
		})
	})
}

// requireNothing checks that nothing comes on conn for a while.
func requireNothing(t *testing.T, conn net.Conn, br *bufio.Reader) {
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, err := br.ReadByte()
	assert.ErrorContains(t, err, "timeout", "the body came without a 100 Continue")
	conn.SetReadDeadline(time.Time{})
}

// A server asks for the body by a 100 Continue, and gets it then.
func TestClientExpectContinue(t *testing.T) {
	for _, size := range []int{1, 100_000, 3 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			eachConn(t, func(t *testing.T, client *fetch.Client, serve func(func(net.Conn, *bufio.Reader)) string) {
				waited := make(chan struct{}, 4)
				url := serve(func(conn net.Conn, br *bufio.Reader) {
					for {
						r, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						if br.Buffered() > 0 {
							t.Error("the body came with the head")
						}
						waited <- struct{}{}
						if conn, ok := conn.(*net.TCPConn); ok { // with TLS a deadline would end it
							requireNothing(t, conn, br)
						}
						io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
						n, err := io.Copy(io.Discard, r.Body)
						if err != nil {
							return
						}
						io.WriteString(conn, response(fmt.Sprint(n)))
					}
				})
				tidy(t, client)
				for range 2 {
					res := client.Do(t.Context(), expecting(url, make([]byte, size)))
					require.NoError(t, res.Err)
					assert.Equal(t, fmt.Sprint(size), string(res.Body))
					assert.Equal(t, 1, res.Attempts)
					assert.Less(t, res.Duration, 900*time.Millisecond, "it did not wait for the second to pass")
					<-waited
				}
				require.Empty(t, waited)
			})
		})
	}
}

// net/http's server asks for the body when its handler reads it, and the connection is used again.
func TestClientExpectOfNetHTTP(t *testing.T) {
	url, conns := counted(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	c := tidy(t, &fetch.Client{})
	for range 3 {
		res := c.Do(t.Context(), expecting(url, make([]byte, 100_000)))
		require.NoError(t, res.Err)
		assert.Equal(t, "100000", string(res.Body))
	}
	assert.EqualValues(t, 1, conns.Load())
}

// After a final response the body is not sent, so the connection serves no other request.
func TestClientExpectRefused(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno",
	} {
		t.Run(strings.Fields(text)[1], func(t *testing.T) {
			eachConn(t, func(t *testing.T, client *fetch.Client, serve func(func(net.Conn, *bufio.Reader)) string) {
				rest := make(chan string, 4)
				url := serve(func(conn net.Conn, br *bufio.Reader) {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					if r.Method == http.MethodGet {
						respond(func(*http.Request) string { return response("next") })(conn, br)
						return
					}
					io.WriteString(conn, text)
					b, _ := io.ReadAll(br)
					rest <- string(b)
				})
				tidy(t, client)
				for range 2 {
					res := client.Do(t.Context(), expecting(url, []byte("a body")))
					require.NoError(t, res.Err)
					assert.Contains(t, []string{"no", "ok"}, string(res.Body))
					assert.Contains(t, text, fmt.Sprint("HTTP/1.1 ", res.Status, " "))
					assert.Equal(t, 1, res.Attempts)
					assert.Empty(t, soonFrom(t, rest), "what came after the head, up to the end of the connection")
				}
			})
		})
	}
}

// Nor is it sent while a slow response comes.
func TestClientExpectRefusedSlowly(t *testing.T) {
	eachConn(t, func(t *testing.T, client *fetch.Client, serve func(func(net.Conn, *bufio.Reader)) string) {
		t.Parallel()
		rest := make(chan string, 1)
		url := serve(func(conn net.Conn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nn")
			time.Sleep(1300 * time.Millisecond) // longer than the body would wait
			io.WriteString(conn, "o")
			b, _ := io.ReadAll(br)
			rest <- string(b)
		})
		res := tidy(t, client).Do(t.Context(), expecting(url, []byte("a body")))
		require.NoError(t, res.Err)
		assert.Equal(t, 413, res.Status)
		assert.Equal(t, "no", string(res.Body))
		assert.Empty(t, soonFrom(t, rest), "what came after the head")
	})
	c := tidy(t, &fetch.Client{StallTimeout: 200 * time.Millisecond})
	url := serveRaw(t, hangs("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nn"))
	res := c.Do(t.Context(), expecting(url, []byte("a body")))
	assert.ErrorContains(t, res.Err, "see StallTimeout", "it holds for that response")
	assert.Less(t, res.Duration, soon/2)
}

// A server that does not know Expect says nothing: the body is sent after about a second.
func TestClientExpectSilence(t *testing.T) {
	for name, stall := range map[string]time.Duration{"": 0, ", and StallTimeout is shorter": 300 * time.Millisecond} {
		t.Run("silence"+name, func(t *testing.T) {
			eachConn(t, func(t *testing.T, client *fetch.Client, serve func(func(net.Conn, *bufio.Reader)) string) {
				t.Parallel()
				url := serve(respond(func(r *http.Request) string { return response(r.Method) }))
				client.StallTimeout = stall
				tidy(t, client)
				res := client.Do(t.Context(), expecting(url, make([]byte, 100_000)))
				require.NoError(t, res.Err)
				assert.Equal(t, "POST", string(res.Body))
				assert.GreaterOrEqual(t, res.Duration, time.Second)
				assert.Less(t, res.Duration, soon/2)
				res = client.Do(t.Context(), &fetch.Request{URL: url}) // the connection is fit for it
				require.NoError(t, res.Err)
				assert.Equal(t, "GET", string(res.Body))
			})
		})
	}
}

// A server that is silent even after the body has its StallTimeout from then on; and all of it is
// within Timeout.
func TestClientExpectLimits(t *testing.T) {
	url := serveRaw(t, hangs(""))
	res := tidy(t, &fetch.Client{StallTimeout: 200 * time.Millisecond}).Do(t.Context(), expecting(url, []byte("a body")))
	assert.ErrorIs(t, res.Err, fetch.ErrTimeout)
	assert.ErrorContains(t, res.Err, "see StallTimeout")
	assert.GreaterOrEqual(t, res.Duration, 1200*time.Millisecond, "from the end of the request")
	res = tidy(t, &fetch.Client{Timeout: 200 * time.Millisecond}).Do(t.Context(), expecting(url, []byte("a body")))
	assert.ErrorContains(t, res.Err, "no complete response within 200ms: see Timeout")
	assert.Less(t, res.Duration, time.Second)
}

// Without a body there is nothing to wait for, and other expectations are the server's to
// understand.
func TestClientExpectNothing(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Expect")) }))
	t.Cleanup(s.Close)
	c := tidy(t, &fetch.Client{})
	res := c.Do(t.Context(), expecting(s.URL, nil))
	require.NoError(t, res.Err)
	assert.Less(t, res.Duration, time.Second)
	res = c.Do(t.Context(), &fetch.Request{Method: "POST", URL: s.URL, Header: http.Header{"Expect": {"200-ok"}}, Body: []byte("x")})
	require.NoError(t, res.Err)
	assert.Equal(t, http.StatusExpectationFailed, res.Status)
	assert.Less(t, res.Duration, time.Second)
}
