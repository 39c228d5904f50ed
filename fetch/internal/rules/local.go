package rules

import (
	"errors"
	"net"
	"strings"
	"syscall"
)

// LocalLimit tells what to do if err is this machine's fault and not the URL's, or "".
func LocalLimit(err error) string {
	switch {
	case IsFileLimit(err):
		return "too many open files: lower the strategy's limit or raise ulimit -n"
	case errors.Is(err, syscall.EADDRNOTAVAIL) && !isIPv6(err):
		return "no free local port: lower the strategy's limit, or let connections be reused"
	}
	return ""
}

// IsFileLimit reports whether err is a lack of file descriptors.
func IsFileLimit(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		ok && strings.Contains(dns.Err, syscall.EMFILE.Error()) // of which it keeps the text alone
}

// isIPv6 reports whether err is of a dial to an IPv6 address. There a machine that has no IPv6 says
// what it says if it has no port.
func isIPv6(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok {
		return false
	}
	to, ok := op.Addr.(*net.TCPAddr)
	return ok && to.IP.To4() == nil
}
