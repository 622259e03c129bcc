package carriers_test

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// TestTruncationTellsTheSilence: a proxy ends an idle framed tunnel. The error of Read says
// after how much silence, which is the timeout of the proxy.
func TestTruncationTellsTheSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) {
			testkit.ReadRequest(c)
			io.WriteString(c, "HTTP/1.1 101 S\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nPreflight-Framing: capsule\r\n\r\n")
			<-time.After(time.Minute)
			c.Close()
		}}
		d := preflight.PreflightDialer{Carriers: []preflight.Carrier{preflight.CarrierFramed}, KeepAlivePeriod: -1, NetDialer: peer}
		conn, err := d.Dial("tcp", "edge.example:80")
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.ErrorContains(t, err, "the transport ended before the stream was complete, after 1m0s of silence")
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "read", op.Op)
	})
}
