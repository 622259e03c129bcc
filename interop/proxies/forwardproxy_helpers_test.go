package proxies

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A forwardProxy is a forward proxy under test.
type forwardProxy struct {
	name string
	// start runs it, and returns its URL.
	start                  func(t *testing.T, c lab.ForwardConfig) *url.URL
	unreachableStatus      int // the status if it cannot connect to the host
	wrongCredentialsStatus int // the status if credentials are wrong; if they are missing, it is 407
}

var forwardProxies = []forwardProxy{
	{"squid", lab.StartForwardSquid, http.StatusServiceUnavailable, http.StatusProxyAuthRequired},
	{"tinyproxy", startForwardTinyproxy, http.StatusInternalServerError, http.StatusUnauthorized},
}

// startForwardTinyproxy runs Tinyproxy as a forward proxy.
func startForwardTinyproxy(t *testing.T, c lab.ForwardConfig) *url.URL {
	t.Helper()
	require.Empty(t, c.OutgoingIP)
	ports := "ConnectPort " + strings.Join(c.AllowedPorts, "\nConnectPort ") + "\n"
	if c.Password != "" {
		ports += "BasicAuth jane " + c.Password + "\n"
	}
	dir := t.TempDir()
	d := launchTinyproxy(t, dir, func(address string) {
		configureTinyproxy(t, dir, address, []string{tinyproxyPorts, ports})
	})
	return c.URL("http", d.Addresses[0])
}

// withUser returns u with other credentials.
func withUser(u *url.URL, user *url.Userinfo) *url.URL {
	other := *u
	other.User = user
	return &other
}
