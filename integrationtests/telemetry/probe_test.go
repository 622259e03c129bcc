package telemetry_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A client that ends its connection before its first byte is a probe and not a
// failed handshake. It has no span. Inside a TLS layer the same holds until the
// ClientHello is complete, for every place of that layer. Bytes of a PROXY
// header are the proxy's and do not count.
func TestProbe(t *testing.T) {
	server, client := testkit.TLSConfigs(t)
	hello := string(testkit.ClientHello(t, client))
	v2 := string(testkit.ProxyHeader(t, 2, testkit.Source))
	local := testkit.ProxyV2Bytes(0x20, 0, 0, "")
	for _, tt := range []struct {
		name  string
		set   func(*preflight.PreflightListener)
		below bool // TLS is below the listener
		sent  []string
	}{
		{name: "RequireUpgrade", set: func(l *preflight.PreflightListener) { l.RequireUpgrade = true }, sent: []string{""}},
		{
			name: "Authorize",
			set: func(l *preflight.PreflightListener) {
				l.Authorize = func(*http.Request) (http.Header, error) { return nil, nil }
			},
			sent: []string{""},
		},
		{
			name: "behind a PROXY header",
			set: func(l *preflight.PreflightListener) {
				l.RequireUpgrade, l.TrustedProxies = true, testkit.Prefixes("127.0.0.0/8")
			},
			sent: []string{"", testkit.ThroughProxy, "PROXY UNKNOWN\r\n", v2, local},
		},
		{
			name: "TLSConfig",
			set:  func(l *preflight.PreflightListener) { l.RequireUpgrade, l.TLSConfig = true, server },
			sent: []string{"", hello[:1], hello[:5], hello[:6], hello[:len(hello)-1]},
		},
		{
			name: "TLSConfig behind a PROXY header",
			set: func(l *preflight.PreflightListener) {
				l.RequireUpgrade, l.TLSConfig, l.TrustedProxies = true, server, testkit.Prefixes("127.0.0.0/8")
			},
			sent: []string{testkit.ThroughProxy, testkit.ThroughProxy + hello[:1], testkit.ThroughProxy + hello[:100]},
		},
		{
			name: "a ClientHello in two records",
			set:  func(l *preflight.PreflightListener) { l.TLSConfig = server },
			sent: []string{probeRecords(hello)},
		},
		{name: "TLS underneath", below: true, sent: []string{"", hello[:1], hello[:5], hello[:6], hello[:len(hello)-1]}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for how, end := range testkit.ProbeEnds {
				for _, sent := range tt.sent {
					t.Run(fmt.Sprintf("%s after %d bytes", how, len(sent)), func(t *testing.T) {
						e := testkit.NewRecorder()
						l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t), Telemetry: e.Watch()}
						if tt.set != nil {
							tt.set(l)
						}
						if tt.below {
							l.Listener = tls.NewListener(l.Listener, server)
						}
						accepted := testkit.AcceptAll(t, l)
						for range 10 {
							c := testkit.DialTCP(t, l.Addr())
							_, err := io.WriteString(c, sent)
							require.NoError(t, err)
							end(c)
						}
						testkit.ProbeEventually(t, e, testkit.Probes, 10)
						require.Zero(t, e.Started(), "a probe has no span")
						require.Empty(t, accepted)
						require.Len(t, e.Sums, 2, "%v", e.Sums)
					})
				}
			}
		})
	}
}

// probeRecords splits a ClientHello into two records, and returns only the
// first.
func probeRecords(hello string) string {
	const most = 100
	first := []byte(hello[:5+most])
	first[3], first[4] = 0, most
	return string(first)
}

// If plain connections are accepted, a silent client that half-closes may wait
// for the server's first bytes. It is delivered, and counts as plain. A reset
// ends both directions.
func TestProbeThatMayListen(t *testing.T) {
	server, client := testkit.TLSConfigs(t)
	for name, secure := range map[string]*tls.Config{"TCP": nil, "TLS": client} {
		t.Run(name, func(t *testing.T) {
			e := testkit.NewRecorder()
			l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server, Telemetry: e.Watch()})
			accepted := testkit.AcceptAll(t, l)
			var c net.Conn = testkit.DialTCP(t, l.Addr())
			if secure != nil {
				c = tls.Client(c, secure)
			}
			if secure != nil {
				require.NoError(t, c.(*tls.Conn).Handshake())
			}
			require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
			conn := testkit.NextConn(t, accepted)
			_, err := io.WriteString(conn, "220 welcome\r\n")
			require.NoError(t, err)
			require.NoError(t, conn.Close())
			got, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, "220 welcome\r\n", string(got))
			testkit.ProbeEventually(t, e, testkit.Plains, 1)
			require.EqualValues(t, 1, e.Sum("server.connection.duration preflight.kind=plain"))

			reset := testkit.DialTCP(t, l.Addr())
			testkit.ProbeEnds["reset"](reset)
			testkit.ProbeEventually(t, e, testkit.Probes, 1)
			require.Empty(t, accepted)
			require.Zero(t, e.Started())
		})
	}
}

// A client that has begun to speak is not a probe. Its end is a failure to
// investigate.
func TestNoProbe(t *testing.T) {
	server, client := testkit.TLSConfigs(t)
	hello := testkit.ClientHello(t, client)
	for _, tt := range []struct {
		name, sent string
		set        func(*preflight.PreflightListener)
		below      bool
	}{
		{name: "a byte", sent: "G"},
		{name: "half a head", sent: "GET / HTTP/1.1\r\nHost: h"},
		{name: "half a PROXY header", sent: testkit.ThroughProxy[:12], set: func(l *preflight.PreflightListener) { l.TrustedProxies = testkit.Prefixes("127.0.0.0/8") }},
		{name: "a whole ClientHello", sent: string(hello), set: func(l *preflight.PreflightListener) { l.TLSConfig = server }},
		{name: "a whole ClientHello to TLS underneath", sent: string(hello), below: true},
		{name: "a ClientHello in the tunnel", sent: testkit.Request(), set: func(l *preflight.PreflightListener) { l.TLSConfig = server }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := testkit.NewRecorder()
			l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t), Telemetry: e.Watch()}
			if tt.set != nil {
				tt.set(l)
			}
			if tt.below {
				l.Listener = tls.NewListener(l.Listener, server)
			}
			testkit.AcceptAll(t, l)
			sent := tt.sent
			if sent == testkit.Request() {
				sent = testkit.TunnelTLSRequest
			}
			c := testkit.DialTCP(t, l.Addr())
			_, err := io.WriteString(c, sent)
			require.NoError(t, err)
			if sent == testkit.TunnelTLSRequest || bytes.HasPrefix([]byte(sent), hello) {
				_, err = c.Read(make([]byte, 1)) // so that the listener has received all of it
				require.NoError(t, err)
			}
			testkit.ProbeEnds["reset"](c)
			reset := testkit.ResetsAsOf
			if sent == testkit.TunnelTLSRequest { // whose carrier is known
				reset = strings.Replace(reset, "preflight.kind", "preflight.carrier=upgrade,preflight.kind", 1)
			}
			testkit.ProbeEventually(t, e, reset, 1)
			require.Equal(t, 1, e.Started())
			require.Zero(t, e.Sum(testkit.Probes))
		})
	}
}
