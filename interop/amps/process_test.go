package amps

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// buildServer builds examples/amps with the race detector, even if this test is built
// without it.
func buildServer(t *testing.T) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "amps")
	cmd := exec.Command("go", "build", "-race", "-o", binary, "./amps")
	cmd.Dir = filepath.Join("..", "..", "examples") // a module of its own
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
	return binary
}

// startServer runs the server until the end of the test, and returns its address. Its exit
// status must then be 0. After a data race it would be another one.
func startServer(t *testing.T, binary string, args ...string) (address string) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"-listen", "127.0.0.1:0"}, args...)...)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(out)
	first, err := lines.ReadString('\n')
	ended := make(chan error, 1)
	go func() {
		io.Copy(io.Discard, lines) // before Wait, which closes the pipe
		ended <- cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			require.NoError(t, err, "the exit status of the server")
		case <-time.After(timeout):
			cmd.Process.Kill()
			t.Errorf("the server did not end: %v", <-ended)
		}
	})
	require.NoError(t, err, "the first line of the server")
	address, ok := strings.CutPrefix(strings.TrimSpace(first), "listening on ")
	require.True(t, ok, first)
	return address
}

// An edge is nginx in front of a server: its addresses without and with TLS.
type edge struct{ plain, tls string }

// startNginx runs nginx with the configuration of the example, and with edits of it.
func startNginx(t *testing.T, certificates, backend string, edits ...string) edge {
	t.Helper()
	d := lab.StartDaemonOnSockets(t, 2, func(addresses []string) *exec.Cmd {
		edits := append(edits,
			"127.0.0.1:8080;", addresses[0]+";",
			"127.0.0.1:8443 ssl;", addresses[1]+" ssl;",
			"127.0.0.1:9007;", backend+";",
			" cert.pem;", " "+certificates+"/cert.pem;",
			" key.pem;", " "+certificates+"/key.pem;",
		)
		if os.Geteuid() == 0 { // otherwise the worker would be nobody, who cannot enter the folder
			edits = append(edits, "daemon off;", "daemon off; user root;")
		}
		dir := t.TempDir()
		config := lab.WriteFile(t, dir, "nginx.conf", lab.Edit(t, "examples/amps/nginx.conf", edits...))
		cmd := exec.Command(lab.FindBinary(t, "nginx"), "-p", dir, "-c", config, "-e", "stderr")
		cmd.Env = []string{"NGINX=3;4;"} // nginx itself passes its sockets to a new process in this way
		return cmd
	})
	return edge{d.Addresses[0], d.Addresses[1]}
}

// findInstalled returns the file of a client that matches a pattern below installed. The
// test fails if there is none, so that nothing is skipped in silence.
func findInstalled(t *testing.T, client, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(installed, pattern))
	require.NoError(t, err)
	require.NotEmpty(t, files, "the AMPS client for %s is missing: ./test.sh installs it", client)
	return files[0]
}
