package check

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/config"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A fact adds to the evidence.
type fact func(*evidence)

func evidenceOf(facts ...fact) *evidence {
	e := newEvidence(&Target{
		Address: "edge.example:80",
		Dialer:  &preflight.PreflightDialer{Path: "/pg?key=query-s3cr3t"},
		Wanted:  []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierWebSocket},
	})
	e.reached = true
	for _, f := range facts {
		f(e)
	}
	return e
}

// fails makes every carrier that no fact before it has opened fail with a code.
func fails(code string) fact { return failsWith(code, Answer{Outcome: failed}, 1) }

// slowly makes it fail after a second.
func slowly(code string) fact { return failsWith(code, Answer{Outcome: failed}, 1000) }

func failsWith(code string, a Answer, millis float64) fact {
	return func(e *evidence) {
		for _, c := range allCarriers {
			if e.find(string(c)).Name != "" {
				continue
			}
			copied := a
			copied.Name = string(c)
			e.step(Step{Name: string(c), Code: code, Millis: millis})
			e.carrier(&copied, code, nil)
		}
	}
}

// refuses makes a product answer all carriers with a status.
func refuses(code string, status int, by product, header ...string) fact {
	return failsWith(code, answerOf(status, by, header...), 1)
}

func answerOf(status int, by product, header ...string) Answer {
	a := Answer{Outcome: answered, Status: status, Author: string(by), header: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		a.header.Set(header[i], header[i+1])
	}
	return a
}

func opened(c preflight.Carrier) fact {
	return func(e *evidence) { e.step(Step{Name: string(c), OK: true}) }
}

func allOpen(e *evidence) {
	for _, c := range allCarriers {
		opened(c)(e)
	}
}

// asks adds the answer to a question.
func asks(name string, a Answer) fact {
	return func(e *evidence) {
		a.Name = name
		e.add(&a)
	}
}

func speaking(protocol string) Answer { return Answer{Outcome: bytesOf, Speaks: protocol} }

// first makes the first hop a product.
func first(p product) fact { return asks("malformed", answerOf(400, p)) }

func stops(step string, f fault) fact {
	return func(e *evidence) { e.step(Step{Name: step, fault: f}) }
}

func proxied(e *evidence)           { e.proxy = true }
func withTLS(e *evidence)           { e.target.Dialer.TLSConfig = new(tls.Config) }
func withAuthorization(e *evidence) { e.sentAuthorization = true }

func withScheme(scheme string) fact {
	return func(e *evidence) { e.sentAuthorization, e.scheme = true, scheme }
}

// serveSays makes "preflight serve" refuse all carriers with a text.
func serveSays(status int, text string) fact {
	a := answerOf(status, listener)
	a.Reason, a.body = "authorize", []byte(text)
	return failsWith("authorize", a, 1)
}

func issuer(name string) fact {
	return func(e *evidence) { e.certificate = &Certificate{Chain: 1, Issuer: name} }
}

func tinyproxySays(text string) fact {
	a := answerOf(403, tinyproxy)
	a.body = []byte(text)
	return failsWith("connect-forbidden", a, 1)
}

func apacheSays(reason string) fact {
	a := answerOf(500, apache)
	a.body = []byte("<p>Reason: <strong>" + reason + "</strong></p>")
	return failsWith("bad-gateway", a, 1)
}

// refusedPath is what "preflight serve" answers to a path that has //.
func refusedPath() Answer {
	a := answerOf(404, listener)
	a.body = []byte(NotClean(&url.URL{Path: "/a//b"}))
	return a
}

func withCertificate(e *evidence) {
	withTLS(e)
	e.target.Dialer.TLSConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, nil }
}

func far(a Arrival) fact {
	return func(e *evidence) { e.far = &farReport{FarEnd: true, Arrivals: []Arrival{a}} }
}

func reason(r string) Answer {
	a := answerOf(426, listener)
	a.Reason = r
	return a
}

// file are the fields of a file that nginx serves.
var file = []string{"Last-Modified", time.Unix(0x1000, 0).UTC().Format(http.TimeFormat), "Content-Length", "32", "Etag", `"1000-20"`}

