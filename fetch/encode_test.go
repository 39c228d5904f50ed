package fetch_test

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
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

// What is decoded is what was encoded. Nil does not become empty, nor empty nil.
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
	tagged := fetch.Request{URL: "http://h.test/", Tag: func() {}}
	var got fetch.Request
	require.NoError(t, got.UnmarshalBinary(encoded(t, &tagged)))
	assert.Equal(t, fetch.Request{URL: "http://h.test/"}, got, "all but the Tag")
}

// Equal requests give equal bytes, which can serve as a key.
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
	want.SetHeader(func() http.Header { return http.Header{"A": {"1"}} })
	data := encoded(t, &want)
	request := &fetch.Request{URL: "http://h.test/"}
	got := fetch.Result{Request: request, Err: io.EOF}
	require.NoError(t, got.UnmarshalBinary(data))
	clear(data)
	assert.Equal(t, want.Header(), got.Header())
	assert.Equal(t, "http://h.test/", got.URL, "of the request, as it is not said")
	want.Request, want.URL = request, got.URL // Request is left as it was
	assert.Equal(t, plain(want), plain(got))

	want.URL = "http://h.test/there"
	require.NoError(t, got.UnmarshalBinary(encoded(t, &want)))
	assert.Equal(t, "http://h.test/there", got.URL)
	got = fetch.Result{}
	require.NoError(t, got.UnmarshalBinary(encoded(t, &fetch.Result{URL: "http://h.test/there"})))
	assert.Equal(t, "http://h.test/there", got.URL, "without a request")
	got.Request = request

	failed := fetch.Result{Err: fetch.NewError(t.Context(), request, context.DeadlineExceeded)}
	require.NoError(t, got.UnmarshalBinary(encoded(t, &failed)))
	assert.Equal(t, failed.Err.Error(), got.Err.Error())
	assert.Equal(t, fetch.ErrTimeout, fetch.KindOf(got.Err))
	require.ErrorIs(t, got.Err, context.DeadlineExceeded)
	assert.Nil(t, got.Header())
	assert.Zero(t, got.Status)
	assert.Empty(t, got.URL, "no response came")
}

// plain is r without the function that parses its header.
func plain(r fetch.Result) fetch.Result {
	r.Header()
	r.SetHeader(nil)
	return r
}

// What cannot be decoded is an error that says so, and changes nothing.
func TestEncodedBadly(t *testing.T) {
	request := fetch.Request{URL: "http://h.test/", Header: http.Header{"A": {"1"}}}
	result := fetch.Result{Status: 200, Err: errors.New("odd")}
	for name, data := range map[string][]byte{"nothing": nil, "another version": {9, 0, 0, 0}, "version 1": {1, 0, 0, 0, 0, 0, 0}, "a claim": {2, 0, 0, 0xff, 0xff, 0xff, 0x7f}} {
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

// Whatever comes, there is no panic, and what can be decoded says the same when it has been encoded
// again.
func FuzzEncoding(f *testing.F) {
	f.Add(encoded(f, &fetch.Request{Index: 7, Method: "PUT", URL: "http://h.test/", Header: http.Header{"A": {"1", "2"}, "B": nil}, Body: []byte("body")}))
	f.Add(encoded(f, &fetch.Request{}))
	result := fetch.Result{Status: 200, URL: "http://h.test/", Body: []byte("body"), Attempts: 1, Duration: time.Second}
	result.SetHeader(func() http.Header { return http.Header{"A": {"1", "2"}, "B": nil} })
	f.Add(encoded(f, &result))
	cause := &fetch.PanicError{URL: "u", Value: errors.Join(io.EOF, syscall.ECONNREFUSED), Stack: []byte("stack")}
	f.Add(encoded(f, &fetch.Result{Err: &fetch.Error{Kind: fetch.ErrDial, URL: "http://h.test/", Err: cause}}))
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
			if res.Err != nil {
				require.Equal(t, res.Err.Error(), resAgain.Err.Error())
			}
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
	// fetch: decode: not an encoding of this version of the package
}
