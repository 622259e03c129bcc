package testkit

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Main runs the tests of a package. It fails if a goroutine of the library
// remains after them.
func Main(m *testing.M) {
	code := m.Run()
	if left := goroutinesLeft(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines left over:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// goroutinesLeft returns the stacks of the goroutines that run code of the
// library. It first gives those that are about to end some time.
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
