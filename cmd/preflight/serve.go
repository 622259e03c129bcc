package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/address"
	"github.com/preflight-go/preflight/cmd/preflight/internal/check"
	"github.com/preflight-go/preflight/cmd/preflight/internal/relay"
	"github.com/preflight-go/preflight/cmd/preflight/internal/sandbox"
)

type serveCommand struct {
	ConfigFlags
	Listen address.Address  `required:"" placeholder:"ADDR" help:"Accept tunnels here: HOST:PORT, unix:PATH, or systemd:NAME for a socket of systemd."`
	To     *address.Address `live:"" placeholder:"ADDR" help:"The server: HOST:PORT or unix:PATH. It gets plain connections, and the tunnels of all paths without a --route."`
	Route  []route          `live:"" placeholder:"/PATH=ADDR" sep:"none" help:"The server for this path and all paths below it. The longest path wins. Repeatable."`
	Echo   bool             `live:"" help:"Send the bytes of tunnels back, in place of a server. preflight check then finds a far end here, and reports what arrives. Plain connections are closed."`

	AllowAll  bool     `live:"" group:"Who may open a tunnel" help:"Every client."`
	TokenFile string   `live:"" group:"Who may open a tunnel" type:"path" placeholder:"FILE" help:"Clients that send 'Authorization: Bearer TOKEN'. Each line of the file is a name, a space and a token of at least 16 characters."`
	Htpasswd  string   `live:"" group:"Who may open a tunnel" type:"path" placeholder:"FILE" help:"Clients that send 'Authorization: Basic' with a user of this file. 'htpasswd -B' writes it."`
	ClientCA  string   `live:"" group:"Who may open a tunnel" name:"client-ca" type:"path" placeholder:"FILE" help:"Clients with a certificate that these authorities (PEM) have issued, and that --allow-cn or --allow-san allows. With --token-file or --htpasswd, a client needs both. Needs --tls-cert."`
	AllowCN   []string `live:"" group:"Who may open a tunnel" name:"allow-cn" sep:"none" placeholder:"PATTERN" help:"Allow a certificate with this common name. A * stands for one label of a DNS name or one segment of a URI. A * alone stands for any name. Repeatable. Needs --client-ca."`
	AllowSAN  []string `live:"" group:"Who may open a tunnel" name:"allow-san" sep:"none" placeholder:"PATTERN" help:"Allow a certificate with this subject alternative name: a DNS name, a URI, an e-mail or an IP address. Repeatable. Needs --client-ca."`

	RequireUpgrade   bool          `help:"Close plain connections. Without this flag, --allow-all and --to also let clients that do not speak HTTP reach the server."`
	PlainAfter       time.Duration `placeholder:"TIME" help:"Treat a client that has sent nothing for this long as a plain one. For servers that speak first, such as MySQL, set 200ms to 1s. The default is 10s."`
	Carrier          []string      `placeholder:"NAME" help:"Serve this carrier: upgrade, framed or websocket. Repeatable. The default is all."`
	AllowOrigin      []string      `sep:"none" placeholder:"ORIGIN" help:"Let web pages of this origin open tunnels: https://app.example, https://*.app.example, or *. Repeatable. The default is none."`
	TrustedProxy     []string      `placeholder:"CIDR" help:"Trust these peers, an address or a prefix, to report the client's address: in a PROXY header, or in the field --client-addr-header. Repeatable."`
	ClientAddrHeader string        `placeholder:"FIELD" help:"The field in which the trusted proxies report the client's address. The default is X-Forwarded-For."`
	TLSCert          string        `live:"" name:"tls-cert" type:"path" placeholder:"FILE" help:"Accept TLS too, on the same port and inside tunnels, with this certificate and its chain (PEM)."`
	TLSKey           string        `live:"" name:"tls-key" type:"path" placeholder:"FILE" help:"The key of --tls-cert (PEM)."`

	SendProxy        bool          `live:"" help:"Send the client's address to the server in a PROXY header, version 2. The server must expect the header."`
	MaxConns         int           `live:"" default:"10000" help:"Refuse further tunnels with 503 while this many are open. 0 means no limit."`
	HandshakeRate    float64       `live:"" default:"0" placeholder:"NUMBER" help:"Answer 429 to an address that asks for more than this many tunnels a second on average. IPv6 addresses of one /64 count together. 0 means no limit."`
	HandshakeBurst   int           `live:"" default:"20" help:"Let an address ask for this many tunnels at once, in spite of --handshake-rate."`
	MaxAge           time.Duration `live:"" default:"0s" help:"Reset a tunnel at this age, or up to a tenth earlier, so that tunnels that began together do not end together. 0 means never."`
	MaxIdle          time.Duration `default:"1m" help:"End a framed or WebSocket tunnel when nothing at all, not even a PING, has come for this long. 0 means never. At least 40s."`
	HalfCloseTimeout time.Duration `live:"" default:"5m" help:"When one direction has ended, end the tunnel after this much silence in the other. 0 means never."`
	DrainTimeout     time.Duration `live:"" default:"25s" help:"On SIGTERM or SIGINT, wait this long for open tunnels. Then reset them and exit with code 1. A second signal resets them at once."`
	DrainDelay       time.Duration `live:"" default:"0s" help:"On SIGTERM or SIGINT, go on accepting tunnels for this long before the drain, while /readyz already answers 503. Meanwhile a load balancer stops sending clients."`
	ReusePort        bool          `help:"Let another preflight process listen on the same TCP port (SO_REUSEPORT), so that it can take over before this one ends. Both processes need the flag."`
	Landlock         bool          `default:"true" negatable:"" help:"On Linux, allow this process to write no files, to read only the folders of the files in its flags and system folders, and to open TCP connections only to the ports of the servers and to port 53. With --config, or with an exporter of OTLP, any port is allowed. On by default."`
	TelemetryFlags
	UnsafeTarget bool `live:"" help:"Allow servers that are neither on a loopback address nor on a Unix socket. preflight adds no TLS on the way to them."`
}

