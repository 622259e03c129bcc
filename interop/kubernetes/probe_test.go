package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// TestKubernetesProbe requires that the probe of the Deployment finds each listener ready.
// The alternative in its comment needs a Handler.
func TestKubernetesProbe(t *testing.T) {
	tcpSocket, httpGet := readinessProbe(t), readinessProbe(t, httpGetEdits...)
	bare := lab.Serve(t, &preflight.PreflightListener{RequireUpgrade: true}, func(*preflight.Conn) {})
	page := http.NewServeMux()
	page.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	withHandler := lab.Serve(t, &preflight.PreflightListener{RequireUpgrade: true, Handler: page}, func(*preflight.Conn) {})
	for range 3 {
		require.NoError(t, probeAsKubelet(t, tcpSocket, bare))
		require.NoError(t, probeAsKubelet(t, tcpSocket, withHandler))
		require.NoError(t, probeAsKubelet(t, httpGet, withHandler))
		require.EqualError(t, probeAsKubelet(t, httpGet, bare), "HTTP probe failed with statuscode: 426")
	}
}

// TestKubernetesProbeOfGRPC shows that a probe of kind grpc is a plain connection.
func TestKubernetesProbeOfGRPC(t *testing.T) {
	for _, upgradeOnly := range []bool{false, true} {
		l := &preflight.PreflightListener{Listener: lab.Listen(t), RequireUpgrade: upgradeOnly}
		server := grpc.NewServer()
		healthpb.RegisterHealthServer(server, health.NewServer())
		lab.RunServer(t, func() { server.Serve(l) }, func() error { server.Stop(); return nil })
		c, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
		_, err = healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{})
		require.Equal(t, upgradeOnly, err != nil, "%v", err)
		require.NoError(t, ctx.Err())
		cancel()
		require.NoError(t, c.Close())
	}
}

// A probe is a probe of a Deployment.
type probe struct {
	TCPSocket *struct{ Port string }
	HTTPGet   *struct{ Path, Port string }
}

// httpGetEdits are the edits that the comment of the Deployment describes.
var httpGetEdits = []string{"tcpSocket:", "#tcpSocket:", "#httpGet:", "httpGet:"}

// readinessProbe returns the probe of the Deployment.
func readinessProbe(t *testing.T, edits ...string) probe {
	t.Helper()
	resources := parseResources(t, lab.DeployFile(t, "kubernetes/deployment.yaml", edits...))
	text, err := json.Marshal(resources["apps/v1 Deployment"])
	require.NoError(t, err)
	var deployment struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct{ ReadinessProbe probe }
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal(text, &deployment))
	require.Len(t, deployment.Spec.Template.Spec.Containers, 1)
	return deployment.Spec.Template.Spec.Containers[0].ReadinessProbe
}

// probeAsKubelet runs a probe as the kubelet does.
func probeAsKubelet(t *testing.T, probe probe, address string) error {
	t.Helper()
	if probe.TCPSocket != nil {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	require.NotNil(t, probe.HTTPGet)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+probe.HTTPGet.Path, nil)
	require.NoError(t, err)
	request.Header.Set("User-Agent", "kube-probe/1.30")
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: lab.Timeout}).Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", answer.StatusCode)
	}
	return nil
}
