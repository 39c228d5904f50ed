package peers

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"fetchbench/fetch/fetchtest"
)

// BenchmarkPeers is GETs of a tiny JSON document over 64 connections; every answer is
// checked. One op is one URL. The clients have their turns in another order in each round.
//
// cpu-ns/op is the processor time, user and system, of the client alone; urls/s is by the
// clock, so the server, which shares the machine, has a part in it.
func BenchmarkPeers(b *testing.B) {
	type peer struct {
		name string
		turn func(b *testing.B) cost
	}
	var peers []peer
	for _, c := range clients {
		peers = append(peers, peer{c.name, c.turn})
	}
	for _, p := range programs {
		peers = append(peers, peer{p.name, p.turn})
	}
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	for _, p := range peers {
		b.Run("client="+p.name, func(b *testing.B) { p.turn(b).report(b, p.name) })
	}
}

// report adds c to the round, as that of the client with the name.
func (c cost) report(b *testing.B, name string) {
	current[name] = c // the last call of a turn is the one with the b.N that counts
	if c.rate > 0 {
		b.ReportMetric(1e9/c.rate, "ns/op")
		b.ReportMetric(c.rate, "urls/s")
	}
	if c.cpu > 0 {
		b.ReportMetric(c.cpu, "cpu-ns/op")
	}
}

// warmUp is how many URLs a client of this process gets before its timed part, in which
// it then has all its connections.
const warmUp = 2 * limit * depth

func (c *client) turn(b *testing.B) cost {
	s := startServer(b)
	return c.get(b, s, s.url)
}

// get has c GET url, which is s's, b.N times.
func (c *client) get(b *testing.B, s *server, url string) cost {
	get, close := c.open(url)
	defer close()
	if err := get(warmUp); err != nil {
		b.Fatal(err)
	}
	s.requests(b)
	runtime.GC() // the garbage of the client before is not on this one's bill
	b.ResetTimer()
	start, cpu := time.Now(), fetchtest.CPUTime()
	err := get(b.N)
	cpu, wall := fetchtest.CPUTime()-cpu, time.Since(start)
	b.StopTimer()
	if err != nil {
		b.Fatal(err)
	}
	if n := s.requests(b); n != b.N {
		b.Fatalf("the server had %d requests of %d", n, b.N)
	}
	return perURL(b.N, cpu, wall)
}

// turn has the program GET one URL for each connection, and then b.N more than that: the
// difference is without its start and its end. One that runs for a time is so
// cheap to start that it does not matter.
func (p *program) turn(b *testing.B) cost {
	if p.find() == nil {
		if !told[p.name] { // without -v, Skip alone says nothing
			fmt.Printf("No %s here, try: %s\n", p.name, p.install)
			told[p.name] = true
		}
		b.Skip("not installed, try: " + p.install)
	}
	s := startServer(b)
	var idle bill
	n := b.N
	if !p.timed {
		var err error
		if idle, err = p.run(b.Context(), s.url, limit); err != nil {
			b.Fatal(err)
		}
		n += limit
	}
	s.requests(b)
	b.ResetTimer()
	all, err := p.run(b.Context(), s.url, n)
	b.StopTimer()
	if err != nil {
		b.Fatal(err)
	}
	// What runs for a time ends in the middle of the last requests.
	if n := s.requests(b); n < all.answers || n > all.answers+limit || n > all.answers && !p.timed {
		b.Fatalf("the server had %d requests, the client %d answers", n, all.answers)
	}
	return perURL(all.answers-idle.answers, all.cpu-idle.cpu, all.wall-idle.wall)
}

// told has the programs whose lack has been told of.
var told = map[string]bool{}

// perURL is the cost of one of n URLs; what is not positive is left 0, that is unknown: a
// difference of two runs can be that with few URLs.
func perURL(n int, cpu, wall time.Duration) cost {
	var c cost
	if cpu > 0 {
		c.cpu = float64(cpu) / float64(n)
	}
	if wall > 0 {
		c.rate = float64(n) / wall.Seconds()
	}
	return c
}
