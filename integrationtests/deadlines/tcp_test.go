package deadlines_test

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// On TCP the listener sets the deadline of a handshake only when half of the time has passed.
// No handshake lives longer for that, whatever it waits for, and none ends earlier.
func TestListenerDeadlineOnTCP(t *testing.T) {
	const timeout = 200 * time.Millisecond
	certificate, _ := testkit.Certificate(t, "edge.example")
	config := &tls.Config{Certificates: []tls.Certificate{certificate}}
	const (
		head  = "GET / HTTP/1.1\r\nHost: edge.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
		hello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
	)
	withTLS := func(l *preflight.PreflightListener) { l.TLSConfig = config }
	trusts := func(l *preflight.PreflightListener) {
		l.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
	for name, tt := range map[string]struct {
		set  func(*preflight.PreflightListener)
		send string
		tls  bool
	}{
		"nothing":            {},
		"half a line":        {send: "GET /"},
		"half a head":        {send: head},
		"half a large head":  {send: head + "X: " + strings.Repeat("x", 6<<10)},
		"half a PROXY":       {set: trusts, send: "PROXY TCP4 192.0.2.1 "},
		"a PROXY, no head":   {set: trusts, send: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"},
		"half a ClientHello": {set: withTLS, send: hello},
		"half a head in TLS": {set: withTLS, send: head, tls: true},
		"TLS in the tunnel":  {set: withTLS, send: head + "Preflight-Tunnel: tls\r\n\r\n" + hello},
		"TLS in capsules":    {set: withTLS, send: head + "Preflight-Framing: capsule\r\nPreflight-Tunnel: tls\r\n\r\n"},
		"TLS below": {func(l *preflight.PreflightListener) {
			l.Listener = tls.NewListener(l.Listener, config)
		}, head, true},
		"half a head for Handler": {func(l *preflight.PreflightListener) { l.Handler = http.NotFoundHandler() }, head, false},
		"a 101 that is not read": {func(l *preflight.PreflightListener) {
			l.Authorize = func(*http.Request) (http.Header, error) {
				return http.Header{"X": {strings.Repeat("x", 16<<20)}}, nil
			}
		}, head + "\r\n", false},
	} {
		for _, after := range []time.Duration{0, timeout / 2} {
			t.Run(name+" after "+after.String(), func(t *testing.T) {
				t.Parallel()
				ended := make(chan struct{}, 1)
				l := &preflight.PreflightListener{
					Listener: testkit.ListenTCP(t), HandshakeTimeout: timeout,
					Logger: slog.New(slog.NewTextHandler(signal(ended), &slog.HandlerOptions{Level: slog.LevelDebug})),
				}
				if tt.set != nil {
					tt.set(l)
				}
				acceptAll(t, testkit.Listen(t, l), func(c net.Conn) {
					c.Close()
					signal(ended).send()
				})
				if after > 0 { // the sweep that this one causes comes sooner for the next
					c := dialTCP(t, l)
					c.SetLinger(0)
					c.Close()
					<-ended
					time.Sleep(after) // real TCP has no virtual time
				}
				start := time.Now()
				c := dialTCP(t, l)
				go func() {
					var up net.Conn = c
					if tt.tls {
						up = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
					}
					io.WriteString(up, tt.send)
				}()
				select {
				case <-ended:
				case <-time.After(testkit.Patience):
					t.Fatal("the handshake does not end")
				}
				require.GreaterOrEqual(t, time.Since(start), timeout)
			})
		}
	}
}

// A signal is sent with each Write.
type signal chan<- struct{}

func (s signal) Write(b []byte) (int, error) {
	s.send()
	return len(b), nil
}

func (s signal) send() {
	select {
	case s <- struct{}{}:
	default: // nobody waits any more
	}
}

func dialTCP(t testing.TB, l net.Listener) *net.TCPConn {
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testkit.Patience))
	return c.(*net.TCPConn)
}

// acceptAll passes what l accepts to serve, until l is closed.
func acceptAll(t testing.TB, l net.Listener, serve func(net.Conn)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			serve(c)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
}

// hastyListener sets a deadline of its own on each connection.
type hastyListener struct{ net.Listener }

func (l hastyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		c.SetDeadline(time.Unix(1, 0))
	}
	return c, err
}

// A deadline that the wrapped listener has set ends with the handshake, as it does on every
// transport. It does not shorten the handshake either.
func TestListenerReplacesADeadlineBelow(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Listener: hastyListener{testkit.ListenTCP(t)}})
	testkit.ServeEcho(t, l)
	for _, carrier := range []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierFramed} {
		d := preflight.PreflightDialer{Carriers: []preflight.Carrier{carrier}}
		c, err := d.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.SetDeadline(time.Now().Add(testkit.Patience)))
		_, err = io.WriteString(c, "hello")
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, 5))
		require.NoError(t, err)
	}
}

// A closed listener is not kept in memory until its HandshakeTimeout.
func TestClosedListenerIsFreed(t *testing.T) {
	freed := make(chan struct{})
	func() {
		l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t), HandshakeTimeout: 24 * time.Hour}
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.Accept()
			l.Accept()
		}()
		c, err := new(preflight.PreflightDialer).Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, l.Close())
		<-done
		runtime.AddCleanup(l, func(freed chan struct{}) { close(freed) }, freed)
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		select {
		case <-freed:
			return true
		default:
			return false
		}
	}, testkit.Patience, 10*time.Millisecond)
}
