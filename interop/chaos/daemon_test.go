package chaos

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"

	"github.com/stretchr/testify/require"
)

// A daemon is a process that accepts connections.
type daemon struct {
	address string
	process *os.Process
	ended   chan struct{}
}

// proxies start in a folder of their own, and run until the end of the test.
var proxies = []struct {
	name  string
	start func(*testing.T) *daemon
}{
	{"nginx", func(t *testing.T) *daemon {
		dir := t.TempDir()
		return launch(t, func(address string) *exec.Cmd {
			config := render(t, dir, "nginx.conf", map[string]any{"Root": os.Geteuid() == 0, "Listen": address})
			cmd := exec.Command(findBinary(t, "nginx"), "-p", dir, "-c", config, "-e", "stderr")
			cmd.Env = []string{"NGINX=3;"} // as it hands its sockets to its successor
			return cmd
		})
	}},
	{"haproxy", func(t *testing.T) *daemon {
		dir := t.TempDir()
		return launch(t, func(string) *exec.Cmd {
			return exec.Command(findBinary(t, "haproxy"), "-db", "-f", render(t, dir, "haproxy.cfg", nil))
		})
	}},
}

// findBinary finds a proxy. That it is missing must not pass for a success.
func findBinary(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil { // Debian keeps servers out of the PATH of users
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	require.NoError(t, err, "apt-get install "+name)
	return path
}

// render executes a template of testdata into dir.
func render(t *testing.T, dir, name string, data any) (file string) {
	t.Helper()
	text, err := template.ParseFiles(filepath.Join("testdata", name+".tmpl"))
	require.NoError(t, err)
	file = filepath.Join(dir, name)
	config, err := os.Create(file)
	require.NoError(t, err)
	defer config.Close()
	require.NoError(t, text.Execute(config, data))
	return file
}

// launch starts a process on a socket that is bound for it, as descriptor 3: no
// one else can take the port, and who connects is accepted once it is ready. It
// is asked to end at the end of the test.
func launch(t *testing.T, command func(address string) *exec.Cmd) *daemon {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	require.NoError(t, err)
	defer socket.Close()

	d := &daemon{address: l.Addr().String(), ended: make(chan struct{})}
	cmd := command(d.address)
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	require.NoError(t, cmd.Start())
	d.process = cmd.Process
	go func() {
		defer close(d.ended)
		cmd.Wait() // it may have been killed
	}()
	t.Cleanup(func() {
		// A kill would leave the workers of a master process behind.
		d.process.Signal(syscall.SIGTERM)
		<-d.ended
	})
	return d
}

// workers are the processes of a daemon, but the first.
func (d *daemon) workers(t *testing.T) (pids []int) {
	t.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", d.process.Pid))
	require.NoError(t, err)
	for _, child := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(child)
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	return pids
}

// kill ends a daemon as a lack of memory does, its workers after it: it would
// start new ones.
func (d *daemon) kill(t *testing.T) {
	t.Helper()
	pids := d.workers(t)
	require.NoError(t, d.process.Kill())
	killAll(t, pids)
	<-d.ended
}

func killAll(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
}
