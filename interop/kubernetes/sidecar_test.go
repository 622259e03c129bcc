//go:build cluster

package kubernetes

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// A container is what a test needs of a container in a Deployment.
type container struct {
	Name          string
	Args          []string
	RestartPolicy string
	VolumeMounts  []struct{ MountPath string }
}

// testSidecars runs the containers of both sidecar files as processes, with the arguments of
// the files: a redis-cli that knows nothing of preflight reaches a redis-server that knows
// nothing of it, through a gateway that runs already.
func testSidecars(t *testing.T, c *cluster) {
	c.api.apply(t, endpoints("default", podAddresses[0]))
	server := sidecars(t, c, "sidecar-serve.yaml")
	client := sidecars(t, c, "sidecar-forward.yaml")
	// The volumes. Both pods mount their Secret at the same path.
	folder := server[0].VolumeMounts[0].MountPath
	require.Equal(t, folder, client[0].VolumeMounts[0].MountPath)
	require.NoError(t, syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	require.NoError(t, os.MkdirAll(folder, 0o755))
	const secret = "0123456789abcdef0123456789abcdef"
	lab.WriteFile(t, folder, "tokens", "example "+secret+"\n")
	lab.WriteFile(t, folder, "fields", "Authorization: Bearer "+secret+"\n")
	hosts := lab.WriteFile(t, t.TempDir(), "hosts", nodeAddress+" edge.example\n")
	require.NoError(t, syscall.Mount(hosts, "/etc/hosts", "", syscall.MS_BIND, ""))

	start := func(program string, args []string, ready string) {
		lab.StartDaemon(t, t.TempDir(), 0, func([]string) []string {
			return append([]string{"/usr/bin/env", "SSL_CERT_FILE=" + filepath.Join(c.dir, "cert.pem"), program}, args...)
		}, func() bool { return lab.Accept(ready) })
	}
	// Each sidecar runs before the container that needs it.
	start(c.command, server[0].Args, podAddresses[0]+":9007")
	start(lab.FindBinary(t, server[1].Args[0]), server[1].Args[1:], "127.0.0.1:6379")
	start(c.command, client[0].Args, "127.0.0.1:16379")

	args := client[1].Args
	for i, arg := range args {
		if arg == "-r" {
			args[i+1] = "3" // instead of for ever
		}
		if arg == "-i" {
			args[i+1] = "0"
		}
	}
	lab.WaitUntil(t, "redis-cli gets its answers", func() bool {
		output, err := exec.CommandContext(t.Context(), lab.FindBinary(t, args[0]), args[1:]...).CombinedOutput()
		if err == nil && string(output) == "PONG\nPONG\nPONG\n" {
			return true
		}
		t.Logf("%v: %s", err, output)
		return false
	})
}

// sidecars applies a file with a Deployment, and returns its sidecar and its container.
func sidecars(t *testing.T, c *cluster, name string) []container {
	t.Helper()
	file := lab.DeployFile(t, "kubernetes/"+name)
	c.api.install(t, file)
	var deployment struct {
		Spec struct {
			Template struct {
				Spec struct{ InitContainers, Containers []container }
			}
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(file), &deployment))
	pod := deployment.Spec.Template.Spec
	require.Len(t, pod.InitContainers, 1)
	require.Len(t, pod.Containers, 1)
	require.Equal(t, "Always", pod.InitContainers[0].RestartPolicy, "a native sidecar")
	return []container{pod.InitContainers[0], pod.Containers[0]}
}
