package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/address"
	"github.com/preflight-go/preflight/cmd/preflight/internal/edge"
	"github.com/preflight-go/preflight/cmd/preflight/internal/relay"
	"github.com/preflight-go/preflight/cmd/preflight/internal/sandbox"
)

type forwardCommand struct {
	ConfigFlags
	Listen           []address.Address `sep:"none" placeholder:"ADDR" help:"Accept connections here: HOST:PORT, unix:PATH, or systemd:NAME for a socket of systemd. The first is for the first URL, the second for the second, and so on."`
	URL              []string          `arg:"" optional:"" name:"url" help:"An edge: https://HOST/PATH, or http, wss, ws, tcps, tcp with http_preflight=true. The flags are for all of them."`
	Map              []pair            `live:"" sep:"none" placeholder:"ADDR=URL" help:"Accept connections at ADDR for the edge URL, as --listen and URL together. Repeatable, and possible in a file."`
	Idle             int               `live:"" default:"0" placeholder:"NUMBER" help:"Keep so many tunnels open for each URL before they are needed, at most 100. The first connection then waits for no round trip. Each of them is a connection to the server, which may speak or end it."`
	IdleAge          time.Duration     `live:"" default:"30s" help:"Replace a tunnel of --idle at this age. The server should allow a client to be silent for longer."`
	HalfCloseTimeout time.Duration     `live:"" default:"5m" help:"When one direction has ended, end the tunnel after this much silence in the other. 0 means never."`
	DrainTimeout     time.Duration     `live:"" default:"25s" help:"On SIGTERM or SIGINT, wait so long for open tunnels, then cut them and exit with 1. A second signal cuts them at once."`
	ReusePort        bool              `help:"Let another preflight listen at the same TCP ports (SO_REUSEPORT). So a new one can take over before the old one ends."`
	Landlock         bool              `default:"true" negatable:"" help:"On Linux, give up all access to files but reading those of the flags and of /etc. On by default. It is off with --header-command, which may need anything."`
	TelemetryFlags
	UnsafeListen bool `live:"" help:"Allow to listen on other addresses than loopback and Unix sockets. Everybody who reaches them can then use the tunnels."`
	edge.Flags
}

// Help is the text below the flags.
func (forwardCommand) Help() string {
	return `A connection whose tunnel cannot be opened is reset, and the reason is logged. The next connection
dials anew. The forward proxy comes from HTTPS_PROXY and NO_PROXY. SIGHUP reads the certificates
again; the header file is read for each tunnel.`
}

// A forwarder is a forward command that runs.
type forwarder struct {
	log       *slog.Logger
	telemetry *preflight.Telemetry
	current   atomic.Pointer[forwardCommand]
	mappings  []*mapping
	accepting sync.WaitGroup
	tunnels   tunnels
	dialing   context.Context // ends when the program cuts what is open
}

func (c *forwardCommand) Run(env *environment) error {
	t, err := c.TelemetryFlags.start(env.ctx, env.log)
	if err != nil {
		return usage(err)
	}
	defer t.stop(env.log)
	f := &forwarder{log: env.log, telemetry: t.Telemetry}
	if err := f.open(c); err != nil {
		return usage(err)
	}
	if err := f.enterSandbox(); err != nil {
		return usagef("landlock: %w; --no-landlock goes without", err)
	}
	signals := watchSignals(env.ctx)
	defer signals.stop()
	dialing, cancelDials := context.WithCancel(signals.again)
	defer cancelDials()
	f.dialing = dialing
	f.start()
	defer watchdog(f.log, func() { f.tunnels.count() })()
	ready()
	r := &reloader{log: f.log, config: env.reloadable(c.Config, f.use), others: f.files}
	r.run(signals, c.ReloadEvery)
	return f.drain(signals, cancelDials)
}

// drain stops the forwarder in order, for at most DrainTimeout.
func (f *forwarder) drain(signals *signals, cancelDials func()) error {
	stopping()
	timeout := f.current.Load().DrainTimeout
	f.log.Info("draining", "tunnels", f.tunnels.count(), "timeout", timeout)
	ctx, cancel := context.WithTimeout(signals.again, timeout)
	defer cancel()
	defer context.AfterFunc(ctx, cancelDials)()
	for _, m := range f.mappings {
		m.listener.Close()
		m.target.Load().pool.Close()
	}
	f.accepting.Wait()
	if cut := f.tunnels.wait(ctx); cut > 0 {
		return fmt.Errorf("%w after --drain-timeout: %d", errCut, cut)
	}
	f.log.Info("drained")
	return nil
}

// enterSandbox gives up what the program does not need any more.
func (f *forwarder) enterSandbox() error {
	c := f.current.Load()
	if !c.Landlock || c.HeaderCommand != "" {
		return nil
	}
	needs := sandbox.Needs{Files: []string{string(c.Config), c.HeaderFile, c.CA, c.Cert, c.Key}}
	for _, m := range f.mappings {
		if socket := m.listen.Socket(); socket != "" {
			needs.Sockets = append(needs.Sockets, socket)
		}
	}
	return needs.Enter()
}

// acceptAll opens a tunnel for each connection, until the listener is closed.
func (f *forwarder) acceptAll(m *mapping) {
	var wait backoff
	for {
		c, err := m.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			f.log.Error("accept failed", "error", err)
			wait.sleep()
		default:
			wait.reset()
			f.tunnels.add(func() { f.forward(c.(relay.Conn), m.target.Load()) })
		}
	}
}

// A tunnelConn is a tunnel that was dialed, or was ready before.
type tunnelConn interface {
	relay.Conn
	Carrier() preflight.Carrier
}

// dial returns a tunnel that is ready, or opens one.
func (f *forwarder) dial(t *target) (tunnel tunnelConn, ready bool, err error) {
	if c := t.pool.Get(); c != nil {
		return c, true, nil
	}
	c, err := t.edge.Dial(f.dialing)
	if err != nil {
		return nil, false, err
	}
	return c, false, nil
}

// forward opens a tunnel for the connection c.
func (f *forwarder) forward(c relay.Conn, t *target) {
	log := f.log.With("edge", t.edge.String(), "client", strings.TrimPrefix(c.RemoteAddr().String(), "@"))
	begin := time.Now()
	tunnel, ready, err := f.dial(t)
	if err != nil {
		// A reset, so that the client does not take this for an answer of the server.
		relay.Reset(c)
		log.Warn("no tunnel", "error", err, "answer", answerOf(err))
		return
	}
	log = log.With("carrier", string(tunnel.Carrier()))
	took := time.Since(begin).Round(time.Millisecond)
	result := f.tunnels.run(c, tunnel, f.current.Load().HalfCloseTimeout, func() { log.Debug("opened", "took", took, "ready", ready) })
	closed(log, result, time.Since(begin))
}
