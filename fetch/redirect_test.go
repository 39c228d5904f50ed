package fetch_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/mccutchen/go-httpbin/v2/httpbin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

// arrived is what a hopServer's /to tells of a request.
type arrived struct {
	Method, URI, Host, Body string
	Header                  http.Header
}

// hopServer redirects /hop?status=307&to=/to, and answers elsewhere with what arrived.
func hopServer(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/hop", func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.FormValue("status"))
		w.Header().Set("Location", r.FormValue("to"))
		w.WriteHeader(status)
		io.WriteString(w, r.FormValue("body"))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a := arrived{r.Method, r.RequestURI, r.Host, string(body), r.Header}
		text, _ := json.Marshal(a)
		w.Header().Set("X-Method", r.Method) // for HEAD, which gets no body
		w.Write(text)
	})
	return serve(t, mux).URL
}

// hopTo is the URL of server that redirects to another.
func hopTo(server string, status int, to string) string {
	return server + "/hop?" + url.Values{"status": {strconv.Itoa(status)}, "to": {to}}.Encode()
}

// What becomes of method and body, RFC 9110 §15.4: a 307 or 308 repeats the request.
func TestRedirectMethods(t *testing.T) {
	server := hopServer(t)
	client := tidy(t, &fetch.Client{})
	for _, c := range []struct {
		status       int
		method, want string
		body         bool // is sent again
	}{
		{301, "GET", "GET", true},
		{301, "POST", "GET", false},
		{301, "PUT", "PUT", true},
		{301, "HEAD", "HEAD", true},
		{302, "GET", "GET", true},
		{302, "POST", "GET", false},
		{302, "DELETE", "DELETE", true},
		{303, "GET", "GET", false},
		{303, "POST", "GET", false},
		{303, "PUT", "GET", false},
		{303, "HEAD", "HEAD", true},
		{307, "GET", "GET", true},
		{307, "POST", "POST", true},
		{307, "HEAD", "HEAD", true},
		{308, "POST", "POST", true},
		{308, "PUT", "PUT", true},
		{308, "PATCH", "PATCH", true},
	} {
		t.Run(fmt.Sprintf("%d %s", c.status, c.method), func(t *testing.T) {
			req := &fetch.Request{Method: c.method, URL: hopTo(server, c.status, "/to"), Body: []byte("a body"),
				Header: http.Header{"Content-Type": {"text/plain"}, "X-Custom": {"1"}}}
			res := client.Do(t.Context(), req)
			require.NoError(t, res.Err)
			assert.Equal(t, 200, res.Status)
			assert.Equal(t, c.want, res.Header().Get("X-Method"))
			assert.Equal(t, 1, res.Attempts)
			if c.method == "HEAD" {
				assert.Empty(t, res.Body)
				return
			}
			var a arrived
			require.NoError(t, res.Decode(&a))
			assert.Equal(t, []string{"1"}, a.Header["X-Custom"])
			if c.body {
				assert.Equal(t, "a body", a.Body)
				assert.Equal(t, []string{"text/plain"}, a.Header["Content-Type"])
			} else {
				assert.Empty(t, a.Body)
				assert.NotContains(t, a.Header, "Content-Type", "without a body")
				assert.NotContains(t, a.Header, "Content-Length", "without a body")
			}
		})
	}
}

