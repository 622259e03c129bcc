package lab

import (
	"bytes"
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// ForwardSquidFile is the file of deploy/ for Squid as a forward proxy. The other
// constants are lines of it that tests change.
const (
	ForwardSquidFile    = "squid/forward.conf"
	ForwardSquidPort    = "http_port 3128"
	ForwardSquidClients = "acl clients src 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7"
	ForwardSquidAllowed = "acl edge port 80 443"
)

// SquidDir returns a folder with a certificate. If root starts Squid, Squid changes
// to another user, who must be able to read and to write in the folder.
func SquidDir(t *testing.T) (dir string, roots *x509.CertPool) {
	t.Helper()
	dir = t.TempDir()
	roots = WriteCertificate(t, dir)
	OpenToUsers(t, dir)
	for _, file := range []string{"cert.pem", "key.pem"} {
		require.NoError(t, os.Chmod(filepath.Join(dir, file), 0o644))
	}
	return dir, roots
}

// OpenToUsers lets all users read and write in dir, which t.TempDir has made, if root
// runs the tests: some servers then change to another user.
func OpenToUsers(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
		require.NoError(t, os.Chmod(dir, 0o777))
	}
}

// StartSquid runs Squid with the preflight.conf that configure writes to dir.
func StartSquid(t *testing.T, dir string, ports int, configure func(addresses []string)) *Daemon {
	t.Helper()
	logFile, pidFile := filepath.Join(dir, "cache.log"), filepath.Join(dir, "squid.pid")
	var own []string
	return StartDaemon(t, dir, ports, func(addresses []string) (command []string) {
		own = addresses
		os.Remove(logFile) // of an attempt that found its ports taken
		config := Render(t, Templates, dir, "squid.conf", map[string]any{"Dir": dir, "Root": os.Geteuid() == 0})
		configure(addresses)
		return []string{"squid", "-N", "-d1", "-f", config}
	}, func() bool {
		log, _ := os.ReadFile(logFile)
		if bytes.Contains(log, []byte("Cannot bind")) {
			// If one of two ports is taken, Squid continues without it.
			text, _ := os.ReadFile(pidFile)
			if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
				syscall.Kill(pid, syscall.SIGTERM)
			}
			return false
		}
		// Squid writes this when it has bound a port. It listens a moment later.
		return bytes.Count(log, []byte("Accepting ")) == ports && Accept(own...)
	})
}

// A ForwardConfig says what a forward proxy does.
type ForwardConfig struct {
	AllowedPorts []string // the ports that CONNECT may name
	Password     string   // of the user jane; empty: no credentials are needed
	OutgoingIP   string   // the local address of outgoing connections; empty: any
	HostsFile    string   // a hosts file for Squid; empty: that of the system
}

// URL returns the URL of the proxy at address, with the credentials that it requires.
func (c ForwardConfig) URL(scheme, address string) *url.URL {
	u := &url.URL{Scheme: scheme, Host: address}
	if c.Password != "" {
		u.User = url.UserPassword("jane", c.Password)
	}
	return u
}

// StartForwardSquid runs Squid as a forward proxy with an http port, and returns its
// URL.
func StartForwardSquid(t *testing.T, c ForwardConfig) *url.URL {
	t.Helper()
	u, _ := startForwardSquid(t, "http", c)
	return u
}

// StartForwardSquidTLS does the same with an https port. It also returns the
// certificate of the proxy, as PEM.
func StartForwardSquidTLS(t *testing.T, c ForwardConfig) (u *url.URL, certificate []byte) {
	t.Helper()
	return startForwardSquid(t, "https", c)
}

func startForwardSquid(t *testing.T, scheme string, c ForwardConfig) (u *url.URL, certificate []byte) {
	t.Helper()
	dir, _ := SquidDir(t)
	certificate, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	require.NoError(t, err)
	const passwords = "jane:$apr1$saltsalt$LrttParrLPdxvgutaSXWJ0\n" // the password is "secret"
	require.Contains(t, []string{"", "secret"}, c.Password)
	passwordFile := WriteFile(t, dir, "passwd", passwords)
	d := StartSquid(t, dir, 1, func(addresses []string) {
		port := scheme + "_port " + addresses[0]
		if scheme == "https" {
			port += " tls-cert=" + filepath.Join(dir, "cert.pem") + " tls-key=" + filepath.Join(dir, "key.pem")
		}
		if c.OutgoingIP != "" {
			port += "\ntcp_outgoing_address " + c.OutgoingIP
		}
		if c.HostsFile != "" {
			port += "\nhosts_file " + c.HostsFile
		}
		clients := "acl clients src 127.0.0.1\n"
		if c.Password != "" {
			clients += "auth_param basic program /usr/lib/squid/basic_ncsa_auth " + passwordFile + "\n" +
				"auth_param basic children 1\nauth_param basic realm squid\nacl known proxy_auth REQUIRED\nhttp_access deny !known\n"
		}
		WriteFile(t, dir, "preflight.conf", DeployFile(t, ForwardSquidFile, ForwardSquidPort, port, ForwardSquidClients, clients,
			ForwardSquidAllowed, "acl edge port "+strings.Join(c.AllowedPorts, " ")))
	})
	return c.URL(scheme, d.Addresses[0]), certificate
}
