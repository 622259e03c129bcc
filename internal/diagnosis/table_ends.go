package diagnosis

import "strings"

// handshakes are failures of TLS and of SOCKS5.
var handshakes = []row{
	{code: "not-tls", at: ProxyTLS | TLS | TunnelTLS, also: notTLS,
		text: "the peer does not speak TLS; {plain}"},
	{code: "cert-self-signed", at: ProxyTLS | TLS | TunnelTLS, also: selfSigned,
		text: "the certificate is self-signed. Add it to RootCAs of {config}, or let the server have one of a known authority"},
	{code: "cert-chain", at: ProxyTLS | TLS | TunnelTLS, also: leafAlone,
		text: "the peer sent no issuer of its certificate, and RootCAs of {config} lacks it too. Add the issuer there; an intermediate one belongs into the chain of the peer"},
	{code: "cert-authority", at: ProxyTLS | TLS | TunnelTLS, also: unknownAuthority,
		text: "the chain ends at an authority that is not trusted here. Add it to RootCAs of {config}"},
	{code: "cert-not-yet", at: ProxyTLS | TLS | TunnelTLS, also: notYet,
		text: "the certificate is not valid yet. Check the clock of this machine, or the certificate"},
	{code: "cert-expired", at: ProxyTLS | TLS | TunnelTLS, also: outOfTime,
		text: "it has expired. Renew it at the peer; if the current time is wrong, set the clock"},
	{code: "cert-name", at: ProxyTLS | TLS | TunnelTLS, also: wrongName,
		text: "the certificate is for another name. Set ServerName of {config} or Host, or let the peer have a certificate for this name"},
	{code: "cert-invalid", at: ProxyTLS | TLS | TunnelTLS, also: badCertificate,
		text: "the certificate of the peer cannot be verified"},
	{code: "client-cert", at: ProxyTLS | TLS | TunnelTLS | Connect | Upgrade, also: says("tls: certificate required"),
		text: "the peer wants a client certificate, and none was sent. Set Certificates of {config}"},
	{code: "client-cert", at: ProxyTLS | TLS | TunnelTLS | Connect | Upgrade, also: says("remote error: tls: bad certificate", "remote error: tls: unknown certificate", "remote error: tls: expired certificate", "remote error: tls: revoked certificate"),
		text: "the peer does not accept the client certificate, or wants one. Check Certificates of {config}: its issuer and its dates"},
	{code: "tls-name", at: ProxyTLS | TLS | TunnelTLS, also: says("tls: unrecognized name"),
		text: "the peer serves no such name. Correct ServerName of {config}, or Host"},
	{code: "tls-alpn", at: ProxyTLS | TLS | TunnelTLS, also: says("no application protocol", "unadvertised ALPN", "selected unadvertised"),
		text: "the peer agrees to no ALPN protocol that was offered. On the way to the edge that is http/1.1 alone: let the port offer it beside h2"},
	{code: "tls-version", at: ProxyTLS | TLS | TunnelTLS, also: says("protocol version not supported", "unsupported protocol version"),
		text: "the peer and {config} have no version of TLS in common. Correct MinVersion or MaxVersion of {config}, or the versions of the peer"},
	{code: "tls-version", at: ProxyTLS | TLS | TunnelTLS, also: says("tls: handshake failure"),
		text: "the peer accepts nothing that was offered. Possible: it has no cipher suite or curve in common with {config}, or it needs SNI or a client certificate"},
	{code: "echo", at: ProxyTLS | TLS | TunnelTLS, also: says("of type *tls.clientHelloMsg when waiting for *tls.serverHelloMsg"),
		text: "the peer sends back what it gets, so it is plain; {plain}"},
	{code: "tls-timeout", at: ProxyTLS | TLS | TunnelTLS, also: expired, waits: true,
		text: "the peer did not answer the TLS handshake. Possible: the port is plain ({plain}), it waits for a PROXY header, or the network drops large packets"},
	{code: "tls-ended", at: ProxyTLS | TLS | TunnelTLS, also: func(f *facts) bool { return ended(f) || reset(f) }, waits: true,
		text: "possible: the port is plain ({plain}), it has no certificate for this name, it waits for a PROXY header, or the server behind it is down"},

	{code: "socks-auth-missing", at: SOCKS, also: says("no acceptable authentication methods"),
		text: "it wants a user name and a password. Put them into the URL that Proxy returns"},
	{code: "socks-auth-refused", at: SOCKS, also: says("authentication failed"),
		text: "it does not accept the user name and the password. Correct them in the URL that Proxy returns"},
	{code: "socks-forbidden", at: SOCKS, also: says("not allowed by ruleset"),
		text: "it does not allow this host and port. Allow both in its rules"},
	{code: "socks-unreachable", at: SOCKS, also: says("unreachable", "connection refused", "TTL expired", "general SOCKS server failure"), waits: true,
		text: "it cannot resolve or reach the host that was dialed. Check that address from the forward proxy's network"},
	{code: "not-socks", at: SOCKS, also: says("unexpected protocol version"),
		text: "it does not speak SOCKS5. If it is an HTTP proxy, write http:// in the URL that Proxy returns"},
	{code: "socks-ended", at: SOCKS, also: func(f *facts) bool { return socksAgreed(f) && (ended(f) || reset(f)) }, waits: true,
		text: "it is a SOCKS5 proxy, and ended the connection after the request, as `ssh -D` does if it cannot connect. Check the host that was dialed, and the rules for it, from there"},
	{code: "socks-auth-refused", at: SOCKS, first: "\x05\x02", also: func(f *facts) bool { return ended(f) || reset(f) },
		text: "it asked for the user name and the password, and then ended the connection, so it does not accept them (possible). Correct them in the URL that Proxy returns"},
	{code: "socks-ended", at: SOCKS, also: func(f *facts) bool { return ended(f) || reset(f) }, waits: true,
		text: "possible: it is an HTTP proxy (write http:// in the URL that Proxy returns), speaks TLS, or does not admit this client"},
	{code: "socks-timeout", at: SOCKS, also: func(f *facts) bool { return socksAgreed(f) && expired(f) }, waits: true,
		text: "it is a SOCKS5 proxy, and did not answer the request in time. Possible: it waits for the host that was dialed. Check that address from the forward proxy's network"},
	{code: "socks-timeout", at: SOCKS, also: expired, waits: true,
		text: "it did not answer the greeting of SOCKS5, which an HTTP proxy does not know. If it is one, write http:// in the URL that Proxy returns"},
}

