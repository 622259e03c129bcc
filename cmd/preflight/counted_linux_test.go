package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func init() { programs["counted"] = counted }

// counted is preflight. For each line of its standard input it also prints a line of counts.
func counted() {
	// Landlock does not let the program open the folder later.
	folder, err := os.Open("/proc/self/fd")
	fail(err)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			// The first collection empties what is kept for use again, the second frees it.
			runtime.GC()
			runtime.GC()
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			_, err := folder.Seek(0, io.SeekStart)
			fail(err)
			names, err := folder.Readdirnames(-1)
			fail(err)
			fmt.Println(len(names), runtime.NumGoroutine(), memory.HeapObjects)
		}
	}()
	main()
}

// processCounts are what a process holds at one moment.
type processCounts struct{ descriptors, goroutines, objects int }

// A countedProcess is a preflight that tells its counts.
type countedProcess struct {
	address string // that it listens at
	cmd     *exec.Cmd
	stdin   io.Writer
	stdout  *bufio.Reader

	mu      sync.Mutex
	log     strings.Builder
	written chan struct{} // closed by the next line of the log
}

func (p *countedProcess) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.written)
	p.written = make(chan struct{})
	return p.log.Write(b)
}

// logged returns how often the log matches a pattern.
func (p *countedProcess) logged(pattern string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(regexp.MustCompile(pattern).FindAllString(p.log.String(), -1))
}

// awaitLogged waits until the log matches a pattern n times, and reports whether it does.
func (p *countedProcess) awaitLogged(pattern string, n int) bool {
	expired := time.After(timeout)
	for {
		p.mu.Lock()
		written := p.written
		p.mu.Unlock()
		if p.logged(pattern) >= n {
			return true
		}
		select {
		case <-written:
		case <-expired:
			return false
		}
	}
}

// startCounted runs preflight until the test ends, and waits until it listens.
func startCounted(t *testing.T, args ...string) *countedProcess {
	t.Helper()
	p := &countedProcess{cmd: exec.Command("counted", args...), written: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	p.cmd.Stderr = p
	stdin, err := p.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.stdin, p.stdout = stdin, bufio.NewReader(stdout)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(timeout, func() { p.cmd.Process.Kill() })
		defer kill.Stop()
		require.NoError(t, p.cmd.Wait(), "it does not end in order")
		if t.Failed() {
			t.Logf("the end of the log of %v:\n%s", args, p.log.String()[max(0, p.log.Len()-4<<10):])
		}
	})
	const listening = `msg=listening address=(\S+)`
	require.True(t, p.awaitLogged(listening, 1), "it does not listen")
	p.mu.Lock()
	p.address = regexp.MustCompile(listening).FindStringSubmatch(p.log.String())[1]
	p.mu.Unlock()
	return p
}

// counts asks the process.
func (p *countedProcess) counts(t *testing.T) (c processCounts) {
	t.Helper()
	_, err := io.WriteString(p.stdin, "\n")
	require.NoError(t, err)
	line, err := p.stdout.ReadString('\n')
	require.NoError(t, err)
	_, err = fmt.Sscan(line, &c.descriptors, &c.goroutines, &c.objects)
	require.NoError(t, err)
	return c
}

// awaitCounts waits until a process has these descriptors and goroutines, and returns its
// counts.
func (p *countedProcess) awaitCounts(t *testing.T, descriptors, goroutines int) (c processCounts) {
	t.Helper()
	for limit := time.Now().Add(timeout); time.Now().Before(limit); { // each answer takes a collection
		if c = p.counts(t); c.descriptors == descriptors && c.goroutines == goroutines {
			return c
		}
	}
	require.Failf(t, "the counts stay others", "%d descriptors and %d goroutines, not %d and %d", c.descriptors, c.goroutines, descriptors, goroutines)
	return c
}
