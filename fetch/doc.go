// Package fetch fetches large numbers of URLs with the concurrency strategy you choose.
//
//	f := fetch.Fetcher{Strategy: fetch.Pool{Workers: 64}}
//	for r := range f.Get(ctx, urls...) {
//		if err := r.Failure(); err != nil {
//			log.Print(err)
//		}
//	}
//
// # The model
//
// A [Request] is one URL to fetch. The input is an iter.Seq of them, which may be endless, a
// channel ([Fetcher.Stream]), or a [Queue] that the loop's body adds to. A [Result] is the outcome
// of one Request: there is exactly one for each that was taken from the input. A [Doer] performs
// one request: [Client] is the default. A [Strategy] decides how many requests are under way
// at once, and what carries them. A [Fetcher] owns the loop that puts them together, and its
// policies: [Retry], [PerHost] and a rate.
//
// A request is taken from the input; waiting, because a policy says not yet; out, submitted to the
// strategy and without a result; held, for the order; and handed out to the caller's loop. It is
// under way, or in flight, while a Doer performs it. Service time is what one attempt takes,
// waiting excluded.
//
// # Choosing a strategy
//
// Costs are those of the loop and the strategy alone, in time and allocations per URL; the
// benchmark Overhead shows them on your machine.
//
//   - [Serial]: one at a time. For a few URLs, or a server that must not be pressed: 0.2 µs.
//   - [Pool]: a fixed set of goroutines. The default, and the cheapest of those that wait for several
//     URLs at once: 0.3 to 0.6 µs, 1 allocation.
//   - [Semaphore]: a goroutine for each URL. For a limit far above what is mostly needed, since idle
//     workers cost nothing: 0.5 to 0.9 µs, 3 allocations.
//   - [Batch]: so many URLs, all finished before the next begin. For checkpoints. It costs what its
//     strategy does, and waits for the slowest URL of each batch.
//   - [Pipeline]: several requests in one write, with an engine that can, such as [Client]. For many
//     small responses of hosts that are fast and trusted: 0.3 to 0.6 µs, and a part of the engine's
//     cost.
//   - [Shard]: child processes of this program, each with one of the others. For what one process
//     cannot do well, and for Doers that crash: 2 µs, and the children's memory.
//   - [Threads]: an operating system thread for each URL. For Doers that need a thread of their own
//     (cgo libraries with state in it); else it shows what that costs: 30 to 40 µs.
//
// # Choosing an engine
//
// [Client] is the engine: HTTP/1.1 with TLS and proxies, on connections that the asking goroutine
// owns, and the one that can pipeline. [HTTPClient] is for programs that have an [http.Client], or
// need HTTP/2. The other way round, [Client.RoundTripper] puts the engine under an http.Client.
//
// # Servers that fail, or are not to be trusted
//
// Retries are for what may succeed then, within a budget. PerHost is polite to each host, and holds
// the requests of one that is down until it is back. Both, and the rate, are asked by the loop:
// with every strategy, and for all processes of a Shard together. A request that waits for one of
// them takes no place from another that could start.
//
// Client bounds what a server can make it do, and keeps what the caller sends to one origin from
// others. For URLs that strangers choose, set its AllowAddr to [PublicOnly]. SECURITY.md, in the
// module's root, is the whole list.
//
// # Promises
//
// The contract is the numbered list in the comment of [Fetcher]. In short: nothing is lost and nothing
// comes twice; memory does not grow with the number of URLs; the limit holds; nothing is left running
// when the loop ends; and the loop's body and the input share one goroutine, the caller's.
//
// A status is not an error: ask [Result.OK] or [Result.Failure]. An error has a [Kind], and its
// text shows no password, query string or header value.
package fetch
