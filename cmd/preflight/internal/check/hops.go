package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/edge"
)

// A Step is one hop of the path, or one carrier.
type Step struct {
	Name   string  `json:"name"` // names, tcp, proxy, tls, or a carrier
	OK     bool    `json:"ok"`
	Detail string  `json:"detail"`
	Code   string  `json:"code,omitempty"` // of a carrier: that of docs/troubleshooting.md
	Millis float64 `json:"ms"`

	fault fault
	known bool // it found what an earlier step has found, so it is neither good nor bad
}

// A fault is why a step failed, as far as package net or crypto/tls tell it.
type fault string

const (
	noFault       fault = ""
	noName        fault = "no-name"
	nameFails     fault = "name-fails"
	refused       fault = "refused"
	timedOut      fault = "timeout"
	unreachable   fault = "unreachable"
	noAddress     fault = "no-address"
	localPolicy   fault = "denied"
	badURL        fault = "url"
	wasResetFault fault = "reset"
	otherFault    fault = "other"
)

func faultOf(err error) fault {
	var name *net.DNSError
	switch {
	case err == nil:
		return noFault
	case errors.As(err, &name) && name.IsNotFound:
		return noName
	case errors.As(err, &name):
		return nameFails
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return unreachable
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return noAddress
	case errors.Is(err, syscall.ECONNRESET):
		return wasResetFault
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return localPolicy
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return timedOut
	}
	return otherFault
}

// walk goes to the edge: names, TCP, the forward proxy, TLS.
func (c *checker) walk(ctx context.Context) {
	var err error
	if c.proxy, err = c.proxyOf(); err != nil {
		c.e.step(Step{Name: "proxy", Detail: "the URL of the forward proxy is not valid", fault: badURL})
		return
	}
	c.e.proxy = c.proxy != nil
	if c.header, err = c.Fields(ctx); err != nil {
		c.e.step(Step{Name: "fields", Detail: err.Error(), fault: otherFault})
		return
	}
	c.e.sentAuthorization = c.header.Get("Authorization") != ""
	c.e.scheme = schemeOf(c.header.Get("Authorization"))
	for _, hop := range []func(context.Context) bool{c.resolve, c.connect, c.passProxy} {
		if !hop(ctx) {
			return
		}
	}
	c.e.reached = true
	if c.Dialer.TLSConfig != nil && !c.e.proxyFailed() {
		c.handshake(ctx)
	}
}

// timed runs one step, and records it.
func (c *checker) timed(ctx context.Context, name string, step func(context.Context) (detail string, err error)) bool {
	c.progress(name)
	if ctx.Err() != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	begin := time.Now()
	detail, err := step(ctx)
	known := err == errKnown
	if known {
		err = nil
	}
	c.e.step(Step{Name: name, OK: err == nil, Detail: detail, Millis: millis(time.Since(begin)), fault: faultOf(err), known: known})
	return err == nil
}

// errKnown is the end of a step that found what an earlier one has found.
var errKnown = errors.New("as before")

func (c *checker) resolve(ctx context.Context) bool {
	host, _, _ := net.SplitHostPort(c.firstHop())
	if _, err := netip.ParseAddr(host); err == nil {
		return true // there is nothing to resolve
	}
	return c.timed(ctx, "names", func(ctx context.Context) (string, error) {
		addresses, err := net.DefaultResolver.LookupNetIP(ctx, c.family(), host)
		if err != nil {
			return host + ": " + plainError(err), err
		}
		for _, a := range addresses[:min(len(addresses), maxAddresses)] {
			c.addresses = append(c.addresses, a.Unmap().String())
		}
		return fmt.Sprintf("%s is %s", host, strings.Join(c.addresses, ", ")), nil
	})
}

// family is that of the addresses that this machine connects to. A connection from the address
// of bind can only lead to one of its own family.
func (c *checker) family() string {
	switch bind := c.bind(); {
	case bind == nil:
		return "ip"
	case bind.To4() != nil:
		return "ip4"
	}
	return "ip6"
}

