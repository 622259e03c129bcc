package differential

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"
)

// A site is where a proxy runs: in a folder of its own, at address, in front of the
// server at host and port.
type site struct {
	dir, address, ownPort string
	backend, host, port   string
}

// deployed returns a file of deploy/ with edits: old strings, each followed by its
// new one. That each old string occurs keeps the file and this test together.
func deployed(t *testing.T, file string, edits ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", file))
	require.NoError(t, err)
	for i := 0; i < len(edits); i += 2 {
		require.Contains(t, string(text), edits[i], file)
	}
	return strings.NewReplacer(edits...).Replace(string(text))
}

// cut returns text without what stands from one string up to another.
func cut(t *testing.T, text, from, to string) string {
	t.Helper()
	before, rest, found := strings.Cut(text, from)
	require.True(t, found, from)
	i := strings.Index(rest, to)
	require.GreaterOrEqual(t, i, 0, to)
	return before + rest[i:]
}

// write makes a file of the site.
func (s site) write(t *testing.T, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(s.dir, name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// render makes a file of the site from a template of the other tests.
func (s site) render(t *testing.T, name string, modules ...string) (path string) {
	t.Helper()
	tmpl, err := template.ParseFiles(filepath.Join("..", "testdata", name+".tmpl"))
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, tmpl.Execute(&text, map[string]any{"Root": os.Geteuid() == 0, "Dir": s.dir, "Modules": modules}))
	return s.write(t, name, text.String())
}

// findBinary finds a program: that of test.sh before any that is installed. That it
// is missing must not pass for a success.
func findBinary(t *testing.T, name string) string {
	t.Helper()
	for _, in := range []string{"../../.build/venv/bin", "", "/usr/sbin"} {
		if path, err := exec.LookPath(filepath.Join(in, name)); err == nil {
			return path
		}
	}
	t.Fatalf("%s is missing: ./test.sh installs it", name)
	return ""
}

// launch runs a proxy in front of backend until the end of the test, and returns its
// address. reached reports that a request to an address comes through: the port is
// the proxy's own then.
func launch(t *testing.T, backend string, command func(*testing.T, site) []string, reached func(address string) bool) string {
	t.Helper()
	var output string
	for range 5 {
		s := site{dir: t.TempDir(), address: freeAddress(t), backend: backend}
		s.host, s.port, _ = net.SplitHostPort(backend)
		_, s.ownPort, _ = net.SplitHostPort(s.address)
		if os.Geteuid() == 0 { // some become another user, who must enter the folder
			require.NoError(t, os.Chmod(filepath.Dir(s.dir), 0o755))
			require.NoError(t, os.Chmod(s.dir, 0o777))
		}
		var running bool
		if running, output = run(t, s, command(t, s), reached); running {
			return s.address
		}
		// Between our look and its start another process may take the port.
		taken := func(text string) bool { return strings.Contains(strings.ToLower(output), text) }
		if !slices.ContainsFunc([]string{"already in use", "cannot bind", "could not bind", "could not create listening"}, taken) {
			break
		}
	}
	t.Fatalf("the proxy does not start:\n%s", output)
	return ""
}

// run starts a process in the foreground and waits until it can be reached. If it
// ends before, its output says why.
func run(t *testing.T, s site, args []string, reached func(address string) bool) (running bool, output string) {
	t.Helper()
	file, err := os.Create(filepath.Join(s.dir, "output.log"))
	require.NoError(t, err)
	defer file.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, findBinary(t, args[0]), args[1:]...)
	cmd.Stdout, cmd.Stderr = file, file
	// A kill would leave the workers of a master process behind.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // the output says more than its status
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	timeout := time.After(patience)
	for !reached(s.address) {
		select {
		case <-poll.C:
			continue
		case <-ended:
		case <-timeout:
		}
		text, err := os.ReadFile(file.Name())
		require.NoError(t, err)
		return false, string(text)
	}
	return true, ""
}

// freeAddress finds a port that is free at the moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}
