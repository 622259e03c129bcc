// Package chaos breaks the path between a dialer and a listener, at each stage of a
// handshake and of a transfer. Toxiproxy runs on each side of a real reverse proxy, and the
// tests kill the proxy or the server.
//
// In all cases, no byte may be corrupt or out of order. A transfer that was cut short must
// be an error at both ends. Nothing may wait beyond its deadline, and no goroutine and no
// descriptor may be left.
//
//	go test -run Soak -soak 100000 -seed 7 -timeout 1h .
package chaos

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

var (
	soakTunnels = flag.Int("soak", 3000, "number of tunnels that TestSoak opens")
	soakSeed    = flag.Uint64("seed", 0, "seed of TestSoak, which each run logs; 0: a new seed")
)

// TestMain fails if a goroutine or a descriptor is left after the tests.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		serveAsChild()
		return
	}
	before := descriptors()
	code := m.Run()
	if left := leftovers(before); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines or descriptors are left:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// leftovers returns the stacks of all goroutines, of any package, and the descriptors that
// were not open before. Goroutines that are about to end have some time to do so.
func leftovers(before map[string]string) string {
	var left string
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for range 250 {
		left = goroutines()
		for fd, file := range descriptors() {
			if before[fd] != file {
				left += fmt.Sprintf("descriptor %s: %s\n", fd, file)
			}
		}
		if left == "" {
			break
		}
		<-poll.C
	}
	return left
}

// goroutines returns the stacks of all goroutines except this one and the test runner.
func goroutines() string {
	var all string
	buf := make([]byte, 8<<20)
	for i, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if i > 0 && !strings.Contains(stack, "testing.(*T).Run(") {
			all += stack + "\n\n"
		}
	}
	return all
}

// descriptors returns the target of each open descriptor. It omits those of the runtime's
// poller, which are opened with the first connection and stay open.
func descriptors() map[string]string {
	const folder = "/proc/self/fd"
	entries, err := os.ReadDir(folder)
	if err != nil {
		panic(err)
	}
	open := make(map[string]string)
	for _, entry := range entries {
		file, err := os.Readlink(filepath.Join(folder, entry.Name()))
		if err == nil && !strings.HasPrefix(file, "anon_inode:[event") {
			open[entry.Name()] = file
		}
	}
	return open
}
