package fetch

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch/internal/rules"
)

// A crawl sees millions of hosts: they must not fill the memory.
func TestPerHostForgets(t *testing.T) {
	const n = 100_000
	ok, failed := Result{Status: 200}, Result{Err: &Error{Kind: ErrDial}}
	for _, c := range []struct {
		name    string
		spacing time.Duration
		res     Result
		most    int // hosts that it knows at any time
	}{
		{"none", 0, ok, 0},
		{"spacing", time.Second, ok, 30_000}, // 10 000 a second
		{"failures", 0, failed, 2 * remembered},
		{"both", time.Second, failed, 60_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &PerHost{Spacing: c.spacing}
				p.Doer = DoerFunc(func(context.Context, *Request) Result { return c.res })
				most := 0
				for i := range n {
					if i%10_000 == 0 {
						time.Sleep(time.Second)
					}
					p.Do(t.Context(), &Request{URL: fmt.Sprintf("http://%d.test/", i)})
					most = max(most, len(p.hosts))
				}
				assert.LessOrEqual(t, most, c.most)
			})
		})
	}
}

// One who waits and is canceled leaves nothing behind, the timer included.
func TestPerHostForgetsWhoWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &PerHost{Doer: DoerFunc(func(context.Context, *Request) Result { return Result{} }), Spacing: time.Hour}
		p.Do(t.Context(), &Request{URL: "http://a.test/"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		p.Do(ctx, &Request{URL: "http://a.test/"})
		for _, h := range p.hosts {
			assert.Empty(t, h.waiting)
			assert.Nil(t, h.timer)
		}
		time.Sleep(time.Hour)
		for i := range 2000 {
			p.Do(t.Context(), &Request{URL: fmt.Sprintf("http://%d.test/", i)})
		}
		assert.NotContains(t, p.hosts, rules.HostOf("http://a.test/"))
	})
}
