package carriers_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// receipt requires the fields that every refusal must have.
func receipt(t testing.TB, a testkit.Answer, code string, status int, carriers string) {
	t.Helper()
	require.Equal(t, status, a.StatusCode, "%s\n%s", code, a.Raw)
	require.Equal(t, []string{code}, a.Header["Preflight-Refusal"], a.Raw)
	require.Equal(t, []string{carriers}, a.Header["Preflight-Carriers"])
	connection := strings.Join(testkit.ConnectionFields(a.Raw), ", ")
	if status == http.StatusUpgradeRequired {
		require.Equal(t, "close, Upgrade", connection)
		require.Len(t, a.Header["Upgrade"], 1)
	} else {
		require.Equal(t, "close", connection)
		require.Empty(t, a.Header["Upgrade"])
	}
	require.Equal(t, status == http.StatusUpgradeRequired && code == "websocket", a.Header.Get("Sec-WebSocket-Version") == "13")
	require.Equal(t, status == http.StatusMethodNotAllowed, a.Header.Get("Allow") == "GET")
}

const (
	everyCarrier = "upgrade, framed, websocket"
	ends         = "\r\n"
)

// TestReceiptsInOrder begins with a request for a tunnel that breaks all rules, and fixes one
// fault after the other. On each way to the listener, the refusal is that of the first rule
// that is still broken. Handler receives none of these requests.
func TestReceiptsInOrder(t *testing.T) {
	l := &preflight.PreflightListener{
		Protocols:      []string{"tcp"},
		Carriers:       []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierWebSocket},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		AllowedOrigins: []string{"https://app.example"},
		Handler:        testkit.ReportHandler,
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.Header.Get("Authorization") == "" {
				return nil, &preflight.StatusError{StatusCode: http.StatusUnauthorized}
			}
			return nil, nil
		},
	}
	accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
	type step struct {
		code     string
		status   int
		old, new string // the replacement that fixes the fault
	}
	for name, test := range map[string]struct {
		request string
		steps   []step
	}{
		"a proxy removed Upgrade": {"GET /t HTTP/1.1\r\nHost: h\r\nPreflight-Carriers: upgrade\r\n", []step{{code: "no-upgrade", status: 426}}},
		"it left the framing":     {"GET /t HTTP/1.1\r\nHost: h\r\nPreflight-Framing: capsule\r\n", []step{{code: "no-upgrade", status: 426}}},
		"upgrade": {"POST /t HTTP/1.1\r\nHost: h\r\nUpgrade: tcp\r\nContent-Length: 1\r\nExpect: x\r\nPreflight-Tunnel: TLS\r\n" +
			"Preflight-Framing: capsule, x\r\nOrigin: https://evil.example\r\nX-Forwarded-For: somebody\r\n", []step{
			{"head", 400, ": TLS", ": tls"},
			{"head", 400, "capsule, x", "capsule"},
			{"method", 405, "POST", "GET"},
			{"body", 400, "Content-Length: 1", "Content-Length: 0"},
			{"expect", 417, "Expect: x", "Expect: 100-continue"},
			{"no-connection", 426, "Host: h", "Host: h\r\nConnection: x, upgrade"},
			{"carrier", 426, "Preflight-Framing: capsule", "Preflight-Carriers: upgrade"},
			{"tunnel-tls", 426, "Preflight-Tunnel: tls", "X: y"},
			{"origin", 403, "https://evil.example", "https://app.example"},
			{"request", 400, "somebody", "192.0.2.1"},
			{"authorize", 401, "", ""},
		}},
		"websocket": {"PUT /t HTTP/1.1\r\nHost: h\r\nTrailer: X\r\nExpect: x\r\nPreflight-Carriers: websocket\r\nPreflight-Protocol: a, b\r\n" +
			"X-Upgrade: y\r\nOrigin: null\r\nX-Forwarded-For: [\r\n", []step{
			{"method", 405, "PUT", "GET"},
			{"body", 400, "Trailer: X", "Trailers: X"},
			{"expect", 417, "Expect: x", "Expected: x"},
			{"no-upgrade", 426, "X-Upgrade: y", "Upgrade: websocket"},
			{"head", 400, ": a, b", ": other"}, // checked only after Upgrade says websocket
			{"no-connection", 426, "Host: h", "Host: h\r\nConnection: upgrade"},
			{"websocket", 426, "Host: h", "Host: h\r\nSec-WebSocket-Version: 13"},
			{"websocket", 400, "Host: h", "Host: h\r\nSec-WebSocket-Key: " + sampleKey},
			{"subprotocol", 400, "Host: h", "Host: h\r\nSec-WebSocket-Protocol: preflight.v1"},
			{"protocol", 426, ": other", ": tcp"},
			{"origin", 403, "null", "https://app.example"},
			{"request", 400, "[", "192.0.2.1"},
			{"authorize", 401, "", ""},
		}},
	} {
		for _, way := range testkit.Ways(t, l) {
			t.Run(name+"/"+way.Name, func(t *testing.T) {
				request := test.request
				ours := way.Name == "as the first"
				if !ours { // net/http itself answers an unknown expectation
					request = strings.Replace(request, "Expect: x\r\n", "", 1)
				}
				for _, step := range test.steps {
					if step.code == "expect" && !ours {
						continue
					}
					c := way.Dial(t)
					c.Send(t, request+ends)
					receipt(t, c.Refused(t, request), step.code, step.status, "upgrade, websocket")
					request = strings.Replace(request, step.old, step.new, 1)
				}
				require.Empty(t, accepted)
			})
		}
	}
}

