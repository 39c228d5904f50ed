package fetchtest

import (
	"fmt"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// A crawl sees more hosts than a process may have connections.
func hostCases() []doerCase {
	if runtime.GOOS != "linux" {
		return nil // which alone has all of 127.0.0.0/8 from the start
	}
	return []doerCase{
		// Over TLS or through a proxy it would be the same pool of connections, at a much higher price.
		{name: "1500 hosts", once: true, direct: true, run: manyHosts},
	}
}

// manyHosts makes a request to each of many hosts, twice. Each answer has to come from the right
// host, and of the connections the engine may keep only some.
func manyHosts(x *exchange) {
	const hosts, kept, workers = 1500, 750, 16
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	require.NoError(x.t, err)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	s := newRawServer(l, nil)
	s.accept = func(p *peer) bool { return p.tcp.LocalAddr().(*net.TCPAddr).IP.IsLoopback() }
	s.serve = func(p *peer, r *http.Request) { p.write(good(p.LocalAddr().String() + " " + r.RequestURI)) }
	s.rude.Store(true)
	s.start()
	defer s.stop()
	for round := range 2 {
		var asked, failed atomic.Int64
		var running sync.WaitGroup
		for range workers {
			running.Go(func() {
				for i := asked.Add(1); i <= hosts; i = asked.Add(1) {
					host := fmt.Sprintf("127.1.%d.%d:%s", i/250, 1+i%250, port)
					path := fmt.Sprintf("%s?%d.%d", casePath, round, i)
					res := x.doer.Do(x.t.Context(), &fetch.Request{URL: "http://" + host + path})
					if want := host + " " + path; (res.Err != nil || string(res.Body) != want) && failed.Add(1) == 1 {
						x.t.Logf("round %d: expected is the body %q; it is %s", round, want, describe(res))
					}
				}
			})
		}
		running.Wait()
		expect(x.t, failed.Load() == 0, "round %d: %d of %d requests fail, or are answered by another host", round, failed.Load(), hosts)
		if !expect(x.t, atLast(func() bool { return s.left() <= kept }),
			"round %d: %d connections are kept, to as many hosts, and their number must have a limit: at most %d for %d hosts", round, s.left(), kept, hosts) {
			break
		}
	}
	x.next()
	closeIdle(x.doer)
	s.empty(x.t)
}
