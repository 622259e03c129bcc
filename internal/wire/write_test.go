package wire_test

import (
	"testing"

	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
)

func TestAppendRequest(t *testing.T) {
	tcp := &wire.Terms{Protocol: "tcp"}
	require.Equal(t,
		"before"+
			"GET /client/amps/json?a=b HTTP/1.1\r\n"+
			"Host: edge.example:8080\r\n"+
			"Connection: Upgrade\r\n"+
			"Upgrade: tcp\r\n"+
			"Preflight-Carriers: upgrade, websocket\r\n"+
			"Authorization: Bearer t0ken\r\n"+
			"X-Dup: 2\r\n"+
			"X-Dup: 1\r\n"+
			"X-Empty: \r\n"+
			"x-lower: x\r\n"+
			"\r\n",
		string(wire.AppendFields(wire.AppendRequest([]byte("before"), "/client/amps/json?a=b", "edge.example:8080", tcp, "", []string{"upgrade", "websocket"}), map[string][]string{
			"x-lower":       {"x"},
			"X-Dup":         {"2", "1"},
			"X-None":        {},
			"X-Empty":       {""},
			"Authorization": {"Bearer t0ken"},
		})))
	// The fields of the exchange come before the fields that others add.
	const begin = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n"
	const webSocket = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: k==\r\n" +
		"Sec-WebSocket-Protocol: preflight.v1\r\nPreflight-Framing: capsule\r\nPreflight-Carriers: websocket\r\n"
	for want, test := range map[string]struct {
		terms wire.Terms
		tried string
	}{
		"Upgrade: x/1\r\nPreflight-Carriers: upgrade\r\n":                                                        {wire.Terms{Protocol: "x/1"}, "upgrade"},
		"Upgrade: tcp\r\nPreflight-Carriers: upgrade\r\nPreflight-Tunnel: tls\r\n":                               {wire.Terms{Protocol: "tcp", TunnelTLS: true}, "upgrade"},
		"Upgrade: tcp\r\nPreflight-Framing: capsule\r\nPreflight-Carriers: framed\r\n":                           {wire.Terms{Protocol: "tcp", Framed: true}, "framed"},
		"Upgrade: tcps\r\nPreflight-Framing: capsule\r\nPreflight-Carriers: framed\r\nPreflight-Tunnel: tls\r\n": {wire.Terms{Protocol: "tcps", Framed: true, TunnelTLS: true}, "framed"},
		webSocket: {wire.Terms{Protocol: "TCP", WebSocket: true}, "websocket"},
		webSocket + "Preflight-Protocol: tcps\r\nPreflight-Tunnel: tls\r\n": {wire.Terms{Protocol: "tcps", WebSocket: true, TunnelTLS: true}, "websocket"},
	} {
		require.Equal(t, begin+want+"a: b\r\n\r\n",
			string(wire.AppendFields(wire.AppendRequest(nil, "/", "h", &test.terms, "k==", []string{test.tried}), map[string][]string{"a": {"b"}})))
	}
}

func TestAppendSwitching(t *testing.T) {
	require.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
		string(wire.AppendSwitching(nil, wire.Terms{Protocol: "tcp"}, "", nil)))
	require.Equal(t, "beforeHTTP/1.1 101 Switching Protocols\r\nUpgrade: tcps\r\nConnection: Upgrade\r\nA: 1\r\nB: 2\r\nB: 3\r\n\r\n",
		string(wire.AppendSwitching([]byte("before"), wire.Terms{Protocol: "tcps"}, "", map[string][]string{"B": {"2", "3"}, "A": {"1"}})))
	require.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nPreflight-Tunnel: tls\r\nA: 1\r\n\r\n",
		string(wire.AppendSwitching(nil, wire.Terms{Protocol: "tcp", TunnelTLS: true}, "", map[string][]string{"A": {"1"}})))
}

// TestAppendSwitchingFramed: after Upgrade: tcp, a field confirms the capsules. On a
// WebSocket, the subprotocol does.
func TestAppendSwitchingFramed(t *testing.T) {
	require.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nPreflight-Framing: capsule\r\nPreflight-Tunnel: tls\r\nA: 1\r\n\r\n",
		string(wire.AppendSwitching(nil, wire.Terms{Protocol: "tcp", Framed: true, TunnelTLS: true}, "", map[string][]string{"A": {"1"}})))
	require.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: preflight.v1\r\n\r\n",
		string(wire.AppendSwitching(nil, wire.Terms{Protocol: "TCP", WebSocket: true}, "x", nil)))
	require.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: preflight.v1\r\nPreflight-Protocol: tcps\r\nPreflight-Tunnel: tls\r\n\r\n",
		string(wire.AppendSwitching(nil, wire.Terms{Protocol: "tcps", WebSocket: true, TunnelTLS: true}, "x", nil)))
}

func TestAppendRefusal(t *testing.T) {
	require.Equal(t, "beforeHTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 12\r\nA: b\r\n\r\n",
		string(wire.AppendRefusal([]byte("before"), 403, "Forbidden", map[string][]string{"A": {"b"}}, 12)))
	require.Equal(t, "HTTP/1.1 426 Upgrade Required\r\nConnection: close, Upgrade\r\nContent-Length: 0\r\nUpgrade: tcp\r\n\r\n",
		string(wire.AppendRefusal(nil, 426, "Upgrade Required", map[string][]string{"Upgrade": {"tcp"}}, 0)))
	// For that status, Content-Length is the length of the unmodified response:
	// RFC 9110 §8.6.
	require.Equal(t, "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n",
		string(wire.AppendRefusal(nil, 304, "Not Modified", nil, 12)))
	// The SP stays if there is no reason phrase: RFC 9112 §4.
	require.Equal(t, "HTTP/1.1 599 \r\nConnection: close\r\nContent-Length: 1\r\n\r\n",
		string(wire.AppendRefusal(nil, 599, "", nil, 1)))
}
