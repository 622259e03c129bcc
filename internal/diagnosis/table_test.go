package diagnosis

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// evidenceOf returns the evidence of an answer to a request for a tunnel.
func evidenceOf(t *testing.T, answer string) *Evidence {
	head, body, _ := strings.Cut(answer, "\n\n")
	r, err := http.ReadResponse(bufio.NewReader(strings.NewReader("HTTP/1.1 "+strings.ReplaceAll(head, "\n", "\r\n")+"\r\n\r\n")), nil)
	require.NoError(t, err)
	e := &Evidence{
		Stage: Upgrade, Token: "tcp", Host: "edge.example:8080", Path: "/client/amps", HeadSize: 200,
		Status: r.StatusCode, Receipt: r.Header.Get("Preflight-Refusal"), Header: r.Header, Body: []byte(body),
	}
	if seconds, err := time.ParseDuration(r.Header.Get("Retry-After") + "s"); err == nil {
		e.Wait = seconds
	}
	return e
}

// The pages that products write themselves.
const (
	haproxyPage  = "<html><body><h1>%s</h1>\nNo server is available to handle this request.\n</body></html>\n"
	nginxPage    = "<html>\n<head><title>%s</title></head>\n<body>\n<center><h1>%[1]s</h1></center>\n<hr><center>nginx/1.22.1</center>\n</body>\n</html>\n"
	apachePage   = "<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 4.01//EN\" \"http://www.w3.org/TR/html4/strict.dtd\">\n<html><head>\n<title>%s</title>\n</head></html>\n"
	apacheOld    = "<!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML 2.0//EN\">\n<html><head>\n<title>%s</title>\n</head></html>\n"
	lighttpdPage = "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<html><h1>%s</h1></html>"
	envoyText    = "upstream connect error or disconnect/reset before headers. reset reason: "
	goNotFound   = "404 page not found\n"
)

func titled(format, title string) string { return fmt.Sprintf(format, title) }

