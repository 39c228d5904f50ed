package peers

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

var rounds = flag.Int("rounds", 1, "run all that is asked for `n` times over, and sum the turns of BenchmarkPeers up if n > 1")

// TestMain runs everything in rounds: what a machine's neighbours do changes within seconds,
// so clients are compared with those that had their turn in the same round.
func TestMain(m *testing.M) {
	playRole()
	leaks := []goleak.Option{
		goleak.IgnoreCurrent(), // ants starts a pool of its own with the program
		// It sleeps for the client's MaxIdleConnDuration, and ends if no connection is left then.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*Client).mCleaner"),
		// It cleans the names that fasthttp's dialer has looked up, as long as the program runs.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*TCPDialer).tcpAddrsClean"),
	}
	flag.Parse()
	if *rounds < 1 {
		fmt.Fprintf(os.Stderr, "peers: -rounds is %d\n", *rounds)
		os.Exit(2)
	}
	if flag.Lookup("test.bench").Value.String() != "" {
		// For benchstat: which way is better.
		fmt.Println("Unit cpu-ns/op better=lower")
		fmt.Println("Unit urls/s better=higher")
		fmt.Println("Unit peak-files better=lower")
		fmt.Println("Unit peak-MB better=lower")
	}
	var results []round
	for range *rounds {
		current = round{}
		if code := m.Run(); code != 0 {
			os.Exit(code)
		}
		results = append(results, current)
	}
	if err := goleak.Find(leaks...); err != nil {
		fmt.Fprintf(os.Stderr, "peers: %v\n", err)
		os.Exit(1)
	}
	if *rounds > 1 && len(current) > 0 {
		fmt.Print(summary(results))
	}
}
