package jetstream

import (
	"time"

	"fetchbench/fetch"
)

// BeforeAck has f called when a shard's results are at the broker, and the shard is not acknowledged.
func BeforeAck(f func(id string)) { beforeAck = f }

// ShardID returns the id of the shard of reqs that is the first but number.
func ShardID(number int, reqs ...*fetch.Request) string { return shardID(0, number, encodeShard(reqs)) }

// SetSignOfLife sets how long the broker waits for a sign of life of a worker that has a shard, and returns what it was.
func SetSignOfLife(d time.Duration) (was time.Duration) {
	was, signOfLife = signOfLife, d
	return was
}
