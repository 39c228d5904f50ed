package process

import (
	"bufio"
	"bytes"
	"io"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// frame returns one frame.
func frame(tb testing.TB, t frameType, number uint64, fields, body []byte) []byte {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	require.NoError(tb, writeFrame(w, t, number, fields, body))
	require.NoError(tb, w.Flush())
	return b.Bytes()
}

func read(b []byte) (frameType, uint64, []byte, error) {
	return readFrame(bufio.NewReader(bytes.NewReader(b)))
}

// A frame that is cut short, of another version, or larger than any is an error, and never another
// frame.
func TestFrames(t *testing.T) {
	whole := frame(t, frameResult, 300, []byte("fields"), []byte("body"))
	what, id, payload, err := read(whole)
	require.NoError(t, err)
	assert.Equal(t, frameResult, what)
	assert.Equal(t, uint64(300), id)
	assert.Equal(t, "fieldsbody", string(payload))

	for n := range whole {
		_, _, _, err := read(whole[:n])
		if n == 0 {
			assert.Equal(t, io.EOF, err)
		} else {
			assert.Equal(t, io.ErrUnexpectedEOF, err, "%d bytes", n)
		}
	}
	damaged := func(i int) []byte {
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		return b
	}
	for i := range whole {
		_, _, _, err := read(damaged(i))
		assert.Error(t, err, "byte %d", i)
	}
	for what, odd := range map[string][]byte{
		"another version":  damaged(0),
		"another type":     damaged(1),
		"4 GiB":            claim(0xff, 0xff, 0xff, 0xff),
		"over the limit":   claim(0x40, 0, 0, 1),
		"a wrong sum":      damaged(frameHead - 1),
		"a wrong payload":  damaged(frameHead),
		"something else":   []byte("panic: something else\n"),
		"a line of output": []byte("hello, world\n"),
	} {
		_, _, _, err := read(odd)
		assert.Equal(t, errFrame, err, what)
	}
}

// claim returns the head of a result whose length is in size, big-endian.
func claim(size ...byte) []byte {
	return append(append([]byte{frameVersion, byte(frameResult)}, size...), make([]byte, frameHead-6)...)
}

// A length is only a claim: no memory is allocated for it before the bytes come.
func TestFrameClaims(t *testing.T) {
	for _, claimed := range [][]byte{claim(0xff, 0xff, 0xff, 0xff), claim(0x40, 0, 0, 0)} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, _, err := read(claimed)
		runtime.ReadMemStats(&after)
		require.Error(t, err)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20), "bytes allocated")
	}
	w := bufio.NewWriter(io.Discard)
	assert.Equal(t, errTooLarge, writeFrame(w, frameResult, 0, nil, make([]byte, maxFrame+1)))
	assert.Zero(t, w.Buffered(), "nothing of it is sent")
}

// A frame costs no allocation to write.
func TestFrameAllocations(t *testing.T) {
	w := bufio.NewWriter(io.Discard)
	fields, body := make([]byte, 100), make([]byte, 1000)
	assert.Zero(t, testing.AllocsPerRun(1000, func() {
		if err := writeFrame(w, frameTask, 1<<40, fields, body); err != nil {
			t.Error(err)
		}
	}))
}

// FuzzFrames reads frames from anything: it must not panic.
func FuzzFrames(f *testing.F) {
	f.Add(append(frame(f, frameReady, 0, nil, nil), frame(f, frameBeat, 0, nil, nil)...))
	f.Add(append(frame(f, frameHello, 1e9, []byte("hello"), nil), frame(f, frameTask, 1, []byte("fields"), []byte("body"))...))
	f.Add(claim(0xff, 0xff, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		for err := error(nil); err == nil; {
			_, _, _, err = readFrame(r)
		}
		// The same as a payload, which in a frame would need the right sum.
		for _, number := range []uint64{0, 1, 1 << 63} {
			what, id, payload, err := read(frame(t, frameResult, number, nil, b))
			require.NoError(t, err)
			require.Equal(t, frameResult, what)
			require.Equal(t, number, id)
			require.Equal(t, string(b), string(payload))
		}
	})
}
