package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/address"
	"github.com/preflight-go/preflight/cmd/preflight/internal/auth"
	"github.com/preflight-go/preflight/cmd/preflight/internal/reload"
	"github.com/preflight-go/preflight/cmd/preflight/internal/sandbox"
)

type serveCommand struct {
	Listen address.Address  `required:"" placeholder:"ADDR" help:"Accept tunnels here: HOST:PORT, unix:PATH, or systemd:NAME for a socket of systemd."`
	To     *address.Address `placeholder:"ADDR" help:"The server: HOST:PORT or unix:PATH. It gets the tunnels of all paths without a --route, and plain connections."`
	Route  []route          `placeholder:"/PATH=ADDR" sep:"none" help:"The server for this path and those below it. The longest path wins. Repeatable."`

	AllowAll  bool     `group:"Who may open a tunnel" help:"Everybody."`
	TokenFile string   `group:"Who may open a tunnel" type:"path" placeholder:"FILE" help:"Who sends 'Authorization: Bearer TOKEN'. Each line of the file is a name, a space and a token."`
	Htpasswd  string   `group:"Who may open a tunnel" type:"path" placeholder:"FILE" help:"Who sends 'Authorization: Basic' with a user of this file, which 'htpasswd -B' writes."`
	ClientCA  string   `group:"Who may open a tunnel" name:"client-ca" type:"path" placeholder:"FILE" help:"Who has a client certificate that these certificates verify (PEM), and that --allow-cn or --allow-san allows. It is needed beside a token or a password, if those are set. Needs --tls-cert."`
	AllowCN   []string `group:"Who may open a tunnel" name:"allow-cn" sep:"none" placeholder:"PATTERN" help:"A common name of --client-ca. A * stands for one label of a DNS name or one segment of a URI; alone for anything. Repeatable."`
	AllowSAN  []string `group:"Who may open a tunnel" name:"allow-san" sep:"none" placeholder:"PATTERN" help:"A subject alternative name (DNS name, URI, e-mail or IP address) of --client-ca. Repeatable."`

	RequireUpgrade   bool          `help:"Close plain connections. Without it, and with --allow-all and --to, clients that speak no HTTP reach the server as they are."`
	PlainAfter       time.Duration `placeholder:"TIME" help:"Take a client that has sent nothing for this long for a plain one. For servers that speak first, such as MySQL: 200ms to 1s. The default is 10s."`
	Carrier          []string      `placeholder:"NAME" help:"Serve this carrier: upgrade, framed or websocket. Repeatable. The default is all."`
	AllowOrigin      []string      `sep:"none" placeholder:"ORIGIN" help:"Let web pages of this origin open tunnels: https://app.example, https://*.app.example, or *. Repeatable. The default is none."`
	TrustedProxy     []string      `placeholder:"CIDR" help:"Believe these peers, an address or a prefix, what they say of the client's address: a PROXY header, or the field --client-addr-header. Repeatable."`
	ClientAddrHeader string        `placeholder:"FIELD" help:"The field that the trusted proxies set. The default is X-Forwarded-For."`
	TLSCert          string        `name:"tls-cert" type:"path" placeholder:"FILE" help:"Accept TLS too, on the same port and inside tunnels, with this certificate and its chain (PEM)."`
	TLSKey           string        `name:"tls-key" type:"path" placeholder:"FILE" help:"The key of --tls-cert (PEM)."`

	SendProxy        bool          `help:"Tell the server the client's address by a header of the PROXY protocol, version 2. The server must expect it."`
	MaxConns         int           `default:"10000" help:"Refuse further tunnels with 503 while so many are open. 0 means no limit."`
	MaxIdle          time.Duration `default:"1m" help:"End a framed or WebSocket tunnel when nothing at all, not even a PING, has come for this long. 0 means never. At least 40s."`
	HalfCloseTimeout time.Duration `default:"5m" help:"When one direction has ended, end the tunnel after this much silence in the other. 0 means never."`
	DrainTimeout     time.Duration `default:"25s" help:"On SIGTERM or SIGINT, wait so long for open tunnels, then cut them and exit with 1. A second signal cuts them at once."`
	Landlock         bool          `default:"true" negatable:"" help:"On Linux, give up all access to files but reading those of the flags and of /etc, and TCP connections but those to the servers. On by default."`
	TelemetryFlags
	UnsafeTarget bool `help:"Allow servers that are neither on a loopback address nor on a Unix socket. The bytes travel there as they come out of the tunnel."`
}

// Help is the text below the flags.
func (serveCommand) Help() string {
	return `One of --allow-all, --token-file, --htpasswd and --client-ca is needed.

The server is dialed before the tunnel is answered. If it does not answer, the client gets 502, or
504 after 5 seconds. GET /healthz answers 200 while the program runs. GET /readyz answers 503 if a
server does not accept connections, or on SIGTERM. SIGHUP reads the certificates, the tokens and
the passwords again. Of a bad file the old content stays in use.`
}

