package fetch_test

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

	"fetchbench/fetch"
)

// 100 000 requests, 16 in a write, to a server that closes connections at random (announced,
// between responses, or within one), delays responses, and sends some in chunks: no body is that of
// another request.
func TestClientPipelineSoak(t *testing.T) {
	const clients, each = 8, 16
	writes := 800
	if testing.Short() {
		writes = 40
	}
	var connSeed atomic.Uint64
	url, _ := rawServer(t, func(conn net.Conn, br *bufio.Reader) {
		respondAtRandom(conn, br, rand.New(rand.NewPCG(connSeed.Add(1), 5)))
	})
	var sent, together, again, failed atomic.Int64
	var running sync.WaitGroup
	for n := range clients {
		running.Go(func() {
			c := &fetch.Client{}
			off := false
			ctx := tracedContext(t, func(fetch.Event) { off = true })
			for w := range writes {
				if off { // or little would be written together
					c.CloseIdleConnections()
					c, off = &fetch.Client{}, false
				}
				reqs := make([]*fetch.Request, each)
				for i := range reqs {
					reqs[i] = &fetch.Request{URL: fmt.Sprintf("%s/%d/%d/%d", url, n, w, i)}
				}
				results := 0
				c.DoBatch(ctx, reqs, func(res fetch.Result) {
					results++
					if res.Attempts > 1 {
						again.Add(1)
					}
					if res.Err != nil {
						failed.Add(1) // a request that is sent by itself may meet an end too
						return
					}
					if want := strings.TrimPrefix(res.Request.URL, url); !strings.HasPrefix(string(res.Body), want+" ") {
						t.Errorf("%s has the body %.60q", want, res.Body)
					}
				})
				if results != each {
					t.Errorf("%d results of %d", results, each)
				}
				if !off {
					together.Add(each)
				}
				sent.Add(each)
			}
			c.CloseIdleConnections()
		})
	}
	running.Wait()
	t.Logf("%d requests, of which %d were sent again, and %d failed", sent.Load(), again.Load(), failed.Load())
	assert.EqualValues(t, clients*writes*each, sent.Load())
	assert.Greater(t, together.Load(), sent.Load()/2, "requests in batches that went well")
	assert.Positive(t, again.Load())
	assert.Less(t, failed.Load(), sent.Load()/20)
}

// respondAtRandom responds with the path and some padding.
func respondAtRandom(conn net.Conn, br *bufio.Reader, random *rand.Rand) {
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
			io.WriteString(w, response(body, "Connection: close"))
			return
		case 2:
			text := response(body)
			io.WriteString(w, text[:random.IntN(len(text))])
			return
		case 3:
			w.Flush()
			time.Sleep(time.Duration(random.IntN(5)) * time.Millisecond) // the service time
		}
		if random.IntN(3) == 0 {
			n := random.IntN(len(body)-1) + 1
			fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", n, body[:n], len(body)-n, body[n:])
		} else {
			io.WriteString(w, response(body))
		}
	}
}
