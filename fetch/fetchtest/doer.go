package fetchtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"fetchbench/fetch"
)

// TestDoer checks that an engine does what a [fetch.Doer] has to do with good, odd and hostile
// servers, all on loopback. newDoer returns a new engine with the default limits of a
// [fetch.Client]: a body has 10 MiB at most, the head of a response 256 KiB (both
// [fetch.ErrTooLarge]), a URL 64 KiB, and 10 redirects are followed.
//
// Every case runs over TCP, as plain/family/case, and again over TLS, as tls/family/case, but for
// the few that are about one of the two. The outcome is the same for both.
//
// Required of the engine in every case:
//
//  1. Do returns soon, and does not panic. When its context ends it returns at once, with an error
//     of kind [fetch.ErrTimeout] (also a [context.DeadlineExceeded]) or [fetch.ErrCanceled] (also a
//     [context.Canceled]).
//  2. A Result without an error has the response's status and its complete body, decoded, which
//     stays as it is whatever is fetched next. Its URL is where the response came from, if a
//     redirect led there; otherwise it is the request's, or empty. Unverified is set if and only if
//     nothing but the end of the connection told where the body ends.
//  3. An incomplete response is an error of the [fetch.Kind] that [fetch.KindOf] finds, and no part
//     of a body comes with it. Its Status is that of the last complete head, which may be a
//     redirect's, or 0. Its text is one line, without the user info or query of a URL, and without
//     the value of a header field.
//  4. What cannot be sent is an [fetch.ErrBadURL] before any I/O: Attempts is 0. Otherwise it is 1
//     or more.
//  5. User info in a URL is not sent. The caller's header fields, Host included, go to the origin
//     (scheme, host and port) of the request's URL alone: not to another that it is redirected to,
//     nor back again from there.
//  6. The next requests of the same engine, to the same server and to another, get their own
//     responses, whatever unsolicited data the server has sent.
//  7. No connection, file descriptor or goroutine is left once CloseIdleConnections has been
//     called. An engine that has no such method must keep no connection.
//
// Framing is that of RFC 9112, read strictly where two readers could differ: several lengths that
// are not the same, a length or chunk size that is not just digits, a status that is not three
// digits or below 100, and a field name that is no token are each an [fetch.ErrProtocol]. So is an
// unsolicited 101; other 1xx are skipped. An engine asks for gzip by itself and decodes it, unless
// the request has an Accept-Encoding.
//
// Redirects are those of RFC 9110 §15.4 as browsers follow them: a 307 or 308 repeats the request,
// a 303 makes a GET of all but HEAD, 301 and 302 only of POST. A 3xx without a Location is itself
// the result. One with two Locations that differ, or to what is no good http URL, or from https to
// http, is an [fetch.ErrRedirect].
//
// If the request has a body and the Expect of RFC 9110 §10.1.1, the body waits for a 100, for about
// a second. After any other response that comes first it is not sent, and the response is the
// result.
//
// The connections that are kept have a limit: of 1500 hosts, those to 750 at most (on Linux only).
// A second connection to a server resumes the TLS session of the first.
//
// The servers with TLS are certified by [Roots]. An engine that does not trust these has to say so
// ([fetch.ErrTLS]), and is spared most cases with https. For proxies there is [TestRoutes].
//
// There must be no proxy for 127.0.0.0/8 and localhost. Since files and goroutines are counted for
// the whole process, nothing else may run beside this test. Run it with -race too; with -short it
// sends less.
func TestDoer(t *testing.T, newDoer func() fetch.Doer) {
	trusting := trusts(t, newDoer())
	for _, w := range []way{plain, overTLS} {
		w.test(t, families(), trusting, func(Route) fetch.Doer { return newDoer() })
	}
}

// A family is some cases about one matter.
type family struct {
	name  string
	cases []doerCase
}

