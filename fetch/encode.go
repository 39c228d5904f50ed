package fetch

import (
	"bytes"
	"errors"
)

// How requests and results go where a [Strategy] of another package takes them, to another machine or a
// file: a byte that tells the version, and then what goes to a child of a Shard and back.
const encodingVersion = 1

var errEncoding = errors.New("not what this version of the package encodes")

// AppendBinary appends r, encoded, to b. Equal requests give equal bytes. The error is nil.
// It implements [encoding.BinaryAppender].
func (r *Request) AppendBinary(b []byte) ([]byte, error) {
	return append(appendRequest(append(b, encodingVersion), 0, r), r.Body...), nil
}

// MarshalBinary is AppendBinary to nothing. It implements [encoding.BinaryMarshaler].
func (r *Request) MarshalBinary() ([]byte, error) { return r.AppendBinary(nil) }

// UnmarshalBinary sets r to what was encoded as data. If that cannot be, the error's
// kind is [ErrDecode], and r stays as it is. It implements [encoding.BinaryUnmarshaler].
func (r *Request) UnmarshalBinary(data []byte) error {
	if len(data) == 0 || data[0] != encodingVersion {
		return newError(ErrDecode, nil, errEncoding)
	}
	id, decoded, err := decodeRequest(data[1:])
	if err != nil || id != 0 {
		return newError(ErrDecode, nil, errEncoding)
	}
	decoded.Body = bytes.Clone(decoded.Body)
	*r = *decoded
	return nil
}

// AppendBinary appends r, encoded, to b: all but r.Request. Of an error there remains what does
// in a [Shard]: its text, its [Kind], and what errors.Is says of common errors. The error is nil. It
// implements [encoding.BinaryAppender].
func (r *Result) AppendBinary(b []byte) ([]byte, error) {
	return append(appendResult(append(b, encodingVersion), 0, r), r.Body...), nil
}

// MarshalBinary is AppendBinary to nothing. It implements [encoding.BinaryMarshaler].
func (r *Result) MarshalBinary() ([]byte, error) { return r.AppendBinary(nil) }

// UnmarshalBinary sets r, all but r.Request, to what was encoded as data. If that cannot be, the error's
// kind is [ErrDecode], and r stays as it is. It implements [encoding.BinaryUnmarshaler].
func (r *Result) UnmarshalBinary(data []byte) error {
	if len(data) == 0 || data[0] != encodingVersion {
		return newError(ErrDecode, nil, errEncoding)
	}
	id, decoded, err := decodeResult(bytes.Clone(data[1:])) // header and body are parts of it
	if err != nil || id != 0 {
		return newError(ErrDecode, nil, errEncoding)
	}
	decoded.Request = r.Request
	*r = decoded
	return nil
}
