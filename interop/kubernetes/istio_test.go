//go:build cluster

package kubernetes

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// testIstio tests istio.yaml with istiod, and an Envoy that plays the pod of the ingress
// gateway.
func testIstio(t *testing.T, c *cluster) {
	startIstio(t, c)
	file := lab.DeployFile(t, "kubernetes/istio.yaml")
	c.api.install(t, file)
	c.api.install(t, c.secret(t, "istio-ingress"))
	c.api.install(t, endpoints("default", podAddresses[0]))
	servePod(t, podAddresses[0])
	waitForTunnels(t, c, c.dialer(true))
	testTunnels(t, c, "/amps/report", false, true)
	t.Run("path", func(t *testing.T) {
		testPaths(t, c, map[string]string{
			"/client/a//b/%2Fc%20/report": "/a//b/%2Fc%20/report",
			"/client/a/./b/../report":     "/a/report",
		})
	})
	t.Run("edits", func(t *testing.T) {
		objects := splitObjects(t, file)
		route, filter := objects["VirtualService"], objects["EnvoyFilter"]
		testEdits(t, c, []edit{
			{"another path", strings.Replace(route, "            prefix: /client/\n", "            prefix: /other/\n", 1), func(d *preflight.PreflightDialer) { d.Path = "/other/amps" }, ""},
			// The listener of Envoy changes. Its connections have the time of drainDuration.
			{"the listener", strings.Replace(filter, "              - upgrade_type: tcp\n", "", 1), func(d *preflight.PreflightDialer) {
				d.Carriers = []preflight.Carrier{preflight.CarrierUpgrade}
				d.Path = "/other/amps"
			}, "[no-upgrades]"},
		})
		c.api.apply(t, route)
		c.api.apply(t, filter)
		waitForTunnels(t, c, c.dialer(true, preflight.CarrierUpgrade))
	})
	t.Run("mistakes", func(t *testing.T) {
		testMistakes(t, c, "kubernetes/istio.yaml", c.dialer(true, preflight.CarrierUpgrade), []mistake{
			{"no EnvoyFilter", "EnvoyFilter", []string{"istio: ingressgateway", "istio: another"}, "[no-upgrades]"},
			{"the namespace of the EnvoyFilter", "EnvoyFilter", []string{"namespace: istio-ingress", "namespace: other"}, "[no-upgrades]"},
			{"the namespace of the Gateway", "VirtualService", []string{"istio-ingress/edge", "edge"}, "[no-route]"},
			{"the namespace of the server", "VirtualService", []string{"host: preflight", "host: preflight.other.svc.cluster.local"}, "[server-down]"},
			{"no such port", "VirtualService", []string{"number: 9007", "number: 9008"}, "[server-down]"},
			{"another gateway", "Gateway", []string{"istio: ingressgateway", "istio: another"}, "connection refused"},
		})
	})
}

// startIstio runs istiod and the Envoy of the gateway. Istio's own build of Envoy is in no
// package registry, so the test turns off what only that build has: the exchange of metadata
// between sidecars.
func startIstio(t *testing.T, c *cluster) {
	t.Helper()
	dir := t.TempDir()
	mesh := lab.WriteFile(t, dir, "mesh.yaml", "enableAutoMtls: false\naccessLogFile: \"\"\n")
	lab.StartDaemon(t, dir, 0, func([]string) []string {
		return []string{"/usr/bin/env", "HOME=" + dir, "PILOT_ENABLE_ALPN_FILTER=false", "PILOT_ENABLE_METADATA_EXCHANGE=false",
			"XDS_AUTH_PLAINTEXT=true", "PILOT_DEBOUNCE_AFTER=10ms", "POD_NAMESPACE=istio-system",
			controlPlane(t, "pilot-discovery"), "discovery", "--kubeconfig", c.kubeconfig, "--meshConfig", mesh,
			"--grpcAddr", "127.0.0.1:15010", "--httpAddr", "127.0.0.1:18080", "--monitoringAddr", "127.0.0.1:15014",
			"--secureGRPCAddr", "", "--httpsAddr", "", "--ctrlz_port", "0", "--shutdownDuration", "0s"}
	}, func() bool { return lab.Accept("127.0.0.1:15010") })

	c.api.install(t, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: ingressgateway, namespace: istio-ingress}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: ingressgateway, namespace: istio-ingress}
rules: [{apiGroups: [""], resources: [secrets], verbs: [get, watch, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: ingressgateway, namespace: istio-ingress}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: ingressgateway}
subjects: [{kind: ServiceAccount, name: ingressgateway}]
`)
	request := `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":["istio-ca"]}}`
	answer, err := c.api.do(t, http.MethodPost, "/api/v1/namespaces/istio-ingress/serviceaccounts/ingressgateway/token", "application/json", []byte(request))
	require.NoError(t, err)
	var token struct{ Status struct{ Token string } }
	require.NoError(t, json.Unmarshal(answer, &token))
	bootstrap := lab.WriteFile(t, dir, "envoy.yaml", `
node:
  id: router~`+nodeAddress+`~ingressgateway-1.istio-ingress~istio-ingress.svc.cluster.local
  cluster: ingressgateway.istio-ingress
  metadata: {NAMESPACE: istio-ingress, SERVICE_ACCOUNT: ingressgateway, CLUSTER_ID: Kubernetes, LABELS: {istio: ingressgateway}}
dynamic_resources:
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
  ads_config:
    api_type: GRPC
    transport_api_version: V3
    grpc_services:
    - envoy_grpc: {cluster_name: istiod}
      initial_metadata: [{key: authorization, value: Bearer `+token.Status.Token+`}]
static_resources:
  clusters:
  - name: istiod
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: istiod
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 15010}}}}]}]
`)
	lab.StartDaemon(t, dir, 0, func([]string) []string {
		return []string{"envoy", "-c", bootstrap, "--log-level", "warning", "--use-dynamic-base-id", "--concurrency", "2", "--drain-time-s", "45"}
	}, func() bool { return true }) // it listens when istio.yaml is there
}