// families are the cases for every way.
func families() []family {
	return []family{
		{"connection", connectionCases()},
		{"framing", framingCases()},
		{"stray", strayCases()},
		{"limits", limitCases()},
		{"redirect", redirectCases()},
		{"url", urlCases()},
		{"continue", continueCases()},
		{"hosts", hostCases()},
	}
}

// A way is how the engine of a case reaches its servers.
type way struct {
	name  string
	tls   bool   // all servers have TLS, and not just {secure}
	proxy string // the scheme of the proxy's URL; empty: there is none
}

var plain, overTLS = way{name: "plain"}, way{name: "tls", tls: true}

// test runs the cases that make sense this way.
func (w way) test(t *testing.T, families []family, trusting bool, newDoer func(Route) fetch.Doer) {
	if w.tls && !trusting {
		return
	}
	t.Run(w.name, func(t *testing.T) {
		for _, f := range families {
			t.Run(f.name, func(t *testing.T) {
				for _, c := range f.cases {
					if w.has(&c) && (trusting || !c.https) {
						t.Run(c.name, func(t *testing.T) { c.test(t, w, newDoer) })
					}
				}
			})
		}
	})
}

// has reports whether c makes sense this way.
func (w way) has(c *doerCase) bool {
	switch {
	case w.tls && c.once, !w.tls && c.tlsOnly, w.proxy != "" && c.direct:
		return false
	}
	return !w.forwards() || !c.ownHost
}

// forwards reports whether a proxy gets the requests themselves, and not just connections.
func (w way) forwards() bool { return !w.tls && strings.HasPrefix(w.proxy, "http") }

// adapt changes the outcome of c to that which is right this way.
func (w way) adapt(c *doerCase) {
	if w.tls {
		c.or = slices.Concat(c.or, c.orTLS)
	}
	switch {
	case !c.absent || w.proxy == "":
	case w.forwards():
		c.kind, c.status, c.want, c.proxied = "", http.StatusBadGateway, anything, true
	default:
		if c.kind != fetch.ErrDial && !strings.HasPrefix(w.proxy, "http") {
			c.or = append(c.or, c.kind) // an engine may look a name up before it asks the proxy
		}
		c.kind = fetch.ErrDial
	}
}

// scheme is that of the URLs.
func (w way) scheme() string {
	if w.tls {
		return "https"
	}
	return "http"
}

// config is that of the servers; nil means no TLS.
func (w way) config() *tls.Config {
	if w.tls {
		return wellKnown()
	}
	return nil
}

// Roots returns the certificates to trust for the https cases of [TestDoer] and [TestRoutes], new
// ones in each process.
func Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(known().cert)
	return pool
}

// trusts reports whether d trusts Roots.
func trusts(t *testing.T, d fetch.Doer) bool {
	s := listen(t, wellKnown())
	s.start()
	x := &exchange{t: t, doer: d}
	res, _ := x.do(t.Context(), &fetch.Request{URL: "https://" + s.addr + "/"})
	closeIdle(d)
	s.stop()
	return res.Err == nil
}