// A route leads the tunnels of a path to a server.
type route struct {
	path string // "" is that of --to
	to   address.Address
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
	a, err := address.Parse(to)
	*r = route{path, a}
	return err
}

// A server is a serve command that runs.
type server struct {
	*serveCommand
	log      *slog.Logger
	rules    auth.Rules
	routes   []route
	listener *preflight.PreflightListener
	files    []reloadable
	tunnels  tunnels
	places   atomic.Int64 // that tunnels take, see MaxConns
	draining atomic.Bool
	health   health
	exports  bool // telemetry, by connections of its own
}

func (c *serveCommand) Run(env *environment) error {
	s := &server{serveCommand: c, log: env.log}
	if err := s.configure(); err != nil {
		return usage(err)
	}
	t, err := c.TelemetryFlags.start(env.ctx, env.log)
	if err != nil {
		return usage(err)
	}
	defer t.stop(env.log)
	s.listener.Telemetry, s.exports = t.Telemetry, t.dials
	return s.run(env)
}

// configure checks the flags, and reads the files that they name.
func (s *server) configure() error {
	for _, check := range []func() error{s.configureRoutes, s.configureAccess, s.configureListener} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) configureRoutes() error {
	s.routes = append(s.routes, s.Route...)
	if s.To != nil {
		s.routes = append(s.routes, route{"", *s.To})
	}
	if len(s.routes) == 0 {
		return errors.New("no server to lead tunnels to: set --to or --route")
	}
	seen := make(map[string]bool)
	for _, r := range s.routes {
		if seen[r.path] {
			return fmt.Errorf("two servers for the path %q: --to is that of /", r.path+"/")
		}
		seen[r.path] = true
		if err := r.to.CheckTarget(); err != nil {
			return err
		}
		if !s.UnsafeTarget && !r.to.Local() {
			return fmt.Errorf("the server %s is not on this machine, and the bytes would leave it without the tunnel: use a loopback address or a Unix socket, or say --unsafe-target", r.to)
		}
	}
	return nil
}

func (s *server) configureAccess() (err error) {
	rules := s.TokenFile != "" || s.Htpasswd != "" || s.ClientCA != ""
	switch {
	case s.AllowAll && rules:
		return errors.New("--allow-all contradicts --token-file, --htpasswd and --client-ca")
	case !s.AllowAll && !rules:
		return errors.New("nobody may open a tunnel: set --token-file, --htpasswd, --client-ca or --allow-all")
	case s.ClientCA != "" && s.TLSCert == "":
		return errors.New("--client-ca needs --tls-cert: certificates of clients come by TLS")
	case s.ClientCA == "" && len(s.AllowCN)+len(s.AllowSAN) > 0:
		return errors.New("--allow-cn and --allow-san need --client-ca")
	case s.ClientCA != "" && len(s.AllowCN)+len(s.AllowSAN) == 0:
		return errors.New("--client-ca needs --allow-cn or --allow-san, which say whose certificates are allowed; --allow-cn '*' allows all with a common name")
	}
	if s.TokenFile != "" {
		s.rules.Tokens, err = reload.New(func() (auth.Tokens, error) { return auth.LoadTokens(s.TokenFile) })
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		s.reloadable("token-file", s.rules.Tokens.Reload)
	}
	if s.Htpasswd != "" {
		s.rules.Users, err = reload.New(func() (*auth.Users, error) { return auth.LoadUsers(s.Htpasswd) })
		if err != nil {
			return fmt.Errorf("--htpasswd: %w", err)
		}
		s.reloadable("htpasswd", s.rules.Users.Reload)
	}
	if s.ClientCA != "" {
		s.rules.Certs = auth.NewCerts(s.AllowCN, s.AllowSAN)
	}
	return nil
}

// reloadable adds what SIGHUP reads again.
func (s *server) reloadable(flag string, reload func() error) {
	s.files = append(s.files, reloadable{slog.String("flag", flag), reload})
}