// Where a response came from is told after redirects; without one, a Fetcher fills in the request's URL.
func TestResultURL(t *testing.T) {
	here, elsewhere := hopServer(t), hopServer(t)
	const nowhere = "http://127.0.0.1:1/"
	for name, client := range map[string]engine{
		"Client":     &fetch.Client{},
		"HTTPClient": fetch.HTTPClient{Client: &http.Client{Transport: fetch.NewTransport()}},
	} {
		tidy(t, client)
		for _, c := range []struct {
			url, want string
			kind      fetch.Kind
		}{
			{here + "/to?a#b", here + "/to?a#b", ""},
			{hopTo(here, 302, "/to?a#b"), here + "/to?a#b", ""},
			{hopTo(here, 307, elsewhere+"/a%20b"), elsewhere + "/a%20b", ""},
			{hopTo(here, 302, hopTo(elsewhere, 302, here+"/to")), here + "/to", ""},
			{hopTo(here, 302, ""), hopTo(here, 302, ""), ""},
			{nowhere, "", fetch.ErrDial},
			{"localhost:8080/x", "", fetch.ErrBadURL},
		} {
			direct := get(t, client, c.url)
			if c.url == c.want {
				assert.Contains(t, []string{"", c.url}, direct.URL, name)
			} else {
				assert.Equal(t, c.want, direct.URL, name)
			}
			n := 0
			for r := range (&fetch.Fetcher{Doer: client}).Get(t.Context(), c.url) {
				assert.Equal(t, c.kind, fetch.KindOf(r.Err), "%s: %v", name, r.Err)
				assert.Equal(t, c.want, r.URL, name)
				n++
			}
			assert.Equal(t, 1, n)
		}
	}
	// If the target of a redirect does not respond, the redirect is all that came.
	for _, c := range []struct{ url, want string }{
		{hopTo(here, 302, nowhere), hopTo(here, 302, nowhere)},
		{hopTo(here, 302, hopTo(elsewhere, 302, nowhere)), hopTo(elsewhere, 302, nowhere)},
	} {
		for r := range (&fetch.Fetcher{Doer: tidy(t, &fetch.Client{})}).Get(t.Context(), c.url) {
			assert.ErrorIs(t, r.Err, fetch.ErrDial)
			assert.Equal(t, c.want, r.URL)
		}
	}
	// A policy that refuses a redirect has the redirect for a result.
	refusing := tidy(t, fetch.HTTPClient{Client: &http.Client{
		Transport: fetch.NewTransport(),
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 1 {
				return fmt.Errorf("not to %q", r.URL)
			}
			return nil
		},
	}})
	second := hopTo(elsewhere, 302, here+"/to?token="+secret)
	res := get(t, refusing, hopTo(here, 302, second))
	assert.ErrorIs(t, res.Err, fetch.ErrRedirect)
	assert.ErrorContains(t, res.Err, "redirect: not to")
	assert.NotContains(t, res.Err.Error(), secret)
	assert.Equal(t, 302, res.Status)
	assert.Equal(t, second, res.URL)
}

// A header field is meant for the origin that it was written for. A server must not be able to have
// a token sent elsewhere, whatever way around it chooses.
func TestRedirectHeader(t *testing.T) {
	here, elsewhere := hopServer(t), hopServer(t)
	hereHost, elsewhereHost := strings.TrimPrefix(here, "http://"), strings.TrimPrefix(elsewhere, "http://")
	client := tidy(t, &fetch.Client{})
	for _, c := range []struct {
		name, to string
		kept     bool
		host     string
	}{
		{"path", "/to", true, "virtual.invalid"},
		{"relative", "to", true, "virtual.invalid"},
		{"own origin", here + "/to", true, "virtual.invalid"},
		{"own origin without scheme", "//" + hereHost + "/to", true, "virtual.invalid"},
		{"own origin twice", hopTo("", 307, "/to"), true, "virtual.invalid"},
		{"elsewhere", elsewhere + "/to", false, elsewhereHost},
		{"elsewhere without scheme", "//" + elsewhereHost + "/to", false, elsewhereHost},
		{"elsewhere and on", hopTo(elsewhere, 307, "/to"), false, elsewhereHost},
		{"elsewhere and back", hopTo(elsewhere, 307, here+"/to"), false, hereHost},
	} {
		for _, status := range []int{302, 307} {
			t.Run(fmt.Sprintf("%d %s", status, c.name), func(t *testing.T) {
				a := decoded[arrived](t, client, &fetch.Request{Method: "POST", URL: hopTo(here, status, c.to), Body: []byte("a body"), Header: http.Header{
					"Authorization": {"Bearer x"}, "Cookie": {"x=y"}, "X-Api-Key": {"x"}, "Host": {"virtual.invalid"},
				}})
				for _, field := range []string{"Authorization", "Cookie", "X-Api-Key"} {
					assert.Equal(t, c.kept, a.Header.Get(field) != "", "%s was sent", field)
				}
				assert.Equal(t, c.host, a.Host)
				assert.NotContains(t, a.Header, "Referer")
				if status == 307 {
					assert.Equal(t, "a body", a.Body)
				}
			})
		}
	}
}

