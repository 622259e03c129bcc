// Package interop tests preflight with what it has to work with: real reverse
// proxies, and applications that were written without it.
//
// Every proxy runs with its file of deploy/, and shows every behaviour in plain
// text and over TLS. MATRIX.md has what came out:
//
//	go test -race -run 'Proxy/nginx/tls/Transfer' .
package interop

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A proxy is a reverse proxy under test.
type proxy struct {
	name string
	file string // of deploy/
	// start runs it until the end of the test in front of the server at
	// backend, with that file and edits of it, see deployed.
	start func(t *testing.T, backend string, edits ...string) *running
	// idle are the edits by which it ends a silent tunnel after about a
	// second, for testIdle.
	idle     []string
	mistakes []mistake
	// keepsPath says that /client/told arrives so, and not as /told.
	keepsPath bool
	// outcomes are those that are not the usual ones, by the name of the
	// behaviour; by "tls/" and the name if they are so over TLS alone.
	outcomes map[string]string
}

// none is the outcome where a proxy has nothing that could show a behaviour.
const none = "–"

// A mistake is a line that a user may forget, or get wrong.
type mistake struct {
	edits []string
	says  []string // what the error or the body of the refusal says about it
}

// proxies are the columns of MATRIX.md.
var proxies = []proxy{
	nginx, haproxy, haproxyV2, apache, envoy, caddy, traefik, lighttpd, varnish, squid, goReverseProxy,
	squidForward, tinyproxyForward,
}

// running is a proxy that has been started.
type running struct {
	plain, tls front // tls may be empty if the outcome of tlsFront is none
	// reload has the proxy read its configuration anew, which then names
	// another server, without a restart; for testReload.
	reload func(backend string)
	// restart ends it and runs it again at the same addresses; for the
	// applications that run through it.
	restart func(t *testing.T)
	// stats are what it tells of its servers; of HAProxy.
	stats func() string
}

// A front is an address at which a proxy accepts clients.
type front struct {
	address string
	roots   *x509.CertPool // by which its certificate is verified; nil: no TLS
	forward *url.URL       // the forward proxy by which it is reached; nil: none
}

func (f front) dialer() *preflight.PreflightDialer {
	d := &preflight.PreflightDialer{Path: "/client/amps/json", TLSConfig: f.tlsConfig(), HandshakeTimeout: patience}
	if f.forward != nil {
		d.Proxy = http.ProxyURL(f.forward)
	}
	return d
}

func (f front) tlsConfig() *tls.Config {
	if f.roots == nil {
		return nil
	}
	return &tls.Config{RootCAs: f.roots}
}

// dial opens a tunnel that is closed at the end of the test.
func (f front) dial(t *testing.T, path string) *preflight.Conn {
	t.Helper()
	d := f.dialer()
	d.Path = path
	return f.dialWith(t, d)
}

// dialWith does it with a dialer that is more than that of the front.
func (f front) dialWith(t *testing.T, d *preflight.PreflightDialer) *preflight.Conn {
	t.Helper()
	c, err := d.DialContext(t.Context(), "tcp", f.address)
	require.NoError(t, err)
	return bounded(t, c).(*preflight.Conn)
}

// A trial is one proxy showing one behaviour.
type trial struct {
	proxy
	*running
	server *labServer
	front  front
	want   string // the outcome that is expected
}

// arrives returns the path that the server sees of a request for path.
func (p proxy) arrives(path string) string {
	if p.keepsPath {
		return path
	}
	return strings.TrimPrefix(path, "/client")
}

// A behaviour is a row of MATRIX.md.
type behaviour struct {
	name  string
	title string
	usual string // its outcome with most proxies
	run   func(t *testing.T, x trial) (outcome string)
}

func (b behaviour) test(t *testing.T, prefix string, x trial) {
	if x.want = x.outcome(prefix, b); x.want == none {
		return
	}
	t.Run(b.name, func(t *testing.T) {
		require.Equal(t, x.want, b.run(t, x))
	})
}

// outcome is the one that b is expected to have.
func (p proxy) outcome(prefix string, b behaviour) string {
	for _, name := range []string{prefix + b.name, b.name} {
		if outcome, ok := p.outcomes[name]; ok {
			return outcome
		}
	}
	return b.usual
}

func TestProxy(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			x := trial{proxy: p, server: startLabServer(t)}
			x.running = p.start(t, x.server.address)
			t.Run("plain", func(t *testing.T) {
				x.front = x.plain
				for _, b := range ofTunnels {
					b.test(t, "", x)
				}
			})
			if x.outcome("", tlsFront) != none {
				t.Run("tls", func(t *testing.T) {
					x.front = x.tls
					tlsFront.test(t, "", x)
					for _, b := range ofTunnels {
						b.test(t, "tls/", x)
					}
				})
			}
			x.front = x.plain
			for _, b := range ofProxies {
				b.test(t, "", x)
			}
		})
	}
}

// ending names how a connection, or an attempt to open one, has ended.
func ending(err error) string {
	var refused *preflight.StatusError
	switch {
	case errors.As(err, &refused):
		return strconv.Itoa(refused.StatusCode)
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
		return "EOF"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silence"
	}
	return fmt.Sprint(err)
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for timeout := time.After(patience); !condition(); {
		select {
		case <-poll.C:
		case <-timeout:
			require.FailNow(t, "this did not come about: "+what)
		}
	}
}

// refused dials path and returns the refusal that it is answered with.
func (f front) refused(t *testing.T, path string) *preflight.StatusError {
	t.Helper()
	d := f.dialer()
	d.Path = path
	_, err := d.DialContext(t.Context(), "tcp", f.address)
	return statusError(t, err)
}
