//go:build unix

package jetstream_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
	"fetchbench/fetch/jetstream"
)

// Each test of this file lets something fail in the midst of a job, and then checks that each request has
// exactly one result, and a good one.

// after calls f once n results have passed.
func after(results iter.Seq[fetch.Result], n int, f func()) iter.Seq[fetch.Result] {
	return func(yield func(fetch.Result) bool) {
		got := 0
		for r := range results {
			if got++; got == n {
				f()
			}
			if !yield(r) {
				return
			}
		}
	}
}

// working starts n workers in this process, which end with the test.
func working(t *testing.T, job jetstream.Job, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range n {
		client := &fetch.Client{}
		running.Go(func() {
			_ = jetstream.Work(ctx, jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: client}, Wait: -1})
			client.CloseIdleConnections()
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

func TestWorkerKilled(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.Latency(2*time.Millisecond))
	job := jetstream.Job{Name: jobName(t), Address: listening(t)}
	var workers []*process
	for range 3 {
		workers = append(workers, start(t, role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 8}))
	}
	s := jetstream.Strategy{Job: job, ShardSize: 50, AckWait: 500 * time.Millisecond}
	f := fetch.Fetcher{Strategy: s}
	complete(t, after(f.Fetch(t.Context(), urls(server, 5000)), 500, func() {
		workers[0].Process.Kill()
	}), 5000)
	// What it had in hand: one shard that it fetched, one after that, and those it was sending the results of.
	assert.LessOrEqual(t, server.Requests()-5000, 6*50, "requests in vain")
	for _, w := range workers[1:] {
		assert.Equal(t, "ended: <nil>", w.next(t))
	}
}

// A worker that ends when the results are at the broker, and the shard is not acknowledged: nothing is fetched again.
func TestWorkerKilledBeforeAck(t *testing.T) {
	server := fetchtest.NewServer(t)
	job := jetstream.Job{Name: jobName(t), Address: listening(t)}
	worker := start(t, role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 1, DieBeforeAck: true})
	s := jetstream.Strategy{Job: job, ShardSize: 50, AckWait: 500 * time.Millisecond}
	f := fetch.Fetcher{Strategy: s}
	go func() {
		worker.Wait()
		start(t, role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 1})
	}()
	complete(t, f.Fetch(t.Context(), urls(server, 1000)), 1000)
	assert.LessOrEqual(t, server.Requests()-1000, 50, "requests in vain: those of the next shard, which it had begun")
}

// A worker that is stopped for longer than AckWait, and goes on when others have done its work.
func TestWorkerStopped(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.Latency(5*time.Millisecond))
	job := jetstream.Job{Name: jobName(t), Address: listening(t)}
	worker := start(t, role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 8})
	start(t, role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 8})
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 50, AckWait: 300 * time.Millisecond}}
	complete(t, after(after(f.Fetch(t.Context(), urls(server, 5000)), 1000, func() {
		require.NoError(t, worker.Process.Signal(syscall.SIGSTOP))
	}), 3000, func() {
		require.NoError(t, worker.Process.Signal(syscall.SIGCONT))
	}), 5000)
	assert.Equal(t, "ended: <nil>", worker.next(t))
}

// A worker that is stopped for so long that the broker gives its shards to others, of which there are none, goes on with
// them: nothing is fetched twice.
func TestOnlyWorkerStopped(t *testing.T) {
	defer jetstream.SetSignOfLife(jetstream.SetSignOfLife(200 * time.Millisecond))
	server := fetchtest.NewServer(t, fetchtest.Latency(5*time.Millisecond))
	job := jetstream.Job{Name: jobName(t), Address: listening(t)}
	worker := start(t, role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 8})
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 50, AckWait: time.Minute}}
	complete(t, after(f.Fetch(t.Context(), urls(server, 2000)), 500, func() {
		require.NoError(t, worker.Process.Signal(syscall.SIGSTOP))
		time.AfterFunc(time.Second, func() { worker.Process.Signal(syscall.SIGCONT) })
	}), 2000)
	assert.Equal(t, "ended: <nil>", worker.next(t))
	assert.Equal(t, 2000, server.Requests())
}

