// Package auth decides who may open a tunnel.
package auth

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/check"
	"github.com/preflight-go/preflight/cmd/preflight/internal/reload"
)

// Rules are the conditions for a tunnel. The zero value allows everybody.
type Rules struct {
	Tokens *reload.Value[Tokens] // bearer tokens; nil: none
	Users  *reload.Value[*Users] // names with passwords; nil: none
	Certs  *Certs                // of clients; nil: none is needed
}

// realm of the challenges.
const realm = "preflight"

// Check returns who has sent the request, or the refusal. If both tokens and passwords are
// accepted, one of them suffices. A certificate is needed beside them. Nothing of the
// credentials is in the refusal.
func (r *Rules) Check(req *http.Request) (who string, err error) {
	if r.Certs != nil {
		if who, err = r.Certs.check(req); err != nil {
			return "", err
		}
	}
	if r.Tokens == nil && r.Users == nil {
		return who, nil
	}
	fields := req.Header["Authorization"]
	if len(fields) > 1 {
		return "", &preflight.StatusError{StatusCode: http.StatusBadRequest, Body: []byte(check.ManyFields)}
	}
	scheme, credentials, _ := strings.Cut(strings.Join(fields, ""), " ")
	switch {
	case r.Tokens != nil && strings.EqualFold(scheme, "Bearer"):
		if name, ok := r.Tokens.Get().find(strings.TrimSpace(credentials)); ok {
			return name, nil
		}
	case r.Users != nil && strings.EqualFold(scheme, "Basic"):
		if name, password, ok := req.BasicAuth(); ok {
			known, err := r.Users.Get().verify(req.Context(), name, password)
			if err != nil {
				return "", err
			}
			if known {
				return name, nil
			}
		}
	}
	return "", r.challenge()
}

func (r *Rules) challenge() error {
	h := http.Header{}
	if r.Tokens != nil {
		h.Add("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", realm))
	}
	if r.Users != nil {
		h.Add("WWW-Authenticate", fmt.Sprintf("Basic realm=%q", realm))
	}
	return &preflight.StatusError{StatusCode: http.StatusUnauthorized, Header: h, Body: []byte("the request has no valid credentials\n")}
}

// Certs are the authorities of the clients' certificates, and the patterns of which one must match.
type Certs struct {
	roots               *reload.Value[*x509.CertPool]
	names, alternatives []*regexp.Regexp
}

// NewCerts reads patterns for the common name and for the subject alternative names. A * stands
// for one label of a DNS name, or for one segment of a URI. A * alone stands for anything.
func NewCerts(roots *reload.Value[*x509.CertPool], names, alternatives []string) *Certs {
	c := &Certs{roots: roots}
	for _, p := range names {
		c.names = append(c.names, compile(p))
	}
	for _, p := range alternatives {
		c.alternatives = append(c.alternatives, compile(p))
	}
	return c
}

func compile(pattern string) *regexp.Regexp {
	// No label has an @ or a slash. Without them, the pattern of a DNS name would also match an
	// e-mail address or a URI that ends like it.
	any := `[^.@/]+`
	switch {
	case pattern == "*":
		any = `.+`
	case strings.Contains(pattern, "/"):
		any = `[^/]+`
	}
	return regexp.MustCompile(`^` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, any) + `$`)
}

func (c *Certs) check(req *http.Request) (who string, err error) {
	if req.TLS == nil || len(req.TLS.VerifiedChains) == 0 {
		return "", forbidden(check.CertNeeded)
	}
	cert := req.TLS.VerifiedChains[0][0]
	if !c.isValid(req.TLS.PeerCertificates) {
		return "", forbidden(check.CertDenied)
	}
	if matches(c.names, cert.Subject.CommonName) {
		return cert.Subject.CommonName, nil
	}
	for _, name := range alternativesOf(cert) {
		if matches(c.alternatives, name) {
			return name, nil
		}
	}
	return "", forbidden(check.CertDenied)
}

// isValid verifies the chain of a client again. A client can send ordinary requests on its
// connection for long before it asks for a tunnel. Meanwhile the authorities may have changed, or
// the certificate may have expired.
func (c *Certs) isValid(chain []*x509.Certificate) bool {
	options := x509.VerifyOptions{Roots: c.roots.Get(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(options)
	return err == nil
}

func forbidden(why string) error {
	return &preflight.StatusError{StatusCode: http.StatusForbidden, Body: []byte(why)}
}

func matches(patterns []*regexp.Regexp, name string) bool {
	return slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(name) })
}

func alternativesOf(cert *x509.Certificate) []string {
	names := slices.Concat(cert.DNSNames, cert.EmailAddresses)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	return names
}