// byAnswer are answers of the reverse proxies and of what is behind them. The answers are as
// the products send them.
var byAnswer = []struct{ answer, code, says string }{
	// Of a listener.
	{"426 U\nServer: nginx/1.22.1\nPreflight-Refusal: http10\n\n", "http10", "`proxy_http_version 1.1`, `proxy_set_header Upgrade $http_upgrade`"},
	{"426 U\nPreflight-Refusal: http10\n\n", "http10", "Let each proxy on the way pass Upgrade"},
	{"426 U\nServer: Apache/2.4.71\nPreflight-Refusal: http10\n\n", "http10", "remove `force-proxy-request-1.0`"},
	{"426 U\nServer: Varnish\nVia: 1.1 v (Varnish/7.1)\nX-Varnish: 2\nPreflight-Refusal: http10\n\n", "http10", "Varnish is on the way; if it is that proxy, its VCL"},
	{"426 U\nServer: nginx\nPreflight-Refusal: no-upgrade\n\n", "no-upgrade", "nginx is on the way; if it is that proxy, its location needs `proxy_set_header Upgrade $http_upgrade`"},
	{"426 U\nServer: Apache\nPreflight-Refusal: no-upgrade\n\n", "no-upgrade", "its ProxyPass needs `upgrade=tcp`"},
	{"426 U\nServer: Apache-Coyote/1.1\nPreflight-Refusal: no-upgrade\n\n", "no-upgrade", "Let each proxy"},
	{"426 U\nServer: nginx\nVia: 1.1 Caddy, 1.1 x (squid/5.7)\nPreflight-Refusal: no-upgrade\n\n", "no-upgrade", "nginx and Caddy and Squid are on the way: docs/proxies.md"},
	{"426 U\nServer: nghttpx\nPreflight-Refusal: no-upgrade\n\n", "no-upgrade", "Possibly nghttpx, which is on the way"},
	{"426 U\nServer: nginx\nPreflight-Refusal: no-connection\n\n", "no-connection", "its location needs `proxy_set_header Connection upgrade`"},
	{"505 H\nPreflight-Refusal: http2\n\n", "http2", "let that proxy speak HTTP/1.1"},
	{"405 M\nPreflight-Refusal: method\n\n", "method", "another method than GET"},
	{"400 B\nPreflight-Refusal: body\n\n", "body", "a proxy on the way adds one"},
	{"417 E\nPreflight-Refusal: expect\n\n", "expect", "Expect"},
	{"400 B\nPreflight-Refusal: head\n\n", "head", "StatusError.Body has the rule"},
	{"431 L\nPreflight-Refusal: too-large\n\n", "too-large", "200 bytes"},
	{"408 S\nPreflight-Refusal: too-slow\n\n", "too-slow", "HandshakeTimeout"},
	{"400 W\nPreflight-Refusal: websocket\n\n", "websocket", "Sec-WebSocket-Key"},
	{"400 W\nPreflight-Refusal: subprotocol\n\n", "subprotocol", "Sec-WebSocket-Protocol"},
	{"426 U\nPreflight-Refusal: carrier\n\n", "carrier", "PreflightListener.Carriers"},
	{"426 U\nPreflight-Refusal: protocol\n\n", "protocol", "PreflightListener.Protocols"},
	{"426 U\nPreflight-Refusal: tunnel-tls\n\n", "tunnel-tls", "TunnelTLSConfig"},
	{"503 U\nRetry-After: 1\nPreflight-Refusal: unavailable\n\nthe server is shutting down\n", "draining", "shutting down; try again in 1s"},
	{"503 U\nRetry-After: 1\nPreflight-Refusal: unavailable\n\ntoo many handshakes are under way\n", "full", "MaxPending"},
	{"400 B\nPreflight-Refusal: proxy-header\n\n", "proxy-header", "TrustedProxies"},
	{"403 F\nPreflight-Refusal: origin\n\n", "origin", "AllowedOrigins"},
	{"400 B\nPreflight-Refusal: request\n\n", "request", "ClientAddrHeader"},
	{"429 T\nRetry-After: 90\nPreflight-Refusal: authorize\n\n", "authorize", "for now; try again in 1m30s"},
	{"400 B\nPreflight-Refusal: authorize\n\nthe client ended its direction before", "authorize", "half-close"},
	{"401 U\nX-Sent: Authorization\nPreflight-Refusal: authorize\n\n", "authorize", "Authorization was sent"},
	{"401 U\nPreflight-Refusal: authorize\n\n", "authorize", "without Authorization"},
	{"500 I\nPreflight-Refusal: internal\n\ndoes a middleware hide http.Hijacker? (feature not supported)", "no-hijack", "http.Hijacker"},
	{"500 I\nPreflight-Refusal: internal\n\nthe server is misconfigured\n", "misconfigured", "Accept returns"},
	{"500 I\nPreflight-Refusal: internal\n\nthe server failed to authorize the request\n", "internal", "Authorize panicked"},
	{"499 X\nPreflight-Refusal: new-code\n\n", "refused-by-listener", "StatusError.Reason"},

	// Of another program, or of a proxy itself.
	{"200 OK\nServer: Caddy\n\n", "no-site", "Caddyfile"},
	{"200 OK\nServer: Apache\n\nSSH-2.0-OpenSSH_9.2\r\n", "ssh", "Apache passed on what an SSH server answered"},
	{"200 OK\nServer: Apache\n\n-ERR unknown command", "redis", "Redis"},
	{"200 OK\nServer: Apache\n\n220 mail.example ESMTP", "mail-or-ftp", "mail or FTP"},
	{"200 OK\nServer: nginx\n\n<html>", "no-listener", "no PreflightListener answered but another program, or nginx itself"},
	{"204 N\n\n", "no-listener", "or the proxy itself"},
	{"426 U\nServer: Apache\nUpgrade: WebSocket\n\n" + titled(apachePage, "426"), "websocket-only", "instead of ws://"},
	{"426 U\nUpgrade: h2c, , TLS/1.2\n\n", "other-tokens", "other protocols than tcp"},
	{"426 U\nUpgrade: websocket, TCP\n\n", "no-listener", "no PreflightListener answered"},
	{"426 U\n\n", "no-listener", "removed the receipt"},
	{"301 M\nLocation: https://edge.example/client/amps\n\n", "redirect-https", "set TLSConfig, or write tcps://"},
	{"308 M\nLocation: http://EDGE.example/client/amps/\n\n", "redirect-slash", "a slash at its end"},
	{"308 M\nLocation: /client/amps/\n\n", "redirect-slash", "a slash at its end"},
	{"302 F\nLocation: http://portal.example/\n\n", "captive-portal", "captive portal does (possible)"},
	{"302 F\nLocation: https://login.example/?next=x\n\n", "redirect-login", "sign-in page"},
	{"302 F\nLocation: /login\n\n", "redirect", "another path of this host"},
	{"302 F\nLocation: http://[edge/\n\n", "redirect", "another path"},
	{"302 F\nLocation: mailto:x@y\n\n", "redirect", "not followed"},
	{"302 F\nLocation: ftp://x/\n\n", "redirect", "not followed"},
	{"400 B\nServer: nginx\n\nClient sent an HTTP request to an HTTPS server.\n", "upstream-tls", "nginx sends plain HTTP to a port that speaks TLS"},
	{"400 B\nX-Sent: TLS\nServer: nginx\n\n" + titled(nginxPage, "400 The plain HTTP request was sent to HTTPS port"), "upstream-tls", "speaks TLS"},
	{"400 B\nServer: nginx\n\n" + titled(nginxPage, "400 The plain HTTP request was sent to HTTPS port"), "tls-port", "set TLSConfig"},
	{"400 B\n\nClient sent an HTTP request to an HTTPS server.\n", "tls-port", "set TLSConfig"},
	{"400 B\nServer: nginx\n\n" + titled(nginxPage, "400 No required SSL certificate was sent"), "client-cert", "Certificates of TLSConfig"},
	{"400 B\nServer: nginx\n\n" + titled(nginxPage, "400 The SSL certificate error"), "client-cert", "does not accept"},
	{"400 B\nServer: nginx\n\n" + titled(nginxPage, "400 Request Header Or Cookie Too Large"), "head-size", "large_client_header_buffers"},
	{"400 B\nServer: Apache\n\n" + titled(apachePage, "400") + "Size of a request header field exceeds server limit.", "head-size", "LimitRequestFieldSize"},
	{"431 L\n\n", "head-size", "200 bytes"},
	{"400 Invalid Upgrade Request\nServer: ATS/9.2.9\n\n", "websocket-only", "remap"},
	{"400 B\nX-Sent: 10 KiB\n\n", "bad-request", "10240 bytes"},
	{"400 B\n\n" + titled(haproxyPage, "400 Bad request"), "bad-request", "malformed"},
	{"401 U\nServer: nginx\nX-Sent: Authorization\n\n", "credentials-refused", "Renew"},
	{"401 U\nServer: nginx\n\n" + titled(nginxPage, "401"), "credentials-missing", "auth_basic"},
	{"401 U\n\n", "credentials-missing", "no Authorization was sent"},
	{"403 F\nServer: envoy\n\nRBAC: access denied", "rbac", "AuthorizationPolicy"},
	{"403 F\nServer: envoy\n\n", "no-upgrades", "`upgrade_configs: [{upgrade_type: tcp}]`"},
	{"403 F\n\n" + titled(haproxyPage, "403 Forbidden"), "forbidden", "http-request deny"},
	{"403 F\nServer: nginx\n\n" + titled(nginxPage, "403 Forbidden"), "forbidden", "allow"},
	{"403 F\nServer: Apache\n\n" + titled(apachePage, "403 Forbidden"), "forbidden", "Require"},
	{"403 F\n\n", "forbidden", "Possible"},
	{"407 P\n\n", "proxy-auth-at-edge", "Set Proxy"},
	{"404 N\nServer: envoy\n\n", "no-route", "domains"},
	{"404 N\nServer: nginx\n\n" + goNotFound, "other-route", "a Go server behind nginx"},
	{"404 N\n\n" + goNotFound, "no-route", "Traefik"},
	{"404 N\nServer: nginx\n\n" + titled(nginxPage, "404 Not Found"), "no-route", "server_name"},
	{"404 N\nServer: Apache/2.4.71 (Debian)\n\n" + titled(apachePage, "404 Not Found"), "no-route", "ProxyPass"},
	{"404 N\nServer: nginx\n\n" + titled(apacheOld, "404 Not Found"), "no-route", "Apache has no ProxyPass"},
	{"404 N\n\n", "no-route", "no PreflightListener answered"},
	{"421 M\n\n", "wrong-host", "ServerName"},
	{"405 M\nServer: envoy\n\n", "no-upgrades", "upgrade_configs"},
	{"501 N\n\n", "no-upgrades", "knows no upgrade"},
	{"505 H\n\n", "http-version", "HTTP/1.1"},
	{"429 T\nRetry-After: 7\nServer: nginx\n\n", "rate-limit", "try again in 7s"},
	{"429 T\n\n", "rate-limit", "try again later"},
	{"429 T\nRetry-After: 99999999\n\n", "rate-limit", "try again after Retry-After"},
	{"408 R\n\n", "too-slow", "later"},
	{"425 T\n\n", "too-early", "early data"},
	{"503 S\nServer: squid/5.7\nX-Squid-Error: ERR_CONNECT_FAIL 111\n\n", "squid-down", "cache_peer"},
	{"403 F\nServer: squid/5.7\nX-Squid-Error: ERR_ACCESS_DENIED 0\n\n", "squid-denied", "http_access"},
	{"503 S\nServer: envoy\n\n" + envoyText + "connection termination", "upstream-closed", "Envoy reached"},
	{"502 B\nServer: envoy\n\n" + envoyText + "protocol error", "upstream-not-http", "Envoy reached"},
	{"503 S\nServer: envoy\n\n" + envoyText + "remote connection failure, transport failure reason: TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER", "upstream-tls", "transport_socket"},
	{"502 B\n\n" + titled(haproxyPage, "502 Bad Gateway"), "upstream-closed", "HAProxy reached"},
	{"503 S\n\n" + titled(haproxyPage, "503 Service Unavailable"), "no-server", "use_backend"},
	{"502 P\nServer: Apache\n\n" + titled(apachePage, "502 Proxy Error"), "upstream-closed", "Apache reached"},
	{"500 I\nServer: lighttpd/1.4.69\n\n" + titled(lighttpdPage, "500"), "upstream-closed", "lighttpd reached"},
	{"502 B\nServer: lighttpd/1.4.69\n\n" + titled(lighttpdPage, "502"), "upstream-not-http", "lighttpd reached"},
	{"502 G\nServer: h2o/2.2.5\n\nfailed to parse the response", "upstream-not-http", "h2o reached"},
	{"502 G\nServer: h2o/2.2.5\n\nI/O error (head)", "upstream-closed", "h2o reached"},
	{"502 G\nServer: h2o/2.2.5\n\nconnection failed", "server-down", "h2o cannot reach"},
	{"500 I\n\nInternal Server Error", "upstream-not-http", "Traefik reached"},
	{"502 B\nServer: nginx\n\n" + titled(nginxPage, "502 Bad Gateway"), "bad-gateway", "proxy_pass"},
	{"502 B\nServer: Caddy\n\n", "bad-gateway", "reverse_proxy"},
	{"502 B\n\nBad Gateway", "bad-gateway", "Traefik cannot reach"},
	{"502 B\nServer: cloudflare\n\n", "bad-gateway", "Cloudflare cannot reach"},
	{"502 B\n\n", "bad-gateway", "the proxy cannot reach"},
	{"503 S\nServer: envoy\n\n" + envoyText + "remote connection failure", "server-down", "Envoy cannot reach"},
	{"503 S\nServer: envoy\n\nno healthy upstream", "server-down", "Envoy cannot reach"},
	{"503 S\nServer: lighttpd/1.4.69\n\n" + titled(lighttpdPage, "503"), "server-down", "proxy.server"},
	{"503 S\n\nno available server\n", "server-down", "Traefik has no healthy server"},
	{"503 Backend fetch failed\nServer: Varnish\nX-Varnish: 3\nVia: 1.1 varnish (Varnish/7.1)\nRetry-After: 5\n\n<p>Varnish cache server</p>", "bad-gateway", "Varnish"},
	{"503 S\nServer: Apache\n\n" + titled(apachePage, "503"), "server-down", "retry"},
	{"503 S\nServer: nginx\n\n" + titled(apachePage, "503"), "server-down", "Apache cannot reach"},
	{"503 S\nServer: awselb/2.0\n\n<html>", "server-down", "an AWS load balancer"},
	{"504 T\n\n", "server-slow", "proxy's time"},
	{"511 N\n\n", "captive-portal", "Sign in"},
	{"500 I\n\n", "server-fault", "Its log"},
	{"599 X\n\n", "proxy-failed", "Its log"},
	{"418 T\n\n", "refused", "refused the request"},
}

