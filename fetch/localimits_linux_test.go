package fetch_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

func init() {
	programs["few files for connections"] = func() {
		const few = 40
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: few, Max: few}); err != nil {
			panic(err)
		}
		urls := slices.Repeat(strings.Fields(os.Getenv("URLS")), 200)
		f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 200}}
		ok, err := 0, error(nil)
		for r := range f.Get(context.Background(), urls...) {
			if r.OK() {
				ok++
			}
			err = cmp.Or(err, r.Err)
		}
		fmt.Println(ok, "of", len(urls), err)
	}
}

// More requests at once than files: those that find none wait for others to be done, on one
// host and on several, whose idle connections are in the way.
func TestClientWithFewFiles(t *testing.T) {
	for name, n := range map[string]int{"one host": 1, "ten hosts": 10} {
		t.Run(name, func(t *testing.T) {
			var urls []string
			for range n {
				urls = append(urls, fetchtest.NewServer(t, fetchtest.Latency(2*time.Millisecond)).Ping(0))
			}
			cmd := program(t.Context(), "few files for connections")
			cmd.Env = append(cmd.Env, "URLS="+strings.Join(urls, " "))
			out, _ := output(t, cmd)
			assert.Equal(t, fmt.Sprintf("printed by init\n%d of %d <nil>\n", 200*n, 200*n), out)
		})
	}
}
