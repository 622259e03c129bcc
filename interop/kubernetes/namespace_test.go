//go:build cluster

package kubernetes

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// insideVariable is set in the process that runs inside of the namespaces. Its value is the
// folder with what the test needs from the network: the definitions of the custom resources
// as YAML, and the command preflight.
const insideVariable = "PREFLIGHT_CLUSTER"

// The addresses of the cluster. All are on the loopback interface of the namespace. The
// pods are in the range that the files of deploy/kubernetes trust.
const (
	nodeAddress   = "10.0.0.9"
	clientAddress = "203.0.113.7"
)

// podAddresses are the addresses for pods. A test that starts pods takes from the front.
var podAddresses = []string{"10.244.1.1", "10.244.1.2"}

// TestCluster applies the files of deploy/kubernetes, as they are, to a real API server, and
// makes tunnels through the real gateways that read them there.
//
// The gateways have fixed ports, such as 80 and 443, and write to fixed files. So the test
// runs itself again in a network namespace of its own. Its own mounts and its own process
// numbers ensure that no file and no process is left over.
//
// The process in the namespace runs itself again for each pod.
func TestCluster(t *testing.T) {
	if address := os.Getenv(podVariable); address != "" {
		runPod(t, address)
		return
	}
	if folder := os.Getenv(insideVariable); folder != "" {
		runCluster(t, folder)
		return
	}
	if os.Geteuid() != 0 {
		t.Fatal("TestCluster needs root: it runs in a network namespace of its own. The test of the schemas needs no root")
	}
	folder := t.TempDir()
	lab.RunCommand(t, "go", "build", "-C", "../../cmd/preflight", "-o", filepath.Join(folder, "preflight"), ".")
	for i, file := range moduleFiles(t, crds) {
		lab.WriteFile(t, folder, strconv.Itoa(i)+".yaml", string(file))
	}
	certs := "/certs" // Envoy Gateway reads its certificates there, and nowhere else
	if os.Mkdir(certs, 0o755) == nil {
		defer os.Remove(certs)
	}
	program, err := os.Executable()
	require.NoError(t, err)
	pattern := flag.Lookup("test.run").Value.String()
	if pattern == "" {
		pattern = "^TestCluster$"
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	inside := exec.CommandContext(ctx, program, "-test.run="+pattern, "-test.v="+flag.Lookup("test.v").Value.String(), "-test.timeout=5m",
		"-move="+strconv.Itoa(*moved), "-delay="+delay.String(), "-idle="+strconv.Itoa(*idle))
	inside.Env = append(os.Environ(), insideVariable+"="+folder)
	inside.Stdout, inside.Stderr = os.Stdout, os.Stderr
	inside.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := inside.Run(); err != nil {
		require.NotErrorIs(t, err, syscall.EPERM, "TestCluster needs root with CAP_SYS_ADMIN, which containers often lack")
		t.Fatalf("inside of the namespaces: %v", err)
	}
}

// enterNamespaces prepares the namespaces for the cluster.
func enterNamespaces(t *testing.T) {
	t.Helper()
	require.NoError(t, syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	require.NoError(t, syscall.Mount("proc", "/proc", "proc", 0, ""))
	for _, folder := range []string{"/certs", "/dev/shm"} { // Envoy leaves a file in /dev/shm
		require.NoError(t, syscall.Mount("tmpfs", folder, "tmpfs", 0, ""))
	}
	// The tests open more tunnels in a minute than there are ports, and TIME_WAIT lasts as long.
	require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("1"), 0))
	lab.RunCommand(t, "ip", "link", "set", "lo", "up")
	for _, address := range append([]string{nodeAddress, clientAddress}, podAddresses...) {
		lab.RunCommand(t, "ip", "address", "add", address+"/32", "dev", "lo")
	}
}

// controlPlane returns the path of a program that ./test.sh kubernetes builds.
func controlPlane(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../.build/kubernetes", name))
	require.NoError(t, err)
	require.FileExists(t, path, "./test.sh kubernetes builds it")
	return path
}