// ends are connections that ended, or said nothing, before the answer.
var ends = []row{
	{code: "proxy-ended", at: Connect, also: func(f *facts) bool { return ended(f) || reset(f) }, waits: true,
		text: "possible: it is a SOCKS5 proxy (write socks5://), its port speaks TLS (https://), or it does not admit this client"},
	{code: "proxy-silent", at: Connect, also: expired, waits: true,
		text: "it did not answer in time. Possible: it is no HTTP proxy, its port speaks TLS, or it cannot reach the host that was dialed"},
	{code: "ended", also: func(f *facts) bool { return f.TLS && (ended(f) || reset(f)) }, waits: true,
		text: "possible: a rule closes unwanted requests (nginx `return 444`), the port speaks no HTTP/1.1, or the server behind is down, or speaks no HTTP"},
	{code: "ended", also: func(f *facts) bool { return ended(f) || reset(f) }, waits: true,
		text: "possible: the port speaks TLS ({tls}) or no HTTP, or waits for a PROXY header; a rule closes it (nginx `return 444`); or the server behind is down, or speaks no HTTP"},
	{code: "silent", also: expired, waits: true,
		text: "nothing came in time. Possible: the port speaks another protocol, such as TLS ({tls}), or waits for a PROXY header; or the server behind hangs"},
	{code: "malformed", at: Connect | Upgrade, also: func(f *facts) bool { return strings.Contains(f.err, "the answer is malformed") },
		text: "a proxy or the server breaks this rule of HTTP; another program may answer there"},
	{code: "too-much", at: Connect | Upgrade, also: says("interim (1xx) answers", "the head of the answer is larger"),
		text: "another program answers there, not a PreflightListener. Check the address, Path and Host"},
}

// settingsFrame reports whether an HTTP/2 server speaks: it begins with a SETTINGS frame
// (RFC 9113 §3.4), or ends the connection by GOAWAY.
func settingsFrame(f *facts) bool {
	return len(f.first) >= 4 && f.first[0] == 0 && (f.first[3] == 4 || f.first[3] == 7) && (len(f.first) < 9 || f.first[5:9] == "\x00\x00\x00\x00")
}

// mysqlGreeting reports a packet with number 0 and protocol version 10, or an error packet.
func mysqlGreeting(f *facts) bool {
	return len(f.first) >= 5 && f.first[2] == 0 && f.first[3] == 0 && (f.first[4] == 10 || f.first[4] == 0xff)
}

// socksReply reports the beginning of an answer of SOCKS5 or SOCKS4.
func socksReply(f *facts) bool {
	return len(f.first) >= 2 && (f.first[0] == 5 && (f.first[1] <= 8 || f.first[1] == 0xff) || f.first[0] == 0 && f.first[1] >= 0x5a && f.first[1] <= 0x5d)
}

// socksAgreed reports whether a SOCKS5 proxy agreed to go on without credentials, or accepted
// them (RFC 1928 §3, RFC 1929 §2). Then it got the request.
func socksAgreed(f *facts) bool {
	return strings.HasPrefix(f.first, "\x05\x00") || strings.HasPrefix(f.first, "\x05\x02\x01\x00")
}

func page(f *facts) bool {
	first := strings.ToLower(f.first)
	return strings.HasPrefix(first, "<!doctype html") || strings.HasPrefix(first, "<html")
}
