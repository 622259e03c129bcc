package carriers_test

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/frame"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A tunnel by each carrier: as the first request of a connection, behind an ordinary one,
// and the same on another server by ServeHTTP.
func TestTunnel(t *testing.T) {
	each(t, all, func(t *testing.T, carrier preflight.Carrier) {
		l := testkit.Listen(t, &preflight.PreflightListener{Handler: testkit.ReportHandler})
		accepted := testkit.AcceptAll(t, l)
		for _, way := range testkit.Ways(t, l) {
			t.Run(way.Name, func(t *testing.T) {
				p := ask(t, bufferedConn{way.Dial(t)}, carrier, "X-Client: 1\r\n", "", "")
				conn := testkit.NextConn(t, accepted)
				require.Equal(t, carrier, conn.Carrier())
				require.Equal(t, "/t", conn.Request().RequestURI)
				require.Equal(t, "1", conn.Request().Header.Get("X-Client"))
				require.Equal(t, http.StatusSwitchingProtocols, conn.Response().StatusCode)
				require.Equal(t, p.bottom.LocalAddr().String(), conn.RemoteAddr().String())
				talk(t, p, conn)
			})
		}
	})
}

// What is glued to the request is the tunnel's first, below the layer of the capsules,
// wherever the client's segments end and whoever has buffered it.
func TestBytesBehindTheRequest(t *testing.T) {
	early := map[preflight.Carrier]string{
		preflight.CarrierUpgrade: "early",
		preflight.CarrierFramed:  unhex("ad70f100 03") + "ear" + unhex("ad70f100 02") + "ly",
		// RFC 6455 §5.7 has this key.
		preflight.CarrierWebSocket: unhex("8285 37fa213d") + mask(unhex("ad70f100 05")) + unhex("8285 37fa213d") + mask("early"),
	}
	each(t, all, func(t *testing.T, carrier preflight.Carrier) {
		l := testkit.Listen(t, &preflight.PreflightListener{Handler: testkit.ReportHandler})
		accepted := testkit.AcceptAll(t, l)
		for _, way := range testkit.Ways(t, l) {
			for _, piece := range []int{1, 7, 1 << 20} {
				c := way.Dial(t)
				go testkit.WriteInPieces(c, requests[carrier]+"\r\n"+early[carrier], piece)
				want := switched[carrier] + "\r\n"
				require.Equal(t, want, testkit.GoldenRead(t, c.R, len(want)), way.Name)
				conn := testkit.NextTunnel(t, accepted)
				require.Equal(t, "early", testkit.GoldenRead(t, conn, 5), way.Name)
				c.Close()
				conn.Close()
			}
		}
	})
}

func unhex(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// mask masks with the key 37fa213d.
func mask(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] ^= "\x37\xfa\x21\x3d"[i%4]
	}
	return string(b)
}

// The bytes on the wire, as another implementation must write them.
func TestBytesOnTheWire(t *testing.T) {
	for carrier, want := range map[preflight.Carrier]struct{ hello, final string }{
		preflight.CarrierFramed:    {unhex("ad70f100 05") + "hello", unhex("ad70f101 00 ad70f104 08 0000000000000001")},
		preflight.CarrierWebSocket: {unhex("820a ad70f100 05") + "hello", unhex("8205 ad70f101 00 820d ad70f104 08 0000000000000001")},
	} {
		l := testkit.Listen(t, new(preflight.PreflightListener))
		accepted := testkit.AcceptAll(t, l)
		c := testkit.DialTCP(t, l.Addr())
		_, err := io.WriteString(c, requests[carrier]+"\r\n")
		require.NoError(t, err)
		require.Equal(t, switched[carrier]+"\r\n", testkit.GoldenRead(t, c, len(switched[carrier])+2))
		conn := testkit.NextTunnel(t, accepted)
		_, err = io.WriteString(conn, "hello")
		require.NoError(t, err)
		require.Equal(t, want.hello, testkit.GoldenRead(t, c, len(want.hello)))
		require.NoError(t, conn.CloseWrite())
		require.Equal(t, want.final, testkit.GoldenRead(t, c, len(want.final)))
		require.NoError(t, c.Close())
	}
}

