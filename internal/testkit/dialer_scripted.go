package testkit

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// DialScripted dials a proxy that reads the request and then runs script. The
// dial must fail. It also requires that the dialer closes its connection once,
// sends nothing after the request, and repeats no secret of it.
func DialScripted(t testing.TB, tcp bool, script func(net.Conn)) (*SpyConn, error) {
	t.Helper()
	type end struct {
		behind int64
		err    error
	}
	ended := make(chan end, 1)
	peer := &DialPeer{T: t, Tcp: tcp, Peer: func(c net.Conn) {
		ReadRequest(c)
		script(c)
		n, err := io.Copy(io.Discard, c) // wait until the dialer closes, if the script has not closed
		ended <- end{n, err}
	}}
	d := preflight.PreflightDialer{Carriers: UpgradeAlone, NetDialer: peer, Path: "/amps?token=s3cr3t-query", Header: SecretFields}
	conn, err := d.Dial("tcp", "edge.example:80")
	require.Error(t, err)
	require.Nil(t, conn)
	require.EqualValues(t, 1, peer.Spy.Closes.Load())
	RequireNoSecret(t, err)
	select {
	case e := <-ended:
		require.Zero(t, e.behind)
		require.NotErrorIs(t, e.err, os.ErrDeadlineExceeded, "the connection was left open")
	case <-time.After(Patience):
		require.FailNow(t, "the connection was left open")
	}
	return peer.Spy, err
}

// WriteScript writes s, byte by byte if drip is set.
func WriteScript(c io.Writer, s string, drip bool) {
	if !drip {
		io.WriteString(c, s)
		return
	}
	for i := range len(s) {
		if _, err := io.WriteString(c, s[i:i+1]); err != nil {
			return
		}
	}
}
