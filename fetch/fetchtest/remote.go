package fetchtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"

	"fetchbench/fetch"
)

// Remote is the [fetch.Doer] that [TestStrategy] and [TestFetcher] need where a
// [fetch.RemoteStrategy] has its requests performed, such as the child processes of a
// [fetch.Shard]: it lets the test's process say what becomes of each request. A Doer that does
// something else as well may hand to it those requests that it does not know.
//
//	func TestMain(m *testing.M) {
//		fetch.ShardMain(fetchtest.Remote)
//		os.Exit(m.Run())
//	}
var Remote = RemoteOver(&fetch.Client{Timeout: -1}) // how long a request takes is for the test to say

// RemoteOver is [Remote] with the engine d for the way to the test's process. So a
// [fetch.RemoteStrategy] that performs its requests by RemoteOver(d) is tested with d under it.
func RemoteOver(d fetch.Doer) fetch.Doer {
	return fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result { return doRemotely(ctx, d, r) })
}

// The header fields in which a request and a result cross.
const (
	indexField    = "Fetchtest-Index"
	attemptsField = "Fetchtest-Attempts"
	durationField = "Fetchtest-Duration"
	errorField    = "Fetchtest-Error"
	panicField    = "Fetchtest-Panic"
)

func doRemotely(ctx context.Context, d fetch.Doer, r *fetch.Request) fetch.Result {
	res := d.Do(ctx, &fetch.Request{
		URL:    r.URL,
		Header: http.Header{indexField: {strconv.Itoa(r.Index)}},
	})
	if res.Err != nil {
		return res
	}
	h := res.Header()
	if text := h.Get(panicField); text != "" {
		panicking(errors.New(text))
	}
	if text := h.Get(errorField); text != "" {
		res.Err = errors.New(text)
	}
	res.Attempts, _ = strconv.Atoi(h.Get(attemptsField))
	if ns, err := strconv.Atoi(h.Get(durationField)); err == nil {
		res.Duration = time.Duration(ns)
	}
	return res
}

// panicking is in the stack of each panic that the tests ask for.
func panicking(v any) { panic(v) }

// asked returns a server that performs, by d, the requests that Remote asks it about.
func asked(d fetch.Doer) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		h := w.Header()
		defer func() {
			if v := recover(); v != nil {
				h.Set(panicField, fmt.Sprint(v))
			}
		}()
		index, err := strconv.Atoi(hr.Header.Get(indexField))
		if err != nil {
			http.Error(w, "this is for fetchtest.Remote", http.StatusBadRequest)
			return
		}
		res := d.Do(hr.Context(), &fetch.Request{Index: index, URL: "http://host.test/ping"})
		h.Set(attemptsField, strconv.Itoa(res.Attempts))
		h.Set(durationField, strconv.Itoa(int(res.Duration)))
		if res.Err != nil {
			h.Set(errorField, res.Err.Error())
		}
		if res.Status != 0 {
			w.WriteHeader(res.Status)
		}
		w.Write(res.Body)
	}))
}
