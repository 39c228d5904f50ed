//go:build unix

package jetstream_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
	"fetchbench/fetch/jetstream"
)

// Somebody deletes what is the job's at the broker, or the disk is gone, in the midst of it: what is lost is done again.

// ask sends a request to the broker of job, and returns the answer.
func ask(t *testing.T, job jetstream.Job, subject string) []byte {
	nc, err := nats.Connect(job.Address)
	if !assert.NoError(t, err) {
		return nil
	}
	defer nc.Close()
	m, err := nc.Request(subject, nil, 5*time.Second)
	if !assert.NoError(t, err) {
		return nil
	}
	return m.Data
}

// bodies is a Doer whose answers take some time and have bodies of so many bytes.
func bodies(d time.Duration, size int) fetch.Doer {
	body := make([]byte, size)
	return fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		select {
		case <-ctx.Done():
			return fetch.Result{Err: fetch.NewError(ctx, r, ctx.Err()), Attempts: 1}
		case <-time.After(d):
			return fetch.Result{Status: 200, Body: body, Attempts: 1}
		}
	})
}

func workingBy(t *testing.T, job jetstream.Job, doer fetch.Doer) (leave func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		_ = jetstream.Work(ctx, jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Strategy: fetch.Pool{Workers: 10}, Doer: doer}, Wait: -1})
	})
	leave = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(leave)
	return leave
}

// The summaries are in the publisher's hands, and the chunks that they are of are gone.
func TestChunksLost(t *testing.T) {
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprintf("disk=%v", disk), func(t *testing.T) {
			broker := startBroker(t)
			job := jetstream.Job{Name: jobName(t), Address: broker.address()}
			workingBy(t, job, bodies(time.Millisecond, 300<<10))
			f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 10, AckWait: 2 * time.Second, Ahead: 20}}
			complete(t, after(f.Fetch(t.Context(), numbered("http://h.test", 400)), 50, func() {
				time.Sleep(500 * time.Millisecond) // a slow loop
				if disk {
					broker.crash(t, true)
				} else {
					ask(t, job, "$JS.API.STREAM.DELETE.fetch-"+job.Name+"-results")
				}
			}), 400)
		})
	}
}

// The queue is full, and what would empty it is gone.
func TestFullQueueAndLost(t *testing.T) {
	for name, subject := range map[string]string{
		"consumer": "$JS.API.CONSUMER.DELETE.fetch-consumer-work.p0",
		"results":  "$JS.API.STREAM.DELETE.fetch-results-results",
		"work":     "$JS.API.STREAM.DELETE.fetch-work-work",
	} {
		t.Run(name, func(t *testing.T) {
			job := jetstream.Job{Name: name, Address: listening(t)}
			workingBy(t, job, bodies(10*time.Millisecond, 10))
			f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 10, AckWait: 2 * time.Second, MaxBytes: 4 << 10}}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			complete(t, after(f.Fetch(ctx, numbered("http://h.test", 1000)), 200, func() { ask(t, job, subject) }), 1000)
		})
	}
}

// queued returns the numbers of the first and the last message of the work stream.
func queued(t *testing.T, job jetstream.Job) (first, last uint64) {
	var info struct {
		State struct {
			First uint64 `json:"first_seq"`
			Last  uint64 `json:"last_seq"`
		}
	}
	assert.NoError(t, json.Unmarshal(ask(t, job, "$JS.API.STREAM.INFO.fetch-"+job.Name+"-work"), &info))
	return info.State.First, info.State.Last
}

// With the results the marks are lost that tell which POSTs may have been sent: none is sent twice all the same.
func TestMarksLost(t *testing.T) {
	job := jetstream.Job{Name: jobName(t), Address: listening(t)}
	var mu sync.Mutex
	sent := make(map[string]int)
	enough := make(chan struct{})
	slow := bodies(200*time.Millisecond, 1)
	doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		mu.Lock()
		sent[r.URL]++
		if len(sent) == 20 {
			close(enough)
		}
		mu.Unlock()
		return slow.Do(ctx, r)
	})
	leave := workingBy(t, job, doer)
	left := make(chan struct{})
	go func() {
		defer close(left)
		<-enough
		_, last := queued(t, job)
		ask(t, job, "$JS.API.STREAM.DELETE.fetch-"+job.Name+"-results")
		assert.Eventually(t, func() bool { first, _ := queued(t, job); return first > last }, 10*time.Second, 10*time.Millisecond, "all shards are sent anew")
		leave()
		workingBy(t, job, doer)
	}()
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 40, AckWait: 2 * time.Second}}
	got := make(map[int]bool)
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		for i := range 200 {
			if !yield(fetch.Request{Method: "POST", URL: fmt.Sprintf("http://h.test/%d", i)}) {
				return
			}
		}
	}) {
		got[r.Request.Index] = true
		if r.Err != nil {
			assert.ErrorContains(t, r.Err, "it may have been sent, so it is not repeated")
		}
	}
	<-left
	assert.Len(t, got, 200)
	for url, n := range sent {
		assert.Equal(t, 1, n, url)
	}
}
