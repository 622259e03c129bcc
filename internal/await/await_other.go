//go:build !unix

package await

import "net"

// Read is c.Read. It keeps the buffer while it waits.
func Read(c *net.TCPConn, room func() []byte, _ func()) (int, error) { return c.Read(room()) }
