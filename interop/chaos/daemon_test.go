package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// proxies are the proxies in front of the servers. Each has a folder of its own. Each is
// tested with CarrierUpgrade, and with one of the carriers that frame.
var proxies = []struct {
	name   string
	framed preflight.Carrier
	start  func(*testing.T) *lab.Daemon
}{
	{"nginx", preflight.CarrierWebSocket, func(t *testing.T) *lab.Daemon {
		dir := t.TempDir()
		return lab.StartDaemonOnSockets(t, 1, func(addresses []string) *exec.Cmd {
			config := lab.Render(t, os.DirFS("testdata"), dir, "nginx.conf", map[string]any{"Root": os.Geteuid() == 0, "Listen": addresses[0]})
			cmd := exec.Command(lab.FindBinary(t, "nginx"), "-p", dir, "-c", config, "-e", "stderr")
			cmd.Env = []string{"NGINX=3;"} // nginx itself passes its sockets to a new process in this way
			return cmd
		})
	}},
	{"haproxy", preflight.CarrierFramed, func(t *testing.T) *lab.Daemon {
		dir := t.TempDir()
		return lab.StartDaemonOnSockets(t, 1, func([]string) *exec.Cmd {
			return exec.Command(lab.FindBinary(t, "haproxy"), "-db", "-f", lab.Render(t, os.DirFS("testdata"), dir, "haproxy.cfg", nil))
		})
	}},
}

// workers returns the child processes of a daemon.
func workers(t *testing.T, d *lab.Daemon) (pids []int) {
	t.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", d.Process.Pid))
	require.NoError(t, err)
	for _, child := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(child)
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	return pids
}

// killDaemon kills a daemon, as the kernel does if memory runs out. It kills the workers
// after the daemon, which would otherwise start new ones.
func killDaemon(t *testing.T, d *lab.Daemon) {
	t.Helper()
	pids := workers(t, d)
	require.NoError(t, d.Process.Kill())
	killAll(t, pids)
	<-d.Ended
}

func killAll(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
}