// A doerCase is one thing that a server may do or a caller may ask, and what has to come of it.
//
// In all its text {http} is the scheme of the case's servers, http or https; {here} is the host and
// port of the case's server, {port} the port alone, {other} and {secure} are well-behaved servers
// (the latter always with TLS), and {secret} is what no one may see.
type doerCase struct {
	name string

	// The request: a GET of /case from the case's server, with a secret in user info, query and
	// header, unless these say otherwise.
	method, url, body string
	header            http.Header
	https             bool // the engine has to trust Roots

	// The ways that it makes sense for; all, unless these say otherwise.
	once    bool // not over TLS: which servers have TLS is what it is about, or TLS adds nothing
	tlsOnly bool
	direct  bool // not through a proxy
	// The Host is not the URL's. A proxy that requests are sent to takes the host from their target
	// (RFC 9112 §3.2.2), so it is not for these.
	ownHost bool

	// The server: what it answers to /case. Then it waits for the next request, or does what end
	// says.
	answer string
	end    func(*peer)
	serve  func(p *peer, r *http.Request)             // instead of answer and end
	accept func(p *peer) (goOn bool)                  // before it reads a request
	before func(p *peer, r *http.Request) (goOn bool) // before it reads the body
	config func() *tls.Config                         // of {secure}, if not the usual one
	proxy  func(*proxy)                               // changes the proxy

	// The caller's context: it has a deadline, or is canceled once the server has begun, or
	// beforehand.
	deadline, cancel, canceled bool

	// The outcome. No kind means that no error is expected, and the status is 200 unless status
	// tells another.
	kind       fetch.Kind
	or         []fetch.Kind // kinds that are right too
	orTLS      []fetch.Kind // and over TLS
	absent     bool         // there is no server: an http proxy answers 502, by others nothing can be dialed
	proxied    bool         // the answer is the proxy's, and no server gets a request
	status     int
	want       string // the body
	unverified bool
	arrives    string // the request that a server gets at last, "GET http://{here}/a"; it is also the body, but of a HEAD

	// More to check, or instead of the one request, more to do.
	check func(x *exchange, res fetch.Result)
	run   func(x *exchange)
}

// An exchange is a case under way.
type exchange struct {
	*doerCase
	t                   *testing.T
	way                 way
	doer                fetch.Doer
	newDoer             func(Route) fetch.Doer
	here, other, secure *rawServer
	through             *proxy // nil: none
	fill                func(string) string
}

const (
	// soon is how long the suite waits for Do, on a busy machine. It is well below the limits that
	// an engine has of its own.
	soon = 10 * time.Second
	// moment is how long it waits for what has to come of itself then, such as the end of a
	// connection.
	moment = 5 * time.Second
	// brief is a deadline that passes.
	brief = 50 * time.Millisecond
	// secret must not be seen in an error, nor by another origin.
	secret = "s3cret"
)

// test runs the case, and looks at what is left of it.
func (c doerCase) test(t *testing.T, w way, newDoer func(Route) fetch.Doer) {
	goroutines, files := goleak.IgnoreCurrent(), openFiles()
	w.adapt(&c)
	x := &exchange{doerCase: &c, t: t, way: w, newDoer: newDoer}
	ctx, cancel := x.context()
	defer cancel() // at last: an engine must not need the end of a context to clean up
	x.start(cancel)
	returned := true
	if c.run != nil {
		c.run(x)
	} else {
		returned = x.request(ctx)
	}
	closeIdle(x.doer)
	tidy := returned // else what is left belongs to a request that is still under way
	for _, s := range x.servers() {
		tidy = tidy && s.empty(t)
		s.stop()
	}
	if x.through != nil {
		tidy = tidy && x.through.empty(t)
		x.through.stop()
	}
	if !tidy {
		return
	}
	none := func() bool { return goleak.Find(goroutines) == nil }
	same := func() bool { return openFiles() <= files }
	expect(t, atLast(none), "a goroutine is left: %v", goleak.Find(goroutines))
	expect(t, atLast(same), "a file descriptor is left: %d are open, and were %d", openFiles(), files)
}

// context returns the context of the request.
func (x *exchange) context() (context.Context, context.CancelFunc) {
	if x.deadline {
		return context.WithTimeout(x.t.Context(), brief)
	}
	ctx, cancel := context.WithCancel(x.t.Context())
	if x.canceled {
		cancel()
	}
	return ctx, cancel
}

