package fall_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
)

// serveEcho echoes on the connections that l accepts, including half-closes.
func serveEcho(t testing.TB, l *preflight.PreflightListener) {
	t.Helper()
	testkit.Listen(t, l)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
				c.(*preflight.Conn).CloseWrite()
				io.Copy(io.Discard, c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// TestListener: every carrier to a listener of this package, with every combination of layers.
func TestListener(t *testing.T) {
	server := testkit.NewIdentity(t)
	forward := newForwardProxy(t)
	for _, carrier := range all {
		for name, outside := range map[string]bool{"": false, "TLS outside ": true} {
			for inName, inside := range map[string]bool{"": false, "TLS inside ": true} {
				for via, proxy := range map[string]func(*http.Request) (*url.URL, error){"": nil, "forward proxy": testkit.Via("http://" + forward)} {
					t.Run(string(carrier)+" "+name+inName+via, func(t *testing.T) {
						l := &preflight.PreflightListener{TLSConfig: server.Config, Protocols: []string{"tcp", "nats"}}
						serveEcho(t, l)
						d := preflight.PreflightDialer{Carriers: []preflight.Carrier{carrier}, Proxy: proxy, Host: "edge.example", Protocol: "nats"}
						if outside {
							d.TLSConfig = server.Client()
						}
						if inside {
							d.TunnelTLSConfig = server.Client()
						}
						for range 2 {
							c, err := d.Dial("tcp", l.Addr().String())
							require.NoError(t, err)
							conn := c.(*preflight.Conn)
							_, isTLS := conn.NetConn().(*tls.Conn)
							require.Equal(t, inside || outside && carrier == upgradeOnly, isTLS)
							protocol := conn.Response().Header.Get("Upgrade")
							if carrier == webSocket {
								protocol = conn.Response().Header.Get("Preflight-Protocol")
							}
							require.Equal(t, "nats", protocol)
							ping(t, c, err, carrier)
						}
					})
				}
			}
		}
	}
}

// newForwardProxy starts a CONNECT proxy.
func newForwardProxy(t testing.TB) (address string) {
	t.Helper()
	return relay(t, "", func(head string) (string, string) {
		_, authority, _ := strings.Cut(head, "CONNECT ")
		authority, _, _ = strings.Cut(authority, " ")
		return authority, ""
	}, nil)
}

// TestNet: the tunnels of each carrier fulfil the contract of net.Conn.
func TestNet(t *testing.T) {
	for _, carrier := range all {
		t.Run(string(carrier), func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t)}
				accepted := make(chan net.Conn, 1)
				go func() {
					c, err := l.Accept()
					if err != nil {
						close(accepted)
						return
					}
					accepted <- c
				}()
				d := preflight.PreflightDialer{Carriers: []preflight.Carrier{carrier}}
				if c1, err = d.Dial("tcp", l.Addr().String()); err != nil {
					return nil, nil, nil, err
				}
				if c2 = <-accepted; c2 == nil {
					return nil, nil, nil, errors.New("not accepted")
				}
				return c1, c2, func() { c1.Close(); c2.Close(); l.Close() }, nil
			})
		})
	}
}

// TestServes: a dialer falls back to a carrier that the listener serves. If there is none, the
// error says so.
func TestServes(t *testing.T) {
	for _, carrier := range all {
		l := &preflight.PreflightListener{Carriers: []preflight.Carrier{carrier}}
		serveEcho(t, l)
		c, err := (&preflight.PreflightDialer{Carriers: all}).Dial("tcp", l.Addr().String())
		ping(t, c, err, carrier)
		for _, other := range all {
			if other == carrier {
				continue
			}
			_, err := (&preflight.PreflightDialer{Carriers: []preflight.Carrier{other}}).Dial("tcp", l.Addr().String())
			refused := testkit.StatusError(t, err)
			require.Equal(t, 426, refused.StatusCode)
			require.Equal(t, "carrier", refused.Reason)
			require.Equal(t, string(carrier), refused.Header.Get("Preflight-Carriers"))
			require.ErrorContains(t, err, "PreflightListener.Carriers")
		}
	}
}

