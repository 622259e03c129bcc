// Package amps drives the clients of 60East's AMPS against examples/amps: Python,
// Java and C++ by HTTP preflight, and JavaScript by WebSocket. Each goes through
// nginx and straight to the port, with TLS and without.
//
// Nothing is lost, added or changed, whatever the way is, and although a client's
// connection is cut twice.
//
//	go test ./interop/amps                      # from the root; ./test.sh installs the clients
//	go test ./interop/amps -run AMPS/python
//
// The programs are in clients. What they need is in the folder .build/amps, which
// is not kept in git.
package amps

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience ends a test that would otherwise hang. No test expects it to pass.
const patience = 2 * time.Minute

// TestMain fails if a goroutine of the library or of a test outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := goroutinesLeft(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines left over:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// await waits for an event.
func await(t *testing.T, what string, happened <-chan struct{}) {
	t.Helper()
	select {
	case <-happened:
	case <-time.After(patience):
		t.Fatalf("this did not happen: %s", what)
	}
}

// goroutinesLeft returns the stacks of the goroutines that run this module or
// the library, once those that are about to end have had the time to.
func goroutinesLeft() string {
	var left string
	for range 100 {
		buf := make([]byte, 8<<20)
		var of []string
		for i, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if i > 0 && strings.Contains(stack, "preflight") {
				of = append(of, stack)
			}
		}
		if left = strings.Join(of, "\n\n"); left == "" {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	return left
}
