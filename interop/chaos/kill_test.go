package chaos

import (
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// childVariable makes the test binary a server, on descriptor 3.
const childVariable = "PREFLIGHT_CHAOS_SERVER"

// serveAsChild runs a server until it is killed.
func serveAsChild() {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		panic(err)
	}
	newServer(&preflight.PreflightListener{Listener: l}).sessions.Wait()
}

func launchServer(t *testing.T) *daemon {
	t.Helper()
	return launch(t, func(string) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{childVariable + "=1"}
		return cmd
	})
}

// TestKill kills a proxy, or its worker, or the server, at every stage of a
// handshake and of a transfer.
func TestKill(t *testing.T) {
	for _, proxy := range proxies {
		for _, at := range stages {
			t.Run(proxy.name+"/"+at.name, func(t *testing.T) {
				t.Run("proxy", func(t *testing.T) {
					t.Parallel()
					d := proxy.start(t)
					testProxyKill(t, d, at, func() { d.kill(t) })
					// It is not there any more.
					_, err := net.Dial("tcp", d.address)
					require.ErrorIs(t, err, syscall.ECONNREFUSED)
				})
				t.Run("server", func(t *testing.T) {
					t.Parallel()
					d, server := proxy.start(t), launchServer(t)
					client := kill(t, road{d.address, server.address}, at, func() { server.kill(t) })
					cuts.require(t, client, nil, false) // what it saw is gone with it
					requireTunnel(t, d)
				})
				// What has not been accepted yet is accepted by the next worker.
				if proxy.name == "nginx" && (at.behind || at.stream == "downstream") {
					t.Run("worker", func(t *testing.T) {
						t.Parallel()
						d := proxy.start(t)
						testProxyKill(t, d, at, func() {
							workers := d.workers(t)
							require.Len(t, workers, 1)
							killAll(t, workers)
						})
						requireTunnel(t, d)
					})
				}
			})
		}
	}
}

func testProxyKill(t *testing.T, d *daemon, at stage, victim func()) {
	s := listen(t, &preflight.PreflightListener{HandshakeTimeout: patience})
	client := kill(t, road{d.address, s.Addr().String()}, at, victim)
	server, came := s.stop(t)[killedID]
	cuts.require(t, client, server, came)
}

// killedID is the tunnel that meets its end.
const killedID = 1

// A killer is a toxic that has something killed, and then does nothing.
type killer struct{ reached, killed chan struct{} }

func (k killer) Pipe(stub *toxics.ToxicStub) {
	close(k.reached)
	<-k.killed
	new(toxics.NoopToxic).Pipe(stub)
}

// kill ends something on the road of a tunnel when it has come to a stage, between
// the client and the proxy.
func kill(t *testing.T, r road, at stage, victim func()) end {
	t.Helper()
	k := killer{make(chan struct{}), make(chan struct{})}
	h, err := startHop(r.proxy, fault{toxic: k}, at)
	require.NoError(t, err)
	defer h.stop()
	ended := make(chan end, 1)
	go func() {
		p := plan{id: killedID, size: 64 * transfer, limit: patience}
		ended <- road{h.Listen, r.server}.travel(p, patience)
	}()
	select {
	case <-k.reached:
	case early := <-ended:
		require.FailNow(t, "it ended before", "%+v", early)
	}
	victim()
	close(k.killed)
	client := <-ended
	if at.behind && at.name != behind101 {
		require.NoError(t, client.dial)
	}
	return client
}

// requireTunnel requires that d brings clients to another server.
func requireTunnel(t *testing.T, d *daemon) {
	t.Helper()
	s := listen(t, &preflight.PreflightListener{HandshakeTimeout: patience})
	p := plan{id: 1, size: transfer, limit: patience}
	require.NoError(t, road{d.address, s.Addr().String()}.travel(p, patience).err())
	require.Equal(t, map[uint64]error{p.id: nil}, s.stop(t))
}
