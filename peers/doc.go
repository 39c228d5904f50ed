// Package peers does what package fetch does by other libraries and programs, in one run on
// one machine, so that the ratios between them are honest. It consists of tests and
// benchmarks; README.md tells how to run and to read them.
package peers
