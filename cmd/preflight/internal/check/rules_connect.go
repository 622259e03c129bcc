package check

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// connectRules are about names and TCP.
var connectRules = []rule{
	{code: "fields", when: step("fields"),
		hop: "this machine", cause: "the fields of the request cannot be had", change: "correct --header-file or --header-command"},
	{code: "proxy-url", when: step("proxy", badURL), hop: "this machine", cause: "the URL of the forward proxy is not valid", change: "correct HTTPS_PROXY"},
	{code: "no-name", when: all(throughProxy, step("names", noName)),
		hop: "the name of the forward proxy", cause: "it does not exist", change: "correct HTTPS_PROXY, or the DNS of this machine"},
	{code: "no-name", when: step("names", noName),
		hop: "the name in the URL", cause: "it does not exist in the DNS of this machine", change: "correct the host in the URL, or add the name to the DNS or to /etc/hosts"},
	{code: "names", when: step("names"),
		hop: "the DNS of this machine", cause: "it does not answer", change: "see /etc/resolv.conf; is the network up?"},
	{code: "proxy-down", when: all(throughProxy, step("tcp", refused)),
		hop: "the forward proxy", cause: "nothing listens at its address and port: connection refused", change: "start it, or correct HTTPS_PROXY"},
	{code: "proxy-unreachable", when: all(throughProxy, step("tcp")), sure: likely,
		hop: "the way to the forward proxy", cause: "it does not accept the connection: its address is wrong, it is down, or a firewall drops the packets", change: "correct HTTPS_PROXY, or ask who runs the network"},
	{code: "refused", when: step("tcp", refused),
		hop: "{edge}", cause: "nothing listens at this address and port: connection refused", change: "start the proxy there, or correct the host or the port in the URL",
		others: []string{"a firewall rejects the connection"}},
	{code: "black-hole", when: step("tcp", timedOut), sure: likely,
		hop: "the network before {edge}", cause: "packets are dropped: nothing answers the connection", change: "let the firewall or the security group pass this port, or correct the address in the URL",
		others: []string{"the machine is down", "its queue of connections is full"}},
	{code: "bind", when: all(binds, step("tcp", noAddress)),
		hop: "this machine", cause: "it does not have the address of the option bind", change: "correct bind in the URL, or leave it out"},
	{code: "unreachable", when: step("tcp", unreachable, noAddress),
		hop: "the network before {edge}", cause: "there is no route to this address", change: "correct the address, or the routes of this machine; is the VPN up?"},
	{code: "rule-closes", when: step("tcp", wasResetFault), sure: likely,
		hop: "{edge}", cause: "the connection is reset as soon as it is open: a rule rejects this client (HAProxy `tcp-request connection reject`, a firewall, a list of allowed addresses)", change: "allow the address of this machine there",
		others: []string{"a TCP proxy whose server is down", "a limit of connections"}},
	{code: "denied", when: step("tcp", localPolicy),
		hop: "this machine", cause: "a rule of this machine forbids the connection", change: "let its firewall or its sandbox pass this port"},
	{code: "tcp", when: step("tcp"), sure: possible,
		hop: "{edge}", cause: "the connection cannot be opened", change: "check the host and the port in the URL"},
}