// maxAddresses bounds how many addresses of a name are tried.
const maxAddresses = 4

// connect tries each address. One that fails slows clients down even if another answers.
func (c *checker) connect(ctx context.Context) (any bool) {
	host, port, _ := net.SplitHostPort(c.firstHop())
	if c.addresses == nil {
		c.addresses = []string{host}
	}
	for _, a := range c.addresses {
		address := net.JoinHostPort(a, port)
		ok := c.timed(ctx, "tcp", func(ctx context.Context) (string, error) {
			conn, err := c.netDialer().DialContext(ctx, "tcp", address)
			if err != nil {
				return address + ": " + plainError(err), err
			}
			conn.Close()
			return address, nil
		})
		any = any || ok
	}
	return any
}

// passProxy goes through the forward proxy. If that fails, the carriers still tell why.
func (c *checker) passProxy(ctx context.Context) bool {
	if c.proxy == nil {
		return true
	}
	c.timed(ctx, "proxy", func(ctx context.Context) (string, error) {
		conn, err := c.dialEdge(ctx)
		if err != nil {
			return fmt.Sprintf("%s://%s does not connect to %s", c.proxy.Scheme, c.firstHop(), c.Address), errProxy
		}
		conn.Close()
		return fmt.Sprintf("%s://%s connects to %s", c.proxy.Scheme, c.firstHop(), c.Address), nil
	})
	return true
}

// A Certificate has the facts of the certificate of the edge.
type Certificate struct {
	Names    []string  `json:"names"`
	Issuer   string    `json:"issuer"`
	NotAfter time.Time `json:"not_after"`
	Chain    int       `json:"chain"` // how many certificates came
	Trusted  bool      `json:"trusted"`

	hasIssuerURL bool // where the certificate of the issuer is
}

// handshake looks at TLS. The handshake verifies nothing, so that it shows every certificate;
// nothing is sent over it.
func (c *checker) handshake(ctx context.Context) {
	c.timed(ctx, "tls", func(ctx context.Context) (string, error) {
		conn, err := c.dialEdge(ctx)
		if err != nil {
			return plainError(err), err
		}
		defer conn.Close()
		config := c.Dialer.TLSConfig.Clone()
		config.ServerName, config.InsecureSkipVerify, config.NextProtos = c.serverName(), true, []string{"http/1.1"}
		t := tls.Client(conn, config)
		if err := t.HandshakeContext(ctx); err != nil {
			return plainError(err), err
		}
		state := t.ConnectionState()
		cert, verifyErr := c.certificate(&state)
		c.e.certificate = cert
		text := tls.VersionName(state.Version)
		if state.NegotiatedProtocol != "" {
			text += ", ALPN " + state.NegotiatedProtocol
		}
		text += fmt.Sprintf("; certificate of %s, issued by %s, until %s", strings.Join(cert.Names, " "), cert.Issuer, cert.NotAfter.Format(time.DateOnly))
		switch {
		case verifyErr == nil:
			return text + ", trusted", nil
		case c.Dialer.TLSConfig.InsecureSkipVerify:
			return text + ", not verified", nil
		}
		return text + ", not trusted", verifyErr
	})
}

// certificate verifies what the edge showed.
func (c *checker) certificate(state *tls.ConnectionState) (*Certificate, error) {
	leaf := state.PeerCertificates[0]
	cert := &Certificate{
		Names: leaf.DNSNames, Issuer: printable(leaf.Issuer.String()), NotAfter: leaf.NotAfter,
		Chain: len(state.PeerCertificates), hasIssuerURL: len(leaf.IssuingCertificateURL) > 0,
	}
	for _, ip := range leaf.IPAddresses {
		cert.Names = append(cert.Names, ip.String())
	}
	if len(cert.Names) == 0 {
		cert.Names = []string{leaf.Subject.CommonName}
	}
	for i, name := range cert.Names {
		cert.Names[i] = printable(name)
	}
	rest := x509.NewCertPool()
	for _, i := range state.PeerCertificates[1:] {
		rest.AddCert(i)
	}
	_, err := leaf.Verify(x509.VerifyOptions{DNSName: c.serverName(), Roots: c.Dialer.TLSConfig.RootCAs, Intermediates: rest})
	cert.Trusted = err == nil
	return cert, err
}

