package process

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// A parent and its children exchange frames, each of a head (version, type, the payload's length, a
// number, and the CRC-32C of all, since something else may write to the same descriptor) and a
// payload. The child gets one hello, then tasks until the pipe is closed. It sends one ready, then
// results, events and beats until its process ends.
type frameType byte

const (
	frameHello  frameType = iota + 1 // nanoseconds between beats, and Config.Hello
	frameReady                       // empty: the child has understood the hello
	frameTask                        // an id, and the task
	frameResult                      // the task's id, and its result
	frameEvent                       // the event
	frameBeat                        // empty: the child is alive
)

const (
	frameVersion = 0x80 + 3 // no type: so a byte that is lost in front of it shows
	frameHead    = 1 + 1 + 4 + 8 + 4
	maxFrame     = 1 << 30
)

var (
	errFrame    = errors.New("it sent what is not a frame: does something in the program write to file descriptor 4?")
	errTooLarge = fmt.Errorf("more than the %d MiB that go to or from a child process at once", maxFrame>>20)
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// writeFrame writes a frame. Its payload is fields, then body.
func writeFrame(w *bufio.Writer, t frameType, number uint64, fields, body []byte) error {
	n := len(fields) + len(body)
	if n > maxFrame {
		return errTooLarge
	}
	head := append(w.AvailableBuffer(), frameVersion, byte(t))
	head = binary.BigEndian.AppendUint32(head, uint32(n))
	head = binary.BigEndian.AppendUint64(head, number)
	sum := crc32.Update(crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, fields), castagnoli, body)
	w.Write(binary.BigEndian.AppendUint32(head, sum)) // a bufio.Writer keeps its first error
	w.Write(fields)
	_, err := w.Write(body)
	return err
}

// readFrame reads a frame. The error is io.EOF only where one ends and the next would begin.
func readFrame(r *bufio.Reader) (t frameType, number uint64, payload []byte, err error) {
	head, err := r.Peek(frameHead)
	if len(head) > 0 && head[0] != frameVersion {
		return 0, 0, nil, errFrame
	}
	if len(head) > 0 && err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(head[2:]))
	if n > maxFrame {
		return 0, 0, nil, errFrame
	}
	t, number = frameType(head[1]), binary.BigEndian.Uint64(head[6:])
	sum, want := crc32.Checksum(head[:frameHead-4], castagnoli), binary.BigEndian.Uint32(head[frameHead-4:])
	r.Discard(frameHead) // cannot fail: it has been peeked at

	// A length is a claim: memory for more than a MiB is allocated as that much comes.
	payload = make([]byte, 0, min(n, 1<<20))
	for len(payload) < n && err == nil {
		have := len(payload)
		payload = slices.Grow(payload, min(n-have, max(have, 1<<20)))
		payload = payload[:min(n, cap(payload))]
		_, err = io.ReadFull(r, payload[have:])
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	} else if err == nil && crc32.Update(sum, castagnoli, payload) != want {
		err = errFrame
	}
	return t, number, payload, err
}
