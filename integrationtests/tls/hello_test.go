package tls_test

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// fragmentingConn is a TLS client's connection that spreads the ClientHello over
// several records, which crypto/tls never does (RFC 8446 §5.1).
type fragmentingConn struct {
	net.Conn
	cut   func(rest int) int // how many of the remaining bytes are in the next record
	began bool
}

func (c *fragmentingConn) Write(b []byte) (int, error) {
	if c.began {
		return c.Conn.Write(b)
	}
	c.began = true
	var records []byte
	for hello := b[5:]; len(hello) > 0; {
		n := c.cut(len(hello))
		records = binary.BigEndian.AppendUint16(append(records, b[:3]...), uint16(n))
		records = append(records, hello[:n]...)
		hello = hello[n:]
	}
	_, err := c.Conn.Write(records)
	return len(b), err
}

// A ClientHello may be spread over several records, and the records over
// several segments.
func TestClientHelloInFragments(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	size := len(testkit.ClientHello(t, client)) - 5
	inner, accepted := testkit.ListenInner(t, &preflight.PreflightListener{TLSConfig: server, HandshakeTimeout: time.Hour})
	after := func(first int) func(int) int {
		return func(rest int) int {
			if rest == size {
				return first
			}
			return rest
		}
	}
	cuts := map[string]func(int) int{
		"bytes": func(int) int { return 1 },
		"parts": func(rest int) int { return min(rest, 100) },
	}
	for _, first := range []int{1, 2, 3, 4, 5, 6, size / 2, size - 1} {
		cuts[fmt.Sprintf("%d and the rest", first)] = after(first)
	}
	for name, cut := range cuts {
		for how, pieces := range map[string]testkit.Pieces{
			"at once":      testkit.InOnePiece,
			"byte by byte": testkit.ByteByByte,
			"in segments":  func(int) int { return 37 },
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				inner.Pieces.Store(pieces)
				tc := tls.Client(&fragmentingConn{Conn: testkit.DialTCP(t, inner.Addr()), cut: cut}, client)
				require.NoError(t, tc.Handshake())
				c := &testkit.Client{Conn: tc, R: bufio.NewReader(tc)}
				c.Send(t, testkit.Request()+testkit.Payload)
				require.Equal(t, 101, c.Answer("GET").StatusCode)
				conn := testkit.NextConn(t, accepted)
				testkit.Skip(t, conn, testkit.Payload)
				testkit.Talk(t, c, conn)
			})
		}
	}
}

// A ClientHello may be longer than the buffers, and longer than MaxHeaderBytes,
// which applies to heads only. crypto/tls itself spreads the longest one over
// two records.
func TestClientHelloLengths(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	header := testkit.ProxyHeader(t, 2, testkit.Source)
	for _, limit := range []int{0, 200} {
		inner, accepted := testkit.ListenInner(t, &preflight.PreflightListener{
			TLSConfig: server, MaxHeaderBytes: limit, TrustedProxies: testkit.Prefixes("127.0.0.1/32"), HandshakeTimeout: time.Hour,
		})
		for _, tt := range []struct{ protocols, longer int }{
			{0, 200}, {2, 512}, {3, 600}, {20, 4 << 10}, {36, 7 << 10}, {79, 15 << 10}, {80, 16 << 10},
		} {
			config := client.Clone()
			for i := range tt.protocols {
				config.NextProtos = append(config.NextProtos, fmt.Sprintf("%s%d", strings.Repeat("x", 200), i))
			}
			size := len(testkit.ClientHello(t, config))
			require.Greater(t, size, tt.longer)
			for how, pieces := range map[string]testkit.Pieces{
				"at once":     testkit.InOnePiece,
				"in segments": func(int) int { return 1460 },
				"slowly":      func(int) int { return 11 },
			} {
				t.Run(fmt.Sprintf("%d bytes %s, MaxHeaderBytes %d", size, how, limit), func(t *testing.T) {
					inner.Pieces.Store(pieces)
					tc := tls.Client(&testkit.Glue{Conn: testkit.DialTCP(t, inner.Addr()), Held: header}, config)
					require.NoError(t, tc.Handshake())
					c := &testkit.Client{Conn: tc, R: bufio.NewReader(tc)}
					c.Send(t, testkit.Request()+testkit.Payload)
					require.Equal(t, 101, c.Answer("GET").StatusCode)
					conn := testkit.NextConn(t, accepted)
					require.Equal(t, testkit.Source.String(), conn.RemoteAddr().String())
					testkit.Skip(t, conn, testkit.Payload)
				})
			}
		}
	}
}

