package fetchtest_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
)

// client returns a client whose connections end with the test.
func client(t *testing.T) *http.Client {
	transport := fetch.NewTransport()
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestServerAnswers(t *testing.T) {
	s := fetchtest.NewServer(t)
	c := client(t)
	for _, test := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"GET", "/ping", "", 200, `{"message":"pong"}`},
		{"GET", "/ping?i=7", "", 200, `{"message":"pong"}`},
		{"HEAD", "/ping", "", 200, ""},
		{"POST", "/ping", "{}", 405, `{"error":"method not allowed"}`},
		{"POST", "/echo", `{"a": [1, "ü", null]}`, 200, `{"a":[1,"ü",null]}`},
		{"POST", "/echo", `{"a": `, 400, `{"error":"unexpected end of JSON input"}`},
		{"POST", "/echo", ``, 400, `{"error":"unexpected end of JSON input"}`},
		{"GET", "/echo", "", 405, `{"error":"method not allowed"}`},
		{"GET", "/", "", 404, `{"error":"not found"}`},
	} {
		t.Run(test.method+test.path, func(t *testing.T) {
			req, err := http.NewRequest(test.method, s.URL+test.path, strings.NewReader(test.body))
			require.NoError(t, err)
			resp, err := c.Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			assert.Equal(t, test.status, resp.StatusCode)
			assert.Equal(t, test.answer, string(body))
			assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
		})
	}
	assert.Equal(t, 9, s.Requests())
	assert.Equal(t, 1, s.Conns())
	assert.Equal(t, 1, s.PeakInFlight())
	assert.Zero(t, s.Dropped())
}

// The fate of a URL is what happens, every time, and another seed's is another.
func TestServerFate(t *testing.T) {
	options := []fetchtest.Option{fetchtest.FailStatus(0.3, 503), fetchtest.Drop(0.2), fetchtest.Jitter(time.Millisecond), fetchtest.Seed(7)}
	s, same := fetchtest.NewServer(t, options...), fetchtest.NewServer(t, options...)
	other := fetchtest.NewServer(t, append(options, fetchtest.Seed(8))...)
	c := client(t)
	const n = 200
	dropped, differ := 0, 0
	for i := range n {
		fate := s.Fate(s.Ping(i))
		require.Equal(t, fate, same.Fate(same.Ping(i)), "it depends on the path and the seed alone")
		if fate != other.Fate(other.Ping(i)) {
			differ++
		}
		require.Less(t, fate.Latency, time.Millisecond)
		resp, err := c.Get(s.Ping(i))
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if fate.Dropped {
			dropped++
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		} else {
			require.NoError(t, err)
			require.Equal(t, fate.Status, resp.StatusCode)
		}
	}
	assert.Equal(t, n, s.Requests())
	assert.Equal(t, dropped, s.Dropped())
	assert.Greater(t, differ, n/2, "fates that another seed changes")

	// The shares are kept: of 10 000, five standard deviations.
	failed := 0
	dropped = 0
	for i := range 10_000 {
		switch fate := s.Fate(s.Ping(i)); {
		case fate.Dropped:
			dropped++
		case fate.Status == 503:
			failed++
		}
	}
	assert.InDelta(t, 3000, failed, 230)
	assert.InDelta(t, 2000, dropped, 200)
}

func TestServerBody(t *testing.T) {
	for _, size := range []int{1, 27, 28, 1 << 20} {
		s := fetchtest.NewServer(t, fetchtest.BodySize(size))
		resp, err := client(t).Get(s.URL + "/ping")
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.NoError(t, err)
		assert.Len(t, body, max(27, size))
		assert.True(t, bytes.Equal(s.Body(), body))
	}
}

// The latency is not waited out for a client that is gone.
func TestServerLatency(t *testing.T) {
	s := fetchtest.NewServer(t, fetchtest.Latency(time.Hour))
	c := client(t)
	c.Timeout = 50 * time.Millisecond
	_, err := c.Get(s.URL + "/ping")
	require.Error(t, err)
	begun := time.Now()
	s.Close()
	assert.Less(t, time.Since(begun), time.Minute)
	assert.Equal(t, 1, s.Requests())
}
