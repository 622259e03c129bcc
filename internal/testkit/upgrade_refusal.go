package testkit

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// These secrets are in the requests of the tests. No error may repeat them.
var SecretFields = http.Header{
	"Authorization": {"Bearer s3cr3t-authorization"},
	"Cookie":        {"sid=s3cr3t-cookie"},
	"X-Api-Key":     {"s3cr3t-key"},
}

// RequireNoSecret fails if err, or an error that it wraps, repeats a secret.
func RequireNoSecret(t testing.TB, err error) {
	t.Helper()
	for ; err != nil; err = errors.Unwrap(err) {
		for _, format := range []string{"%s", "%v", "%+v"} {
			require.NotContains(t, fmt.Sprintf(format, err), "s3cr3t")
		}
	}
}

// ReadRequest reads the head of a request and returns it.
func ReadRequest(c net.Conn) string {
	var head []byte
	b := make([]byte, 1)
	for !strings.HasSuffix(string(head), "\r\n\r\n") {
		if _, err := io.ReadFull(c, b); err != nil {
			break
		}
		head = append(head, b...)
	}
	return string(head)
}

// UpgradeAnswered returns the result of Client for an answer. The peer then
// closes the connection, or keeps it open.
func UpgradeAnswered(t testing.TB, answer string, keepOpen bool) (*preflight.Conn, error) {
	t.Helper()
	client, server := SpyPipe(t)
	go func() {
		ReadRequest(server)
		io.WriteString(server, answer)
		if !keepOpen {
			server.Close()
		}
	}()
	req := UpgradeRequestOf()
	req.Header = SecretFields.Clone()
	spy := &SpyConn{Conn: client}
	conn, err := preflight.Client(t.Context(), spy, req)
	require.Zero(t, spy.Closes.Load(), "Client leaves closing to its caller")
	require.Equal(t, err == nil, conn != nil)
	RequireNoSecret(t, err)
	return conn, err
}

// BrokenWrite is a connection whose Write fails.
type BrokenWrite struct{ *SpyConn }

func (c BrokenWrite) Write([]byte) (int, error) { return 0, syscall.EPIPE }