// TestAuthorize: after a refusal by Authorize, the dialer tries no other carrier, whatever the
// status is. After a 401 it tries again with fresh fields.
func TestAuthorize(t *testing.T) {
	var asked atomic.Int64
	l := &preflight.PreflightListener{Authorize: func(r *http.Request) (http.Header, error) {
		asked.Add(1)
		switch r.Header.Get("Authorization") {
		case "good":
			return nil, nil
		case "stale":
			return nil, &preflight.StatusError{StatusCode: 401}
		}
		return nil, &preflight.StatusError{StatusCode: 404}
	}}
	serveEcho(t, l)
	for _, carrier := range all {
		d := preflight.PreflightDialer{Carriers: []preflight.Carrier{carrier}, GetHeader: func(_ context.Context, refused *preflight.StatusError) (http.Header, error) {
			if refused != nil {
				return http.Header{"Authorization": {"good"}}, nil
			}
			return http.Header{"Authorization": {"stale"}}, nil
		}}
		c, err := d.Dial("tcp", l.Addr().String())
		ping(t, c, err, carrier)
	}
	asked.Store(0)
	_, err := new(preflight.PreflightDialer).Dial("tcp", l.Addr().String())
	refused := testkit.StatusError(t, err)
	require.Equal(t, 404, refused.StatusCode)
	require.Equal(t, "authorize", refused.Reason)
	require.EqualValues(t, 1, asked.Load())
}

// TestRefusals: the code and the text of a listener for each fault in a configuration.
func TestRefusals(t *testing.T) {
	l := new(preflight.PreflightListener)
	serveEcho(t, l)
	for reason, test := range map[string]struct {
		d    preflight.PreflightDialer
		text string
	}{
		"protocol":   {preflight.PreflightDialer{Protocol: "other"}, "PreflightListener.Protocols"},
		"tunnel-tls": {preflight.PreflightDialer{TunnelTLSConfig: &tls.Config{ServerName: "h"}}, "PreflightListener.TLSConfig"},
		"origin":     {preflight.PreflightDialer{Header: http.Header{"Origin": {"https://a.example"}}}, "PreflightListener.AllowedOrigins"},
	} {
		for _, carrier := range all {
			test.d.Carriers = []preflight.Carrier{carrier}
			_, err := test.d.Dial("tcp", l.Addr().String())
			require.Equal(t, reason, testkit.StatusError(t, err).Reason, carrier)
			require.ErrorContains(t, err, test.text)
		}
	}
}

// TestDialURL: with ws and wss, the dialer uses only CarrierWebSocket.
func TestDialURL(t *testing.T) {
	server := testkit.NewIdentity(t)
	l := &preflight.PreflightListener{TLSConfig: server.Config}
	serveEcho(t, l)
	address := l.Addr().String()
	c, err := new(preflight.PreflightDialer).DialURL(t.Context(), "ws://"+address+"/p?tcp_nodelay=true")
	require.NoError(t, err)
	require.Equal(t, "/p", c.(*preflight.Conn).Request().RequestURI)
	require.Equal(t, "websocket", c.(*preflight.Conn).Request().Header.Get("Preflight-Carriers"))
	ping(t, c, err, webSocket)
	for _, config := range []*preflight.PreflightDialer{{TLSConfig: server.Client()}, {TLSConfig: server.Client(), Carriers: all}} {
		c, err = config.DialURL(t.Context(), "wss://"+address+"/?sni=edge.example&http_preflight=true")
		ping(t, c, err, webSocket)
	}
	for raw, test := range map[string]struct {
		d    preflight.PreflightDialer
		text string
	}{
		"ws://edge.example/": {preflight.PreflightDialer{TLSConfig: new(tls.Config)}, "the scheme ws is without TLS although TLSConfig is set; use wss"},
		"wss://edge.example": {preflight.PreflightDialer{Carriers: []preflight.Carrier{upgradeOnly}}, "the scheme wss needs CarrierWebSocket, which is not in the field Carriers"},
		"ws://edge.example":  {preflight.PreflightDialer{Path: "/x"}, "the path is that of the URL"},
	} {
		test.d.NetDialer = testkit.DialNever(t)
		_, err := test.d.DialURL(t.Context(), raw)
		require.ErrorContains(t, err, test.text)
	}
}

