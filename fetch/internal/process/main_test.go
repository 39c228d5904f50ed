package process

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childMain is what a child of these tests does, and what a program does that they run.
var childMain = func() {}

func TestMain(m *testing.M) {
	childMain()
	// For the children: the race detector makes every program end a second later.
	os.Setenv("GORACE", "atexit_sleep_ms=1 "+os.Getenv("GORACE"))
	goleak.VerifyTestMain(m)
}
