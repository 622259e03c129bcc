package interop

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// tlsFront is what only a front with TLS can show.
var tlsFront = behaviour{"Front", "TLS to the proxy", "yes", testFront}

// ofProxies are the behaviours that have nothing to do with TLS.
var ofProxies = []behaviour{
	{"Down", "the server is down, and restarted", "502", testDown},
	{"Misconfigured", "misconfigured, and the error says so", "426", testMisconfigured},
	{"Idle", "a silent tunnel when the proxy's timer ends it", "EOF", testIdle},
	{"Reload", "tunnels that are open during a reload", "go on", testReload},
}

func testFront(t *testing.T, x trial) string {
	dial := func(config *tls.Config) error {
		d := x.front.dialer()
		d.TLSConfig = config
		c, err := d.DialContext(t.Context(), "tcp", x.front.address)
		if err != nil {
			return err
		}
		return echo(bounded(t, c), []byte("hello"))
	}
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	untrusted := dial(&tls.Config{})
	require.ErrorAs(t, untrusted, &verification)
	require.ErrorAs(t, untrusted, &authority)
	var hostname x509.HostnameError
	require.ErrorAs(t, dial(&tls.Config{RootCAs: x.front.roots, ServerName: "other.example"}), &hostname)
	require.Equal(t, "other.example", hostname.Host)

	// With h2 there is no tunnel: the dialer does not offer it, whoever asks.
	both := &tls.Config{RootCAs: x.front.roots, NextProtos: []string{"h2", "http/1.1"}}
	require.NoError(t, dial(both))
	c, err := tls.Dial("tcp", x.front.address, both)
	require.NoError(t, err)
	defer c.Close()
	if c.ConnectionState().NegotiatedProtocol == "h2" {
		return besideH2
	}
	return "yes"
}

// besideH2 is the outcome where the proxy would have chosen h2.
const besideH2 = "yes, beside h2"

// testDown ends the server, asks for a tunnel, and starts it again.
func testDown(t *testing.T, x trial) string {
	require.NoError(t, x.server.stop())
	_, err := x.front.dialer().DialContext(t.Context(), "tcp", x.front.address)
	require.Error(t, err)
	var refused *preflight.StatusError
	if errors.As(err, &refused) {
		if refused.ForwardProxy {
			require.ErrorContains(t, err, "it cannot resolve or reach the host that was dialed")
		} else {
			require.ErrorContains(t, err, "unavailable")
		}
		require.True(t, refused.Temporary())
	}
	x.server.restart(t)
	until(t, "a tunnel works again", func() bool {
		c, err := x.front.dialer().DialContext(t.Context(), "tcp", x.front.address)
		return err == nil && echo(bounded(t, c), []byte("hello")) == nil
	})
	return ending(err)
}

// testMisconfigured runs the proxy with each of its mistakes.
func testMisconfigured(t *testing.T, x trial) string {
	outcomes := make(map[string]bool)
	for _, m := range x.mistakes {
		f := x.start(t, x.server.address, m.edits...).plain
		_, err := f.dialer().DialContext(t.Context(), "tcp", f.address)
		require.Error(t, err, "%q", m.edits)
		text := err.Error()
		var refused *preflight.StatusError
		if errors.As(err, &refused) {
			text += "\n" + string(refused.Body)
		}
		for _, says := range m.says {
			require.Contains(t, text, says, "%q", m.edits)
		}
		outcomes[ending(err)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(outcomes)), ", ")
}

// testIdle waits until the proxy ends a silent tunnel.
func testIdle(t *testing.T, x trial) string {
	c := x.start(t, x.server.address, x.idle...).plain.dial(t, "/client/idle")
	_, err := c.Read(make([]byte, 1))
	atClient, atServer := ending(err), awaited(t, x.server.ends)
	if atClient == atServer {
		return atClient
	}
	return atClient + ", " + atServer + " at the server"
}

// testReload has the proxy change to another server while tunnels are open.
func testReload(t *testing.T, x trial) string {
	var open []*preflight.Conn
	for range 5 {
		open = append(open, x.front.dial(t, "/client/amps/json"))
	}
	other := startLabServer(t)
	x.reload(other.address)
	if x.front.forward != nil {
		x.front.address = other.address // to which the proxy has not led before
	}
	until(t, "a new tunnel leads to the other server", func() bool {
		d := x.front.dialer()
		d.Path = "/client/told"
		c, err := d.DialContext(t.Context(), "tcp", x.front.address)
		if err != nil {
			return false
		}
		line, _ := bufio.NewReader(bounded(t, c)).ReadString('\n')
		return strings.Contains(line, other.address)
	})
	outcomes := make(map[string]bool)
	for _, c := range open {
		if x.want == "go on" {
			require.NoError(t, echo(c, []byte("hello")))
			outcomes["go on"] = true
			continue
		}
		_, err := c.Read(make([]byte, 1))
		outcomes[ending(err)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(outcomes)), ", ")
}
