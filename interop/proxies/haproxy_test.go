package proxies

import (
	"bufio"
	"io"
	"net/http"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

const haproxyV2File = "haproxy/haproxy-proxy-protocol.cfg"

var haproxy = proxy{
	name:  "haproxy",
	file:  lab.HAProxyFile,
	start: lab.StartHAProxy(lab.HAProxyFile),
	idle:  haproxyIdle,
	outcomes: map[string]string{
		"Down":              "503",
		"upgrade/HalfClose": "only by the client",
		"upgrade/Idle":      "EOF, reset at the server",
		"Misconfigured":     notApplicable, // a tunnel needs no line of its own
		// It removes the upgrade from a request with a body.
		"OrdinaryHTTP": "426 426 426 426 426",
	},
}

var haproxyV2 = proxy{
	name:  "haproxy-proxy-v2",
	file:  haproxyV2File,
	start: lab.StartHAProxy(haproxyV2File),
	idle:  haproxyIdle,
	outcomes: map[string]string{
		"Client":            "yes, with the port",
		"Down":              "503",
		"upgrade/HalfClose": "only by the client",
		"upgrade/Idle":      "EOF, reset at the server",
		"Misconfigured":     notApplicable, // a tunnel needs no line of its own
		// It removes the upgrade from a request with a body.
		"OrdinaryHTTP": "426 426 426 426 426",
	},
}

var haproxyIdle = []string{"timeout tunnel 1h", "timeout tunnel 1s"}

// TestPROXYHeader has HAProxy report the client's address twice: by the PROXY
// protocol, and by X-Forwarded-For, which also holds what a proxy in front reported.
func TestPROXYHeader(t *testing.T) {
	backend := serveClientInfo(t, "127.0.0.1/32", "127.0.0.2/32")
	address := startHAProxyForwardFor(t, backend)

	t.Run("Client", func(t *testing.T) {
		s := spoofingClient{"127.0.0.3", []string{"198.51.100.66, 127.0.0.2"}}
		at, local, err := s.tunnel(t.Context(), address)
		require.NoError(t, err)
		require.Equal(t, local, at.remoteAddr, "with the port, which only the PROXY header has")
		require.Regexp(t, `^127\.0\.0\.1:`, at.peerAddr)
		require.Equal(t, "198.51.100.66, 127.0.0.2, 127.0.0.3", at.forwardedFor)
	})
	t.Run("AnotherProxyInFront", func(t *testing.T) {
		s := spoofingClient{"127.0.0.2", []string{"198.51.100.66, 203.0.113.7"}}
		at, _, err := s.tunnel(t.Context(), address)
		require.NoError(t, err)
		require.Equal(t, "203.0.113.7:0", at.remoteAddr)
	})
	t.Run("TunnelBehindRequest", func(t *testing.T) {
		s := spoofingClient{"127.0.0.3", []string{"198.51.100.66"}}
		c, err := s.dialer().Dial("tcp", address)
		require.NoError(t, err)
		lab.WithDeadline(t, c)
		_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: h.example\r\n\r\n")
		require.NoError(t, err)
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		asRequest, err := parseClientInfo(string(lab.ReadBody(t, answer)))
		require.NoError(t, err)
		require.Equal(t, c.LocalAddr().String(), asRequest.remoteAddr)

		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://h.example/tunnel", nil)
		require.NoError(t, err)
		r.Header = s.header()
		tunnel, err := preflight.Client(t.Context(), c, r)
		require.NoError(t, err)
		line, err := bufio.NewReader(tunnel).ReadString('\n')
		require.NoError(t, err)
		asTunnel, err := parseClientInfo(line)
		require.NoError(t, err)
		require.Equal(t, c.LocalAddr().String(), asTunnel.remoteAddr)
		require.Equal(t, "198.51.100.66, 127.0.0.3", asTunnel.forwardedFor)
	})
	t.Run("Handler", func(t *testing.T) {
		for _, ip := range []string{"127.0.0.2", "127.0.0.3"} {
			at, err := spoofingClient{ip, []string{"198.51.100.66"}}.get(t.Context(), address)
			require.NoError(t, err)
			require.Regexp(t, `^`+ip+`:\d+$`, at.remoteAddr, "the source of the PROXY header, never the field")
			require.Equal(t, "198.51.100.66, "+ip, at.forwardedFor)
		}
	})
}

// TestPROXYHeaderSpoofed shows that nothing trusts an untrusted client that sends a
// PROXY header: neither the server, nor HAProxy in front of it.
func TestPROXYHeaderSpoofed(t *testing.T) {
	backend := serveClientInfo(t, "127.0.0.1/32", "127.0.0.2/32")
	address := startHAProxyForwardFor(t, backend)
	const (
		v1      = "PROXY TCP4 198.51.100.66 127.0.0.1 4711 80\r\n"
		v2      = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x42\x7f\x00\x00\x01\x12\x67\x00\x50"
		upgrade = "GET / HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nX-Forwarded-For: 198.51.100.66\r\n\r\n"
	)
	mallory := spoofingClient{"127.0.0.4", []string{"198.51.100.66"}}

	t.Run("Direct", func(t *testing.T) {
		at, local, err := mallory.tunnel(t.Context(), backend)
		require.NoError(t, err)
		require.Equal(t, clientInfo{local, local, "198.51.100.66"}, at)
	})
	for name, header := range map[string]string{"v1": v1, "v2": v2} {
		t.Run("Direct/"+name, func(t *testing.T) {
			c, err := mallory.dialer().Dial("tcp", backend)
			require.NoError(t, err)
			lab.WithDeadline(t, c)
			_, err = io.WriteString(c, header+upgrade)
			require.NoError(t, err)
			r := bufio.NewReader(c)
			answer, err := http.ReadResponse(r, nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusBadRequest, answer.StatusCode)
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			require.Contains(t, string(body), "a PROXY header stands before the request")
		})
		t.Run("Direct/"+name+"/plain", func(t *testing.T) {
			c, err := mallory.dialer().Dial("tcp", backend)
			require.NoError(t, err)
			lab.WithDeadline(t, c)
			_, err = io.WriteString(c, header+"QUIT\r\n")
			require.NoError(t, err)
			r := bufio.NewReader(c)
			line, err := r.ReadString('\n')
			require.NoError(t, err)
			at, err := parseClientInfo(line)
			require.NoError(t, err)
			require.Equal(t, clientInfo{c.LocalAddr().String(), c.LocalAddr().String(), "none: a plain connection"}, at)
			// To the server, all of it is data of a plain connection.
			echoed := make([]byte, len(header+"QUIT\r\n"))
			_, err = io.ReadFull(r, echoed)
			require.NoError(t, err)
			require.Equal(t, header+"QUIT\r\n", string(echoed))
		})
		t.Run("ThroughHAProxy/"+name, func(t *testing.T) {
			c, err := mallory.dialer().Dial("tcp", address)
			require.NoError(t, err)
			lab.WithDeadline(t, c)
			_, err = io.WriteString(c, header+upgrade)
			require.NoError(t, err)
			answer, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			defer answer.Body.Close()
			require.Equal(t, http.StatusBadRequest, answer.StatusCode)
		})
	}
}

// startHAProxyForwardFor runs HAProxy for all paths, with X-Forwarded-For and the PROXY
// header.
func startHAProxyForwardFor(t *testing.T, backend string) string {
	t.Helper()
	return lab.StartHAProxy(haproxyV2File)(t, backend,
		"http-request return status 404 if !tunnel", "option forwardfor").Plain.Address
}
