package preflight

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	stageTLS       = "TLS handshake"
	stageProxyTLS  = "TLS handshake with the forward proxy"
	stageTunnelTLS = "TLS handshake in the tunnel"
	alpnHTTP       = "http/1.1" // RFC 7301 §6
)

// plainHints say, by stage, what to do about a peer that does not speak TLS.
var plainHints = map[string]string{
	stageTLS:       " (leave TLSConfig nil, or write tcp:// in a URL)",
	stageProxyTLS:  " (write http:// in the URL that Proxy returns)",
	stageTunnelTLS: " (leave TunnelTLSConfig nil, or set TLSConfig of the listener)",
}

// handshakeTLS bounds a TLS handshake by ctx and by deadline, which may be zero.
// It returns a [*tls.Conn].
func handshakeTLS(ctx context.Context, c net.Conn, config *tls.Config, deadline time.Time, stage string) (net.Conn, error) {
	bounded := ctx
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		bounded, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	tc := tls.Client(c, config)
	// Closing a TLS layer below, as HandshakeContext does, could block: it
	// sends a last message.
	stop := context.AfterFunc(bounded, func() { closeBottom(c) })
	err := tc.HandshakeContext(bounded)
	if !stop() && err == nil {
		err = bounded.Err()
	}
	if err == nil {
		return tc, nil
	}
	var plain tls.RecordHeaderError
	switch {
	case ctx.Err() != nil:
		err = endOf(ctx)
	case bounded.Err() != nil:
		err = os.ErrDeadlineExceeded // not the caller's context: it has not ended
	case err == io.EOF:
		err = errIncomplete
	case errors.As(err, &plain):
		err = fmt.Errorf("the peer does not speak TLS%s: %w", plainHints[stage], err)
	}
	return nil, opError("preflight", c, &stageError{stage, err})
}

// tlsConfig is a copy of config for a connection to the server called name, over
// which HTTP/1.1 is to be spoken.
func tlsConfig(config *tls.Config, name string) (*tls.Config, error) {
	if offered := config.NextProtos; len(offered) > 0 && !slices.Contains(offered, alpnHTTP) {
		return nil, fmt.Errorf("NextProtos %q lacks http/1.1; HTTP/2 has no Upgrade", offered)
	}
	config = config.Clone()
	config.NextProtos = []string{alpnHTTP}
	return config, nameServer(config, name)
}

// nameServer sets the ServerName if there is none.
func nameServer(config *tls.Config, name string) error {
	if config.ServerName == "" {
		config.ServerName = name
	}
	if config.ServerName == "" && !config.InsecureSkipVerify {
		return errors.New("ServerName is empty and the address has no host name to take it from")
	}
	return nil
}

// serverName is the host of an address, without port and zone.
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
