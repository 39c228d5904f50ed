package peers

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	neturl "net/url"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// BenchmarkHosts is GETs of a tiny JSON document that are spread over so many hosts, round robin,
// 64 at once: of each host in turn, 3 or more URLs. The hosts are addresses in 127.0.0.0/8, which
// only Linux has, of one server process. Each turn is a process of its own, which opens its
// connections in the timed part; every response is checked. One op is one URL.
//
// cpu-ns/op is the processor time of the client's process, peak-files the most files (connections
// are that) that it had open at once, and peak-MB the most memory that was resident, the program's
// own included.
func BenchmarkHosts(b *testing.B) {
	for _, hosts := range []int{1, 100, 10000} {
		order := rand.Perm(len(hostsClients))
		for _, i := range order {
			name := hostsClients[i].name
			b.Run(fmt.Sprintf("hosts=%d/client=%s", hosts, name), func(b *testing.B) {
				s := startServerAt(b, "0.0.0.0:0")
				turn := hostsTurn{Client: name, URL: s.url, Hosts: hosts, N: max(b.N, 3*hosts)}
				b.ResetTimer()
				bill := turn.start(b)
				b.StopTimer()
				if bill.Error != "" {
					b.Fatal(bill.Error)
				}
				if n := s.requests(b); n != turn.N {
					b.Fatalf("the server had %d requests of %d", n, turn.N)
				}
				c := perURL(turn.N, bill.CPU, bill.Wall)
				b.ReportMetric(1e9/c.rate, "ns/op")
				b.ReportMetric(c.rate, "urls/s")
				if c.cpu > 0 {
					b.ReportMetric(c.cpu, "cpu-ns/op")
				}
				b.ReportMetric(float64(bill.files), "peak-files")
				b.ReportMetric(float64(bill.memory)/1e6, "peak-MB")
			})
		}
	}
}

// hostsClients GET n URLs, limit at once.
var hostsClients = []struct {
	name string
	get  func(url target, n int) error
}{
	{"fetch", func(url target, n int) error {
		return fetchGets(&fetch.Fetcher{Strategy: fetch.Pool{Workers: limit}, Doer: &fetch.Client{}}, url, n)
	}},
	{"nethttp-tuned", func(url target, n int) error {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConns = 1000
		transport.MaxIdleConnsPerHost = limit
		return errgroupGets(&http.Client{Transport: transport}, url, n)
	}},
	{"fasthttp", func(url target, n int) error {
		return fasthttpGets(newFasthttp().Do, url, n, limit)
	}},
}

// hostsVariable is the turn of a process, in JSON.
const hostsVariable = "FETCHBENCH_PEERS_HOSTS"

func init() { roles[hostsVariable] = getHosts }

// A hostsTurn is N GETs of URL with its host replaced by Hosts others.
type hostsTurn struct {
	Client   string
	URL      string
	Hosts, N int
}

// A hostsBill is what a turn has cost.
type hostsBill struct {
	CPU, Wall time.Duration
	Error     string

	// What the process cannot count without a cost of its own.
	files  int
	memory int64 // bytes
}