// start starts the servers, and makes the engine.
func (x *exchange) start(cancel func()) {
	secure := wellKnown()
	if x.config != nil {
		secure = x.config()
	}
	x.here, x.other, x.secure = listen(x.t, x.way.config()), listen(x.t, x.way.config()), listen(x.t, secure)
	_, port, _ := net.SplitHostPort(x.here.addr)
	braces := strings.NewReplacer("{http}", x.way.scheme(), "{HTTP}", strings.ToUpper(x.way.scheme()), "{here}", x.here.addr, "{port}", port, "{other}", x.other.addr,
		"{secure}", x.secure.addr, "{secret}", secret)
	x.fill = func(text string) string {
		if strings.Contains(text, "{") {
			return braces.Replace(text) // slow, for a large text
		}
		return text
	}
	first := x.here
	if strings.HasPrefix(x.url, "https://{secure}") {
		first = x.secure
	}
	first.serve, first.accept, first.before = x.serve, x.accept, x.before
	if x.answer != "" {
		first.serve = x.text
	}
	if x.cancel {
		first.began = cancel
	}
	first.rude.Store(true)
	for _, s := range x.servers() {
		s.fill = x.fill
		s.start()
	}
	var route Route
	if x.way.proxy != "" {
		x.through = newProxy(x.t, x.way.proxy)
		if x.proxy != nil {
			x.proxy(x.through)
		}
		if x.cancel {
			x.through.began = cancel
		}
		x.through.start()
		route.Proxy = x.through.url()
	}
	x.doer = x.newDoer(route)
}

func (x *exchange) servers() []*rawServer { return []*rawServer{x.here, x.other, x.secure} }

// settled reports whether nothing is being answered, and the proxy has passed on all that was sent.
func (x *exchange) settled() bool {
	for _, s := range x.servers() {
		if !s.settled() {
			return false
		}
	}
	return x.through == nil || x.through.settled(x.servers())
}

// text serves the answer.
func (c *doerCase) text(p *peer, _ *http.Request) {
	p.send(c.answer)
	if c.end != nil {
		c.end(p)
	}
}

// request makes the request of the case, checks the outcome, and whether the engine is fit for the
// next. It reports whether Do has returned.
func (x *exchange) request(ctx context.Context) (returned bool) {
	req := &fetch.Request{Method: x.method, URL: x.fill(x.url), Body: []byte(x.body), Header: http.Header{}}
	if x.url == "" {
		req.URL = x.fill("{http}://user:{secret}@{here}" + casePath + "?token={secret}#{secret}")
	}
	req.Header.Set("X-Token", secret)
	for name, values := range x.header {
		req.Header[name] = nil
		for _, v := range values {
			req.Header[name] = append(req.Header[name], x.fill(v))
		}
	}
	res, returned := x.do(ctx, req)
	if !returned {
		return false
	}
	x.here.rude.Store(false)
	if x.through != nil {
		x.through.rude.Store(false)
	}
	x.outcome(req, res)
	if x.check != nil {
		x.check(x, res)
	}
	// What a server sends too much has to have been sent when the next request is made.
	expect(x.t, atLast(func() bool {
		return (res.Err != nil || x.proxied || x.t.Failed() || len(x.arrivals()) > 0) && x.settled()
	}), "the server can still send its answer, %v after Do has returned: the connection has to be closed", moment)
	body := res.Body[:min(len(res.Body), 1000)]
	was := string(body)
	x.next()
	expect(x.t, was == string(body), "the result's Body has changed with the next request: it is the caller's to keep")
	return true
}

// do calls Do, and reports whether it returned.
func (x *exchange) do(ctx context.Context, req *fetch.Request) (fetch.Result, bool) {
	type outcome struct {
		res   fetch.Result
		panic string
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			if v := recover(); v != nil {
				o.panic = fmt.Sprintf("%v\n%s", v, debug.Stack())
			}
			done <- o
		}()
		o.res = x.doer.Do(ctx, req)
	}()
	limit := time.NewTimer(soon)
	defer limit.Stop()
	select {
	case o := <-done:
		return o.res, expect(x.t, o.panic == "", "Do panics: %s", o.panic)
	case <-limit.C:
		return fetch.Result{}, expect(x.t, false, "Do does not return in %v; expected is %s", soon, x.expected())
	}
}