// A worker that is killed has no more signs of life: its shards are with others long before AckWait is over.
func TestAckWaitIsForSilence(t *testing.T) {
	defer jetstream.SetSignOfLife(jetstream.SetSignOfLife(200 * time.Millisecond))
	server := fetchtest.NewServer(t, fetchtest.Latency(400*time.Millisecond)) // twice the sign of life, without an answer
	job := jetstream.Job{Name: jobName(t), Address: listening(t)}
	worker := start(t, role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 5})
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 10, AckWait: time.Minute}}
	killed := make(chan struct{})
	complete(t, after(f.Fetch(t.Context(), urls(server, 50)), 10, func() {
		worker.Process.Kill()
		go func() {
			defer close(killed)
			worker.Wait()
			start(t, role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 5})
		}()
	}), 50)
	<-killed
	assert.LessOrEqual(t, server.Requests()-50, 20, "requests in vain: of two shards")
}

// A broker that says nothing any more holds up a cancel only for a moment, and the job goes on with it later.
func TestBrokerStopped(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.Latency(2*time.Millisecond))
	broker := startBroker(t)
	job := jetstream.Job{Name: jobName(t), Address: broker.address()}
	s := jetstream.Strategy{Job: job, ShardSize: 50, AckWait: time.Second, Workers: 1}
	f := fetch.Fetcher{Strategy: s, Doer: &fetch.Client{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var canceled time.Time
	got := 0
	for r := range after(f.Fetch(ctx, urls(server, 3000)), 1000, func() {
		require.NoError(t, broker.Process.Signal(syscall.SIGSTOP))
		canceled = time.Now()
		cancel()
	}) {
		got++
		if r.Err != nil {
			require.Equal(t, fetch.ErrCanceled, fetch.KindOf(r.Err), "%v", r.Err)
		}
	}
	assert.Less(t, time.Since(canceled), 4*time.Second, "it has what the broker is told in the end to wait for, and that is bounded")
	assert.GreaterOrEqual(t, got, 1000)
	require.NoError(t, broker.Process.Signal(syscall.SIGCONT))
	require.Eventually(t, func() bool { // it has to notice that the other has gone
		for r := range f.Fetch(t.Context(), urls(server, 3000)) {
			return r.Err == nil
		}
		return false
	}, 20*time.Second, 100*time.Millisecond)
	complete(t, f.Fetch(t.Context(), urls(server, 3000)), 3000)
}

// Workers that come and go, every one of them in the midst of shards.
func TestJoinAndLeave(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.Latency(time.Millisecond))
	job := jetstream.Job{Name: jobName(t), Address: listening(t)}
	working(t, job, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var guests sync.WaitGroup
	for range 3 {
		guests.Go(func() {
			for ctx.Err() == nil {
				visit, leave := context.WithTimeout(ctx, 150*time.Millisecond)
				_ = jetstream.Work(visit, jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Strategy: fetch.Pool{Workers: 4}, Doer: &fetch.Client{}}})
				leave()
			}
		})
	}
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 30, AckWait: time.Second}}
	complete(t, f.Fetch(t.Context(), urls(server, 8000)), 8000)
	cancel()
	guests.Wait()
}

// A brokerProcess is a broker that can be killed, and started again where it was.
type brokerProcess struct {
	*process
	role
}

func startBroker(t *testing.T) *brokerProcess {
	b := &brokerProcess{role: role{Role: "broker", Port: freePort(t), Dir: filepath.Join(t.TempDir(), "store")}}
	b.process = start(t, b.role)
	return b
}

func (b *brokerProcess) address() string { return fmt.Sprintf("nats://127.0.0.1:%d", b.Port) }

// crash kills the broker, has its disk lost if that is asked for, and starts it again.
func (b *brokerProcess) crash(t *testing.T, lost bool) {
	b.Process.Kill()
	b.Wait()
	if lost {
		require.NoError(t, os.RemoveAll(b.Dir))
	}
	b.process = start(t, b.role)
}

