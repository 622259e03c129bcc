package peers

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A front is a way to a server.
type front struct {
	lab.Frontend
	prefix string // the prefix of every path
}

// eachFront runs a test against the server at backend: directly, and through nginx, which is
// configured to forward only upgrades to websocket.
func eachFront(t *testing.T, start func(*testing.T) (backend string), test func(*testing.T, front)) {
	nginx := func(t *testing.T) *lab.Edge {
		return lab.StartNginx(t, start(t), "    default upgrade;", "    default close;\n    websocket upgrade;")
	}
	t.Run("direct", func(t *testing.T) { test(t, front{lab.Frontend{Address: start(t)}, "/"}) })
	t.Run("nginx", func(t *testing.T) { test(t, front{nginx(t).Plain, "/client/"}) })
	t.Run("nginx over TLS", func(t *testing.T) { test(t, front{nginx(t).TLS, "/client/"}) })
}

func (f front) url(mode string) string {
	scheme := "ws://"
	if f.Roots != nil {
		scheme = "wss://"
	}
	return scheme + f.Address + f.prefix + mode
}

// never is the gate for tests that need none.
var never = make(chan struct{})

// The client of a PreflightListener is another implementation.
func TestClient(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			ends := make(chan error, 1)
			eachFront(t, func(t *testing.T) string {
				return lab.Serve(t, &preflight.PreflightListener{KeepAlivePeriod: period}, func(c *preflight.Conn) {
					for _, m := range modes {
						if c.Request().URL.Path == "/"+m.name {
							ends <- m.ours(c)
						}
					}
				})
			}, func(t *testing.T, f front) {
				for _, m := range modes {
					t.Run(m.name, func(t *testing.T) {
						reports := p.dial(t, f.url(m.name), f.Roots, never)
						require.NoError(t, lab.Receive(t, ends))
						m.verify(t, lab.Receive(t, reports))
					})
				}
			})
		})
	}
}

// A client of another implementation that reads late receives everything and a clean end.
func TestClientReadsLate(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			ends, gates := make(chan error, 1), make(chan chan struct{}, 1)
			eachFront(t, func(t *testing.T) string {
				writes := make(chan struct{}, 50)
				l := &preflight.PreflightListener{Listener: countingListener{lab.Listen(t), writes}, KeepAlivePeriod: period}
				return lab.Serve(t, l, func(c *preflight.Conn) { ends <- late(c, writes, <-gates) })
			}, func(t *testing.T, f front) {
				gate := make(chan struct{})
				gates <- gate
				reports := p.dial(t, f.url("late"), f.Roots, gate)
				require.NoError(t, lab.Receive(t, ends))
				verifyLate(t, lab.Receive(t, reports))
			})
		})
	}
}

// The server of a PreflightDialer is another implementation.
func TestServer(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			var reports <-chan report
			eachFront(t, func(t *testing.T) (address string) {
				address, reports = p.serve(t, never)
				return address
			}, func(t *testing.T, f front) {
				for _, m := range modes {
					t.Run(m.name, func(t *testing.T) {
						c := f.dial(t, m.name, nil)
						require.NoError(t, m.ours(c))
						require.NoError(t, c.Close())
						m.verify(t, lab.Receive(t, reports))
					})
				}
			})
		})
	}
}

// A server of another implementation that reads late receives everything and a clean end.
func TestServerReadsLate(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			var reports <-chan report
			var gate chan struct{}
			eachFront(t, func(t *testing.T) (address string) {
				gate = make(chan struct{})
				address, reports = p.serve(t, gate)
				return address
			}, func(t *testing.T, f front) {
				writes := make(chan struct{}, 50)
				require.NoError(t, late(f.dial(t, "late", writes), writes, gate))
				verifyLate(t, lab.Receive(t, reports))
			})
		})
	}
}

// dial opens a tunnel with WebSocket. If writes is not nil, it receives a value for each Write.
func (f front) dial(t *testing.T, mode string, writes chan<- struct{}) *preflight.Conn {
	t.Helper()
	d := f.Dialer()
	d.Path = f.prefix + mode
	d.Carriers = []preflight.Carrier{preflight.CarrierWebSocket}
	d.KeepAlivePeriod = period
	if writes != nil {
		d.NetDialer = countingDialer{writes}
	}
	c := f.DialWith(t, d)
	require.Equal(t, preflight.CarrierWebSocket, c.Carrier())
	return c
}

// A countingDialer wraps its connections in counters.
type countingDialer struct{ writes chan<- struct{} }

func (d countingDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return counter{c, d.writes}, nil
}

// verify checks the report of the other side.
func (m mode) verify(t *testing.T, r report) {
	t.Helper()
	if m.code == 1003 && r.Close == 1006 {
		// nginx ends both sides when one has ended. If the other has sent bytes that
		// nginx has not read, the kernel resets it, and the Close frame may be lost.
		return
	}
	require.Equal(t, m.code, r.Close, "%+v", r)
	if m.check != nil {
		m.check(t, r)
	}
}

func verifyLate(t *testing.T, r report) {
	t.Helper()
	hasData(payload[:lateSize])(t, r)
	require.Greater(t, r.Pings, 1)
	require.Equal(t, 1000, r.Close)
}

// TestStranger runs a client that was written only from the description of the protocol.
func TestStranger(t *testing.T) {
	eachFront(t, lab.ServeEcho, func(t *testing.T, f front) {
		if f.Roots != nil {
			return // Node would have to trust the certificate
		}
		cmd := node(t, "stranger.js", f.url("path"))
		text := strings.Repeat("A tunnel carries any bytes. ", 4000)
		cmd.Stdin = strings.NewReader(text)
		got, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, text, string(got))
	})
}
