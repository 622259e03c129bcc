package interop

import (
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An outForward is a forward proxy under test.
type outForward struct {
	name string
	// start runs it until the end of the test, and returns its URL.
	start       func(t *testing.T, c outConfig) *url.URL
	unreachable int // the status for a host that it cannot connect to
	wrong       int // and for wrong credentials; for missing ones it is 407
}

// An outConfig says what a forward proxy is to do.
type outConfig struct {
	allowed  []string // ports that CONNECT may lead to
	password string   // that of jane; "": for everyone
	outgoing string   // the address it connects from; "": any
	hosts    string   // a file with names that squid knows
}

var outForwards = []outForward{
	{"squid", outStartSquid, http.StatusServiceUnavailable, http.StatusProxyAuthRequired},
	{"tinyproxy", outStartTinyproxy, http.StatusInternalServerError, http.StatusUnauthorized},
}

func outStartSquid(t *testing.T, c outConfig) *url.URL {
	t.Helper()
	u, _ := outSquid(t, "http", c)
	return u
}

// outSquid runs squid with one port. The certificate is that of an https port.
func outSquid(t *testing.T, scheme string, c outConfig) (u *url.URL, certificate []byte) {
	t.Helper()
	dir, _ := squidFolder(t)
	certificate, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	require.NoError(t, err)
	// jane's is "secret".
	const passwords = "jane:$apr1$saltsalt$LrttParrLPdxvgutaSXWJ0\n"
	require.Contains(t, []string{"", "secret"}, c.password)
	write(t, dir, "passwd", passwords)
	require.NoError(t, os.Chmod(filepath.Join(dir, "passwd"), 0o644))
	d := launchSquid(t, dir, 1, func(addresses []string) {
		port := scheme + "_port " + addresses[0]
		if scheme == "https" {
			port += " tls-cert=" + filepath.Join(dir, "cert.pem") + " tls-key=" + filepath.Join(dir, "key.pem")
		}
		if c.outgoing != "" {
			port += "\ntcp_outgoing_address " + c.outgoing
		}
		if c.hosts != "" {
			port += "\nhosts_file " + c.hosts
		}
		clients := "acl clients src 127.0.0.1\n"
		if c.password != "" {
			clients += "auth_param basic program /usr/lib/squid/basic_ncsa_auth " + filepath.Join(dir, "passwd") + "\n" +
				"auth_param basic children 1\nauth_param basic realm squid\nacl known proxy_auth REQUIRED\nhttp_access deny !known\n"
		}
		write(t, dir, "preflight.conf", deployed(t, squidForwardFile, squidPort, port, squidClients, clients,
			squidEdge, "acl edge port "+strings.Join(c.allowed, " ")))
	})
	return outURL(scheme, d.addresses[0], c), certificate
}

func outStartTinyproxy(t *testing.T, c outConfig) *url.URL {
	t.Helper()
	require.Empty(t, c.outgoing)
	ports := "ConnectPort " + strings.Join(c.allowed, "\nConnectPort ") + "\n"
	if c.password != "" {
		ports += "BasicAuth jane " + c.password + "\n"
	}
	dir := t.TempDir()
	d := launchTinyproxy(t, dir, func(address string) {
		configureTinyproxy(t, dir, address, []string{tinyproxyPorts, ports})
	})
	return outURL("http", d.addresses[0], c)
}

// outURL is that of a proxy, with the credentials that it wants.
func outURL(scheme, address string, c outConfig) *url.URL {
	u := &url.URL{Scheme: scheme, Host: address}
	if c.password != "" {
		u.User = url.UserPassword("jane", c.password)
	}
	return u
}

func outPort(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// outWithUser is u with other credentials.
func outWithUser(u *url.URL, user *url.Userinfo) *url.URL {
	other := *u
	other.User = user
	return &other
}
