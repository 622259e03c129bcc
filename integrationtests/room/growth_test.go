package room_test

import (
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A growthConn records how much buffer the listener had for bytes that have not
// arrived.
type growthConn struct {
	net.Conn
	mu       sync.Mutex
	received int
	worst    int // the largest buffer for missing bytes, beyond 4 KiB and beyond the bytes that have arrived
}

func (c *growthConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	if c.received+len(b) > 4<<10 {
		c.worst = max(c.worst, len(b)-c.received)
	}
	c.mu.Unlock()
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	c.received += n
	c.mu.Unlock()
	return n, err
}

type growthListener struct {
	net.Listener
	conns chan *growthConn
}

func (l growthListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &growthConn{Conn: c}
	l.conns <- g
	return g, nil
}

// However large MaxHeaderBytes is, a stalled client costs 4 KiB, or at most
// twice the bytes that it has sent.
func TestListenerMemoryGrowsWithReceivedBytes(t *testing.T) {
	server, _ := testkit.NamedTLSConfigs(t)
	const limit = 1 << 20
	long := strings.Repeat("x", 100<<10)
	for name, head := range map[string]string{
		"a head":         testkit.Request("X-Long: " + long),
		"a request line": "GET /" + long + " HTTP/1.1\r\n\r\n",
		"a PROXY header": testkit.ProxyV2Bytes(0x21, 0x11, 60<<10, "\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb") + long[12:60<<10] + testkit.Request(),
		"a ClientHello":  "\x16\x03\x01\x40\x00\x01" + long[:16<<10],
		"a plain line":   long + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			g := growthListener{testkit.ListenTCP(t), make(chan *growthConn, 1)}
			l := testkit.Listen(t, &preflight.PreflightListener{
				Listener: g, MaxHeaderBytes: limit, TLSConfig: server, TrustedProxies: testkit.Prefixes("127.0.0.0/8"), HandshakeTimeout: time.Hour,
			})
			testkit.ServeEcho(t, l)
			c := testkit.DialTCP(t, l.Addr())
			conn := <-g.conns
			for sent := 0; sent < len(head); {
				n, err := io.WriteString(c, head[sent:min(sent+1000, len(head))])
				require.NoError(t, err)
				sent += n
			}
			c.CloseWrite() // this fails if the listener has already refused it
			io.Copy(io.Discard, c)
			conn.mu.Lock()
			defer conn.mu.Unlock()
			require.LessOrEqual(t, conn.worst, 0)
			require.Greater(t, conn.received, 16<<10)
		})
	}
}

// If a limit is so large that adding to it could overflow, the error names the
// largest possible value, before anything is accepted or dialed.
func TestLimitsHaveABound(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for name, l := range map[string]*preflight.PreflightListener{
		"HandshakeTimeout": {HandshakeTimeout: math.MaxInt64},
		"PlainAfter":       {PlainAfter: math.MaxInt64},
		"IdleTimeout":      {IdleTimeout: math.MaxInt64},
		"MaxHeaderBytes":   {MaxHeaderBytes: math.MaxInt},
		"MaxPending":       {MaxPending: math.MaxInt},
	} {
		l.Listener = testkit.ListenTCP(t)
		_, err := l.Accept()
		require.ErrorContains(t, err, "preflight: PreflightListener."+name)
		require.ErrorContains(t, err, "at most")
		require.NoError(t, l.Close())
	}
	for name, l := range map[string]*preflight.PreflightListener{
		"HandshakeTimeout": {HandshakeTimeout: year},
		"PlainAfter":       {PlainAfter: year, HandshakeTimeout: time.Hour},
		"MaxHeaderBytes":   {MaxHeaderBytes: 1 << 30},
		"MaxPending":       {MaxPending: 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
			c, _ := testkit.Upgraded(t, l, testkit.Request())
			testkit.Talk(t, c, testkit.NextConn(t, accepted))
		})
	}
	peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) { c.Close() }}
	for _, url := range []string{"tcp://edge.example:80?http_preflight=true", "tcp://edge.example:80"} {
		d := preflight.PreflightDialer{NetDialer: peer, HandshakeTimeout: math.MaxInt64}
		_, err := d.DialURL(t.Context(), url)
		require.ErrorContains(t, err, ": HandshakeTimeout is "+fmt.Sprint(time.Duration(math.MaxInt64)))
		require.Nil(t, peer.Spy)
	}
}
