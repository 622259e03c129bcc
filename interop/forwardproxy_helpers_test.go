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

// outSquid runs squid with one port: should that be taken, squid ends, while
// with another it would go on without the first. The certificate is that of an
// https port.
func outSquid(t *testing.T, scheme string, c outConfig) (u *url.URL, certificate []byte) {
	t.Helper()
	dir := t.TempDir()
	writeCertificate(t, dir)
	certificate, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	require.NoError(t, err)
	// jane's is "secret".
	const passwords = "jane:$apr1$saltsalt$LrttParrLPdxvgutaSXWJ0\n"
	require.Contains(t, []string{"", "secret"}, c.password)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "passwd"), []byte(passwords), 0o600))
	if os.Geteuid() == 0 { // squid becomes another user, who must enter, read and log
		require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
		require.NoError(t, os.Chmod(dir, 0o777))
		for _, file := range []string{"cert.pem", "key.pem", "passwd"} {
			require.NoError(t, os.Chmod(filepath.Join(dir, file), 0o644))
		}
	}
	config := filepath.Join(dir, "squid.conf")
	started := launch(t, dir, 1, findBinary(t, "squid"), func(addresses []string) (args []string) {
		// Not that of the attempt before.
		os.Remove(filepath.Join(dir, "cache.log"))
		render(t, "squid.conf.tmpl", config, map[string]any{
			"Dir":      dir,
			"Root":     os.Geteuid() == 0,
			"Port":     scheme,
			"Listen":   addresses[0],
			"Outgoing": c.outgoing,
			"Password": c.password,
			"Allowed":  c.allowed,
		})
		return []string{"-N", "-d1", "-f", config}
	}, func() bool {
		log, _ := os.ReadFile(filepath.Join(dir, "cache.log"))
		return strings.Contains(string(log), "Accepting HTTP")
	})
	return outURL(scheme, started.addresses[0], c), certificate
}

func outStartTinyproxy(t *testing.T, c outConfig) *url.URL {
	t.Helper()
	require.Empty(t, c.outgoing)
	dir := t.TempDir()
	config := filepath.Join(dir, "tinyproxy.conf")
	started := launch(t, dir, 1, findBinary(t, "tinyproxy"), func(addresses []string) (args []string) {
		render(t, "tinyproxy.conf.tmpl", config, map[string]any{
			"Dir":      dir,
			"Root":     os.Geteuid() == 0,
			"Port":     outPort(addresses[0]),
			"Password": c.password,
			"Allowed":  c.allowed,
		})
		return []string{"-d", "-c", config}
	}, func() bool {
		// It is written once the port is tinyproxy's own.
		pid, _ := os.ReadFile(filepath.Join(dir, "tinyproxy.pid"))
		return len(pid) > 0
	})
	return outURL("http", started.addresses[0], c)
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
