// Package rules holds what all engines of package fetch do alike: which URLs and header
// fields are sent, where a redirect leads and what goes along, how much of a body is read, and which
// addresses are connected to. Engines differ in how they carry a request; a caller
// must not have to ask which one it is to know what is safe.
//
// Its errors have no URL and no kind: the engine adds them.
package rules

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Shorten escapes what does not print, and cuts s to at most n bytes, dots included. What
// it returns it would return again.
func Shorten(s string, n int) string {
	short := cut(s, n)
	if !utf8.ValidString(short) || strings.ContainsFunc(short, func(r rune) bool { return !strconv.IsPrint(r) }) {
		q := strconv.Quote(short)
		short = q[1 : len(q)-1]
	}
	if len(s) > n || len(short) > n {
		short = cut(short, n-len("...")) + "..."
	}
	return short
}

// cut returns the first n bytes of s, or less where that would split a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := n; i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:n]
}
