package listener_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// However small MaxHeaderBytes is, the layers below a head are recognised. The
// limit does not apply to a ClientHello. A longer PROXY header ends its
// connection, and is never delivered as data of the client.
func TestSmallMaxHeaderBytes(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	hello := string(testkit.ClientHello(t, client))
	v1, v2, local := string(testkit.ProxyHeader(t, 1, testkit.Source)), string(testkit.ProxyHeader(t, 2, testkit.Source)), testkit.ProxyV2Bytes(0x20, 0, 0, "")
	for _, most := range []int{1, 2, 5, 6, 15, 16, 17, 28, 42, 107} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			l := testkit.Listen(t, &preflight.PreflightListener{
				MaxHeaderBytes: most, TLSConfig: server, TrustedProxies: testkit.Prefixes("127.0.0.0/8"), HandshakeTimeout: time.Hour,
			})
			accepted := testkit.AcceptAll(t, l)
			for name, header := range map[string]string{"nothing": "", "v1": v1, "v2": v2, "LOCAL": local} {
				t.Run(name, func(t *testing.T) {
					fits := len(header) <= most
					peer := func(c net.Conn) string {
						if name == "nothing" || name == "LOCAL" {
							return c.LocalAddr().String()
						}
						return testkit.Source.String()
					}

					// After the header there is a plain client, or one with
					// TLS.
					c := testkit.DialClient(t, l)
					c.Send(t, header+"\x00plain")
					if !fits {
						require.Empty(t, testkit.ReadToEnd(t, c.R))
						c = testkit.DialClient(t, l)
						c.Send(t, header+hello)
						require.Empty(t, testkit.ReadToEnd(t, c.R))
						return
					}
					conn := testkit.NextConn(t, accepted)
					require.Equal(t, peer(c), conn.RemoteAddr().String())
					testkit.Skip(t, conn, "\x00plain")

					c = testkit.DialClient(t, l)
					remote := peer(c)
					c.Send(t, header)
					c = testkit.Secure(t, c, client)
					c.Send(t, "\x00secret")
					conn = testkit.NextConn(t, accepted)
					require.Equal(t, remote, conn.RemoteAddr().String())
					testkit.Skip(t, conn, "\x00secret")
					testkit.Talk(t, c, conn)
				})
			}
			// These bytes begin like one of the layers, but are none.
			for _, sent := range []string{"PROXX ", "\r\n\r\n\x00\r\nQUIT!", "\x16\x03\x01\x00\x05\x02"} {
				c := testkit.DialClient(t, l)
				c.Send(t, sent)
				require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
				conn := testkit.NextConn(t, accepted)
				require.Equal(t, c.LocalAddr().String(), conn.RemoteAddr().String())
				testkit.Skip(t, conn, sent)
			}
			if most < 107 {
				// The buffer that recognises the layers does not allow longer
				// heads.
				if most >= 5 { // from 5 bytes on, the path shows that the line is HTTP
					tooLong := 414
					if most > len("GET /t HTTP/1.1\r") {
						tooLong = 431
					}
					require.Equal(t, tooLong, testkit.Refused(t, l, testkit.Request()).StatusCode)
				}
				require.Empty(t, accepted)
				return
			}
			c, _ := testkit.Upgraded(t, l, testkit.Request())
			testkit.Talk(t, c, testkit.NextConn(t, accepted))
		})
	}
}