// expected says in words what has to come.
func (c *doerCase) expected() string {
	if c == nil {
		return "an answer"
	}
	words := fmt.Sprintf("an error of kind %q", string(c.kind))
	if c.kind == "" {
		words = fmt.Sprintf("an answer with status %d", max(c.status, http.StatusOK))
	}
	for _, k := range c.or {
		words += fmt.Sprintf(", or an error of kind %q", string(k))
	}
	return words
}

// outcome checks what came of req.
func (x *exchange) outcome(req *fetch.Request, res fetch.Result) {
	t := x.t
	kind := fetch.KindOf(res.Err)
	right := (kind != "" || res.Err == nil) && (kind == x.kind || slices.Contains(x.or, kind))
	expect(t, right, "expected is %s; it is %s", x.expected(), describe(res))
	switch {
	case res.Err == nil && right:
		assert.Equal(t, max(x.status, http.StatusOK), res.Status, "Status")
		assert.Equal(t, x.unverified, res.Unverified, "Unverified: whether only the end of the connection told where the body ends")
		if want := x.wanted(); x.want != anything {
			expect(t, want == string(res.Body), "expected is the body %s; it is %s", short([]byte(want)), short(res.Body))
		}
		x.location(req, res)
	case res.Err != nil:
		expect(t, len(res.Body) == 0, "a part of a body comes with an error: %s", short(res.Body))
		expect(t, !res.OK(), "OK, though there is an error")
		if status := []int{x.status}; right {
			if len(x.or) > 0 || kind == fetch.ErrTimeout || kind == fetch.ErrCanceled {
				status = append(status, 0)
			}
			assert.Contains(t, status, res.Status, "Status: that of the answer's head, 0 if no whole head came")
		}
		assert.Equal(t, kind == fetch.ErrTimeout, errors.Is(res.Err, context.DeadlineExceeded), "an error is a context.DeadlineExceeded if its kind is ErrTimeout: %v", res.Err)
		assert.Equal(t, kind == fetch.ErrCanceled, errors.Is(res.Err, context.Canceled), "an error is a context.Canceled if its kind is ErrCanceled: %v", res.Err)
		assert.NotContains(t, res.Err.Error(), secret, "the error shows what is in user info, query or header")
		assert.NotContains(t, res.Err.Error(), "\n", "the error's text is not one line")
	}
	if kind == fetch.ErrBadURL {
		assert.Zero(t, res.Attempts, "Attempts, where nothing can be sent")
		for _, s := range x.servers() {
			assert.Zero(t, s.connections(), "connections, where nothing can be sent")
		}
		if x.through != nil {
			assert.Zero(t, x.through.connections(), "connections to the proxy, where nothing can be sent")
		}
	} else if !x.canceled {
		assert.GreaterOrEqual(t, res.Attempts, 1, "Attempts")
	}
	if x.arrives != "" && right {
		assert.Equal(t, x.fill(x.arrives), x.last().String(), "the request that a server got")
	}
	own := []string{origin(req.URL), x.way.scheme() + "://" + req.Header.Get("Host")}
	for _, a := range x.arrivals() {
		for field := range a.header {
			_, given := req.Header[field]
			expect(t, !given || slices.Contains(own, origin(a.url)), "%s got the caller's header field %s, which was meant for %s", origin(a.url), field, origin(req.URL))
			expect(t, !strings.HasPrefix(field, "Proxy-"), "%s got the header field %s, which is a proxy's", origin(a.url), field)
		}
		if req.Header["Authorization"] == nil {
			assert.NotContains(t, a.header, "Authorization", "the URL's user info has been sent")
		}
	}
	if x.through != nil {
		x.through.check(t, req.Header)
	}
}

