package testkit

import (
	"crypto/tls"
	"testing"
)

// KndPipeTLS is kndTLS for connections without a buffer: a server that still
// writes tickets when its client begins to write would wait for ever.
func KndPipeTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	server, client = KndTLS(t)
	server.SessionTicketsDisabled = true
	return server, client
}