// Help is the text below the flags.
func (serveCommand) Help() string {
	return `One of --to, --route and --echo is required; --to and --route also work together. One of
--allow-all, --token-file, --htpasswd and --client-ca is required.

serve dials the server before it answers the request. If the server does not accept the connection,
the client gets 502, or 504 after 5 seconds. GET /healthz answers 200 while the program runs. GET
/readyz answers 503 if a server does not accept connections, and after SIGTERM. GET /status shows the
state of each route, with the credentials of a tunnel. On SIGHUP, serve reads the certificates, the
tokens, the passwords and the file of --config again. If a file is invalid, its old content stays in
use.`
}

// A route leads the tunnels of a path to a server.
type route struct {
	path string // "" is that of --to and of --echo
	to   address.Address
	echo bool // there is no server
}

func (r route) dial(ctx context.Context) (relay.Conn, error) {
	if r.echo {
		return newEcho(), nil
	}
	c, err := new(net.Dialer).DialContext(ctx, r.to.Network, r.to.Address)
	if err != nil {
		return nil, err
	}
	return c.(relay.Conn), nil
}

func (r route) describe() string {
	if r.echo {
		return r.path + "/=echo"
	}
	return r.path + "/=" + r.to.String()
}

// UnmarshalText implements [encoding.TextUnmarshaler] for flags.
func (r *route) UnmarshalText(text []byte) error {
	path, to, ok := strings.Cut(string(text), "=")
	if !ok || !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%q is not /PATH=ADDR", text)
	}
	if path = strings.TrimRight(path, "/"); path != "" && !isClean(path) {
		return fmt.Errorf("the path %q has an empty or a relative segment", path)
	}
	if strings.ContainsAny(path, "%?#") {
		// A request for it would go to another server: find compares decoded paths.
		return fmt.Errorf("the path %q has a %%, a ? or a #: write the characters themselves in place of %%20 and the like, and no query", path)
	}
	a, err := address.Parse(to)
	*r = route{path: path, to: a}
	return err
}

// A server is a serve command that runs.
type server struct {
	log      *slog.Logger
	current  atomic.Pointer[settings]
	listener *preflight.PreflightListener
	tunnels  tunnels
	places   atomic.Int64 // that tunnels take, see MaxConns
	draining atomic.Bool
	health   health
	counts   counts
	arrivals check.Arrivals // with --echo
	exports  bool           // telemetry, by connections of its own
}

