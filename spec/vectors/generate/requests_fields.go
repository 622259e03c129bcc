package main

import "strings"

// fields are heads with fields that frame a message, or list something.
func fields() []row {
	return []row{
		{"length-0", "M14", "Content-Length: 0", tcp("Content-Length: 0"), plainTCP},
		{"length-twice", "M12", "two lengths that agree", tcp("Content-Length: 0", "Content-Length: 0"), head400},
		{"length-differs", "M12", "two lengths that differ", tcp("Content-Length: 0", "Content-Length: 5") + "hello", head400},
		{"length-list", "M12", "a list of lengths", tcp("Content-Length: 0, 0"), head400},
		{"length-signed", "M12", "a length with a sign", tcp("Content-Length: +0"), head400},
		{"length-hexadecimal", "M12", "a length in hexadecimal", tcp("Content-Length: 0x0"), head400},
		{"length-empty", "M12", "an empty length", tcp("Content-Length:"), head400},
		{"length-and-coding", "M12", "a length beside a transfer coding", tcp("Content-Length: 5", "Transfer-Encoding: chunked"), head400},

		{"connection-list", "M13", "Connection lists more", lists("keep-alive, Upgrade, X-Forwarded-For", "tcp"), plainTCP},
		{"connection-case", "M13", "Connection in another case", lists("uPGRADE", "tcp"), plainTCP},
		{"connection-lines", "M13", "Connection over two lines", tcp("Connection: close"), plainTCP},
		{"connection-empty-members", "M13", "empty members", lists(", ,Upgrade,", ",tcp ,"), plainTCP},
		{"connection-not-tokens", "M13", "a member of Connection is not a token", lists("Upgrade, @", "tcp"), head400},
		{"connection-two-words", "M13", "two words without a comma", lists("keep-alive Upgrade", "tcp"), head400},
		{"upgrade-case", "M13", "Upgrade in another case", lists("Upgrade", "TCP"), plainTCP},
		{"upgrade-list", "M13 M14", "Upgrade lists an unknown token", lists("Upgrade", "h2c, tcp"), plainTCP},
		{"upgrade-lines", "M13", "Upgrade over two lines", strings.Replace(tcp("Upgrade: tcp"), "Upgrade: tcp", "Upgrade: h2c", 1), plainTCP},
		{"upgrade-not-token", "M13", "a member of Upgrade is not a protocol", lists("Upgrade", "tcp, @"), head400},
		{"upgrade-parameter", "M13", "a member of Upgrade has a parameter", lists("Upgrade", "tcp;q=1"), head400},
		{"upgrade-two-versions", "M13", "a member of Upgrade has two versions", lists("Upgrade", "tcp/1/2"), head400},

		{"unknown-field", "M14", "unknown fields", tcp("User-Agent: x", "X-Forwarded-For: 192.0.2.1", "Preflight-Unknown: ?"), plainTCP},
		{"receipt-in-request", "M14", "a receipt in a request means nothing", tcp("Preflight-Refusal: origin"), plainTCP},
		{"capsule-protocol", "M14 M28", "Capsule-Protocol does not ask for framing", tcp("Capsule-Protocol: ?1"), plainTCP},
		{"expect-continue", "M14", "Expect: 100-continue", tcp("Expect: 100-continue"), plainTCP},
		{"protocol-beside-tcp", "M14", "Preflight-Protocol beside another token than websocket", tcp("Preflight-Protocol: tcps"), plainTCP},

		{"framing-value", "M15", "an unknown value of Preflight-Framing", tcp("Preflight-Framing: raw"), head400},
		{"framing-case", "M15", "Preflight-Framing in another case", tcp("Preflight-Framing: Capsule"), head400},
		{"framing-empty", "M15", "an empty Preflight-Framing", tcp("Preflight-Framing:"), head400},
		{"framing-parameter", "M15", "a parameter of Preflight-Framing", tcp("Preflight-Framing: capsule;v=1"), head400},
		{"framing-list-differs", "M15", "Preflight-Framing lists more", tcp("Preflight-Framing: capsule, raw"), head400},
		{"framing-lines-differ", "M15", "two lines of Preflight-Framing differ", tcp("Preflight-Framing: capsule", "Preflight-Framing: raw"), head400},
		{"framing-value-websocket", "M15", "an unknown value of Preflight-Framing on websocket", ws("Preflight-Framing: raw"), head400},
		{"tunnel-value", "M15", "an unknown value of Preflight-Tunnel", tcp("Preflight-Tunnel: ssl"), withTLS(head400)},
		{"tunnel-case", "M15", "Preflight-Tunnel in another case", tcp("Preflight-Tunnel: TLS"), withTLS(head400)},
		{"tunnel-empty", "M15", "an empty Preflight-Tunnel", tcp("Preflight-Tunnel:"), withTLS(head400)},
		{"tunnel-twice", "M15", "Preflight-Tunnel stands twice", tcp("Preflight-Tunnel: tls", "Preflight-Tunnel: tls"), withTLS(head400)},
		{"tunnel-list", "M15", "Preflight-Tunnel is a list", tcp("Preflight-Tunnel: tls, tls"), withTLS(head400)},
		{"protocol-not-token", "M15", "Preflight-Protocol is not a protocol", ws("Preflight-Protocol: a b"), head400},
		{"protocol-empty", "M15", "an empty Preflight-Protocol", ws("Preflight-Protocol:"), head400},
		{"protocol-twice", "M15", "Preflight-Protocol stands twice", ws("Preflight-Protocol: tcps", "Preflight-Protocol: tcps"), head400},
	}
}