// proxyRules are about the forward proxy.
var proxyRules = []rule{
	{code: "socks-port", of: "proxy-ended proxy-silent socks-port not-http malformed", when: asked("SOCKS5", "socks"),
		hop: "the forward proxy", cause: "it is a SOCKS5 proxy, and its URL says http", change: "write socks5:// in HTTPS_PROXY"},
	{code: "http-proxy", of: "socks-ended socks-timeout not-socks", when: came("connect", answered),
		hop: "the forward proxy", cause: "it is an HTTP proxy, and its URL says socks5", change: "write http:// in HTTPS_PROXY"},
	{code: "proxy-tls-port", of: "proxy-ended proxy-silent tls-port proxy-tls-port socks-ended socks-timeout", when: all(step("proxy"), asked("TLS", "client-hello")),
		hop: "the forward proxy", cause: "its port speaks TLS", change: "write https:// in HTTPS_PROXY"},
	{code: "proxy-plain", of: "not-tls tls-ended tls-timeout echo", when: all(step("proxy"), came("connect", answered)),
		hop: "the forward proxy", cause: "its port does not speak TLS, and its URL says https", change: "write http:// in HTTPS_PROXY"},
	{code: "connect-forbidden", of: "connect-forbidden", when: all(by(squid), usualPort),
		hop: "the forward proxy", cause: "Squid does not allow CONNECT to {edge}", change: "allow this client (acl localnet src …) and the host in `http_access`; the port 443 is in `SSL_ports` by default"},
	{code: "connect-forbidden", of: "connect-forbidden", when: by(squid),
		hop: "the forward proxy", cause: "Squid does not allow CONNECT to {edge}", change: "add the port to `SSL_ports` (acl SSL_ports port …), and allow this client and the host in `http_access`"},
	{code: "connect-forbidden", of: "connect-forbidden", when: all(by(tinyproxy), bodyHas("service requests from your host")),
		hop: "the forward proxy", cause: "tinyproxy does not serve this client", change: "add the address of this machine to its configuration: `Allow ADDRESS`"},
	{code: "connect-forbidden", of: "connect-forbidden", when: all(by(tinyproxy), bodyHas("has been filtered")),
		hop: "the forward proxy", cause: "tinyproxy does not allow this host", change: "let its `Filter` pass the host: see `FilterDefaultDeny`"},
	{code: "connect-forbidden", of: "connect-forbidden", when: by(tinyproxy),
		hop: "the forward proxy", cause: "tinyproxy does not allow CONNECT to {edge}", change: "add the port as a `ConnectPort`, or the host to its filter"},
	{code: "connect-forbidden", of: "connect-forbidden socks-forbidden",
		hop: "the forward proxy", cause: "it does not allow CONNECT to {edge}", change: "allow this host and port in its rules; or put the host into NO_PROXY, if this machine reaches it without the forward proxy"},
	{code: "proxy-auth-missing", of: "proxy-auth-missing socks-auth-missing",
		hop: "the forward proxy", cause: "it wants credentials, and none were sent", change: "put the user and the password into HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT"},
	{code: "proxy-auth-refused", of: "proxy-auth-refused socks-auth-refused",
		hop: "the forward proxy", cause: "it does not accept the credentials that were sent", change: "correct the user and the password in HTTPS_PROXY"},
	{code: "connect-unreachable", of: "connect-unreachable socks-unreachable",
		hop: "the edge, as seen from the forward proxy", cause: "the forward proxy cannot resolve or reach {edge}", change: "start the edge, or correct the host and the port in the URL; or put the host into NO_PROXY, if this machine reaches it without the forward proxy"},
	{code: "connect-unreachable", of: "socks-ended socks-timeout", when: asked("SOCKS5", "socks"), sure: likely,
		hop: "the edge, as seen from the forward proxy", cause: "the forward proxy cannot reach {edge}", change: "start the edge, or correct the host and the port in the URL; or put the host into NO_PROXY, if this machine reaches it without the forward proxy",
		others: []string{"a rule of the forward proxy forbids it"}},
	{code: "not-a-proxy", of: "not-a-proxy",
		hop: "the forward proxy", cause: "it is no forward proxy, or knows no CONNECT", change: "correct HTTPS_PROXY"},
	{code: "connect-busy", of: "connect-busy", hop: "the forward proxy", cause: "it limits connections or requests", change: "try again later, or raise its limit"},
	{code: "not-a-proxy", when: all(step("proxy"), func(e *evidence) bool { return e.otherProgram() != "" }),
		hop: "the forward proxy", cause: "the port in HTTPS_PROXY is that of another program, which is no forward proxy: it speaks {program}", change: "correct the host and the port in HTTPS_PROXY"},
	{code: "proxy", of: "proxy-ended proxy-silent proxy-tls-port socks-ended socks-timeout not-socks connect-refused", sure: possible,
		hop: "the forward proxy", cause: "it does not connect to {edge}: it may speak SOCKS5 or TLS, or not admit this client", change: "check the scheme, the address and the credentials in HTTPS_PROXY; its log has the reason"},
	{code: "proxy", when: step("proxy"), sure: possible,
		hop: "the forward proxy", cause: "it does not connect to {edge}", change: "check HTTPS_PROXY, and the log of the forward proxy"},
}