func TestBrokerKilled(t *testing.T) {
	for _, c := range []struct {
		lost        bool
		size, ahead int
	}{
		{lost: false, size: 50, ahead: 20},
		{lost: true, size: 50, ahead: 20},
		{lost: true, size: 500, ahead: 1}, // nothing is being published that would tell of the loss
	} {
		t.Run(fmt.Sprintf("lost=%v/ahead=%d", c.lost, c.ahead), func(t *testing.T) {
			server := fetchtest.NewServer(t, fetchtest.Latency(2*time.Millisecond))
			broker := startBroker(t)
			job := jetstream.Job{Name: jobName(t), Address: broker.address()}
			working(t, job, 2)
			f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: c.size, AckWait: time.Second, Ahead: c.ahead}}
			crashed := make(chan struct{})
			complete(t, after(f.Fetch(t.Context(), urls(server, 6000)), 1500, func() {
				go func() { // the loop goes on meanwhile
					defer close(crashed)
					time.Sleep(50 * time.Millisecond) // they are in the midst of the next shards
					broker.crash(t, c.lost)
				}()
			}), 6000)
			<-crashed
		})
	}
}

// A run that ended before its input did goes on when it is called again, with what the broker has, or the manifest.
func TestResume(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost=%v", lost), func(t *testing.T) {
			server := fetchtest.NewServer(t)
			broker := startBroker(t)
			job := jetstream.Job{Name: jobName(t), Address: broker.address(), Manifest: jetstream.Dir(t.TempDir())}
			working(t, job, 2)
			f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 50, Ahead: 10}}
			got := 0
			for r := range f.Fetch(t.Context(), urls(server, 3000)) {
				require.NoError(t, r.Err)
				if got++; got == 1500 {
					break
				}
			}
			if lost {
				broker.crash(t, true)
			}
			complete(t, f.Fetch(t.Context(), urls(server, 3000)), 3000)
			assert.LessOrEqual(t, server.Requests()-3000, 12*50, "requests in vain: those of shards that were under way")
			// And again: the job has ended, and all results are in the manifest.
			before := server.Requests()
			complete(t, f.Fetch(t.Context(), urls(server, 3000)), 3000)
			assert.Equal(t, before, server.Requests())
		})
	}
}

// The same with the broker in this process, and its directory.
func TestResumeEmbedded(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost=%v", lost), func(t *testing.T) {
			server := fetchtest.NewServer(t)
			job := jetstream.Job{Name: "resumed", Dir: filepath.Join(t.TempDir(), "broker")}
			if lost {
				job.Manifest = jetstream.Dir(t.TempDir())
			}
			f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 50, Ahead: 10}, Doer: &fetch.Client{}}
			for part := range 3 {
				ctx, cancel := context.WithCancel(t.Context())
				got := 0
				for r := range f.Fetch(ctx, urls(server, 3000)) {
					if got++; got == 400*(part+1) {
						cancel()
					}
					require.True(t, r.Err == nil || fetch.KindOf(r.Err) == fetch.ErrCanceled, "%v", r.Err)
				}
				cancel()
				if lost {
					require.NoError(t, os.RemoveAll(job.Dir))
				}
			}
			complete(t, f.Fetch(t.Context(), urls(server, 3000)), 3000)
			assert.LessOrEqual(t, server.Requests()-3000, 3*12*50, "requests in vain: those of shards that were under way")
		})
	}
}

// A job that is called with other requests than it began with says so, and fetches nothing.
func TestResumeWithAnotherInput(t *testing.T) {
	server := fetchtest.NewServer(t)
	run := func(t *testing.T, manifest jetstream.Dir, indexes ...int) iter.Seq[fetch.Result] {
		s := jetstream.Strategy{Job: jetstream.Job{Name: "changed", Manifest: manifest}, ShardSize: 2}
		f := fetch.Fetcher{Strategy: s, Doer: &fetch.Client{}}
		return f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
			for _, i := range indexes {
				if !yield(fetch.Request{URL: server.Ping(i)}) {
					return
				}
			}
		})
	}
	for name, input := range map[string][]int{
		"order": {0, 1, 4, 5, 2, 3, 6},
		"first": {9, 0, 1, 2, 3, 4, 5, 6},
	} {
		t.Run(name, func(t *testing.T) {
			manifest := jetstream.Dir(t.TempDir())
			complete(t, run(t, manifest, 0, 1, 2, 3, 4, 5, 6), 7)
			before := server.Requests()
			var failed error
			for r := range run(t, manifest, input...) {
				failed = cmp.Or(failed, r.Err)
			}
			assert.ErrorIs(t, failed, jetstream.ErrJob)
			assert.ErrorContains(t, failed, "the input has not the requests that it had")
			assert.Equal(t, before, server.Requests())
		})
	}
	t.Run("more", func(t *testing.T) { // that is no harm
		manifest := jetstream.Dir(t.TempDir())
		complete(t, run(t, manifest, 0, 1, 2, 3, 4), 5)
		before := server.Requests()
		complete(t, run(t, manifest, 0, 1, 2, 3, 4, 5, 6), 7)
		assert.Equal(t, before+2, server.Requests())
	})
}

