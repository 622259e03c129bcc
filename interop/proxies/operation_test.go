package proxies

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// tlsBehaviour is the behaviour that only a frontend with TLS can show.
var tlsBehaviour = behaviour{"Front", "TLS to the proxy", "yes", testFront}

// proxyBehaviours are the behaviours for which TLS to the proxy makes no difference.
var proxyBehaviours = []behaviour{
	{"Down", "the server is down, then it runs again", "502", testDown},
	{"Misconfigured", "a mistake in the file, which the error names", "426", testMisconfigured},
	{"Idle", "a silent tunnel after the idle timeout of the proxy", "EOF", testIdle},
	{"Reload", "open tunnels during a reload", tunnelsContinue, testReload},
}

const (
	// withH2 is the outcome of testFront if the proxy also offers h2.
	withH2 = "yes, h2 enabled"
	// tunnelsContinue is the outcome of testReload if open tunnels continue to work.
	tunnelsContinue = "continue"
)

// testFront verifies certificates, and offers h2.
func testFront(t *testing.T, s scenario) string {
	dial := func(config *tls.Config) error {
		d := s.dialer()
		d.TLSConfig = config
		c, err := s.tryDial(t, d)
		if err != nil {
			return err
		}
		return lab.Echo(c, []byte("hello"))
	}
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	untrusted := dial(&tls.Config{})
	require.ErrorAs(t, untrusted, &verification)
	require.ErrorAs(t, untrusted, &authority)
	var hostname x509.HostnameError
	require.ErrorAs(t, dial(&tls.Config{RootCAs: s.frontend.Roots, ServerName: "other.example"}), &hostname)
	require.Equal(t, "other.example", hostname.Host)

	// HTTP/2 has no Upgrade. The dialer must not offer h2, even if the configuration does.
	both := &tls.Config{RootCAs: s.frontend.Roots, NextProtos: []string{"h2", "http/1.1"}}
	require.NoError(t, dial(both))
	c, err := tls.Dial("tcp", s.frontend.Address, both)
	require.NoError(t, err)
	defer c.Close()
	if c.ConnectionState().NegotiatedProtocol == "h2" {
		return withH2
	}
	return "yes"
}

// testDown stops the server, dials, and starts the server again.
func testDown(t *testing.T, s scenario) string {
	require.NoError(t, s.server.stop())
	_, err := s.tryDial(t, s.dialer())
	require.Error(t, err)
	var refused *preflight.StatusError
	if errors.As(err, &refused) {
		if refused.ForwardProxy {
			require.ErrorContains(t, err, "it cannot resolve or reach the host that was dialed")
		} else {
			require.Regexp(t, `\[(server-down|no-server|bad-gateway|upstream-closed|squid-down)\]$`, err.Error())
		}
		require.True(t, refused.Temporary())
	}
	s.server.restart(t)
	lab.WaitUntil(t, "a tunnel works again", func() bool {
		c, err := s.tryDial(t, s.dialer())
		return err == nil && lab.Echo(c, []byte("hello")) == nil
	})
	return outcomeOf(err)
}

// testMisconfigured runs the proxy with each of the mistakes.
func testMisconfigured(t *testing.T, s scenario) string {
	outcomes := make(map[string]bool)
	for _, m := range s.mistakes {
		s.frontend = s.start(t, s.server.address, m.edits...).Plain
		_, err := s.tryDial(t, s.dialer())
		require.Error(t, err, "%q", m.edits)
		text := err.Error()
		var refused *preflight.StatusError
		if errors.As(err, &refused) {
			text += "\n" + string(refused.Body)
		}
		for _, want := range m.wantText {
			require.Contains(t, text, want, "%q", m.edits)
		}
		outcomes[outcomeOf(err)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(outcomes)), ", ")
}

// testIdle waits until the proxy closes a silent tunnel. If the carrier has PINGs, a tunnel
// with a KeepAlivePeriod below the timeout must stay open meanwhile.
func testIdle(t *testing.T, s scenario) string {
	s.frontend = s.start(t, s.server.address, s.idle...).Plain
	if s.carrier.name == preflight.CarrierUpgrade {
		return s.idleEnd(t)
	}
	keeps := s.dialer()
	keeps.KeepAlivePeriod = 100 * time.Millisecond
	kept := s.frontend.DialWith(t, keeps)
	answer := make(chan string, 1)
	go func() { // an application answers PINGs only while it reads
		data, _ := io.ReadAll(io.LimitReader(kept, int64(len("hello"))))
		answer <- string(data)
	}()
	end := s.idleEnd(t)
	// The timers of a proxy are not exact. After the second end, the time of the tunnel that
	// is kept open is over for certain.
	require.Equal(t, end, s.idleEnd(t))
	kept.Write([]byte("hello")) // an error shows in the answer
	if lab.Receive(t, answer) == "hello" {
		end += keptOpen
	}
	return end
}

// idleEnd opens a silent tunnel, and describes how it ends at the client and at the server.
func (s scenario) idleEnd(t *testing.T) string {
	t.Helper()
	atClient, atServer := waitForEnd(s.dial(t, "/client/idle")), lab.Receive(t, s.server.ends)
	if atClient == atServer {
		return atClient
	}
	return atClient + ", " + atServer + " at the server"
}

// keptOpen is in the outcome of testIdle if a KeepAlivePeriod keeps a silent tunnel open.
const keptOpen = ", but stays open with PINGs"

// waitForEnd reads until a silent tunnel ends, and describes the end.
func waitForEnd(c *preflight.Conn) string {
	_, err := io.Copy(io.Discard, c)
	if c.Carrier() != preflight.CarrierUpgrade {
		return endOf(err)
	}
	return outcomeOf(cmp.Or(err, io.EOF))
}

// testReload reloads a proxy while tunnels are open. The proxy is one of its own, because
// it then leads to another server.
func testReload(t *testing.T, s scenario) string {
	s.Edge = s.start(t, s.server.address)
	return s.reload(t)
}

// reload reloads s.Edge with the configuration for another server, and waits until new
// tunnels lead there. It returns what has become of the tunnels that were open.
func (s scenario) reload(t *testing.T) (outcome string) {
	t.Helper()
	s.frontend = s.Plain
	var open []*preflight.Conn
	for range 5 {
		open = append(open, s.dial(t, "/client/amps/json"))
	}
	other := startBackend(t)
	s.Reload(other.address)
	if s.frontend.ForwardProxy != nil {
		s.frontend.Address = other.address
	}
	lab.WaitUntil(t, "new tunnels lead to the other server", func() bool {
		d := s.dialer()
		d.Path = "/client/info"
		c, err := s.tryDial(t, d)
		if err != nil {
			return false
		}
		line, _ := bufio.NewReader(c).ReadString('\n')
		return strings.Contains(line, other.address)
	})
	outcomes := make(map[string]bool)
	for _, c := range open {
		if s.want == tunnelsContinue {
			require.NoError(t, lab.Echo(c, []byte("hello")))
			outcomes[tunnelsContinue] = true
			continue
		}
		_, err := c.Read(make([]byte, 1))
		outcomes[outcomeOf(err)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(outcomes)), ", ")
}
