package wire

import (
	"context"
	"testing"

	"fetchbench/fetch"
)

// Tracing is tracing, for tests from outside.
var Tracing = tracing

// tracing returns the context of a run whose Trace hands each EventPipelineOff to told.
func tracing(t *testing.T, told func(fetch.Event)) (ctx context.Context) {
	f := fetch.Fetcher{
		Strategy: fetch.Serial{},
		Doer: fetch.DoerFunc(func(inRun context.Context, _ *fetch.Request) fetch.Result {
			ctx = inRun
			return fetch.Result{Status: 200}
		}),
		Trace: func(e fetch.Event) {
			if e.Kind == fetch.EventPipelineOff {
				told(e)
			}
		},
	}
	for range f.Get(t.Context(), "http://host.test/") {
	}
	return ctx
}
