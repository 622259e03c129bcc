package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// The probe of the Deployment finds every listener ready. The one that its comment
// has in its place wants a Handler.
func TestKubernetesProbe(t *testing.T) {
	tcpSocket, httpGet := kubernetesReadiness(t), kubernetesReadiness(t, kubernetesHTTPGet...)
	bare := serve(t, &preflight.PreflightListener{RequireUpgrade: true}, func(*preflight.Conn) {})
	withHandler := serve(t, &preflight.PreflightListener{RequireUpgrade: true, Handler: new(healthPage)}, func(*preflight.Conn) {})
	for range 3 {
		require.NoError(t, kubeletProbe(t, tcpSocket, bare))
		require.NoError(t, kubeletProbe(t, tcpSocket, withHandler))
		require.NoError(t, kubeletProbe(t, httpGet, withHandler))
		require.EqualError(t, kubeletProbe(t, httpGet, bare), "HTTP probe failed with statuscode: 426")
	}
}

// The probe of kind grpc is a plain connection.
func TestKubernetesProbeOfGRPC(t *testing.T) {
	for _, upgradeOnly := range []bool{false, true} {
		l := &preflight.PreflightListener{Listener: listenTCP(t), RequireUpgrade: upgradeOnly}
		server := grpc.NewServer()
		healthpb.RegisterHealthServer(server, health.NewServer())
		background(t, func() { server.Serve(l) }, func() error { server.Stop(); return nil })
		c, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err = healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{})
		require.Equal(t, upgradeOnly, err != nil, "%v", err)
		require.NoError(t, ctx.Err())
		cancel()
		require.NoError(t, c.Close())
	}
}

// A readiness is what a probe of a Deployment does.
type readiness struct {
	TCPSocket *struct{ Port string }
	HTTPGet   *struct{ Path, Port string }
}

// kubernetesHTTPGet is the edit that the comment of the Deployment tells to make.
var kubernetesHTTPGet = []string{"tcpSocket:", "#tcpSocket:", "#httpGet:", "httpGet:"}

// kubernetesReadiness is the probe of the Deployment.
func kubernetesReadiness(t *testing.T, edits ...string) readiness {
	t.Helper()
	resources := kubernetesResources(t, deployed(t, "kubernetes/deployment.yaml", edits...))
	text, err := json.Marshal(resources["apps/v1 Deployment"])
	require.NoError(t, err)
	var deployment struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct{ ReadinessProbe readiness }
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal(text, &deployment))
	require.Len(t, deployment.Spec.Template.Spec.Containers, 1)
	return deployment.Spec.Template.Spec.Containers[0].ReadinessProbe
}

// kubeletProbe makes a probe as the kubelet does.
func kubeletProbe(t *testing.T, probe readiness, address string) error {
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
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", answer.StatusCode)
	}
	return nil
}