// TestClient: Client uses framing if its request asks for it. It tries no other carrier.
func TestClient(t *testing.T) {
	l := new(preflight.PreflightListener)
	serveEcho(t, l)
	request := func(fields http.Header) *http.Request {
		return &http.Request{Host: "h", URL: &url.URL{Path: "/"}, Header: fields}
	}
	for name, test := range map[string]struct {
		fields  http.Header
		carrier preflight.Carrier
	}{
		"plain":     {nil, upgradeOnly},
		"framed":    {http.Header{"Preflight-Framing": {"capsule"}}, framed},
		"any case":  {http.Header{"preflight-framing": {" capsule\t"}, "Upgrade": {"tcps"}}, framed},
		"list":      {http.Header{"Preflight-Framing": {"capsule, capsule"}}, framed},
		"two lines": {http.Header{"Preflight-Framing": {"capsule"}, "preflight-framing": {"capsule"}}, framed},
	} {
		t.Run(name, func(t *testing.T) {
			bare := testkit.DialTCP(t, l.Addr())
			req := request(test.fields)
			c, err := preflight.Client(t.Context(), bare, req)
			require.NoError(t, err)
			require.Same(t, req, c.Request())
			ping(t, c, err, test.carrier)
		})
	}
	for text, fields := range map[string]http.Header{
		"may only hold capsule":      {"Preflight-Framing": {"Capsule"}},
		"field of the request may":   {"Preflight-Framing": {""}},
		"Framing field of the":       {"Preflight-Framing": {}},
		"request may only hold":      {"Preflight-Framing": {"capsule", "x"}},
		"is that of WebSocket":       {"Upgrade": {"websocket"}},
		"Preflight-Carriers may not": {"Preflight-Carriers": {"framed"}},
		"Sec-Websocket-Key may not":  {"Sec-Websocket-Key": {"x"}},
	} {
		_, err := preflight.Client(t.Context(), nil, request(fields))
		require.ErrorContains(t, err, text)
	}
	// Preflight-Carriers lists only the carrier of the request, because there is no other.
	e := newEdge(t, func(preflight.Carrier, string) string { return refusal(426, "Preflight-Refusal: carrier\r\n") })
	_, err := preflight.Client(t.Context(), testkit.DialTCP(t, e.Addr()), request(http.Header{"Preflight-Framing": {"capsule"}, "A": {"b"}}))
	require.Equal(t, "carrier", testkit.StatusError(t, err).Reason)
	require.Equal(t, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Framing: capsule\r\nPreflight-Carriers: framed\r\nA: b\r\n\r\n", e.head(0))
}

// TestReverseProxy: the edge is a reverse proxy of net/http that forwards only WebSocket. The
// dialer needs no additional configuration. Its second dial sends only one request.
func TestReverseProxy(t *testing.T) {
	l := new(preflight.PreflightListener)
	serveEcho(t, l)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: l.Addr().String()})
	var refused atomic.Int64
	ln := testkit.ListenTCP(t)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			refused.Add(1)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	d := new(preflight.PreflightDialer)
	for range 5 {
		c, err := d.Dial("tcp", ln.Addr().String())
		ping(t, c, err, webSocket)
	}
	require.EqualValues(t, 1, refused.Load())
}