// cases are rows of evidence, and the code and a part of the hop of their verdict. Together
// with TestEveryCode they reach each rule.
var cases = []struct {
	code, hop string
	facts     []fact
}{
	{"far-tls", "nginx", []fact{allOpen, first(nginx), far(Arrival{TLS: true})}},
	{"far-proxy-header", "HAProxy", []fact{allOpen, first(haproxy), far(Arrival{ProxyHeader: "version 2"})}},
	{"server-at-fault", "the server", []fact{allOpen, far(Arrival{})}},
	{"other-route", "nginx", []fact{allOpen, first(nginx), far(Arrival{}), func(e *evidence) { e.farView = &FarView{Request: Arrival{Path: "//x"}} }}},
	{"unsteady", "behind nginx", []fact{allOpen, first(nginx), func(e *evidence) {
		e.others = "404 Not Found"
		e.step(Step{Name: "repeat"})
	}}},

	{"fields", "this machine", []fact{stops("fields", otherFault)}},
	{"proxy-url", "this machine", []fact{stops("proxy", badURL)}},
	{"no-name", "the name of the forward proxy", []fact{proxied, stops("names", noName)}},
	{"no-name", "the name in the URL", []fact{stops("names", noName)}},
	{"names", "DNS", []fact{stops("names", nameFails)}},
	{"proxy-down", "the forward proxy", []fact{proxied, stops("tcp", refused)}},
	{"proxy-unreachable", "the way to the forward proxy", []fact{proxied, stops("tcp", timedOut)}},
	{"refused", "edge.example:80", []fact{stops("tcp", refused)}},
	{"black-hole", "the network", []fact{stops("tcp", timedOut)}},
	{"unreachable", "the network", []fact{stops("tcp", unreachable)}},
	{"unreachable", "the network", []fact{stops("tcp", noAddress)}},
	{"bind", "this machine", []fact{stops("tcp", noAddress), func(e *evidence) {
		e.target.Dialer.NetDialer = &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}}
	}}},
	{"rule-closes", "edge.example:80", []fact{stops("tcp", wasResetFault)}},
	{"denied", "this machine", []fact{stops("tcp", localPolicy)}},
	{"tcp", "edge.example:80", []fact{stops("tcp", otherFault)}},

	{"socks-port", "the forward proxy", []fact{proxied, stops("proxy", otherFault), fails("proxy-ended"), asks("socks", speaking("SOCKS5"))}},
	{"http-proxy", "the forward proxy", []fact{proxied, stops("proxy", otherFault), fails("socks-timeout"), asks("connect", answerOf(200, ""))}},
	{"proxy-tls-port", "the forward proxy", []fact{proxied, stops("proxy", otherFault), fails("proxy-ended"), asks("client-hello", speaking("TLS"))}},
	{"proxy-plain", "the forward proxy", []fact{proxied, stops("proxy", otherFault), fails("not-tls"), asks("connect", answerOf(200, ""))}},
	{"connect-forbidden", "the forward proxy", []fact{proxied, stops("proxy", otherFault), refuses("connect-forbidden", 403, squid)}},
	{"connect-forbidden", "the forward proxy", []fact{proxied, stops("proxy", otherFault), refuses("connect-forbidden", 403, squid), func(e *evidence) { e.target.Address = "edge.example:443" }}},
	{"connect-forbidden", "the forward proxy", []fact{proxied, stops("proxy", otherFault), tinyproxySays("service requests from your host")}},
	{"connect-forbidden", "the forward proxy", []fact{proxied, stops("proxy", otherFault), tinyproxySays("The request you made has been filtered")}},
	{"connect-forbidden", "the forward proxy", []fact{proxied, stops("proxy", otherFault), refuses("connect-forbidden", 403, tinyproxy)}},
	{"connect-unreachable", "the edge", []fact{proxied, stops("proxy", otherFault), fails("socks-ended"), asks("socks", speaking("SOCKS5"))}},
	{"not-a-proxy", "the forward proxy", []fact{proxied, stops("proxy", otherFault), fails("proxy-ended"), asks("redis", speaking("Redis"))}},
	{"not-a-proxy", "the forward proxy", []fact{proxied, stops("proxy", otherFault), fails("ssh"), asks("silence", speaking("SSH"))}},
	{"proxy", "the forward proxy", []fact{proxied, stops("proxy", otherFault), fails("proxy-ended"), asks("http2", speaking(""))}},
	{"proxy", "the forward proxy", []fact{proxied, stops("proxy", otherFault), fails("a-code-of-another-version")}},

	{"plain-port", "edge.example:80", []fact{withTLS, fails("tls-ended"), asks("plain", answerOf(426, ""))}},
	{"plain-port", "edge.example:80", []fact{withTLS, fails("tls-ended"), asks("silence", speaking("SSH"))}},
	{"proxy-protocol", "edge.example:80", []fact{withTLS, fails("tls-ended"), asks("proxy-header-tls", speaking("TLS"))}},
	{"cert-chain", "edge.example:80", []fact{withTLS, fails("cert-chain"), func(e *evidence) { e.certificate = &Certificate{Chain: 1, hasIssuerURL: true} }}},
	{"cert-authority", "this machine", []fact{withTLS, fails("cert-chain"), func(e *evidence) { e.certificate = &Certificate{Chain: 1} }}},
	{"default-cert", "Traefik", []fact{withTLS, fails("cert-name"), issuer("CN=TRAEFIK DEFAULT CERT")}},
	{"default-cert", "ingress-nginx", []fact{withTLS, fails("cert-name"), issuer("CN=Kubernetes Ingress Controller Fake Certificate,O=Acme Co")}},
	{"default-cert", "Caddy", []fact{withTLS, fails("cert-authority"), issuer("CN=Caddy Local Authority - ECC Intermediate")}},
	{"cert-name", "edge.example:80", []fact{withTLS, fails("cert-name"), issuer("CN=R3,O=Let's Encrypt")}},
	{"tls-name", "edge.example:80", []fact{withTLS, fails("tls-ended"), asks("silence", Answer{Outcome: silent}), asks("plain", Answer{Outcome: wasReset})}},
	{"client-cert", "edge.example:80", []fact{withCertificate, fails("client-cert")}},
	{"silent", "edge.example:80", []fact{withTLS, fails("tls-timeout"), asks("plain", Answer{Outcome: silent})}},

	{"tls-port", "edge.example:80", []fact{fails("ended"), asks("client-hello", speaking("TLS"))}},
	{"tls-port", "edge.example:80", []fact{fails("tls-port")}},
	{"upstream-tls", "HAProxy", []fact{refuses("tls-port", 400, nginx), first(haproxy), asks("client-hello", answerOf(400, haproxy))}},
	{"upstream-tls", "HAProxy", []fact{withTLS, refuses("upstream-tls", 400, nginx), first(haproxy)}},
	{"proxy-protocol", "edge.example:80", []fact{fails("ended"), asks("proxy-header", answerOf(426, ""))}},
	{"upstream-other", "behind nginx", []fact{fails("ended"), first(nginx), asks("body", answerOf(100, ""))}},
	{"rule-closes", "nginx", []fact{fails("ended"), first(nginx), asks("proxy-header", answerOf(400, nginx))}},
	{"proxy-header", "the listener", []fact{fails("upstream-closed"), first(haproxy), asks("get", reason("proxy-header"))}},
	{"upstream-other", "behind nginx", []fact{fails("ssh"), first(nginx)}},
	{"upstream-other", "behind nginx", []fact{fails("mysql"), first(nginx)}},
	{"upstream-other", "behind nginx", []fact{fails("redis"), first(nginx)}},
	{"upstream-other", "behind nginx", []fact{fails("nats"), first(nginx)}},
	{"upstream-other", "behind nginx", []fact{fails("postgresql"), first(nginx)}},
	{"upstream-other", "behind nginx", []fact{fails("mail-or-ftp"), first(nginx)}},
	{"upstream-http2", "behind nginx", []fact{fails("http2-port"), first(nginx)}},
	{"upstream-other", "behind nginx", []fact{fails("ended"), first(nginx), asks("again", speaking("SSH"))}},
	{"upstream-other", "behind nginx", []fact{fails("ended"), first(nginx), asks("again", speaking("MySQL"))}},
	{"upstream-http2", "behind nginx", []fact{fails("ended"), first(nginx), asks("get", speaking("HTTP/2"))}},
	{"not-web", "edge.example:80", []fact{fails("ended"), asks("redis", speaking("Redis"))}},
	{"not-web", "edge.example:80", []fact{fails("ended"), asks("http2", speaking("HTTP/2"))}},
	{"not-web", "edge.example:80", []fact{fails("not-http"), asks("silence", speaking(""))}},
	{"server-down", "behind Varnish", []fact{fails("ended"), asks("malformed", answerOf(400, ""))}},
	{"rule-closes", "HAProxy", []fact{fails("ended"), first(haproxy)}},
	{"rule-closes", "the proxy", []fact{fails("ended"), first(golang)}},
	{"rule-drops", "HAProxy", []fact{fails("silent"), first(haproxy), asks("http2", speaking("HTTP/2"))}},
	{"server-slow", "behind nginx", []fact{fails("silent"), first(nginx)}},
	{"rule-closes", "edge.example:80", []fact{fails("ended"), asks("silence", Answer{Outcome: wasReset})}},
	{"server-down", "behind edge.example:80", []fact{fails("ended"), asks("silence", Answer{Outcome: ended})}},
	{"server-down", "behind edge.example:80", []fact{slowly("ended")}},
	{"not-web", "edge.example:80", []fact{fails("ended")}},
	{"silent", "edge.example:80", []fact{fails("silent")}},

	{"http10", "nginx", []fact{refuses("http10", 426, listener), first(nginx)}},
	{"http10", "nginx", []fact{refuses("http10", 426, listener), first(haproxy), asks("fields", answerOf(400, nginx))}},
	{"websocket-only", "nginx", []fact{opened(preflight.CarrierWebSocket), refuses("no-upgrade", 426, listener), first(nginx)}},
	{"no-upgrade", "nginx", []fact{refuses("no-upgrade", 426, listener), first(haproxy), asks("fields", answerOf(400, nginx))}},
	{"no-upgrade", "nginx or Apache", []fact{refuses("no-upgrade", 426, listener), first(nginx), asks("fields", answerOf(400, apache))}},
	{"fixed-upgrade", "nginx", []fact{refuses("websocket", 400, listener), first(nginx)}},
	{"server-down", "behind Envoy", []fact{func(e *evidence) {
		refuses("no-upgrades", 403, envoy)(e)
		e.codes[webSocket] = "server-down"
	}}},
	{"server-down", "behind Envoy", []fact{func(e *evidence) {
		refuses("forbidden", 403, envoy)(e)
		e.codes[webSocket] = "server-down"
	}}},
	{"authorize", "the listener", []fact{refuses("authorize", 429, listener)}},
	{"server-down", "behind `preflight serve`", []fact{refuses("authorize", 502, listener)}},
	{"no-route", "the listener", []fact{refuses("authorize", 404, listener)}},
	{"other-route", "nginx", []fact{first(nginx), failsWith("authorize", refusedPath(), 1)}},
	{"path-form", "the URL", []fact{failsWith("authorize", refusedPath(), 1)}},
	{"full", "the listener", []fact{serveSays(503, TooManyTunnels), first(nginx)}},
	{"rate-limit", "the listener", []fact{serveSays(429, TooOften), first(nginx)}},
	{"client-cert", "nginx", []fact{withCertificate, serveSays(403, CertNeeded), first(nginx)}},
	{"client-cert", "a proxy on the way", []fact{withCertificate, serveSays(403, CertNeeded)}},
	{"client-cert", "the listener", []fact{withTLS, serveSays(403, CertNeeded)}},
	{"client-cert", "the listener", []fact{serveSays(403, CertNeeded)}},
	{"client-cert", "the listener", []fact{withCertificate, serveSays(403, CertDenied)}},
	{"credentials-twice", "the request", []fact{withAuthorization, serveSays(400, ManyFields)}},
	{"other-route", "nginx", []fact{serveSays(404, NoServerFor("/")), first(nginx)}},
	{"other-route", "a proxy on the way", []fact{serveSays(404, NoServerFor("/"))}},
	{"no-route", "the listener", []fact{serveSays(404, NoServerFor("/pg")), first(nginx)}},
	{"no-route", "the listener", []fact{serveSays(404, NoServerFor("/pg"))}},
	{"no-route", "the listener", []fact{serveSays(404, NoServerFor("/pg")), asks("proxy-header", reason("proxy-header"))}},
	{"other-route", "nginx", []fact{serveSays(404, NoServerFor("/elsewhere")), first(nginx)}},
	{"no-route", "the listener", []fact{serveSays(404, NoServerFor("/"+strings.Repeat("x", 300))), first(nginx)}},
	{"tcp-only", "Apache", []fact{opened(preflight.CarrierUpgrade), opened(preflight.CarrierFramed), refuses("no-upgrade", 426, listener), first(apache)}},
	{"websocket-only", "HAProxy", []fact{opened(preflight.CarrierWebSocket), refuses("no-listener", 200, ""), first(haproxy)}},
	{"authorization-lost", "nginx", []fact{withAuthorization, refuses("authorize", 401, listener), first(nginx), asks("authorization", answerOf(401, listener)), asks("other-field", reason("too-large"))}},
	{"authorization-lost", "nginx", []fact{withAuthorization, refuses("authorize", 401, listener), first(nginx), func(e *evidence) { e.farView = &FarView{Removed: []string{"Authorization"}} }}},
	{"credentials-scheme", "the listener", []fact{withAuthorization, refuses("authorize", 401, listener, "Www-Authenticate", "Bearer realm=x"), asks("authorization", reason("too-large"))}},
	{"credentials-scheme", "the listener", []fact{withScheme("Basic"), refuses("authorize", 401, listener, "Www-Authenticate", "Bearer realm=x")}},
	{"credentials-refused", "the listener", []fact{withScheme("Bearer"), refuses("authorize", 401, listener, "Www-Authenticate", "Bearer realm=x")}},
	{"credentials-refused", "the listener", []fact{withAuthorization, refuses("authorize", 401, listener), asks("authorization", reason("too-large"))}},
	{"credentials-refused", "the listener", []fact{withAuthorization, refuses("authorize", 401, listener)}},

	{"no-listener", "nginx", []fact{refuses("no-listener", 200, nginx, file...)}},
	{"error-page", "behind nginx", []fact{refuses("no-listener", 200, nginx, file...), asks("post", answerOf(200, nginx))}},
	{"no-listener", "nginx", []fact{refuses("no-listener", 200, nginx, file...), asks("post", answerOf(405, nginx))}},
	{"no-listener", "Envoy", []fact{refuses("no-listener", 200, envoy)}},
	{"other-server", "behind nginx", []fact{refuses("no-listener", 200, ""), first(nginx), asks("get", answerOf(200, "")), asks("other-host", answerOf(200, ""))}},
	{"no-listener", "nginx", []fact{refuses("no-listener", 200, ""), first(nginx), asks("get", answerOf(200, "")), asks("other-host", answerOf(404, nginx))}},
	{"other-server", "behind Caddy", []fact{refuses("no-site", 200, "", "Via", "1.1 Caddy"), seen(caddy)}},
	{"other-server", "behind Caddy", []fact{withScheme("Bearer"), refuses("credentials-refused", 401, "", "Via", "1.1 Caddy", "Www-Authenticate", "Basic realm=x"), seen(caddy)}},
	{"other-server", "behind Envoy", []fact{refuses("no-route", 404, envoy), first(envoy), asks("get", answerOf(404, "", envoyTime, "1"))}},
	{"other-server", "behind HAProxy", []fact{refuses("forbidden", 403, ""), first(haproxy)}},
	{"websocket-only", "Traffic Server", []fact{refuses("no-route", 404, ats), asks("get", answerOf(426, ""))}},
	{"websocket-only", "Traffic Server", []fact{refuses("no-route", 404, ats), asks("get", reason("no-upgrade"))}},
	{"no-route", "Traefik", []fact{refuses("no-route", 404, golang), asks("http2", speaking("HTTP/2"))}},
	{"no-route", "the Go server", []fact{refuses("no-route", 404, golang), first(golang)}},
	{"other-route", "behind HAProxy", []fact{refuses("no-route", 404, golang), first(haproxy)}},
	{"no-route", "nginx", []fact{refuses("no-route", 404, nginx)}},
	{"no-route", "nginx", []fact{refuses("no-route", 404, nginx), asks("other-host", answerOf(404, nginx))}},
	{"host-port", "HAProxy", []fact{refuses("no-server", 503, haproxy), first(haproxy), asks("bare-host", answerOf(101, ""))}},
	{"host-port", "Envoy", []fact{refuses("no-route", 404, envoy), first(envoy), asks("bare-host", reason("authorize"))}},
	{"no-route", "Envoy", []fact{refuses("no-route", 404, envoy), first(envoy), asks("bare-host", answerOf(404, envoy))}},
	{"redirect-loop", "nginx", []fact{refuses("redirect-loop", 301, nginx), first(haproxy)}},
	{"redirect-loop", "behind nginx", []fact{refuses("redirect-loop", 301, ""), first(nginx)}},
	{"no-route", "Apache", []fact{refuses("no-route", 404, ""), first(apache)}},
	{"credentials-scheme", "nginx", []fact{withAuthorization, refuses("credentials-refused", 401, nginx, "Www-Authenticate", "Basic realm=x")}},
	{"credentials-scheme", "nginx", []fact{withScheme("Bearer"), refuses("credentials-refused", 401, nginx, "Www-Authenticate", "Basic realm=x")}},
	{"credentials-refused", "nginx", []fact{withScheme("Basic"), refuses("credentials-refused", 401, nginx, "Www-Authenticate", "Basic realm=x")}},
	{"upgrade-fails", "the proxy", []fact{refuses("bad-gateway", 502, ""), asks("get", answerOf(426, ""))}},
	{"proxy-header", "nginx", []fact{refuses("bad-request", 400, nginx), first(haproxy), asks("get", answerOf(400, nginx))}},
	{"bad-request", "nginx", []fact{refuses("bad-request", 400, nginx), first(nginx), asks("get", answerOf(400, nginx))}},
	{"bad-request", "Apache", []fact{refuses("bad-request", 400, apache), first(apache), asks("get", answerOf(400, apache))}},
	{"receipt-hidden", "the listener", []fact{refuses("credentials-missing", 401, nginx), asks("get", answerOf(426, ""))}},
	{"receipt-hidden", "the listener", []fact{refuses("bad-gateway", 502, nginx), asks("get", answerOf(426, ""))}},
	{"receipt-hidden", "the listener", []fact{refuses("credentials-missing", 401, nginx), asks("get", reason("no-upgrade"))}},
	{"no-upgrades", "Envoy", []fact{refuses("no-upgrades", 403, envoy)}},
	{"upstream-tls", "Apache", []fact{refuses("upstream-tls", 502, apache)}},
	{"upstream-tls", "HAProxy", []fact{refuses("upstream-tls", 400, nginx), first(haproxy)}},
	{"upstream-tls", "HAProxy", []fact{fails("tls-port"), first(haproxy), asks("client-hello", answerOf(400, haproxy))}},
	{"forbidden", "nginx", []fact{refuses("forbidden", 403, nginx), asks("other-path", answerOf(403, nginx))}},
	{"websocket-only", "nginx", []fact{refuses("bad-request", 400, nginx), func(e *evidence) {
		e.answers["websocket"] = &Answer{Outcome: answered, Status: 401, Reason: "authorize"}
	}}},
	{"rate-limit", "nginx", []fact{refuses("rate-limit", 429, nginx)}},
	{"maintenance", "nginx", []fact{refuses("rate-limit", 503, nginx, "Retry-After", "7")}},
	{"rate-limit", "nginx", []fact{refuses("rate-limit", 503, nginx)}},
	{"no-backend", "HAProxy", []fact{refuses("no-server", 503, haproxy), asks("other-path", answerOf(404, ""))}},
	{"queue-full", "HAProxy", []fact{failsWith("no-server", answerOf(503, haproxy), 100), asks("other-path", answerOf(503, haproxy))}},
	{"no-server", "HAProxy", []fact{refuses("no-server", 503, haproxy), asks("other-path", answerOf(503, haproxy))}},
	{"server-down", "behind HAProxy", []fact{failsWith("no-server", answerOf(503, haproxy), 1000)}},
	{"server-slow", "behind Apache", []fact{failsWith("upstream-closed", answerOf(502, apache), 1000)}},
	{"server-down", "behind nginx", []fact{refuses("bad-gateway", 502, nginx)}},
	{"server-down", "behind Caddy", []fact{refuses("bad-gateway", 502, caddy)}},
	{"server-down", "behind Caddy", []fact{refuses("bad-gateway", 502, "", "Via", "1.1 Caddy"), seen(caddy)}},
	{"upstream-other", "behind Traefik", []fact{refuses("upstream-not-http", 500, traefik)}},
	{"upstream-plain", "behind Envoy", []fact{refuses("upstream-closed", 503, envoy)}},
	{"upstream-plain", "behind HAProxy", []fact{refuses("upstream-closed", 502, haproxy)}},
	{"upstream-other", "behind Envoy", []fact{refuses("upstream-not-http", 502, envoy)}},
	{"upstream-other", "behind Traefik", []fact{refuses("upstream-not-http", 500, traefik)}},
	{"rule-drops", "HAProxy", []fact{failsWith("server-fault", answerOf(500, haproxy), 1000)}},
	{"apache-target", "Apache", []fact{apacheSays("DNS lookup failure for: 127.0.0.1:51749s3cr3t")}},
	{"apache-target", "Apache", []fact{apacheSays("DNS lookup failure for: app.internal:80pg-0")}},
	{"apache-name", "Apache", []fact{apacheSays("DNS lookup failure for: s3cr3t")}},
	{"apache-name", "Apache", []fact{apacheSays("DNS lookup failure for: s3cr3t:8080")}},
	{"server-fault", "nginx", []fact{refuses("server-fault", 500, nginx)}},
	{"apache-ssl", "Apache", []fact{refuses("server-fault", 500, apache)}},
	{"unknown", "edge.example:80", []fact{fails("a-code-of-another-version")}},
}

