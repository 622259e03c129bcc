package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/preflight-go/preflight"
)

// newListener returns the listener for the settings that the program begins with.
func (s *server) newListener(set *settings) (*preflight.PreflightListener, error) {
	l := &preflight.PreflightListener{
		AllowedOrigins:   set.AllowOrigin,
		MaxIdleTimeout:   set.MaxIdle,
		Authorize:        s.authorize,
		RequireUpgrade:   !set.plain(),
		AllowPlain:       set.plain(),
		PlainAfter:       set.PlainAfter,
		Handler:          s.handler(),
		ClientAddrHeader: set.ClientAddrHeader,
		Logger:           slog.New(withoutRefusals{s.log.Handler()}),
	}
	for _, name := range set.Carrier {
		l.Carriers = append(l.Carriers, preflight.Carrier(name))
	}
	for _, text := range set.TrustedProxy {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(text); err != nil {
				return nil, fmt.Errorf("--trusted-proxy: %q is neither an address nor a prefix", text)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		l.TrustedProxies = append(l.TrustedProxies, p)
	}
	if set.pair != nil {
		l.TLSConfig = s.tlsConfig()
	}
	return l, checkListener(l)
}

// withoutRefusals leaves out the warnings that authorize has refused a request: refused logs these,
// with the user and the reason.
type withoutRefusals struct{ slog.Handler }

func (h withoutRefusals) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn {
		byAuthorize := false
		r.Attrs(func(a slog.Attr) bool {
			byAuthorize = a.Key == "reason" && a.Value.String() == "authorize"
			return !byAuthorize
		})
		if byAuthorize {
			return nil
		}
	}
	return h.Handler.Handle(ctx, r)
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

// tlsConfig uses the certificates that were read last.
func (s *server) tlsConfig() *tls.Config {
	return &tls.Config{
		NextProtos: []string{"http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			set := s.current.Load()
			c := &tls.Config{NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{*set.pair.Get()}}
			if set.roots != nil {
				// A health check has no certificate. authorize requires one for a tunnel.
				c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, set.roots.Get()
			}
			return c, nil
		},
	}
}
