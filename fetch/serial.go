package fetch

import (
	"context"
	"iter"
)

// Serial fetches one URL at a time, on the caller's goroutine. It is the baseline,
// and the right choice for a few URLs or a server that must not be pressed.
type Serial struct{}

// Run implements [Strategy].
func (Serial) Run(ctx context.Context, d Doer, reqs iter.Seq[*Request]) iter.Seq[Result] {
	return func(yield func(Result) bool) {
		if ctx.Err() != nil {
			return
		}
		for r := range reqs {
			if r != nil && !yield(do(ctx, d, r)) || ctx.Err() != nil {
				return
			}
		}
	}
}

// Bounds implements [Bounded].
func (Serial) Bounds() (inFlight, ahead int) { return 1, 1 }

func (Serial) String() string { return "serial" }

// GobEncode implements [encoding/gob.GobEncoder]: gob has no form for a type without fields.
func (Serial) GobEncode() ([]byte, error) { return nil, nil }

// GobDecode implements [encoding/gob.GobDecoder].
func (*Serial) GobDecode([]byte) error { return nil }
