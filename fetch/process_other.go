//go:build !unix

package fetch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
)

type process struct {
	pid     int
	in, out *os.File
	wait    func() error
}

// startProcess returns an error: where there is no Unix, a child cannot be given pipes
// of its own beside stdin and stdout, which whatever it prints would disturb.
func startProcess(context.Context) (*process, error) {
	return nil, fmt.Errorf("no child process: Shard on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func shardPipes() (in, out *os.File, ok bool) { return nil, nil, false }