// The refusals that TestReceiptsInOrder does not cover: malformed heads, ordinary requests,
// other versions, and errors of Authorize.
func TestReceiptsOfOthers(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: h\r\n"
	server, _ := testkit.TLSConfigs(t)
	for name, test := range map[string]struct {
		l       *preflight.PreflightListener
		request string
		code    string
		status  int
	}{
		"head":                             {nil, get + "X : y\r\n\r\n", "head", 400},
		"two lengths":                      {nil, get + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "head", 400},
		"no Host":                          {nil, "GET / HTTP/1.1\r\nUpgrade: tcp\r\n\r\n", "head", 400},
		"the head before the version":      {nil, "GET / HTTP/1.2\r\nX : y\r\n\r\n", "head", 400},
		"too large":                        {nil, get + "X: " + strings.Repeat("y", 16<<10), "too-large", 431},
		"too large inside its first line":  {nil, "GET /" + strings.Repeat("y", 16<<10), "too-large", 414},
		"ordinary":                         {nil, get + "\r\n", "no-upgrade", 426},
		"ordinary, HTTP/1.0":               {nil, "GET / HTTP/1.0\r\nUpgrade: x\r\n\r\n", "http10", 426},
		"ordinary, HTTP/2.0":               {nil, "GET / HTTP/2.0\r\n\r\n", "http2", 505},
		"ordinary, another Upgrade":        {nil, get + "Upgrade: h2c\r\n\r\n", "protocol", 426},
		"ordinary, another WebSocket":      {nil, get + "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n", "protocol", 426},
		"for a tunnel, HTTP/1.0":           {nil, "GET / HTTP/1.0\r\nUpgrade: tcp\r\nPreflight-Carriers: upgrade\r\n\r\n", "http10", 426},
		"for a tunnel, HTTP/1.0, no token": {nil, "GET / HTTP/1.0\r\nPreflight-Carriers: upgrade\r\n\r\n", "http10", 426},
		"for a tunnel, HTTP/1.2":           {nil, "GET / HTTP/1.2\r\nUpgrade: tcp\r\n\r\n", "http2", 505},
		"of a proxy header":                {nil, "PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n" + testkit.Request(), "proxy-header", 400},
		"a panic": {&preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) { panic("x") }},
			testkit.Request(), "internal", 500},
		"an error": {&preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) { return nil, io.EOF }},
			testkit.Request(), "authorize", 403},
		"TLS inside, malformed": {&preflight.PreflightListener{TLSConfig: server}, testkit.Request("Preflight-Tunnel:"), "head", 400},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.CaptureLog(t)
			l := test.l
			if l == nil {
				l = new(preflight.PreflightListener)
			}
			accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
			receipt(t, testkit.Refused(t, l, test.request), test.code, test.status, everyCarrier)
			require.Empty(t, accepted)
		})
	}
}