// otherProgram is the protocol of what is neither a web server nor a proxy, as its answers to
// any question show it.
func (e *evidence) otherProgram() string {
	for _, name := range e.order {
		switch speaks := e.answers[name].Speaks; speaks {
		case "Redis", "SSH", "MySQL", "NATS", "PostgreSQL", "mail or FTP":
			return speaks
		}
	}
	return ""
}

// tlsRules are about the certificate and the handshake.
var tlsRules = []rule{
	{code: "plain-port", of: "not-tls tls-ended tls-timeout echo", when: either(came("plain", answered), asked("SSH", "plain", "silence"), asked("MySQL", "plain", "silence")),
		hop: "{edge}", cause: "the port does not speak TLS, and the URL says so", change: "write http:// (or ws://, tcp://) in the URL, or let the port speak TLS"},
	{code: "plain-port", of: "not-tls echo",
		hop: "{edge}", cause: "the port does not speak TLS, and the URL says so", change: "write http:// (or ws://, tcp://) in the URL, or let the port speak TLS"},
	{code: "proxy-protocol", of: "tls-ended tls-timeout", when: asked("TLS", "proxy-header-tls"),
		hop: "{edge}", cause: "the port waits for a PROXY header, which a balancer in front of it should send", change: "remove `proxy_protocol` from `listen` (nginx) or `accept-proxy` from `bind` (HAProxy), or go through that balancer"},
	{code: "default-cert", of: anyCert, when: issuedBy("TRAEFIK DEFAULT CERT"),
		hop: "Traefik", cause: "it has no certificate for this name, and sends its default", change: "give it one: `certificates` or `defaultCertificate` under `tls`, or a `certResolver` for the router"},
	{code: "default-cert", of: anyCert, when: issuedBy("Kubernetes Ingress Controller Fake Certificate"),
		hop: "ingress-nginx", cause: "it has no certificate for this name, and sends its default", change: "name the host and a Secret that exists under `tls` of the Ingress"},
	{code: "default-cert", of: "cert-chain cert-authority", when: issuedBy("Caddy Local Authority"),
		hop: "Caddy", cause: "its own authority issued the certificate (`tls internal`, or a name that is not public), and this machine does not know that", change: "use --ca with its root: pki/authorities/local/root.crt in the data folder of Caddy; or give Caddy a certificate by `tls CERT KEY`"},
	{code: "cert-self-signed", of: "cert-self-signed",
		hop: "{edge}", cause: "its certificate is self-signed, and not trusted here", change: "use --ca with this certificate, or give the server one of a known authority"},
	{code: "cert-chain", of: "cert-chain", when: func(e *evidence) bool { return e.chainLacks() }, sure: likely,
		hop: "{edge}", cause: "it sends its certificate without the intermediate one that issued it", change: "let it send the whole chain: nginx `ssl_certificate` with fullchain.pem, HAProxy `crt` with all of them, Apache `SSLCertificateFile` with all of them",
		others: []string{"the issuer is an authority that --ca or this machine lacks"}},
	{code: "cert-authority", of: "cert-chain cert-authority", sure: likely,
		hop: "this machine", cause: "the authority that issued the certificate of {edge} is not trusted here", change: "use --ca with the certificate of that authority",
		others: []string{"an intermediate certificate is missing in what the server sends"}},
	{code: "cert-not-yet", of: "cert-not-yet",
		hop: "this machine", cause: "the certificate is not valid yet: the clock of this machine is likely wrong", change: "set the clock; or renew the certificate"},
	{code: "cert-expired", of: "cert-expired",
		hop: "{edge}", cause: "its certificate has expired", change: "renew it there, and reload the server"},
	{code: "cert-name", of: "cert-name",
		hop: "{edge}", cause: "its certificate is for another name", change: "dial one of the names in the certificate, use --server-name, or add the name to the certificate"},
	{code: "cert-invalid", of: "cert-invalid", hop: "{edge}", cause: "its certificate cannot be verified", change: "see the step tls, and give the server another certificate"},
	{code: "client-cert", of: "client-cert", when: func(e *evidence) bool { return e.sentCertificate() },
		hop: "{edge}", cause: "it does not accept the client certificate that was sent", change: "use --cert and --key of an issuer that it accepts (nginx `ssl_client_certificate`), and that has not expired"},
	{code: "client-cert", of: "client-cert",
		hop: "{edge}", cause: "it wants a client certificate, and none was sent", change: "use --cert and --key"},
	{code: "tls-name", of: "tls-name",
		hop: "{edge}", cause: "it serves no such name (SNI)", change: "correct the host in the URL or --server-name, or add the name there (HAProxy: without `strict-sni` it would serve its first certificate)"},
	{code: "tls-alpn", of: "tls-alpn", hop: "{edge}", cause: "the port offers HTTP/2 alone, which has no upgrade", change: "let it offer http/1.1 in ALPN (nginx: no change; HAProxy: `alpn h2,http/1.1`; Envoy: `alpn_protocols`)"},
	{code: "tls-version", of: "tls-version", hop: "{edge}", cause: "it has no version or cipher suite of TLS in common with this program", change: "let it speak TLS 1.2 or 1.3; it may also want a client certificate (--cert) or another name (--server-name)"},
	{code: "silent", of: "tls-timeout", when: came("plain", silent), sure: likely,
		hop: "{edge}", cause: "the port accepts connections and answers nothing, neither TLS nor HTTP: the program behind it hangs, or is no web server", change: "see the log of what listens there; restart it, or correct the port in the URL",
		others: []string{"the network drops large packets (MTU)", "a firewall swallows what is sent"}},
	{code: "tls-name", of: "tls-ended", when: all(came("silence", silent), came("plain", ended, wasReset)), sure: likely,
		hop: "{edge}", cause: "it waits for TLS, and ends the connection after the name (SNI) has come: it serves no such name", change: "correct the host in the URL or --server-name, or add the name there (Envoy `server_names` of the `filter_chain_match`, HAProxy `crt` with `strict-sni`)",
		others: []string{"the port is that of another program, which speaks neither TLS nor HTTP", "it is a TCP proxy whose server is down"}},
	{code: "tls-ended", of: "tls-ended tls-timeout", sure: possible,
		hop: "{edge}", cause: "it does not complete the TLS handshake", change: "check that this port speaks TLS, and serves this name; its log has the reason",
		others: []string{"the port is plain", "it is a TCP proxy whose server is down", "it serves no such name"}},
}

