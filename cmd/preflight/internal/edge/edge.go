// Package edge dials tunnels to the URL of an edge, as flags describe it.
package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/reload"
)

// Flags are those of a command that dials.
type Flags struct {
	Carrier            []string      `live:"" name:"carrier" placeholder:"NAME" help:"Try this carrier: upgrade, framed or websocket. Repeat the flag to try others after it. The default is upgrade, then websocket. For connect it is framed, then websocket. A ws or wss URL means only websocket."`
	MaxIdle            time.Duration `live:"" default:"1m" help:"End a framed or WebSocket tunnel when nothing at all, not even a PING, has come for this long. 0 means never. At least 40s."`
	Timeout            time.Duration `live:"" default:"10s" help:"The time limit for each attempt to open a tunnel. --header-command has the same limit, apart from that."`
	Header             []string      `live:"" sep:"none" placeholder:"'NAME: VALUE'" help:"Send this field with the request. Other users of this machine can see it. Repeatable."`
	HeaderFile         string        `live:"" type:"path" placeholder:"FILE" help:"Send the fields in this file, one 'NAME: VALUE' on each line. The file is read again for each tunnel, but a pipe only once. If it becomes invalid, its last valid content stays in use."`
	HeaderCommand      string        `live:"" placeholder:"COMMAND" help:"Send the fields that this shell command prints, in the form of --header-file. It runs again after --header-lifetime, and after an answer of 401 or 407."`
	HeaderLifetime     time.Duration `live:"" default:"5m" help:"How long the output of --header-command is used."`
	CA                 string        `live:"" name:"ca" type:"path" placeholder:"FILE" help:"Verify the edge with the authorities in this PEM file, instead of those of the system."`
	Cert               string        `live:"" type:"path" placeholder:"FILE" help:"Present this client certificate (PEM). Needs --key."`
	Key                string        `live:"" type:"path" placeholder:"FILE" help:"The key of --cert (PEM)."`
	ServerName         string        `live:"" placeholder:"NAME" help:"Expect this name in the certificate of the edge, and send it as SNI."`
	InsecureSkipVerify bool          `live:"" help:"Do not verify the certificate of the edge. Anyone on the path can then read the tunnel and its credentials."`
}

// An Edge dials tunnels to one URL.
type Edge struct {
	files   []string
	name    string
	url     string // for DialURL; "": address is dialed
	address string
	header  *headers
	dialer  atomic.Pointer[preflight.PreflightDialer]
	pair    *reload.Value[*tls.Certificate]
	roots   *reload.Value[*x509.CertPool]
}

// New checks the URL and the flags. It dials nothing.
func New(rawURL string, f Flags, log *slog.Logger, telemetry *preflight.Telemetry) (*Edge, error) {
	e := &Edge{files: []string{f.CA, f.Cert, f.Key}}
	d := &preflight.PreflightDialer{
		Proxy:            http.ProxyFromEnvironment,
		MaxIdleTimeout:   f.MaxIdle,
		HandshakeTimeout: f.Timeout,
		Telemetry:        telemetry,
	}
	for _, name := range f.Carrier {
		c := preflight.Carrier(name)
		switch c {
		case preflight.CarrierUpgrade, preflight.CarrierFramed, preflight.CarrierWebSocket:
		default:
			return nil, fmt.Errorf("--carrier %q is not a carrier: use upgrade, framed or websocket", name)
		}
		d.Carriers = append(d.Carriers, c)
	}
	if f.Timeout <= 0 {
		return nil, errors.New("--timeout must be above 0")
	}
	if f.MaxIdle != 0 && f.MaxIdle < minIdle {
		return nil, fmt.Errorf("--max-idle must be 0 or at least %v, twice the period of the PINGs", minIdle)
	}
	secure, err := e.parse(rawURL, d)
	if err != nil {
		return nil, err
	}
	if err := e.configureTLS(f, secure, d); err != nil {
		return nil, err
	}
	if e.header, err = newHeaders(f, log); err != nil {
		return nil, err
	}
	d.Header = e.header.fixed
	e.dialer.Store(d)
	if err := e.check(); err != nil {
		return nil, err
	}
	d.GetHeader = e.header.get
	return e, nil
}

// check asks the library whether the settings are valid. It dials with a context that has
// ended. What then fails is the dial, and that is a *net.OpError, or the settings.
func (e *Edge) check() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := e.Dial(ctx)
	var dial *net.OpError
	if errors.As(err, &dial) {
		return nil
	}
	return err
}

