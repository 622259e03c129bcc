package kinds_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Empty lines before a request line are skipped (RFC 9112 §2.2). The request
// after them is handled like any other, however its bytes arrive.
func TestListenerSkipsEmptyLines(t *testing.T) {
	const payload = "\r\npayload"
	for _, lines := range []string{"\r\n", "\r\n\r\n"} {
		for _, tt := range []struct {
			name, request string
			want          int
		}{
			{"preflight", testkit.Request(), 101},
			{"ordinary", "GET /one HTTP/1.1\r\nHost: h\r\n\r\n", 200},
			{"refused", "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405},
			{"HEAD", "HEAD / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405},
		} {
			for cut := range len(lines) + 2 {
				t.Run(fmt.Sprintf("%d before %s, cut at %d", len(lines)/2, tt.name, cut), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n := testkit.NewNetwork()
						accepted := testkit.AcceptAll(t, testkit.Listen(t, &preflight.PreflightListener{Listener: n, Handler: testkit.ServedHandler}))
						c := n.Dial(t)
						sent := lines + tt.request + payload
						c.Send(t, sent[:cut])
						synctest.Wait()
						require.Empty(t, accepted)
						go c.Send(t, sent[cut:])
						if tt.want != 101 && tt.want != 200 {
							a := c.Refused(t, tt.request)
							require.Equal(t, tt.want, a.StatusCode)
							require.Empty(t, accepted)
							return
						}
						a := c.Answer("GET")
						require.NoError(t, a.Err)
						require.Equal(t, tt.want, a.StatusCode)
						if tt.want == 200 {
							require.Equal(t, "/one", a.Header.Get("Path"))
							return
						}
						conn := <-accepted
						require.NotNil(t, conn.Request())
						testkit.Skip(t, conn, payload)
						testkit.Talk(t, c, conn)
					})
				})
			}
		}
	}
}

// If plain connections are refused, the listener waits for the rest of a line
// that may still be HTTP. So the proxy that sent it gets an answer with the
// reason.
func TestListenerRefusesDoubtfulLines(t *testing.T) {
	const rest = "\r\nHost: h\r\n\r\nDEL all\r\n"
	for _, tt := range []struct {
		first, then string
		want        int // 0: closed without an answer
		at          time.Duration
	}{
		{"POST /a b", " HTTP/1.1" + rest, 400, 0},
		{"PO(ST", " / HTTP/1.1" + rest, 400, 0},
		{"PROXY UNKNOWN\r\n", "GET / HTTP/1.1" + rest, 400, 0},
		{"PRI * HTTP/2.0", rest, 400, 0},
		{"PROXY UNKNOWN\r\n", "EHLO x\r\n", 0, 0},
		{"PRI * HTTP/2.0\r\n", "\r\nSM\r\n\r\n", 0, 0},
		{"POST /a b", "\r\n", 0, 0},
		{"{", "", 0, 10 * time.Second},
		{"POST /a ", strings.Repeat("b", 16<<10), 0, 0},
	} {
		t.Run(tt.first+tt.then[:min(len(tt.then), 10)], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				accepted := testkit.AcceptAll(t, testkit.Listen(t, &preflight.PreflightListener{Listener: n, RequireUpgrade: true}))
				c := n.Dial(t)
				start := time.Now()
				c.Send(t, tt.first)
				synctest.Wait()
				require.False(t, c.Server.Closed.Load())
				go io.WriteString(c, tt.then) // the connection may be closed in the meantime
				if tt.want == 0 {
					c.Ended(t)
					require.Equal(t, tt.at, time.Since(start))
				} else {
					require.Equal(t, tt.want, c.Refused(t, "POST").StatusCode)
				}
				require.Empty(t, accepted)
			})
		})
	}
}
