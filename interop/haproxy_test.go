package interop

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

const (
	haproxyFile   = "haproxy/haproxy.cfg"
	haproxyV2File = "haproxy/haproxy-proxy-protocol.cfg"
)

var (
	haproxy = proxy{
		name:  "haproxy",
		file:  haproxyFile,
		start: startHAProxy(haproxyFile),
		idle:  haproxyIdle,
		outcomes: map[string]string{
			"Down":          "503",
			"HalfClose":     "the client's alone",
			"Idle":          "EOF, reset at the server",
			"Misconfigured": none,
			// It takes the upgrade out of a request with a body.
			"OrdinaryHTTP": "426 426 426 426 426",
		},
	}
	haproxyV2 = proxy{
		name:  "haproxy-proxy-v2",
		file:  haproxyV2File,
		start: startHAProxy(haproxyV2File),
		idle:  haproxyIdle,
		outcomes: map[string]string{
			"Client":        "yes, with the port",
			"Down":          "503",
			"HalfClose":     "the client's alone",
			"Idle":          "EOF, reset at the server",
			"Misconfigured": none,
			// It takes the upgrade out of a request with a body.
			"OrdinaryHTTP": "426 426 426 426 426",
		},
	}
	haproxyIdle = []string{"timeout tunnel 1h", "timeout tunnel 1s"}
)

// HAProxy tells the client's address twice: by the PROXY protocol and, if
// there is another proxy in front, by X-Forwarded-For.
func TestPROXYHeader(t *testing.T) {
	backend := serveTold(t, "127.0.0.1/32", "127.0.0.2/32")
	address := startHAProxyTold(t, backend)

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
func TestPROXYHeaderSpoofed(t *testing.T) {
	backend := serveTold(t, "127.0.0.1/32", "127.0.0.2/32")
	address := startHAProxyTold(t, backend)
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
			bounded(t, c)
			_, err = io.WriteString(c, header+"QUIT\r\n")
			require.NoError(t, err)
			r := bufio.NewReader(c)
			line, err := r.ReadString('\n')
			require.NoError(t, err)
			at, err := parseTold(line)
			require.NoError(t, err)
			require.Equal(t, told{c.LocalAddr().String(), c.LocalAddr().String(), "none: a plain connection"}, at)
			// To the server, all of it is bytes of some protocol.
			echoed := make([]byte, len(header+"QUIT\r\n"))
			_, err = io.ReadFull(r, echoed)
			require.NoError(t, err)
			require.Equal(t, header+"QUIT\r\n", string(echoed))
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

// startHAProxyTold runs it with the field and the PROXY header, on all paths.
func startHAProxyTold(t *testing.T, backend string) string {
	t.Helper()
	return startHAProxy(haproxyV2File)(t, backend,
		"http-request return status 404 if !tunnel", "option forwardfor").plain.address
}

// startHAProxy runs HAProxy with a file of deploy/.
func startHAProxy(file string) func(t *testing.T, backend string, edits ...string) *running {
	return func(t *testing.T, backend string, edits ...string) *running {
		t.Helper()
		dir := t.TempDir()
		roots := writeCertificate(t, dir)
		configure := func(addresses []string, backend string) {
			write(t, dir, "haproxy.cfg", deployed(t, file, slices.Concat(edits, []string{
				"bind :80", "bind " + addresses[0],
				"bind :443", "bind " + addresses[1],
				"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "tls.crt"),
				"127.0.0.1:9007", backend,
			})...))
		}
		for from, to := range map[string]string{"cert.pem": "tls.crt", "key.pem": "tls.key"} {
			require.NoError(t, os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)))
		}
		socket := filepath.Join(dir, "s")
		d := launch(t, dir, 2, findBinary(t, "haproxy"), func(addresses []string) (args []string) {
			configure(addresses, backend)
			// In the foreground, with a master process that can be told to
			// reload, and to which one can talk.
			return []string{"-W", "-db", "-S", socket, "-f", filepath.Join(dir, "haproxy.cfg")}
		}, func() bool {
			// There is a worker once all ports are HAProxy's own. To connect to
			// them would prove less: someone else may have taken them.
			return strings.Contains(haproxyTold(socket, "@1 show info"), "Pid:")
		})
		return &running{
			plain: front{address: d.addresses[0]},
			tls:   front{address: d.addresses[1], roots: roots},
			reload: func(backend string) {
				configure(d.addresses, backend)
				haproxyTold(socket, "reload")
			},
			stats: func() string { return haproxyTold(socket, "@1 show stat") },
		}
	}
}

// haproxyTold gives a command to the master process at socket, and returns the
// answer: nothing, if it does not listen yet.
func haproxyTold(socket, command string) string {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	io.WriteString(c, command+"\n")
	answer, _ := io.ReadAll(c)
	return string(answer)
}
