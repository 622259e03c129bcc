//go:build cluster

package kubernetes

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// newListener returns the listener that the files and docs/kubernetes.md describe.
func newListener(t *testing.T, address string) *preflight.PreflightListener {
	t.Helper()
	inner, err := net.Listen("tcp", address+":9007")
	require.NoError(t, err)
	return &preflight.PreflightListener{
		Listener:         inner,
		RequireUpgrade:   true,
		TrustedProxies:   []netip.Prefix{netip.MustParsePrefix("127.0.0.6/32"), netip.MustParsePrefix("10.244.0.0/16")},
		ClientAddrHeader: "X-Forwarded-For",
		Authorize: func(*http.Request) (http.Header, error) {
			return http.Header{"X-From-Authorize": {"yes"}}, nil
		},
	}
}

// A report is what a pod tells about a tunnel to the path /report.
type report struct{ Path, Host, Field, Client, Carrier string }

// servePod runs the server of a pod. It answers /report with a report, and sends back
// everything on every other path.
func servePod(t *testing.T, address string) *lab.Server {
	t.Helper()
	return lab.StartServer(t, newListener(t, address), func(c *preflight.Conn) {
		r := c.Request()
		if !strings.HasSuffix(r.RequestURI, "/report") {
			io.Copy(c, c)
			return
		}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		json.NewEncoder(c).Encode(report{r.RequestURI, r.Host, r.Header.Get("X-Field"), host, string(c.Carrier())})
		io.Copy(io.Discard, c) // a proxy may drop the report if this side ends first
	})
}

// endpoints returns the EndpointSlice that the controllers would make of the ready pods of
// the Service preflight.
func endpoints(namespace string, pods ...string) string {
	var text strings.Builder
	fmt.Fprintf(&text, `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: preflight-1
  namespace: %s
  labels: {kubernetes.io/service-name: preflight}
addressType: IPv4
ports: [{name: tunnels, port: 9007, protocol: TCP}]
endpoints:
`, namespace)
	for _, pod := range pods {
		fmt.Fprintf(&text, "- {addresses: [%s], conditions: {ready: true, serving: true}}\n", pod)
	}
	return text.String()
}

// secret returns the Secret of the files, with the certificate of the cluster.
func (c *cluster) secret(t *testing.T, namespace string) string {
	t.Helper()
	data := make(map[string]string)
	for name, file := range map[string]string{"tls.crt": "cert.pem", "tls.key": "key.pem"} {
		text, err := os.ReadFile(filepath.Join(c.dir, file))
		require.NoError(t, err)
		data[name] = string(text)
	}
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
		"metadata":   map[string]string{"name": "edge-example-tls", "namespace": namespace},
		"stringData": data,
	})
	require.NoError(t, err)
	return string(text)
}

// dialer returns a dialer through the gateway. Without TLS it is for port 80, with TLS for
// port 443. Its own address is outside of the cluster.
func (c *cluster) dialer(tls bool, carriers ...preflight.Carrier) *preflight.PreflightDialer {
	d := &preflight.PreflightDialer{
		NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(clientAddress)}},
		Host:      "edge.example", Path: "/client/amps/json",
		Carriers: carriers, HandshakeTimeout: lab.Timeout,
	}
	if tls {
		d.TLSConfig = lab.Frontend{Roots: c.roots}.TLSConfig()
	}
	return d
}

// dial opens a tunnel with a dialer for the gateway.
func (c *cluster) dial(t *testing.T, d *preflight.PreflightDialer) (*preflight.Conn, error) {
	t.Helper()
	address := c.plain
	if d.TLSConfig != nil {
		address = c.secure
	}
	tunnel, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return lab.WithDeadline(t, tunnel).(*preflight.Conn), nil
}

// sendSum sends size bytes to an echo server, and compares the sums of what was sent and of
// what came back.
func sendSum(c net.Conn, size int64) error {
	sent, got := sha256.New(), sha256.New()
	done := make(chan error, 1)
	go func() {
		block, left := lab.RandomBytes(1<<20), size
		for left > 0 {
			n, err := c.Write(block[:min(left, int64(len(block)))])
			sent.Write(block[:n])
			if err != nil {
				done <- err
				return
			}
			left -= int64(n)
			block[0]++ // so that no two blocks are equal
		}
		done <- nil
	}()
	_, err := io.CopyN(got, c, size)
	if err = errors.Join(err, <-done); err == nil && [32]byte(sent.Sum(nil)) != [32]byte(got.Sum(nil)) {
		err = errors.New("what came back differs from what was sent")
	}
	return err
}
