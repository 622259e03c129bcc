package tls_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// layers returns the layers of TLS of a tunnel, from the inside to the outside.
func layers(c net.Conn) (found []*tls.Conn) {
	for {
		if tc, ok := c.(*tls.Conn); ok {
			found = append(found, tc)
		}
		layer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return found
		}
		c = layer.NetConn()
	}
}

// use dials, sends bytes in both directions, and ends the tunnel. It returns for each layer of
// TLS whether its session was resumed. A client gets the ticket of a session inside the tunnel
// with the first bytes of the server.
func use(t *testing.T, d *preflight.PreflightDialer, l net.Listener, accepted <-chan *preflight.Conn) (resumed []bool) {
	t.Helper()
	c, err := d.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(testkit.Patience))
	testkit.Talk(t, &testkit.Client{Conn: c, R: bufio.NewReader(c)}, testkit.NextConn(t, accepted))
	for _, layer := range layers(c) {
		resumed = append(resumed, layer.ConnectionState().DidResume)
	}
	return resumed
}

// With a ClientSessionCache, the second dial resumes the session of each layer of TLS. One cache
// is enough for both layers, although their servers have one name. Without a cache, no session is
// resumed.
func TestResumption(t *testing.T) {
	edge, edgeClient := testkit.NamedTLSConfigs(t)
	server, client := testkit.NamedTLSConfigs(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, carrier := range []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierFramed, preflight.CarrierWebSocket} {
			for name, layers := range map[string]int{"outside": 1, "inside": 1, "both": 2, "none": 2} {
				t.Run(tls.VersionName(version)+"/"+string(carrier)+"/"+name, func(t *testing.T) {
					l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t), TLSConfig: server}
					d := &preflight.PreflightDialer{Carriers: []preflight.Carrier{carrier}}
					var cache tls.ClientSessionCache
					if name != "none" {
						cache = tls.NewLRUClientSessionCache(0)
					}
					with := func(config *tls.Config) *tls.Config {
						config = config.Clone()
						config.MinVersion, config.MaxVersion, config.ClientSessionCache = version, version, cache
						return config
					}
					if name != "inside" {
						l.Listener = tls.NewListener(l.Listener, edge)
						d.TLSConfig = with(edgeClient)
					}
					if name != "outside" {
						d.TunnelTLSConfig = with(client)
					}
					accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
					for _, want := range []bool{false, name != "none", name != "none"} {
						resumed := use(t, d, l, accepted)
						require.Len(t, resumed, layers)
						for _, r := range resumed {
							require.Equal(t, want, r)
						}
					}
				})
			}
		}
	}
}

// Servers behind different paths of one edge have sessions of their own, also if they have one
// name. A query does not matter.
func TestResumptionOfEachPath(t *testing.T) {
	cache := tls.NewLRUClientSessionCache(0)
	server, client := testkit.NamedTLSConfigs(t)
	client.ClientSessionCache = cache
	l := &preflight.PreflightListener{TLSConfig: server}
	accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
	for _, dial := range []struct {
		host, path string
		resumed    bool
	}{
		{"", "/one", false},
		{"", "/two", false},
		{"other.example", "/one", false},
		{"", "/one?again", true},
		{"", "/two", true},
		{"other.example", "/one", true},
	} {
		d := &preflight.PreflightDialer{Host: dial.host, Path: dial.path, TunnelTLSConfig: client}
		require.Equal(t, []bool{dial.resumed}, use(t, d, l, accepted), "%+v", dial)
	}
	require.Same(t, cache, client.ClientSessionCache, "the caller's configuration is not changed")
}

// An edge that terminates TLS outside cannot resume its own session inside the tunnel, and so take
// the place of the server: VerifyPeerCertificate would not be called.
func TestResumptionNotOfTheEdge(t *testing.T) {
	edge, client := testkit.NamedTLSConfigs(t)
	errPin := errors.New("this is not the server")
	client.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	inside := client.Clone()
	inside.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return errPin }
	for _, verify := range []bool{true, false} {
		inside.InsecureSkipVerify = !verify // a pin is often used alone
		// The edge answers in place of the server.
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: tls.NewListener(testkit.ListenTCP(t), edge), TLSConfig: edge})
		accepted := testkit.AcceptAll(t, l)
		d := &preflight.PreflightDialer{TLSConfig: client, TunnelTLSConfig: inside}
		for range 3 {
			_, err := d.Dial("tcp", l.Addr().String())
			require.ErrorIs(t, err, errPin)
		}
		require.Empty(t, accepted)

		// The outer session is resumed all the same.
		d.TunnelTLSConfig = nil
		require.Equal(t, []bool{true}, use(t, d, l, accepted))
	}
}
