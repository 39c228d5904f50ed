// Package fetch gets very many URLs by a strategy that you choose.
//
//	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 64}}
//	for r := range f.Get(ctx, urls...) {
//		if !r.OK() {
//			log.Printf("%s: status %d, error %v", r.Request.URL, r.Status, r.Err)
//		}
//	}
//
// # The model
//
// A [Request] is one URL to fetch; any iter.Seq of them is an input, so it may be
// without end. A [Result] is the outcome of one Request: there is exactly one for each
// that was taken from the input. A [Strategy] decides how many requests are under way at
// once, and what carries them. A [Doer] performs one request: [Client] is one, over
// net/http, and so is whatever wraps another Doer. A [Fetcher] puts them together.
//
// A request is under way, or in flight, while a Doer performs it. It is ahead while it has been
// taken from the input, and the caller's loop has not received its result. Service time is
// what one attempt takes, waiting for a worker excluded.
//
// # Choosing a strategy
//
// Costs are those of the strategy alone, in time and allocations per URL; the
// benchmark Overhead shows them on your machine.
//
//   - [Serial]: one at a time. For a few URLs, or a server that must not be pressed.
//   - [Pool]: a fixed set of goroutines. The default, and the cheapest of those
//     that wait for several URLs at once: 0.3 µs, 1 allocation.
//   - [Semaphore]: a goroutine for each URL. For a limit far above what is mostly
//     needed, since idle workers cost nothing: 0.5 to 0.7 µs, 4 allocations.
//   - [Batch]: so many URLs, all finished before the next begin. For checkpoints. It costs
//     what Pool does, and waits for the slowest URL of each batch.
//   - [Shard]: child processes of this program, each with one of the others. For what one
//     process cannot do well, and for Doers that crash. It costs 2 µs, 3 allocations, and the children's memory.
//   - [Threads]: an operating system thread for each URL. For Doers that need a thread of their own
//     (cgo libraries with state in it); else it shows what that costs: some 40 µs.
//
// # Choosing an engine
//
// [Client] is the default, over net/http: HTTP/1.1, HTTP/2 and proxies. Package
// [fetchbench/fetch/wire] has one that speaks HTTP/1.1 alone, for less than a half of the processor time, and that
// can put several requests into one write.
//
// # Servers that fail, or are not to be trusted
//
// A [Doer] may wrap another one: [Retry] tries again what may succeed then, [PerHost] is polite
// to each host and quick to give up on a dead one, [Rate] bounds the requests a second. Requests
// that only wait there leave their places to others, if the strategy has a way for that.
//
// [Client] bounds what a server can make it do, and keeps what the caller sends to one origin
// from others. For URLs that strangers choose, set [Client].Allow to [PublicOnly]. SECURITY.md,
// in the module's root, is the whole list.
//
// # Promises
//
// The contract is the numbered list in the comment of [Strategy]. What it comes to: nothing is lost
// and nothing comes twice; memory does not grow with the number of URLs; the limit
// holds; when the loop ends, by whatever, nothing runs on; and the loop's body and the input share
// one goroutine, the caller's, so neither needs a lock.
//
// A result's status is not an error: ask [Result.OK]. An error has a [Kind], and its text shows
// no password, query string or header value.
package fetch