const anyCert = "cert-name cert-chain cert-authority cert-self-signed cert-invalid cert-expired"

// issuedBy holds if this is a part of the issuer of the certificate.
func issuedBy(name string) func(*evidence) bool {
	return func(e *evidence) bool {
		return e.certificate != nil && strings.Contains(e.certificate.Issuer, name)
	}
}

func bodyHas(text string) func(*evidence) bool {
	return func(e *evidence) bool { return strings.Contains(string(e.answer().body), text) }
}

// usualPort holds if the edge has the port of https.
func usualPort(e *evidence) bool { return strings.HasSuffix(e.target.Address, ":443") }

// chainLacks reports whether the certificate alone came, and its issuer looks like an
// intermediate authority: the flags name the trusted authorities, and the issuer is not one of them, or
// the certificate says where that of the issuer is, as those of public authorities do.
func (e *evidence) chainLacks() bool {
	return e.certificate != nil && e.certificate.Chain == 1 && (e.target.GivenRoots || e.certificate.hasIssuerURL)
}

func (e *evidence) sentCertificate() bool {
	c := e.target.Dialer.TLSConfig
	return c != nil && c.GetClientCertificate != nil
}

// nginxFile reports whether nginx served a file. Its ETag is the time and the length of the
// file, in hexadecimal.
func nginxFile(e *evidence) bool {
	h := e.answer().header
	modified, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return false
	}
	length, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	return err == nil && h.Get("Etag") == fmt.Sprintf("\"%x-%x\"", modified.Unix(), length)
}
