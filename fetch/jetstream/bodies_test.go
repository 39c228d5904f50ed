package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/jetstream"
)

// storeFunc is a Store whose Put may do something before.
type storeFunc struct {
	jetstream.Store
	put func(ctx context.Context, name string) error
}

func (s storeFunc) Put(ctx context.Context, name string, data []byte) error {
	if err := s.put(ctx, name); err != nil {
		return err
	}
	return s.Store.Put(ctx, name, data)
}

// Bodies that are larger than a message may be, or are put elsewhere by the worker, are whole when the loop has
// them; and a Store that is slow or fails costs no more than the results whose bodies it has.
func TestLargeBodies(t *testing.T) {
	const size = 300 << 10 // a shard of 10 has three messages' worth
	body := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, size) }
	doer := fetch.DoerFunc(func(_ context.Context, r *fetch.Request) fetch.Result {
		return fetch.Result{Status: 200, Body: body(r.Index), Attempts: 1}
	})
	var tries sync.Map
	for name, c := range map[string]struct {
		workers, publishers func(jetstream.Store) jetstream.Store
		fails               func(i int) bool
		text                string
	}{
		"no store": {},
		"a store":  {workers: same, publishers: same},
		"a slow store": {workers: func(s jetstream.Store) jetstream.Store {
			return storeFunc{s, func(ctx context.Context, _ string) error {
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond): // a shard takes longer than AckWait
				}
				return ctx.Err()
			}}
		}, publishers: same},
		"a store that fails now and then": {workers: func(s jetstream.Store) jetstream.Store {
			return storeFunc{s, func(_ context.Context, name string) error {
				if _, again := tries.LoadOrStore(name, true); !again {
					return errors.New("try again")
				}
				return nil
			}}
		}, publishers: same},
		"a store that fails": {workers: func(s jetstream.Store) jetstream.Store {
			return storeFunc{s, func(_ context.Context, name string) error {
				if strings.HasPrefix(filepath.Base(name), "7-") {
					return errors.New("no room")
				}
				return nil
			}}
		}, publishers: same, fails: func(i int) bool { return i%10 == 7 }, text: "could not be put into Worker.Bodies: no room"},
		"a store of the workers alone": {workers: same, fails: func(int) bool { return true }, text: "and Strategy.Bodies is nil"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := jetstream.Dir(t.TempDir())
			job := jetstream.Job{Name: "large", Address: listening(t)}
			w := jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Doer: doer}}
			s := jetstream.Strategy{Job: job, ShardSize: 10, AckWait: 400 * time.Millisecond}
			if c.workers != nil {
				w.Bodies = c.workers(dir)
			}
			if c.publishers != nil {
				s.Bodies = c.publishers(dir)
			}
			ended := make(chan error)
			go func() { ended <- jetstream.Work(t.Context(), w) }()
			f := fetch.Fetcher{Strategy: s}
			got := 0
			for r := range f.Fetch(t.Context(), numbered("http://h.test", 40)) {
				got++
				if c.fails != nil && c.fails(r.Request.Index) {
					assert.Equal(t, fetch.ErrLost, fetch.KindOf(r.Err))
					assert.ErrorContains(t, r.Err, c.text)
					assert.Equal(t, 200, r.Status, "what else is known")
					continue
				}
				require.NoError(t, r.Err)
				assert.True(t, bytes.Equal(body(r.Request.Index), r.Body), "the body of %d", r.Request.Index)
			}
			assert.Equal(t, 40, got)
			require.NoError(t, <-ended)
		})
	}
}

func same(s jetstream.Store) jetstream.Store { return s }

