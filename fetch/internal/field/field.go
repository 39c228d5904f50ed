// Package field reads and writes the fields of messages between processes and machines: numbers are
// varints of encoding/binary, and strings have their length before them.
package field

import "encoding/binary"

// A Reader takes fields off Rest. At the first malformed one it sets Bad; from then on all fields
// are zero.
type Reader struct {
	Rest []byte
	Bad  bool
}

// Fail marks the input malformed.
func (f *Reader) Fail() { f.Bad, f.Rest = true, nil }

// Uint returns an unsigned varint.
func (f *Reader) Uint() uint64 {
	v, n := binary.Uvarint(f.Rest)
	if n <= 0 {
		f.Fail()
		return 0
	}
	f.Rest = f.Rest[n:]
	return v
}

// Int returns a signed varint.
func (f *Reader) Int() int {
	v := f.Uint()
	return int(v>>1) ^ -int(v&1) // zigzag, as in binary.Varint
}

// Count returns the number of fields to come, each of which takes at least a byte.
func (f *Reader) Count() int {
	n := f.Uint()
	if n > uint64(len(f.Rest)) {
		f.Fail()
		return 0
	}
	return int(n)
}

// Bytes returns a part of Rest.
func (f *Reader) Bytes() []byte {
	n := f.Count()
	b := f.Rest[:n:n]
	f.Rest = f.Rest[n:]
	return b
}

// Text returns a part of Rest as a string.
func (f *Reader) Text() string { return string(f.Bytes()) }

// Append appends s as a field.
func Append[S ~string | ~[]byte](b []byte, s S) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
