package listener_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// resetConn is the client's end of a connection. It resets the connection after it
// has sent a number of bytes.
type resetConn struct {
	*net.TCPConn
	left int
	sent int
}

var errReset = errors.New("reset by the test")

func (c *resetConn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b[:min(len(b), c.left)])
	c.sent += n
	if c.left -= n; err == nil && c.left == 0 {
		c.reset()
		err = errReset
	}
	return n, err
}

func (c *resetConn) reset() {
	c.SetLinger(0)
	c.TCPConn.Close()
}

// A reset at any byte never makes a plain connection, although an end or
// silence at the same byte may. Shutdown shows that no handshake remains, and
// TestMain that no goroutine does.
func TestListenerResetAtEveryByte(t *testing.T) {
	serverTLS, clientTLS := testkit.TLSConfigs(t)
	clientTLS.CurvePreferences = []tls.CurveID{tls.X25519} // for a short hello
	write := func(c net.Conn, s string) error {
		_, err := io.WriteString(c, s)
		return err
	}
	secure := func(c net.Conn, s string) (net.Conn, error) {
		tc := tls.Client(c, clientTLS)
		if err := tc.Handshake(); err != nil {
			return nil, err
		}
		return tc, write(tc, s)
	}
	for _, tt := range []struct {
		name  string
		plain int // this many bytes make a plain connection; 0: none do
		talk  func(net.Conn) error
	}{
		{"a PROXY header and a head", 0, func(c net.Conn) error { return write(c, testkit.ThroughProxy+testkit.Request()) }},
		{"a binary PROXY header and a head", 0, func(c net.Conn) error { return write(c, testkit.ProxyV2+testkit.Request()) }},
		{"a head over TLS behind a PROXY header", 0, func(c net.Conn) error {
			if err := write(c, testkit.ThroughProxy); err != nil {
				return err
			}
			_, err := secure(c, testkit.Request())
			return err
		}},
		{"a handshake inside the tunnel", 0, func(c net.Conn) error {
			if err := write(c, testkit.TunnelTLSRequest); err != nil {
				return err
			}
			r := bufio.NewReader(c)
			if _, err := http.ReadResponse(r, nil); err != nil {
				return err
			}
			_, err := secure(testkit.BufferedConn{Conn: c, R: r}, "data")
			return err
		}},
		{"an ordinary request and a head", 0, func(c net.Conn) error { return write(c, testkit.Ordinary+testkit.Request()) }},
		{"a line", len("GET key\r"), func(c net.Conn) error { return write(c, "GET key\r\nand more") }},
		{"a line behind a PROXY header", len(testkit.ThroughProxy + "GET key\r"), func(c net.Conn) error { return write(c, testkit.ThroughProxy+"GET key\r\n") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &preflight.PreflightListener{
				Listener: testkit.ListenTCP(t), TLSConfig: serverTLS, Handler: http.NotFoundHandler(),
				TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			}
			var plain, tunnels atomic.Int64
			accepted := make(chan error, 1)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						accepted <- err
						return
					}
					if c.(*preflight.Conn).Request() == nil {
						plain.Add(1)
					} else {
						tunnels.Add(1)
					}
					c.Close()
				}
			}()
			// The first client sends everything, and reports how many bytes
			// that is.
			whole := &resetConn{TCPConn: testkit.DialTCP(t, l.Addr()), left: 1 << 20}
			require.NoError(t, tt.talk(whole))
			io.Copy(io.Discard, whole)
			whole.Close()

			for n := range whole.sent {
				c := &resetConn{TCPConn: testkit.DialTCP(t, l.Addr()), left: n}
				if n == 0 {
					c.reset()
					continue
				}
				require.Error(t, tt.talk(c))
			}
			ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
			defer cancel()
			require.NoError(t, l.Shutdown(ctx), "every handshake has ended")
			require.ErrorIs(t, <-accepted, net.ErrClosed)
			switch {
			case tt.plain == 0:
				require.Zero(t, plain.Load())
				require.Positive(t, tunnels.Load())
			default:
				require.Positive(t, plain.Load())
				require.LessOrEqual(t, plain.Load(), int64(1+whole.sent-tt.plain))
				require.Zero(t, tunnels.Load())
			}
		})
	}
}
