package kinds_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Many clients stall in their heads at the same time, at different bytes. Each gets its own
// tunnel, with its own head and its own early data.
func TestClientsThatStallTogether(t *testing.T) {
	const clients = 100
	l := testkit.Listen(t, &preflight.PreflightListener{Listener: testkit.ListenTCP(t)})
	accepted := testkit.AcceptAll(t, l)
	request := func(i int) string {
		return fmt.Sprintf("GET /client/%d HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nX-Client: %d\r\n\r\nearly %d", i, i, i)
	}
	conns := make([]net.Conn, clients)
	for i := range conns {
		conns[i] = testkit.DialTCP(t, l.Addr())
	}
	for at := 0; at < len(request(clients-1)); {
		for i, c := range conns {
			step := 1 + (at+i)%23
			r := request(i)
			_, err := io.WriteString(c, r[min(at, len(r)):min(at+step, len(r))])
			require.NoError(t, err)
			if at+step < len(r) {
				// The pieces differ, so the rest of this one follows before the next step.
				_, err = io.WriteString(c, r[min(at+step, len(r)):min(at+23, len(r))])
				require.NoError(t, err)
			}
		}
		at += 23
	}
	seen := make(map[string]bool)
	for range clients {
		conn := testkit.NextConn(t, accepted)
		var i int
		_, err := fmt.Sscanf(conn.Request().URL.Path, "/client/%d", &i)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), conn.Request().Header.Get("X-Client"))
		early := make([]byte, len(fmt.Sprintf("early %d", i)))
		_, err = io.ReadFull(conn, early)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("early %d", i), string(early))
		require.Equal(t, conns[i].LocalAddr().String(), conn.RemoteAddr().String())
		seen[conn.Request().URL.Path] = true
	}
	require.Len(t, seen, clients)
}
