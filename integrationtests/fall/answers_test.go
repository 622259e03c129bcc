package fall_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// TestStatuses: the statuses after which the dialer tries the next carrier.
func TestStatuses(t *testing.T) {
	falls := func(status int) bool {
		return status == 200 || status >= 300 && status < 400 ||
			slices.Contains([]int{400, 403, 404, 405, 426, 501, 505}, status)
	}
	for _, status := range []int{
		200, 201, 204, 206, 300, 301, 302, 303, 304, 307, 308, 399,
		400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 413, 414, 417, 421, 425, 426, 429, 431, 451, 499,
		500, 501, 502, 503, 504, 505, 507, 511, 520, 599, 600,
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			e := passing(t, status, webSocket)
			c, err := new(preflight.PreflightDialer).Dial("tcp", e.address())
			if falls(status) {
				ping(t, c, err, webSocket)
				require.Equal(t, []preflight.Carrier{upgradeOnly, webSocket}, e.take())
				return
			}
			require.Equal(t, status, testkit.StatusError(t, err).StatusCode)
			require.Equal(t, []preflight.Carrier{upgradeOnly}, e.take())
		})
	}
}

// TestReceipts: if a listener has answered, its code decides whether the dialer tries the next
// carrier.
func TestReceipts(t *testing.T) {
	codes := []string{
		"head", "too-large", "too-slow", "http10", "http2", "no-upgrade", "protocol", "method", "body", "expect",
		"no-connection", "websocket", "subprotocol", "carrier", "tunnel-tls", "unavailable", "proxy-header", "origin",
		"request", "authorize", "internal", "drain", "x2",
	}
	for _, code := range codes {
		for _, status := range []int{200, 302, 400, 403, 404, 405, 426, 501, 503, 505} {
			t.Run(fmt.Sprint(code, status), func(t *testing.T) {
				e := newEdge(t, func(carrier preflight.Carrier, head string) string {
					if carrier == webSocket {
						return switched(carrier, head, "")
					}
					return refusal(status, "Preflight-Refusal: "+code+"\r\nPreflight-Carriers: websocket\r\n")
				})
				c, err := new(preflight.PreflightDialer).Dial("tcp", e.address())
				if slices.Contains([]string{"no-upgrade", "no-connection", "carrier"}, code) && slices.Contains([]int{400, 405, 426}, status) {
					ping(t, c, err, webSocket)
					return
				}
				refused := testkit.StatusError(t, err)
				require.Equal(t, status, refused.StatusCode)
				require.Equal(t, code, refused.Reason)
				require.Len(t, e.take(), 1)
			})
		}
	}
}

// TestReason: a value that is not a code is not reported as a reason.
func TestReason(t *testing.T) {
	for fields, want := range map[string]string{
		"Preflight-Refusal: authorize\r\n":                       "authorize",
		"preflight-refusal:\tauthorize \r\n":                     "authorize",
		"Preflight-Refusal: tunnel-tls\r\n":                      "tunnel-tls",
		"Preflight-Refusal: " + strings.Repeat("a", 32) + "\r\n": strings.Repeat("a", 32),
		"Preflight-Refusal: " + strings.Repeat("a", 33) + "\r\n": "",
		"Preflight-Refusal: Authorize\r\n":                       "",
		"Preflight-Refusal: two words\r\n":                       "",
		"Preflight-Refusal: a,b\r\n":                             "",
		"Preflight-Refusal: caf\xe9\r\n":                         "",
		"Preflight-Refusal:\r\n":                                 "",
		"Preflight-Refusal: a\r\nPreflight-Refusal: a\r\n":       "",
		"X: y\r\n": "",
		"Preflight-Carriers: websocket\r\nX-Preflight-Refusal: head\r\n": "",
	} {
		e := newEdge(t, func(preflight.Carrier, string) string { return refusal(503, fields) })
		_, err := new(preflight.PreflightDialer).Dial("tcp", e.address())
		require.Equal(t, want, testkit.StatusError(t, err).Reason, "%q", fields)
	}
	// A malformed code still shows that a listener has answered, so no other carrier is tried.
	for _, field := range []string{"Preflight-Refusal:", "Preflight-Refusal: No-Upgrade", "Preflight-Refusal: no-upgrade\r\nPreflight-Refusal: no-upgrade"} {
		e := newEdge(t, func(preflight.Carrier, string) string { return refusal(426, field+"\r\n") })
		_, err := new(preflight.PreflightDialer).Dial("tcp", e.address())
		require.Empty(t, testkit.StatusError(t, err).Reason)
		require.Len(t, e.take(), 1, field)
	}
	// A forward proxy is not a listener.
	e := newEdge(t, func(preflight.Carrier, string) string { return refusal(403, "Preflight-Refusal: carrier\r\n") })
	_, err := (&preflight.PreflightDialer{Proxy: testkit.Via("http://" + e.address())}).Dial("tcp", "edge.example:80")
	refused := testkit.StatusError(t, err)
	require.True(t, refused.ForwardProxy)
	require.Empty(t, refused.Reason)
	require.Len(t, e.take(), 1, "a refused CONNECT says nothing about carriers")
}

