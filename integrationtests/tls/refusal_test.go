package tls_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A refusal over TLS has one second, like every refusal. This includes the last
// message of TLS, for which crypto/tls would take five seconds.
func TestRefusalOverTLSIsBounded(t *testing.T) {
	server, client := testkit.PipeTLS(t)
	const ordinary = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
	for _, tt := range []struct {
		name   string
		below  bool   // TLS is below the listener
		mount  bool   // the request comes through ServeHTTP
		sent   string // the request, which is refused
		reads  bool   // the client reads the answer; it never reads the end
		drains bool   // the client sends more, which is discarded
	}{
		{name: "426, read", sent: ordinary, reads: true},
		{name: "426, not read", sent: ordinary},
		{name: "426, read, and there is a body", sent: ordinary, reads: true, drains: true},
		{name: "400", sent: "GET / HTTP/1.1\r\nHost : h\r\n\r\n", reads: true},
		{name: "403, read", sent: testkit.Request(), reads: true},
		{name: "403, not read", sent: testkit.Request()},
		{name: "403 underneath, read", below: true, sent: testkit.Request(), reads: true},
		{name: "403 underneath, not read", below: true, sent: testkit.Request()},
		{name: "403 by ServeHTTP, read", mount: true, sent: testkit.Request(), reads: true},
		{name: "403 by ServeHTTP, not read", mount: true, sent: testkit.Request()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := &preflight.PreflightListener{
					Listener:  n,
					Authorize: func(*http.Request) (http.Header, error) { return nil, testkit.ErrOther },
				}
				switch {
				case tt.below:
					l.Listener = tls.NewListener(n, server)
				case tt.mount:
					l.Listener = testkit.NewNetwork()
					s := &http.Server{Handler: l}
					go s.Serve(tls.NewListener(n, server))
					t.Cleanup(func() { s.Close() })
				default:
					l.TLSConfig = server
				}
				accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
				c := n.Dial(t)
				tc := tls.Client(c.Conn, client)
				require.NoError(t, tc.Handshake())
				_, err := io.WriteString(tc, tt.sent)
				require.NoError(t, err)
				start := time.Now()
				if tt.reads {
					status, err := bufio.NewReader(tc).ReadString('\n')
					require.NoError(t, err)
					require.Contains(t, status, "HTTP/1.1 4")
				}
				if tt.drains {
					go io.WriteString(tc, "a body that is not read")
				}
				time.Sleep(time.Second - 1)
				synctest.Wait()
				require.False(t, c.Server.Closed.Load(), "the client has a second to read it")
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.True(t, c.Server.Closed.Load())
				require.Equal(t, time.Second, time.Since(start))
				require.Empty(t, accepted)
			})
		})
	}
}
