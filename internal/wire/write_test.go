package wire_test

import (
	"testing"

	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
)

func TestAppendRequest(t *testing.T) {
	require.Equal(t,
		"before"+
			"GET /client/amps/json?a=b HTTP/1.1\r\n"+
			"Host: edge.example:8080\r\n"+
			"Connection: Upgrade\r\n"+
			"Upgrade: tcp\r\n"+
			"Authorization: Bearer t0ken\r\n"+
			"X-Dup: 2\r\n"+
			"X-Dup: 1\r\n"+
			"X-Empty: \r\n"+
			"x-lower: x\r\n"+
			"\r\n",
		string(wire.AppendFields(wire.AppendRequest([]byte("before"), "/client/amps/json?a=b", "edge.example:8080", "tcp", false), map[string][]string{
			"x-lower":       {"x"},
			"X-Dup":         {"2", "1"},
			"X-None":        {},
			"X-Empty":       {""},
			"Authorization": {"Bearer t0ken"},
		})))
	require.Equal(t, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x/1\r\na: b\r\n\r\n",
		string(wire.AppendFields(wire.AppendField(wire.AppendRequest(nil, "/", "h", "x/1", false), "a", "b"), nil)))
	// What the exchange asks for stands before what others add.
	require.Equal(t, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Tunnel: tls\r\na: b\r\n\r\n",
		string(wire.AppendFields(wire.AppendRequest(nil, "/", "h", "tcp", true), map[string][]string{"a": {"b"}})))
}

func TestAppendSwitching(t *testing.T) {
	require.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
		string(wire.AppendSwitching(nil, wire.Terms{Protocol: "tcp"}, "", nil)))
	require.Equal(t, "beforeHTTP/1.1 101 Switching Protocols\r\nUpgrade: tcps\r\nConnection: Upgrade\r\nA: 1\r\nB: 2\r\nB: 3\r\n\r\n",
		string(wire.AppendSwitching([]byte("before"), wire.Terms{Protocol: "tcps"}, "", map[string][]string{"B": {"2", "3"}, "A": {"1"}})))
	require.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nPreflight-Tunnel: tls\r\nA: 1\r\n\r\n",
		string(wire.AppendSwitching(nil, wire.Terms{Protocol: "tcp", TunnelTLS: true}, "", map[string][]string{"A": {"1"}})))
}

// TestAppendSwitchingFramed: behind Upgrade: tcp a field agrees to the capsules, on a
// WebSocket the subprotocol.
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
