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
	Listen           []address.Address `sep:"none" placeholder:"ADDR" help:"Accept connections here: HOST:PORT, unix:PATH, or systemd:NAME for a socket of systemd. The first one is for the first URL, the second one for the second URL, and so on."`
	URL              []string          `arg:"" optional:"" name:"url" help:"An edge: https://HOST/PATH, or http, wss, ws, tcps, tcp with http_preflight=true. The flags apply to all URLs."`
	Map              []pair            `live:"" sep:"none" placeholder:"ADDR=URL" help:"Accept connections at ADDR for the edge URL. It replaces a --listen and its URL, and also works in the file of --config. Repeatable."`
	Idle             int               `live:"" default:"0" placeholder:"NUMBER" help:"Keep this many unused tunnels open for each URL, at most 100. A new connection takes one, and waits for no round trip. Each is a connection to the server, which may send on it or end it."`
	IdleAge          time.Duration     `live:"" default:"30s" help:"Replace an unused tunnel of --idle at this age. The server should allow a client to be silent for longer than that."`
	HalfCloseTimeout time.Duration     `live:"" default:"5m" help:"When one direction has ended, end the tunnel after this much silence in the other. 0 means never."`
	DrainTimeout     time.Duration     `live:"" default:"25s" help:"On SIGTERM or SIGINT, wait this long for open tunnels. Then reset them and exit with code 1. A second signal resets them at once."`
	ReusePort        bool              `help:"Let another preflight process listen on the same TCP ports (SO_REUSEPORT), so that it can take over before this one ends. Both processes need the flag."`
	Landlock         bool              `default:"true" negatable:"" help:"On Linux, allow this process to write no files, and to read only the folders of the files in its flags and system folders. On by default. Off with --header-command, because the command may need anything."`
	TelemetryFlags
	UnsafeListen bool `live:"" help:"Allow --listen and --map with addresses other than loopback and Unix sockets. Anyone who can reach such an address can use the tunnels."`
	edge.Flags
}

// Help is the text below the flags.
func (forwardCommand) Help() string {
	return `If a tunnel cannot be opened, forward resets the local connection and logs the reason. The next
connection dials again. HTTPS_PROXY and NO_PROXY choose the forward proxy. On SIGHUP, forward reads
the certificates and the file of --config again. It reads the header file for each tunnel.`
}

// A forwarder is a forward command that runs.
type forwarder struct {
	log       *slog.Logger
	telemetry *preflight.Telemetry
	current   atomic.Pointer[forwardCommand]
	mu        sync.Mutex // held by what changes or ends the mappings
	ending    bool       // they do not change any more
	mappings  []*mapping
	accepting sync.WaitGroup
	tunnels   tunnels
	dialing   context.Context // ends when the program cuts what is open
	sandboxed bool            // by enterSandbox
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
	r := &reloader{log: f.log, limits: f.sandboxed, config: env.reloadable(c.Config, f.use), others: f.files}
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
	f.mu.Lock()
	f.ending = true
	f.mu.Unlock()
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
	f.sandboxed = sandbox.Works
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
