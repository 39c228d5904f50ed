package jetstream

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"time"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/rules"
)

// Strategy is a [fetch.Strategy] whose requests are performed by workers, to which a broker takes them. Its zero value
// is ready: a broker embedded in this process and one worker beside it. With an Address in its Job
// it uses the broker there, and its workers are the programs that call [Work] for the same Job.
//
// The results of a shard come together, when its slowest request is answered. With a ShardSize of 1 they come as they are
// ready, at the price of several messages for each URL. The last requests wait until a shard is full,
// or the input ends or pauses: so an input that blocks holds them up.
//
// When the loop has had all results, the job has ended, and its workers with it. If the loop ended before, or
// the process did, the same call with the same input goes on where it stopped: results that are there are handed
// out, and the rest is fetched. Only one process at a time may run a job; a second one gets errors.
//
// A result that is an error is a result: a job that is resumed does not try it again. Give the
// workers' Fetcher a [fetch.Retry], and what has failed in the end to a job of its own. The
// policies of the Fetcher that runs the job are for jobs without workers elsewhere; with its
// PerHost shards are small, and others each time, so that no job can be resumed.
//
// If the broker cannot be used, or is away for five minutes, the results are errors of kind
// [fetch.ErrLost] that are an [ErrJob], and the loop ends.
//
// A Strategy may be copied and compared, and used by several goroutines at once if each has a job
// of its own. A number that is negative, or too large, makes its methods panic. With an Address and
// no Workers Each is not used, and the Fetcher must not have a Doer.
type Strategy struct {
	// Job says which job this is, and where its broker is.
	Job Job
	// Each is the strategy of the workers in this process. nil means fetch.Pool{}.
	Each fetch.Strategy
	// Workers is how many workers there are in this process; they use the Fetcher's Doer. 0 means 1 if the broker is
	// embedded, and none if it has an Address.
	Workers int
	// ShardSize is how many requests make a shard, at most 1 048 576. Large ones make it smaller: it takes no more than 512 KiB of
	// them. A job that is resumed without a Manifest has to have the ShardSize that it began with. 0 means 1000.
	ShardSize int
	// Ahead is how many shards are taken from the input, at the most, ahead of the results that the loop has had. No
	// more of them can be at work in all workers together, and memory grows with it. 0 means 64.
	Ahead int
	// Total is how many requests the input has, about, for [Status] to tell how many shards are left before the input has been
	// read to its end. 0 means that this is not known.
	Total int
	// Partitions, if not 0, divides the hosts into so many groups. A shard has requests of one group only, and only one
	// shard of a group is at work at a time. So the requests of a host are all with one worker at a time, and the limits
	// of a [fetch.PerHost] there hold for all workers together. It also bounds how many workers are busy. At most 256. A job
	// that is resumed has to have the number that it began with.
	Partitions int
	// AckWait is how long a worker may go without an answer to any request of a shard that it has
	// begun, before the shard goes to another. It has to be longer than a worker may take for two
	// requests, with retries and what its PerHost has them wait. A worker that is gone altogether
	// is noticed after 15 s, or AckWait if that is less, and after up to four times that by a shard
	// that has gone from worker to worker before. 0 means two minutes.
	AckWait time.Duration
	// MaxBytes is how much may wait in the queue at the broker, in bytes; if it is full, the input waits. 0 means 1 GiB.
	MaxBytes int64
	// Bodies is where the bodies are that workers have put into their [Worker.Bodies], which has to
	// be the same place. The workers in this process put theirs there, too. nil means that all
	// bodies come with the results; one that a worker has put elsewhere is a [StoredError] then.
	Bodies Store
	// BodiesOver is the size in bytes of the largest body that comes with the results, for the workers in this process. 0
	// means 64 KiB.
	BodiesOver int
}

const maxPartitions = 256 // each is a consumer at the broker, and in a cluster a group of replicas

// defaults returns s with defaults in place of zeros.
func (s Strategy) defaults() Strategy {
	if s.Workers == 0 && s.Job.Address == "" {
		s.Workers = 1
	}
	s.Workers = number("Workers", s.Workers, 0, 1024)
	s.ShardSize = number("ShardSize", s.ShardSize, 1000, 1<<20)
	s.Ahead = number("Ahead", s.Ahead, 64, 1<<20)
	s.Total = number("Total", s.Total, 0, math.MaxInt)
	s.Partitions = number("Partitions", s.Partitions, 0, maxPartitions)
	s.AckWait = number("AckWait", s.AckWait, 2*time.Minute, 24*time.Hour)
	s.MaxBytes = number("MaxBytes", s.MaxBytes, 1<<30, 1<<60)
	s.BodiesOver = number("BodiesOver", s.BodiesOver, 64<<10, 1<<40)
	number("Ahead times ShardSize", s.Ahead*s.ShardSize, 0, 1<<30)
	if s.Each == nil {
		s.Each = fetch.Pool{}
	}
	s.Each.Limits() // which panics if a field of it is no good
	return s
}

// number returns the value of a field, or its default if that is zero.
func number[N ~int | ~int64](field string, value, zero, most N) N {
	if value < 0 {
		panic(fmt.Sprintf("jetstream: Strategy.%s is %v", field, value))
	}
	if value > most {
		panic(fmt.Sprintf("jetstream: Strategy.%s is %v: at most %v", field, value, most))
	}
	if value == 0 {
		return zero
	}
	return value
}

// Limits implements [fetch.Strategy]. How many requests workers elsewhere have under way it cannot
// know, but that they are no more than what may be ahead.
func (s Strategy) Limits() fetch.Limits {
	s = s.defaults()
	ahead := s.Ahead * s.ShardSize
	inFlight := s.Workers * s.Each.Limits().InFlight
	if s.Job.Address != "" {
		inFlight = ahead
	}
	return fetch.Limits{InFlight: min(inFlight, ahead), Ahead: ahead}
}

func (s Strategy) String() string {
	s = s.defaults()
	if s.Job.Address != "" {
		return fmt.Sprintf("jetstream(%s,%d)", s.Job.Name, s.ShardSize)
	}
	return fmt.Sprintf("jetstream(%d,%v,%d)", s.Workers, s.Each, s.ShardSize)
}

// Start implements [fetch.Strategy].
func (s Strategy) Start(ctx context.Context, d fetch.Doer) fetch.Executor {
	return newRun(ctx, s.defaults(), d)
}

// Remote implements [fetch.RemoteStrategy]: a Fetcher may have a Doer if there are workers in this
// process.
func (s Strategy) Remote() string {
	if s = s.defaults(); s.Workers == 0 {
		return "give it to the Worker.Fetcher of the programs that call jetstream.Work"
	}
	if r, ok := s.Each.(fetch.RemoteStrategy); ok {
		return r.Remote()
	}
	return ""
}

// partition returns which of n partitions the host of url belongs to: the host that a [fetch.PerHost] knows it by.
func partition(url string, n int) int {
	if n < 2 {
		return 0
	}
	host := rules.HostOf(url)
	h := fnv.New32a()
	h.Write([]byte(host.Name + ":" + host.Port))
	return int(h.Sum32() % uint32(n))
}
