package jetstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"fetchbench/fetch"
	"fetchbench/fetch/internal/field"
)

// What goes over the broker: shards one way, summaries the other. Both begin with a byte that tells the
// version; numbers are varints, and strings have their length before them.
const version = 1

var errEncoding = errors.New("not what this version of the package sends")

// A shard is some requests that go together, in one message: a byte with flags, and the requests. Its id is made of the requests
// and its number, and so the same in each run of the same job; that of a half is its whole's, and "-0" or "-1".
const again = 1 // the flag of a shard whose requests may have been sent before

// encodeShard returns the message for reqs, without flags.
func encodeShard(reqs []*fetch.Request) []byte {
	size := 16
	for _, r := range reqs {
		size += len(r.URL) + len(r.Body) + 32
	}
	b := append(make([]byte, 0, size), version, 0)
	b = binary.AppendUvarint(b, uint64(len(reqs)))
	var one []byte
	for _, r := range reqs {
		one, _ = r.AppendBinary(one[:0]) // the error is nil, says its comment
		b = field.Append(b, one)
	}
	return b
}

// shardID returns the id of the shard of this number in its lane, whose message, without flags,
// this is. The number tells shards apart whose requests are equal.
func shardID(lane, number int, message []byte) string {
	h := sha256.New()
	fmt.Fprintln(h, lane, number)
	h.Write(message)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// asAgain returns the message with the flag again. The one it is given stays as it is: it may be on its way.
func asAgain(message []byte) []byte {
	message = bytes.Clone(message)
	message[1] |= again
	return message
}

func decodeShard(data []byte) (flags byte, reqs []*fetch.Request, err error) {
	if len(data) < 2 || data[0] != version || data[1]&^again != 0 {
		return 0, nil, errEncoding
	}
	f := field.Reader{Rest: data[2:]}
	n := f.Count()
	all := make([]fetch.Request, min(n, len(f.Rest)/8)) // one takes no less
	for i := range n {
		if i == len(all) || all[i].UnmarshalBinary(f.Bytes()) != nil {
			return 0, nil, errEncoding
		}
		reqs = append(reqs, &all[i])
	}
	if f.Bad || len(f.Rest) > 0 || len(reqs) == 0 {
		return 0, nil, errEncoding
	}
	return data[1], reqs, nil
}

// halves returns the ids of a shard's halves, and where the second begins.
func halves(id string, n int) (first, second string, at int) { return id + "-0", id + "-1", n / 2 }

// rootOf returns the id of the whole that id is, or is a part of.
func rootOf(id string) string {
	root, _, _ := strings.Cut(id, "-")
	return root
}

// partOf returns which of the n requests of its whole the shard with this id has.
func partOf(id string, n int) (from, to int, ok bool) {
	_, path, _ := strings.Cut(id, "-")
	from, to = 0, n
	for path != "" {
		var half string
		half, path, _ = strings.Cut(path, "-")
		if to-from < 2 || half != "0" && half != "1" {
			return 0, 0, false
		}
		_, _, at := halves("", to-from)
		if half == "0" {
			to = from + at
		} else {
			from += at
		}
	}
	return from, to, true
}

// A summary is the outcome of a shard: one message, which the broker takes only once for each shard.
type summary struct {
	form    byte
	answers []answer // of summaryResults
	reason  string   // of summaryFailed
	nonce   string   // of summaryChunks: there are so many messages, whose data is that of the summary itself
	chunks  int
	kept    bool // it comes from the manifest
}

// The forms of a summary.
const (
	summaryResults = iota + 1
	summaryHalved  // its halves are answered in its place
	summaryFailed  // none of it could be performed
	summaryChunks  // it is too large for a message
)

// An answer is a Result without its Request. If body is not empty, that is the name of the Result's body in a Store.
type answer struct {
	fetch.Result
	body string
}

func (s *summary) appendTo(b []byte) []byte {
	b = append(b, version, s.form)
	switch s.form {
	case summaryResults:
		b = binary.AppendUvarint(b, uint64(len(s.answers)))
		var one []byte
		for i := range s.answers {
			a := &s.answers[i]
			one, _ = a.AppendBinary(one[:0]) // the error is nil, says its comment
			b = field.Append(field.Append(b, a.body), one)
		}
	case summaryFailed:
		b = field.Append(b, s.reason)
	case summaryChunks:
		b = field.Append(b, s.nonce)
		b = binary.AppendUvarint(b, uint64(s.chunks))
	}
	return b
}

func decodeSummary(data []byte) (*summary, error) {
	if len(data) < 2 || data[0] != version {
		return nil, errEncoding
	}
	s := &summary{form: data[1]}
	f := field.Reader{Rest: data[2:]}
	switch s.form {
	case summaryResults:
		n := f.Count()
		s.answers = make([]answer, 0, min(n, len(f.Rest)/8))
		for range n {
			a := answer{body: f.Text()}
			if one := f.Bytes(); f.Bad || a.UnmarshalBinary(one) != nil {
				return nil, errEncoding
			}
			s.answers = append(s.answers, a)
		}
	case summaryHalved:
	case summaryFailed:
		s.reason = f.Text()
	case summaryChunks:
		s.nonce, s.chunks = f.Text(), int(min(f.Uint(), maxChunks+1))
		if s.chunks > maxChunks || !isName(s.nonce) {
			return nil, errEncoding
		}
	default:
		return nil, errEncoding
	}
	if f.Bad || len(f.Rest) > 0 {
		return nil, errEncoding
	}
	return s, nil
}

// maxChunks is more than a summary has: at a MiB each, 64 GiB.
const maxChunks = 1 << 16

// failures answers n requests by err.
func failures(n int, format string, args ...any) []answer {
	answers := make([]answer, n)
	for i := range answers {
		answers[i].Err = &fetch.Error{Kind: fetch.ErrLost, Err: fmt.Errorf(format, args...)}
	}
	return answers
}
