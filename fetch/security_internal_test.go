package fetch

import (
	"context"
	"fmt"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/conns"
	"fetchbench/fetch/internal/rules"
)

// dialTimeout returns how long a Client waits for a connection by default.
func dialTimeout(t *testing.T) (d time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{Timeout: -1, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		res := c.Do(t.Context(), &Request{URL: "http://a.test/"})
		require.ErrorIs(t, res.Err, ErrTimeout)
		d = res.Duration
	})
	return d
}

// SECURITY.md says what the defaults are: these.
func TestSecurityDefaults(t *testing.T) {
	size := func(n int64) string {
		if n >= 1<<20 {
			return fmt.Sprint(n>>20, " MiB")
		}
		return fmt.Sprint(n>>10, " KiB")
	}
	const inFlight = 50
	c, r, p := &Client{}, Retry{}.defaults(), PerHost{}.defaults(inFlight)
	c.init()
	const maxIdle = 512
	assert.Equal(t, conns.MaxIdle(maxIdle), c.pool.MaxIdle) // fewer if this process may open few files
	want := map[string]string{
		"`Client.Timeout`":         fmt.Sprint(c.limits.Timeout),
		"`Client.DialTimeout`":     fmt.Sprint(dialTimeout(t)),
		"`Client.StallTimeout`":    fmt.Sprint(c.limits.Stall),
		"`Client.MaxHeaderBytes`":  size(c.limits.MaxHeader),
		"`Client.MaxBody`":         size(c.maxBody),
		"`Client.MaxRedirects`":    fmt.Sprint(c.redirects.Max),
		"`Client.MaxConnsPerHost`": map[int]string{0: "none"}[c.pool.MaxPerRoute],
		"`Client.MaxIdleConns`":    fmt.Sprint(maxIdle),
		"`Client.IdleTimeout`":     fmt.Sprint(c.pool.IdleTimeout),
		"`Retry.Attempts`":         fmt.Sprint(r.Attempts),
		"`Retry.Budget`":           fmt.Sprintf("%.0f%%", 100*r.Budget),
		"`Retry.MaxWait`":          fmt.Sprint(r.MaxWait),
		"`PerHost.Limit`":          fmt.Sprint(p.Limit),
		"`PerHost.MaxPark`":        fmt.Sprint(p.MaxPark),
		"`PerHost.Failures`":       fmt.Sprint(p.Failures),
		"`PerHost.Patience`":       fmt.Sprint(p.Patience),
		"`PerHost.Lookahead`":      fmt.Sprintf("%d × in flight", p.Lookahead/inFlight),
		"length of a URL":          size(rules.MaxURL),
	}
	text, err := os.ReadFile("../SECURITY.md")
	require.NoError(t, err)
	got := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 {
			continue
		}
		if name := strings.TrimSpace(cells[1]); name != "limit" && !strings.HasPrefix(name, "--") {
			got[name] = strings.TrimSpace(cells[2])
		}
	}
	assert.Equal(t, want, got)
	assert.Contains(t, string(text), fmt.Sprintf("and %d in reserve, and at most %d saved up", reserve, savings))

	// Nothing that bounds what a server can do is left out.
	for name := range want {
		typ, field, ok := strings.Cut(strings.Trim(name, "`"), ".")
		if ok {
			_, ok = reflect.TypeOf(map[string]any{"Client": &Client{}, "Retry": &Retry{}, "PerHost": &PerHost{}}[typ]).Elem().FieldByName(field)
			assert.True(t, ok, "there is no %s", name)
		}
	}
	for f := range reflect.TypeFor[Client]().Fields() {
		if k := f.Type.Kind(); f.IsExported() && (k == reflect.Int || k == reflect.Int64) {
			assert.Contains(t, want, "`Client."+f.Name+"`")
		}
	}
}
