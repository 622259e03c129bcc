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
		}, EnvoyPorts)...))
	}
	d := StartEnvoyDaemon(t, dir, func(addresses []string) { configure(addresses, backend) })
	return &Edge{
		Plain: Frontend{Address: d.Addresses[0]},
		TLS:   Frontend{Address: d.Addresses[1], Roots: roots},
		Reload: func(backend string) {
			// Envoy reads its file once. A second process with the new file takes the
			// ports over from the first one.
			configure(d.Addresses, backend)
			id, err := os.ReadFile(envoyBase(dir))
			require.NoError(t, err)
			process, _, output := runProcess(t, t.TempDir(), append(envoyCommand(dir), "--base-id", string(id), "--restart-epoch", "1"), func() bool { return true })
			require.NotNil(t, process, output)
		},
		Restart: func(t *testing.T) {
			removeEnvoyMemory(t, dir)
			d.Restart(t)
		},
	}
}

// EnvoyPorts are edits that make Envoy fail if one of its ports is taken. Otherwise two
// processes may share it.
var EnvoyPorts = []string{
	"- name: plain\n", "- name: plain\n      enable_reuse_port: false\n",
	"- name: secure\n", "- name: secure\n      enable_reuse_port: false\n",
}

// StartEnvoyDaemon runs Envoy with the envoy.yaml that configure writes to dir, at two
// addresses.
func StartEnvoyDaemon(t *testing.T, dir string, configure func(addresses []string)) *Daemon {
	t.Helper()
	t.Cleanup(func() { removeEnvoyMemory(t, dir) })
	return StartDaemon(t, dir, 2, func(addresses []string) []string {
		removeEnvoyMemory(t, dir) // of an attempt that found its ports taken
		configure(addresses)
		return append(envoyCommand(dir), "--use-dynamic-base-id")
	}, func() bool {
		return HasLogged(t, dir, "starting main dispatch loop") // it has bound both ports by then
	})
}

func envoyCommand(dir string) []string {
	return []string{"envoy", "-c", filepath.Join(dir, "envoy.yaml"), "--base-id-path", envoyBase(dir)}
}

// envoyBase returns the file with the number of the Envoy that runs in dir.
func envoyBase(dir string) string { return filepath.Join(dir, "base-id") }

// removeEnvoyMemory removes the memory that the processes of Envoy share for a hot restart.
// Envoy does not remove it.
func removeEnvoyMemory(t *testing.T, dir string) {
	if id, err := os.ReadFile(envoyBase(dir)); err == nil {
		require.NoError(t, os.Remove("/dev/shm/envoy_shared_memory_"+string(id)+"0"))
		require.NoError(t, os.Remove(envoyBase(dir)))
	}
}
