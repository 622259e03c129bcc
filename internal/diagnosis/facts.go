package diagnosis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// facts are the evidence, and what is derived from it once.
type facts struct {
	*Evidence
	body   string // in lower case
	first  string
	err    string
	shown  []product
	author product
}

func newFacts(e *Evidence) *facts {
	f := &facts{Evidence: e, body: strings.ToLower(string(e.Body)), first: string(e.First)}
	f.shown, f.author = shown(e.Header), author(e.Header, f.body)
	if e.Receipt != "" && e.Status == http.StatusUpgradeRequired && len(e.Header.Values("Sec-Websocket-Accept")) > 0 {
		f.shown = append(f.shown, haproxy) // adds it where Upgrade lists websocket, as in the listener's 426
	}
	if e.Err != nil {
		f.err = e.Err.Error()
	}
	return f
}

// wrote reports whether p wrote the answer: its page shows it, or there is no page of another
// and p is the only product that the fields show.
func (f *facts) wrote(p product) bool {
	if f.author != "" {
		return f.author == p
	}
	return len(f.shown) == 1 && f.shown[0] == p
}

// fill replaces the names in braces:
//
//	{size}        the size of the request's head
//	{token}       the token of Upgrade
//	{websocket}   that CarrierWebSocket is to be added, unless the dialer tries it
//	{later}       when to try again
//	{tls}         how to speak TLS to the hop
//	{plain}       how not to
//	{config}      the tls.Config of the hop
//	{upgrade}     which setting passes Upgrade
//	{http10}      which setting passes it over HTTP/1.1
//	{secure}      which setting lets it speak TLS to its upstream, in parentheses
//	{route}       which settings lead a Host and path, in parentheses
//	{address}     that Host is an address, in parentheses
//	{authorization}  which setting passes Authorization
//	{connection}  which setting passes Connection
//	{proxy}       the proxy that answered, or else those that are on the way
//	{who}         the same, or a program behind, if it is not known which
//	{behind}      those that are on the way in front of the one that answered
func (f *facts) fill(text string) string {
	if !strings.Contains(text, "{") {
		return text
	}
	return strings.NewReplacer(
		"{websocket}", f.addWebSocket(),
		"{size}", strconv.Itoa(f.HeadSize),
		"{token}", f.Token,
		"{later}", f.later(),
		"{tls}", hop(f.Stage, "set TLSConfig, or write tcps:// in a URL", "write https:// in the URL that Proxy returns", ""),
		"{plain}", hop(f.Stage, "leave TLSConfig nil, or write tcp:// in a URL", "write http:// in the URL that Proxy returns", "leave TunnelTLSConfig nil, or set PreflightListener.TLSConfig"),
		"{config}", hop(f.Stage, "TLSConfig", "TLSConfig", "TunnelTLSConfig"),
		"{upgrade}", f.setting(func(s setting) string { return s.upgrade }),
		"{http10}", f.setting(func(s setting) string { return s.http10 }),
		"{connection}", f.setting(func(s setting) string { return s.connection }),
		"{proxy}", f.proxy(),
		"{who}", f.who(),
		"{behind}", f.behind(),
		"{secure}", named(f.others(), func(s setting) string { return s.secure }),
		"{route}", named(f.shown, func(s setting) string { return s.route }),
		"{address}", f.address(),
		"{authorization}", f.passAuthorization(),
	).Replace(text)
}

func (f *facts) addWebSocket() string {
	if f.WebSocket {
		return ""
	}
	return " (add CarrierWebSocket)"
}

// hop chooses the text for the hop of a stage.
func hop(at Stage, edge, proxy, tunnel string) string {
	switch at {
	case ProxyTLS, Connect, SOCKS:
		return proxy
	case TunnelTLS:
		return tunnel
	}
	return edge
}

func (f *facts) later() string {
	switch {
	case f.Wait <= 0:
		return "try again later"
	case f.Wait > 24*time.Hour || f.Wait == math.MaxInt64:
		return "try again after Retry-After"
	}
	return "try again in " + f.Wait.Round(time.Second).String()
}

