// Package jetstream is the strategy for more than one machine. Its [Strategy] is a [fetch.Strategy] like the others, but
// workers perform the requests, in this process or on any number of machines, and a message broker, NATS JetStream,
// takes the requests to them and the results back.
//
// One machine is enough for longer than one thinks: tens of thousands of URLs a second, so a hundred million in an
// hour. Take [fetch.Pool] as long as that will do, and this when a list outgrows it: when it must
// go on although a machine is lost, or there are more URLs than one machine, or one address, can fetch in time.
//
// # Terms
//
// A job is the fetching of one input, and has a name. The publisher is the process whose loop
// ranges over the results: there is one for a job. A shard is some requests, 1000 by default, that
// travel in one message. (In package fetch a shard is a child process, which is something else.) A
// worker takes shards from the broker, fetches them with a [fetch.Fetcher] of its own, and sends
// the results of a whole shard at once, in a summary. The manifest is where the publisher writes
// down shards and summaries, if it is given one.
//
// # Where things are
//
//	Job{}                              the broker is in this process, its files in a directory that goes with the run
//	Job{Name: "crawl", Dir: "broker"}  the same, but what is in the directory stays, and the same call goes on with it
//	Job{Name: "crawl", Address: "nats://broker:4222"}
//	                                   a broker or a cluster of yours, and workers wherever somebody calls [Work]
//
// # What is promised
//
// Each request has exactly one result: the first summary of a shard that the broker accepts is the
// one, and the broker accepts no other. A URL is fetched at least once. It is fetched again if its
// worker is lost, or silent for [Strategy.AckWait], before its shard is answered: no more requests
// than there were redeliveries, times [Strategy.ShardSize]. What must not be repeated (a POST) is
// not: if its shard is delivered again it fails with [fetch.ErrLost]. A shard that has cost two
// workers is cut in two, and its halves in turn, until the request that kills workers stands alone;
// that one fails, after three, the last of which had nothing else to do, and the others are
// fetched.
//
// The truth is the manifest: what is to be done is what stands there without a summary. With a manifest a job can be resumed after
// anything, the loss of the broker's disk included; without one, as long as the broker has its files. To resume
// is to make the same call again, with the same input, in the same order. If the manifest sees that it is another, that is an
// [ErrJob]. An input with pauses, or Partitions, may make other shards the next time: with a manifest requests that must not be repeated
// fail then rather than being sent twice; without one, take neither for those.
//
// # The contract
//
// All that [fetch.Fetcher] promises holds if the broker is embedded and ShardSize is 1, and
// fetchtest.TestFetcher checks that. With larger shards a result waits for the slowest request of
// its shard. Across machines three rules are weaker, since they are about what a process cannot
// know of another: the limit is each worker's own (rule 3), and a worker elsewhere is told when the
// loop ends, or ctx does, and aborts what it is doing, but the loop does not wait for it (rules 4
// and 5).
//
// # At the broker
//
// A job has two streams, fetch-NAME-work and fetch-NAME-results, on file storage, and the subjects below fetch.NAME.
// When the loop has had all results, both are deleted; until then the results need room there. A user of the broker
// with restricted permissions has to be allowed to publish to fetch.NAME.>, $JS.API.> and $JS.ACK.>, and to subscribe to
// fetch.NAME.> and _INBOX.>. Whoever can write to these subjects can spoil results, and whoever can read them sees requests, with
// their credentials.
package jetstream
