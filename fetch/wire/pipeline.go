package wire

import (
	"context"

	"fetchbench/fetch"
)

// DoBatch implements [fetch.BatchDoer].
func (c *Client) DoBatch(ctx context.Context, reqs []*fetch.Request, yield func(fetch.Result)) {
	for _, r := range reqs {
		yield(c.Do(ctx, r))
	}
}
