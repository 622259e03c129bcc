package proxies

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// serveProxyAuthorization runs a server that reports the Proxy-Authorization of each
// request, and then echoes. The request must not carry the credentials for the forward
// proxy to the server.
func serveProxyAuthorization(t *testing.T) string {
	t.Helper()
	return lab.Serve(t, new(preflight.PreflightListener), func(c *preflight.Conn) {
		fmt.Fprintf(c, "%q\n", c.Request().Header["Proxy-Authorization"])
		io.Copy(c, c)
	})
}

// requireTunnel opens and uses a tunnel to serveProxyAuthorization.
func requireTunnel(t *testing.T, d *preflight.PreflightDialer, address string) {
	t.Helper()
	c, err := d.DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	lab.WithDeadline(t, c)
	const want = "[]\n"
	got := make([]byte, len(want))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
	require.NoError(t, lab.Echo(c, []byte("hello")))
}

// requireRefusal requires that the forward proxy refuses a dial, and returns the refusal.
func requireRefusal(t *testing.T, d *preflight.PreflightDialer, address string) *preflight.StatusError {
	t.Helper()
	c, err := d.DialContext(t.Context(), "tcp", address)
	require.Nil(t, c)
	e := lab.StatusError(t, err)
	require.True(t, e.ForwardProxy, "%v", e)
	require.ErrorContains(t, e, "the forward proxy 127.0.0.1:")
	require.ErrorContains(t, e, " answered "+e.Status+": ")
	require.NotContains(t, e.Error(), "secret")
	return e
}

// TestConnect dials through forward proxies, without credentials and with them.
func TestConnect(t *testing.T) {
	for _, f := range forwardProxies {
		t.Run(f.name, func(t *testing.T) {
			server := serveProxyAuthorization(t)
			nginx := lab.StartNginx(t, server)
			plain, tlsFront := nginx.Plain, nginx.TLS
			const unreachable = "127.0.0.1:1" // a privileged port, at which nothing listens
			open := lab.ForwardConfig{AllowedPorts: []string{lab.Port(plain.Address), lab.Port(tlsFront.Address), "1"}}
			locked := open
			locked.Password = "secret"
			anonymous, authenticated := f.start(t, open), f.start(t, locked)
			dialer := func(at lab.Frontend, proxy *url.URL) *preflight.PreflightDialer {
				d := at.Dialer()
				d.Proxy = http.ProxyURL(proxy)
				return d
			}

			for name, proxy := range map[string]*url.URL{"Open": anonymous, "Authenticated": authenticated} {
				t.Run(name, func(t *testing.T) {
					for range 3 { // the proxy may cache the credentials
						requireTunnel(t, dialer(plain, proxy), plain.Address)
						requireTunnel(t, dialer(tlsFront, proxy), tlsFront.Address)
					}
				})
				t.Run(name+"/Port", func(t *testing.T) {
					e := requireRefusal(t, dialer(plain, proxy), server)
					require.Equal(t, http.StatusForbidden, e.StatusCode)
					require.ErrorContains(t, e, "does not allow CONNECT to this host and port")
					require.False(t, e.Temporary())
				})
				t.Run(name+"/Unreachable", func(t *testing.T) {
					e := requireRefusal(t, dialer(plain, proxy), unreachable)
					require.Equal(t, f.unreachableStatus, e.StatusCode)
					require.ErrorContains(t, e, "it cannot resolve or reach the host that was dialed")
					require.True(t, e.Temporary())
					require.NotEmpty(t, e.Body)
				})
				t.Run(name+"/RefusedBehind", func(t *testing.T) {
					d := dialer(plain, proxy)
					d.Path = "/elsewhere"
					_, err := d.DialContext(t.Context(), "tcp", plain.Address)
					e := lab.StatusError(t, err)
					require.Equal(t, http.StatusNotFound, e.StatusCode)
					require.False(t, e.ForwardProxy)
					require.ErrorContains(t, e, "preflight: "+plain.Address+" (through the forward proxy "+proxy.Host+") answered 404")
				})
			}

			for name, user := range map[string]*url.Userinfo{
				"Missing":       nil,
				"WrongPassword": url.UserPassword("jane", "wrong"),
				"WrongUser":     url.UserPassword("mallory", "secret"),
				"NoPassword":    url.User("jane"),
			} {
				t.Run("Credentials/"+name, func(t *testing.T) {
					e := requireRefusal(t, dialer(plain, withUser(authenticated, user)), plain.Address)
					want, challenge := f.wrongCredentialsStatus, e.Header.Get("Proxy-Authenticate")+e.Header.Get("Www-Authenticate")
					if user == nil {
						want, challenge = http.StatusProxyAuthRequired, e.Header.Get("Proxy-Authenticate")
					}
					require.Equal(t, want, e.StatusCode)
					require.Regexp(t, `^Basic realm=`, challenge)
					if user == nil {
						require.ErrorContains(t, e, "it wants credentials, and none were sent. Put them into the URL that Proxy returns")
					} else {
						require.ErrorContains(t, e, "it does not accept the credentials that were sent. Correct them in the URL that Proxy returns")
					}
					require.False(t, e.Temporary())
				})
			}
			t.Run("ProxyHeader", func(t *testing.T) {
				d := dialer(tlsFront, withUser(authenticated, url.UserPassword("jane", "wrong")))
				d.ProxyHeader = http.Header{"Proxy-Authorization": {basicAuth("jane", "secret")}, "User-Agent": {"probe/1"}}
				requireTunnel(t, d, tlsFront.Address)
			})
			t.Run("GetHeader", func(t *testing.T) {
				testProxyChallenge(t, dialer(plain, withUser(authenticated, nil)), plain.Address, f.wrongCredentialsStatus)
			})
		})
	}
}