// getHosts is the role of a client. It tells the bill, and keeps its connections.
func getHosts(value string) {
	var t hostsTurn
	err := json.Unmarshal([]byte(value), &t)
	var bill hostsBill
	if err == nil {
		bill, err = t.run()
	}
	if err != nil {
		bill.Error = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(bill)
}

func (t *hostsTurn) run() (bill hostsBill, err error) {
	url, err := spread127(t.URL, t.Hosts)
	if err != nil {
		return bill, err
	}
	for _, c := range hostsClients {
		if c.name == t.Client {
			start, cpu := time.Now(), fetchtest.CPUTime()
			err = c.get(url, t.N)
			bill.CPU, bill.Wall = fetchtest.CPUTime()-cpu, time.Since(start)
			return bill, err
		}
	}
	return bill, errors.New("no client " + t.Client)
}

// spread127 returns url at so many hosts, one after the other.
func spread127(url string, hosts int) (target, error) {
	u, err := neturl.Parse(url)
	if err != nil {
		return nil, err
	}
	urls := make([]string, hosts)
	for i := range urls {
		u.Host = fmt.Sprintf("127.1.%d.%d:%s", i/250, 1+i%250, u.Port())
		urls[i] = u.String()
	}
	return func(i int) string { return urls[i%hosts] }, nil
}

// start has a process take the turn, and returns what it tells, with what it needed meanwhile.
func (t *hostsTurn) start(tb testing.TB) (bill hostsBill) {
	tb.Helper()
	value, err := json.Marshal(t)
	require.NoError(tb, err)
	p := startProcess(tb, hostsVariable, string(value))
	peak := p.watchFiles()
	line, err := p.lines.ReadString('\n')
	files, filesErr := peak()
	require.NoError(tb, err)
	require.NoError(tb, filesErr)
	require.NoError(tb, json.Unmarshal([]byte(line), &bill))
	bill.files = files
	bill.memory, err = p.peakMemory()
	require.NoError(tb, err)
	return bill
}

// watchFiles begins to look, every 20 ms, how many files p has open. peak ends that with a last
// look, and returns the largest number.
func (p *process) watchFiles() (peak func() (int, error)) {
	most := 0
	look := func() error {
		dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		if err != nil {
			return err
		}
		defer dir.Close()
		names, err := dir.Readdirnames(-1)
		most = max(most, len(names))
		return err
	}
	var watching sync.WaitGroup
	done := make(chan struct{})
	watching.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				look() // if that fails, so does the last look
			case <-done:
				return
			}
		}
	})
	return func() (int, error) {
		close(done)
		watching.Wait()
		err := look()
		return most, err
	}
}

var highWater = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`)

// peakMemory returns the largest resident set that p has had, in bytes (proc_pid_status(5)).
func (p *process) peakMemory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	kilobytes, err := number(highWater, string(status))
	return int64(kilobytes) * 1024, err
}

// A turn is what its name says: as many GETs at as many hosts, each checked, and what they need is
// that process's.
func TestHosts(t *testing.T) {
	s := startServerAt(t, "0.0.0.0:0")
	for _, c := range hostsClients {
		t.Run(c.name, func(t *testing.T) {
			turn := hostsTurn{Client: c.name, URL: s.url, Hosts: 200, N: 2000}
			bill := turn.start(t)
			require.Empty(t, bill.Error)
			assert.Equal(t, 2000, s.requests(t))
			assert.Positive(t, bill.Wall)
			assert.Greater(t, bill.files, 200, "a connection to each host")
			assert.Less(t, bill.files, 400)
			assert.Greater(t, bill.memory, int64(5e6), "the program alone has that")
			assert.Less(t, bill.memory, int64(200e6))

			for _, how := range []string{"status", "body"} {
				turn.URL = s.wrong(how, 2000)
				assert.Contains(t, turn.start(t).Error, "an answer with status", "%s of the last request", how)
				s.requests(t)
			}
		})
	}
}

func TestSpread127(t *testing.T) {
	const hosts = 10000
	url, err := spread127("http://127.0.0.1:8080/ping?a=b", hosts)
	require.NoError(t, err)
	seen := map[netip.Addr]bool{}
	for i := range hosts {
		u, err := neturl.Parse(url(i))
		require.NoError(t, err)
		addr, err := netip.ParseAddr(u.Hostname())
		require.NoError(t, err)
		require.True(t, addr.IsLoopback(), "%s", addr)
		require.False(t, seen[addr], "%s", addr)
		seen[addr] = true
		require.Equal(t, "http://"+addr.String()+":8080/ping?a=b", url(i))
	}
	assert.Equal(t, url(0), url(hosts), "round robin")
	assert.Equal(t, url(hosts-1), url(2*hosts-1), strconv.Itoa(hosts))
}