// TestRules has a row for each rule with a condition. Each row must reach its rule.
func TestRules(t *testing.T) {
	reached := make(map[int]bool)
	for _, c := range cases {
		e := evidenceOf(c.facts...)
		v := judge(e)
		require.NotNil(t, v, c.code)
		assert.Equal(t, c.code, v.Code, "%+v", v)
		assert.Contains(t, v.Hop, c.hop)
		for _, text := range append([]string{v.Hop, v.Cause, v.Change, v.Next, v.Print}, append(v.Else, v.Config...)...) {
			assert.NotContains(t, text, "s3cr3t")
			assert.NotRegexp(t, `\{[a-z][a-zA-Z0-9]+\}`, text, v.Code)
		}
		for i := range rules {
			if rules[i].fits(e) {
				reached[i] = true
				break
			}
		}
	}
	for i, r := range rules {
		if r.when != nil {
			assert.True(t, reached[i], "no row reaches rule %d: %s, %s", i, r.code, r.cause)
		}
	}
}

// TestEveryCode requires that each code of the library leads to a verdict that says something.
// docs/troubleshooting.md has them all.
func TestEveryCode(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "docs", "troubleshooting.md"))
	require.NoError(t, err)
	codes := make(map[string]bool)
	for line := range strings.SplitSeq(string(text), "\n") {
		if strings.HasPrefix(line, "| `[") {
			cell, _, _ := strings.Cut(line[1:], "|")
			for _, match := range regexp.MustCompile("`\\[([a-z0-9-]+)\\]`").FindAllStringSubmatch(cell, -1) {
				codes[match[1]] = true
			}
		}
	}
	require.Greater(t, len(codes), 80)
	for code := range codes {
		v := judge(evidenceOf(fails(code)))
		require.NotNil(t, v, code)
		assert.NotEqual(t, "unknown", v.Code, code)
		assert.NotEmpty(t, v.Hop, code)
		assert.NotEmpty(t, v.Cause, code)
		assert.NotEmpty(t, v.Change, code)
	}
	for _, r := range rules {
		for code := range strings.FieldsSeq(r.of) {
			assert.Contains(t, codes, code, "the library has no such code: %s", r.cause)
		}
	}
}

