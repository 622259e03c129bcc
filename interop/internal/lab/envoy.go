package lab

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// EnvoyFile is the file of deploy/ that StartEnvoy runs.
const EnvoyFile = "envoy/envoy.yaml"

// StartEnvoy runs Envoy with its file of deploy/. It is a StartFunc.
func StartEnvoy(t *testing.T, backend string, edits ...string) *Edge {
	t.Helper()
	dir := t.TempDir()
	roots := WriteCertificate(t, dir)
	config, base := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "base-id")
	configure := func(addresses []string, backend string) {
		socketAddress := func(address string) string {
			host, port, err := net.SplitHostPort(address)
			require.NoError(t, err)
			return "{ address: " + host + ", port_value: " + port + " }"
		}
		WriteFile(t, dir, "envoy.yaml", DeployFile(t, EnvoyFile, slices.Concat(edits, []string{
			"{ address: 0.0.0.0, port_value: 80 }", socketAddress(addresses[0]),
			"{ address: 0.0.0.0, port_value: 443 }", socketAddress(addresses[1]),
			"{ address: 127.0.0.1, port_value: 9007 }", socketAddress(backend),
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			// Two processes must never share a port.
			"- name: plain\n", "- name: plain\n      enable_reuse_port: false\n",
			"- name: secure\n", "- name: secure\n      enable_reuse_port: false\n",
		})...))
	}
	// Envoy does not remove the memory that processes share for a hot restart.
	removeShared := func(t *testing.T) {
		if id, err := os.ReadFile(base); err == nil {
			require.NoError(t, os.Remove("/dev/shm/envoy_shared_memory_"+string(id)+"0"))
			require.NoError(t, os.Remove(base))
		}
	}
	t.Cleanup(func() { removeShared(t) })
	command := []string{"envoy", "-c", config, "--base-id-path", base}
	d := StartDaemon(t, dir, 2, func(addresses []string) []string {
		removeShared(t) // of an attempt that found its ports taken
		configure(addresses, backend)
		return append(command, "--use-dynamic-base-id")
	}, func() bool {
		return HasLogged(t, dir, "starting main dispatch loop") // it has bound both ports by then
	})
	return &Edge{
		Plain: Frontend{Address: d.Addresses[0]},
		TLS:   Frontend{Address: d.Addresses[1], Roots: roots},
		Reload: func(backend string) {
			// Envoy reads its file once. A second process with the new file takes the
			// ports over from the first one.
			configure(d.Addresses, backend)
			id, err := os.ReadFile(base)
			require.NoError(t, err)
			process, _, output := runProcess(t, t.TempDir(), append(command, "--base-id", string(id), "--restart-epoch", "1"), func() bool { return true })
			require.NotNil(t, process, output)
		},
		Restart: func(t *testing.T) {
			removeShared(t)
			d.Restart(t)
		},
	}
}
