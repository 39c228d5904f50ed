//go:build unix

package fetch_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

func init() {
	programs["pipelines in a child"] = func() {
		fetch.ShardMain(&fetch.Client{})
		f := fetch.Fetcher{Strategy: fetch.Shard{Processes: 1, Each: fetch.Pipeline{Limit: 16, Depth: 8}}}
		f.Trace = func(e fetch.Event) {
			if e.Kind == fetch.EventPipelineOff {
				fmt.Println("off", e.Host, e.Shard, fetch.KindOf(e.Err))
			}
		}
		for r := range f.Fetch(context.Background(), func(yield func(fetch.Request) bool) {
			for i := range 100 {
				if !yield(fetch.Request{URL: fmt.Sprint(os.Getenv("URL"), "/", i)}) {
					return
				}
			}
		}) {
			fmt.Println("result", r.Request.Index, string(r.Body), r.FirstByte > 0, r.Err)
		}
	}
}

// A Client in a child of a Shard writes requests together, too; and what is told of it crosses over.
func TestClientPipelineInShard(t *testing.T) {
	var w windowLog
	url, _ := rawServer(t, w.inWindows(func(conn io.Writer, path string, i, n int) bool {
		return (n == 1 || !strings.HasSuffix(path, "7")) && echoPath(conn, path, i, n)
	}))
	cmd := program(t.Context(), "pipelines in a child")
	cmd.Env = append(cmd.Env, "URL="+url)
	out, _ := output(t, cmd)
	var results, off int
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		switch line := s.Text(); {
		case strings.HasPrefix(line, "result "):
			var i int
			fmt.Sscan(line[len("result "):], &i)
			assert.Equal(t, fmt.Sprintf("result %d /%d true <nil>", i, i), line)
			results++
		case strings.HasPrefix(line, "off "):
			assert.Equal(t, fmt.Sprintf("off %s 0 connection reset", url), line)
			off++
		}
	}
	assert.Equal(t, 100, results)
	assert.Positive(t, off)
	assert.Greater(t, slices.Max(w.take()), 1, "requests in one write")
}
