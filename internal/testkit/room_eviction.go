package testkit

import (
	"bufio"
	"net"
)

// Raw is a client of which both ends are known.
func Raw(ours net.Conn, server *NetworkConn) *Client {
	c := &Client{Conn: ours, R: bufio.NewReader(ours)}
	c.Server = server
	return c
}