// TestNothingWrong requires that a path that works has no verdict.
func TestNothingWrong(t *testing.T) {
	require.Nil(t, judge(evidenceOf(allOpen, first(nginx))))
}

// TestRedirectPort names the port of the https URL, and nothing else of the Location.
func TestRedirectPort(t *testing.T) {
	change := func(location string) string {
		return judge(evidenceOf(refuses("redirect-https", 301, nginx, "Location", location), first(nginx))).Change
	}
	require.Contains(t, change("https://edge.example:8443/pg?s3cr3t"), "with the port 8443")
	require.NotContains(t, change("https://edge.example:8443/pg?s3cr3t"), "s3cr3t")
	require.Contains(t, change("https://edge.example:80/pg"), "the port of its TLS")
	for _, location := range []string{"https://edge.example/pg", "/pg", "https://edge.example:s3cr3t/"} {
		require.NotContains(t, change(location), "port", location)
	}
}

// TestArrivedPath says which part of the path is lost, in the words of the proxy.
func TestArrivedPath(t *testing.T) {
	v := judge(evidenceOf(serveSays(404, NoServerFor("/")), first(caddy)))
	require.Contains(t, v.Cause, "removes /pg from the path")
	require.Contains(t, v.Change, "`handle` in place of `handle_path`")
	require.Contains(t, judge(evidenceOf(serveSays(404, NoServerFor("/")))).Change, "Traefik: no `stripPrefix`")
	require.NotContains(t, judge(evidenceOf(serveSays(404, NoServerFor("/s3cr3t")), first(caddy))).Cause, "s3cr3t")
}

