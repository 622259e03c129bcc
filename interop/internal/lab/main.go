// Package lab is the kit that the interop tests share. It runs real servers and
// proxies as processes, and it has what tests need to serve, to dial and to wait.
//
// A test package stands in a folder of its own, two folders below the root of the
// repository: DeployFile and FindBinary look for files relative to it.
//
// Everything that a function of this package starts ends with the test.
package lab

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Timeout fails a test that would otherwise hang. No test expects it to pass.
const Timeout = 30 * time.Second

// Run runs the tests of a package for its TestMain, and returns the exit status.
// The tests fail if a goroutine of this module or of the library is still running
// when they have ended.
func Run(m *testing.M) (code int) {
	code = m.Run()
	if leaked := leakedGoroutines(); code == 0 && leaked != "" {
		fmt.Fprintln(os.Stderr, "goroutines are still running:\n"+leaked)
		code = 1
	}
	return code
}

// leakedGoroutines returns the stacks of the goroutines that run this module or
// the library. Goroutines that are about to end have two seconds to do so.
func leakedGoroutines() (leaked string) {
	for range 100 {
		buf := make([]byte, 8<<20)
		var stacks []string
		for i, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if i > 0 && strings.Contains(stack, "preflight") { // the first one is this goroutine
				stacks = append(stacks, stack)
			}
		}
		if leaked = strings.Join(stacks, "\n\n"); leaked == "" {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	return leaked
}
