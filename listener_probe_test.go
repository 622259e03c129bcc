package preflight_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

const (
	probes     = "server.handshake.duration preflight.kind=probe"
	plains     = "server.handshake.duration preflight.kind=plain"
	underWay   = "server.handshake.pending"
	resetsAsOf = "server.handshake.duration error.type=connection_reset,preflight.kind=failed"
)

// probeEnds are the ways in which a client ends its connection.
var probeEnds = map[string]func(*net.TCPConn){
	"close": func(c *net.TCPConn) { c.Close() },
	"reset": func(c *net.TCPConn) {
		c.SetLinger(0)
		c.Close()
	},
	"half-close": func(c *net.TCPConn) { c.CloseWrite() },
}

// A client that ends its connection before it has said anything is a probe, and no
// failed handshake: it has no span. The same holds inside a layer of TLS before the
// ClientHello is whole, wherever that layer is, and behind a PROXY header, which
// is the proxy's word.
func TestProbe(t *testing.T) {
	server, client := lisTLS(t)
	hello := string(kndHello(t, client))
	v2 := string(kndProxy(t, 2, kndSource))
	local := kndV2(0x20, 0, 0, "")
	for _, tt := range []struct {
		name  string
		set   func(*preflight.PreflightListener)
		below bool // TLS is underneath
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
				l.RequireUpgrade, l.TrustedProxies = true, kndTrust("127.0.0.0/8")
			},
			sent: []string{"", shdProxy, "PROXY UNKNOWN\r\n", v2, local},
		},
		{
			name: "TLSConfig",
			set:  func(l *preflight.PreflightListener) { l.RequireUpgrade, l.TLSConfig = true, server },
			sent: []string{"", hello[:1], hello[:5], hello[:6], hello[:len(hello)-1]},
		},
		{
			name: "TLSConfig behind a PROXY header",
			set: func(l *preflight.PreflightListener) {
				l.RequireUpgrade, l.TLSConfig, l.TrustedProxies = true, server, kndTrust("127.0.0.0/8")
			},
			sent: []string{shdProxy, shdProxy + hello[:1], shdProxy + hello[:100]},
		},
		{
			name: "a ClientHello in two records",
			set:  func(l *preflight.PreflightListener) { l.TLSConfig = server },
			sent: []string{probeRecords(hello)},
		},
		{name: "TLS underneath", below: true, sent: []string{"", hello[:1], hello[:5], hello[:6], hello[:len(hello)-1]}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for how, end := range probeEnds {
				for _, sent := range tt.sent {
					t.Run(fmt.Sprintf("%s after %d bytes", how, len(sent)), func(t *testing.T) {
						e := newEye()
						l := &preflight.PreflightListener{Listener: listenTCP(t), Telemetry: e.telemetry()}
						if tt.set != nil {
							tt.set(l)
						}
						if tt.below {
							l.Listener = tls.NewListener(l.Listener, server)
						}
						accepted := lisServe(t, l)
						for range 10 {
							c := dialTCP(t, l.Addr())
							_, err := io.WriteString(c, sent)
							require.NoError(t, err)
							end(c)
						}
						probeEventually(t, e, probes, 10)
						require.Zero(t, e.started(), "a probe has no span")
						require.Empty(t, accepted)
						require.Len(t, e.sums, 2, "%v", e.sums)
					})
				}
			}
		})
	}
}

// probeRecords is a ClientHello cut into two records, of which only the first is
// sent.
func probeRecords(hello string) string {
	const most = 100
	first := []byte(hello[:5+most])
	first[3], first[4] = 0, most
	return string(first)
}

// probeEventually waits until all handshakes have ended, and requires so many of
// one kind.
func probeEventually(t *testing.T, e *eye, of string, n int64) {
	t.Helper()
	for end := time.Now().Add(patience); e.sum(of) < n || e.sum(underWay) > 0; {
		if time.Now().After(end) {
			require.Failf(t, "they did not end", "%v", e.sums)
		}
		<-time.After(time.Millisecond)
	}
	require.Equal(t, n, e.sum(of))
}

// Where plain connections are welcome, a client that says nothing and ends its
// direction may wait for what the server says. It is handed on, and counts as
// plain. A reset is an end for both directions.
func TestProbeThatMayListen(t *testing.T) {
	server, client := lisTLS(t)
	for name, secure := range map[string]*tls.Config{"TCP": nil, "TLS": client} {
		t.Run(name, func(t *testing.T) {
			e := newEye()
			l := listen(t, &preflight.PreflightListener{TLSConfig: server, Telemetry: e.telemetry()})
			accepted := lisServe(t, l)
			var c net.Conn = dialTCP(t, l.Addr())
			if secure != nil {
				c = tls.Client(c, secure)
			}
			if secure != nil {
				require.NoError(t, c.(*tls.Conn).Handshake())
			}
			require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
			conn := lisNext(t, accepted)
			_, err := io.WriteString(conn, "220 welcome\r\n")
			require.NoError(t, err)
			require.NoError(t, conn.Close())
			got, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, "220 welcome\r\n", string(got))
			probeEventually(t, e, plains, 1)
			require.EqualValues(t, 1, e.sum("server.connection.duration preflight.kind=plain"))

			reset := dialTCP(t, l.Addr())
			probeEnds["reset"](reset)
			probeEventually(t, e, probes, 1)
			require.Empty(t, accepted)
			require.Zero(t, e.started())
		})
	}
}

// Whoever has begun to speak is no probe: that end is a failure to look into.
func TestNoProbe(t *testing.T) {
	server, client := lisTLS(t)
	hello := kndHello(t, client)
	for _, tt := range []struct {
		name, sent string
		set        func(*preflight.PreflightListener)
		below      bool
	}{
		{name: "a byte", sent: "G"},
		{name: "half a head", sent: "GET / HTTP/1.1\r\nHost: h"},
		{name: "half a PROXY header", sent: shdProxy[:12], set: func(l *preflight.PreflightListener) { l.TrustedProxies = kndTrust("127.0.0.0/8") }},
		{name: "a whole ClientHello", sent: string(hello), set: func(l *preflight.PreflightListener) { l.TLSConfig = server }},
		{name: "a whole ClientHello to TLS underneath", sent: string(hello), below: true},
		{name: "a ClientHello in the tunnel", sent: lisRequest(), set: func(l *preflight.PreflightListener) { l.TLSConfig = server }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEye()
			l := &preflight.PreflightListener{Listener: listenTCP(t), Telemetry: e.telemetry()}
			if tt.set != nil {
				tt.set(l)
			}
			if tt.below {
				l.Listener = tls.NewListener(l.Listener, server)
			}
			lisServe(t, l)
			sent := tt.sent
			if sent == lisRequest() {
				sent = shdTunnels
			}
			c := dialTCP(t, l.Addr())
			_, err := io.WriteString(c, sent)
			require.NoError(t, err)
			if sent == shdTunnels || bytes.HasPrefix([]byte(sent), hello) {
				_, err = c.Read(make([]byte, 1)) // so that it has heard the whole of it
				require.NoError(t, err)
			}
			probeEnds["reset"](c)
			probeEventually(t, e, resetsAsOf, 1)
			require.Equal(t, 1, e.started())
			require.Zero(t, e.sum(probes))
		})
	}
}