// TestWholePath says how a proxy would remove the part of the path that --route lacks.
func TestWholePath(t *testing.T) {
	change := func(p product) string {
		return judge(evidenceOf(serveSays(404, NoServerFor("/pg")), first(p))).Change
	}
	require.Contains(t, change(golang), "Traefik: the middleware `stripPrefix`")
	require.Contains(t, change(nginx), "(nginx: `location /PART/` with `proxy_pass http://NAME/`)")
	require.Contains(t, change(envoy), "`prefix_rewrite: /`")
}

// TestHostPort has the words of the proxy that compares the Host with its port.
func TestHostPort(t *testing.T) {
	change := func(p product) string {
		return judge(evidenceOf(refuses("no-route", 404, p), first(p), asks("bare-host", answerOf(101, "")))).Change
	}
	require.Contains(t, change(envoy), "ignore_port_in_host_matching")
	require.Contains(t, change(haproxy), "field(1,:)")
	require.Contains(t, change(lighttpd), "without its port")
}

// TestExempt says how the proxy exempts the path from its credentials.
func TestExempt(t *testing.T) {
	refused := func(p product) string {
		return judge(evidenceOf(withScheme("Bearer"), refuses("credentials-refused", 401, p, "Www-Authenticate", "Basic realm=x"))).Change
	}
	require.Contains(t, refused(nginx), "`auth_basic off;`")
	require.Contains(t, refused(haproxy), "`unless { path_beg /pg }`")
	require.NotContains(t, refused(caddy), "()")
}

