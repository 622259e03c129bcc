package interop

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
	"github.com/stretchr/testify/require"
)

// outTold is a server that tells each tunnel which credentials for a forward
// proxy its request has brought along: there should be none.
func outTold(t *testing.T) string {
	t.Helper()
	return serve(t, new(preflight.PreflightListener), func(c *preflight.Conn) {
		fmt.Fprintf(c, "%q\n", c.Request().Header["Proxy-Authorization"])
		io.Copy(c, c)
	})
}

// outThrough uses a tunnel to outTold.
func outThrough(t *testing.T, d *preflight.PreflightDialer, address string) {
	t.Helper()
	c, err := d.DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	bounded(t, c)
	const want = "[]\n"
	got := make([]byte, len(want))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
	require.NoError(t, echo(c, []byte("hello")))
}

// outRefused is the refusal of a forward proxy.
func outRefused(t *testing.T, d *preflight.PreflightDialer, address string) *preflight.StatusError {
	t.Helper()
	c, err := d.DialContext(t.Context(), "tcp", address)
	require.Nil(t, c)
	e := statusError(t, err)
	require.True(t, e.ForwardProxy, "%v", e)
	require.ErrorContains(t, e, "the forward proxy 127.0.0.1:")
	require.ErrorContains(t, e, " answered "+e.Status+": ")
	require.NotContains(t, e.Error(), "secret")
	return e
}

func TestConnect(t *testing.T) {
	for _, f := range outForwards {
		t.Run(f.name, func(t *testing.T) {
			server := outTold(t)
			nginx := startNginx(t, server)
			plain, tlsFront := nginx.plain, nginx.tls
			const nobody = "127.0.0.1:1" // privileged: nobody listens there by chance
			open := outConfig{allowed: []string{outPort(plain.address), outPort(tlsFront.address), "1"}}
			locked := open
			locked.password = "secret"
			toAll, toJane := f.start(t, open), f.start(t, locked)
			dialer := func(at front, proxy *url.URL) *preflight.PreflightDialer {
				d := at.dialer()
				d.Proxy = http.ProxyURL(proxy)
				return d
			}

			for name, proxy := range map[string]*url.URL{"Open": toAll, "Authenticated": toJane} {
				t.Run(name, func(t *testing.T) {
					for range 3 { // with credentials that the proxy then knows
						outThrough(t, dialer(plain, proxy), plain.address)
						outThrough(t, dialer(tlsFront, proxy), tlsFront.address)
					}
				})
				t.Run(name+"/Port", func(t *testing.T) {
					e := outRefused(t, dialer(plain, proxy), server)
					require.Equal(t, http.StatusForbidden, e.StatusCode)
					require.ErrorContains(t, e, "it does not allow CONNECT to this host and port")
					require.False(t, e.Temporary())
				})
				t.Run(name+"/Unreachable", func(t *testing.T) {
					e := outRefused(t, dialer(plain, proxy), nobody)
					require.Equal(t, f.unreachable, e.StatusCode)
					require.ErrorContains(t, e, "it cannot resolve or reach the host that was dialed")
					require.True(t, e.Temporary())
					require.NotEmpty(t, e.Body)
				})
				t.Run(name+"/RefusedBehind", func(t *testing.T) {
					d := dialer(plain, proxy)
					d.Path = "/elsewhere"
					_, err := d.DialContext(t.Context(), "tcp", plain.address)
					e := statusError(t, err)
					require.Equal(t, http.StatusNotFound, e.StatusCode)
					require.False(t, e.ForwardProxy)
				})
			}

			for name, user := range map[string]*url.Userinfo{
				"Missing":       nil,
				"WrongPassword": url.UserPassword("jane", "wrong"),
				"WrongUser":     url.UserPassword("mallory", "secret"),
				"NoPassword":    url.User("jane"),
			} {
				t.Run("Credentials/"+name, func(t *testing.T) {
					e := outRefused(t, dialer(plain, outWithUser(toJane, user)), plain.address)
					want, challenge := f.wrong, e.Header.Get("Proxy-Authenticate")+e.Header.Get("Www-Authenticate")
					if user == nil {
						want, challenge = http.StatusProxyAuthRequired, e.Header.Get("Proxy-Authenticate")
					}
					require.Equal(t, want, e.StatusCode)
					require.Regexp(t, `^Basic realm=`, challenge)
					require.ErrorContains(t, e, "it wants credentials, or others: put them into the URL that Proxy returns")
					require.False(t, e.Temporary())
				})
			}
			t.Run("ProxyHeader", func(t *testing.T) {
				d := dialer(tlsFront, outWithUser(toJane, url.UserPassword("jane", "wrong")))
				d.ProxyHeader = http.Header{"Proxy-Authorization": {outBasic("jane", "secret")}, "User-Agent": {"probe/1"}}
				outThrough(t, d, tlsFront.address)
			})
			t.Run("GetHeader", func(t *testing.T) {
				testOutChallenge(t, dialer(plain, outWithUser(toJane, nil)), plain.address, f.wrong)
			})
		})
	}
}

// testOutChallenge has GetHeader answer a 407 with what it asks for, on a new
// connection, and wrongly.
func testOutChallenge(t *testing.T, d *preflight.PreflightDialer, address string, wrong int) {
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
		return http.Header{"Proxy-Authorization": {outBasic("jane", password)}}, nil
	}
	outThrough(t, d, address)
	require.EqualValues(t, 2, calls.Load())
	require.EqualValues(t, 1, answers.Load())

	password = "wrong"
	require.Equal(t, wrong, outRefused(t, d, address).StatusCode)
	require.EqualValues(t, 4, calls.Load(), "the second refusal is the last")
}

func outBasic(user, password string) string {
	r := &http.Request{Header: make(http.Header)}
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

// The way to the forward proxy itself is TLS, with another certificate than that
// of the edge, which is TLS inside of it.
func TestConnectTLS(t *testing.T) {
	nginx := startNginx(t, outTold(t))
	plain, edge := nginx.plain, nginx.tls
	u, certificate := outSquid(t, "https", outConfig{allowed: []string{outPort(plain.address), outPort(edge.address)}, password: "secret"})
	roots, both := x509.NewCertPool(), edge.roots.Clone()
	require.True(t, roots.AppendCertsFromPEM(certificate))
	require.True(t, both.AppendCertsFromPEM(certificate))
	config := &tls.Config{RootCAs: both}

	t.Run("TLSInTLS", func(t *testing.T) {
		d := edge.dialer()
		d.TLSConfig, d.Proxy = config, http.ProxyURL(u)
		outThrough(t, d, edge.address)
	})
	t.Run("Credentials", func(t *testing.T) {
		d := edge.dialer()
		d.TLSConfig, d.Proxy = config, http.ProxyURL(outWithUser(u, url.UserPassword("jane", "wrong")))
		require.Equal(t, http.StatusProxyAuthRequired, outRefused(t, d, edge.address).StatusCode)
	})
	for name, config := range map[string]*tls.Config{"OnlyEdge": {RootCAs: edge.roots}, "OnlyProxy": {RootCAs: roots}} {
		t.Run("Untrusted/"+name, func(t *testing.T) {
			d := edge.dialer()
			d.TLSConfig, d.Proxy = config, http.ProxyURL(u)
			_, err := d.DialContext(t.Context(), "tcp", edge.address)
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
		d := plain.dialer()
		d.Proxy = http.ProxyURL(&wrong)
		_, err := d.DialContext(t.Context(), "tcp", plain.address)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "secret")
		require.ErrorContains(t, err, "forward proxy")
	})
}
