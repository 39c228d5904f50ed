package rules_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"fetchbench/fetch/internal/rules"
)

// Retry, Shard, the fleet and the engines ask this: one that says yes too often has an order placed
// twice, and one that says it too seldom gives up what another attempt would have got.
func TestRepeatable(t *testing.T) {
	for method, want := range map[string]bool{
		"": true, "GET": true, "HEAD": true, "OPTIONS": true, "TRACE": true, "PUT": true, "DELETE": true,
		"get": true, "Head": true, "oPTIONS": true, "put": true, "Delete": true,
		"POST": false, "post": false, "PATCH": false, "CONNECT": false, "PROPFIND": false, "GETS": false, " GET": false,
	} {
		assert.Equal(t, want, rules.Repeatable(method, nil), "%q", method)
		assert.Equal(t, want, rules.Repeatable(method, http.Header{"Content-Type": {"text/plain"}}), "%q", method)
		assert.Equal(t, want, rules.Repeatable(method, http.Header{"Idempotency-Key": {}}), "%q with a key that is not sent", method)
	}
	for name, want := range map[string]bool{
		"Idempotency-Key": true, "idempotency-key": true, "IDEMPOTENCY-KEY": true,
		"X-Idempotency-Key": true, "x-idempotency-key": true,
		"Idempotency": false, "Idempotency-Key-2": false, "X-Request-Id": false,
	} {
		assert.Equal(t, want, rules.Repeatable("POST", http.Header{name: {"1"}}), name)
		assert.Equal(t, want, rules.Repeatable("PATCH", http.Header{"A": {"b"}, name: {""}}), name)
		assert.True(t, rules.Repeatable("GET", http.Header{name: {"1"}}), name)
	}
}