// The listener recognizes that a malformed head asks for a tunnel, and refuses it itself. It
// does not pass the head to net/http.
func TestMalformedHeadForATunnel(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Handler: testkit.ReportHandler})
	accepted := testkit.AcceptAll(t, l)
	for _, field := range []string{"Preflight-Carriers: x", "Preflight-Framing: capsule", "Sec-WebSocket-Protocol: preflight.v1"} {
		receipt(t, testkit.Refused(t, l, "GET / HTTP/1.1\r\nHost: h\r\nX : y\r\n"+field+"\r\n\r\n"), "head", 400, everyCarrier)
	}
	require.Empty(t, accepted)
}

// A request for a tunnel over HTTP/2 is refused, because HTTP/2 has no upgrade.
func TestReceiptOverHTTP2(t *testing.T) {
	for _, handler := range []http.Handler{nil, testkit.ReportHandler} {
		l := &preflight.PreflightListener{Handler: handler}
		t.Cleanup(func() { l.Close() })
		s := httptest.NewUnstartedServer(l)
		s.EnableHTTP2 = true
		s.StartTLS()
		t.Cleanup(s.Close)
		for field, forTunnel := range map[string]bool{"Preflight-Carriers": true, "Preflight-Framing": true, "X-Other": false} {
			r, err := http.NewRequest("GET", s.URL, nil)
			require.NoError(t, err)
			r.Header.Set(field, "upgrade")
			a, err := s.Client().Do(r)
			require.NoError(t, err)
			a.Body.Close()
			require.Equal(t, 2, a.ProtoMajor)
			if handler != nil && !forTunnel {
				require.Equal(t, http.StatusOK, a.StatusCode)
				continue
			}
			require.Equal(t, http.StatusHTTPVersionNotSupported, a.StatusCode)
			require.Equal(t, []string{"http2"}, a.Header["Preflight-Refusal"])
			require.Equal(t, []string{everyCarrier}, a.Header["Preflight-Carriers"])
			require.Empty(t, a.Header["Upgrade"])
		}
	}
}

// A listener that serves only some carriers lists them, and refuses the others.
func TestCarriers(t *testing.T) {
	tokens := map[preflight.Carrier]string{preflight.CarrierUpgrade: "tcp, tcps", preflight.CarrierFramed: "tcp, tcps", preflight.CarrierWebSocket: "websocket"}
	for _, served := range all {
		l := testkit.Listen(t, &preflight.PreflightListener{Carriers: []preflight.Carrier{served}})
		accepted := testkit.AcceptAll(t, l)
		for _, asked := range all {
			if asked == served {
				talk(t, dial(t, l, asked, "", ""), testkit.NextConn(t, accepted))
				continue
			}
			a := testkit.Refused(t, l, requests[asked]+ends)
			receipt(t, a, "carrier", 426, string(served))
			require.Equal(t, tokens[served], a.Header.Get("Upgrade"))
		}
	}
	// If there are several tokens, the first one that is served is used.
	l := testkit.Listen(t, &preflight.PreflightListener{Carriers: []preflight.Carrier{preflight.CarrierWebSocket}})
	accepted := testkit.AcceptAll(t, l)
	c := testkit.DialTCP(t, l.Addr())
	_, err := io.WriteString(c, strings.Replace(requests[preflight.CarrierWebSocket], "Upgrade: websocket", "Upgrade: tcp, websocket", 1)+ends)
	require.NoError(t, err)
	want := switched[preflight.CarrierWebSocket] + ends
	require.Equal(t, want, testkit.GoldenRead(t, c, len(want)))
	require.Equal(t, preflight.CarrierWebSocket, testkit.NextConn(t, accepted).Carrier())
}

