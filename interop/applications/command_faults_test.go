package applications

import (
	"bytes"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// TestCommandFaults kills, reloads and pauses each part between a client and its server. Only the
// tunnels through that part end, and only if it is killed. New ones work as soon as it is back.
func TestCommandFaults(t *testing.T) {
	for name, edits := range map[string][]string{"nginx": nil, "websocket-only": websocketOnly} {
		t.Run(name, func(t *testing.T) {
			p := startParts(t, edits)
			t.Run("Reload", p.testReload)
			t.Run("Pause", p.testPause)
			t.Run("SlowPeer", p.testSlowPeer)
			t.Run("KillServer", p.testKillServer)
			t.Run("KillForward", p.testKillForward)
			t.Run("KillServe", p.testKillServe)
		})
	}
}

// parts are two forwards, an edge and a serve with two servers.
type parts struct {
	t                 *testing.T // outlives that of each test
	framed            bool
	program           string
	echo, other       *echoServer
	serve             *commandProcess
	serveArgs         []string
	edge              *lab.Edge
	forward, forward2 *commandProcess
}

func startParts(t *testing.T, edits []string) *parts {
	p := &parts{t: t, framed: edits != nil, program: lab.BuildCommand(t), echo: startEchoServer(t), other: startEchoServer(t)}
	p.serveArgs = []string{"--allow-all", "--route", "/echo=" + p.echo.address, "--route", "/other=" + p.other.address}
	p.serve = launchCommand(t, p.program, append([]string{"serve", "--listen", "127.0.0.1:0"}, p.serveArgs...)...)
	p.edge = lab.StartNginx(t, p.serve.addresses[0], edits...)
	p.forward, p.forward2 = p.startForward(), p.startForward()
	return p
}

func (p *parts) startForward() *commandProcess {
	url := "https://" + p.edge.TLS.Address + "/client"
	return launchCommand(p.t, p.program, "forward", "--ca", writePeerCertificate(p.t, p.edge.TLS.Address), "--idle", "1",
		"--map", "127.0.0.1:0="+url+"/echo", "--map", "127.0.0.1:0="+url+"/other")
}

// An echoServer sends back what it reads.
type echoServer struct {
	address string
	cut     func() // ends its connections by a reset
}

func startEchoServer(t *testing.T) *echoServer {
	l := lab.Listen(t)
	accepted := make(chan net.Conn, 1000)
	lab.RunServer(t, func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}, l.Close)
	return &echoServer{l.Addr().String(), func() {
		for len(accepted) > 0 {
			c := (<-accepted).(*net.TCPConn)
			c.SetLinger(0)
			c.Close()
		}
	}}
}

// A client is a connection through a tunnel.
type client struct {
	t *testing.T
	net.Conn
}

func connectTo(t *testing.T, address string) client {
	t.Helper()
	c := client{t, lab.WithDeadline(t, lab.DialTCP(t, address))}
	t.Cleanup(func() { c.Close() })
	c.works()
	return c
}

func (c client) works() {
	c.t.Helper()
	require.NoError(c.t, lab.Echo(c, []byte("a line for the echo\n")))
}

// lost requires that the tunnels were cut. Where they are framed, nobody takes that for the end of
// the data. Otherwise nginx does.
func (p *parts) lost(t *testing.T, clients []client) {
	t.Helper()
	for _, c := range clients {
		_, err := io.ReadAll(c)
		if p.framed {
			require.ErrorIs(t, err, syscall.ECONNRESET)
		}
		c.Close()
	}
}

func connectAll(t *testing.T, addresses ...string) (clients []client) {
	for _, a := range addresses {
		for range 3 {
			clients = append(clients, connectTo(t, a))
		}
	}
	return clients
}

func works(clients []client) {
	for _, c := range clients {
		c.works()
	}
}

func (p *parts) testReload(t *testing.T) {
	clients := connectAll(t, p.forward.addresses...)
	for _, c := range []*commandProcess{p.serve, p.forward} {
		before := strings.Count(c.log(), "msg=reloaded")
		require.NoError(t, c.cmd.Process.Signal(syscall.SIGHUP))
		if c == p.forward { // serve has no files here
			lab.WaitUntil(t, "it reloads", func() bool { return strings.Count(c.log(), "msg=reloaded") >= before+2 })
		}
	}
	p.edge.Reload(p.serve.addresses[0])
	works(clients)
	works(connectAll(t, p.forward.addresses...))
	works(clients)
}

func (p *parts) testPause(t *testing.T) {
	clients := connectAll(t, p.forward.addresses...)
	for _, c := range []*commandProcess{p.serve, p.forward} {
		require.NoError(t, c.cmd.Process.Signal(syscall.SIGSTOP))
		for _, c := range clients {
			_, err := c.Write([]byte("while it is paused"))
			require.NoError(t, err)
		}
		require.NoError(t, c.cmd.Process.Signal(syscall.SIGCONT))
		for _, c := range clients {
			got := make([]byte, len("while it is paused"))
			_, err := io.ReadFull(c, got)
			require.NoError(t, err)
			require.Equal(t, "while it is paused", string(got))
		}
		works(connectAll(t, p.forward.addresses...))
	}
}

// testSlowPeer has a client that does not read until everybody else is done.
func (p *parts) testSlowPeer(t *testing.T) {
	slow := connectTo(t, p.forward.addresses[0])
	data := lab.RandomBytes(32 << 20)
	sent := make(chan error, 1)
	go func() {
		_, err := slow.Write(data)
		sent <- err
	}()
	clients := connectAll(t, p.forward.addresses...)
	for range 100 {
		works(clients)
	}
	got := make([]byte, len(data))
	_, err := io.ReadFull(slow, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	require.NoError(t, lab.Receive(t, sent))
}

func (p *parts) testKillServer(t *testing.T) {
	lost, kept := connectAll(t, p.forward.addresses[0]), connectAll(t, p.forward.addresses[1])
	p.echo.cut()
	p.lost(t, lost)
	works(kept)
	works(connectAll(t, p.forward.addresses[0]))
}

func (p *parts) testKillForward(t *testing.T) {
	lost, kept := connectAll(t, p.forward2.addresses...), connectAll(t, p.forward.addresses...)
	before := strings.Count(p.serve.log(), `msg="closed early"`)
	require.NoError(t, p.forward2.cmd.Process.Kill())
	for _, c := range lost {
		io.Copy(io.Discard, c) // the kernel ends or resets what a killed process had open
	}
	works(kept)
	lab.WaitUntil(t, "serve ends their tunnels", func() bool {
		log := p.serve.log()
		return strings.Count(log, `msg="closed early"`)+strings.Count(log, "msg=closed ") >= before+len(lost)
	})
	p.forward2.cmd.Wait()
	p.forward2 = p.startForward()
	works(connectAll(t, p.forward2.addresses...))
}

func (p *parts) testKillServe(t *testing.T) {
	lost := connectAll(t, p.forward.addresses...)
	require.NoError(t, p.serve.cmd.Process.Kill())
	p.serve.cmd.Wait()
	p.lost(t, lost)
	p.serve = launchCommand(p.t, p.program, append([]string{"serve", "--listen", p.serve.addresses[0]}, p.serveArgs...)...)
	after := connectAll(t, p.forward.addresses...)
	works(after)
	for _, c := range after {
		c.Close()
	}
	for _, c := range []*commandProcess{p.forward, p.forward2, p.serve} {
		require.NoError(t, c.end(), c.log())
	}
}
