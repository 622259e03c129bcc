//go:build cluster

package kubernetes

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var idle = flag.Int("idle", 50, "how many silent tunnels of each kind TestCluster/envoygateway/memory opens; there are 6 kinds")

// testMemory measures what silent tunnels need in Envoy, with and without TLS, and in the
// buffers of the kernel. docs/kubernetes-scale.md has the figures. It requires only that all
// tunnels live. They stay open together, because Envoy keeps the memory of those that end.
func testMemory(t *testing.T, c *cluster) {
	log := newMessageLog()
	startPod(t, podAddresses[0], log)
	c.api.apply(t, endpoints("default", podAddresses[0]))
	waitForTunnels(t, c, c.dialer(true))
	envoy := findProcess(t, "envoy")
	var open []*podClient
	for _, tls := range []bool{false, true} {
		for _, carrier := range allCarriers {
			before := residentMemory(t, envoy)
			open = append(open, openClients(t, c, log, *idle, c.dialer(tls, carrier))...)
			t.Logf("%s, tls=%t: %d tunnels, each needs %.1f kB of Envoy's memory",
				carrier, tls, *idle, float64(residentMemory(t, envoy)-before)/float64(*idle)/1000)
		}
	}
	sockets, buffers := socketBuffers(t)
	t.Logf("%d sockets have %d bytes in their buffers", sockets, buffers)
	forEach(t, open, func(i int) error { return open[i].say(log) })
	forEach(t, open, func(i int) error { return open[i].tunnel.Close() })
}

// residentMemory returns how many bytes of memory a process uses.
func residentMemory(t *testing.T, process int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", process))
	require.NoError(t, err)
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	require.NoError(t, err)
	return pages * os.Getpagesize()
}

// socketBuffers returns how many established TCP sockets the namespace has, and how many
// bytes the kernel has reserved for what is in their buffers.
func socketBuffers(t *testing.T) (sockets, size int) {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), "ss", "--tcp", "--memory", "--no-header", "--numeric").Output()
	require.NoError(t, err)
	// What is received, sent, reserved for either, and queued for sending: see ss(8).
	for _, match := range regexp.MustCompile(`skmem:\(r(\d+),rb\d+,t(\d+),tb\d+,f(\d+),w(\d+),`).FindAllStringSubmatch(string(text), -1) {
		sockets++
		for _, digits := range match[1:] {
			n, err := strconv.Atoi(digits)
			require.NoError(t, err)
			size += n
		}
	}
	return sockets, size
}

// findProcess returns the number of the only process with this name.
func findProcess(t *testing.T, name string) (number int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	require.NoError(t, err)
	for _, file := range files {
		if text, _ := os.ReadFile(file); string(text) == name+"\n" {
			require.Zero(t, number, "there are two processes of this name")
			number, err = strconv.Atoi(strings.Split(file, "/")[2])
			require.NoError(t, err)
		}
	}
	require.NotZero(t, number, "there is no process of this name")
	return number
}

// cpuTime returns the time of CPU that a process has used.
func cpuTime(t *testing.T, process int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process))
	require.NoError(t, err)
	fields := strings.Fields(string(text[strings.LastIndex(string(text), ")")+1:])) // see proc_pid_stat(5)
	user, err := strconv.Atoi(fields[11])
	require.NoError(t, err)
	system, err := strconv.Atoi(fields[12])
	require.NoError(t, err)
	return time.Duration(user+system) * time.Second / 100 // USER_HZ is 100 on Linux
}
