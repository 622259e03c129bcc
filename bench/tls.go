package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/preflight-go/preflight"
)

// The keys of the sections about TLS.
const (
	keyTLS        = "tls"
	keyResumption = "resumption"
	keyTLSSteady  = "tls-steady"
	keyTLSRelay   = "tls-relay"
)

const (
	resumed      = ", resumed"
	goTLSResumed = goTLS + resumed
)

// places are where a tunnel can have TLS.
var places = []struct {
	name            string
	outside, inside bool
}{
	{", TLS outside", true, false},
	{", TLS inside", false, true},
	{", TLS outside and inside", true, true},
}

var carriers = []struct {
	name    string
	carrier preflight.Carrier
}{
	{ours, preflight.CarrierUpgrade},
	{framedTCP, preflight.CarrierFramed},
	{framedWS, preflight.CarrierWebSocket},
}

// tlsPeers are tunnels with TLS, with each carrier, and TLS alone with resumption.
var tlsPeers = func() []*peer {
	of := []*peer{{goTLSResumed, "TLS with resumption, and nothing else", listenTLS, dialTLSResumed}}
	for _, c := range carriers {
		for _, p := range places {
			for _, again := range []bool{false, true} {
				name := c.name + p.name
				if again {
					name += resumed
				}
				of = append(of, &peer{name, "", listenTunnelTLS(ecdsaKey), dialTunnelTLS(c.carrier, tls.VersionTLS13, p.outside, p.inside, again)})
			}
		}
	}
	return of
}()

// aloneFor returns the row of TLS alone with which a row is compared.
func aloneFor(row string) string {
	if strings.HasSuffix(row, resumed) {
		return goTLSResumed
	}
	return goTLS
}

func (b *bench) handshakeTLS(ctx context.Context) (*section, error) {
	return b.handshakes(ctx, handshaking{
		key: keyTLS, title: "Handshake with TLS, one dialer",
		text: " TLS 1.3 with an ECDSA certificate, outside the tunnel, inside it, or both. A ratio compares with crypto/tls alone, which has no upgrade, and resumes its session or not as the row does. " + pinned + " Framed tunnels are aborted.",
		of:   append([]string{goTLS}, names(tlsPeers)...), base: aloneFor, start: b.pinnedPair, repetitions: b.framings, n: b.one / 4, dialers: 1,
	})
}

// resumptionPeers are tunnels with TLS outside, which differ in what resumption saves.
var resumptionPeers = func() (of []*peer) {
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		for _, kind := range []string{ecdsaKey, rsaKey} {
			for _, again := range []bool{false, true} {
				name := tls.VersionName(version) + ", " + kind
				if again {
					name += resumed
				}
				of = append(of, &peer{name, "", listenTunnelTLS(kind), dialTunnelTLS(preflight.CarrierUpgrade, version, true, false, again)})
			}
		}
	}
	return of
}()

func (b *bench) resumption(ctx context.Context) (*section, error) {
	return b.handshakes(ctx, handshaking{
		key: keyResumption, title: "Resumption",
		text: " A tunnel with TLS outside, and a certificate with ECDSA (P-256) or RSA (2048 bits). A ratio compares with the same dial without resumption. " + pinned,
		of:   names(resumptionPeers), base: func(row string) string { return strings.TrimSuffix(row, resumed) },
		start: b.pinnedPair, repetitions: b.framings, n: b.one / 4, dialers: 1,
	})
}

// tlsRows are the rows without resumption, which makes no difference after the handshake.
func tlsRows() (rows []string) {
	for _, c := range carriers {
		for _, p := range places {
			rows = append(rows, c.name+p.name)
		}
	}
	return rows
}

func (b *bench) steadyTLS(ctx context.Context) (*section, error) {
	return b.inUse(ctx, using{
		key: keyTLSSteady, title: "One connection with TLS in use",
		text: " A ratio compares with crypto/tls alone.",
		of:   append([]string{goTLS}, tlsRows()...),
	})
}

