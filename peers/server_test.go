package peers

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"fetchbench/fetch/fetchtest"
)

// A server is another process, so that its processor time is not the clients'. It responds as
// fetchtest's does, which is bound to one process.
type server struct {
	port   string
	url    string // of a GET whose response is fetchtest.Pong
	secure string // the same over TLS, with the certificate of package httptest
}

// serverVariable is the address that a process serves at.
const serverVariable = "FETCHBENCH_PEERS_SERVER"

// startServer starts a server, and ends it when the test or benchmark does: connections that a
// client has left open are closed by then.
func startServer(tb testing.TB) *server {
	tb.Helper()
	return startServerAt(tb, "127.0.0.1:0")
}

func startServerAt(tb testing.TB, addr string) *server {
	tb.Helper()
	ports := strings.Fields(startProcess(tb, serverVariable, addr).line(tb))
	return &server{ports[0], "http://127.0.0.1:" + ports[0] + "/ping", "https://127.0.0.1:" + ports[1] + "/ping"}
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

// serve is the role of a server. It tells its ports, without and with TLS.
func serve(addr string) {
	listener, err := net.Listen("tcp4", addr)
	if err != nil {
		log.Fatal(err)
	}
	var s handler
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ping", s.ping)
	mux.HandleFunc("GET /requests", s.count)
	quiet := log.New(io.Discard, "", 0) // clients may leave as they like
	go func() { log.Fatal((&http.Server{Handler: mux, ErrorLog: quiet}).Serve(local{listener})) }()
	secure := httptest.NewUnstartedServer(mux)
	secure.Config.ErrorLog = quiet
	secure.StartTLS()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port, secure.Listener.Addr().(*net.TCPAddr).Port)
}

// A local listener closes connections from other machines.
type local struct{ net.Listener }

func (l local) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || conn.RemoteAddr().(*net.TCPAddr).IP.IsLoopback() {
			return conn, err
		}
		conn.Close()
	}
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
