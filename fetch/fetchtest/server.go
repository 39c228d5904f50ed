// Package fetchtest helps to test strategies and engines for package fetch: a
// JSON server that counts what reaches it and fails as its seed says, a gauge of
// what is in flight, and the contracts of a [fetch.Strategy] and of a [fetch.Doer] as
// suites of tests.
package fetchtest

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Pong is the body of a GET of /ping, unless BodySize asks for another.
const Pong = `{"message":"pong"}`

// A Server is a JSON server on loopback:
//
//	GET  /ping   answers {"message":"pong"}
//	POST /echo   answers with the JSON document that it was sent, or 400
//
// Query strings are ignored, but each URL has its own fate: see [Server.Fate].
type Server struct {
	// URL is the server's base URL, without a slash at its end.
	URL string

	http   *httptest.Server
	config config
	pong   []byte

	requests, conns, dropped atomic.Int64
	gauge                    Gauge
}

type config struct {
	latency, jitter time.Duration
	bodySize        int
	seed            uint64
	failShare       float64
	failStatus      int
	dropShare       float64
}

// An Option changes what a [Server] does.
type Option func(*config)

// Latency makes the server wait for d before each answer.
func Latency(d time.Duration) Option { return func(c *config) { c.latency = d } }

// Jitter adds up to d to the latency, by the URL and the seed.
func Jitter(d time.Duration) Option { return func(c *config) { c.jitter = d } }

// BodySize makes the answer to /ping n bytes long, still JSON. It is at least 27.
func BodySize(n int) Option { return func(c *config) { c.bodySize = n } }

// FailStatus makes a share (0 to 1) of the URLs answer with status and a JSON error.
func FailStatus(share float64, status int) Option {
	return func(c *config) { c.failShare, c.failStatus = share, status }
}

// Drop makes a share (0 to 1) of the URLs close the connection in the middle of the answer.
func Drop(share float64) Option { return func(c *config) { c.dropShare = share } }

// Seed chooses which URLs fail, and the jitter. By default it is 1.
func Seed(n uint64) Option { return func(c *config) { c.seed = n } }

// NewServer starts a server, and closes it at the end of the test.
func NewServer(tb testing.TB, options ...Option) *Server {
	tb.Helper()
	s := &Server{config: config{seed: 1}}
	for _, option := range options {
		option(&s.config)
	}
	s.pong = []byte(Pong)
	if n := s.config.bodySize; n > 0 {
		const frame = `{"message":"pong","pad":""}`
		s.pong = []byte(frame[:len(frame)-2] + strings.Repeat("x", max(0, n-len(frame))) + `"}`)
	}
	s.http = httptest.NewUnstartedServer(s)
	s.http.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	s.http.Start()
	s.URL = s.http.URL
	tb.Cleanup(s.Close)
	return s
}

// Close stops the server, and waits for the requests that it is answering.
func (s *Server) Close() { s.http.Close() }

// Ping returns the URL of a /ping that differs for each i.
func (s *Server) Ping(i int) string { return s.URL + "/ping?i=" + strconv.Itoa(i) }

// Body returns the body that a good /ping is answered with.
func (s *Server) Body() []byte { return s.pong }

// Requests returns the number of requests that have arrived.
func (s *Server) Requests() int { return int(s.requests.Load()) }

// Conns returns the number of connections that have been opened to the server.
func (s *Server) Conns() int { return int(s.conns.Load()) }

// Dropped returns the number of requests that were answered by a dropped connection.
func (s *Server) Dropped() int { return int(s.dropped.Load()) }

// PeakInFlight returns the largest number of requests that were here at once.
func (s *Server) PeakInFlight() int { return s.gauge.Peak() }

// A Fate is what happens to the requests for a URL, at every attempt.
type Fate struct {
	// Status is the status of the answer, 200 if nothing fails.
	Status int
	// Dropped: the connection is closed in the middle of the answer.
	Dropped bool
	// Latency is the time before the answer.
	Latency time.Duration
}

// Fate returns what happens to requests for the path and query of rawURL. It
// depends on these and the server's options alone.
func (s *Server) Fate(rawURL string) Fate {
	u, err := url.Parse(rawURL)
	if err != nil {
		panic(fmt.Sprintf("fetchtest: Fate of a URL that does not parse: %v", err))
	}
	return s.fate(u.RequestURI())
}

func (s *Server) fate(requestURI string) Fate {
	c := &s.config
	f := Fate{Status: http.StatusOK, Latency: c.latency}
	if c.failShare == 0 && c.dropShare == 0 && c.jitter == 0 {
		return f
	}
	h := fnv.New64a()
	io.WriteString(h, requestURI)
	rng := rand.New(rand.NewPCG(c.seed, h.Sum64()))
	switch p := rng.Float64(); {
	case p < c.failShare:
		f.Status = c.failStatus
	case p < c.failShare+c.dropShare:
		f.Dropped = true
	}
	if c.jitter > 0 {
		f.Latency += time.Duration(rng.Int64N(int64(c.jitter)))
	}
	return f
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	defer s.gauge.Enter()()
	fate := s.fate(r.URL.RequestURI())
	if fate.Latency > 0 {
		timer := time.NewTimer(fate.Latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	h := w.Header()
	h["Content-Type"] = contentType
	switch {
	case fate.Dropped:
		s.dropped.Add(1)
		h.Set("Content-Length", strconv.Itoa(len(s.pong)))
		w.Write(s.pong[:len(s.pong)/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // net/http's way to ask for a closed connection
	case fate.Status != http.StatusOK:
		writeError(w, fate.Status, http.StatusText(fate.Status))
	case r.URL.Path == "/ping" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		h.Set("Content-Length", strconv.Itoa(len(s.pong)))
		w.Write(s.pong)
	case r.URL.Path == "/echo" && r.Method == http.MethodPost:
		echo(w, r)
	case r.URL.Path == "/ping", r.URL.Path == "/echo":
		writeError(w, http.StatusMethodNotAllowed, "method not allowed")
	default:
		writeError(w, http.StatusNotFound, "not found")
	}
}

var contentType = []string{"application/json"}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 10<<20))
	if err != nil {
		writeError(w, http.StatusBadRequest, "cannot read the body")
		return
	}
	var document any
	if err := json.Unmarshal(body, &document); err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	answer, _ := json.Marshal(document) // cannot fail: it came from JSON
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.Write(answer)
}

func writeError(w http.ResponseWriter, status int, text string) {
	answer, _ := json.Marshal(map[string]string{"error": text}) // cannot fail
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(status)
	w.Write(answer)
}