func (b *bench) relayedTLS(ctx context.Context) (*section, error) {
	var of [][2]string
	for _, row := range append([]string{goTLS}, tlsRows()...) {
		of = append(of, [2]string{row, bareTCP}, [2]string{bareTCP, row})
	}
	return b.relay(ctx, relaying{
		key: keyTLSRelay, title: "Relay with TLS on one side",
		text: " A ratio compares with crypto/tls alone on the same side.",
		of:   of, repetitions: b.few,
		base: func(row string) string {
			if strings.HasPrefix(row, bareTCP) {
				return relayName([2]string{bareTCP, goTLS})
			}
			return relayName([2]string{goTLS, bareTCP})
		},
	})
}

func serverTLS(s *site, kind string) (*tls.Config, error) {
	certificate, err := s.certificate(kind)
	return &tls.Config{Certificates: []tls.Certificate{certificate}}, err
}

// clientTLS returns a configuration for one version of TLS, with a session cache or without.
func clientTLS(s *site, version uint16, resumes bool) (*tls.Config, error) {
	roots, err := s.roots()
	config := &tls.Config{RootCAs: roots, MinVersion: version, MaxVersion: version}
	if resumes {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	return config, err
}

// listenTunnelTLS accepts tunnels with TLS in all places.
func listenTunnelTLS(kind string) func(*site, func(net.Conn)) (string, error) {
	return func(s *site, handle func(net.Conn)) (string, error) {
		l, err := preflightListener(nil)
		if err != nil {
			return "", err
		}
		if l.TLSConfig, err = serverTLS(s, kind); err != nil {
			return "", err
		}
		go acceptAll(l, handle)
		return l.Addr().String(), nil
	}
}

func dialTLSResumed(s *site) (dialFunc, error) {
	config, err := clientTLS(s, tls.VersionTLS13, true)
	if err != nil {
		return nil, err
	}
	d := &tls.Dialer{NetDialer: s.net, Config: config}
	return checked(func(ctx context.Context, address string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", address)
	}, 1, true), nil
}

func dialTunnelTLS(carrier preflight.Carrier, version uint16, outside, inside, resumes bool) func(*site) (dialFunc, error) {
	return func(s *site) (dialFunc, error) {
		config, err := clientTLS(s, version, resumes)
		if err != nil {
			return nil, err
		}
		d := &preflight.PreflightDialer{NetDialer: s.net, Path: target, Header: fields, Carriers: []preflight.Carrier{carrier}}
		layers := 0
		if outside {
			d.TLSConfig = config
			layers++
		}
		if inside {
			d.TunnelTLSConfig = config
			layers++
		}
		return checked(func(ctx context.Context, address string) (net.Conn, error) {
			c, err := d.DialContext(ctx, "tcp", address)
			if err != nil || carrier == preflight.CarrierUpgrade {
				return c, err
			}
			return abortedConn{c.(*preflight.Conn)}, nil
		}, layers, resumes), nil
	}
}

// checked dials twice before the first connection of dial. It reads from both, because the
// ticket of a session comes with the first bytes of the server. The second one must have as many
// layers of TLS as it should, and resume their sessions or not.
func checked(dial dialFunc, layers int, resumes bool) dialFunc {
	check := func(ctx context.Context, address string, resumes bool) error {
		c, err := dial(ctx, address)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := sendEcho(c, 1); err != nil {
			return err
		}
		found := 0
		for layer := c; ; {
			if tc, ok := layer.(*tls.Conn); ok {
				found++
				if did := tc.ConnectionState().DidResume; did != resumes {
					return fmt.Errorf("layer %d of TLS: resumed %t", found, did)
				}
			}
			below, ok := layer.(interface{ NetConn() net.Conn })
			if !ok {
				break
			}
			layer = below.NetConn()
		}
		if found != layers {
			return fmt.Errorf("there are %d layers of TLS instead of %d", found, layers)
		}
		return nil
	}
	var once sync.Once
	var failed error
	return func(ctx context.Context, address string) (net.Conn, error) {
		once.Do(func() {
			if failed = check(ctx, address, false); failed == nil {
				failed = check(ctx, address, resumes)
			}
		})
		if failed != nil {
			return nil, failed
		}
		return dial(ctx, address)
	}
}
