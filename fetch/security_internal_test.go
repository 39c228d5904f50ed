package fetch

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch/internal/rules"
)

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
	want := map[string]string{
		"`Client.Timeout`":      fmt.Sprint(c.limits().Timeout),
		"`Client.IdleRead`":     fmt.Sprint(c.limits().IdleRead),
		"`Client.MaxHead`":      size(c.maxHead(NewTransport())),
		"`Client.MaxBody`":      size(c.limits().MaxBody),
		"`Client.MaxRedirects`": fmt.Sprint(c.limits().MaxRedirects),
		"`Retry.Attempts`":      fmt.Sprint(r.Attempts),
		"`Retry.Budget`":        fmt.Sprintf("%.0f%%", 100*r.Budget),
		"`Retry.MaxWait`":       fmt.Sprint(r.MaxWait),
		"`PerHost.Limit`":       fmt.Sprint(p.Limit),
		"`PerHost.MaxPark`":     fmt.Sprint(p.MaxPark),
		"`PerHost.Failures`":    fmt.Sprint(p.Failures),
		"`PerHost.Patience`":    fmt.Sprint(p.Patience),
		"`PerHost.Lookahead`":   fmt.Sprintf("%d × in flight", p.Lookahead/inFlight),
		"length of a URL":       size(rules.MaxURL),
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