// setting says what makes the product that is shown pass the upgrade. It may not be the one
// that is at fault: a good proxy in front of another writes its own name.
func (f *facts) setting(of func(setting) string) string {
	switch len(f.shown) {
	case 0:
		return "Let each proxy on the way pass Upgrade and Connection over HTTP/1.1 (docs/proxies.md has the line of each product)"
	case 1:
		s := settings[f.shown[0]]
		line := of(s)
		if f.shown[0] == nginx && f.hidden() {
			return "nginx is on the way, and a proxy that shows no name: it removes Upgrade from answers too, as Apache does without `upgrade=" + f.Token + "` in ProxyPass. Check both"
		}
		if line == "" {
			line = s.upgrade
		}
		if line == "" {
			return "Possibly " + string(f.shown[0]) + ", which is on the way: let it pass Upgrade and Connection"
		}
		return string(f.shown[0]) + " is on the way; if it is that proxy, " + strings.NewReplacer("{token}", f.Token, "{websocket}", f.addWebSocket()).Replace(line)
	}
	return joined(f.shown) + " are on the way: docs/proxies.md has the line of each"
}

// named returns a setting of the product, if there is only one, in parentheses.
func named(all []product, of func(setting) string) string {
	if len(all) != 1 || of(settings[all[0]]) == "" {
		return ""
	}
	return " (`" + of(settings[all[0]]) + "`)"
}

func (f *facts) address() string {
	if addressAsHost(f) {
		return " (now an address)"
	}
	return ""
}

func (f *facts) passAuthorization() string {
	if len(f.shown) != 1 || settings[f.shown[0]].authorization == "" {
		return "Let each proxy on the way pass it"
	}
	return string(f.shown[0]) + " is on the way; if it is that proxy, " + settings[f.shown[0]].authorization
}

func joined(all []product) string {
	var b strings.Builder
	for i, p := range all {
		if i > 0 {
			b.WriteString(" and ")
		}
		b.WriteString(string(p))
	}
	return b.String()
}

// proxy names the proxy that wrote the answer, or else those that passed it on.
func (f *facts) proxy() string {
	if f.author != "" && f.author != golang {
		return string(f.author)
	}
	return f.behind()
}

// who names the proxy that wrote the answer. If it is not known, a program behind those that
// are shown may have.
func (f *facts) who() string {
	switch {
	case f.author != "" && f.author != golang:
		return string(f.author)
	case len(f.shown) > 0:
		return joined(f.shown) + ", or a program behind,"
	}
	return "a proxy or program in front of the listener"
}

// behind names the products that passed an answer on, as the hop before another.
func (f *facts) behind() string {
	if others := f.others(); len(others) > 0 {
		return joined(others)
	}
	return "the proxy"
}

// others are the products that are shown, without the one that wrote the answer.
func (f *facts) others() []product {
	return slices.DeleteFunc(slices.Clone(f.shown), func(p product) bool { return p == f.author })
}

// A place is where a redirect leads.
type place uint8

const (
	elsewhere    place = iota // on the same host, or not to be understood
	sameOverTLS               // the same host over https, instead of http
	withSlash                 // the same path with a slash at its end
	otherHost                 // another host over http
	otherHostTLS              // another host over https
)

// leads returns where the Location of the answer leads.
func (f *facts) leads() place {
	u, err := url.Parse(f.Header.Get("Location"))
	if err != nil {
		return elsewhere
	}
	own := url.URL{Host: f.Host}
	same := u.Host == "" || strings.EqualFold(u.Hostname(), own.Hostname())
	switch {
	case same && u.Scheme == "https" && !f.TLS:
		return sameOverTLS
	case same && u.Path == f.Path+"/":
		return withSlash
	case same:
		return elsewhere
	case u.Scheme == "http":
		return otherHost
	case u.Scheme == "https":
		return otherHostTLS
	}
	return elsewhere
}

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

// unchanged reports whether the answer of the listener came as it was written. No proxy passes
// on that Connection, except one that copies bytes (RFC 9110 §7.6.1).
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

func showsNginx(f *facts) bool { return slices.Equal(f.shown, []product{nginx}) }

func noBody(f *facts) bool { return len(f.body) == 0 }

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
