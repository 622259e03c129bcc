package upgrade_test

import (
	"io"
	"net"
	"testing"
	"testing/synctest"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// shortWrite breaks the contract of io.Writer: it writes less than it was given, without an
// error.
type shortWrite struct{ net.Conn }

func (c shortWrite) Write(b []byte) (int, error) { return c.Conn.Write(b[:min(len(b), 10)]) }

// TestShortWrite: behind a head that was cut short, nothing may follow. The bytes of the tunnel
// would be taken for its rest.
func TestShortWrite(t *testing.T) {
	t.Run("Client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := testkit.SpyPipe(t)
			go io.Copy(io.Discard, server)
			_, err := testkit.UpgradeClient(t.Context(), shortWrite{client})
			require.ErrorIs(t, err, io.ErrShortWrite)
			require.ErrorContains(t, err, "write the upgrade request")
		})
	})
	t.Run("Server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := testkit.SpyPipe(t)
			go func() {
				io.WriteString(client, testkit.Request())
				io.Copy(io.Discard, client)
			}()
			_, err := preflight.Server(t.Context(), shortWrite{server})
			require.ErrorIs(t, err, io.ErrShortWrite)
			require.ErrorContains(t, err, "write the 101")
		})
	})
}
