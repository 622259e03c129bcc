package telemetry_test

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// panicTransport is a transport of the application that panics in one of its methods.
type panicTransport struct {
	net.Conn
	in string
}

func (c panicTransport) Read(b []byte) (int, error) {
	if c.in == "Read" {
		panic("boom")
	}
	return c.Conn.Read(b)
}

func (c panicTransport) Write(b []byte) (int, error) {
	if c.in == "Write" {
		panic("boom")
	}
	return c.Conn.Write(b)
}

func (c panicTransport) SetDeadline(t time.Time) error {
	if c.in == "SetDeadline" {
		panic("boom")
	}
	return c.Conn.SetDeadline(t)
}

// panicListener is a listener. Its connections panic in the method that it receives
// from in, if there is one.
type panicListener struct {
	net.Listener
	in chan string
}

func (l *panicListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	select {
	case in := <-l.in:
		return panicTransport{c, in}, nil
	default:
		return c, nil
	}
}

// A panic during the handshake of one client ends that client's connection. The
// process continues, other clients are served, and the place becomes free.
func TestListenerPanicEndsOneConnection(t *testing.T) {
	serverTLS, clientTLS := testkit.NamedTLSConfigs(t)
	for _, tt := range []struct {
		name   string
		in     string // a method of the transport, or a callback of TLS
		below  bool   // TLS is below the listener; otherwise the listener has TLSConfig
		mount  bool   // the request comes through ServeHTTP
		first  string // the bytes that the client sends in the clear
		secure bool   // the client then speaks TLS
	}{
		{name: "TLSConfig, GetCertificate", in: "GetCertificate", secure: true},
		{name: "TLSConfig, GetConfigForClient", in: "GetConfigForClient", secure: true},
		{name: "TLSConfig behind a PROXY header", in: "GetCertificate", secure: true, first: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"},
		{name: "in the tunnel, GetCertificate", in: "GetCertificate", secure: true, first: testkit.RequestTLS},
		{name: "in the tunnel, GetConfigForClient", in: "GetConfigForClient", secure: true, first: testkit.RequestTLS},
		{name: "in the tunnel, by ServeHTTP", in: "GetCertificate", secure: true, first: testkit.RequestTLS, mount: true},
		{name: "underneath, GetCertificate", in: "GetCertificate", secure: true, below: true},
		{name: "underneath, GetConfigForClient", in: "GetConfigForClient", secure: true, below: true},
		{name: "a transport in its first Read", in: "Read"},
		{name: "a transport in Write", in: "Write", first: testkit.Request()},
		{name: "a transport in SetDeadline", in: "SetDeadline"},
		{name: "a transport below TLS, in Read", in: "Read", below: true},
		{name: "a transport below TLS, in Write", in: "Write", below: true, secure: true},
		{name: "a transport below TLSConfig, in Write", in: "Write", secure: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			callbacks := make(chan string, 1)
			fault := func(in string) {
				select {
				case want := <-callbacks:
					if want == in {
						panic("boom")
					}
					callbacks <- want
				default:
				}
			}
			config := serverTLS.Clone()
			config.Certificates = nil
			config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				fault("GetCertificate")
				return &serverTLS.Certificates[0], nil
			}
			config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
				fault("GetConfigForClient")
				return nil, nil
			}
			faults := &panicListener{testkit.ListenTCP(t), make(chan string, 1)}
			// There is one place. During the test, no timeout frees it.
			l := &preflight.PreflightListener{
				Listener: faults, MaxPending: 1, HandshakeTimeout: time.Hour, TrustedProxies: testkit.Prefixes("127.0.0.0/8"),
			}
			if tt.below {
				l.Listener = tls.NewListener(faults, config)
			} else {
				l.TLSConfig = config
			}
			accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
			addr := l.Addr()
			if tt.mount {
				s := httptest.NewServer(l)
				t.Cleanup(s.Close)
				addr = s.Listener.Addr()
			}
			printed := testkit.CaptureLog(t)
			for range 3 {
				before := len(printed.String())
				if strings.HasPrefix(tt.in, "Get") {
					callbacks <- tt.in
				} else {
					faults.in <- tt.in
				}
				tcp := testkit.DialTCP(t, addr)
				c := &testkit.Client{Conn: tcp, R: bufio.NewReader(tcp)}
				c.Send(t, tt.first)
				if tt.first == testkit.RequestTLS {
					require.Equal(t, 101, c.Answer("GET").StatusCode)
				}
				if tt.secure {
					require.Error(t, tls.Client(tcp, clientTLS).Handshake())
				}
				testkit.ReadToEnd(t, c.R)

				// The next client must get the place. The panic is logged
				// before the place becomes free.
				good := &testkit.Client{Conn: testkit.DialTCP(t, addr)}
				good.R = bufio.NewReader(good.Conn)
				if tt.below {
					good = testkit.Secure(t, good, clientTLS)
				}
				good.Send(t, testkit.Request())
				require.Equal(t, 101, good.Answer("GET").StatusCode)
				testkit.Talk(t, good, testkit.NextConn(t, accepted))
				require.Contains(t, printed.String()[before:], "panic in a handshake: boom")
				where := tt.in
				if strings.HasPrefix(tt.in, "Get") {
					where = "TestListenerPanicEndsOneConnection"
				}
				require.Contains(t, printed.String()[before:], where, "the stack names the function that panicked")
			}
			require.Empty(t, accepted)
			require.Equal(t, 3, strings.Count(printed.String(), "boom\ngoroutine"), "each once")
		})
	}
}
