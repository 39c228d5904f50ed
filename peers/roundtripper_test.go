package peers

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-resty/resty/v2"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.uber.org/goleak"

	"fetchbench/fetch"
)

// A reply is what a library tells of a response.
type reply struct {
	*http.Response
	body string
}

// A library performs requests by an http.Client. It has to return the error that it gets.
type library struct {
	name string
	open func(c *http.Client) func(ctx context.Context, method, url, body string) (reply, error)
	// hides is set if the library's error of a canceled request is not the transport's.
	hides bool
}

var libraries = []library{
	{name: "http.Client", open: overHTTP},
	{name: "otelhttp", open: func(c *http.Client) func(ctx context.Context, method, url, body string) (reply, error) {
		traced := *c
		traced.Transport = otelhttp.NewTransport(c.Transport)
		return overHTTP(&traced)
	}},
	{name: "resty", open: overResty},
	{name: "retryablehttp", open: overRetryable, hides: true},
}

func overHTTP(c *http.Client) func(ctx context.Context, method, url, body string) (reply, error) {
	return func(ctx context.Context, method, url, body string) (reply, error) {
		req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			return reply{}, err
		}
		return readReply(c.Do(req))
	}
}

func overResty(c *http.Client) func(ctx context.Context, method, url, body string) (reply, error) {
	r := resty.NewWithClient(c)
	return func(ctx context.Context, method, url, body string) (reply, error) {
		req := r.R().SetContext(ctx)
		if body != "" {
			req.SetBody(body)
		}
		resp, err := req.Execute(method, url)
		if err != nil {
			return reply{}, err
		}
		return reply{resp.RawResponse, string(resp.Body())}, nil
	}
}

func overRetryable(c *http.Client) func(ctx context.Context, method, url, body string) (reply, error) {
	r := retryablehttp.NewClient()
	r.HTTPClient, r.Logger = c, nil
	r.RetryWaitMin, r.RetryWaitMax, r.RetryMax = time.Millisecond, time.Millisecond, 2
	return func(ctx context.Context, method, url, body string) (reply, error) {
		req, err := retryablehttp.NewRequestWithContext(ctx, method, url, []byte(body))
		if err != nil {
			return reply{}, err
		}
		return readReply(r.Do(req))
	}
}

func readReply(resp *http.Response, err error) (reply, error) {
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp, string(body)}, err
}

// site is what the libraries ask.
type site struct {
	mux         *http.ServeMux
	unavailable atomic.Int64  // requests of /unavailable
	hanging     chan struct{} // gets a request of /hang
}

func newSite() *site {
	s := &site{mux: http.NewServeMux(), hanging: make(chan struct{}, 1)}
	echo := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Method", r.Method)
		body, _ := io.ReadAll(r.Body) // as a whole: net/http's server is not full duplex
		w.Write(body)
	}
	s.mux.HandleFunc("/echo", echo)
	s.mux.HandleFunc("/query", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.RawQuery) })
	s.mux.HandleFunc("/unavailable", func(w http.ResponseWriter, r *http.Request) {
		if s.unavailable.Add(1) <= 2 {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		echo(w, r)
	})
	s.mux.Handle("/temporary", http.RedirectHandler("/echo", http.StatusTemporaryRedirect))
	s.mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "one"})
		http.SetCookie(w, &http.Cookie{Name: "theme", Value: "two"})
		http.Redirect(w, r, "/me", http.StatusFound)
	})
	s.mux.HandleFunc("/me", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Cookie")) })
	s.mux.HandleFunc("/gzip", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			w.WriteHeader(http.StatusNotAcceptable)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		zip := gzip.NewWriter(w)
		io.WriteString(zip, strings.Repeat("compressed ", 100))
		zip.Close()
	})
	s.mux.HandleFunc("/truncated", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "short")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	s.mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) {
		s.hanging <- struct{}{}
		<-r.Context().Done()
	})
	return s
}

