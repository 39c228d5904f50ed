package fetchtest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch"
)

// Hosts with several addresses, not all of which can be reached: RFC 8305.
func eyeballCases() []doerCase {
	return []doerCase{
		{name: "first address is silent", run: func(x *exchange) {
			x.dualStack(func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
		}},
		{name: "first address refuses", run: func(x *exchange) {
			x.dualStack(func(context.Context) error { return syscall.ECONNREFUSED })
		}},
	}
}

// dualStack makes requests to a host whose name has the addresses ::1 and 127.0.0.1, through a
// dialer that finds it in a DNS of the test's. Connections to ::1 do what dead does, whether or not
// the machine has IPv6. Where it has, the dialer tries that first.
func (x *exchange) dualStack(dead func(context.Context) error) {
	const host = "dual.test"
	dialer := &net.Dialer{
		Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go serveDNS(server) // ends when the resolver closes the connection
			return client, nil
		}},
		ControlContext: func(ctx context.Context, network, _ string, _ syscall.RawConn) error {
			if network == "tcp6" {
				return dead(ctx)
			}
			return nil
		},
	}
	closeIdle(x.doer)
	x.doer = x.newDoer(Route{Dial: dialer.DialContext})
	url := x.fill("{http}://" + host + ":{port}/a")
	begun := time.Now()
	res, _ := x.do(x.t.Context(), &fetch.Request{URL: url})
	x.isNext(url, res)
	assert.Less(x.t, time.Since(begun), moment, "the time until the answer of a host whose first address is dead")
	x.next()
}

// serveDNS answers each question on conn, which is as if of TCP (RFC 1035 §4.2.2), with ::1 or
// 127.0.0.1.
func serveDNS(conn net.Conn) {
	const typeA, typeAAAA, headSize = 1, 28, 12
	defer conn.Close()
	for {
		size, err := readBytes(conn, 2)
		if err != nil {
			return
		}
		query, err := readBytes(conn, int(binary.BigEndian.Uint16(size)))
		if err != nil || len(query) < headSize {
			return
		}
		end := strings.IndexByte(string(query[headSize:]), 0) // of the one name that is asked for
		if end < 0 || len(query) < headSize+end+5 {
			return
		}
		question := query[headSize : headSize+end+5]
		var addr []byte
		switch binary.BigEndian.Uint16(question[end+1:]) {
		case typeA:
			addr = []byte{127, 0, 0, 1}
		case typeAAAA:
			addr = net.IPv6loopback
		}
		answers := byte(0)
		if addr != nil {
			answers = 1
		}
		// The ID; a response; the numbers of questions and answers.
		reply := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0}, question...)
		if addr != nil {
			// The name above, its type and class, for a minute.
			reply = append(reply, 0xc0, headSize, question[end+1], question[end+2], 0, 1, 0, 0, 0, 60, 0, byte(len(addr)))
			reply = append(reply, addr...)
		}
		if _, err := io.WriteString(conn, string(binary.BigEndian.AppendUint16(nil, uint16(len(reply))))+string(reply)); err != nil {
			return
		}
	}
}
