//go:build cluster

package kubernetes

import (
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
)

// testTraefik tests traefik.yaml, and ingress-nginx.yaml with Traefik's provider for the
// annotations of ingress-nginx. The controller of ingress-nginx itself, which is retired, is
// in no package registry.
func testTraefik(t *testing.T, c *cluster) {
	startTraefik(t, c)
	c.api.install(t, c.secret(t, "default"))
	c.api.install(t, endpoints("default", podAddresses[0]))
	servePod(t, podAddresses[0])
	t.Run("gateway", func(t *testing.T) {
		c.api.install(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: traefik}
spec: {controllerName: traefik.io/gateway-controller}
`)
		c.api.install(t, lab.DeployFile(t, "kubernetes/traefik.yaml"))
		c := *c
		c.plain, c.secure = nodeAddress+":8000", nodeAddress+":8443"
		waitForTunnels(t, &c, c.dialer(true))
		testTunnels(t, &c, "/amps/report", false, true)
		t.Run("edits", func(t *testing.T) {
			route := splitObjects(t, lab.DeployFile(t, "kubernetes/traefik.yaml"))["HTTPRoute"]
			defer c.api.remove(t, otherRoute.Replace(route))
			testEdits(t, &c, []edit{
				{"another route", otherRoute.Replace(route), func(d *preflight.PreflightDialer) { d.Path = "/other/amps" }, ""},
			})
		})
		t.Run("mistakes", func(t *testing.T) {
			testMistakes(t, &c, "kubernetes/traefik.yaml", c.dialer(true), []mistake{
				{"no such port", "HTTPRoute", []string{"port: 9007", "port: 9008"}, "[server-fault]"},
				{"another namespace", "HTTPRoute", []string{"name: preflight\nspec", "name: preflight\n  namespace: other\nspec"}, "[no-route]"},
				{"another class", "Gateway", []string{"gatewayClassName: traefik", "gatewayClassName: other"}, "[cert-name]"},
			})
		})
	})
	t.Run("ingress", func(t *testing.T) {
		c.api.install(t, `
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: nginx}
spec: {controller: k8s.io/ingress-nginx}
`)
		c.api.install(t, lab.DeployFile(t, "kubernetes/ingress-nginx.yaml"))
		waitForTunnels(t, c, c.dialer(true))
		testTunnels(t, c, "/client/amps/report", true) // port 80 redirects to 443
		t.Run("mistakes", func(t *testing.T) {
			testMistakes(t, c, "kubernetes/ingress-nginx.yaml", c.dialer(true), []mistake{
				{"wrong port name", "Ingress", []string{"name: tunnels", "name: tunnel"}, "[server-down]"},
				{"another class", "Ingress", []string{"ingressClassName: nginx", "ingressClassName: other"}, "[cert-name]"},
				{"another namespace", "Ingress", []string{"name: preflight\n  annotations", "name: preflight\n  namespace: other\n  annotations"}, "[cert-name]"},
			})
		})
	})
}

// startTraefik runs Traefik with both providers.
func startTraefik(t *testing.T, c *cluster) {
	t.Helper()
	dir := t.TempDir()
	config := lab.WriteFile(t, dir, "traefik.yml", `
global: {checkNewVersion: false, sendAnonymousUsage: false}
log: {level: WARN}
entryPoints:
  web: {address: ":80"}
  websecure: {address: ":443", http: {tls: {}}}
  gateway: {address: ":8000"}
  gatewaysecure: {address: ":8443"}
providers:
  providersThrottleDuration: 100ms
  kubernetesGateway: {}
  kubernetesIngressNGINX: {}
`)
	lab.StartDaemon(t, dir, 0, func([]string) []string {
		return []string{"/usr/bin/env", "HOME=" + dir, "KUBECONFIG=" + c.kubeconfig, lab.FindBinary(t, "traefik"), "--configfile=" + config}
	}, func() bool { return lab.Accept("127.0.0.1:443", "127.0.0.1:8443") })
}
