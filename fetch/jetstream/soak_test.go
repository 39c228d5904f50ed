//go:build unix

package jetstream_test

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/jetstream"
)

// Jobs of all kinds, one after the other, for some seconds: workers are killed and stopped, come and go, so is the broker, loops
// are left and ctx is canceled. In the end each request has one result, and the right one.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end) && !t.Failed(); {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) { soak(t, seed) })
	}
}

func soak(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	oneOf := func(of ...int) int { return of[random.IntN(len(of))] }
	pages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, pageOf(r.URL.Path))
	}))
	t.Cleanup(pages.Close)
	broker := startBroker(t)
	job := jetstream.Job{Name: jobName(t), Address: broker.address()}
	s := jetstream.Strategy{
		ShardSize: oneOf(1, 7, 50), Ahead: 1 + random.IntN(30), Partitions: oneOf(0, 0, 3),
		AckWait: 700 * time.Millisecond, MaxBytes: int64(oneOf(0, 16<<10)),
	}
	if random.IntN(2) == 0 {
		job.Manifest = jetstream.Dir(t.TempDir())
	}
	bodies := ""
	if random.IntN(2) == 0 {
		bodies = t.TempDir()
		s.Bodies = jetstream.Dir(bodies)
	}
	s.Job = job
	n := min(100*s.ShardSize, 2000)
	t.Logf("%d requests, %d a shard, %d ahead, %d partitions, %d bytes, manifest %v, bodies %v",
		n, s.ShardSize, s.Ahead, s.Partitions, s.MaxBytes, job.Manifest != nil, s.Bodies != nil)

	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	others.Go(func() { // a guest that comes and goes
		client := &fetch.Client{}
		defer client.CloseIdleConnections()
		random := rand.New(rand.NewPCG(seed, 1))
		for ctx.Err() == nil {
			visit, leave := context.WithTimeout(ctx, time.Duration(20+random.IntN(400))*time.Millisecond)
			_ = jetstream.Work(visit, jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Strategy: fetch.Pool{Workers: 4}, Doer: client}, Bodies: s.Bodies, BodiesOver: 1000, Wait: -1})
			leave()
		}
	})
	others.Go(func() { // what befalls the rest
		random := rand.New(rand.NewPCG(seed, 2))
		worker := role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 8, Dir: bodies}
		workers := []*process{start(t, worker), start(t, worker)}
		pause := func(most int) {
			select {
			case <-time.After(time.Duration(random.IntN(most)) * time.Millisecond):
			case <-ctx.Done():
			}
		}
		stop := func(p *process) {
			_ = p.Process.Signal(syscall.SIGSTOP)
			pause(1200)
			_ = p.Process.Signal(syscall.SIGCONT)
		}
		for pause(500); ctx.Err() == nil; pause(500) {
			i := random.IntN(len(workers))
			switch random.IntN(6) {
			case 0, 1:
				_ = workers[i].Process.Kill()
				workers[i] = start(t, worker)
			case 2:
				stop(workers[i])
			case 3:
				broker.crash(t, job.Manifest != nil && random.IntN(2) == 0)
			case 4:
				stop(broker.process)
			case 5:
				_, _ = jetstream.Status(ctx, job)
			}
		}
	})

	f := fetch.Fetcher{Strategy: s, Ordered: random.IntN(2) == 0}
	for left := random.IntN(3); ; left-- {
		most := n
		if left > 0 {
			most = 1 + random.IntN(n)
		}
		seen := make(map[int]bool)
		var failed error
		patience, give := context.WithTimeout(t.Context(), 60*time.Second)
		for r := range f.Fetch(patience, func(yield func(fetch.Request) bool) {
			for i := range n {
				if !yield(fetch.Request{URL: fmt.Sprintf("%s/%d", pages.URL, i/2)}) { // each twice
					return
				}
			}
		}) {
			require.False(t, seen[r.Request.Index], "a second result for request %d", r.Request.Index)
			seen[r.Request.Index] = true
			if r.Err != nil {
				failed = r.Err
				continue
			}
			path := strings.TrimPrefix(r.Request.URL, pages.URL)
			require.True(t, bytes.Equal(r.Body, []byte(pageOf(path))), "the body of %s", path)
			if len(seen) == most && left > 0 {
				if random.IntN(2) == 0 {
					break
				}
				give()
			}
		}
		give()
		switch {
		case left > 0:
		case failed != nil && mayPass.MatchString(failed.Error()):
			time.Sleep(100 * time.Millisecond)
		default:
			require.NoError(t, failed)
			assert.Len(t, seen, n)
			return
		}
	}
}

// mayPass is what can be wrong when a job begins: the broker is being started, or has not yet heard that the run before has ended.
var mayPass = regexp.MustCompile("no connection to|another process is running it")

// pageOf returns what is at a path: up to 2 KB, and not the same at any two.
func pageOf(path string) string {
	h := fnv.New32a()
	io.WriteString(h, path)
	return strings.Repeat(path, 1+int(h.Sum32())%(2000/len(path)))
}
