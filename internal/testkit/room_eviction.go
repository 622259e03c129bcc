package testkit

import (
	"bufio"
	"net"
)

// Raw returns a client for two given ends of a connection.
func Raw(ours net.Conn, server *NetworkConn) *Client {
	c := &Client{Conn: ours, R: bufio.NewReader(ours)}
	c.Server = server
	return c
}
