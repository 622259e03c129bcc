package testkit

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/preflight-go/preflight"
)

// UpgradeAlone are the carriers of a dialer that does not fall.
var UpgradeAlone = []preflight.Carrier{preflight.CarrierUpgrade}

// DialFunc is a ContextDialer.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f DialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

// DialNever fails the test if it is called.
func DialNever(t testing.TB) preflight.ContextDialer {
	return DialFunc(func(_ context.Context, network, address string) (net.Conn, error) {
		t.Errorf("dialed %s %s", network, address)
		return nil, errors.New("dialed")
	})
}

// DialPeer is a NetDialer. At the other end of each of its connections, Peer
// runs in a goroutine. Spy is the last connection.
type DialPeer struct {
	T                testing.TB
	Peer             func(net.Conn)
	Tcp              bool // uses TCP instead of a pipe
	NoDeadlines      bool
	Network, Address string
	Spy              *SpyConn
}

func (d *DialPeer) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	pair := SpyPipe
	if d.Tcp {
		pair = TCPPair
	}
	client, server := pair(d.T)
	d.Network, d.Address = network, address
	d.Spy = &SpyConn{Conn: client, NoDeadlines: d.NoDeadlines}
	go d.Peer(server)
	return d.Spy, nil
}
