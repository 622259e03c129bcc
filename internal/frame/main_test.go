package frame

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if left := goroutinesLeft(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines left over:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// goroutinesLeft returns the stacks of the goroutines that still run code of this package.
// It waits for up to 2 s until they have ended.
func goroutinesLeft() string {
	var left string
	for range 100 {
		buf := make([]byte, 1<<20)
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

// carriers are the two ways to send capsules.
var carriers = []struct {
	name      string
	webSocket bool
}{
	{"capsules", false},
	{"websocket", true},
}
