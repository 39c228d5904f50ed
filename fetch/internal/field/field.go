// Package field takes apart what goes from process to process: numbers as varints, and strings with their length
// before them. They are put together by encoding/binary and [Append].
package field

import "encoding/binary"

// A Reader takes fields off Rest. Once one was not there Bad is set, and all that are
// asked for after it are zero.
type Reader struct {
	Rest []byte
	Bad  bool
}

// Fail has no more fields be there.
func (f *Reader) Fail() { f.Bad, f.Rest = true, nil }

// Uint returns an unsigned varint.
func (f *Reader) Uint() uint64 {
	v, n := binary.Uvarint(f.Rest)
	return v * f.skip(n)
}

// Int returns a signed varint.
func (f *Reader) Int() int {
	v, n := binary.Varint(f.Rest)
	return int(v) * int(f.skip(n))
}

// skip goes on by n bytes and returns 1, or 0 if no field was there.
func (f *Reader) skip(n int) uint64 {
	if n <= 0 {
		f.Fail()
		return 0
	}
	f.Rest = f.Rest[n:]
	return 1
}

// Bytes returns a part of Rest.
func (f *Reader) Bytes() []byte {
	n := f.Uint()
	if n > uint64(len(f.Rest)) {
		f.Fail()
		return nil
	}
	b := f.Rest[:n:n]
	f.Rest = f.Rest[n:]
	return b
}

// Text returns a part of Rest as a string.
func (f *Reader) Text() string { return string(f.Bytes()) }

// Count returns the number of fields to come, of which each takes a byte at the least.
func (f *Reader) Count() int {
	n := f.Uint()
	if n > uint64(len(f.Rest)) {
		f.Fail()
		return 0
	}
	return int(n)
}

// Append appends s as a field.
func Append[S ~string | ~[]byte](b []byte, s S) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
