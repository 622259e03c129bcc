package preflight

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/preflight-go/preflight/internal/frame"
	"github.com/preflight-go/preflight/internal/wire"
)

// A Carrier is how a tunnel travels on the connection after the handshake. Each tunnel
// has one, see [Conn.Carrier].
type Carrier string

const (
	// CarrierUpgrade carries the bytes of the tunnel as they are, behind an upgrade
	// to Protocol. Nothing is added to them, and between TCP connections the kernel
	// moves them (splice). It is the fastest carrier.
	//
	// Many proxies lose data when one side ends its direction (half-close), and
	// turn a reset into an orderly end. Read then returns [io.EOF] although data is
	// missing. A protocol that does not mark its own end needs CarrierFramed or
	// CarrierWebSocket to notice.
	CarrierUpgrade Carrier = "upgrade"

	// CarrierFramed carries the tunnel in capsules (RFC 9297 §3.2) behind an
	// upgrade to Protocol. The end of a direction is part of the stream. So a
	// half-close passes every proxy, and an early end is [io.ErrUnexpectedEOF].
	// PINGs keep silent tunnels open.
	CarrierFramed Carrier = "framed"

	// CarrierWebSocket carries the same capsules in the binary messages of a
	// WebSocket (RFC 6455). It passes the proxies and load balancers that forward
	// no other upgrade.
	CarrierWebSocket Carrier = "websocket"
)

var (
	allCarriers = []Carrier{CarrierUpgrade, CarrierFramed, CarrierWebSocket}

	// dialCarriers are those of a dialer without Carriers. A proxy that forwards
	// the token forwards CarrierFramed too, so it is not a way out.
	dialCarriers = []Carrier{CarrierUpgrade, CarrierWebSocket}
)

// checkCarriers reports why carriers cannot be used. nil stands for a default.
func checkCarriers(carriers []Carrier) error {
	if carriers != nil && len(carriers) == 0 {
		return errors.New("is empty, so that no tunnel is possible; nil means the default")
	}
	for i, c := range carriers {
		switch {
		case !slices.Contains(allCarriers, c):
			return fmt.Errorf("holds %q, which is none of %q", c, allCarriers)
		case slices.Contains(carriers[:i], c):
			return fmt.Errorf("holds %q twice", c)
		}
	}
	return nil
}

// carrierOf returns the carrier that a 101 has agreed to. Nothing else remembers it: a field
// for it in each handshake would not fit on a stack of 2 KiB.
func carrierOf(switched *http.Response) Carrier {
	switch {
	case switched == nil:
		return ""
	case strings.EqualFold(switched.Header.Get("Upgrade"), string(CarrierWebSocket)):
		return CarrierWebSocket
	case len(switched.Header[wire.FramingField]) > 0:
		return CarrierFramed
	}
	return CarrierUpgrade
}

const defaultKeepAlive = 20 * time.Second

// periods are the times of framed tunnels. Zero disables either.
type periods struct{ keepAlive, maxIdle time.Duration }

// newPeriods resolves KeepAlivePeriod and MaxIdleTimeout.
func newPeriods(keepAlive, maxIdle time.Duration) (periods, error) {
	switch {
	case keepAlive == 0:
		keepAlive = defaultKeepAlive
	case keepAlive < 0:
		keepAlive = 0
	}
	p := periods{keepAlive, maxIdle}
	switch {
	case keepAlive > maxTimeout:
		return p, fmt.Errorf("KeepAlivePeriod is %v, and may be %v at most", keepAlive, maxTimeout)
	case maxIdle > maxTimeout:
		return p, fmt.Errorf("MaxIdleTimeout is %v, and may be %v at most", maxIdle, maxTimeout)
	case maxIdle < 0:
		return p, errors.New("MaxIdleTimeout is negative; 0 means no limit")
	case maxIdle > 0 && maxIdle < 2*keepAlive:
		return p, fmt.Errorf("MaxIdleTimeout is %v, which is less than twice KeepAlivePeriod (%v): one PING that is late would end a healthy tunnel", maxIdle, keepAlive)
	}
	return p, nil
}

// frame puts the layer of the capsules above c, on which the carrier has been agreed. rest
// is what was read from c behind the handshake.
func (p periods) frame(c net.Conn, carrier Carrier, client bool, rest []byte, onLinger, onClosed func()) *frame.Conn {
	return frame.New(c, frame.Config{
		WebSocket:       carrier == CarrierWebSocket,
		Client:          client,
		TLS:             isAboveTLS(c),
		Rest:            rest,
		KeepAlivePeriod: p.keepAlive,
		MaxIdleTimeout:  p.maxIdle,
		OnLinger:        onLinger,
		OnClosed:        onClosed,
	})
}

// isAboveTLS reports whether c, or a layer below it, is a TLS connection.
func isAboveTLS(c net.Conn) bool {
	for {
		if tlsState(c) != nil {
			return true
		}
		layer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return false
		}
		c = layer.NetConn()
	}
}