func TestDir(t *testing.T) {
	d := jetstream.Dir(filepath.Join(t.TempDir(), "new"))
	_, err := d.Get(t.Context(), "a/b")
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, text := range []string{"one", "another", ""} {
		require.NoError(t, d.Put(t.Context(), "a/b", []byte(text)))
		data, err := d.Get(t.Context(), "a/b")
		require.NoError(t, err)
		assert.Equal(t, text, string(data))
	}
	files, err := os.ReadDir(filepath.Join(string(d), "a"))
	require.NoError(t, err)
	assert.Len(t, files, 1, "nothing else is left there")

	for _, name := range []string{"", ".", "..", "../a", "a/../../b", "/etc/passwd", "a//b", "a/"} {
		require.ErrorIs(t, d.Put(t.Context(), name, nil), fs.ErrInvalid, "%q", name)
		_, err := d.Get(t.Context(), name)
		require.ErrorIs(t, err, fs.ErrInvalid, "%q", name)
	}
	require.Error(t, d.Put(t.Context(), "a", nil), "a directory is there")
	require.Error(t, jetstream.Dir("").Put(t.Context(), "a", nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, d.Put(ctx, "a/b", nil), context.Canceled)

	// Several at once: one of them is there in the end, and whole.
	var putting sync.WaitGroup
	for i := range 8 {
		putting.Go(func() { assert.NoError(t, d.Put(t.Context(), "c", bytes.Repeat([]byte(fmt.Sprint(i)), 1<<16))) })
	}
	putting.Wait()
	data, err := d.Get(t.Context(), "c")
	require.NoError(t, err)
	assert.Equal(t, bytes.Repeat(data[:1], 1<<16), data)
}

// A worker that was thought dead and answers late does not replace the body of the answer that counts.
func TestLateBody(t *testing.T) {
	job := jetstream.Job{Name: "late", Address: listening(t)}
	dir := jetstream.Dir(t.TempDir())
	var calls atomic.Int64
	late, stored := make(chan struct{}), make(chan struct{}, 2)
	doer := fetch.DoerFunc(func(ctx context.Context, r *fetch.Request) fetch.Result {
		n := calls.Add(1)
		if n == 1 { // it is silent for longer than AckWait
			<-late
		}
		return fetch.Result{Status: 200 + int(n), Body: bytes.Repeat([]byte{byte('0' + n)}, 1000), Attempts: 1}
	})
	store := storeFunc{dir, func(context.Context, string) error {
		stored <- struct{}{}
		return nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	for range 2 {
		working.Go(func() {
			_ = jetstream.Work(ctx, jetstream.Worker{Job: job, Fetcher: fetch.Fetcher{Doer: doer}, Bodies: store, BodiesOver: 10, Wait: -1})
		})
	}
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 1, AckWait: 400 * time.Millisecond, Bodies: dir}}
	got := 0
	for r := range f.Fetch(t.Context(), func(yield func(fetch.Request) bool) {
		if !yield(fetch.Request{URL: "http://h.test/"}) {
			return
		}
		<-stored // by the second, while the loop is here
		require.Eventually(t, func() bool {
			p, err := jetstream.Status(t.Context(), job)
			return err == nil && p.Done == 1
		}, 5*time.Second, 10*time.Millisecond)
		close(late)
		<-stored // by the first
	}) {
		got++
		require.NoError(t, r.Err)
		assert.Equal(t, 202, r.Status)
		assert.Equal(t, bytes.Repeat([]byte{'2'}, 1000), r.Body)
	}
	assert.Equal(t, 1, got)
	cancel()
	working.Wait()
}

// A Store that panics, or ends its goroutine, makes errors of the results it has the bodies of.
func TestBadStores(t *testing.T) {
	doer := fetch.DoerFunc(func(context.Context, *fetch.Request) fetch.Result {
		return fetch.Result{Status: 200, Body: make([]byte, 100_000), Attempts: 1}
	})
	dir := jetstream.Dir(t.TempDir())
	for text, store := range map[string]jetstream.Store{
		"could not be put into Worker.Bodies: the Store panicked: odd": storeFunc{dir, func(context.Context, string) error { panic("odd") }},
		"its body: the Store called runtime.Goexit":                    gettingFunc{dir, func() { runtime.Goexit() }},
		"its body: the Store panicked: odd":                            gettingFunc{dir, func() { panic("odd") }},
	} {
		f := fetch.Fetcher{Strategy: jetstream.Strategy{Bodies: store}, Doer: doer}
		got := 0
		for r := range f.Fetch(t.Context(), numbered("http://h.test", 20)) {
			got++
			assert.ErrorContains(t, r.Err, text)
		}
		assert.Equal(t, 20, got)
	}
}

// gettingFunc is a Store whose Get does something else.
type gettingFunc struct {
	jetstream.Store
	get func()
}

func (s gettingFunc) Get(context.Context, string) ([]byte, error) {
	s.get()
	return nil, nil
}

// storeFuncs is a Store made of functions.
type storeFuncs struct {
	put func(ctx context.Context, name string, data []byte) error
	get func(ctx context.Context, name string) ([]byte, error)
}

func (s *storeFuncs) Put(ctx context.Context, name string, data []byte) error {
	return s.put(ctx, name, data)
}
func (s *storeFuncs) Get(ctx context.Context, name string) ([]byte, error) { return s.get(ctx, name) }
