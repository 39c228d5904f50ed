package fetch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A length is only a claim: a field that says it is longer than the payload is an error.
func TestEncodedClaims(t *testing.T) {
	for _, payload := range [][]byte{
		{encodingVersion, 2, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		{encodingVersion, 2, 3, 0xff},
		append([]byte{encodingVersion}, bytes.Repeat([]byte{0xff}, 20)...),
	} {
		_, err := decodeRequest(payload)
		assert.Equal(t, ErrDecode, KindOf(err))
		_, err = decodeResult(payload)
		assert.Equal(t, ErrDecode, KindOf(err))
		_, err = decodeEvent(payload)
		assert.Equal(t, ErrDecode, KindOf(err))
	}
}

// Errors that hold each other without end are encoded as far as it makes sense.
func TestEncodedDeepErrors(t *testing.T) {
	err := error(context.Canceled)
	for range 100 {
		err = &Error{Kind: ErrTimeout, URL: "http://h.test/", Err: err}
	}
	res, decoded := decodeResult(appendResult(nil, &Result{Err: err}))
	require.NoError(t, decoded)
	assert.Equal(t, ErrTimeout, KindOf(res.Err))
	assert.ErrorIs(t, res.Err, context.Canceled)
	assert.True(t, strings.HasPrefix(res.Err.Error(), "fetch: http://h.test/: timeout: "))
}

// All of an event is encoded but its Request.
func TestEncodedEvent(t *testing.T) {
	want := Event{
		Kind: EventPipelineOff, Request: &Request{}, Status: 1, Err: ErrReset, Attempts: 2, Duration: 3, Host: "h",
		Batch: 4, Size: 5, Failed: 6, Shard: 7, PID: 8, Unanswered: -9,
	}
	got, err := decodeEvent(appendEvent(nil, &want))
	require.NoError(t, err)
	want.Request = nil
	assert.Equal(t, want, got)
}

// Whatever comes, there is no panic, and what can be decoded says the same when it has been encoded
// again.
func FuzzEvent(f *testing.F) {
	f.Add(appendEvent(nil, &Event{}))
	f.Add(appendEvent(nil, &Event{Kind: EventPipelineOff, Host: "http://h.test", Unanswered: 2, Err: io.EOF, Duration: time.Second}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := decodeEvent(data); err == nil {
			again, err := decodeEvent(appendEvent(nil, &e))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(e), fmt.Sprint(again))
		}
	})
}