// TLS to the listener, TLS inside the tunnel, and both.
func TestTLS(t *testing.T) {
	server, client := testkit.TLSConfigs(t)
	for name, where := range map[string]struct{ outside, inside bool }{"outside": {outside: true}, "inside": {inside: true}, "both": {true, true}} {
		t.Run(name, func(t *testing.T) {
			each(t, all, func(t *testing.T, carrier preflight.Carrier) {
				for _, authorize := range []bool{false, true} {
					l := &preflight.PreflightListener{TLSConfig: server}
					if authorize {
						l.Authorize = testkit.AuthorizeAll
					}
					accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
					var c net.Conn = testkit.DialTCP(t, l.Addr())
					if where.outside {
						c = tls.Client(c, client)
					}
					fields := ""
					if where.inside {
						fields = "Preflight-Tunnel: tls\r\n"
					}
					p := ask(t, c, carrier, fields, "", fields)
					if where.inside {
						p.Conn = tls.Client(p.Conn, client)
						require.NoError(t, p.Conn.(*tls.Conn).Handshake())
					}
					conn := testkit.NextConn(t, accepted)
					require.Equal(t, carrier, conn.Carrier())
					require.Equal(t, where.outside, conn.Request().TLS != nil, "the request came over it")
					if !where.inside || carrier == preflight.CarrierUpgrade {
						talk(t, p, conn)
						continue
					}
					conn.SetDeadline(time.Now().Add(testkit.Patience))
					testkit.Carry(t, "a question", p, conn)
					testkit.Carry(t, "an answer", conn, p)
					// The end of TLS comes first, then that of the layer below, which is
					// what a proxy cannot take away.
					require.NoError(t, conn.CloseWrite())
					rest, err := io.ReadAll(p.Conn)
					require.NoError(t, err)
					require.Empty(t, rest)
					_, err = p.Conn.(*tls.Conn).NetConn().Read(make([]byte, 1))
					require.Equal(t, io.EOF, err, "FINAL_DATA follows the close_notify")
					require.NoError(t, p.Conn.(*tls.Conn).CloseWrite())
					require.NoError(t, p.Conn.(*tls.Conn).NetConn().(*frame.Conn).CloseWrite())
					rest, err = io.ReadAll(conn)
					require.NoError(t, err)
					require.Empty(t, rest)
					require.NoError(t, conn.Close())
					require.NoError(t, p.Close())
				}
			})
		})
	}
}

// FINAL_DATA without the close_notify of TLS inside is a truncation: what removes TLS's
// end is not to be trusted with that of the layer below.
func TestTLSInsideWithoutItsEnd(t *testing.T) {
	server, client := testkit.TLSConfigs(t)
	each(t, framed, func(t *testing.T, carrier preflight.Carrier) {
		l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server})
		accepted := testkit.AcceptAll(t, l)
		p := dial(t, l, carrier, "Preflight-Tunnel: tls\r\n", "Preflight-Tunnel: tls\r\n")
		secure := tls.Client(p.Conn, client)
		_, err := io.WriteString(secure, "x")
		require.NoError(t, err)
		conn := testkit.NextTunnel(t, accepted)
		require.Equal(t, "x", testkit.GoldenRead(t, conn, 1))
		require.NoError(t, p.CloseWrite())
		_, err = conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.ErrorContains(t, err, "without TLS's close_notify")
		require.NoError(t, p.bottom.Close())
	})
}

