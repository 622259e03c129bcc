//go:build cluster

package kubernetes

import (
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A cluster is an API server with its etcd. It has no nodes and no controllers: the test
// creates the resources that they would create.
type cluster struct {
	api        *api
	dir        string         // with the certificate of every server, cert.pem and key.pem
	roots      *x509.CertPool // verifies the certificate
	kubeconfig string
	command    string // the path of the command preflight
	// The addresses of the gateway that runs, without and with TLS.
	plain, secure string
}

const token = "administrator"

// runCluster runs all tests with one cluster.
func runCluster(t *testing.T, folder string) {
	enterNamespaces(t)
	c := startCluster(t)
	c.command = filepath.Join(folder, "preflight")
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		c.api.create(t, string(text))
	}
	for _, name := range []string{"istio-system", "istio-ingress", "ingress-nginx", "other"} {
		c.api.apply(t, `{apiVersion: v1, kind: Namespace, metadata: {name: `+name+`}}`)
	}
	t.Run("files", func(t *testing.T) { testFiles(t, c) })
	t.Run("envoygateway", func(t *testing.T) { testEnvoyGateway(t, c) })
	t.Run("istio", func(t *testing.T) { testIstio(t, c) })
	t.Run("traefik", func(t *testing.T) { testTraefik(t, c) })
}

// startCluster runs etcd and kube-apiserver.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{
		dir: dir, roots: lab.WriteCertificate(t, dir, "edge.example"),
		plain: nodeAddress + ":80", secure: nodeAddress + ":443",
	}
	const etcd, server = "127.0.0.1:2379", "127.0.0.1:6443"
	lab.StartDaemon(t, dir, 0, func([]string) []string {
		return []string{"etcd", "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level", "error",
			"--listen-client-urls", "http://" + etcd, "--advertise-client-urls", "http://" + etcd,
			"--listen-peer-urls", "http://127.0.0.1:2380"}
	}, func() bool { return lab.Accept(etcd) })

	certificate, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	c.api = &api{
		url:       "https://" + server,
		client:    &http.Client{Timeout: lab.Timeout, Transport: &http.Transport{TLSClientConfig: lab.Frontend{Roots: c.roots}.TLSConfig()}},
		resources: make(map[string]map[string]resource),
	}
	t.Cleanup(c.api.client.CloseIdleConnections)
	tokens := lab.WriteFile(t, dir, "tokens.csv", token+",administrator,1,system:masters\n")
	lab.StartDaemon(t, dir, 0, func([]string) []string {
		return []string{controlPlane(t, "kube-apiserver"), "--etcd-servers", "http://" + etcd,
			"--bind-address", "127.0.0.1", "--secure-port", "6443", "--advertise-address", nodeAddress,
			"--cert-dir", dir, "--tls-cert-file", certificate, "--tls-private-key-file", key,
			"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", certificate,
			"--service-account-signing-key-file", key, "--service-cluster-ip-range", "10.96.0.0/16",
			"--token-auth-file", tokens, "--authorization-mode", "RBAC", "-v", "0",
		}
	}, func() bool { return c.api.ready("/readyz") && c.api.ready("/api/v1/namespaces/default") })
	c.kubeconfig = lab.WriteFile(t, dir, "kubeconfig", `
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "`+c.api.url+`", certificate-authority: `+certificate+`}}]
users: [{name: test, user: {token: `+token+`}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`)
	return c
}
