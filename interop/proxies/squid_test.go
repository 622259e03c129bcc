package proxies

import (
	"io"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

const squidFile = "squid/reverse.conf"

var squid = proxy{
	name:        "squid",
	file:        squidFile,
	start:       startSquid,
	keepsPrefix: true,
	idle:        squidIdle,
	mistakes: []mistake{
		{[]string{"http_upgrade_request_protocols tcp allow all", ""}, []string{"Squid is on the way; if it is that proxy, it needs `http_upgrade_request_protocols tcp allow all`"}},
	},
	outcomes: map[string]string{
		"Down":         "503",
		"OrdinaryHTTP": "426 405 426 411 411",
	},
}

var squidForward = proxy{
	name:        "squid-forward",
	file:        lab.ForwardSquidFile,
	start:       startSquidForward,
	keepsPrefix: true,
	idle:        squidIdle,
	mistakes: []mistake{
		{[]string{lab.ForwardSquidAllowed, "acl edge port 443"}, []string{"the forward proxy 127.0.0.1:", "Squid does not allow CONNECT to this host and port"}},
	},
	outcomes: map[string]string{
		"Client":        notApplicable, // the server sees the address of the proxy
		"Down":          "503",
		"Elsewhere":     notApplicable, // it has no routes
		"Front":         notApplicable, // TLS goes through it, end to end
		"Misconfigured": "403",
		"OrdinaryHTTP":  "403 403 403 411 411", // by Squid itself
	},
}

// Squid counts in whole seconds. With one second, it may close a tunnel at once.
var squidIdle = []string{"read_timeout 1 hour", "read_timeout 2 seconds"}

// startSquid runs Squid as a reverse proxy.
func startSquid(t *testing.T, backend string, edits ...string) *lab.Edge {
	t.Helper()
	dir, roots := lab.SquidDir(t)
	configure := func(addresses []string, backend string) {
		host, port, err := net.SplitHostPort(backend)
		require.NoError(t, err)
		lab.WriteFile(t, dir, "preflight.conf", lab.DeployFile(t, squidFile, slices.Concat(edits, []string{
			"http_port 80 ", "http_port " + addresses[0] + " ",
			"https_port 443 ", "https_port " + addresses[1] + " ",
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"cache_peer 127.0.0.1 parent 9007 ", "cache_peer " + host + " parent " + port + " ",
		})...))
	}
	d := lab.StartSquid(t, dir, 2, func(addresses []string) { configure(addresses, backend) })
	return &lab.Edge{
		Plain: lab.Frontend{Address: d.Addresses[0]},
		TLS:   lab.Frontend{Address: d.Addresses[1], Roots: roots},
		Reload: func(backend string) {
			configure(d.Addresses, backend)
			d.Signal(t, syscall.SIGHUP)
		},
	}
}

// startSquidForward runs Squid as a forward proxy that connects only to the backend.
func startSquidForward(t *testing.T, backend string, edits ...string) *lab.Edge {
	t.Helper()
	dir, _ := lab.SquidDir(t)
	configure := func(addresses []string, backend string) {
		lab.WriteFile(t, dir, "preflight.conf", lab.DeployFile(t, lab.ForwardSquidFile, slices.Concat(edits, []string{
			lab.ForwardSquidPort, "http_port " + addresses[0],
			lab.ForwardSquidClients, "acl clients src 127.0.0.1",
			lab.ForwardSquidAllowed, "acl edge port " + lab.Port(backend),
		})...))
	}
	d := lab.StartSquid(t, dir, 1, func(addresses []string) { configure(addresses, backend) })
	return &lab.Edge{
		Plain: lab.Frontend{Address: backend, ForwardProxy: &url.URL{Scheme: "http", Host: d.Addresses[0]}},
		Reload: func(backend string) {
			configure(d.Addresses, backend)
			d.Signal(t, syscall.SIGHUP)
		},
	}
}

// TestSquidReset shows what Squid does if the server resets a tunnel before it has
// sent anything. Squid treats that as a failed response, and writes an error page into
// the tunnel.
func TestSquidReset(t *testing.T) {
	squid := startSquid(t, lab.Serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) {
		c.Read(make([]byte, 1))
		c.NetConn().(*net.TCPConn).SetLinger(0)
		c.Close()
	}))
	c := squid.Plain.Dial(t, "/client/")
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	page, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Regexp(t, "^HTTP/1.1 500 ", string(page))
}
