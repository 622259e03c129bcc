package interop

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// HAProxy tells the client's address twice: by the PROXY protocol and, if
// there is another proxy in front, by X-Forwarded-For.
func TestHAProxy(t *testing.T) {
	backend := serveTold(t, "127.0.0.1/32", "127.0.0.2/32")
	address := startHAProxy(t, backend)

	t.Run("Client", func(t *testing.T) {
		s := source{"127.0.0.3", []string{"198.51.100.66, 127.0.0.2"}}
		at, local, err := s.tunnel(t.Context(), address)
		require.NoError(t, err)
		require.Equal(t, local, at.remote, "with the port, as only PROXY tells it")
		require.Regexp(t, `^127\.0\.0\.1:`, at.conn)
		require.Equal(t, "198.51.100.66, 127.0.0.2, 127.0.0.3", at.field)
	})
	t.Run("AnotherProxyInFront", func(t *testing.T) {
		s := source{"127.0.0.2", []string{"198.51.100.66, 203.0.113.7"}}
		at, _, err := s.tunnel(t.Context(), address)
		require.NoError(t, err)
		require.Equal(t, "203.0.113.7:0", at.remote)
	})
	t.Run("TunnelBehindRequest", func(t *testing.T) {
		s := source{"127.0.0.3", []string{"198.51.100.66"}}
		c, err := s.dialer().Dial("tcp", address)
		require.NoError(t, err)
		bounded(t, c)
		_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: h.example\r\n\r\n")
		require.NoError(t, err)
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		asRequest, err := parseTold(string(readAll(t, answer)))
		require.NoError(t, err)
		require.Equal(t, c.LocalAddr().String(), asRequest.remote)

		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://h.example/tunnel", nil)
		require.NoError(t, err)
		r.Header = s.header()
		tunnel, err := preflight.Client(t.Context(), c, r)
		require.NoError(t, err)
		line, err := bufio.NewReader(tunnel).ReadString('\n')
		require.NoError(t, err)
		asTunnel, err := parseTold(line)
		require.NoError(t, err)
		require.Equal(t, c.LocalAddr().String(), asTunnel.remote)
		require.Equal(t, "198.51.100.66, 127.0.0.3", asTunnel.field)
	})
	t.Run("Handler", func(t *testing.T) {
		for _, ip := range []string{"127.0.0.2", "127.0.0.3"} {
			at, err := source{ip, []string{"198.51.100.66"}}.get(t.Context(), address)
			require.NoError(t, err)
			require.Regexp(t, `^`+ip+`:\d+$`, at.remote, "PROXY's source, and never the field")
			require.Equal(t, "198.51.100.66, "+ip, at.field)
		}
	})
}

// A client that is nobody's proxy is believed nothing, and neither is one behind
// HAProxy that begins like HAProxy.
func TestHAProxySpoofed(t *testing.T) {
	backend := serveTold(t, "127.0.0.1/32", "127.0.0.2/32")
	address := startHAProxy(t, backend)
	const (
		v1      = "PROXY TCP4 198.51.100.66 127.0.0.1 4711 80\r\n"
		v2      = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x42\x7f\x00\x00\x01\x12\x67\x00\x50"
		upgrade = "GET / HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nX-Forwarded-For: 198.51.100.66\r\n\r\n"
	)
	mallory := source{"127.0.0.4", []string{"198.51.100.66"}}

	t.Run("Direct", func(t *testing.T) {
		at, local, err := mallory.tunnel(t.Context(), backend)
		require.NoError(t, err)
		require.Equal(t, told{local, local, "198.51.100.66"}, at)
	})
	for name, header := range map[string]string{"v1": v1, "v2": v2} {
		t.Run("Direct/"+name, func(t *testing.T) {
			c, err := mallory.dialer().Dial("tcp", backend)
			require.NoError(t, err)
			bounded(t, c)
			_, err = io.WriteString(c, header+upgrade)
			require.NoError(t, err)
			r := bufio.NewReader(c)
			line, err := r.ReadString('\n')
			require.NoError(t, err)
			at, err := parseTold(line)
			require.NoError(t, err)
			require.Equal(t, told{c.LocalAddr().String(), c.LocalAddr().String(), "none: a plain connection"}, at)
			// To the server, all of it is bytes of some protocol.
			echoed := make([]byte, len(header+upgrade))
			_, err = io.ReadFull(r, echoed)
			require.NoError(t, err)
			require.Equal(t, header+upgrade, string(echoed))
		})
		t.Run("ThroughHAProxy/"+name, func(t *testing.T) {
			c, err := mallory.dialer().Dial("tcp", address)
			require.NoError(t, err)
			bounded(t, c)
			_, err = io.WriteString(c, header+upgrade)
			require.NoError(t, err)
			answer, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			defer answer.Body.Close()
			require.Equal(t, http.StatusBadRequest, answer.StatusCode)
		})
	}
}

func startHAProxy(t *testing.T, backend string) string {
	t.Helper()
	dir := t.TempDir()
	config, socket := filepath.Join(dir, "haproxy.cfg"), filepath.Join(dir, "s")
	return launch(t, dir, 1, findBinary(t, "haproxy"), func(addresses []string) (args []string) {
		render(t, "haproxy.cfg.tmpl", config, map[string]any{
			"Socket":  socket,
			"Listen":  addresses[0],
			"Backend": backend,
		})
		return []string{"-db", "-f", config}
	}, func() bool {
		// It answers here once all its ports are its own. To connect to them
		// would prove less: someone else may have taken them.
		c, err := net.DialTimeout("unix", socket, time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
		io.WriteString(c, "show info\n")
		answer, _ := io.ReadAll(c)
		return strings.Contains(string(answer), "Pid:")
	}).addresses[0]
}
