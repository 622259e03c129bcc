package interop

import (
	"bytes"
	"crypto/x509"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

const (
	squidFile        = "squid/reverse.conf"
	squidForwardFile = "squid/forward.conf"
	squidPort        = "http_port 3128"
	squidClients     = "acl clients src 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7"
	squidEdge        = "acl edge port 80 443"
)

var (
	squid = proxy{
		name:      "squid",
		file:      squidFile,
		start:     startSquid,
		keepsPath: true,
		idle:      squidIdle,
		mistakes: []mistake{
			{[]string{"http_upgrade_request_protocols tcp allow all", ""}, []string{"the server saw no upgrade"}},
		},
		outcomes: map[string]string{
			"Down":         "503",
			"OrdinaryHTTP": "426 405 426 411 411",
		},
	}
	squidForward = proxy{
		name:      "squid-forward",
		file:      squidForwardFile,
		start:     startSquidForward,
		keepsPath: true,
		idle:      squidIdle,
		mistakes: []mistake{
			{[]string{squidEdge, "acl edge port 443"}, []string{"the forward proxy 127.0.0.1:", "it does not allow CONNECT to this host and port"}},
		},
		outcomes: map[string]string{
			"Client":        none, // it is the proxy's
			"Down":          "503",
			"Elsewhere":     none, // it knows no paths
			"Front":         none, // whether TLS goes through it is up to the two ends
			"Misconfigured": "403",
			"OrdinaryHTTP":  "403 403 403 411 411", // all of it by squid
		},
	}
	squidIdle = []string{"read_timeout 1 hour", "read_timeout 1 second"}
)

func startSquid(t *testing.T, backend string, edits ...string) *running {
	t.Helper()
	dir, roots := squidFolder(t)
	configure := func(addresses []string, backend string) {
		host, port, err := net.SplitHostPort(backend)
		require.NoError(t, err)
		write(t, dir, "preflight.conf", deployed(t, squidFile, slices.Concat(edits, []string{
			"http_port 80 ", "http_port " + addresses[0] + " ",
			"https_port 443 ", "https_port " + addresses[1] + " ",
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"cache_peer 127.0.0.1 parent 9007 ", "cache_peer " + host + " parent " + port + " ",
		})...))
	}
	d := launchSquid(t, dir, 2, func(addresses []string) { configure(addresses, backend) })
	return &running{
		plain: front{address: d.addresses[0]},
		tls:   front{address: d.addresses[1], roots: roots},
		reload: func(backend string) {
			configure(d.addresses, backend)
			require.NoError(t, d.process.Signal(syscall.SIGHUP))
		},
	}
}

// startSquidForward runs it as a forward proxy that leads to the server alone.
func startSquidForward(t *testing.T, backend string, edits ...string) *running {
	t.Helper()
	dir, _ := squidFolder(t)
	configure := func(addresses []string, backend string) {
		write(t, dir, "preflight.conf", deployed(t, squidForwardFile, slices.Concat(edits, []string{
			squidPort, "http_port " + addresses[0],
			squidClients, "acl clients src 127.0.0.1",
			squidEdge, "acl edge port " + outPort(backend),
		})...))
	}
	d := launchSquid(t, dir, 1, func(addresses []string) { configure(addresses, backend) })
	return &running{
		plain: front{address: backend, forward: &url.URL{Scheme: "http", Host: d.addresses[0]}},
		reload: func(backend string) {
			configure(d.addresses, backend)
			require.NoError(t, d.process.Signal(syscall.SIGHUP))
		},
	}
}

// squidFolder has a certificate. If squid is started by root, it becomes another
// user, who must enter the folder, read in it and log.
func squidFolder(t *testing.T) (dir string, roots *x509.CertPool) {
	t.Helper()
	dir = t.TempDir()
	roots = writeCertificate(t, dir)
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
		require.NoError(t, os.Chmod(dir, 0o777))
		for _, file := range []string{"cert.pem", "key.pem"} {
			require.NoError(t, os.Chmod(filepath.Join(dir, file), 0o644))
		}
	}
	return dir, roots
}

// launchSquid runs squid with the preflight.conf that configure writes into dir.
func launchSquid(t *testing.T, dir string, ports int, configure func(addresses []string)) daemon {
	t.Helper()
	config, logFile, pidFile := filepath.Join(dir, "squid.conf"), filepath.Join(dir, "cache.log"), filepath.Join(dir, "squid.pid")
	var own []string
	return launch(t, dir, ports, findBinary(t, "squid"), func(addresses []string) (args []string) {
		own = addresses
		os.Remove(logFile) // that of the attempt before
		render(t, "squid.conf.tmpl", config, map[string]any{"Dir": dir, "Root": os.Geteuid() == 0})
		configure(addresses)
		return []string{"-N", "-d1", "-f", config}
	}, func() bool {
		log, _ := os.ReadFile(logFile)
		if bytes.Contains(log, []byte("Cannot bind")) {
			// Should one of two ports be taken, squid goes on without it.
			text, _ := os.ReadFile(pidFile)
			if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
				syscall.Kill(pid, syscall.SIGTERM)
			}
			return false
		}
		// It says so when it has bound its ports, and listens a moment later.
		return bytes.Count(log, []byte("Accepting ")) == ports && !slices.ContainsFunc(own, refuses)
	})
}

// refuses reports that nobody listens at address.
func refuses(address string) bool {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return true
	}
	c.Close()
	return false
}

// When the server resets a tunnel in which it has said nothing, Squid takes that for
// an answer that has failed, and writes one of its own into the tunnel.
func TestSquidReset(t *testing.T) {
	squid := startSquid(t, serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) {
		c.Read(make([]byte, 1))
		c.NetConn().(*net.TCPConn).SetLinger(0)
		c.Close()
	}))
	c := squid.plain.dial(t, "/client/")
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	page, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Regexp(t, "^HTTP/1.1 500 ", string(page))
}
