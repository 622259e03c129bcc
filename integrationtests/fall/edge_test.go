package fall_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/frame"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/preflight-go/preflight/internal/websocket"
	"github.com/stretchr/testify/require"
)

// all lists all carriers. It is not the default list of a dialer.
var all = []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierFramed, preflight.CarrierWebSocket}

const (
	upgradeOnly = preflight.CarrierUpgrade
	framed      = preflight.CarrierFramed
	webSocket   = preflight.CarrierWebSocket
)

// An edge is a server that works on raw bytes. A function of the test answers each request. The
// edge records the carrier that a request asked for, and the head of the request.
type edge struct {
	net.Listener
	mu    sync.Mutex
	asked []preflight.Carrier
	heads []string
}

// newEdge starts an edge, which serves until the end of the test. answer returns the answer to a
// request. If it returns "", the connection is closed. After a 101, the tunnel echoes.
func newEdge(t testing.TB, answer func(carrier preflight.Carrier, head string) string) *edge {
	t.Helper()
	e := &edge{Listener: testkit.ListenTCP(t)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := e.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(testkit.Patience))
			all.Go(func() {
				defer c.Close()
				head := testkit.ReadRequest(c)
				carrier := asksFor(head)
				e.mu.Lock()
				e.asked = append(e.asked, carrier)
				e.heads = append(e.heads, head)
				e.mu.Unlock()
				reply := answer(carrier, head)
				io.WriteString(c, reply)
				if strings.HasPrefix(reply, "HTTP/1.1 101") {
					echo(c, carrier)
				}
			})
		}
	})
	t.Cleanup(func() { e.Close(); all.Wait() })
	return e
}

// echo echoes until the peer ends its direction.
func echo(c net.Conn, carrier preflight.Carrier) {
	tunnel := c
	if carrier != upgradeOnly {
		tunnel = frame.New(c, frame.Config{WebSocket: carrier == webSocket})
	}
	defer tunnel.Close()
	io.Copy(tunnel, tunnel)
	tunnel.(interface{ CloseWrite() error }).CloseWrite()
	io.Copy(io.Discard, c)
}

// take returns the carriers that were asked for since the last call.
func (e *edge) take() []preflight.Carrier {
	e.mu.Lock()
	defer e.mu.Unlock()
	asked := e.asked
	e.asked, e.heads = nil, nil
	return asked
}

// head returns the head of the request i since the last take.
func (e *edge) head(i int) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heads[i]
}

func (e *edge) address() string { return e.Addr().String() }

func asksFor(head string) preflight.Carrier {
	switch {
	case strings.Contains(head, "\r\nUpgrade: websocket\r\n"):
		return webSocket
	case strings.Contains(head, "\r\nPreflight-Framing: capsule\r\n"):
		return framed
	}
	return upgradeOnly
}

// switched returns the 101 to a request of a carrier, with additional field lines.
func switched(carrier preflight.Carrier, head, fields string) string {
	switch carrier {
	case webSocket:
		fields = "Upgrade: websocket\r\nSec-WebSocket-Accept: " + websocket.Accept(field(head, "Sec-WebSocket-Key")) +
			"\r\nSec-WebSocket-Protocol: preflight.v1\r\n" + fields
	case framed:
		fields = "Upgrade: tcp\r\nPreflight-Framing: capsule\r\n" + fields
	default:
		fields = "Upgrade: tcp\r\n" + fields
	}
	return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" + fields + "\r\n"
}

// field returns the value of a field in a head, or "" if the field is missing.
func field(head, name string) string {
	_, value, _ := strings.Cut(head, "\r\n"+name+": ")
	value, _, _ = strings.Cut(value, "\r\n")
	return value
}

// refusal returns an answer with a status and field lines.
func refusal(status int, fields string) string {
	return fmt.Sprintf("HTTP/1.1 %d No\r\nContent-Length: 0\r\n%s\r\n", status, fields)
}

// passing starts an edge that accepts these carriers, and refuses the others with a status.
func passing(t testing.TB, status int, carriers ...preflight.Carrier) *edge {
	return newEdge(t, func(carrier preflight.Carrier, head string) string {
		for _, c := range carriers {
			if c == carrier {
				return switched(carrier, head, "")
			}
		}
		return refusal(status, "")
	})
}

// ping requires that the tunnel uses carrier and works, including half-close. It then closes the
// tunnel.
func ping(t testing.TB, c net.Conn, err error, carrier preflight.Carrier) {
	t.Helper()
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, carrier, c.(*preflight.Conn).Carrier())
	c.SetDeadline(time.Now().Add(testkit.Patience))
	_, err = io.WriteString(c, "ping")
	require.NoError(t, err)
	require.NoError(t, c.(*preflight.Conn).CloseWrite())
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "ping", string(got))
}