// If the configuration contradicts itself, Accept returns an error that names the field.
func TestConfiguration(t *testing.T) {
	for want, l := range map[string]*preflight.PreflightListener{
		"PreflightListener.Carriers is empty":                      {Carriers: []preflight.Carrier{}},
		`PreflightListener.Carriers holds "tcp"`:                   {Carriers: []preflight.Carrier{"tcp"}},
		`PreflightListener.Carriers holds "framed" more than once`: {Carriers: []preflight.Carrier{"framed", "framed"}},
		"PreflightListener.MaxIdleTimeout is 30s":                  {MaxIdleTimeout: 30e9},
		"PreflightListener.MaxIdleTimeout is negative":             {MaxIdleTimeout: -1},
		"PreflightListener.KeepAlivePeriod is":                     {KeepAlivePeriod: 1 << 62},
		"PreflightListener.KeepAlivePeriod is 20ns":                {KeepAlivePeriod: 20}, // without its unit
		"PreflightListener.MaxIdleTimeout is 60ns":                 {KeepAlivePeriod: -1, MaxIdleTimeout: 60},
		`PreflightListener.AllowedOrigins: the origin "*.a"`:       {AllowedOrigins: []string{"https://a.example", "*.a"}},
		`PreflightListener.Protocols: the protocol "websocket"`:    {Protocols: []string{"websocket"}},
	} {
		_, err := testkit.Listen(t, l).Accept()
		require.ErrorContains(t, err, "preflight: "+want)
	}
	for _, l := range []*preflight.PreflightListener{
		{KeepAlivePeriod: -1, MaxIdleTimeout: 1e9},
		{KeepAlivePeriod: 1e9, MaxIdleTimeout: 2e9},
		{KeepAlivePeriod: 1e6},
		{AllowedOrigins: []string{"*", "null", "https://a.example:8443", "http://*.a.example"}},
	} {
		testkit.AcceptAll(t, testkit.Listen(t, l))
		talk := dial(t, l, preflight.CarrierFramed, "", "")
		talk.bottom.Close()
	}
}

// A listener that shuts down answers "unavailable". This code has its place in the order of
// the checks.
func TestReceiptWhileShuttingDown(t *testing.T) {
	each(t, all, func(t *testing.T, carrier preflight.Carrier) {
		l := testkit.Listen(t, new(preflight.PreflightListener))
		accepted := testkit.AcceptAll(t, l)
		clients := []net.Conn{testkit.DialTCP(t, l.Addr()), testkit.DialTCP(t, l.Addr())}
		for _, c := range clients { // begin their requests before the shutdown
			_, err := io.WriteString(c, "GET")
			require.NoError(t, err)
		}
		held := dial(t, l, preflight.CarrierUpgrade, "", "")
		done := make(chan error, 1)
		go func() { done <- l.Shutdown(t.Context()) }()
		for { // until Shutdown has begun
			if c, err := net.Dial("tcp", l.Addr().String()); err != nil {
				break
			} else {
				c.Close()
			}
		}
		for i, rest := range []string{strings.TrimPrefix(requests[carrier], "GET"), " / HTTP/1.1\r\nHost: h\r\nPreflight-Carriers: x\r\n"} {
			_, err := io.WriteString(clients[i], rest+"Origin: https://evil.example\r\n\r\n")
			require.NoError(t, err)
			client := &testkit.Client{Conn: clients[i], R: bufio.NewReader(clients[i])}
			a := client.Refused(t, "GET")
			receipt(t, a, []string{"unavailable", "no-upgrade"}[i], []int{503, 426}[i], everyCarrier)
			clients[i].Close()
		}
		held.Close()
		for { // the loop above may have opened plain connections that were accepted too
			select {
			case c := <-accepted:
				c.Close()
				continue
			case err := <-done:
				require.NoError(t, err)
			}
			return
		}
	})
}
