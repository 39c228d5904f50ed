package fetch_test

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
)

var (
	_ encoding.BinaryAppender    = (*fetch.Request)(nil)
	_ encoding.BinaryMarshaler   = (*fetch.Request)(nil)
	_ encoding.BinaryUnmarshaler = (*fetch.Request)(nil)
	_ encoding.BinaryAppender    = (*fetch.Result)(nil)
	_ encoding.BinaryMarshaler   = (*fetch.Result)(nil)
	_ encoding.BinaryUnmarshaler = (*fetch.Result)(nil)
)

func encoded(tb testing.TB, v encoding.BinaryMarshaler) []byte {
	b, err := v.MarshalBinary()
	require.NoError(tb, err)
	return b
}

// What is encoded and decoded is what it was; nothing that is missing becomes empty, or the other way round.
func TestEncodedRequest(t *testing.T) {
	for _, want := range []fetch.Request{
		{},
		{URL: "http://h.test/"},
		{Index: 1 << 40, Method: "POST", URL: "http://u:p@h.test/?q", Header: http.Header{"A": {"1", "2"}, "B": nil, "C": {""}}, Body: []byte("body")},
		{Index: -1, Header: http.Header{}, Body: []byte{}},
	} {
		data := encoded(t, &want)
		var got fetch.Request
		require.NoError(t, got.UnmarshalBinary(data))
		assert.Equal(t, want, got)
		clear(data)
		assert.Equal(t, want, got, "it is not part of the data")
	}
}

// Whoever makes a name of what is in a request needs the same bytes each time.
func TestEncodedEqually(t *testing.T) {
	r := func() *fetch.Request {
		h := http.Header{}
		for i := range 40 {
			h[fmt.Sprint("Name-", i*7%40)] = []string{"value"}
		}
		return &fetch.Request{Header: h}
	}
	for range 20 {
		assert.Equal(t, encoded(t, r()), encoded(t, r()))
	}
}

func TestEncodedResult(t *testing.T) {
	want := fetch.Result{Status: 200, Body: []byte("body"), Unverified: true, Attempts: 3, Duration: time.Second}
	want.SetHeader(http.Header{"A": {"1"}})
	data := encoded(t, &want)
	request := &fetch.Request{URL: "http://h.test/"}
	got := fetch.Result{Request: request, Err: io.EOF}
	require.NoError(t, got.UnmarshalBinary(data))
	clear(data)
	assert.Equal(t, want.Header(), got.Header())
	want.Request = request // is left as it was
	assert.Equal(t, want, got)

	failed := fetch.Result{Err: fetch.NewError(t.Context(), request, context.DeadlineExceeded)}
	require.NoError(t, got.UnmarshalBinary(encoded(t, &failed)))
	assert.Equal(t, failed.Err.Error(), got.Err.Error())
	assert.Equal(t, fetch.ErrTimeout, fetch.KindOf(got.Err))
	require.ErrorIs(t, got.Err, context.DeadlineExceeded)
	assert.Nil(t, got.Header())
	assert.Zero(t, got.Status)
}

// What cannot be decoded is an error that says so, and changes nothing.
func TestEncodedBadly(t *testing.T) {
	request := fetch.Request{URL: "http://h.test/", Header: http.Header{"A": {"1"}}}
	result := fetch.Result{Status: 200, Err: errors.New("odd")}
	for name, data := range map[string][]byte{"nothing": nil, "another version": {9, 0, 0, 0}, "a claim": {1, 0, 0, 0xff, 0xff, 0xff, 0x7f}} {
		r, res := request, result
		err := r.UnmarshalBinary(data)
		assert.Equal(t, fetch.ErrDecode, fetch.KindOf(err), name)
		err = res.UnmarshalBinary(data)
		assert.Equal(t, fetch.ErrDecode, fetch.KindOf(err), name)
		assert.Equal(t, request, r)
		assert.Equal(t, result, res)
	}
	whole := encoded(t, &request)
	for n := range whole {
		var r fetch.Request
		require.Error(t, r.UnmarshalBinary(whole[:n]), "%d bytes of %d", n, len(whole))
	}
}

// Whatever comes: no panic, and what can be decoded says the same once it has been encoded again.
func FuzzEncoding(f *testing.F) {
	f.Add(encoded(f, &fetch.Request{Index: 7, Method: "PUT", URL: "http://h.test/", Header: http.Header{"A": {"1", "2"}, "B": nil}, Body: []byte("body")}))
	f.Add(encoded(f, &fetch.Result{Status: 200, Body: []byte("body"), Attempts: 1, Duration: time.Second}))
	f.Add(encoded(f, &fetch.Result{Err: fetch.NewError(context.Background(), nil, io.ErrUnexpectedEOF)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r, again fetch.Request
		if err := r.UnmarshalBinary(data); err == nil {
			require.NoError(t, again.UnmarshalBinary(encoded(t, &r)))
			require.Equal(t, r, again)
		}
		var res, resAgain fetch.Result
		if err := res.UnmarshalBinary(data); err == nil {
			require.NoError(t, resAgain.UnmarshalBinary(encoded(t, &res)))
			require.Equal(t, res.Header(), resAgain.Header())
			require.Equal(t, fetch.KindOf(res.Err), fetch.KindOf(resAgain.Err))
			require.Equal(t, encoded(t, &res), encoded(t, &resAgain))
		}
	})
}

// A request as bytes: for a file, or another machine.
func ExampleRequest_MarshalBinary() {
	data, _ := (&fetch.Request{Method: "DELETE", URL: "http://h.test/7"}).MarshalBinary()
	var r fetch.Request
	if err := r.UnmarshalBinary(data); err != nil {
		fmt.Println(err)
	}
	fmt.Println(r.Method, r.URL)
	fmt.Println(r.UnmarshalBinary([]byte("something else")))
	// Output:
	// DELETE http://h.test/7
	// fetch: decode: not what this version of the package encodes
}
