// Package chaos breaks what lies between a dialer and a listener, at every stage
// of a handshake and of a transfer: toxiproxy on each side of a real reverse
// proxy, and the death of the proxy or of the server.
//
// Whatever happens, no byte is corrupt or out of order, what was cut short is an
// error at both ends, nothing waits beyond its deadline and nothing is left over.
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
	soakTunnels = flag.Int("soak", 3000, "how many tunnels the soak opens")
	soakSeed    = flag.Uint64("seed", 0, "the seed of the soak, which every run logs; 0: a new one")
)

// patience ends what would otherwise hang. Nothing that is expected to happen
// waits for it.
const patience = 30 * time.Second

// TestMain fails if anything outlives the tests.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		serveAsChild()
		return
	}
	before := descriptors()
	code := m.Run()
	if left := leftovers(before); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "left over:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// leftovers returns the stacks of all goroutines, whoever they belong to, and the
// descriptors that were not open before, once what is about to end has had the
// time to.
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

// goroutines returns the stacks of all but this one and the runner of the tests.
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

// descriptors returns what every open descriptor leads to, but those of the
// runtime's poller, which come with the first connection and stay.
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