// Authorize's fields join the 101, behind those of the exchange, and its client is the one
// that the trusted proxies name.
func TestAuthorizeAndTrustedProxies(t *testing.T) {
	each(t, all, func(t *testing.T, carrier preflight.Carrier) {
		seen := make(chan string, 8)
		l := &preflight.PreflightListener{
			TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")},
			Handler:        testkit.ReportHandler,
			Authorize: func(r *http.Request) (http.Header, error) {
				seen <- r.RemoteAddr + " " + r.Header.Get("Sec-WebSocket-Protocol")
				return http.Header{"A": {"1"}}, nil
			},
		}
		accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
		c := testkit.DialTCP(t, l.Addr())
		_, err := io.WriteString(c, "PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n")
		require.NoError(t, err)
		p := ask(t, c, carrier, "X-Forwarded-For: 198.51.100.1\r\nSec-WebSocket-Protocol: bearer.x\r\n", "", "A: 1\r\n")
		conn := testkit.NextConn(t, accepted)
		require.Equal(t, "198.51.100.1:0", conn.RemoteAddr().String())
		remote, protocols, _ := strings.Cut(<-seen, " ")
		require.Equal(t, "198.51.100.1:0", remote)
		if carrier == preflight.CarrierWebSocket {
			require.Equal(t, "preflight.v1", protocols)
			require.Equal(t, []string{"preflight.v1", "bearer.x"}, conn.Request().Header.Values("Sec-WebSocket-Protocol"))
		}
		talk(t, p, conn)
	})
}

// An application that echoes the fields of a request cannot agree to anything: its answer
// is not sent.
func TestAuthorizeCannotNegotiate(t *testing.T) {
	testkit.CaptureLog(t)
	for _, name := range []string{"Preflight-Framing", "preflight-tunnel", "Sec-WebSocket-Protocol", "Preflight-Refusal"} {
		for _, refuses := range []bool{false, true} {
			l := &preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) {
				fields := http.Header{name: {"capsule"}}
				if refuses {
					return nil, &preflight.StatusError{StatusCode: 403, Header: fields, Reason: "no-upgrade"}
				}
				return fields, nil
			}}
			accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
			a := testkit.Refused(t, l, testkit.Request())
			require.Equal(t, http.StatusInternalServerError, a.StatusCode)
			require.Equal(t, []string{"internal"}, a.Header["Preflight-Refusal"])
			require.Empty(t, accepted)
		}
	}
	l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) {
		return nil, &preflight.StatusError{StatusCode: 429, Reason: "no-upgrade"}
	}})
	testkit.AcceptAll(t, l)
	a := testkit.Refused(t, l, testkit.Request())
	require.Equal(t, []string{"authorize"}, a.Header["Preflight-Refusal"], "no StatusError chooses the code")
}

// The protocol of a tunnel inside a WebSocket has a field of its own.
func TestProtocolInsideWebSocket(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Protocols: []string{"amps/5", "tcp"}})
	accepted := testkit.AcceptAll(t, l)
	for field, want := range map[string]string{"": "", "Preflight-Protocol: AMPS/5\r\n": "amps/5"} {
		answer := ""
		if want != "" {
			answer = "Preflight-Protocol: " + want + "\r\n"
		}
		p := dial(t, l, preflight.CarrierWebSocket, field, answer)
		conn := testkit.NextConn(t, accepted)
		require.Equal(t, want, conn.Response().Header.Get("Preflight-Protocol"))
		talk(t, p, conn)
	}
}

// Server serves each carrier, on any net.Conn.
func TestServer(t *testing.T) {
	each(t, all, func(t *testing.T, carrier preflight.Carrier) {
		for name, pair := range map[string]func() (net.Conn, net.Conn){
			"TCP":  func() (net.Conn, net.Conn) { return testkit.TCPPair(t) },
			"pipe": func() (net.Conn, net.Conn) { return net.Pipe() },
		} {
			client, server := pair()
			conns := make(chan *preflight.Conn, 1)
			go func() {
				c, err := preflight.Server(context.Background(), server)
				if err != nil {
					t.Error(name, err)
				}
				conns <- c
			}()
			p := ask(t, client, carrier, "", "", "")
			conn := <-conns
			require.Equal(t, carrier, conn.Carrier())
			if carrier == preflight.CarrierUpgrade && name == "pipe" { // which has no half-close
				testkit.Carry(t, "x", p, conn)
				client.Close()
				continue
			}
			talk(t, p, conn)
		}
	})
}

