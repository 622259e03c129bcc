package carriers_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// WebSockets of Handler and WebSockets of tunnels can use the same port and path.
func TestWebSocketsOfHandler(t *testing.T) {
	for name, handler := range testkit.WebSocketHandlers {
		t.Run(name, func(t *testing.T) {
			l := &preflight.PreflightListener{Handler: handler, Authorize: func(*http.Request) (http.Header, error) {
				return http.Header{"A": {"tunnel"}}, nil
			}}
			accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
			for _, fields := range []string{"", "Sec-WebSocket-Protocol: mqtt\r\n", "Sec-WebSocket-Protocol: preflight.v2, Preflight.V1\r\n", "Origin: https://evil.example\r\nPreflight-Tunnel: x\r\n"} {
				c := testkit.DialClient(t, l)
				c.Send(t, "GET /t HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+fields+"\r\n")
				a := c.Answer("GET")
				require.NoError(t, a.Err)
				require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
				require.Empty(t, a.Header["A"])
				require.Empty(t, a.Header["Sec-Websocket-Protocol"])
				c.Send(t, "echo")
				require.Equal(t, "echo", testkit.GoldenRead(t, c.R, 4))
				c.Close()
			}
			talk(t, dial(t, l, preflight.CarrierWebSocket, "", "A: tunnel\r\n"), testkit.NextConn(t, accepted))
		})
	}
}

// A listener without protocols passes all requests to Handler, which passes some of them to
// another listener by path.
func TestNoProtocols(t *testing.T) {
	inner := new(preflight.PreflightListener)
	accepted := testkit.AcceptAll(t, inner)
	mux := http.NewServeMux()
	mux.Handle("/t", inner)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("Upgrade"), r.Header.Get("Preflight-Carriers"))
	})
	outer := testkit.Listen(t, &preflight.PreflightListener{Protocols: []string{}, Handler: mux})
	testkit.AcceptAll(t, outer)
	each(t, all, func(t *testing.T, carrier preflight.Carrier) {
		talk(t, dial(t, outer, carrier, "", ""), testkit.NextConn(t, accepted))
		for _, request := range []string{
			"GET /x HTTP/1.1\r\nHost: h\r\nPreflight-Carriers: seen\r\n\r\n",
			"GET /x HTTP/1.1\r\nHost: h\r\nOrigin: https://evil.example\r\nUpgrade: seen\r\nPreflight-Framing:\r\n\r\n",
			"GET /x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: seen\r\nSec-WebSocket-Protocol: preflight.v1\r\n\r\n",
		} {
			c := testkit.DialClient(t, outer)
			c.Send(t, request)
			a := c.Answer("GET")
			require.NoError(t, a.Err)
			require.Equal(t, "seen", a.Text)
			require.Empty(t, a.Header["Preflight-Refusal"])
			c.Close()
		}
	})
}

// The listener skips up to two empty lines before the first request. net/http handles empty
// lines before a later request, whether they arrive with the request before or separately.
func TestEmptyLinesBeforeALaterRequest(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Handler: testkit.ReportHandler})
	testkit.AcceptAll(t, l)
	const post = "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
	for _, together := range []bool{false, true} {
		send := func(requests ...string) *bufio.Reader {
			c := testkit.DialClient(t, l)
			if together {
				for i := range requests[1:] {
					requests[0] += requests[i+1]
				}
				c.Send(t, requests[0])
				return c.R
			}
			c.Send(t, requests[0])
			_, err := c.R.Peek(1) // the answer has begun
			require.NoError(t, err)
			c.Send(t, requests[1])
			return c.R
		}
		status := func(r *bufio.Reader) int {
			a, err := http.ReadResponse(r, nil)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, a.Body)
			require.NoError(t, err)
			return a.StatusCode
		}
		r := send("\r\n\r\n"+testkit.Get, testkit.Get)
		require.Equal(t, []int{200, 200}, []int{status(r), status(r)})
		r = send(post, "\r\n\r\n"+testkit.Get)
		require.Equal(t, []int{200, 200}, []int{status(r), status(r)}, "RFC 9112 §2.2: old clients send an empty line after a POST")
		r = send(testkit.Get, "\r\n"+testkit.Get)
		require.Equal(t, []int{200, 400}, []int{status(r), status(r)})
	}
}