// A job goes on with other shards than it began with: what the manifest has is as large as it was. And though results are missing
// there, all is answered.
func TestResumeWithAnotherShardSize(t *testing.T) {
	server := fetchtest.NewServer(t)
	manifest := jetstream.Dir(t.TempDir())
	run := func(n, size, ahead int) iter.Seq[fetch.Result] {
		s := jetstream.Strategy{Job: jetstream.Job{Name: "resized", Dir: filepath.Join(t.TempDir(), "broker"), Manifest: manifest}, ShardSize: size, Ahead: ahead}
		f := fetch.Fetcher{Strategy: s, Doer: &fetch.Client{}}
		return f.Fetch(t.Context(), urls(server, n))
	}
	complete(t, run(500, 3, 5), 500)
	complete(t, run(1000, 1000, 5), 1000)
	complete(t, run(1000, 100, 5), 1000)
	assert.Equal(t, 1000, server.Requests())

	i := 0
	require.NoError(t, filepath.WalkDir(filepath.Join(string(manifest), "resized", "results"), func(path string, d fs.DirEntry, err error) error {
		if i++; err == nil && !d.IsDir() && i%2 == 0 {
			err = os.Remove(path)
		}
		return err
	}))
	complete(t, run(1000, 1000, 5), 1000)
	assert.Greater(t, server.Requests(), 1000)

	failed := 0
	for r := range run(1000, 2, 2) {
		if r.Err != nil {
			failed++
			assert.ErrorContains(t, r.Err, "the manifest has a shard of 500 requests: Ahead times ShardSize is 4, and has to be that at least")
		}
	}
	assert.Positive(t, failed)
}

// A manifest that fails now and then costs nothing; one that is not to be read, a clear error.
func TestManifestFails(t *testing.T) {
	server := fetchtest.NewServer(t)
	dir := jetstream.Dir(t.TempDir())
	var tried sync.Map
	try := func(what string) error { // the first time that is asked, it fails
		if _, again := tried.LoadOrStore(what, true); !again {
			return errors.New("try again")
		}
		return nil
	}
	flaky := storeFuncs{
		put: func(ctx context.Context, name string, data []byte) error {
			return cmp.Or(try("put"+name), dir.Put(ctx, name, data))
		},
		get: func(ctx context.Context, name string) ([]byte, error) {
			if err := try("get" + name); err != nil {
				return nil, err
			}
			return dir.Get(ctx, name)
		},
	}
	fetchAll := func(store jetstream.Store) iter.Seq[fetch.Result] {
		f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: jetstream.Job{Name: "flaky", Dir: t.TempDir(), Manifest: store}, ShardSize: 100}, Doer: &fetch.Client{}}
		return f.Fetch(t.Context(), urls(server, 1000))
	}
	complete(t, fetchAll(&flaky), 1000)
	tried.Clear()
	complete(t, fetchAll(&flaky), 1000)
	assert.Equal(t, 1000, server.Requests(), "the second time it has them all")

	require.NoError(t, dir.Put(t.Context(), "flaky/shards/0/0/3", []byte("garbage")))
	failed := 0
	for r := range fetchAll(dir) {
		if r.Err != nil {
			failed++
			assert.ErrorContains(t, r.Err, "the manifest: flaky/shards/0/0/3: not what this version of the package sends")
		}
	}
	assert.Positive(t, failed)
	for r := range fetchAll(&storeFuncs{put: dir.Put, get: func(context.Context, string) ([]byte, error) { panic("odd") }}) {
		assert.ErrorContains(t, r.Err, "the manifest: the Store panicked: odd")
	}
	assert.Equal(t, 1000, server.Requests())
	// What cannot be written down is not fetched: a run that comes later would not know of it.
	another := fetch.Fetcher{Strategy: jetstream.Strategy{Job: jetstream.Job{Name: "full", Manifest: &storeFuncs{get: dir.Get, put: func(_ context.Context, name string, _ []byte) error {
		if strings.Contains(name, "/shards/") {
			return errors.New("the disk is full")
		}
		return nil
	}}}}, Doer: &fetch.Client{}}
	for r := range another.Fetch(t.Context(), urls(server, 10)) {
		assert.ErrorIs(t, r.Err, jetstream.ErrJob)
		assert.ErrorContains(t, r.Err, "the manifest: the disk is full")
	}
	assert.Equal(t, 1000, server.Requests())
}