// TestIdleChange names each proxy on the way that may have the limit.
func TestIdleChange(t *testing.T) {
	require.Equal(t, "raise it: nginx `proxy_read_timeout` and `proxy_send_timeout`", evidenceOf(first(nginx)).idleChange())
	both := evidenceOf(allOpen, first(haproxy), asks("expect", answerOf(400, nginx))).idleChange()
	require.Contains(t, both, "HAProxy `timeout tunnel`, or nginx `proxy_read_timeout`")
	require.Contains(t, evidenceOf().idleChange(), "of a proxy on the way")
}

// TestGroups names each proxy on the way that may share the requests.
func TestGroups(t *testing.T) {
	require.Equal(t, "the `server` lines of the backend of HAProxy, or the `upstream` block of nginx", evidenceOf(allOpen, first(haproxy), asks("expect", answerOf(400, nginx))).groups())
	require.NotEmpty(t, evidenceOf().groups())
}

// TestSchemes never names a scheme that is not known: it may be a secret.
func TestSchemes(t *testing.T) {
	require.Equal(t, "Bearer", schemeOf("bearer s3cr3t"))
	require.Empty(t, schemeOf("s3cr3t"))
}

// TestPaste prints the lines of the products that may be at fault.
func TestPaste(t *testing.T) {
	one := judge(evidenceOf(refuses("no-upgrade", 426, listener), first(nginx)))
	assert.Equal(t, settings[nginx].upgrade, one.Config)
	assert.Equal(t, "preflight config nginx --path /pg --backend HOST:PORT", one.Print)
	missing := judge(evidenceOf(refuses("no-route", 404, nginx), first(nginx)))
	assert.Equal(t, "location /pg {", missing.Config[0])
	assert.Contains(t, missing.Config, "    proxy_pass http://HOST:PORT;")
	two := judge(evidenceOf(refuses("no-upgrade", 426, listener), first(nginx), asks("fields", answerOf(400, apache))))
	assert.Contains(t, two.Config, "# nginx:")
	assert.Contains(t, two.Config, `ProxyPass "/pg" "http://BACKEND" upgrade=tcp`)
	assert.Empty(t, two.Print)
}