// upgrades are heads in order of which some are no tunnels.
func upgrades() []row {
	none := refuse(426, "no-upgrade")
	return []row{
		{"ordinary", "M17 M19 M21", "an ordinary request", lines("GET /path HTTP/1.1", "Host: example.com"), none},
		{"ordinary-post", "M17 M19 M21", "commands in the body of an ordinary request", lines("POST / HTTP/1.1", "Host: example.com", "Content-Length: 6") + "QUIT\r\n", none},
		{"ordinary-connection", "M17 M21", "Connection lists upgrade, but there is no Upgrade", lines("GET / HTTP/1.1", "Host: example.com", "Connection: Upgrade"), none},
		{"ordinary-http10", "M21", "an ordinary request of HTTP/1.0", lines("GET / HTTP/1.0"), refuse(426, "http10")},
		{"ordinary-http2", "M21", "an ordinary request of HTTP/2.0", lines("GET / HTTP/2.0", "Host: example.com"), refuse(505, "http2")},
		{"ordinary-protocol", "M17 M21", "another protocol", lists("Upgrade", "h2c"), refuse(426, "protocol")},
		{"ordinary-longer-token", "M17", "a longer token", lists("Upgrade", "tcpss"), refuse(426, "protocol")},
		{"ordinary-version-of-token", "M17", "a version of the token", lists("Upgrade", "tcp/1"), refuse(426, "protocol")},
		{"ordinary-websocket", "M17", "a WebSocket without a subprotocol", wsOf("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+sampleKey), refuse(426, "protocol")},
		{"ordinary-subprotocol", "M17", "a WebSocket of another subprotocol", wsOf("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+sampleKey, "Sec-WebSocket-Protocol: chat"), refuse(426, "protocol")},
		{"ordinary-subprotocol-v2", "M17", "a version that is not known", wsOf("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+sampleKey, "Sec-WebSocket-Protocol: preflight.v2"), refuse(426, "protocol")},
		{"ordinary-subprotocol-case", "M17 M49", "the subprotocol in another case", wsOf("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+sampleKey, "Sec-WebSocket-Protocol: Preflight.V1"), refuse(426, "protocol")},

		{"second-protocol", "M5 M18", "the second protocol of the server", lists("Upgrade", "tcps"), speaks(accept("upgrade", "tcps"), "tcp", "tcps")},
		{"preference", "M18", "the server's order decides", lists("Upgrade", "tcps, tcp"), speaks(plainTCP, "tcp", "tcps")},
		{"preference-other", "M18", "another order of the server", lists("Upgrade", "tcp, tcps"), speaks(accept("upgrade", "tcps"), "tcps", "tcp")},
		{"preference-websocket", "M18", "websocket comes last", strings.Replace(ws(), "Upgrade: websocket", "Upgrade: websocket, tcp", 1), plainTCP},
		{"preference-served", "M18", "the carrier of the first token is not served", strings.Replace(ws(), "Upgrade: websocket", "Upgrade: tcp, websocket", 1), serves(webSocket, "websocket")},
		{"preference-none-served", "M18 M29", "neither carrier is served", strings.Replace(ws(), "Upgrade: websocket", "Upgrade: tcp, websocket", 1), serves(refuse(426, "carrier"), "framed")},

		{"http10", "M21", "HTTP/1.0", withLine("GET /path HTTP/1.0"), refuse(426, "http10")},
		{"http10-no-host", "M21", "HTTP/1.0 without Host", lines("GET / HTTP/1.0", "Connection: Upgrade", "Upgrade: tcp"), refuse(426, "http10")},
		{"http12", "M21", "HTTP/1.2", withLine("GET /path HTTP/1.2"), refuse(505, "http2")},
		{"http20", "M21", "HTTP/2.0", withLine("GET /path HTTP/2.0"), refuse(505, "http2")},
		{"post", "M21 M22", "POST", withLine("POST /path HTTP/1.1"), refuse(405, "method")},
		{"method-case", "M21 M22", "the method in lower case", withLine("get /path HTTP/1.1"), refuse(405, "method")},
		{"options", "M21", "OPTIONS *", withLine("OPTIONS * HTTP/1.1"), refuse(405, "method")},
		{"body", "M21 M23", "a body", tcp("Content-Length: 5") + "hello", refuse(400, "body")},
		{"body-chunked", "M21", "a chunked body", tcp("Transfer-Encoding: chunked") + "0\r\n\r\n", refuse(400, "body")},
		{"body-coding-identity", "M21", "any transfer coding", tcp("Transfer-Encoding: identity"), refuse(400, "body")},
		{"body-trailer", "M21", "a Trailer field", tcp("Trailer: X"), refuse(400, "body")},
		{"expectation", "M21", "another expectation", tcp("Expect: 200-ok"), refuse(417, "expect")},
		{"no-upgrade-carriers", "M17 M21 M66", "Upgrade is gone, and Preflight-Carriers is left", lines("GET / HTTP/1.1", "Host: example.com", "Preflight-Carriers: upgrade, websocket"), none},
		{"no-upgrade-framing", "M17 M21", "Upgrade is gone, and Preflight-Framing is left", lines("GET / HTTP/1.1", "Host: example.com", "Connection: Upgrade", "Preflight-Framing: capsule"), none},
		{"no-upgrade-post", "M17 M21", "a POST with Preflight-Carriers is for a tunnel", lines("POST / HTTP/1.1", "Host: example.com", "Preflight-Carriers: upgrade"), refuse(405, "method")},
		{"no-upgrade-subprotocol", "M17 M21", "Upgrade is gone, and the subprotocol is left", lines("GET / HTTP/1.1", "Host: example.com", "Sec-WebSocket-Protocol: preflight.v1"), none},
		{"no-upgrade-subprotocol-post", "M17 M21", "a POST with the subprotocol is for a tunnel", lines("POST / HTTP/1.1", "Host: example.com", "Sec-WebSocket-Protocol: chat, preflight.v1"), refuse(405, "method")},
		{"no-connection-subprotocol", "M17 M21", "another Upgrade beside the subprotocol is for a tunnel", lines("GET / HTTP/1.1", "Host: example.com", "Upgrade: h2c", "Sec-WebSocket-Protocol: preflight.v1"), refuse(426, "no-connection")},
		{"upgrade-empty", "M13 M21", "an empty Upgrade is none", lines("GET / HTTP/1.1", "Host: example.com", "Connection: Upgrade", "Upgrade:", "Preflight-Carriers: upgrade"), none},
		{"no-connection", "M20 M21", "Connection is gone", lines("GET / HTTP/1.1", "Host: example.com", "Upgrade: tcp"), refuse(426, "no-connection")},
		{"no-connection-close", "M20 M21", "Connection lists others", lists("close, keep-alive", "tcp"), refuse(426, "no-connection")},
		{"no-connection-websocket", "M21", "Connection is gone on websocket", strings.Replace(ws(), "Connection: Upgrade\r\n", "", 1), refuse(426, "no-connection")},
		{"proxy-header", "M21", "a PROXY header of a peer that is not trusted", "PROXY TCP4 192.0.2.1 192.0.2.2 1024 80\r\n" + tcp(), refuse(400, "proxy-header")},
		{"smuggled", "M20 M23", "a second request behind a refused one", withLine("POST /path HTTP/1.1") + tcp() + "hello", refuse(405, "method")},
		{"smuggled-head", "M20 M23", "a second request behind a malformed one", tcp("X : y") + tcp() + "hello", head400},

		{"order-head-method", "M21", "a malformed field goes before the method", strings.Replace(tcp("Preflight-Framing: raw"), "GET", "POST", 1), head400},
		{"order-version-method", "M21", "the version goes before the method", withLine("POST /path HTTP/1.0"), refuse(426, "http10")},
		{"order-method-body", "M21", "the method goes before the body", strings.Replace(tcp("Content-Length: 5")+"hello", "GET", "POST", 1), refuse(405, "method")},
		{"order-body-expect", "M21", "the body goes before the expectation", tcp("Content-Length: 5", "Expect: 200-ok") + "hello", refuse(400, "body")},
		{"order-body-connection", "M21", "the body goes before Connection", strings.Replace(tcp("Content-Length: 5")+"hello", "Connection: Upgrade", "Connection: close", 1), refuse(400, "body")},
		{"order-carrier-tunnel", "M21", "the carrier goes before TLS inside", tcp("Preflight-Tunnel: tls"), serves(refuse(426, "carrier"), "websocket")},
		{"order-tunnel-origin", "M21", "TLS inside goes before Origin", tcp("Preflight-Tunnel: tls", "Origin: https://page.example"), refuse(426, "tunnel-tls")},
	}
}
