package clientaddr_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// socketPair returns a listener with one connection made by socketpair(2), and the
// client's end of that connection.
func socketPair(t *testing.T) (net.Listener, net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		ends[i], err = net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		t.Cleanup(func() { ends[i].Close() })
	}
	n := testkit.NewNetwork()
	n.Backlog <- ends[0]
	return n, ends[1]
}

// socketPath returns a path for a socket. The path of t.TempDir may be too long.
func socketPath(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "unx")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, name)
}

// The peer of a Unix socket is trusted because the permissions of the socket's
// file decide who can connect. An abstract socket has no file, and anyone can
// connect to it. An unnamed socket has no file either.
func TestTrustedProxiesByUnixSocket(t *testing.T) {
	dial := func(l net.Listener) net.Conn {
		c, err := net.Dial("unix", l.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	unix := func(name string) (net.Listener, net.Conn) {
		l, err := net.Listen("unix", name)
		require.NoError(t, err)
		return l, dial(l)
	}
	for _, tt := range []struct {
		name    string
		make    func() (net.Listener, net.Conn)
		trusted bool
	}{
		{"a file", func() (net.Listener, net.Conn) { return unix(socketPath(t, "s")) }, true},
		{"a file whose name begins as that of an abstract socket", func() (net.Listener, net.Conn) {
			return unix(socketPath(t, "@s"))
		}, true},
		{"an abstract socket", func() (net.Listener, net.Conn) { return unix("@" + t.Name()) }, false},
		{"an abstract socket with a name from the kernel", func() (net.Listener, net.Conn) { return unix("") }, false},
		{"no name", func() (net.Listener, net.Conn) { return socketPair(t) }, false},
	} {
		for _, by := range []string{"X-Forwarded-For", "PROXY"} {
			t.Run(tt.name+"/"+by, func(t *testing.T) {
				inner, c := tt.make()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: inner, TrustedProxies: testkit.Prefixes("192.0.2.0/24")})
				accepted := testkit.AcceptAll(t, l)
				client := testkit.Raw(c, nil)
				if by == "PROXY" {
					header := "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n"
					client.Send(t, header+"\x00")
					conn := testkit.NextConn(t, accepted)
					if !tt.trusted {
						testkit.Skip(t, conn, header) // this address is the client's own claim
					}
					testkit.Skip(t, conn, "\x00")
					require.Equal(t, tt.trusted, conn.RemoteAddr().String() == "203.0.113.9:4711")
					return
				}
				client.Send(t, testkit.Request("X-Forwarded-For: 203.0.113.9"))
				require.Equal(t, 101, client.Answer("GET").StatusCode)
				conn := testkit.NextConn(t, accepted)
				require.Equal(t, tt.trusted, conn.RemoteAddr().String() == "203.0.113.9:0", "%v", conn.RemoteAddr())
				testkit.Talk(t, client, conn)
			})
		}
	}
}

// The same holds if net/http has accepted the connection.
func TestTrustedProxiesByUnixSocketMounted(t *testing.T) {
	for _, name := range []string{socketPath(t, "s"), "@" + t.Name()} {
		l := testkit.Listen(t, &preflight.PreflightListener{TrustedProxies: testkit.Prefixes("192.0.2.0/24")})
		accepted := testkit.AcceptAll(t, l)
		s := httptest.NewUnstartedServer(http.HandlerFunc(l.ServeHTTP))
		require.NoError(t, s.Listener.Close())
		var err error
		s.Listener, err = net.Listen("unix", name)
		require.NoError(t, err)
		s.Start()
		t.Cleanup(s.Close)
		c, err := net.Dial("unix", name)
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, testkit.Request("X-Forwarded-For: 203.0.113.9"))
		require.NoError(t, err)
		conn := testkit.NextConn(t, accepted)
		require.Equal(t, !strings.HasPrefix(name, "@"), conn.RemoteAddr().String() == "203.0.113.9:0", "%v", conn.RemoteAddr())
	}
}
