package telemetry_test

import (
	"io"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A copy in the kernel reports its bytes only when it ends. It ends when the
// connection is closed during the copy. The bytes are counted then, in both
// directions.
func TestTelemetryCountsCopiesThatEndAfterClose(t *testing.T) {
	e := testkit.NewRecorder()
	l := testkit.Listen(t, &preflight.PreflightListener{Telemetry: e.Watch()})
	accepted := testkit.AcceptAll(t, l)
	c, _ := testkit.Upgraded(t, l, testkit.Request())
	conn := testkit.NextConn(t, accepted)
	sink, sunk := testkit.TCPPair(t)
	source, feeds := testkit.TCPPair(t)
	read, wrote := make(chan int64, 1), make(chan int64, 1)
	go func() {
		n, _ := conn.WriteTo(sink)
		read <- n
	}()
	go func() {
		n, _ := conn.ReadFrom(source)
		wrote <- n
	}()
	testkit.Carry(t, "from the client", c, sunk)
	testkit.Carry(t, "to the client", feeds, c.R)
	require.NoError(t, conn.Close())
	feeds.Close()
	received, sent := <-read, <-wrote
	require.EqualValues(t, len("from the client"), received)
	require.EqualValues(t, len("to the client"), sent)
	require.Equal(t, received, e.Sum("server.connection.io network.io.direction=receive,preflight.carrier=upgrade,preflight.kind=upgraded"))
	require.Equal(t, sent, e.Sum("server.connection.io network.io.direction=transmit,preflight.carrier=upgrade,preflight.kind=upgraded"))
	_, err := io.ReadAll(c)
	require.NoError(t, err)
}
