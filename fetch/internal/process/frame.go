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

// A parent and its children exchange frames, each of a head (version, type, and four bytes each for
// the payload's length and its CRC-32C, since something else may write to the same descriptor) and
// a payload. The child gets one hello, then tasks until the pipe is closed. It sends one ready,
// then results, events and beats until its process ends.
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
	frameVersion = 2
	frameHead    = 10
	maxFrame     = 1 << 30
)

var errFrame = errors.New("it sent what is not a frame: does something in the program write to file descriptor 4?")

var errTooLarge = fmt.Errorf("more than the %d MiB that go to or from a child process at once", maxFrame>>20)

// writeFrame writes a frame. Its payload is number, if that is not 0, then fields, then body.
func writeFrame(w *bufio.Writer, t frameType, number uint64, fields, body []byte) error {
	head := append(w.AvailableBuffer(), frameVersion, byte(t), 0, 0, 0, 0, 0, 0, 0, 0)
	if number > 0 {
		head = binary.AppendUvarint(head, number)
	}
	n := len(head) - frameHead + len(fields) + len(body)
	if n > maxFrame {
		return errTooLarge
	}
	sum := crc32.Update(crc32.Update(crc32.Checksum(head[frameHead:], castagnoli), castagnoli, fields), castagnoli, body)
	binary.BigEndian.PutUint32(head[2:], uint32(n))
	binary.BigEndian.PutUint32(head[6:], sum)
	w.Write(head) // a bufio.Writer keeps its first error
	w.Write(fields)
	_, err := w.Write(body)
	return err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// readFrame reads a frame. The error is io.EOF only where one ends and the next would begin.
func readFrame(r *bufio.Reader) (frameType, []byte, error) {
	head, err := r.Peek(frameHead)
	if err == io.EOF && len(head) > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, nil, err
	}
	t, n, sum := frameType(head[1]), int(binary.BigEndian.Uint32(head[2:])), binary.BigEndian.Uint32(head[6:])
	if head[0] != frameVersion || t < frameHello || t > frameBeat || n > maxFrame {
		return 0, nil, errFrame
	}
	r.Discard(frameHead) // cannot fail: it has been peeked at

	// A length is a claim: memory for more than a MiB is allocated as that much comes.
	payload := make([]byte, 0, min(n, 1<<20))
	for len(payload) < n {
		have := len(payload)
		payload = slices.Grow(payload, min(n-have, max(have, 1<<20)))
		payload = payload[:min(n, cap(payload))]
		if _, err := io.ReadFull(r, payload[have:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
	if crc32.Checksum(payload, castagnoli) != sum {
		return 0, nil, errFrame
	}
	return t, payload, nil
}

// cutNumber takes the number off a payload that begins with one.
func cutNumber(payload []byte) (number uint64, rest []byte, err error) {
	number, n := binary.Uvarint(payload)
	if n <= 0 || number == 0 {
		return 0, nil, errFrame
	}
	return number, payload[n:], nil
}
