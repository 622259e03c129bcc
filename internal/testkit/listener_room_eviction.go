package testkit

import (
	"bufio"
	"net"
)

// ShdRaw is a client of which both ends are known.
func ShdRaw(ours net.Conn, server *LisConn) *LisClient {
	c := &LisClient{Conn: ours, R: bufio.NewReader(ours)}
	c.Server = server
	return c
}
