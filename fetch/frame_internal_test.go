package fetch

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// frame returns one frame.
func frame(tb testing.TB, t frameType, fields, body []byte) []byte {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	require.NoError(tb, writeFrame(w, t, fields, body))
	require.NoError(tb, w.Flush())
	return b.Bytes()
}

func read(b []byte) (frameType, []byte, error) { return readFrame(bufio.NewReader(bytes.NewReader(b))) }

// What comes is never taken for more than it is: where a frame is cut short, of another
// version, or larger than any, there is an error.
func TestFrames(t *testing.T) {
	whole := frame(t, frameResult, []byte("fields"), []byte("body"))
	what, payload, err := read(whole)
	require.NoError(t, err)
	assert.Equal(t, frameResult, what)
	assert.Equal(t, "fieldsbody", string(payload))

	for n := range whole {
		_, _, err := read(whole[:n])
		if n == 0 {
			assert.Equal(t, io.EOF, err)
		} else {
			assert.Equal(t, io.ErrUnexpectedEOF, err, "%d bytes", n)
		}
	}
	for what, odd := range map[string][]byte{
		"another version":  {frameVersion + 1, byte(frameReady), 0, 0, 0, 0, 0, 0, 0, 0},
		"no type":          {frameVersion, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"an unknown type":  {frameVersion, byte(frameBeat) + 1, 0, 0, 0, 0, 0, 0, 0, 0},
		"4 GiB":            {frameVersion, byte(frameResult), 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		"over the limit":   {frameVersion, byte(frameResult), 0x40, 0, 0, 1, 0, 0, 0, 0},
		"a wrong sum":      {frameVersion, byte(frameReady), 0, 0, 0, 0, 0, 0, 0, 1},
		"something else":   []byte("panic: something else\n"),
		"a line of output": []byte("hello, world\n"),
	} {
		_, _, err := read(odd)
		assert.Equal(t, errFrame, err, what)
	}
}

// A length is a claim. No memory is made for it before the bytes are there.
func TestFrameClaims(t *testing.T) {
	for _, claim := range [][]byte{{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, {0x40, 0, 0, 0, 0, 0, 0, 0}} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := read(append([]byte{frameVersion, byte(frameResult)}, claim...))
		runtime.ReadMemStats(&after)
		require.Error(t, err)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20), "bytes allocated")
	}
	// The same one level below: a field that says it is longer than the payload.
	for _, payload := range [][]byte{
		{1, 2, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		{1, 2, 3, 0xff},
		bytes.Repeat([]byte{0xff}, 20),
	} {
		_, _, err := decodeRequest(payload)
		assert.Equal(t, errFrame, err)
		_, _, err = decodeResult(payload)
		assert.Equal(t, errFrame, err)
	}
	_, err := decodeBatch([]byte{1, 2, 3})
	assert.Equal(t, errFrame, err)
	_, err = decodePipeline([]byte{1, 2, 3})
	assert.Equal(t, errFrame, err)
	assert.Equal(t, errFrameSize, writeFrame(bufio.NewWriter(io.Discard), frameResult, nil, make([]byte, maxFrame+1)))
}

// FuzzFrames reads frames from anything: it must not panic, and what can be decoded
// says the same when it has been encoded again.
func FuzzFrames(f *testing.F) {
	request := &Request{Index: 7, Method: "POST", URL: "http://h.test/?q", Header: http.Header{"A": {"1", "2"}, "B": nil}, Body: []byte("body")}
	result := &Result{Request: request, Status: 200, Body: []byte("body"), Attempts: 2, Duration: time.Second}
	result.SetHeader(request.Header)
	failed := &Result{Err: newError(ErrDial, request, &PanicError{URL: "u", Value: errors.Join(io.EOF, syscall.ECONNREFUSED), Stack: []byte("stack")})}
	f.Add(append(frame(f, frameReady, nil, nil), frame(f, frameBeat, nil, nil)...))
	f.Add([]byte{frameVersion, byte(frameResult), 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Add(append(appendRequest(nil, 1, request), request.Body...))
	f.Add(appendRequest(nil, 1, &Request{}))
	f.Add(append(appendResult(nil, 1, result), result.Body...))
	f.Add(appendResult(nil, 1, failed))
	f.Add(appendBatch(nil, BatchInfo{1, 2, 3, 4, 5}))
	f.Add(appendPipeline(nil, PipelineInfo{"http://h.test", 2, io.EOF, time.Second, 0}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		for err := error(nil); err == nil; {
			_, _, err = readFrame(r)
		}
		// The same as a payload, which in a frame would need the right sum.
		if what, payload, err := read(frame(t, frameResult, nil, b)); assert.NoError(t, err) {
			require.Equal(t, frameResult, what)
			require.Equal(t, string(b), string(payload))
		}
		if id, req, err := decodeRequest(b); err == nil {
			id2, again, err := decodeRequest(append(appendRequest(nil, id, req), req.Body...))
			require.NoError(t, err)
			require.Equal(t, id, id2)
			require.Equal(t, req, again)
		}
		if id, res, err := decodeResult(b); err == nil {
			res.Header()
			id2, again, err := decodeResult(append(appendResult(nil, id, &res), res.Body...))
			require.NoError(t, err)
			require.Equal(t, id, id2)
			again.Header()
			if res.Err != nil {
				require.Equal(t, res.Err.Error(), again.Err.Error())
				require.Equal(t, KindOf(res.Err), KindOf(again.Err))
			}
			res.Err, again.Err = nil, nil
			require.Equal(t, res, again)
		}
		if info, err := decodeBatch(b); err == nil {
			again, err := decodeBatch(appendBatch(nil, info))
			require.NoError(t, err)
			require.Equal(t, info, again)
		}
		if info, err := decodePipeline(b); err == nil {
			again, err := decodePipeline(appendPipeline(nil, info))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(info), fmt.Sprint(again))
		}
	})
}

// Errors that hold each other without end still cross, as far as it makes sense.
func TestFramesOfDeepErrors(t *testing.T) {
	err := error(context.Canceled)
	for range 100 {
		err = &Error{Kind: ErrTimeout, URL: "http://h.test/", Err: err}
	}
	_, res, decoded := decodeResult(appendResult(nil, 1, &Result{Err: err}))
	require.NoError(t, decoded)
	assert.Equal(t, ErrTimeout, KindOf(res.Err))
	assert.ErrorIs(t, res.Err, context.Canceled)
	assert.True(t, strings.HasPrefix(res.Err.Error(), "fetch: http://h.test/: timeout: "))
}
