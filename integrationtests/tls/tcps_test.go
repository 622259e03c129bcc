package tls_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// ampsRequest is the request of the AMPS clients for Python, C++ and Java, byte
// for byte, with one field of the user.
func ampsRequest(token string) string {
	return "GET /client/amps/json HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: " + token + "\r\nX-User: me\r\n\r\n"
}

// ampsLogon begins the bytes of the application: a length, and JSON.
const ampsLogon = "\x00\x00\x00\x13" + `{"c":"logon","a":1}`

// tcps is another name for tcp. The 101 repeats the token that was chosen. The
// tunnel carries the bytes unchanged, with and without TLS on the hop, and with
// and without TLSConfig.
func TestTCPS(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	for _, tlsConfig := range []*tls.Config{nil, server} {
		for _, below := range []bool{false, true} {
			l := &preflight.PreflightListener{TLSConfig: tlsConfig, Handler: testkit.ReportHandler, Listener: testkit.ListenTCP(t)}
			secure := []bool{false}
			switch {
			case below:
				l.Listener, secure = tls.NewListener(l.Listener, server), []bool{true}
			case tlsConfig != nil:
				secure = []bool{false, true}
			}
			accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
			for _, secure := range secure {
				for _, later := range []bool{false, true} {
					for _, token := range []string{"tcp", "tcps"} {
						for _, asked := range []string{token, strings.ToUpper(token), "x, " + token + ", y"} {
							t.Run(fmt.Sprintf("TLSConfig %t, below %t, TLS %t, later %t, %s", tlsConfig != nil, below, secure, later, asked), func(t *testing.T) {
								c := testkit.DialClient(t, l)
								if secure {
									c = testkit.Secure(t, c, client)
								}
								if later {
									c.Send(t, testkit.Get)
									c.Got(t)
								}
								c.Send(t, ampsRequest(asked)+ampsLogon)
								a := c.Answer("GET")
								require.NoError(t, a.Err)
								require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
								require.Equal(t, http.Header{"Upgrade": {token}, "Connection": {"Upgrade"}}, a.Header)
								conn := testkit.NextTunnel(t, accepted)
								testkit.Skip(t, conn, ampsLogon)
								testkit.Talk(t, c, conn)
								require.Equal(t, token, conn.Response().Header.Get("Upgrade"))
								require.Equal(t, asked, conn.Request().Header.Get("Upgrade"))
								require.Equal(t, secure, conn.Request().TLS != nil)
							})
						}
					}
				}
			}
		}
	}
}

// The same holds on a server of net/http, and for Server.
func TestTCPSOnServeHTTPAndServer(t *testing.T) {
	l := &preflight.PreflightListener{}
	accepted := testkit.AcceptAll(t, l)
	n := testkit.ListenTCP(t)
	testkit.ServeHTTP(t, n, l)
	for _, token := range []string{"tcp", "tcps"} {
		t.Run("ServeHTTP "+token, func(t *testing.T) {
			c, a := testkit.Upgraded(t, n, ampsRequest(token)+ampsLogon)
			require.Equal(t, http.Header{"Upgrade": {token}, "Connection": {"Upgrade"}}, a.Header)
			conn := testkit.NextTunnel(t, accepted)
			testkit.Skip(t, conn, ampsLogon)
			testkit.Talk(t, c, conn)
		})
		t.Run("Server "+token, func(t *testing.T) {
			ours, theirs := testkit.TCPPair(t)
			c := &testkit.Client{Conn: ours, R: bufio.NewReader(ours)}
			c.Send(t, ampsRequest(token)+ampsLogon)
			conn, err := preflight.Server(t.Context(), theirs)
			require.NoError(t, err)
			a := c.Answer("GET")
			require.Equal(t, http.Header{"Upgrade": {token}, "Connection": {"Upgrade"}}, a.Header)
			testkit.Skip(t, conn, ampsLogon)
			testkit.Talk(t, c, conn)
		})
	}
}