func TestRedirectLocation(t *testing.T) {
	server := hopServer(t)
	client := tidy(t, &fetch.Client{})
	for _, c := range []struct{ to, want string }{
		{"/to?a=b", "/to?a=b"},
		{"to", "/to"},
		{"./x/../to", "/to"},
		{"/to#part", "/to"},
		{"/a%2Fb?c=%20d", "/a%2Fb?c=%20d"},
		{"/ä", "/%C3%A4"},
		{"/a b?c d", "/a%20b?c%20d"},
		{strings.Replace(server, "http://", "HTTP://user:password@", 1) + "/to", "/to"},
	} {
		a := decoded[arrived](t, client, &fetch.Request{URL: hopTo(server, 302, c.to)})
		assert.Equal(t, c.want, a.URI, "Location: %s", c.to)
		assert.NotContains(t, a.Header, "Authorization", "Location: %s", c.to)
	}
}

func TestMaxRedirects(t *testing.T) {
	server := serve(t, httpbin.New())
	for _, c := range []struct {
		most, redirects int
		status          int
		kind            fetch.Kind
	}{
		{0, 10, 200, ""},
		{0, 11, 302, fetch.ErrRedirect},
		{3, 3, 200, ""},
		{3, 4, 302, fetch.ErrRedirect},
		{1, 1, 200, ""},
		{12, 12, 200, ""},
		{-1, 1, 302, ""},
	} {
		t.Run(fmt.Sprintf("%d of %d", c.redirects, c.most), func(t *testing.T) {
			client := tidy(t, &fetch.Client{MaxRedirects: c.most})
			res := client.Do(t.Context(), &fetch.Request{URL: fmt.Sprintf("%s/redirect/%d", server.URL, c.redirects)})
			assert.Equal(t, c.kind, fetch.KindOf(res.Err), "%v", res.Err)
			assert.Equal(t, c.status, res.Status)
			assert.Equal(t, c.status == 302, res.Header().Get("Location") != "", "has a Location")
			assert.Equal(t, 1, res.Attempts)
		})
	}
}

// Not every 3xx is a redirect.
func TestRedirectNot(t *testing.T) {
	for _, c := range []struct {
		status   int
		location string
	}{
		{300, "/to"}, {304, "/to"}, {305, "/to"}, {302, ""}, {307, ""}, {200, "/to"}, {201, "/to"}, {404, "/to"},
	} {
		t.Run(fmt.Sprint(c.status, c.location), func(t *testing.T) {
			server := serve(t, answersStatus(c.status, "Location", c.location))
			res := get(t, tidy(t, &fetch.Client{}), server.URL)
			assert.NoError(t, res.Err)
			assert.Equal(t, c.status, res.Status)
			assert.Equal(t, c.location, res.Header().Get("Location"))
		})
	}
}

// A redirect within a host costs no connection, and its body, however large, does not matter.
func TestRedirectConnection(t *testing.T) {
	for _, c := range []struct {
		name  string
		body  int
		conns int64
	}{
		{"no body", 0, 1},
		{"small body", 10_000, 1},
		{"large body", 30 << 20, 2}, // to close the connection is cheaper than to read it all
	} {
		t.Run(c.name, func(t *testing.T) {
			server, conns := counted(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/" {
					w.Header().Set("Location", "/to")
					w.WriteHeader(http.StatusFound)
					w.Write(make([]byte, c.body))
				}
			}))
			res := get(t, tidy(t, &fetch.Client{}), server)
			assert.NoError(t, res.Err)
			assert.Equal(t, 200, res.Status)
			assert.Equal(t, c.conns, conns.Load(), "connections")
		})
	}
}
