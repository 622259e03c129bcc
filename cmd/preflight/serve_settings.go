package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/preflight-go/preflight/cmd/preflight/internal/auth"
	"github.com/preflight-go/preflight/cmd/preflight/internal/rates"
	"github.com/preflight-go/preflight/cmd/preflight/internal/reload"
)

// settings are what the flags say, and the files that they name. When the flags change, new
// ones take their place. The tunnels that are open keep theirs.
type settings struct {
	*serveCommand
	rules  auth.Rules
	routes []route
	pair   *reload.Value[*tls.Certificate] // nil: no TLS
	roots  *reload.Value[*x509.CertPool]   // nil: no certificates of clients
	rates  *rates.Table                    // nil: no limit
	files  []reloadable
}

// newSettings checks the flags, and reads the files that they name.
func newSettings(c *serveCommand) (*settings, error) {
	s := &settings{serveCommand: c}
	for _, check := range []func() error{c.ConfigFlags.check, s.configureRoutes, s.configureAccess, s.configureTLS, s.checkFlags} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *settings) configureRoutes() error {
	switch {
	case s.Echo && (s.To != nil || len(s.Route) > 0):
		return errors.New("--echo takes the place of every server: remove it, or remove --to and --route")
	case s.Echo && s.SendProxy:
		return errors.New("--send-proxy is for a server, and with --echo there is none")
	case s.Echo:
		s.routes = []route{{echo: true}}
		return nil
	}
	s.routes = append(s.routes, s.Route...)
	if s.To != nil {
		s.routes = append(s.routes, route{to: *s.To})
	}
	if len(s.routes) == 0 {
		return errors.New("no server for the tunnels: set --to, --route or --echo")
	}
	for i, r := range s.routes {
		if j := slices.IndexFunc(s.routes[:i], func(q route) bool { return q.path == r.path }); j >= 0 {
			return fmt.Errorf("%s and %s are for the same path: a path has one server", s.flag(j), s.flag(i))
		}
		if err := r.to.CheckTarget(); err != nil {
			return err
		}
		if !s.UnsafeTarget && !r.to.Local() {
			return fmt.Errorf("the server %s is not on this machine, and nothing would protect the bytes on the way to it: use a loopback address or a Unix socket, or set --unsafe-target", r.to)
		}
	}
	return nil
}

// flag is how the route number i was given. That of --to is the last one.
func (s *settings) flag(i int) string {
	r := s.routes[i]
	if s.To != nil && i == len(s.routes)-1 {
		return "--to " + r.to.String() + ", which is for /,"
	}
	return "--route " + r.describe()
}

func (s *settings) configureAccess() (err error) {
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
	case slices.Contains(s.AllowCN, "") || slices.Contains(s.AllowSAN, ""):
		// It would match every certificate without a common name.
		return errors.New("--allow-cn or --allow-san is empty: set a pattern, or leave the flag out")
	case s.ClientCA != "" && len(s.AllowCN)+len(s.AllowSAN) == 0:
		return errors.New("--client-ca needs --allow-cn or --allow-san, which say whose certificates are allowed; --allow-cn '*' allows all with a common name")
	}
	if s.TokenFile != "" {
		s.rules.Tokens, err = reload.New(func() (auth.Tokens, error) { return auth.LoadTokens(s.TokenFile) })
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		s.reloadable("token-file", s.rules.Tokens.Reload, s.TokenFile)
	}
	if s.Htpasswd != "" {
		s.rules.Users, err = reload.New(func() (*auth.Users, error) { return auth.LoadUsers(s.Htpasswd) })
		if err != nil {
			return fmt.Errorf("--htpasswd: %w", err)
		}
		s.reloadable("htpasswd", s.rules.Users.Reload, s.Htpasswd)
	}
	return nil
}

// reloadable adds what SIGHUP reads again.
func (s *settings) reloadable(flag string, reload func() error, files ...string) {
	s.files = append(s.files, reloadable{slog.String("flag", flag), files, reload})
}

func (s *settings) configureTLS() (err error) {
	if (s.TLSCert == "") != (s.TLSKey == "") {
		return errors.New("--tls-cert and --tls-key need each other")
	}
	if s.TLSCert == "" {
		return nil
	}
	if s.pair, err = reload.KeyPair(s.TLSCert, s.TLSKey); err != nil {
		return fmt.Errorf("--tls-cert: %w", err)
	}
	s.reloadable("tls-cert", s.pair.Reload, s.TLSCert, s.TLSKey)
	if s.ClientCA != "" {
		if s.roots, err = reload.Roots(s.ClientCA); err != nil {
			return fmt.Errorf("--client-ca: %w", err)
		}
		s.reloadable("client-ca", s.roots.Reload, s.ClientCA)
		s.rules.Certs = auth.NewCerts(s.roots, s.AllowCN, s.AllowSAN)
	}
	return nil
}

func (s *settings) checkFlags() error {
	switch {
	case s.MaxConns < 0:
		return errors.New("--max-conns is negative")
	case s.HalfCloseTimeout < 0:
		return errors.New("--half-close-timeout is negative")
	case s.DrainTimeout < 0:
		return errors.New("--drain-timeout is negative")
	case s.DrainDelay < 0:
		return errors.New("--drain-delay is negative")
	case s.MaxAge < 0:
		return errors.New("--max-age is negative")
	case s.HandshakeRate < 0 || math.IsNaN(s.HandshakeRate):
		return errors.New("--handshake-rate must be 0 or above")
	case s.HandshakeBurst < 1:
		return errors.New("--handshake-burst must be at least 1")
	case s.MaxIdle != 0 && s.MaxIdle < 40*time.Second:
		return errors.New("--max-idle must be 0 or at least 40s, twice the period of the PINGs")
	case s.ClientAddrHeader != "" && len(s.TrustedProxy) == 0:
		return errors.New("--client-addr-header needs --trusted-proxy: from anybody else it proves nothing")
	case !s.plain() && s.PlainAfter > 0:
		return errors.New("--plain-after is for plain connections, which need --allow-all and --to, and no --require-upgrade")
	}
	if s.HandshakeRate > 0 {
		s.rates = rates.New(s.HandshakeRate, s.HandshakeBurst)
	}
	return nil
}

// plain reports whether clients that speak no HTTP reach the server as they are.
func (s *settings) plain() bool { return s.AllowAll && s.To != nil && !s.RequireUpgrade }

// canFollow returns why s cannot take the place of old while the program runs. The listener
// keeps what it began with.
func (s *settings) canFollow(old *settings) error {
	switch {
	case s.plain() != old.plain():
		return errors.New("whether plain connections reach the server (--allow-all, --to) cannot change while the program runs: restart it")
	case (s.pair == nil) != (old.pair == nil):
		return errors.New("--tls-cert cannot be added or removed while the program runs: restart it")
	}
	return nil
}