func (s *server) configureListener() error {
	switch {
	case s.MaxConns < 0:
		return errors.New("--max-conns is negative")
	case s.HalfCloseTimeout < 0:
		return errors.New("--half-close-timeout is negative")
	case s.DrainTimeout < 0:
		return errors.New("--drain-timeout is negative")
	case s.MaxIdle != 0 && s.MaxIdle < 40*time.Second:
		return errors.New("--max-idle must be 0 or at least 40s, twice the period of the PINGs")
	case s.ClientAddrHeader != "" && len(s.TrustedProxy) == 0:
		return errors.New("--client-addr-header needs --trusted-proxy: from anybody else it proves nothing")
	}
	plain := s.AllowAll && s.To != nil && !s.RequireUpgrade
	if !plain && s.PlainAfter > 0 {
		return errors.New("--plain-after is for plain connections, which need --allow-all and --to, and no --require-upgrade")
	}
	s.health.routes = s.routes
	l := &preflight.PreflightListener{
		AllowedOrigins:   s.AllowOrigin,
		MaxIdleTimeout:   s.MaxIdle,
		Authorize:        s.authorize,
		RequireUpgrade:   !plain,
		AllowPlain:       plain,
		PlainAfter:       s.PlainAfter,
		Handler:          s.handler(),
		ClientAddrHeader: s.ClientAddrHeader,
		Logger:           s.log,
	}
	for _, name := range s.Carrier {
		l.Carriers = append(l.Carriers, preflight.Carrier(name))
	}
	for _, text := range s.TrustedProxy {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(text); err != nil {
				return fmt.Errorf("--trusted-proxy: %q is neither an address nor a prefix", text)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		l.TrustedProxies = append(l.TrustedProxies, p)
	}
	var err error
	if l.TLSConfig, err = s.tlsConfig(); err != nil {
		return err
	}
	s.listener = l
	return checkListener(l)
}

// checkListener asks the library whether the settings are valid: Accept reports what is not.
func checkListener(l *preflight.PreflightListener) error {
	probe := &preflight.PreflightListener{
		Listener: closedListener{}, Carriers: l.Carriers, AllowedOrigins: l.AllowedOrigins, TrustedProxies: l.TrustedProxies,
		ClientAddrHeader: l.ClientAddrHeader, PlainAfter: l.PlainAfter, TLSConfig: l.TLSConfig,
	}
	defer probe.Close()
	if _, err := probe.Accept(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

type closedListener struct{}

func (closedListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (closedListener) Close() error              { return nil }
func (closedListener) Addr() net.Addr            { return &net.TCPAddr{} }

func (s *server) tlsConfig() (*tls.Config, error) {
	if (s.TLSCert == "") != (s.TLSKey == "") {
		return nil, errors.New("--tls-cert and --tls-key need each other")
	}
	if s.TLSCert == "" {
		return nil, nil
	}
	pair, err := reload.KeyPair(s.TLSCert, s.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert: %w", err)
	}
	s.reloadable("tls-cert", pair.Reload)
	var roots *reload.Value[*x509.CertPool]
	if s.ClientCA != "" {
		if roots, err = reload.Roots(s.ClientCA); err != nil {
			return nil, fmt.Errorf("--client-ca: %w", err)
		}
		s.reloadable("client-ca", roots.Reload)
	}
	return &tls.Config{
		NextProtos: []string{"http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := &tls.Config{NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{*pair.Get()}}
			if roots != nil {
				// A health check has no certificate. authorize requires one for a tunnel.
				c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, roots.Get()
			}
			return c, nil
		},
	}, nil
}

// run serves until a signal stops it.
func (s *server) run(env *environment) error {
	inner, err := s.Listen.Listen()
	if err != nil {
		return usagef("--listen: %w", err)
	}
	s.listener.Listener = inner
	if err := s.enterSandbox(); err != nil {
		return usagef("landlock: %w; --no-landlock goes without", err)
	}
	signals := watchSignals(env.ctx)
	defer signals.stop()
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		s.acceptAll()
	}()
	s.log.Info("listening", "address", inner.Addr().String(), "routes", s.describeRoutes())
	ready()
	for {
		select {
		case <-signals.reload:
			reloadAll(s.log, s.files)
			continue
		case <-signals.ctx.Done():
		}
		break
	}
	return s.drain(accepting, signals)
}

// enterSandbox gives up what the server does not need any more.
func (s *server) enterSandbox() error {
	if !s.Landlock {
		return nil
	}
	needs := sandbox.Needs{Files: []string{s.TokenFile, s.Htpasswd, s.ClientCA, s.TLSCert, s.TLSKey}, Ports: []uint16{}}
	if socket := s.Listen.Socket(); socket != "" {
		needs.Sockets = []string{socket}
	}
	for _, r := range s.routes {
		if port := r.to.Port(); port != 0 {
			needs.Ports = append(needs.Ports, port)
		}
	}
	if s.exports {
		needs.Ports = nil
	}
	return needs.Enter()
}

// drain stops the server in order, for at most DrainTimeout.
func (s *server) drain(accepting <-chan struct{}, signals *signals) error {
	s.draining.Store(true)
	stopping()
	s.log.Info("draining", "tunnels", s.tunnels.count(), "timeout", s.DrainTimeout)
	ctx, cancel := context.WithTimeout(signals.again, s.DrainTimeout)
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

func (s *server) describeRoutes() (routes []string) {
	for _, r := range s.routes {
		routes = append(routes, r.path+"/="+r.to.String())
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