var allCarriers = []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierFramed, preflight.CarrierWebSocket}

// tryCarriers opens a tunnel by each carrier, as a client does: one after the other. If the
// first one takes long to fail, the others are tried at the same time.
func (c *checker) tryCarriers(ctx context.Context) {
	for i, carrier := range allCarriers {
		c.tryCarrier(ctx, carrier)
		if c.e.proxyFailed() {
			return
		}
		if s := c.e.find(string(carrier)); !s.OK && s.Millis >= slowMillis {
			var running sync.WaitGroup
			for _, other := range allCarriers[i+1:] {
				running.Go(func() { c.tryCarrier(ctx, other) })
			}
			running.Wait()
			c.e.sortCarriers()
			return
		}
	}
}

func (c *checker) tryCarrier(ctx context.Context, carrier preflight.Carrier) {
	c.timed(ctx, string(carrier), func(ctx context.Context) (string, error) {
		tunnel, err := c.dialTunnel(ctx, carrier)
		if err == nil {
			tunnel.Close()
			return "the tunnel opens", nil
		}
		a := &Answer{Name: string(carrier), About: "a tunnel by " + string(carrier), Outcome: failed}
		var answer *preflight.StatusError
		if errors.As(err, &answer) {
			a.Outcome, a.Status, a.header, a.body = answered, answer.StatusCode, answer.Header, answer.Body
			a.describe()
		}
		c.e.carrier(a, codeOf(err), err)
		return c.failure(a, err), err
	})
}

// dialTunnel opens a tunnel by one carrier.
func (c *checker) dialTunnel(ctx context.Context, carrier preflight.Carrier) (*preflight.Conn, error) {
	d := *c.Dialer
	d.Carriers = []preflight.Carrier{carrier}
	d.Header = c.header.Clone()
	if d.Header == nil {
		d.Header = make(map[string][]string)
	}
	d.Header.Set(idField, c.id+"."+string(carrier))
	d.GetHeader = nil
	tunnel, err := d.DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return nil, err
	}
	return tunnel.(*preflight.Conn), nil
}

// failure describes why a carrier failed, in a few words.
func (c *checker) failure(a *Answer, err error) string {
	text := plainError(err)
	if a.Outcome == answered {
		text = statusText(a.Status)
	}
	if code := codeOf(err); code != "" {
		text += " [" + code + "]"
	}
	return text
}

// codeOf returns the code at the end of an error of the library.
func codeOf(err error) string {
	text := err.Error()
	if i := strings.LastIndexByte(text, '['); i >= 0 && strings.HasSuffix(text, "]") {
		return text[i+1 : len(text)-1]
	}
	return ""
}

// plainError is what an error says at its end, without the addresses before it.
func plainError(err error) string {
	var name *net.DNSError
	var verify *tls.CertificateVerificationError
	switch fault := faultOf(err); {
	case errors.As(err, &name) && name.IsNotFound:
		return "the name does not exist"
	case errors.As(err, &name):
		return "the name cannot be resolved"
	case fault == timedOut:
		return "no answer in time"
	case fault == refused:
		return "connection refused"
	case fault == noAddress:
		return "this machine has no address or port for it"
	case fault == unreachable:
		return "the network or the host is unreachable"
	case errors.As(err, &verify):
		return "the certificate is not trusted"
	case errors.Is(err, syscall.ECONNRESET):
		return "the connection was reset"
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	text, _, _ := strings.Cut(edge.InFlags(err.Error()), "[")
	text, _, _ = strings.Cut(text, ": possible")
	if len(text) > maxError {
		text = text[:strings.LastIndexByte(text[:maxError], ' ')+1] + "…"
	}
	return printable(strings.TrimSpace(text))
}

// maxError is how much of an error a line of the report shows.
const maxError = 100

// printable removes what could change a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r > 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}
