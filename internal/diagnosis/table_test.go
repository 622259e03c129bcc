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
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// evidenceOf returns the evidence of an answer to a request for a tunnel.
func evidenceOf(t *testing.T, answer string) *Evidence {
	head, body, _ := strings.Cut(answer, "\n\n")
	line, fields, _ := strings.Cut(head, "\n")
	code, phrase, _ := strings.Cut(line, " ")
	status, err := strconv.Atoi(code)
	require.NoError(t, err)
	fields = strings.ReplaceAll(strings.TrimSuffix(fields, "\n")+"\n\n", "\n", "\r\n")
	if strings.TrimSpace(fields) == "" {
		fields = "\r\n"
	}
	read, err := textproto.NewReader(bufio.NewReader(strings.NewReader(fields))).ReadMIMEHeader()
	require.NoError(t, err)
	h := http.Header(read)
	e := &Evidence{
		Stage: Upgrade, Token: "tcp", Host: "edge.example:8080", Path: "/client/amps", HeadSize: 200,
		Status: status, Phrase: phrase, Receipt: h.Get("Preflight-Refusal"), Header: h, Body: []byte(body),
	}
	if seconds, err := time.ParseDuration(h.Get("Retry-After") + "s"); err == nil {
		e.Wait = seconds
	}
	return e
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
	{TunnelTLS, "", unverified(x509.UnknownAuthorityError{}, "edge/CA"), "cert-chain", "RootCAs of TunnelTLSConfig lacks it too. Add the issuer there"},
	{TLS, "", unverified(x509.UnknownAuthorityError{}, "edge/CA", "CA/root"), "cert-authority", "RootCAs"},
	{TLS, "", unverified(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 1 is before 2"}, "edge/CA"), "cert-not-yet", "clock"},
	{TLS, "", unverified(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 2 is after 1"}, "edge/CA"), "cert-expired", "Renew it at the peer; if the current time is wrong"},
	{TLS, "", unverified(x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"x"}}, Host: "y"}, "edge/CA"), "cert-name", "ServerName of TLSConfig"},
	{TLS, "", unverified(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}, "edge/CA"), "cert-invalid", "cannot be verified"},
	{Upgrade, "", errors.New("remote error: tls: certificate required"), "client-cert", "none was sent. Set Certificates of TLSConfig"},
	{TLS, "", errors.New("remote error: tls: bad certificate"), "client-cert", "does not accept"},
	{TLS, "", errors.New("remote error: tls: unrecognized name"), "tls-name", "no such name"},
	{TLS, "", errors.New("remote error: tls: no application protocol"), "tls-alpn", "http/1.1"},
	{TLS, "", errors.New("remote error: tls: protocol version not supported"), "tls-version", "MaxVersion of TLSConfig"},
	{TLS, "", errors.New("tls: server selected unsupported protocol version 301"), "tls-version", "MinVersion"},
	{TLS, "", errors.New("remote error: tls: handshake failure"), "tls-version", "cipher"},
	{TLS, "", errors.New("tls: received unexpected handshake message of type *tls.clientHelloMsg when waiting for *tls.serverHelloMsg"), "echo", "tcp://"},
	{TLS, "", os.ErrDeadlineExceeded, "tls-timeout", "did not answer"},
	{TLS, "", io.ErrUnexpectedEOF, "tls-ended", "is plain"},
	{ProxyTLS, "", syscall.ECONNRESET, "tls-ended", "http://"},

	{SOCKS, "", errors.New("socks connect: no acceptable authentication methods"), "socks-auth-missing", "user name"},
	{SOCKS, "", errors.New("socks connect: username/password authentication failed"), "socks-auth-refused", "Correct"},
	{SOCKS, "", errors.New("socks connect: connection not allowed by ruleset"), "socks-forbidden", "rules"},
	{SOCKS, "", errors.New("socks connect: host unreachable"), "socks-unreachable", "reach"},
	{SOCKS, "", errors.New("socks connect: unexpected protocol version 72"), "not-socks", "http://"},
	{SOCKS, "", io.EOF, "socks-ended", "HTTP proxy"},
	{SOCKS, "", os.ErrDeadlineExceeded, "socks-timeout", "write http://"},
	{SOCKS, "\x05\x00", io.ErrUnexpectedEOF, "socks-ended", "cannot connect. Check the host"},
	{SOCKS, "\x05\x02\x01\x00", fmt.Errorf("x: %w", syscall.ECONNRESET), "socks-ended", "cannot connect. Check the host"},
	{SOCKS, "\x05\x02", io.ErrUnexpectedEOF, "socks-auth-refused", "(possible)"},
	{SOCKS, "\x05", io.ErrUnexpectedEOF, "socks-ended", "HTTP proxy"},
	{SOCKS, "\x05\x00", os.ErrDeadlineExceeded, "socks-timeout", "waits for the host"},

	{Connect, "", io.ErrUnexpectedEOF, "proxy-ended", "socks5://"},
	{Connect, "", context.DeadlineExceeded, "proxy-silent", "in time"},
	{Upgrade | secure, "", syscall.EPIPE, "ended", "return 444"},
	{Upgrade, "", fmt.Errorf("x: %w", syscall.ECONNRESET), "ended", "the server behind is down, or speaks no HTTP"},
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
			case "Bearer":
				e.Authorization, e.Scheme = true, "Bearer"
			case "TLS":
				e.TLS = true
			case "address":
				e.Host = "[2001:db8::1]:8080"
			case "WebSocket":
				e.WebSocket = true
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

// TestCommon: what every carrier meets is told from what another one may pass.
func TestCommon(t *testing.T) {
	for answer, common := range map[string]bool{
		"403 F\nServer: envoy\n\nRBAC: access denied":      true,
		"403 F\nServer: envoy\n\n":                         false,
		"403 F\n\n" + titled(haproxyPage, "403 Forbidden"): true,
		"403 F\n\n":  false,
		"200 OK\n\n": true,
		"404 N\n\n":  true,
		"426 U\n\n":  false,
		"301 M\nLocation: https://edge.example/\n\n": true,
		"400 B\n\n": false,
		"426 U\nPreflight-Refusal: no-upgrade\n\n": false,
	} {
		require.Equal(t, common, Of(evidenceOf(t, answer)).Common, answer)
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
			Stage: Upgrade, Token: "tcp", Status: status, Path: "/" + secret, Host: secret, Scheme: secret, Phrase: secret, Body: []byte(secret), First: []byte(secret), Err: errors.New(secret),
			Header: http.Header{"Server": {secret}, "Via": {"1.1 " + secret}, "Location": {"https://" + secret}, "X-Squid-Error": {secret}, "Upgrade": {secret}},
		}
		for _, receipt := range []string{"", "s3cr3t"} {
			e.Receipt = receipt
			require.NotContains(t, Of(e).Text, secret)
		}
	}
}

// TestRedirectLoop takes the usual port of https for no port.
func TestRedirectLoop(t *testing.T) {
	for host, location := range map[string]string{"edge.example": "https://edge.example:443/x", "edge.example:443": "https://edge.example/x"} {
		f := newFacts(&Evidence{Stage: Upgrade, TLS: true, Host: host, Path: "/x", Status: 301, Header: http.Header{"Location": {location}}})
		require.Equal(t, sameURL, f.leads(), location)
	}
}