// byConnect are answers of forward proxies.
var byConnect = []struct{ answer, code, says string }{
	{"400 B\n\nClient sent an HTTP request to an HTTPS server.\n", "proxy-tls-port", "write https:// in the URL that Proxy returns"},
	{"407 P\nX-Sent: Authorization\n\n", "proxy-auth-refused", "does not accept"},
	{"407 P\n\n", "proxy-auth-missing", "none were sent"},
	{"401 U\n\n", "proxy-auth-missing", "none were sent"},
	{"403 F\nServer: squid/5.7\nX-Squid-Error: ERR_ACCESS_DENIED 0\n\n", "connect-forbidden", "SSL_ports"},
	{"403 F\nServer: tinyproxy/1.11.1\n\n", "connect-forbidden", "ConnectPort"},
	{"403 F\n\n", "connect-forbidden", "does not allow CONNECT"},
	{"405 M\n\n", "not-a-proxy", "no forward proxy"},
	{"429 T\nRetry-After: 7\n\n", "connect-busy", "try again in 7s"},
	{"503 S\n\n", "connect-unreachable", "cannot resolve or reach"},
	{"302 F\n\n", "connect-refused", "refused the CONNECT"},
}

// byError are dials that ended without an answer. A first byte wins over the error.
var byError = []struct {
	at    Stage
	first string
	err   error
	code  string
	says  string
}{
	{Upgrade, "\x15\x03\x03\x00\x02\x02\x46", nil, "tls-port", "set TLSConfig"},
	{Connect, "\x15\x03\x03\x00\x02\x02\x46", nil, "tls-port", "https://"},
	{Upgrade, "SSH-2.0-x\r\n", nil, "ssh", "SSH"},
	{Upgrade, "220 mail.example\r\n", nil, "mail-or-ftp", "mail or FTP"},
	{Upgrade, "-ERR unknown command\r\n", nil, "redis", "Redis"},
	{Upgrade, "-DENIED Redis is running in protected mode", nil, "redis", "Redis"},
	{Upgrade, "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05", nil, "http2-port", "gRPC"},
	{Upgrade, "\x00\x00\x08\x07", nil, "http2-port", "gRPC"},
	{Upgrade, "\x5d\x00\x00\x00\x0a5.5.5-10.11", nil, "mysql", "MySQL"},
	{Upgrade, "\x45\x00\x00\x00\xff\x6a\x04Host", nil, "mysql", "MySQL"},
	{Upgrade, "INFO {\"server_id\"", nil, "nats", "NATS"},
	{Upgrade, "E\x00\x00\x00\x8aSFATAL", nil, "postgresql", "PostgreSQL"},
	{Connect, "\x05\xff", nil, "socks-port", "socks5://"},
	{Upgrade, "\x00\x5b\x00\x00", nil, "socks-port", "set Proxy"},
	{Upgrade, "GET / HTTP/1.1\r\n", nil, "echo", "echo"},
	{Connect, "CONNECT edge:443", nil, "echo", "echo"},
	{Upgrade, "HTTP/2 200", nil, "http-version", "another version"},
	{Upgrade, "<!DOCTYPE HTML>", nil, "bare-page", "upgrade=tcp"},
	{Upgrade, "<html>", nil, "bare-page", "upgrade=tcp"},
	{Upgrade, "what?", nil, "not-http", "something else"},

	{TLS, "", tls.RecordHeaderError{Msg: "x"}, "not-tls", "tcp://"},
	{ProxyTLS, "", tls.RecordHeaderError{Msg: "x"}, "not-tls", "http://"},
	{TunnelTLS, "", tls.RecordHeaderError{Msg: "x"}, "not-tls", "PreflightListener.TLSConfig"},
	{TLS, "", unverified(x509.UnknownAuthorityError{}, "edge/edge"), "cert-self-signed", "RootCAs of TLSConfig"},
	{TunnelTLS, "", unverified(x509.UnknownAuthorityError{}, "edge/CA"), "cert-chain", "RootCAs of TunnelTLSConfig"},
	{TLS, "", unverified(x509.UnknownAuthorityError{}, "edge/CA", "CA/root"), "cert-authority", "RootCAs"},
	{TLS, "", unverified(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 1 is before 2"}, "edge/CA"), "cert-not-yet", "clock"},
	{TLS, "", unverified(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 2 is after 1"}, "edge/CA"), "cert-expired", "Renew"},
	{TLS, "", unverified(x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"x"}}, Host: "y"}, "edge/CA"), "cert-name", "ServerName of TLSConfig"},
	{TLS, "", unverified(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}, "edge/CA"), "cert-invalid", "cannot be verified"},
	{Upgrade, "", errors.New("remote error: tls: certificate required"), "client-cert", "none was sent. Set Certificates of TLSConfig"},
	{TLS, "", errors.New("remote error: tls: bad certificate"), "client-cert", "does not accept"},
	{TLS, "", errors.New("remote error: tls: unrecognized name"), "tls-name", "no such name"},
	{TLS, "", errors.New("remote error: tls: no application protocol"), "tls-alpn", "http/1.1"},
	{TLS, "", errors.New("remote error: tls: handshake failure"), "tls-version", "cipher"},
	{TLS, "", os.ErrDeadlineExceeded, "tls-timeout", "did not answer"},
	{TLS, "", io.ErrUnexpectedEOF, "tls-ended", "ended"},
	{ProxyTLS, "", syscall.ECONNRESET, "tls-ended", "http://"},

	{SOCKS, "", errors.New("socks connect: no acceptable authentication methods"), "socks-auth-missing", "user name"},
	{SOCKS, "", errors.New("socks connect: username/password authentication failed"), "socks-auth-refused", "Correct"},
	{SOCKS, "", errors.New("socks connect: connection not allowed by ruleset"), "socks-forbidden", "rules"},
	{SOCKS, "", errors.New("socks connect: host unreachable"), "socks-unreachable", "reach"},
	{SOCKS, "", errors.New("socks connect: unexpected protocol version 72"), "not-socks", "http://"},
	{SOCKS, "", io.EOF, "socks-ended", "HTTP proxy"},
	{SOCKS, "", os.ErrDeadlineExceeded, "socks-timeout", "in time"},

	{Connect, "", io.ErrUnexpectedEOF, "proxy-ended", "socks5://"},
	{Connect, "", context.DeadlineExceeded, "proxy-silent", "in time"},
	{Upgrade | secure, "", syscall.EPIPE, "ended", "return 444"},
	{Upgrade, "", fmt.Errorf("x: %w", syscall.ECONNRESET), "ended", "PROXY header"},
	{Upgrade, "", os.ErrDeadlineExceeded, "silent", "nothing came in time"},
	{Upgrade, "", errors.New("the answer is malformed: x"), "malformed", "rule"},
	{Upgrade, "", errors.New("more than 8 interim (1xx) answers"), "too-much", "another program"},
}

