package lab

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A StartFunc runs a proxy in front of the server at the address backend. The proxy
// has its file of deploy/ with edits, as DeployFile takes them.
type StartFunc = func(t *testing.T, backend string, edits ...string) *Edge

// An Edge is a proxy that is running.
type Edge struct {
	Plain Frontend
	TLS   Frontend // zero if the proxy has no TLS
	// Reload makes the proxy read its configuration again, without a restart. The
	// new configuration names another backend. Nil if the proxy cannot do that.
	Reload func(backend string)
	// Restart ends the proxy and runs it again at the same addresses. Nil if no
	// test needs it.
	Restart func(t *testing.T)
	// Stats returns the statistics of the proxy about its backends. Only HAProxy
	// has it.
	Stats func() string
}

// A Frontend is an address at which a proxy accepts clients.
type Frontend struct {
	Address      string
	Roots        *x509.CertPool // verifies the certificate; nil without TLS
	ForwardProxy *url.URL       // the forward proxy on the way to Address; nil without one
}

// Dialer returns a new dialer for the frontend.
func (f Frontend) Dialer() *preflight.PreflightDialer {
	d := &preflight.PreflightDialer{Path: "/client/amps/json", TLSConfig: f.TLSConfig(), HandshakeTimeout: Timeout}
	if f.ForwardProxy != nil {
		d.Proxy = http.ProxyURL(f.ForwardProxy)
	}
	return d
}

// TLSConfig returns the configuration of a client, or nil without TLS.
func (f Frontend) TLSConfig() *tls.Config {
	if f.Roots == nil {
		return nil
	}
	return &tls.Config{RootCAs: f.Roots}
}

// Dial opens a tunnel to path. It has a deadline, and it is closed at the end of the
// test.
func (f Frontend) Dial(t *testing.T, path string) *preflight.Conn {
	t.Helper()
	d := f.Dialer()
	d.Path = path
	return f.DialWith(t, d)
}

// DialWith opens such a tunnel with d, a dialer for the frontend that the test has
// changed.
func (f Frontend) DialWith(t *testing.T, d *preflight.PreflightDialer) *preflight.Conn {
	t.Helper()
	c, err := d.DialContext(t.Context(), "tcp", f.Address)
	require.NoError(t, err)
	return WithDeadline(t, c).(*preflight.Conn)
}

// SendOrdinaryRequests sends requests that are no upgrade requests: a POST, a POST
// with an upgrade, a PUT, a GET with a body, and a GET with an upgrade and a body,
// which an upgrade request must not have. The body is a command of a line protocol.
func (f Frontend) SendOrdinaryRequests(t *testing.T, path string) (responses []*http.Response) {
	t.Helper()
	scheme := "http://"
	if f.Roots != nil {
		scheme = "https://"
	}
	transport := &http.Transport{TLSClientConfig: f.TLSConfig(), DisableKeepAlives: true}
	if f.ForwardProxy != nil {
		transport.Proxy = http.ProxyURL(f.ForwardProxy)
	}
	client := &http.Client{Timeout: Timeout, Transport: transport}
	for _, request := range []struct {
		method  string
		upgrade bool
	}{{"POST", false}, {"POST", true}, {"PUT", false}, {"GET", false}, {"GET", true}} {
		r, err := http.NewRequestWithContext(t.Context(), request.method, scheme+f.Address+path, strings.NewReader("\r\nSHUTDOWN\r\n"))
		require.NoError(t, err)
		if request.upgrade {
			r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}
		}
		response, err := client.Do(r)
		require.NoError(t, err)
		response.Body.Close()
		responses = append(responses, response)
	}
	return responses
}

// StatusCodes returns the status codes of responses, separated by spaces.
func StatusCodes(responses []*http.Response) string {
	var codes []string
	for _, response := range responses {
		codes = append(codes, strconv.Itoa(response.StatusCode))
	}
	return strings.Join(codes, " ")
}