// testProxyChallenge has GetHeader answer the challenge of a 407: first with the right
// credentials, on a new connection, and then with wrong ones.
func testProxyChallenge(t *testing.T, d *preflight.PreflightDialer, address string, wrong int) {
	var calls, answers atomic.Int32
	password := "secret"
	d.GetHeader = func(_ context.Context, refused *preflight.StatusError) (http.Header, error) {
		calls.Add(1)
		if refused == nil {
			return nil, nil
		}
		answers.Add(1)
		if refused.StatusCode != http.StatusProxyAuthRequired || !refused.ForwardProxy {
			return nil, fmt.Errorf("an unexpected refusal: %w", refused)
		}
		if refused.Header.Get("Proxy-Authenticate") == "" {
			return nil, errors.New("there is no challenge")
		}
		return http.Header{"Proxy-Authorization": {basicAuth("jane", password)}}, nil
	}
	requireTunnel(t, d, address)
	require.EqualValues(t, 2, calls.Load())
	require.EqualValues(t, 1, answers.Load())

	password = "wrong"
	require.Equal(t, wrong, requireRefusal(t, d, address).StatusCode)
	require.EqualValues(t, 4, calls.Load(), "there is no third attempt")
}

// basicAuth returns credentials as a field has them.
func basicAuth(user, password string) string {
	r := &http.Request{Header: make(http.Header)}
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

// TestConnectTLS dials a forward proxy over TLS. Inside that TLS there is TLS to the reverse
// proxy, which has another certificate.
func TestConnectTLS(t *testing.T) {
	nginx := lab.StartNginx(t, serveProxyAuthorization(t))
	plain, edge := nginx.Plain, nginx.TLS
	u, certificate := lab.StartForwardSquidTLS(t, lab.ForwardConfig{AllowedPorts: []string{lab.Port(plain.Address), lab.Port(edge.Address)}, Password: "secret"})
	roots, both := x509.NewCertPool(), edge.Roots.Clone()
	require.True(t, roots.AppendCertsFromPEM(certificate))
	require.True(t, both.AppendCertsFromPEM(certificate))
	config := &tls.Config{RootCAs: both}

	t.Run("TLSInTLS", func(t *testing.T) {
		d := edge.Dialer()
		d.TLSConfig, d.Proxy = config, http.ProxyURL(u)
		requireTunnel(t, d, edge.Address)
	})
	t.Run("Credentials", func(t *testing.T) {
		d := edge.Dialer()
		d.TLSConfig, d.Proxy = config, http.ProxyURL(withUser(u, url.UserPassword("jane", "wrong")))
		require.Equal(t, http.StatusProxyAuthRequired, requireRefusal(t, d, edge.Address).StatusCode)
	})
	for name, config := range map[string]*tls.Config{"OnlyEdge": {RootCAs: edge.Roots}, "OnlyProxy": {RootCAs: roots}} {
		t.Run("Untrusted/"+name, func(t *testing.T) {
			d := edge.Dialer()
			d.TLSConfig, d.Proxy = config, http.ProxyURL(u)
			_, err := d.DialContext(t.Context(), "tcp", edge.Address)
			var untrusted *tls.CertificateVerificationError
			require.ErrorAs(t, err, &untrusted)
			if name == "OnlyEdge" {
				require.ErrorContains(t, err, "TLS handshake with the forward proxy")
			} else {
				require.NotContains(t, err.Error(), "with the forward proxy")
			}
		})
	}
	t.Run("PlainProxyOnTLSPort", func(t *testing.T) {
		wrong := *u
		wrong.Scheme = "http"
		d := plain.Dialer()
		d.Proxy = http.ProxyURL(&wrong)
		_, err := d.DialContext(t.Context(), "tcp", plain.Address)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "secret")
		require.ErrorContains(t, err, "forward proxy")
	})
}