// almostTLS are bytes that begin like a record with a ClientHello. The last
// byte of decided contradicts it. The bytes of then follow.
var almostTLS = []struct{ name, decided, then string }{
	{"another type", "\x15", "\x03\x01\x00\x02\x02\x28"},
	{"SSLv2", "\x80", "\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"},
	{"another major version", "\x16\x02", "\x01\x00\x05\x01"},
	{"another minor version", "\x16\x03\x05", "\x00\x05\x01"},
	{"text", "\x16\x03G", "ET / HTTP/1.1\r\n\r\n"},
	{"an endless record", "\x16\x03\x01\x41", "\x00\x01"},
	{"a record a byte too long", "\x16\x03\x01\x40\x01", "\x01\x00\x40\x00"},
	{"an empty record", "\x16\x03\x01\x00\x00", "\x01"},
	{"another message", "\x16\x03\x01\x00\x05\x02", "\x00\x00\x01\x00"},
	{"another message behind a long record", "\x16\x03\x03\x40\x00\x00", "hello"},
}

// Bytes that begin like TLS and are not belong to another protocol. Every byte
// is delivered, as soon as the contradiction is known.
func TestAlmostTLS(t *testing.T) {
	server, _ := testkit.NamedTLSConfigs(t)
	for _, tt := range almostTLS {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, TLSConfig: server})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				for i := range tt.decided {
					synctest.Wait()
					require.Empty(t, accepted, "this may still become TLS: %q", tt.decided[:i])
					c.Send(t, tt.decided[i:i+1])
				}
				conn := <-accepted
				require.Zero(t, time.Since(start), "the listener does not wait")
				require.Same(t, c.Server, conn.NetConn())
				testkit.Skip(t, conn, tt.decided)
				testkit.Carry(t, tt.then, c, conn)
				testkit.Talk(t, c, conn)
			})
			for _, refuse := range []bool{false, true} {
				l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server, RequireUpgrade: refuse, HandshakeTimeout: time.Hour})
				accepted := testkit.AcceptAll(t, l)
				c := testkit.DialClient(t, l)
				sent := tt.decided + tt.then + testkit.Payload
				c.Send(t, sent)
				if refuse {
					c.Ended(t)
					require.Empty(t, accepted)
					continue
				}
				require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
				got, err := io.ReadAll(testkit.NextConn(t, accepted))
				require.NoError(t, err)
				require.Equal(t, sent, string(got))
			}
		})
	}
}

// A client that ends or stalls before it is known to speak TLS is plain. A
// client that has begun a ClientHello is a TLS client, and its connection is
// closed.
func TestClientHelloTruncated(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	hello := string(testkit.ClientHello(t, client))
	for _, k := range []int{0, 1, 2, 3, 4, 5, 6, 7, 100, len(hello) - 1} {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server, HandshakeTimeout: time.Hour})
			accepted := testkit.AcceptAll(t, l)
			c := testkit.DialClient(t, l)
			c.Send(t, hello[:k])
			require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
			if k > 5 {
				c.Ended(t)
				require.Empty(t, accepted)
			} else {
				conn := testkit.NextConn(t, accepted)
				got, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.Equal(t, hello[:k], string(got))
				testkit.Carry(t, "an answer", conn, c.R)
			}

			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, TLSConfig: server})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				if k > 0 {
					c.Send(t, hello[:k])
				}
				if k > 5 {
					c.Ended(t)
				} else {
					conn := <-accepted
					testkit.Skip(t, conn, hello[:k])
					testkit.Talk(t, c, conn)
				}
				require.Equal(t, 10*time.Second, time.Since(start))
				require.Empty(t, accepted)
			})
		})
	}
}