// Client.RoundTripper is a transport for net/http's client and for libraries over it: they get the
// responses and errors that they would get of another, and nothing is left running.
func TestRoundTripper(t *testing.T) {
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			existing := goleak.IgnoreCurrent()
			s := newSite()
			server := httptest.NewServer(s.mux)
			client := &fetch.Client{}
			jar, err := cookiejar.New(nil)
			require.NoError(t, err)
			hc := &http.Client{Transport: client.RoundTripper(), Jar: jar}
			do := lib.open(hc)
			get := func(t *testing.T, path string) reply {
				t.Helper()
				r, err := do(t.Context(), http.MethodGet, server.URL+path, "")
				require.NoError(t, err)
				return r
			}

			t.Run("GET", func(t *testing.T) {
				r := get(t, "/query?a=b%20c")
				assert.Equal(t, 200, r.StatusCode)
				assert.Equal(t, "200 OK", r.Status)
				assert.Equal(t, "HTTP/1.1", r.Proto)
				assert.Equal(t, "a=b%20c", r.body)
				assert.Equal(t, int64(len(r.body)), r.ContentLength)
				assert.Equal(t, 404, get(t, "/no-such").StatusCode, "a status is not an error")
			})

			t.Run("POST", func(t *testing.T) {
				for _, body := range []string{"a body", strings.Repeat("long ", 100_000)} {
					r, err := do(t.Context(), http.MethodPost, server.URL+"/echo", body)
					require.NoError(t, err)
					assert.Equal(t, http.MethodPost, r.Header.Get("X-Method"))
					assert.True(t, r.body == body, "%d bytes of %d", len(r.body), len(body))
				}
			})

			t.Run("POST that is repeated", func(t *testing.T) {
				r, err := do(t.Context(), http.MethodPost, server.URL+"/unavailable", "a body")
				require.NoError(t, err)
				if lib.name != "retryablehttp" {
					assert.Equal(t, 503, r.StatusCode)
					assert.EqualValues(t, 1, s.unavailable.Load(), "the transport alone does not repeat it")
					return
				}
				assert.Equal(t, 200, r.StatusCode)
				assert.Equal(t, "a body", r.body)
				assert.EqualValues(t, 3, s.unavailable.Load())
			})

			t.Run("redirect", func(t *testing.T) {
				r, err := do(t.Context(), http.MethodPost, server.URL+"/temporary", "a body")
				require.NoError(t, err)
				assert.Equal(t, server.URL+"/echo", r.Request.URL.String())
				assert.Equal(t, http.MethodPost, r.Header.Get("X-Method"))
				assert.Equal(t, "a body", r.body, "a 307 has the body sent again")
			})

			t.Run("cookies", func(t *testing.T) {
				r := get(t, "/login")
				assert.Equal(t, server.URL+"/me", r.Request.URL.String())
				assert.Equal(t, "session=one; theme=two", r.body, "of the redirect, sent to its target")
			})

			t.Run("gzip", func(t *testing.T) {
				r := get(t, "/gzip")
				assert.Equal(t, strings.Repeat("compressed ", 100), r.body)
				assert.True(t, r.Uncompressed)
				assert.Empty(t, r.Header.Get("Content-Encoding"))
				assert.EqualValues(t, -1, r.ContentLength, "the header's is that of the compressed body")
			})

			t.Run("HEAD", func(t *testing.T) {
				r, err := do(t.Context(), http.MethodHead, server.URL+"/query?a=b", "")
				require.NoError(t, err)
				assert.Equal(t, 200, r.StatusCode)
				assert.Empty(t, r.body)
				assert.EqualValues(t, 3, r.ContentLength, "that of the body that a GET would have")
			})

			t.Run("cancel", func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				failed := make(chan error, 1)
				go func() {
					_, err := do(ctx, http.MethodGet, server.URL+"/hang", "")
					failed <- err
				}()
				select {
				case <-s.hanging:
				case err := <-failed:
					require.Fail(t, "it did not wait", "%v", err)
				}
				cancel()
				err := <-failed
				require.ErrorIs(t, err, context.Canceled)
				if !lib.hides {
					assert.Equal(t, fetch.ErrCanceled, kindOf(err))
				}
			})

			t.Run("errors", func(t *testing.T) {
				_, err := do(t.Context(), http.MethodGet, server.URL+"/truncated", "")
				assert.Equal(t, fetch.ErrTruncated, kindOf(err), "%v", err)

				refusing := &fetch.Client{AllowAddr: fetch.PublicOnly}
				do := lib.open(&http.Client{Transport: refusing.RoundTripper()})
				_, err = do(t.Context(), http.MethodGet, server.URL+"/query", "")
				assert.Equal(t, fetch.ErrAddress, kindOf(err), "%v", err)

				large := &fetch.Client{MaxBody: 100}
				defer large.CloseIdleConnections()
				do = lib.open(&http.Client{Transport: large.RoundTripper()})
				_, err = do(t.Context(), http.MethodGet, server.URL+"/gzip", "")
				assert.Equal(t, fetch.ErrTooLarge, kindOf(err), "%v", err)
			})

			t.Run("concurrent", func(t *testing.T) {
				var wg sync.WaitGroup
				var failed first
				for i := range 16 {
					wg.Go(func() {
						for j := range 25 {
							body := fmt.Sprintf("%d of %d", j, i)
							r, err := do(t.Context(), http.MethodPost, server.URL+"/echo", body)
							if err == nil && r.body != body {
								err = errors.New("the response to another request: " + r.body)
							}
							failed.set(err)
						}
					})
				}
				wg.Wait()
				assert.NoError(t, failed.err())
			})

			hc.CloseIdleConnections()
			server.Close()
			assert.NoError(t, goleak.Find(existing))
		})
	}
}

// kindOf returns the kind of the *fetch.Error that err wraps, or is.
func kindOf(err error) fetch.Kind {
	var e *fetch.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}