// An end before FINAL_DATA is an error, a reset too; without framing it cannot be told from
// a clean one.
func TestEarlyEnd(t *testing.T) {
	each(t, all, func(t *testing.T, carrier preflight.Carrier) {
		l := testkit.Listen(t, new(preflight.PreflightListener))
		accepted := testkit.AcceptAll(t, l)
		p := dial(t, l, carrier, "", "")
		conn := testkit.NextTunnel(t, accepted)
		testkit.Carry(t, "all but the end", p, conn)
		require.NoError(t, p.bottom.Close())
		_, err := conn.Read(make([]byte, 1))
		if carrier == preflight.CarrierUpgrade {
			require.Equal(t, io.EOF, err)
			return
		}
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		var op *net.OpError
		require.True(t, errors.As(err, &op))
		require.Equal(t, "read", op.Op)
	})
}

// A field that a proxy adds, or keeps although it does not understand it, never puts a
// frame into the bytes of the application, nor an application's bytes into a frame.
func TestFieldThatThePeerDoesNotMean(t *testing.T) {
	for name, first := range map[string]string{
		"a line":            "SUBSCRIBE topic\r\n",
		"zeros":             "\x00\x00\x00\x00\x00\x00\x00\x00",
		"a capsule of 9297": "\x00\x05hello",
		"a grease capsule":  unhex("ad70f102 00"),
	} {
		t.Run(name, func(t *testing.T) {
			l := testkit.Listen(t, new(preflight.PreflightListener))
			accepted := testkit.AcceptAll(t, l)
			c := testkit.DialTCP(t, l.Addr())
			_, err := io.WriteString(c, requests[preflight.CarrierFramed]+"\r\n"+first)
			require.NoError(t, err)
			conn := testkit.NextTunnel(t, accepted)
			b := make([]byte, 64)
			n, err := conn.Read(b)
			require.Zero(t, n)
			require.ErrorContains(t, err, "protocol error of the peer")
			require.Equal(t, strings.Repeat("\x00", 64), string(b), "not even behind what Read returns")
			_, err = conn.Write([]byte("x"))
			require.Error(t, err)
			require.NoError(t, conn.Close())
		})
	}
}

// The counters count the bytes of the application, and every series of a tunnel says how
// it is carried.
func TestTelemetry(t *testing.T) {
	each(t, all, func(t *testing.T, carrier preflight.Carrier) {
		e := testkit.NewRecorder()
		l := testkit.Listen(t, &preflight.PreflightListener{Telemetry: e.Watch()})
		accepted := testkit.AcceptAll(t, l)
		p := dial(t, l, carrier, "", "")
		conn := testkit.NextTunnel(t, accepted)
		of := "preflight.carrier=" + string(carrier) + ",preflight.kind=upgraded"
		require.EqualValues(t, 1, e.Sum("server.connection.active "+of))
		testkit.Carry(t, strings.Repeat("x", 100_000), p, conn)
		testkit.Carry(t, "an answer", conn, p)
		require.NoError(t, p.CloseWrite())
		_, err := conn.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.NoError(t, conn.Close())
		require.NoError(t, p.Close())
		require.EqualValues(t, 1, e.Sum("server.handshake.duration http.response.status_code=101,"+of))
		require.EqualValues(t, 0, e.Sum("server.connection.active "+of))
		require.EqualValues(t, 1, e.Sum("server.connection.duration "+of))
		require.EqualValues(t, 100_000, e.Sum("server.connection.io network.io.direction=receive,"+of))
		require.EqualValues(t, len("an answer"), e.Sum("server.connection.io network.io.direction=transmit,"+of))
	})
}