// minIdle is twice the default KeepAlivePeriod, which the library requires.
const minIdle = 40 * time.Second

// parse reads the URL. The schemes http and https are those of any edge. The others are those
// of the library, with its options.
func (e *Edge) parse(rawURL string, d *preflight.PreflightDialer) (secure bool, err error) {
	scheme, _, _ := strings.Cut(rawURL, ":")
	switch scheme = strings.ToLower(scheme); scheme {
	case "http", "https":
		return scheme == "https", e.parseHTTP(rawURL, d)
	case "ws", "wss", "tcp", "tcps":
	default:
		return false, errors.New("the URL needs one of the schemes https, http, wss, ws, tcps and tcp")
	}
	t, err := preflight.ParseURL(rawURL)
	switch {
	case err != nil:
		return false, err
	case !t.Preflight:
		return false, fmt.Errorf("%s asks for no tunnel: add http_preflight=true to the URL", t)
	case t.User != nil:
		return false, errUser
	}
	e.url, e.name = rawURL, t.String()
	return t.TLS, nil
}

var errUser = errors.New("the URL has a user, which no request would send: use --header-file with an Authorization field")

func (e *Edge) parseHTTP(rawURL string, d *preflight.PreflightDialer) error {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return errors.New("the URL is malformed") // the text of err shows all of it
	case u.Hostname() == "":
		return errors.New("the URL has no host")
	case u.User != nil:
		return errUser
	case u.Fragment != "":
		return errors.New("the URL has a fragment, which no request would send")
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errors.New("the port of the URL is not a number from 0 to 65535")
	}
	e.address = net.JoinHostPort(u.Hostname(), port)
	if d.Path = u.EscapedPath(); d.Path == "" {
		d.Path = "/"
	}
	e.name = u.Scheme + "://" + u.Host + d.Path // without the query, which may hold a secret
	if u.RawQuery != "" {
		d.Path += "?" + u.RawQuery
	}
	return nil
}

func (e *Edge) configureTLS(f Flags, secure bool, d *preflight.PreflightDialer) (err error) {
	if !secure {
		for flag, set := range map[string]bool{"--ca": f.CA != "", "--cert": f.Cert != "", "--key": f.Key != "", "--server-name": f.ServerName != "", "--insecure-skip-verify": f.InsecureSkipVerify} {
			if set {
				return fmt.Errorf("%s is for TLS, which the URL does not ask for: use https, wss or tcps", flag)
			}
		}
		return nil
	}
	if (f.Cert == "") != (f.Key == "") {
		return errors.New("--cert and --key need each other")
	}
	if f.CA != "" {
		if e.roots, err = reload.Roots(f.CA); err != nil {
			return fmt.Errorf("--ca: %w", err)
		}
	}
	if f.Cert != "" {
		if e.pair, err = reload.KeyPair(f.Cert, f.Key); err != nil {
			return fmt.Errorf("--cert: %w", err)
		}
	}
	d.TLSConfig = &tls.Config{ServerName: f.ServerName, InsecureSkipVerify: f.InsecureSkipVerify}
	e.applyTLS(d.TLSConfig)
	return nil
}

func (e *Edge) applyTLS(c *tls.Config) {
	if e.roots != nil {
		c.RootCAs = e.roots.Get()
	}
	if e.pair != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return e.pair.Get(), nil }
	}
}

// Files returns what Reload reads. "" is none.
func (e *Edge) Files() []string { return e.files }

// Reload reads the certificates again. Of what is bad, the old one stays.
func (e *Edge) Reload() (err error) {
	if e.pair != nil {
		err = e.pair.Reload()
	}
	if e.roots != nil {
		err = errors.Join(err, e.roots.Reload())
	}
	if old := e.dialer.Load(); old.TLSConfig != nil {
		d := *old // a copy shares what the dialer remembers of the carriers
		d.TLSConfig = old.TLSConfig.Clone()
		e.applyTLS(d.TLSConfig)
		e.dialer.Store(&d)
	}
	return err
}

// Dial opens a tunnel. Its errors name flags where those of the library name fields.
func (e *Edge) Dial(ctx context.Context) (*preflight.Conn, error) {
	d := e.dialer.Load()
	var c net.Conn
	var err error
	if e.url != "" {
		c, err = d.DialURL(ctx, e.url)
	} else {
		c, err = d.DialContext(ctx, "tcp", e.address)
	}
	if err != nil {
		return nil, flagError{err}
	}
	return c.(*preflight.Conn), nil
}

// String returns the URL without its query and its user.
func (e *Edge) String() string { return e.name }
