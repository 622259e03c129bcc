package testkit

import (
	"crypto/tls"
	"testing"
)

// PipeTLS is NamedTLSConfigs for connections without a buffer. On those, a
// server that still writes session tickets when its client begins to write
// would block for ever.
func PipeTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	server, client = NamedTLSConfigs(t)
	server.SessionTicketsDisabled = true
	return server, client
}