// TestSwitchedWrong: after a 101 with a wrong token, or without one, the dialer tries the next
// carrier. If a 101 is wrong in another way, the dial fails.
func TestSwitchedWrong(t *testing.T) {
	const begin = "HTTP/1.1 101 Switching Protocols\r\n"
	for answer, text := range map[string]string{
		"Connection: Upgrade\r\n":                                                                  "",
		"Connection: Upgrade\r\nUpgrade: h2c\r\n":                                                  "",
		"Connection: Upgrade\r\nUpgrade: tcp, h2c\r\n":                                             "",
		"Upgrade: tcp\r\n":                                                                         "does not list upgrade in Connection",
		"Connection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Framing: capsule\r\n":                    "announces framing",
		"Connection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Tunnel: tls\r\n":                         "announces TLS inside",
		"Connection: Upgrade\r\nUpgrade: h2c\r\nPreflight-Refusal: protocol\r\n":                   "another protocol",
		"Connection: Upgrade\r\nUpgrade: h2c\r\nPreflight-Refusal: carrier\r\nX: on a 101: no\r\n": "another protocol",
	} {
		e := newEdge(t, func(carrier preflight.Carrier, head string) string {
			if carrier == webSocket {
				return switched(carrier, head, "")
			}
			return begin + answer + "\r\n"
		})
		c, err := new(preflight.PreflightDialer).Dial("tcp", e.address())
		if text == "" {
			ping(t, c, err, webSocket)
			continue
		}
		require.ErrorContains(t, err, text)
		require.Equal(t, []preflight.Carrier{upgradeOnly}, e.take())
	}
	// The same for the other carriers.
	for carrier, text := range map[preflight.Carrier]string{
		framed:    "does not confirm the framing",
		webSocket: "no Sec-WebSocket-Accept",
	} {
		e := newEdge(t, func(c preflight.Carrier, head string) string {
			if c == upgradeOnly {
				return switched(c, head, "")
			}
			return begin + "Connection: Upgrade\r\nUpgrade: " + field(head, "Upgrade") + "\r\n\r\n"
		})
		_, err := (&preflight.PreflightDialer{Carriers: []preflight.Carrier{carrier, upgradeOnly}}).Dial("tcp", e.address())
		require.ErrorContains(t, err, text)
		require.Equal(t, 101, testkit.StatusError(t, err).StatusCode)
		require.Equal(t, []preflight.Carrier{carrier}, e.take())
	}
}

// TestFaults: without a valid answer, the dialer does not try another carrier.
func TestFaults(t *testing.T) {
	for name, answer := range map[string]string{
		"end":       "",
		"no HTTP":   "SSH-2.0-x\r\n",
		"malformed": "HTTP/1.1 404 x\r\nA : b\r\n\r\n",
		"cut":       "HTTP/1.1 404 x\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t, func(preflight.Carrier, string) string { return answer })
			_, err := new(preflight.PreflightDialer).Dial("tcp", e.address())
			require.Error(t, err)
			require.Equal(t, []preflight.Carrier{upgradeOnly}, e.take())
		})
	}
}

// TestRequests: the request of each carrier on the wire.
func TestRequests(t *testing.T) {
	e := newEdge(t, func(preflight.Carrier, string) string { return refusal(404, "") })
	d := preflight.PreflightDialer{Carriers: all, Host: "h", Path: "/p?q", Protocol: "nats", Header: http.Header{"A": {"b"}}}
	_, err := d.Dial("tcp", e.address())
	require.Error(t, err)
	const begin = "GET /p?q HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n"
	require.Equal(t, begin+"Upgrade: nats\r\nPreflight-Carriers: upgrade, framed, websocket\r\nA: b\r\n\r\n", e.head(0))
	require.Equal(t, begin+"Upgrade: nats\r\nPreflight-Framing: capsule\r\nPreflight-Carriers: framed, websocket\r\nA: b\r\n\r\n", e.head(1))
	key := field(e.head(2), "Sec-WebSocket-Key")
	require.Len(t, key, 24)
	require.Equal(t, begin+"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+key+
		"\r\nSec-WebSocket-Protocol: preflight.v1\r\nPreflight-Framing: capsule\r\nPreflight-Carriers: websocket\r\nPreflight-Protocol: nats\r\nA: b\r\n\r\n", e.head(2))
	e.take()

	_, err = d.Dial("tcp", e.address())
	require.Error(t, err)
	require.NotEqual(t, key, field(e.head(2), "Sec-WebSocket-Key"), "each request has a new key")
}

// TestEarlyBytes: bytes that directly follow the 101 are the first bytes of the tunnel, below
// the layer of the capsules.
func TestEarlyBytes(t *testing.T) {
	for carrier, early := range map[preflight.Carrier]string{
		upgradeOnly: "early",
		framed:      "\xad\x70\xf1\x00\x05early",
		webSocket:   "\x82\x0a\xad\x70\xf1\x00\x05early",
	} {
		e := newEdge(t, func(c preflight.Carrier, head string) string { return switched(c, head, "") + early })
		c, err := (&preflight.PreflightDialer{Carriers: []preflight.Carrier{carrier}}).Dial("tcp", e.address())
		require.NoError(t, err)
		got := make([]byte, 5)
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		require.Equal(t, "early", string(got))
		ping(t, c, err, carrier)
	}
}
