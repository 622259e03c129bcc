// Package proxies tests preflight with real reverse proxies and forward proxies.
//
// Each proxy runs with its file of deploy/. It must show each behaviour of a table
// with each carrier, without TLS and with TLS. MATRIX.md has the outcomes.
//
//	go test -race -run 'Proxy/nginx/upgrade/tls/Transfer' .
//
// A new proxy is an entry of proxies. A new carrier is an entry of carriers.
package proxies

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// proxies are the columns of MATRIX.md.
var proxies = []proxy{
	nginx, haproxy, haproxyV2, apache, envoy, caddy, traefik, lighttpd, varnish, squid, goReverseProxy,
	squidForward, tinyproxyForward,
}

// A proxy is a proxy under test.
type proxy struct {
	name  string
	file  string // in deploy/
	start lab.StartFunc
	// idle are edits of the file. With them the proxy closes a silent tunnel after
	// about a second, or two.
	idle     []string
	mistakes []mistake
	// keepsPrefix says that the server sees /client/info, and not /info.
	keepsPrefix bool
	// outcomes are the outcomes that differ from the usual ones. A key is the name of
	// a behaviour. A prefix limits it to a carrier, to TLS, or to both:
	// "Down", "upgrade/HalfClose", "tls/Fields", "upgrade/tls/Fields".
	outcomes map[string]string
}

// notApplicable is the outcome of a behaviour that the proxy cannot have.
const notApplicable = "–"

// A mistake is a line of the file that a user can forget, or get wrong.
type mistake struct {
	edits    []string
	wantText []string // in the error of the dial, or in the body of the refusal
}

// carriers are the ways to carry a tunnel.
var carriers = []carrier{
	{
		name: preflight.CarrierUpgrade,
		usual: map[string]string{
			// Most proxies close both directions when one of them ends.
			"HalfClose": "no",
			// The end of the connection is the only end that the tunnel has.
			"Reset":  "looks complete",
			"Killed": "looks complete",
		},
	},
	{name: preflight.CarrierFramed, usual: usualFramed},
	{name: preflight.CarrierWebSocket, usual: usualFramed},
}

// usualFramed are the usual outcomes with capsules. What does not depend on the carrier is
// left out: the first carrier shows it.
var usualFramed = map[string]string{
	"Idle":          "an error" + keptOpen,
	"OrdinaryHTTP":  notApplicable,
	"Elsewhere":     notApplicable,
	"Front":         notApplicable,
	"Down":          notApplicable,
	"Misconfigured": notApplicable,
}

// A carrier is a way to carry a tunnel.
type carrier struct {
	name preflight.Carrier
	// usual are the usual outcomes with this carrier, by the name of the behaviour,
	// where they differ from those of the behaviour.
	usual map[string]string
}

// A variant is a carrier, without TLS to the proxy or with it.
type variant struct {
	carrier carrier
	tls     bool
}

// A behaviour is a row of MATRIX.md.
type behaviour struct {
	name  string
	title string
	usual string // the outcome with most proxies and carriers
	run   func(t *testing.T, s scenario) (outcome string)
}

// outcome returns the outcome of b that is required of p.
func (p proxy) outcome(v variant, b behaviour) string {
	if v.carrier.usual[b.name] == notApplicable {
		return notApplicable
	}
	carrier := string(v.carrier.name)
	keys := []string{carrier + "/" + b.name, b.name}
	if v.tls {
		keys = append([]string{carrier + "/tls/" + b.name, "tls/" + b.name}, keys...)
	}
	for _, key := range keys {
		if outcome, ok := p.outcomes[key]; ok {
			return outcome
		}
	}
	if outcome, ok := v.carrier.usual[b.name]; ok {
		return outcome
	}
	return b.usual
}

// backendPath returns the path that the server sees if a client asks for path.
func (p proxy) backendPath(path string) string {
	if p.keepsPrefix {
		return path
	}
	return strings.TrimPrefix(path, "/client")
}

// A scenario is a proxy that is to show a behaviour.
type scenario struct {
	proxy
	*lab.Edge
	variant
	server   *backend
	frontend lab.Frontend
	want     string // the outcome
}

func TestProxy(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := scenario{proxy: p, server: startBackend(t)}
			s.Edge = p.start(t, s.server.address)
			for _, c := range carriers {
				t.Run(string(c.name), func(t *testing.T) {
					s := s
					s.frontend, s.variant = s.Plain, variant{c, false}
					t.Run("plain", func(t *testing.T) { s.test(t, tunnelBehaviours...) })
					if s.TLS.Address != "" {
						t.Run("tls", func(t *testing.T) {
							s := s
							s.frontend, s.variant = s.TLS, variant{c, true}
							s.test(t, tlsBehaviour)
							s.test(t, tunnelBehaviours...)
						})
					}
					s.test(t, proxyBehaviours...)
				})
			}
		})
	}
}

func (s scenario) test(t *testing.T, behaviours ...behaviour) {
	for _, b := range behaviours {
		s := s
		if s.want = s.outcome(s.variant, b); s.want == notApplicable {
			continue
		}
		t.Run(b.name, func(t *testing.T) { require.Equal(t, s.want, b.run(t, s)) })
	}
}

// dialer returns a new dialer for the frontend, which uses the carrier alone.
func (s scenario) dialer() *preflight.PreflightDialer {
	d := s.frontend.Dialer()
	d.Carriers = []preflight.Carrier{s.carrier.name}
	return d
}

// dial opens a tunnel to path.
func (s scenario) dial(t *testing.T, path string) *preflight.Conn {
	t.Helper()
	d := s.dialer()
	d.Path = path
	return s.frontend.DialWith(t, d)
}

// tryDial attempts to open a tunnel with d.
func (s scenario) tryDial(t *testing.T, d *preflight.PreflightDialer) (*preflight.Conn, error) {
	c, err := d.DialContext(t.Context(), "tcp", s.frontend.Address)
	if err != nil {
		return nil, err
	}
	return lab.WithDeadline(t, c).(*preflight.Conn), nil
}

// dialRefused requires that a dial to path is refused, and returns the refusal.
func (s scenario) dialRefused(t *testing.T, path string) *preflight.StatusError {
	t.Helper()
	d := s.dialer()
	d.Path = path
	_, err := s.tryDial(t, d)
	return lab.StatusError(t, err)
}

// endOf describes the error of the last Read. Only "an error" tells the application that
// something is missing.
func endOf(err error) string {
	switch {
	case err == nil, err == io.EOF:
		return "looks complete"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return "an error"
	}
	return err.Error()
}

// outcomeOf describes the error that ended a connection, or a dial.
func outcomeOf(err error) string {
	var refused *preflight.StatusError
	switch {
	case errors.As(err, &refused):
		return strconv.Itoa(refused.StatusCode)
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
		return "EOF"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silence"
	}
	return fmt.Sprint(err)
}