// A stream that is deleted in the midst of the job, by whomever, is made anew, and what was in it is fetched again.
func TestStreamDeleted(t *testing.T) {
	for _, name := range []string{"work", "results"} {
		t.Run(name, func(t *testing.T) {
			server := fetchtest.NewServer(t, fetchtest.Latency(time.Millisecond))
			job := jetstream.Job{Name: name, Address: listening(t)}
			nc, err := nats.Connect(job.Address)
			require.NoError(t, err)
			defer nc.Close()
			working(t, job, 1)
			f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 20, AckWait: time.Second}}
			complete(t, after(f.Fetch(t.Context(), urls(server, 2000)), 500, func() {
				_, err := nc.Request("$JS.API.STREAM.DELETE.fetch-"+name+"-"+name, nil, 5*time.Second)
				require.NoError(t, err)
			}), 2000)
		})
	}
}

// Requests that must not be repeated are not, when the run ends in their midst and goes on later.
func TestPostResume(t *testing.T) {
	for name, job := range map[string]jetstream.Job{
		"address":  {Name: "posts", Address: listening(t)},
		"embedded": {Name: "posts", Dir: t.TempDir()},
		"manifest": {Name: "posts", Dir: t.TempDir(), Manifest: jetstream.Dir(t.TempDir())},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			sent := make(map[int]int)
			f := fetch.Fetcher{
				Strategy: jetstream.Strategy{Job: job, Workers: 1, Each: fetch.Pool{Workers: 3}, ShardSize: 10, Ahead: 5},
				Doer: fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
					mu.Lock()
					sent[r.Index]++
					mu.Unlock()
					time.Sleep(time.Millisecond)
					return fetch.Result{Status: 200, Attempts: 1}
				}),
			}
			input := func(yield func(fetch.Request) bool) {
				for range 100 {
					if !yield(fetch.Request{Method: "POST", URL: "http://h.test/"}) {
						return
					}
				}
			}
			got := 0
			for range f.Fetch(t.Context(), input) {
				if got++; got == 25 {
					break
				}
			}
			answered := 0
			for r := range f.Fetch(t.Context(), input) {
				answered++
				if r.Err != nil {
					assert.ErrorContains(t, r.Err, "it may have been sent, so it is not repeated")
					assert.Less(t, r.Request.Index, 25+5*10, "it had not been taken from the input")
				}
			}
			assert.Equal(t, 100, answered)
			for i, n := range sent {
				assert.Equal(t, 1, n, "POST %d", i)
			}
			assert.GreaterOrEqual(t, len(sent), 50)
		})
	}
}