// secure marks a case in which TLS is spoken.
const secure Stage = 1 << 7

func unverified(err error, chain ...string) error {
	e := &tls.CertificateVerificationError{Err: err}
	for _, one := range chain {
		subject, issuer, _ := strings.Cut(one, "/")
		e.UnverifiedCertificates = append(e.UnverifiedCertificates, &x509.Certificate{RawSubject: []byte(subject), RawIssuer: []byte(issuer)})
	}
	return e
}

// TestTable: each row is the finding of a case, and no case finds another row.
func TestTable(t *testing.T) {
	produced := make(map[*row]bool)
	check := func(t *testing.T, e *Evidence, code, says string) {
		t.Helper()
		produced[find(newFacts(e))] = true
		found := Of(e)
		require.Equal(t, code, found.Code, found.Text)
		require.Contains(t, found.Text, says)
		require.True(t, strings.HasSuffix(found.Text, " ["+code+"]"))
		require.LessOrEqual(t, len(found.Text), 250, found.Text)
		require.NotContains(t, found.Text, "{t")
		require.Equal(t, strings.Contains(found.Text, "try again"), found.Temporary && e.Status > 0, found.Text)
	}
	answers := func(at Stage, name, answer, code, says string) {
		t.Run(name, func(t *testing.T) {
			e := evidenceOf(t, answer)
			e.Stage = at
			switch e.Header.Get("X-Sent") {
			case "Authorization":
				e.Authorization = true
			case "TLS":
				e.TLS = true
			case "10 KiB":
				e.HeadSize = 10 << 10
			}
			check(t, e, code, says)
		})
	}
	for i, test := range byAnswer {
		answers(Upgrade, fmt.Sprintf("answer %d %s", i, test.code), test.answer, test.code, test.says)
	}
	for i, test := range byConnect {
		answers(Connect, fmt.Sprintf("CONNECT %d %s", i, test.code), test.answer, test.code, test.says)
	}
	for i, test := range byError {
		t.Run(fmt.Sprintf("error %d %s", i, test.code), func(t *testing.T) {
			e := &Evidence{Stage: test.at &^ secure, Token: "tcp", TLS: test.at&secure > 0, First: []byte(test.first), Err: test.err}
			check(t, e, test.code, test.says)
		})
	}
	for _, lacks := range []string{"upgrade", "connection", "tunnel", "framing", "websocket", "protocol"} {
		t.Run("101 "+lacks, func(t *testing.T) {
			e := evidenceOf(t, "101 S\n\n")
			e.Broken = lacks
			code := "switch-" + lacks
			if lacks == "upgrade" {
				code = "switch-token"
			}
			check(t, e, code, "a proxy on the way changes")
		})
	}
	for i := range table {
		require.True(t, produced[&table[i]], "no case produces row %d: %s: %s", i, table[i].code, table[i].text)
	}
}

// TestNothing: an error of the caller's own, and an answer that nobody can interpret.
func TestNothing(t *testing.T) {
	require.Zero(t, Of(&Evidence{}))
	require.Zero(t, Of(&Evidence{Stage: Upgrade, Err: context.Canceled}))
	require.Zero(t, Of(&Evidence{Stage: TLS, Err: errors.New("tls: internal error")}))
}

// TestNoSecret: nothing that a peer chooses enters a text.
func TestNoSecret(t *testing.T) {
	const secret = "s3cr3t"
	for status := range 1000 {
		e := &Evidence{
			Stage: Upgrade, Token: "tcp", Status: status, Path: "/" + secret, Host: secret, Body: []byte(secret), First: []byte(secret), Err: errors.New(secret),
			Header: http.Header{"Server": {secret}, "Via": {"1.1 " + secret}, "Location": {"https://" + secret}, "X-Squid-Error": {secret}, "Upgrade": {secret}},
		}
		for _, receipt := range []string{"", "s3cr3t"} {
			e.Receipt = receipt
			require.NotContains(t, Of(e).Text, secret)
		}
	}
}
