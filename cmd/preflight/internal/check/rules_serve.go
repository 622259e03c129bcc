package check

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
)

// What `preflight serve` says when it refuses a request. A check knows these texts again.
const (
	NoServer       = "no server for this path\n"
	TooManyTunnels = "too many tunnels are open\n"
	TooOften       = "this address asks for tunnels too often\n"
	CertNeeded     = "a client certificate is needed\n"
	CertDenied     = "the client certificate is not allowed\n"
	ManyFields     = "the request has more than one Authorization field\n"
)

// notClean stands in front of a part of a path that `preflight serve` refuses, because a proxy may
// read it in another way.
const notClean = "this path has "

// The parts that it refuses.
const (
	emptySegment   = "//"
	encodedSlash   = "a slash that is percent-encoded"
	dotSegment     = "a dot segment"
	needlessEscape = "a percent-encoding without need"
)

// NotClean says which part of the path of u is refused.
func NotClean(u *url.URL) string {
	part := needlessEscape
	switch escaped := strings.ToLower(u.EscapedPath()); {
	case strings.Contains(escaped, "//"):
		part = emptySegment
	case strings.Contains(escaped, "%2f"):
		part = encodedSlash
	case !isClean(u.Path):
		part = dotSegment
	}
	return notClean + part + "\n"
}

// unclean is the part of the path that `preflight serve` refuses, as it says itself. It is "" if it
// says something else.
func (e *evidence) unclean() string {
	part, _ := strings.CutPrefix(strings.TrimSuffix(string(e.answer().body), "\n"), notClean)
	if slices.Contains([]string{emptySegment, encodedSlash, dotSegment, needlessEscape}, part) {
		return part
	}
	return ""
}

func refusesForm(e *evidence) bool { return e.unclean() != "" }

// ArrivedAs stands in front of the path in NoServerFor.
const ArrivedAs = ", which arrived as "

// NoServerFor is NoServer with the path that has arrived, in the form of a URL. A path that is
// too long to show is left out.
func NoServerFor(escaped string) string {
	if len(escaped) > 200 {
		return NoServer
	}
	return strings.TrimSuffix(NoServer, "\n") + ArrivedAs + escaped + "\n"
}

// serveRules are about what `preflight serve` says itself. The request reached it.
var serveRules = []rule{
	{code: "full", of: "authorize", when: says(TooManyTunnels),
		hop: "the listener", cause: "`preflight serve` has as many tunnels open as --max-conns allows", change: "raise --max-conns of `preflight serve`, or end tunnels"},
	{code: "rate-limit", of: "authorize", when: says(TooOften),
		hop: "the listener", cause: "`preflight serve` limits how often an address may ask for tunnels", change: "try again later, or raise --handshake-rate or --handshake-burst of `preflight serve`; all clients of a proxy count as one address unless --trusted-proxy names it"},
	{code: "client-cert", of: "authorize", when: all(says(CertNeeded), either(onTheWay, (*evidence).sentCertificate)),
		hop: "{way}", cause: "it ends TLS, so the client's certificate does not reach `preflight serve`, whose --client-ca wants one", change: "let it pass TLS on as it comes (nginx `stream`, HAProxy `mode tcp`), or present a certificate of its own (nginx `proxy_pass https://…` and `proxy_ssl_certificate`); or use --token-file in place of --client-ca"},
	{code: "client-cert", of: "authorize", when: all(says(CertNeeded), overTLS),
		hop: "the listener", cause: "`preflight serve` wants a client certificate (--client-ca), and none was sent", change: "use --cert and --key"},
	{code: "client-cert", of: "authorize", when: says(CertNeeded),
		hop: "the listener", cause: "`preflight serve` wants a client certificate (--client-ca), and the URL is without TLS", change: "write https:// in the URL, and use --cert and --key"},
	{code: "client-cert", of: "authorize", when: says(CertDenied),
		hop: "the listener", cause: "`preflight serve` does not allow the name in the certificate of the connection that it accepts", change: "add a pattern for that name by --allow-cn or --allow-san of `preflight serve`, or use another certificate: behind a proxy that ends TLS it is that of the proxy"},
	{code: "credentials-twice", of: "authorize", when: says(ManyFields),
		hop: "the request", cause: "it arrives with more than one Authorization", change: "send one: see --header, --header-file and --header-command, and what a proxy on the way adds"},

	{code: "other-route", of: "authorize", when: pathCut, hop: "{way}", cause: "it removes {cut} from the path, and `preflight serve` has no --route for what arrives", change: "let it keep the path ({keeps}), or remove {cut} from --route of `preflight serve`"},
	{code: "no-route", of: "authorize", when: all(pathKept, alone), hop: "the listener", cause: "`preflight serve` has no server for this path", change: "correct the path in the URL, or add it by --route"},
	{code: "no-route", of: "authorize", when: pathKept, hop: "the listener", cause: "`preflight serve` has no server for this path, which arrives whole: no proxy on the way removes a part of it", change: "add the whole path by --route of `preflight serve`, or correct the path in the URL; or let the proxy remove the part that --route lacks ({strip})"},
	{code: "other-route", of: "authorize", when: pathArrives, hop: "{way}", cause: "it changes the path, and `preflight serve` has no server for what arrives", change: "correct what changes the path ({keeps}), or add what arrives by --route of `preflight serve`"},
}

// says holds if the answer of the main carrier is this text of `preflight serve`.
func says(text string) func(*evidence) bool {
	return func(e *evidence) bool { return string(e.answer().body) == text }
}

// arrived is the path that `preflight serve` says it got.
func (e *evidence) arrived() (path string, ok bool) {
	before, path, ok := strings.Cut(strings.TrimSuffix(string(e.answer().body), "\n"), ArrivedAs)
	return path, ok && before+"\n" == NoServer
}

func pathArrives(e *evidence) bool {
	_, ok := e.arrived()
	return ok
}

// pathKept holds if the path arrives as it was sent.
func pathKept(e *evidence) bool {
	p, ok := e.arrived()
	return ok && p == cmp.Or(e.path(), "/")
}

// alone holds if no proxy that speaks HTTP is in front of the listener: a PROXY header in front of
// a request reaches it.
func alone(e *evidence) bool { return e.of("proxy-header").Reason == "proxy-header" }

// pathCut holds if a part at the beginning of the path does not arrive.
func pathCut(e *evidence) bool { return e.cut() != "" }

// cut is the part at the beginning of the path that does not arrive. It is a part of the URL, so
// a report may show it.
func (e *evidence) cut() string {
	p, ok := e.arrived()
	if !ok {
		return ""
	}
	if p == "/" && !strings.HasSuffix(e.path(), "/") { // "/pg" is cut to "/"
		return e.path()
	}
	cut, found := strings.CutSuffix(e.path(), p)
	if !found {
		return ""
	}
	return cut
}

// keeps says how each product on the way keeps the path.
func (e *evidence) keeps() string {
	return e.perProduct(func(s setting) string { return s.keep })
}

// strip says how each product on the way removes a part of the path.
func (e *evidence) strip() string {
	return e.perProduct(func(s setting) string { return s.strip })
}

// perProduct joins the words of the products on the way, or of some that are common.
func (e *evidence) perProduct(of func(setting) string) string {
	var texts []string
	for _, p := range e.way() {
		if text := of(settings[p]); text != "" {
			texts = append(texts, string(p)+": "+text)
		}
	}
	if len(texts) == 0 {
		for _, p := range []product{nginx, haproxy, traefik, caddy} { // Traefik never shows itself
			texts = append(texts, string(p)+": "+of(settings[p]))
		}
	}
	return strings.Join(texts, "; ")
}