func (c *serveCommand) Run(env *environment) error {
	set, err := newSettings(c)
	if err != nil {
		return usage(err)
	}
	s := &server{log: env.log, counts: counts{begin: time.Now()}}
	s.arrivals.Seen = func(a check.Arrival) { s.log.Debug("arrived", "request", a.String()) }
	s.current.Store(set)
	if s.listener, err = s.newListener(set); err != nil {
		return usage(err)
	}
	t, err := c.TelemetryFlags.start(env.ctx, env.log)
	if err != nil {
		return usage(err)
	}
	defer t.stop(env.log)
	s.listener.Telemetry, s.exports = t.Telemetry, t.dials
	return s.run(env, set)
}

// run serves until a signal stops it.
func (s *server) run(env *environment, set *settings) error {
	inner, err := set.Listen.Listen(set.ReusePort)
	if err != nil {
		return usagef("--listen: %w", err)
	}
	s.listener.Listener = inner
	if err := s.enterSandbox(set); err != nil {
		return usagef("landlock: %w; --no-landlock goes without", err)
	}
	signals := watchSignals(env.ctx)
	defer signals.stop()
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		s.acceptAll()
	}()
	defer watchdog(s.log, func() { s.tunnels.count() })()
	s.log.Info("listening", "address", inner.Addr().String(), "routes", set.describeRoutes())
	ready()
	r := &reloader{log: s.log, limits: set.Landlock && sandbox.Works, config: env.reloadable(set.Config, s.use), others: func() []reloadable { return s.current.Load().files }}
	r.run(signals, set.ReloadEvery)
	return s.drain(accepting, signals)
}

// use replaces the settings by those of flags that have changed.
func (s *server) use(c *cli) error {
	set, err := newSettings(&c.Serve)
	if err == nil {
		err = set.canFollow(s.current.Load())
	}
	if err != nil {
		return err
	}
	s.current.Store(set)
	return nil
}

// enterSandbox gives up what the server does not need any more.
func (s *server) enterSandbox(set *settings) error {
	if !set.Landlock {
		return nil
	}
	needs := sandbox.Needs{Files: []string{string(set.Config), set.TokenFile, set.Htpasswd, set.ClientCA, set.TLSCert, set.TLSKey}, Ports: []uint16{}}
	if socket := set.Listen.Socket(); socket != "" {
		needs.Sockets = []string{socket}
	}
	for _, r := range set.routes {
		if port := r.to.Port(); port != 0 {
			needs.Ports = append(needs.Ports, port)
		}
	}
	if s.exports || set.Config != "" {
		needs.Ports = nil // an exporter, and what the file may name later, have ports of their own
	}
	return needs.Enter()
}

// drain stops the server in order, for at most DrainTimeout.
func (s *server) drain(accepting <-chan struct{}, signals *signals) error {
	s.draining.Store(true)
	stopping()
	set := s.current.Load()
	if set.DrainDelay > 0 {
		s.log.Info("not ready any more", "delay", set.DrainDelay)
		select {
		case <-time.After(set.DrainDelay):
		case <-signals.again.Done():
		}
	}
	timeout := set.DrainTimeout
	s.log.Info("draining", "tunnels", s.tunnels.count(), "timeout", timeout)
	ctx, cancel := context.WithTimeout(signals.again, timeout)
	defer cancel()
	err := s.listener.Shutdown(ctx)
	s.listener.Close()
	<-accepting
	cut := s.tunnels.wait(ctx)
	if cut > 0 {
		return fmt.Errorf("%w after --drain-timeout: %d", errCut, cut)
	}
	if err != nil {
		s.log.Warn("handshakes or answers were cut", "error", err)
	}
	s.log.Info("drained")
	return nil
}

func (s *settings) describeRoutes() (routes []string) {
	for _, r := range s.routes {
		routes = append(routes, r.describe())
	}
	return routes
}

// acceptAll runs a relay for each connection, until the listener is closed.
func (s *server) acceptAll() {
	var wait backoff
	for {
		c, err := s.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.log.Error("accept failed", "error", err)
			wait.sleep()
		default:
			wait.reset()
			s.tunnels.add(func() { s.serve(c.(*preflight.Conn)) })
		}
	}
}
