package fetch_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// A list of which a fifth of the hosts swallow packets takes as long as these take, at the limit
// and the timeout, and little more. If the limit on a connection were that of the attempt, it would
// take three times as long.
func TestDeadHosts(t *testing.T) {
	const hosts, limit, latency = 5000, 64, 50 * time.Millisecond
	dead := map[string]bool{}
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(hosts)[:hosts/5] {
		dead[fmt.Sprintf("host%d.test:80", i)] = true
	}
	for _, timeout := range []time.Duration{0, 2 * time.Second} {
		for _, s := range []fetch.Strategy{fetch.Pool{Workers: limit}, fetch.Semaphore{Limit: limit}, fetch.Batch{Size: hosts, Each: fetch.Pool{Workers: limit}}} {
			t.Run(fmt.Sprint(s, timeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					client := &fetch.Client{DialTimeout: timeout, Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
						if dead[addr] {
							<-ctx.Done()
							return nil, ctx.Err()
						}
						return piped(latency), nil
					}}
					defer client.CloseIdleConnections()
					f := fetch.Fetcher{Strategy: s, Doer: client}
					failed, begun := 0, time.Now()
					for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
						for i := range hosts {
							if !yield(fetch.Request{URL: fmt.Sprintf("http://host%d.test/", i)}) {
								return
							}
						}
					}) {
						if r.Err != nil {
							failed++
							assert.ErrorIs(t, r.Err, fetch.ErrTimeout)
							assert.ErrorContains(t, r.Err, "see DialTimeout")
						}
					}
					took := time.Since(begun)
					assert.Equal(t, len(dead), failed)
					each := cmp.Or(timeout, 10*time.Second)
					least := (time.Duration(len(dead))*each + time.Duration(hosts-len(dead))*latency) / limit
					assert.Less(t, took.Seconds(), 1.3*least.Seconds(), "seconds, and %v are needed", least)
				})
			})
		}
	}
}

// piped returns a connection to a server that answers each request after so long.
func piped(latency time.Duration) net.Conn {
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		br := bufio.NewReader(server)
		for {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			time.Sleep(latency)
			if _, err := io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
		}
	}()
	return client
}
