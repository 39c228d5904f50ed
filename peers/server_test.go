package peers

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"fetchbench/fetch/fetchtest"
)

// A server is another process, of this same program, so that its processor time is not the
// clients'. It answers as fetchtest's does, which is bound to one process.
type server struct {
	url string // of a GET that is answered with fetchtest.Pong
}

// serverVariable is set in the environment of a server.
const serverVariable = "FETCHBENCH_PEERS_SERVER"

// startServer starts a server, and ends it when the test or benchmark does: connections that a
// client has left open are closed by then.
func startServer(tb testing.TB) *server {
	tb.Helper()
	program, err := os.Executable()
	require.NoError(tb, err)
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), serverVariable+"=1", "GORACE=atexit_sleep_ms=1 "+os.Getenv("GORACE"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(tb, err)
	out, err := cmd.StdoutPipe()
	require.NoError(tb, err)
	require.NoError(tb, cmd.Start())
	tb.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			tb.Errorf("the server: %v", err)
		}
	})
	origin, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(tb, err, "the server's URL")
	return &server{url: strings.TrimSpace(origin) + "/ping"}
}

// wrong returns a new URL whose n-th request, counted from 1, has a wrong answer: how is
// "status" (500 with the right body) or "body" (200 with another one of the same length).
func (s *server) wrong(how string, n int) string {
	return fmt.Sprintf("%s?wrong=%s&n=%d&new=%d", s.url, how, n, urls.Add(1))
}

var urls atomic.Int64

// requests returns how many requests there have been since the last call.
func (s *server) requests(tb testing.TB) int {
	tb.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	answer, err := (&http.Client{Transport: transport}).Get(strings.TrimSuffix(s.url, "/ping") + "/requests")
	require.NoError(tb, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(tb, err)
	n, err := strconv.Atoi(string(body))
	require.NoError(tb, err)
	return n
}

// serveIfAsked returns at once, except in a process that startServer has started: there it serves
// until standard input is closed, which the parent's death does too, and exits.
func serveIfAsked() {
	if os.Getenv(serverVariable) == "" {
		return
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	var s handler
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ping", s.ping)
	mux.HandleFunc("GET /requests", s.count)
	quiet := log.New(io.Discard, "", 0) // clients may leave as they like
	go func() { log.Fatal((&http.Server{Handler: mux, ErrorLog: quiet}).Serve(listener)) }()
	fmt.Printf("http://%s\n", listener.Addr())
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

type handler struct {
	requests atomic.Int64
	queries  sync.Map // from the query of wrong to the *atomic.Int64 of its requests
}

var (
	contentType   = []string{"application/json"}
	contentLength = []string{strconv.Itoa(len(fetchtest.Pong))}
	pong          = []byte(fetchtest.Pong)
	pang          = []byte(strings.Replace(fetchtest.Pong, "o", "a", 1))
)

func (s *handler) ping(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	h := w.Header()
	h["Content-Type"] = contentType
	h["Content-Length"] = contentLength
	body := pong
	if query := r.URL.RawQuery; query != "" {
		requests, _ := s.queries.LoadOrStore(query, new(atomic.Int64))
		if n := requests.(*atomic.Int64).Add(1); r.FormValue("n") == strconv.FormatInt(n, 10) {
			switch r.FormValue("wrong") {
			case "status":
				w.WriteHeader(http.StatusInternalServerError)
			case "body":
				body = pang
			}
		}
	}
	w.Write(body)
}

func (s *handler) count(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, s.requests.Swap(0))
}
