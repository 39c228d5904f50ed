package wire

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/rules"
)

// 100 000 requests, 16 in a write, to a server that closes connections at random (announced, between answers,
// or in the middle of one), delays answers, and sends some in chunks: no answer is that of another request.
func TestPipelineSoak(t *testing.T) {
	const clients, writes, each = 8, 800, 16
	most := writes
	if testing.Short() {
		most = 40
	}
	url := serveAtRandom(t)
	var together, again, failed atomic.Int64
	var running sync.WaitGroup
	for n := range clients {
		running.Go(func() {
			c := &Client{}
			defer c.CloseIdleConnections()
			ctx := tracing(t, func(fetch.Event) {
				c.unpiped = new(rules.Suspects) // or little would be written together
			})
			for w := range most {
				reqs := make([]*fetch.Request, each)
				for i := range reqs {
					reqs[i] = &fetch.Request{URL: fmt.Sprintf("%s/%d/%d/%d", url, n, w, i)}
				}
				answered := 0
				c.DoBatch(ctx, reqs, func(res fetch.Result) {
					answered++
					if res.Attempts > 1 {
						again.Add(1)
					}
					if res.Err != nil {
						failed.Add(1) // also those that are alone have to do with that server
						return
					}
					if want := strings.TrimPrefix(res.Request.URL, url); !strings.HasPrefix(string(res.Body), want+" ") {
						t.Errorf("%s has the body %.60q", want, res.Body)
					}
				})
				if answered != each {
					t.Errorf("%d results of %d", answered, each)
				}
			}
			together.Add(int64(most * each))
		})
	}
	running.Wait()
	t.Logf("%d requests, of which %d were sent again, and %d failed", together.Load(), again.Load(), failed.Load())
	assert.Positive(t, again.Load())
	assert.Less(t, failed.Load(), together.Load()/20)
}

// serveAtRandom starts the server, which answers with the path and some padding.
func serveAtRandom(t *testing.T) (url string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var talking sync.WaitGroup
	talking.Go(func() {
		for seed := uint64(1); ; seed++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			talking.Go(func() {
				defer conn.Close()
				answerAtRandom(conn, rand.New(rand.NewPCG(seed, 5)))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		talking.Wait()
	})
	return "http://" + l.Addr().String()
}

func answerAtRandom(conn net.Conn, random *rand.Rand) {
	br := bufio.NewReader(conn)
	w := bufio.NewWriter(conn)
	defer w.Flush()
	for {
		if br.Buffered() == 0 || random.IntN(8) == 0 {
			w.Flush()
		}
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body := r.URL.Path + " " + strings.Repeat("x", random.IntN(300))
		switch random.IntN(200) {
		case 0:
			return
		case 1:
			fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
			return
		case 2:
			text := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			io.WriteString(w, text[:random.IntN(len(text))])
			return
		case 3:
			w.Flush()
			time.Sleep(time.Duration(random.IntN(5)) * time.Millisecond)
		}
		if random.IntN(3) == 0 {
			n := random.IntN(len(body)-1) + 1
			fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", n, body[:n], len(body)-n, body[n:])
		} else {
			fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	}
}