// If a request lists several tokens, the order of Protocols decides. If none is
// served, the request is refused, and the answer lists the tokens that are
// served.
func TestTCPSIsChosen(t *testing.T) {
	for _, tt := range []struct {
		protocols []string
		upgrade   string
		want      string
	}{
		{nil, "tcps, tcp", "tcp"},
		{[]string{"tcps", "tcp"}, "tcp, tcps", "tcps"},
		{[]string{"TcpS"}, "tcps", "TcpS"},
		{[]string{"tcps"}, "tcp", ""},
		{[]string{"tcp"}, "tcps", ""},
		{[]string{"amps"}, "tcps", ""},
		{[]string{"tcps/1"}, "tcps/1", "tcps/1"},
		{nil, "tcps/1", ""},
	} {
		t.Run(fmt.Sprintf("%q of %q", tt.upgrade, tt.protocols), func(t *testing.T) {
			l := testkit.Listen(t, &preflight.PreflightListener{Protocols: tt.protocols})
			accepted := testkit.AcceptAll(t, l)
			if tt.want == "" {
				a := testkit.Refused(t, l, ampsRequest(tt.upgrade))
				require.Equal(t, http.StatusUpgradeRequired, a.StatusCode)
				served := strings.Join(tt.protocols, ", ")
				if tt.protocols == nil {
					served = "tcp, tcps"
				}
				require.Equal(t, served+", websocket", a.Header.Get("Upgrade"))
				return
			}
			c, a := testkit.Upgraded(t, l, ampsRequest(tt.upgrade))
			require.Equal(t, tt.want, a.Header.Get("Upgrade"))
			testkit.Talk(t, c, testkit.NextConn(t, accepted))
		})
	}
}

// A listener that cannot provide what Preflight-Tunnel asks for refuses the
// request, and so does one that does not know its value. It never opens a
// tunnel of another kind.
func TestTunnelTLSIsRefused(t *testing.T) {
	server, _ := testkit.NamedTLSConfigs(t)
	for _, tt := range []struct {
		config *tls.Config
		fields []string
		want   int
		says   string
	}{
		{nil, []string{"Preflight-Tunnel: tls"}, 426, "TLS inside the tunnel"},
		{server, []string{"Preflight-Tunnel: TLS"}, 400, "Preflight-Tunnel"},
		{server, []string{"Preflight-Tunnel:"}, 400, "Preflight-Tunnel"},
		{server, []string{"Preflight-Tunnel: raw"}, 400, "Preflight-Tunnel"},
		{server, []string{"Preflight-Tunnel: tls, tls"}, 400, "Preflight-Tunnel"},
		{server, []string{"Preflight-Tunnel: tls", "Preflight-Tunnel: tls"}, 400, "Preflight-Tunnel"},
		{nil, []string{"preflight-tunnel: off"}, 400, "Preflight-Tunnel"},
		// Other faults of the request are reported as they are without the
		// field.
		{nil, []string{"Preflight-Tunnel: tls", "Content-Length: 1"}, 400, "body"},
		{server, []string{"Preflight-Tunnel: tls", "Expect: x"}, 417, ""}, // net/http answers some of them
	} {
		for _, authorize := range []bool{false, true} {
			l := &preflight.PreflightListener{TLSConfig: tt.config, Handler: testkit.ReportHandler}
			if authorize {
				l.Authorize = func(*http.Request) (http.Header, error) {
					t.Error("a request that is refused in any case was shown to Authorize")
					return nil, nil
				}
			}
			accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
			for _, way := range testkit.Ways(t, l) {
				t.Run(fmt.Sprintf("%s, TLSConfig %t, Authorize %t, %s", tt.fields, tt.config != nil, authorize, way.Name), func(t *testing.T) {
					c := way.Dial(t)
					c.Send(t, testkit.Request(tt.fields...))
					a := c.Refused(t, "GET")
					require.Equal(t, tt.want, a.StatusCode, a.Text)
					require.Contains(t, a.Text, tt.says)
					if tt.want == 426 {
						require.Equal(t, "tcp, tcps, websocket", a.Header.Get("Upgrade"))
					}
					require.Empty(t, accepted)
				})
			}
		}
	}
	t.Run("Server", func(t *testing.T) {
		ours, theirs := testkit.TCPPair(t)
		c := &testkit.Client{Conn: ours, R: bufio.NewReader(ours)}
		c.Send(t, testkit.Request("Preflight-Tunnel: tls"))
		require.NoError(t, ours.(*net.TCPConn).CloseWrite())
		_, err := preflight.Server(t.Context(), theirs)
		require.Equal(t, 426, testkit.StatusError(t, err).StatusCode)
		require.Equal(t, 426, c.Answer("GET").StatusCode)
	})
	t.Run("a request that is not for a tunnel", func(t *testing.T) {
		l := testkit.Listen(t, &preflight.PreflightListener{Handler: testkit.ReportHandler})
		testkit.AcceptAll(t, l)
		for _, way := range testkit.Ways(t, l) {
			c := way.Dial(t)
			c.Send(t, strings.Replace(testkit.Get, "\r\n\r\n", "\r\nPreflight-Tunnel: x\r\n\r\n", 1))
			c.Got(t)
		}
	})
}

