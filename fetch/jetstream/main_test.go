package jetstream_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fetchbench/fetch"
	"fetchbench/fetch/jetstream"
)

// A role is what this program does in a process of its own, for the tests.
type role struct {
	Role            string // "broker", "worker", "publisher" or "alone"
	Port            int
	Dir             string
	Name            string
	Address         string
	URL             string // of the publisher's requests
	URLs, ShardSize int
	AckWait         time.Duration
	DieBeforeAck    bool
	Pool            int
	Poison          int // which request ends the process
}

const roleVariable = "JETSTREAM_TEST_ROLE"

func TestMain(m *testing.M) {
	if text := os.Getenv(roleVariable); text != "" {
		var r role
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			panic(err)
		}
		r.play()
		return
	}
	os.Setenv("GORACE", "atexit_sleep_ms=1 "+os.Getenv("GORACE")) // for the children
	goleak.VerifyTestMain(m)
}

func (r role) play() {
	go func() { // the parent holds the other end: this process does not outlive it
		bufio.NewReader(os.Stdin).ReadByte()
		os.Exit(1)
	}()
	job := jetstream.Job{Name: r.Name, Address: r.Address}
	switch r.Role {
	case "broker":
		s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: r.Port, JetStream: true, StoreDir: r.Dir, NoSigs: true, NoLog: true})
		if err != nil {
			panic(err)
		}
		s.Start()
		if !s.ReadyForConnections(10 * time.Second) {
			panic("not ready")
		}
		fmt.Println("ready")
		s.WaitForShutdown()
	case "worker":
		if r.DieBeforeAck {
			jetstream.BeforeAck(func(string) { dieNow() })
		}
		w := jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Strategy: fetch.Pool{Workers: r.Pool}, Doer: poisonable(&fetch.Client{})}, Wait: 20 * time.Second}
		if r.Dir != "" {
			w.Bodies, w.BodiesOver = jetstream.Dir(r.Dir), 1000
		}
		fmt.Println("ready")
		err := jetstream.Work(context.Background(), w)
		fmt.Println("ended:", err)
		if err == nil {
			memory()
		}
	case "alone":
		job.Dir = r.Dir
		f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: r.ShardSize, Each: fetch.Pool{Workers: 2}}, Doer: fetch.DoerFunc(
			func(ctx context.Context, req *fetch.Request) fetch.Result {
				if req.Index == r.Poison {
					dieNow()
				}
				return fetch.DefaultClient.Do(ctx, req)
			})}
		fmt.Println("ready")
		for res := range f.Fetch(context.Background(), numbered(r.URL, r.URLs)) {
			fmt.Println("result", res.Request.Index, res.Err)
		}
	case "publisher":
		f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: r.ShardSize, AckWait: r.AckWait}}
		fmt.Println("ready")
		for res := range f.Fetch(context.Background(), numbered(r.URL, r.URLs)) {
			fmt.Println("result", res.Request.Index, res.Err)
		}
	}
}

// memory tells the peak of the process's memory, and what is live at the end.
func memory() {
	var m runtime.MemStats
	debug.FreeOSMemory()
	runtime.ReadMemStats(&m)
	fmt.Println("live", m.HeapAlloc>>10, "peak", peakRSS(os.Getpid())>>10)
}

// poisonHeader marks a request that ends the process that performs it.
const poisonHeader = "Poison"

func poisonable(d fetch.Doer) fetch.Doer {
	return fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		if r.Header.Get(poisonHeader) != "" {
			dieNow()
		}
		return d.Do(ctx, r)
	})
}

var poison = http.Header{poisonHeader: {"yes"}}

// dieNow is kill -9.
func dieNow() {
	p, _ := os.FindProcess(os.Getpid())
	p.Kill()
	select {}
}

// A process is one that plays a role.
type process struct {
	*exec.Cmd
	lines chan string // what it prints
}

func start(t *testing.T, r role) *process {
	t.Helper()
	text, err := json.Marshal(r)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{Cmd: cmd, lines: make(chan string, 1<<14)}
	go func() {
		defer close(p.lines)
		for in := bufio.NewScanner(stdout); in.Scan(); {
			p.lines <- in.Text()
		}
	}()
	t.Cleanup(func() {
		p.Process.Kill()
		stdin.Close()
		for range p.lines {
		}
		p.Wait()
	})
	require.Equal(t, "ready", p.next(t), "a %s", r.Role)
	return p
}

// next returns the next line that p prints.
func (p *process) next(t *testing.T) string {
	t.Helper()
	select {
	case line, ok := <-p.lines:
		require.True(t, ok, "the process has ended")
		return line
	case <-time.After(20 * time.Second):
		require.Fail(t, "the process says nothing")
		return ""
	}
}

// freePort returns a port of this machine that nothing listens on. It is none of those that connections are given, so that none
// takes it while a broker is started again.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 10_000 + rand.IntN(20_000)
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	require.Fail(t, "no free port")
	return 0
}

// listening starts a broker in this process that others can reach, and returns its address.
func listening(t *testing.T, options ...func(*server.Options)) string {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true}
	for _, option := range options {
		option(o)
	}
	s, err := server.NewServer(o)
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	require.True(t, s.ReadyForConnections(10*time.Second))
	return s.ClientURL()
}

// numbered yields n GET requests of url with ?i= and their number.
func numbered(url string, n int) func(yield func(fetch.Request) bool) {
	return func(yield func(fetch.Request) bool) {
		for i := range n {
			if !yield(fetch.Request{URL: fmt.Sprintf("%s/ping?i=%d", url, i)}) {
				return
			}
		}
	}
}

// jobName makes a job's name of a test's.
func jobName(t *testing.T) string { return strings.ReplaceAll(filepath.Base(t.Name()), "=", "-") }
