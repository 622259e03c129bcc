package chaos

import (
	"net"
	"os"
	"os/exec"
	"path"
	"syscall"
	"testing"

	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// childVariable is a variable that makes the test binary a server on descriptor 3.
const childVariable = "PREFLIGHT_CHAOS_SERVER"

// serveAsChild runs a server until it is killed.
func serveAsChild() {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		panic(err)
	}
	newServer(&preflight.PreflightListener{Listener: l}).sessions.Wait()
}

// startServer runs a server in a process of its own.
func startServer(t *testing.T) *lab.Daemon {
	t.Helper()
	return lab.StartDaemonOnSockets(t, 1, func([]string) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{childVariable + "=1"}
		return cmd
	})
}

// TestKill kills a proxy, its worker or the server, at each stage of a handshake and of a
// transfer.
func TestKill(t *testing.T) {
	for _, proxy := range proxies {
		for _, at := range stages {
			carriers := []preflight.Carrier{""}
			if at.afterHead {
				carriers = append(carriers, proxy.framed)
			}
			for _, carrier := range carriers {
				t.Run(path.Join(proxy.name, at.name, string(carrier)), func(t *testing.T) {
					t.Run("proxy", func(t *testing.T) {
						t.Parallel()
						d := proxy.start(t)
						testProxyKill(t, d, at, carrier, func() { killDaemon(t, d) })
						// Nothing listens there any more.
						_, err := net.Dial("tcp", d.Addresses[0])
						require.ErrorIs(t, err, syscall.ECONNREFUSED)
					})
					t.Run("server", func(t *testing.T) {
						t.Parallel()
						d, server := proxy.start(t), startServer(t)
						client := kill(t, route{d.Addresses[0], server.Addresses[0]}, at, carrier, func() { killDaemon(t, server) })
						cuts.require(t, client, nil, false) // its end of the tunnel is lost with the process
						require.False(t, carrier != "" && client.traffic.clean, "a killed process cannot end a framed tunnel in order")
						client.requireClosed(t)
						requireTunnel(t, d)
					})
					// In earlier stages, nginx has not accepted the connection. The next worker would.
					if proxy.name == "nginx" && (at.afterHead || at.stream == "downstream") {
						t.Run("worker", func(t *testing.T) {
							t.Parallel()
							d := proxy.start(t)
							testProxyKill(t, d, at, carrier, func() {
								pids := workers(t, d)
								require.Len(t, pids, 1)
								killAll(t, pids)
							})
							requireTunnel(t, d)
						})
					}
				})
			}
		}
	}
}

func testProxyKill(t *testing.T, d *lab.Daemon, at stage, carrier preflight.Carrier, victim func()) {
	s := listen(t, &preflight.PreflightListener{HandshakeTimeout: lab.Timeout})
	client := kill(t, route{d.Addresses[0], s.Addr().String()}, at, carrier, victim)
	server, arrived := s.stop(t)[killedID]
	cuts.require(t, client, server, arrived)
	client.requireClosed(t)
	client.requireWhole(t, s.traffic[killedID])
}

// killedID is the ID of the tunnel that is cut.
const killedID = 1

// A killer is a toxic. When data reaches it, it waits until the test has killed a process.
// Then it passes the data on.
type killer struct{ reached, killed chan struct{} }

func (k killer) Pipe(stub *toxics.ToxicStub) {
	close(k.reached)
	<-k.killed
	new(toxics.NoopToxic).Pipe(stub)
}

// kill calls victim when a tunnel on the path has reached a stage, between the client and
// the proxy. It returns how the tunnel ended for the client.
func kill(t *testing.T, r route, at stage, carrier preflight.Carrier, victim func()) end {
	t.Helper()
	k := killer{make(chan struct{}), make(chan struct{})}
	h, err := startHop(r.proxy, fault{toxic: k}, at)
	require.NoError(t, err)
	defer h.stop()
	ended := make(chan end, 1)
	go func() {
		p := plan{id: killedID, size: 64 * transfer, limit: lab.Timeout, carrier: carrier}
		ended <- route{h.Listen, r.server}.run(p, lab.Timeout)
	}()
	select {
	case <-k.reached:
	case early := <-ended:
		require.FailNow(t, "the tunnel ended too early", "%+v", early)
	}
	victim()
	close(k.killed)
	client := <-ended
	if at.afterHead && at.name != after101 {
		require.NoError(t, client.dial)
	}
	return client
}

// requireTunnel requires that the proxy d still leads to another server.
func requireTunnel(t *testing.T, d *lab.Daemon) {
	t.Helper()
	s := listen(t, &preflight.PreflightListener{HandshakeTimeout: lab.Timeout})
	p := plan{id: 1, size: transfer, limit: lab.Timeout}
	require.NoError(t, route{d.Addresses[0], s.Addr().String()}.run(p, lab.Timeout).err())
	require.Equal(t, map[uint64]error{p.id: nil}, s.stop(t))
}
