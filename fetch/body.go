package fetch

import (
	"io"
	"net/http"

	"fetchbench/fetch/internal/rules"
)

// receive puts resp into res, and frees its connection for the next request or closes it.
func (c *Client) receive(a *attempt, resp *http.Response, res *Result) (err error) {
	defer resp.Body.Close()
	res.Status, res.header = resp.StatusCode, resp.Header
	res.Body, err = readBody(resp, quietReader{resp.Body, a}, c.limits().MaxBody)
	if err != nil {
		return err
	}
	// Of a body that it has decoded net/http does not tell whether there was a length; and a gzip
	// stream may go on after its end. crypto/tls accepts an end that is not signed.
	res.Unverified = resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 &&
		resp.ProtoMajor == 1 && resp.Close && rules.HasBody(resp.Request.Method, resp.StatusCode)
	return nil
}

// checkHead returns an error if the head of resp, which net/http has accepted, is odd, and
// closes its body then.
func checkHead(resp *http.Response) error {
	err := rules.CheckHead(resp.StatusCode, resp.Header)
	if err == nil {
		return nil
	}
	resp.Body.Close()
	return &Error{Kind: ErrProtocol, Err: err}
}

// readBody reads resp's body to its end, or a little more than most bytes of it.
func readBody(resp *http.Response, body io.Reader, most int64) ([]byte, error) {
	n := resp.ContentLength
	if !rules.HasBody(resp.Request.Method, resp.StatusCode) {
		n = 0 // it is the length of the body that another answer would have
	}
	if most >= 0 && n > most {
		return nil, rules.TooLargeError(most)
	}
	if n >= 0 && n <= rules.TrustedLength {
		b := make([]byte, n)
		if _, err := io.ReadFull(body, b); err != nil {
			return nil, err
		}
		if resp.ProtoMajor > 1 {
			// The end of an HTTP/2 stream may come in a frame of its own. To close the
			// body without having seen it would reset the stream.
			_, _ = io.Copy(io.Discard, body)
		}
		return b, nil
	}
	return rules.ReadAll(body, most)
}

// drain closes a body that nobody wants, after its end if that is near, so that
// the connection can serve the next request.
func drain(body io.ReadCloser, a *attempt) {
	_, _ = io.CopyN(io.Discard, quietReader{body, a}, 16<<10)
	body.Close()
}
