package testkit

import (
	"crypto/tls"
	"testing"
)

// PipeTLS is kndTLS for connections without a buffer: a server that still
// writes tickets when its client begins to write would wait for ever.
func PipeTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	server, client = NamedTLSConfigs(t)
	server.SessionTicketsDisabled = true
	return server, client
}