// location checks the Result's URL.
func (x *exchange) location(req *fetch.Request, res fetch.Result) {
	if x.proxied {
		return // it depends on how far it came
	}
	if x.arrives == "" || len(x.arrivals()) < 2 { // there was no redirect
		expect(x.t, res.URL == "" || res.URL == req.URL, "expected is the request's URL; it is %q", res.URL)
		return
	}
	u, err := url.Parse(res.URL)
	if !assert.NoError(x.t, err, "the URL after a redirect") {
		return
	}
	want, got := x.last().url, u.Scheme+"://"+u.Host+u.RequestURI()
	if req.Header.Get("Host") != "" { // which the server takes for a part of its URL
		want, got = strings.TrimPrefix(want, origin(want)), u.RequestURI()
	}
	assert.Equal(x.t, want, got, "the URL after a redirect")
}

// anything, as the body that a case wants, is any body.
const anything = "{anything}"

// wanted is the body that has to come.
func (x *exchange) wanted() string {
	if x.arrives != "" && x.method != http.MethodHead {
		return x.fill(x.arrives)
	}
	return x.fill(x.want)
}

// arrivals returns the requests of the case that have come to a server.
func (x *exchange) arrivals() []arrival {
	return slices.Concat(x.here.arrivals(), x.other.arrivals(), x.secure.arrivals())
}

// last returns the request that has to arrive, or if it has not, some other that has.
func (x *exchange) last() arrival {
	all := x.arrivals()
	i := slices.IndexFunc(all, func(a arrival) bool { return a.String() == x.fill(x.arrives) })
	if i < 0 && len(all) == 0 {
		return arrival{}
	}
	return all[max(i, 0)]
}

var nexts atomic.Int64

// next asks all servers what each should answer rightly, whatever was before.
func (x *exchange) next() {
	urls := []string{"{http}://{other}", "{http}://{here}"}
	if x.https && !x.way.tls {
		urls = append(urls, "https://{secure}")
	}
	for _, base := range urls {
		url := x.fill(fmt.Sprintf("%s%s?%d", base, nextPath, nexts.Add(1)))
		res, _ := x.do(x.t.Context(), &fetch.Request{URL: url})
		x.isNext(url, res)
	}
}

// isNext checks that res is the answer to a GET of url by a server that is well-behaved.
func (x *exchange) isNext(url string, res fetch.Result) {
	want := "GET " + url
	expect(x.t, res.Err == nil && res.Status == http.StatusOK && want == string(res.Body),
		"the next request of the same engine, %s, has to be answered with status 200 and %q; it is %s", url, want, describe(res))
	expect(x.t, !res.Unverified, "Unverified, though the answer has a Content-Length")
}

// origin is the scheme, host and port of a URL.
func origin(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + strings.ToLower(u.Host)
}

// expect asserts that what has to be is so. The text says what that is, and what it is instead.
func expect(t *testing.T, so bool, format string, args ...any) bool {
	t.Helper()
	return so || assert.Fail(t, fmt.Sprintf(format, args...))
}

// describe says in words what came.
func describe(res fetch.Result) string {
	if res.Err != nil {
		return fmt.Sprintf("an error of kind %q: %v", string(fetch.KindOf(res.Err)), res.Err)
	}
	return fmt.Sprintf("status %d and the body %s", res.Status, short(res.Body))
}

// short quotes at most the begin of a body.
func short(body []byte) string {
	if len(body) > 200 {
		return fmt.Sprintf("%q… (%d bytes)", body[:200], len(body))
	}
	return fmt.Sprintf("%q", body)
}

func closeIdle(d fetch.Doer) {
	if c, ok := d.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// atLast waits until cond holds, and reports whether it did in a moment.
func atLast(cond func() bool) bool {
	for end := time.Now().Add(moment); !cond(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// openFiles returns how many files this process has open, on Linux, or 0.
func openFiles() int {
	files, _ := os.ReadDir("/proc/self/fd")
	return len(files)
}