// An application may copy fields of the request into its answer. It must not be
// able to negotiate that way, so it may not set the fields by which the two
// ends negotiate.
func TestAuthorizeDoesNotNegotiate(t *testing.T) {
	printed := testkit.CaptureLog(t)
	for _, name := range []string{"Preflight-Tunnel", "preflight-framing", "PREFLIGHT-X", "Preflight-", "Sec-WebSocket-Protocol", "sec-websocket-accept"} {
		for _, refuses := range []bool{false, true} {
			l := &preflight.PreflightListener{Handler: testkit.ReportHandler, Authorize: func(*http.Request) (http.Header, error) {
				h := http.Header{name: {"s3cr3t"}}
				if refuses {
					return nil, &preflight.StatusError{StatusCode: 401, Header: h}
				}
				return h, nil
			}}
			accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
			for _, way := range testkit.Ways(t, l) {
				t.Run(fmt.Sprintf("%s, refuses %t, %s", name, refuses, way.Name), func(t *testing.T) {
					c := way.Dial(t)
					c.Send(t, testkit.Request())
					a := c.Refused(t, "GET")
					require.Equal(t, http.StatusInternalServerError, a.StatusCode)
					require.Empty(t, a.Header[http.CanonicalHeaderKey(name)])
					require.NotContains(t, a.Raw, "s3cr3t")
					require.Empty(t, accepted)
				})
			}
		}
	}
	require.Contains(t, printed.String(), "header field Preflight-Tunnel")
	require.NotContains(t, printed.String(), "s3cr3t")
	// Other fields with similar names belong to the application.
	l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) {
		return http.Header{"Preflight": {"1"}, "X-Preflight-Tunnel": {"2"}, "Sec-Websocke": {"3"}}, nil
	}})
	testkit.AcceptAll(t, l)
	_, a := testkit.Upgraded(t, l, testkit.Request())
	require.Equal(t, "2", a.Header.Get("X-Preflight-Tunnel"))
}

// The same on the side of the dialer and of Client, before anything is dialed
// or sent.
func TestDialerFieldsOfTheExchange(t *testing.T) {
	own := func(name string) http.Header { return http.Header{name: {"s3cr3t"}} }
	fresh := func(name string) func(context.Context, *preflight.StatusError) (http.Header, error) {
		return func(context.Context, *preflight.StatusError) (http.Header, error) { return own(name), nil }
	}
	for _, name := range []string{"Preflight-Tunnel", "preflight-carriers", "PREFLIGHT-X", "Sec-Websocket-Key", "sec-webSocket-protocol"} {
		for where, d := range map[string]preflight.PreflightDialer{
			"Header":    {Header: own(name)},
			"GetHeader": {GetHeader: fresh(name)},
			"both":      {Header: own(name), GetHeader: fresh("X")},
		} {
			t.Run(name+" in "+where, func(t *testing.T) {
				d.NetDialer = testkit.DialNever(t)
				_, err := d.Dial("tcp", "edge.example:80")
				require.ErrorContains(t, err, "header field "+name)
				require.ErrorContains(t, err, "exchange's own")
				testkit.RequireNoSecret(t, err)
			})
		}
		t.Run(name+" in Client", func(t *testing.T) {
			ours, _ := net.Pipe() // on which a write would block
			req := testkit.UpgradeRequestOf()
			req.Header = own(name)
			_, err := preflight.Client(t.Context(), ours, req)
			require.ErrorContains(t, err, "header field "+name)
			testkit.RequireNoSecret(t, err)
		})
	}
}

// WebSocket is not a token for a tunnel of raw bytes, in any spelling.
func TestWebSocketIsNoProtocol(t *testing.T) {
	for _, token := range []string{"websocket", "WebSocket", "websocket/13"} {
		d := preflight.PreflightDialer{NetDialer: testkit.DialNever(t), Protocol: token}
		_, err := d.Dial("tcp", "edge.example:80")
		require.ErrorContains(t, err, "WebSocket")

		ours, _ := net.Pipe()
		req := testkit.UpgradeRequestOf()
		req.Header = http.Header{"Upgrade": {token}}
		_, err = preflight.Client(t.Context(), ours, req)
		require.ErrorContains(t, err, "WebSocket")

		l := &preflight.PreflightListener{Listener: testkit.NewNetwork(), Protocols: []string{"tcp", token}}
		_, err = l.Accept()
		require.ErrorContains(t, err, "PreflightListener.Protocols")
		require.ErrorContains(t, err, "WebSocket")
		require.NoError(t, l.Close())
	}
	for _, token := range []string{"websockets", "x/websocket"} {
		d := preflight.PreflightDialer{Protocol: token, NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) {
			return nil, testkit.ErrOther
		})}
		_, err := d.Dial("tcp", "edge.example:80")
		require.Equal(t, testkit.ErrOther, err)
	}
}
