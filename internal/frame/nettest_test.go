package frame

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

// A Conn fulfils the contract of net.Conn with each carrier, over each kind of transport,
// in both roles.
func TestConn(t *testing.T) {
	transports := []struct {
		name string
		pipe func(t *testing.T) (a, b net.Conn)
	}{
		{"tcp", func(t *testing.T) (a, b net.Conn) { return tcpPipe(t) }},
		{"pipe", func(*testing.T) (a, b net.Conn) { return net.Pipe() }},
		{"link", func(*testing.T) (a, b net.Conn) { return newLink(5000) }},
		{"slow reader", func(*testing.T) (a, b net.Conn) {
			a, b = newLink(5000)
			return newSlowReader(a), newSlowReader(b)
		}},
	}
	for _, carrier := range carriers {
		for _, transport := range transports {
			for _, first := range []string{"client", "server"} {
				t.Run(carrier.name+"/"+transport.name+"/"+first, func(t *testing.T) {
					nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
						a, b := transport.pipe(t)
						c1 = New(a, Config{WebSocket: carrier.webSocket, Client: first == "client"})
						c2 = New(b, Config{WebSocket: carrier.webSocket, Client: first == "server"})
						return c1, c2, func() {
							c1.Close()
							c2.Close()
							a.Close()
							b.Close()
						}, nil
					})
				})
			}
		}
	}
}
