package carriers_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/frame"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// The pair of RFC 6455 §1.3.
const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// The request of each carrier, up to its last fields.
var requests = map[preflight.Carrier]string{
	preflight.CarrierUpgrade: "GET /t HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n",
	preflight.CarrierFramed:  "GET /t HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Framing: capsule\r\n",
	preflight.CarrierWebSocket: "GET /t HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + sampleKey + "\r\nSec-WebSocket-Protocol: preflight.v1\r\nPreflight-Framing: capsule\r\n",
}

// The 101 of each carrier, up to the fields of Authorize.
var switched = map[preflight.Carrier]string{
	preflight.CarrierUpgrade: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n",
	preflight.CarrierFramed:  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nPreflight-Framing: capsule\r\n",
	preflight.CarrierWebSocket: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + sampleAccept + "\r\nSec-WebSocket-Protocol: preflight.v1\r\n",
}

// A peer is a client that does its handshake by hand.
type peer struct {
	net.Conn // what lies on the connection: the layer of the capsules, unless the carrier has none
	r        *bufio.Reader
	bottom   net.Conn
}

// ask sends the request of a carrier, with more field lines and the first bytes behind it,
// and requires the 101 with more field lines.
func ask(t testing.TB, c net.Conn, carrier preflight.Carrier, fields, early, answer string) *peer {
	t.Helper()
	_, err := io.WriteString(c, requests[carrier]+fields+"\r\n"+early)
	require.NoError(t, err)
	want := switched[carrier] + answer + "\r\n"
	require.Equal(t, want, testkit.GoldenRead(t, c, len(want)))
	p := &peer{Conn: c, bottom: c}
	if carrier != preflight.CarrierUpgrade {
		_, encrypted := c.(*tls.Conn)
		p.Conn = frame.New(c, frame.Config{WebSocket: carrier == preflight.CarrierWebSocket, Client: true, TLS: encrypted})
	}
	p.r = bufio.NewReader(p.Conn)
	return p
}

func (p *peer) CloseWrite() error { return p.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// dial is ask over TCP to l.
func dial(t testing.TB, l net.Listener, carrier preflight.Carrier, fields, answer string) *peer {
	t.Helper()
	return ask(t, testkit.DialTCP(t, l.Addr()), carrier, fields, "", answer)
}

// talk requires that each side reads what the other writes, and its end.
func talk(t testing.TB, p *peer, server net.Conn) {
	t.Helper()
	server.SetDeadline(time.Now().Add(testkit.Patience))
	big := strings.Repeat("0123456789abcdef", 20_000) // 320 kB: many capsules
	for _, text := range []string{"x", big} {
		testkit.Carry(t, text, p, server)
		testkit.Carry(t, text, server, p)
	}
	end(t, p, server)
	testkit.Carry(t, "behind the end of the other direction", server, p)
	end(t, server.(*preflight.Conn), p)
	require.NoError(t, server.Close())
	require.NoError(t, p.Close())
}

// end requires that the end of w's direction arrives at r, and nothing before it.
func end(t testing.TB, w interface{ CloseWrite() error }, r io.Reader) {
	t.Helper()
	closed := make(chan error, 1)
	go func() { closed <- w.CloseWrite() }()
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Empty(t, rest)
	require.NoError(t, <-closed)
}

var all = []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierFramed, preflight.CarrierWebSocket}

var framed = all[1:]

// each runs a test for each carrier.
func each(t *testing.T, carriers []preflight.Carrier, test func(*testing.T, preflight.Carrier)) {
	for _, carrier := range carriers {
		t.Run(string(carrier), func(t *testing.T) { test(t, carrier) })
	}
}

// A bufferedConn is a Client that reads what its reader has buffered.
type bufferedConn struct{ *testkit.Client }

func (c bufferedConn) Read(b []byte) (int, error) { return c.R.Read(b) }

func (c bufferedConn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}
