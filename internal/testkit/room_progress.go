package testkit

import (
	"net/http"
	"testing"
)

// Mount serves l, mounted on a server of net/http, on n.
func Mount(t testing.TB, n *Network, l http.Handler) {
	t.Helper()
	s, done := &http.Server{Handler: l}, make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(n)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
}