// A program that has all in one process, and dies of a request, gets over it if it is started again and again.
func TestPoisonEmbedded(t *testing.T) {
	for _, c := range []struct{ size, poison, deaths int }{
		{10, 17, 2 + 2 + 3}, // twice for 10 requests, once for 5 and 3, and three times for the one
		{1, 0, 3},           // and nobody dies with it for being performed at the same time
	} {
		t.Run(fmt.Sprintf("size=%d", c.size), func(t *testing.T) {
			server := fetchtest.NewServer(t, fetchtest.Latency(20*time.Millisecond))
			r := role{Role: "alone", Name: "alone", Dir: t.TempDir(), URL: server.URL, URLs: 40, ShardSize: c.size, Poison: c.poison}
			deaths := 0
			var lines []string
			for ; deaths < 20; deaths++ {
				p := start(t, r)
				lines = nil
				for line := range p.lines {
					lines = append(lines, line)
				}
				if p.Wait() == nil {
					break
				}
			}
			assert.Equal(t, c.deaths, deaths)
			require.Len(t, lines, 40)
			for _, line := range lines {
				var index int
				var text string
				_, err := fmt.Sscanf(line, "result %d %s", &index, &text)
				require.NoError(t, err, line)
				if index == c.poison {
					assert.Contains(t, line, "with this request: 3")
				} else {
					assert.Equal(t, "<nil>", text, line)
				}
			}
		})
	}
}

// Connections that break all the time cost time, and nothing else.
func TestConnectionsCut(t *testing.T) {
	for _, c := range []struct{ size, body int }{{1, 100}, {20, 300 << 10}} { // the latter in chunks
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			job := jetstream.Job{Name: "cut", Address: listening(t)}
			far := job
			far.Address = cutting(t, job.Address, 200*time.Millisecond)
			ended := make(chan error)
			go func() {
				ended <- jetstream.Work(t.Context(), jetstream.Worker{Job: far, Wait: 3 * time.Second, Fetcher: fetch.Fetcher{Strategy: fetch.Pool{Workers: 8}, Doer: fetch.DoerFunc(
					func(ctx context.Context, r *fetch.Request) fetch.Result {
						time.Sleep(2 * time.Millisecond)
						return fetch.Result{Status: 200, Body: make([]byte, c.body), Attempts: 1}
					})}})
			}()
			f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: c.size, AckWait: time.Second}}
			complete(t, f.Fetch(t.Context(), numbered("http://h.test", 1000)), 1000)
			<-ended // with nil, or with ErrNoJob if it has not heard of the end
		})
	}
}

// cutting starts a proxy before address whose connections break after about so long, and returns its address.
func cutting(t *testing.T, address string, every time.Duration) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	var running sync.WaitGroup
	t.Cleanup(func() {
		close(done)
		l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			broker, err := net.Dial("tcp", strings.TrimPrefix(address, "nats://"))
			if err != nil {
				client.Close()
				continue
			}
			cut := func() {
				client.Close()
				broker.Close()
			}
			for _, pair := range [][2]net.Conn{{client, broker}, {broker, client}} {
				running.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					cut()
				})
			}
			running.Go(func() {
				select {
				case <-done:
				case <-time.After(every/2 + rand.N(every)):
				}
				cut()
			})
		}
	})
	return "nats://" + l.Addr().String()
}

// A publisher that is stopped until the broker has given it up, and goes on when another one has taken over, leaves the job to that.
func TestPublisherOusted(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.Latency(time.Millisecond))
	job := jetstream.Job{Name: jobName(t), Address: listening(t, func(o *natsserver.Options) {
		o.PingInterval, o.MaxPingsOut = 500*time.Millisecond, 2
	})}
	working(t, job, 2)
	first := start(t, role{Role: "publisher", Name: job.Name, Address: job.Address, URL: server.URL, URLs: 5000, ShardSize: 50, AckWait: time.Second})
	for range 500 {
		first.next(t)
	}
	require.NoError(t, first.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	_, err := syscall.Wait4(first.Process.Pid, &status, syscall.WUNTRACED, nil) // until it has stopped
	require.NoError(t, err)
	require.True(t, status.Stopped())
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 50, AckWait: time.Second, Ahead: 8}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	complete(t, after(f.Fetch(ctx, numbered(server.URL, 5000)), 1000, func() {
		require.NoError(t, first.Process.Signal(syscall.SIGCONT))
		for line := range first.lines { // until it has ended
			_ = line
		}
	}), 5000)
}

