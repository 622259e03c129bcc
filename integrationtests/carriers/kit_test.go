package carriers_test

import (
	"bufio"
	"crypto/tls"
	"errors"
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

// The key and its answer in RFC 6455 §1.3.
const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// requests are the requests of the carriers. The test adds the last fields.
var requests = map[preflight.Carrier]string{
	preflight.CarrierUpgrade: "GET /t HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n",
	preflight.CarrierFramed:  "GET /t HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Framing: capsule\r\n",
	preflight.CarrierWebSocket: "GET /t HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + sampleKey + "\r\nSec-WebSocket-Protocol: preflight.v1\r\nPreflight-Framing: capsule\r\n",
}

// switched are the 101 answers of the carriers. The fields of Authorize follow.
var switched = map[preflight.Carrier]string{
	preflight.CarrierUpgrade: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n",
	preflight.CarrierFramed:  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nPreflight-Framing: capsule\r\n",
	preflight.CarrierWebSocket: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + sampleAccept + "\r\nSec-WebSocket-Protocol: preflight.v1\r\n",
}

// A peer is a client with its own code for the handshake.
type peer struct {
	net.Conn // the framed connection, or the plain one if the carrier has no framing
	r        *bufio.Reader
	bottom   net.Conn
}

// ask sends the request of a carrier with additional field lines, followed by the bytes of
// early. It requires a 101 with the additional field lines of answer.
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

// dial connects to l over TCP and calls ask.
func dial(t testing.TB, l net.Listener, carrier preflight.Carrier, fields, answer string) *peer {
	t.Helper()
	return ask(t, testkit.DialTCP(t, l.Addr()), carrier, fields, "", answer)
}

// talk requires that each side reads all data of the other and the end of its direction.
func talk(t testing.TB, p *peer, server net.Conn) {
	t.Helper()
	server.SetDeadline(time.Now().Add(testkit.Patience))
	big := strings.Repeat("0123456789abcdef", 20_000) // 320 kB: many capsules
	for _, text := range []string{"x", big} {
		testkit.Carry(t, text, p, server)
		testkit.Carry(t, text, server, p)
	}
	end(t, p, server)
	testkit.Carry(t, "after the end of the other direction", server, p)
	end(t, server.(*preflight.Conn), p)
	require.NoError(t, server.Close())
	require.NoError(t, p.Close())
}

// end ends the direction of w, and requires that r receives the end and no data before it.
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

// A bufferedConn is a Client whose Read first returns the bytes that its reader has buffered.
type bufferedConn struct{ *testkit.Client }

func (c bufferedConn) Read(b []byte) (int, error) { return c.R.Read(b) }

// CloseWrite is an error on a pipe, which cannot be half-closed.
func (c bufferedConn) CloseWrite() error {
	h, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return h.CloseWrite()
}
