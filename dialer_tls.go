package preflight

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/preflight-go/preflight/internal/diagnosis"
	"golang.org/x/net/idna"
)

const (
	stageTLS       = "TLS handshake"
	stageProxyTLS  = "TLS handshake with the forward proxy"
	stageTunnelTLS = "TLS handshake in the tunnel"
	alpnHTTP       = "http/1.1" // RFC 7301 §6
)

// tlsStages are the stages of TLS, for the diagnosis.
var tlsStages = map[string]diagnosis.Stage{
	stageTLS: diagnosis.TLS, stageProxyTLS: diagnosis.ProxyTLS, stageTunnelTLS: diagnosis.TunnelTLS,
}

// handshakeTLS performs a TLS handshake, bounded by ctx and by deadline, which may be
// zero. It returns a [*tls.Conn]. peer is that of an error; nil means the peer of c.
func handshakeTLS(ctx context.Context, c net.Conn, config *tls.Config, deadline time.Time, stage string, peer net.Addr) (net.Conn, error) {
	bounded := ctx
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		bounded, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	tc := tls.Client(c, config)
	// HandshakeContext closes a TLS layer below, which could block because it sends
	// a last message. Close the bottom instead.
	stop := context.AfterFunc(bounded, func() { closeBottom(c) })
	err := tc.HandshakeContext(bounded)
	if !stop() && err == nil {
		err = bounded.Err()
	}
	if err == nil {
		return tc, nil
	}
	switch {
	case ctx.Err() != nil:
		err = contextCause(ctx)
	case bounded.Err() != nil:
		err = os.ErrDeadlineExceeded // not the caller's context: it has not ended
	case err == io.EOF:
		err = errIncomplete
	}
	err = explain(&stageError{stage: stage, err: err}, diagnosis.Evidence{Stage: tlsStages[stage]})
	return nil, failure(c, peer, err, "")
}

// tlsConfig returns a copy of config for a connection to the server called name that
// carries HTTP/1.1.
func tlsConfig(config *tls.Config, name string) (*tls.Config, error) {
	if offered := config.NextProtos; len(offered) > 0 && !slices.Contains(offered, alpnHTTP) {
		return nil, fmt.Errorf("NextProtos %q lacks http/1.1; HTTP/2 has no Upgrade", offered)
	}
	config = config.Clone()
	config.NextProtos = []string{alpnHTTP}
	return config, nameServer(config, name)
}

// nameServer sets ServerName if it is empty.
func nameServer(config *tls.Config, name string) error {
	if config.ServerName == "" {
		config.ServerName = name
	}
	if config.ServerName == "" && !config.InsecureSkipVerify {
		return errors.New("ServerName is empty and the address has no host name to take it from")
	}
	return nil
}

// serverName returns the host of an address, without port and zone.
func serverName(network, address string) string {
	if strings.HasPrefix(network, "unix") {
		return ""
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	host, _, _ = strings.Cut(host, "%")
	return host
}

// hostField returns the Host field of the request to a dialed address.
func (d *PreflightDialer) hostField(network, address string) string {
	if d.Host != "" {
		return asciiHost(d.Host)
	}
	host, defaultPort := hostOf(network, address), ":80"
	if d.TLSConfig != nil {
		defaultPort = ":443"
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		return host // which has no port to leave out
	}
	// Proxies that choose by an exact Host expect it without the default port,
	// as other HTTP clients send it.
	return strings.TrimSuffix(host, defaultPort)
}

// tlsName returns the name of the server for TLS. It is in Host if the address is only
// that of a machine.
func (d *PreflightDialer) tlsName(network, address string) string {
	if d.Host == "" {
		return serverName(network, address)
	}
	u := url.URL{Host: asciiHost(d.Host)}
	return u.Hostname()
}

// hostOf converts an address that package net can dial to a host and a port as HTTP
// writes them. upgrade.check rejects addresses that hostOf cannot make valid.
func hostOf(network, address string) string {
	if strings.HasPrefix(network, "unix") {
		return "localhost"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	name, number := host, port
	// A zone means nothing to another machine (RFC 6874 §1), and package net
	// dials the local system where there is no host.
	if name, _, _ = strings.Cut(name, "%"); name == "" {
		name = "localhost"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || port[0] == '0' {
		// Package net knows services by name, and numbers that begin with
		// zeros. A Host field has neither.
		if n, err := net.LookupPort("tcp", port); err == nil {
			number = strconv.Itoa(n)
		}
	}
	if name == host && number == port && address[0] != '[' {
		return address // as it would be put together again
	}
	return net.JoinHostPort(name, number)
}

// asciiHost converts a host, with or without a port, to the form that DNS, HTTP and TLS
// use: an internationalized name becomes ASCII (RFC 5891 §5). One conversion serves all
// three. httpguts.PunycodeHostPort does not map upper case, so its name would differ
// from the name in DNS. A name that cannot be converted is returned unchanged, and is
// rejected later if it is not a valid host.
func asciiHost(hostPort string) string {
	if isASCII(hostPort) {
		return hostPort
	}
	host, port, noPort := net.SplitHostPort(hostPort)
	if noPort != nil {
		host = hostPort
	}
	name, err := idna.Lookup.ToASCII(host)
	switch {
	case err != nil || !utf8.ValidString(host): // of which idna makes U+FFFD
		return hostPort
	case noPort != nil:
		return name
	}
	return net.JoinHostPort(name, port)
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// isIPAddress reports whether the host of a host:port is an IP address.
func isIPAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}