// TestPasteIsWhole requires that what a report tells a user of nginx to add has each
// proxy_set_header that "preflight config nginx" prints: a location with one of its own inherits
// none, and without them a client could write its own address.
func TestPasteIsWhole(t *testing.T) {
	files, err := config.Print("nginx", config.Options{Carriers: []string{"websocket"}})
	require.NoError(t, err)
	var need []string
	for line := range strings.Lines(files[0].Text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "proxy_set_header ") && !strings.Contains(line, " Connection ") {
			need = append(need, line)
		}
	}
	require.Len(t, need, 3)
	for _, facts := range [][]fact{
		{refuses("no-upgrade", 426, listener), first(nginx)},
		{refuses("http10", 426, listener), first(nginx)},
		{refuses("websocket", 400, listener), first(nginx)},
		{refuses("no-connection", 426, listener), first(nginx)},
		{refuses("no-route", 404, nginx), first(nginx)},
		{refuses("no-upgrade", 426, listener), first(nginx), asks("fields", answerOf(400, apache))},
		{opened(preflight.CarrierWebSocket), refuses("no-connection", 426, listener), first(nginx)},
	} {
		v := judge(evidenceOf(facts...))
		pasted := strings.Join(v.Config, "\n")
		for _, line := range need {
			assert.Contains(t, pasted, line, v.Code)
			if strings.Contains(v.Change, "add `proxy_") {
				assert.Contains(t, v.Change, line, v.Code)
			}
		}
	}
}