func TestPublisherKilled(t *testing.T) {
	server := fetchtest.NewServer(t, fetchtest.Latency(time.Millisecond))
	job := jetstream.Job{Name: jobName(t), Address: listening(t)}
	working(t, job, 2)
	publisher := start(t, role{Role: "publisher", Name: job.Name, Address: job.Address, URL: server.URL, URLs: 5000, ShardSize: 50, AckWait: time.Second})
	for range 1000 {
		publisher.next(t)
	}
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 50, AckWait: time.Second}}
	for r := range f.Fetch(t.Context(), numbered(server.URL, 1)) {
		assert.ErrorContains(t, r.Err, "job TestPublisherKilled at nats://127.0.0.1:")
		assert.ErrorContains(t, r.Err, "another process is running it: a job may have only one publisher")
	}
	require.NoError(t, publisher.Process.Signal(syscall.SIGSTOP))
	for r := range f.Fetch(t.Context(), numbered(server.URL, 1)) {
		assert.ErrorIs(t, r.Err, jetstream.ErrJob)
		assert.ErrorContains(t, r.Err, "another process is running it, which does not answer")
	}
	publisher.Process.Kill()
	publisher.Wait()
	complete(t, f.Fetch(t.Context(), numbered(server.URL, 5000)), 5000)
	assert.LessOrEqual(t, server.Requests(), 5000, "nothing is fetched again")
}

// respawning keeps n worker processes alive until the job ends. wait waits for that.
func respawning(t *testing.T, r role, n int) (deaths *atomic.Int64, wait func()) {
	deaths = new(atomic.Int64)
	var keepers sync.WaitGroup
	for range n {
		keepers.Go(func() {
			for start(t, r).Wait() != nil {
				deaths.Add(1)
			}
		})
	}
	return deaths, keepers.Wait
}

// A request that ends whoever performs it: it fails, and no other does.
func TestPoison(t *testing.T) {
	server := fetchtest.NewServer(t)
	job := jetstream.Job{Name: jobName(t), Address: listening(t)}
	deaths, wait := respawning(t, role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 2}, 2)
	// The queue is full most of the time.
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 20, AckWait: 200 * time.Millisecond, MaxBytes: 4 << 10}}
	got := make(map[int]int)
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for i := range 100 {
			r := fetch.Request{URL: server.Ping(i)}
			if i == 33 {
				r.Header = poison
			}
			if !yield(r) {
				return
			}
		}
	}) {
		got[r.Request.Index]++
		if r.Request.Index == 33 {
			assert.Equal(t, fetch.ErrLost, fetch.KindOf(r.Err))
			assert.ErrorContains(t, r.Err, "/ping: lost: workers that ended, or were silent, with this request: 3")
			assert.Equal(t, 3, r.Attempts)
		} else {
			assert.True(t, r.OK(), "%d: %v", r.Request.Index, r.Err)
		}
	}
	wait()
	assert.Len(t, got, 100)
	for i, n := range got {
		assert.Equal(t, 1, n, "results for %d", i)
	}
	assert.LessOrEqual(t, deaths.Load(), int64(2+4+3), "twice for 20 requests, once for 10, 5, 3 and 2, and three times for the one")
}

// Requests that must not be repeated are not, when a worker ends that may have sent them.
func TestPoisonPost(t *testing.T) {
	server := fetchtest.NewServer(t)
	job := jetstream.Job{Name: jobName(t), Address: listening(t)}
	_, wait := respawning(t, role{Role: "worker", Name: job.Name, Address: job.Address, Pool: 2}, 1)
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 10, AckWait: 200 * time.Millisecond}}
	refused := 0
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for i := range 10 {
			r := fetch.Request{Method: []string{"GET", "POST"}[i%2], URL: server.Ping(i)}
			if i == 7 {
				r.Header = poison
			}
			if !yield(r) {
				return
			}
		}
	}) {
		if r.Request.Method == "POST" {
			refused++
			assert.Equal(t, fetch.ErrLost, fetch.KindOf(r.Err))
			assert.ErrorContains(t, r.Err, "it may have been sent, so it is not repeated")
		} else {
			assert.True(t, r.OK(), "%v", r.Err)
		}
	}
	wait()
	assert.Equal(t, 5, refused)
	// Those before the poison were sent once, and the GETs with their second worker again.
	assert.LessOrEqual(t, server.Requests(), 7+2+5)
}
