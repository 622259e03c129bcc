package carriers_test

import (
	"bufio"
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

// Each carrier opens a tunnel: with the first request of a connection, after an ordinary
// request, and on another server with ServeHTTP.
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
				require.Equal(t, headerOf(t, switched[carrier]), conn.Response().Header)
				require.Equal(t, p.bottom.LocalAddr().String(), conn.RemoteAddr().String())
				talk(t, p, conn)
			})
		}
	})
}

// Response is the answer that was sent. The server computes a part of it again, from the
// request, which is kept in one of several ways.
func TestResponse(t *testing.T) {
	each(t, all, func(t *testing.T, carrier preflight.Carrier) {
		for name, l := range map[string]*preflight.PreflightListener{
			"alone":     {},
			"Authorize": {Authorize: func(*http.Request) (http.Header, error) { return nil, nil }},
			"Telemetry": {Telemetry: testkit.NewRecorder().Watch()},
		} {
			t.Run(name, func(t *testing.T) {
				l := testkit.Listen(t, l)
				accepted := testkit.AcceptAll(t, l)
				dial(t, l, carrier, "", "")
				conn := testkit.NextConn(t, accepted)
				require.Equal(t, headerOf(t, switched[carrier]), conn.Response().Header)
				require.Same(t, conn.Request(), conn.Response().Request)
			})
		}
	})
}

func headerOf(t testing.TB, answer string) http.Header {
	r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer+"\r\n")), nil)
	require.NoError(t, err)
	return r.Header
}

// Bytes that directly follow the request are the first bytes of the tunnel, below the layer
// of the capsules. This does not depend on the segments of the client, nor on which buffer
// holds the bytes.
func TestBytesAfterTheRequest(t *testing.T) {
	early := map[preflight.Carrier]string{
		preflight.CarrierUpgrade: "early",
		preflight.CarrierFramed:  unhex("ad70f100 03") + "ear" + unhex("ad70f100 02") + "ly",
		// The key is that of the example in RFC 6455 §5.7.
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

// mask masks s with the key 37fa213d.
func mask(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] ^= "\x37\xfa\x21\x3d"[i%4]
	}
	return string(b)
}

// TestBytesOnTheWire compares the bytes on the wire, which every implementation must write.
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

// TestTLS uses TLS to the listener, TLS inside the tunnel, and both.
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
					require.Equal(t, where.outside, conn.Request().TLS != nil, "the request came over TLS")
					require.Equal(t, headerOf(t, switched[carrier]+fields), conn.Response().Header)
					if !where.inside || carrier == preflight.CarrierUpgrade {
						talk(t, p, conn)
						continue
					}
					conn.SetDeadline(time.Now().Add(testkit.Patience))
					testkit.Carry(t, "a question", p, conn)
					testkit.Carry(t, "an answer", conn, p)
					// TLS ends first, and then the layer below. A proxy cannot change
					// the end of that layer.
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

// FINAL_DATA without a close_notify of TLS inside is a truncation. An attacker who can remove
// the close_notify can also forge FINAL_DATA, which is outside of TLS.
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

// The fields that Authorize returns are added to the 101, after those of the exchange.
// Authorize sees the address of the client that the trusted proxies report.
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

// Authorize cannot negotiate with the fields of the exchange. If an application returns such a
// field, for example because it echoes the fields of the request, its answer is not sent.
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
	require.Equal(t, []string{"authorize"}, a.Header["Preflight-Refusal"], "a StatusError cannot choose the code")
}

// The protocol of a tunnel inside a WebSocket is in a separate field.
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

// Server serves each carrier on any net.Conn.
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
			if carrier == preflight.CarrierUpgrade && name == "pipe" { // a pipe has no half-close
				testkit.Carry(t, "x", p, conn)
				client.Close()
				continue
			}
			talk(t, p, conn)
		}
	})
}

// The end of the transport before FINAL_DATA is an error, and so is a reset. Without framing,
// it cannot be distinguished from a clean end.
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

// A proxy may add Preflight-Framing, or echo it although it does not use framing. Even then,
// the application never reads the bytes of a frame, and its data is never parsed as frames.
func TestPeerThatDoesNotFrame(t *testing.T) {
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
			require.Equal(t, strings.Repeat("\x00", 64), string(b), "not even in the part of the buffer that Read does not report")
			_, err = conn.Write([]byte("x"))
			require.Error(t, err)
			require.NoError(t, conn.Close())
		})
	}
}

// The counters count the bytes of the application. Every metric of a tunnel has an attribute
// for its carrier.
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
