package diagnosis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The conditions of the rows.

func leadsTo(p place) func(*facts) bool { return func(f *facts) bool { return f.leads() == p } }

func sentAuthorization(f *facts) bool { return f.Authorization }

// addressAsHost reports whether Host is an IP address, which no site has for its name.
func addressAsHost(f *facts) bool {
	own := url.URL{Host: f.Host}
	_, err := netip.ParseAddr(own.Hostname())
	return err == nil
}

// nginxFile reports whether nginx served a file. Its ETag is the time and the length of the
// file, in hexadecimal. Apache has them the other way round.
func nginxFile(f *facts) bool {
	modified, err := http.ParseTime(f.Header.Get("Last-Modified"))
	if err != nil {
		return false
	}
	length, err := strconv.ParseInt(f.Header.Get("Content-Length"), 10, 64)
	return err == nil && f.Header.Get("Etag") == fmt.Sprintf("\"%x-%x\"", modified.Unix(), length)
}

// shows reports whether the fields name a proxy on the way.
func shows(f *facts) bool { return len(f.shown) > 0 || f.author != "" && f.author != golang }

// hidden reports whether an answer of the listener has lost its Upgrade. nginx passes the field
// on in an answer.
func (f *facts) hidden() bool {
	return f.Status == http.StatusUpgradeRequired && len(f.Header.Values("Upgrade")) == 0
}

// unchanged reports whether the answer of the listener came as it was written. A proxy must not
// pass on Connection (RFC 9110 §7.6.1), but one that copies bytes does.
func unchanged(f *facts) bool {
	return len(f.shown) == 0 && f.Status == http.StatusUpgradeRequired && f.Header.Get("Connection") == "close, Upgrade"
}

// otherScheme reports whether a challenge wants a single scheme, and Authorization was sent
// with another one.
func otherScheme(f *facts) bool {
	challenges := f.Header.Values("Www-Authenticate")
	if len(challenges) != 1 || f.Scheme == "" {
		return false
	}
	wanted, _, _ := strings.Cut(challenges[0], " ")
	return !strings.EqualFold(wanted, f.Scheme) && (strings.EqualFold(wanted, "Basic") || strings.EqualFold(wanted, "Bearer"))
}

// ownPage reports whether the page of a product is there. A proxy writes its name into Server
// also where it passes on the answer of another.
func ownPage(f *facts) bool { return f.author != "" }

// noChallenge reports whether a 401 lacks what RFC 9110 §15.5.2 wants of it. auth_basic of nginx
// sends it.
func noChallenge(f *facts) bool { return f.Header.Get("Www-Authenticate") == "" }

// fromUpstream reports whether Envoy got the answer from a server: that of a route, or that of
// ext_authz.
func fromUpstream(f *facts) bool { return len(f.Header.Values("X-Envoy-Upstream-Service-Time")) > 0 }

// viaCaddy reports whether Caddy passed the answer on. Before the version 2.10 it leaves no trace.
func viaCaddy(f *facts) bool {
	return slices.ContainsFunc(f.Header.Values("Via"), func(v string) bool { return strings.Contains(strings.ToLower(v), " caddy") })
}

func showsNginx(f *facts) bool { return slices.Equal(f.shown, []product{nginx}) }

func noBody(f *facts) bool { return len(f.body) == 0 }

// portRunsOn reports whether Apache looked up a name in which something stands behind the port.
func portRunsOn(f *facts) bool {
	_, name, found := strings.Cut(f.body, "dns lookup failure for: ")
	name, _, _ = strings.Cut(name, "<")
	_, port, hasPort := strings.Cut(name, ":")
	rest := strings.TrimLeft(port, "0123456789")
	return found && hasPort && rest != port && rest != "" && !strings.HasPrefix(rest, ":")
}

// largeHead reports whether the head of the request may be too large for some hop: the
// smallest limit of a proxy is 4 KiB for a line, and 8 KiB for all of them.
func largeHead(f *facts) bool { return f.HeadSize >= 4<<10 }

// anotherToken reports whether the Upgrade of a 426 lists others than the one asked for.
func anotherToken(f *facts) bool {
	lists := false
	for _, line := range f.Header.Values("Upgrade") {
		for token := range strings.SplitSeq(line, ",") {
			token = strings.Trim(token, " \t")
			if strings.EqualFold(token, f.Token) {
				return false
			}
			lists = lists || token != ""
		}
	}
	return lists
}

// plainOnTLS reports whether the answer says that plain HTTP was sent to a TLS port, as
// nginx, Apache and Go say it.
func plainOnTLS(f *facts) bool {
	return strings.Contains(f.body, "plain http") || strings.Contains(f.body, "http request to an https")
}

// plainBehind is plainOnTLS for a port behind the one that was dialed: we spoke TLS, or a proxy
// has passed the answer on. nginx, Apache and a PreflightListener close the connection behind
// it, and net/http adds no field to it.
func plainBehind(f *facts) bool {
	if !plainOnTLS(f) || f.author == "" && !f.TLS {
		return false
	}
	return f.TLS || len(f.others()) > 0 || f.Header.Get("Connection") != "close" && len(f.Header) > 0
}

// plainSomewhere is plainOnTLS as net/http writes it. HAProxy passes that on as it is.
func plainSomewhere(f *facts) bool { return plainOnTLS(f) && len(f.Header) == 0 }

func ended(f *facts) bool { return errors.Is(f.Err, io.EOF) || errors.Is(f.Err, io.ErrUnexpectedEOF) }

func reset(f *facts) bool {
	return errors.Is(f.Err, syscall.ECONNRESET) || errors.Is(f.Err, syscall.EPIPE)
}

func expired(f *facts) bool {
	return errors.Is(f.Err, os.ErrDeadlineExceeded) || errors.Is(f.Err, context.DeadlineExceeded)
}

// says reports whether the error has one of the texts of crypto/tls or of x/net.
func says(texts ...string) func(*facts) bool {
	return func(f *facts) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(f.err, text) })
	}
}

func notTLS(f *facts) bool { return errors.As(f.Err, new(tls.RecordHeaderError)) }

// certificates returns the chain of a peer that was not verified.
func (f *facts) certificates() []*x509.Certificate {
	var e *tls.CertificateVerificationError
	if errors.As(f.Err, &e) {
		return e.UnverifiedCertificates
	}
	return nil
}

func unknownAuthority(f *facts) bool { return errors.As(f.Err, new(x509.UnknownAuthorityError)) }

func selfSigned(f *facts) bool {
	chain := f.certificates()
	return unknownAuthority(f) && len(chain) == 1 && isSelfSigned(chain[0])
}

// leafAlone reports whether the peer sent its certificate without that of its issuer.
func leafAlone(f *facts) bool {
	chain := f.certificates()
	return unknownAuthority(f) && len(chain) == 1 && !isSelfSigned(chain[0])
}

func isSelfSigned(c *x509.Certificate) bool { return string(c.RawIssuer) == string(c.RawSubject) }

func outOfTime(f *facts) bool {
	var e x509.CertificateInvalidError
	return errors.As(f.Err, &e) && e.Reason == x509.Expired
}

// notYet reports whether the certificate begins later, which is nearly always a wrong clock.
func notYet(f *facts) bool { return outOfTime(f) && strings.Contains(f.err, "is before") }

func wrongName(f *facts) bool { return errors.As(f.Err, new(x509.HostnameError)) }

func badCertificate(f *facts) bool { return len(f.certificates()) > 0 }
