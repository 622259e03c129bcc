package preflight

import (
	"bytes"
	"container/list"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/preflight-go/preflight/internal/frame"
	"github.com/preflight-go/preflight/internal/wire"
)

// A Carrier is the form in which the bytes of a tunnel travel after the handshake. Each
// tunnel has one, see [Conn.Carrier].
type Carrier string

const (
	// CarrierUpgrade carries the bytes of the tunnel as they are, after an upgrade
	// to Protocol. Nothing is added to them, and between TCP connections the kernel
	// moves them (splice). It is the fastest carrier.
	//
	// Many proxies lose data when one side ends its direction (half-close), and
	// turn a reset into an orderly end. Read then returns [io.EOF] although data is
	// missing. A protocol that does not mark its own end needs CarrierFramed or
	// CarrierWebSocket to notice.
	CarrierUpgrade Carrier = "upgrade"

	// CarrierFramed carries the tunnel in capsules (RFC 9297 §3.2) after an
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
			return fmt.Errorf("holds %q, which is not a carrier; the carriers are %q", c, allCarriers)
		case slices.Contains(carriers[:i], c):
			return fmt.Errorf("holds %q more than once", c)
		}
	}
	return nil
}

// carrierOf returns the carrier to which the head of a 101 agrees. Nothing else remembers it:
// a field for it in each handshake would not fit on a stack of 2 KiB.
func carrierOf(switched []byte) Carrier {
	if len(switched) == 0 {
		return ""
	}
	carrier := CarrierUpgrade
	for name, value := range wire.Header(switched) {
		switch {
		case strings.EqualFold(string(name), "Upgrade") && strings.EqualFold(string(value), string(CarrierWebSocket)):
			return CarrierWebSocket
		case strings.EqualFold(string(name), wire.FramingField):
			carrier = CarrierFramed
		}
	}
	return carrier
}

// carrierFor returns the carrier of a tunnel.
func carrierFor(t wire.Terms) Carrier {
	switch {
	case t.WebSocket:
		return CarrierWebSocket
	case t.Framed:
		return CarrierFramed
	}
	return CarrierUpgrade
}

const defaultKeepAlive = 20 * time.Second

// periods are the times of framed tunnels. Zero disables either.
type periods struct{ keepAlive, maxIdle time.Duration }

// defaultPeriods are those of Client.
var defaultPeriods = periods{keepAlive: defaultKeepAlive}

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
	case lacksUnit(keepAlive):
		return p, fmt.Errorf("KeepAlivePeriod is %v, %s; negative means no PINGs", keepAlive, writeUnit)
	case lacksUnit(maxIdle):
		return p, fmt.Errorf("MaxIdleTimeout is %v, %s", maxIdle, writeUnit)
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
func (p periods) frame(c net.Conn, carrier Carrier, client bool, rest []byte, owner frame.Owner) *frame.Conn {
	return frame.New(c, frame.Config{
		WebSocket:       carrier == CarrierWebSocket,
		Client:          client,
		TLS:             isAboveTLS(c),
		Rest:            rest,
		KeepAlivePeriod: p.keepAlive,
		MaxIdleTimeout:  p.maxIdle,
		Owner:           owner,
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

// frame puts the layer of the capsules above the connection of x. It is not inlined, because
// it needs stack that a handshake without capsules does not.
//
//go:noinline
func (l *PreflightListener) frame(x *exchange, h *handover) *tunnel {
	t := &tunnel{listener: l}
	t.conn = l.policy.periods.frame(x.conn, h.carrier(), false, bytes.Clone(h.leftover), t)
	h.leftover, x.buf = nil, x.buf[:0]
	x.mu.Lock()
	x.conn, x.base = t.conn, t.conn
	x.mu.Unlock()
	return t
}

// A tunnel is what a listener knows of a framed connection. Such a connection may linger:
// its transport may outlive the Conn, until the peer has received everything.
type tunnel struct {
	listener *PreflightListener
	conn     *frame.Conn

	// Guarded by the listener's lock.
	counts         bool          // among the active connections, until both have ended:
	connEnded      bool          // the Conn,
	transportEnded bool          // and its transport
	place          *list.Element // among those that linger
}

// Lingers is called when the transport begins to linger. Peers that never read must not hold
// any number of descriptors, so that at most MaxPending transports linger.
func (t *tunnel) Lingers() {
	l := t.listener
	var oldest *tunnel
	l.mu.Lock()
	if lingers := &l.pending.lingers; !t.transportEnded {
		t.place = lingers.PushBack(t)
		if lingers.Len() > l.maxPending() {
			oldest = lingers.Front().Value.(*tunnel)
			lingers.Remove(oldest.place)
			oldest.place = nil
		}
	}
	l.mu.Unlock()
	if oldest != nil {
		oldest.conn.EndLinger()
	}
}

// Ended is called when the transport has been closed.
func (t *tunnel) Ended() {
	l := t.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.place != nil {
		l.pending.lingers.Remove(t.place)
		t.place = nil
	}
	t.transportEnded = true
	l.settle(t)
}

// closed is called when the Conn has been closed.
func (t *tunnel) closed() {
	l := t.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	t.connEnded = true
	l.settle(t)
}

// settle stops counting a tunnel of which nothing is left. The caller holds mu.
func (l *PreflightListener) settle(t *tunnel) {
	if t.counts && t.connEnded && t.transportEnded {
		t.counts = false
		l.pending.active.Add(-1)
		l.signalEnd()
	}
}
