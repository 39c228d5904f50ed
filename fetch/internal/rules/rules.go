// Package rules holds what all engines of package fetch do alike: which URLs and header fields are
// sent, where a redirect leads and what goes along, how much of a body is read, which addresses are
// connected to, and what of a URL is shown. Engines differ in how they carry a request; a caller
// must not have to ask which one it is to know what is safe.
//
// Its errors have no URL and no kind: package fetch adds them.
package rules