// TestMap requires that a map of nginx, which can pass one upgrade and not another, is named where
// it can be the cause.
func TestMap(t *testing.T) {
	for _, facts := range [][]fact{
		{refuses("no-upgrade", 426, listener), first(nginx)},
		{refuses("no-connection", 426, listener), first(nginx)},
		{opened(preflight.CarrierWebSocket), refuses("no-connection", 426, listener), first(nginx)},
		{opened(preflight.CarrierWebSocket), refuses("no-upgrade", 426, listener), first(nginx)},
	} {
		v := judge(evidenceOf(facts...))
		require.NotEqual(t, certain, v.Certainty, "%+v", v)
		require.Contains(t, v.Change+strings.Join(v.Else, "\n"), "`map` of `$http_upgrade`", "%+v", v)
	}
	require.NotContains(t, judge(evidenceOf(refuses("no-connection", 426, listener), first(varnish))).Else, "")
}

// TestNotClean names the part of a path that is refused, and no other.
func TestNotClean(t *testing.T) {
	for path, part := range map[string]string{
		"/a//b": emptySegment, "//": emptySegment, "/a%2Fb": encodedSlash, "/a%2f%2fb": encodedSlash, "/a/../b": dotSegment, "/.": dotSegment,
		"/%2e/": dotSegment, "/%70g": needlessEscape,
	} {
		u, err := url.Parse("http://edge.example" + path)
		require.NoError(t, err)
		a := refusedPath()
		a.body = []byte(NotClean(u))
		v := judge(evidenceOf(failsWith("authorize", a, 1)))
		require.Equal(t, "it has "+part+", and `preflight serve` refuses that", v.Cause, path)
	}
	secret := refusedPath()
	secret.body = []byte("this path has s3cr3t\n")
	require.NotContains(t, judge(evidenceOf(failsWith("authorize", secret, 1))).Cause, "s3cr3t")
}
