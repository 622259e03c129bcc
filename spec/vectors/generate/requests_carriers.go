package main

import "strings"

// carriers are requests for the carriers and for TLS inside.
func carriers() []row {
	key, version := "Sec-WebSocket-Key: "+sampleKey, "Sec-WebSocket-Version: 13"
	mine := "Sec-WebSocket-Protocol: preflight.v1"
	s := &sender{masks: true}
	badKey := refuse(400, "websocket")
	return []row{
		{"framed", "M28", "the carrier framed", tcp("Preflight-Framing: capsule"), framedTCP},
		{"framed-data", "M6 M28", "capsules behind the head", tcp("Preflight-Framing: capsule") + data("hello") + final(""), holds(framedTCP, "hello")},
		{"framed-list", "M15 M28", "the value stands twice in a list", tcp("Preflight-Framing: capsule, capsule"), framedTCP},
		{"framed-lines", "M15 M28", "the field stands twice", tcp("Preflight-Framing: capsule", "Preflight-Framing:  capsule"), framedTCP},
		{"framed-name-case", "M28", "the name of the field in another case", tcp("preflight-framing: capsule"), framedTCP},
		{"framed-tcps", "M28", "another protocol, framed", strings.Replace(tcp("Preflight-Framing: capsule"), "Upgrade: tcp", "Upgrade: tcps", 1), speaks(accept("framed", "tcps"), "tcp", "tcps")},
		{"not-framed", "M29", "framed is not served", tcp("Preflight-Framing: capsule"), serves(refuse(426, "carrier"), "upgrade", "websocket")},
		{"not-upgrade", "M29", "upgrade is not served", tcp(), serves(refuse(426, "carrier"), "framed", "websocket")},
		{"not-websocket", "M29", "websocket is not served", ws(), serves(refuse(426, "carrier"), "upgrade", "framed")},
		{"carriers", "M66", "Preflight-Carriers beside Upgrade", tcp("Preflight-Carriers: upgrade, websocket"), plainTCP},
		{"carriers-unknown", "M66", "an unknown carrier", tcp("Preflight-Carriers: pigeon, , UPGRADE"), plainTCP},
		{"carriers-empty", "M66", "an empty Preflight-Carriers", tcp("Preflight-Carriers:"), plainTCP},
		{"carriers-protocol", "M17 M21", "Preflight-Carriers beside another protocol", strings.Replace(tcp("Preflight-Carriers: upgrade"), "Upgrade: tcp", "Upgrade: h2c", 1), refuse(426, "protocol")},

		{"websocket", "M48 M50", "the carrier websocket", ws("Preflight-Framing: capsule"), webSocket},
		{"websocket-browser", "M48 M49", "without Preflight-Framing, as a browser sends it", ws(), webSocket},
		{"websocket-data", "M6 M54", "messages behind the head", ws() + s.messages(data("hello"), final("")), holds(webSocket, "hello")},
		{"websocket-extensions", "M14 M50", "an extension is offered, and not accepted", ws("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"), webSocket},
		{"websocket-case", "M13 M48", "the token in another case", strings.Replace(ws(), "websocket", "WebSocket", 1), webSocket},
		{"websocket-bearer", "M49", "another name beside the subprotocol", wsOf(version, key, "Sec-WebSocket-Protocol: preflight.v1, bearer.c2VjcmV0"), webSocket},
		{"websocket-last", "M49", "the subprotocol is last", wsOf(version, key, "Sec-WebSocket-Protocol: chat,preflight.v1"), webSocket},
		{"websocket-lines", "M49", "the subprotocol stands in the second line", wsOf(version, key, "Sec-WebSocket-Protocol: chat", mine), webSocket},
		{"websocket-version-8", "M21 M22", "version 8", wsOf("Sec-WebSocket-Version: 8", key, mine), refuse(426, "websocket")},
		{"websocket-version-none", "M21 M22", "no version", wsOf(key, mine), refuse(426, "websocket")},
		{"websocket-key-none", "M21", "no key", wsOf(version, mine), badKey},
		{"websocket-key-empty", "M21", "an empty key", wsOf(version, "Sec-WebSocket-Key:", mine), badKey},
		{"websocket-key-short", "M21", "a key of 15 bytes", wsOf(version, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j", mine), badKey},
		{"websocket-key-long", "M21", "a key of 17 bytes", wsOf(version, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE=", mine), badKey},
		{"websocket-key-alphabet", "M21", "a key that is not base64", wsOf(version, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!==", mine), badKey},
		{"websocket-key-twice", "M21", "two keys", ws(key), badKey},
		{"websocket-order", "M21", "the version goes before the key", wsOf("Sec-WebSocket-Version: 8", mine), refuse(426, "websocket")},
		{"websocket-post", "M21", "POST", strings.Replace(ws(), "GET", "POST", 1), refuse(405, "method")},
		{"websocket-http10", "M21", "HTTP/1.0", strings.Replace(ws(), "HTTP/1.1", "HTTP/1.0", 1), refuse(426, "http10")},
		{"subprotocol-none", "M17 M21 M48", "a proxy has removed the subprotocol", wsOf(version, key, "Preflight-Framing: capsule"), refuse(400, "subprotocol")},
		{"subprotocol-other", "M17 M21", "another subprotocol, but Preflight-Framing", wsOf(version, key, "Sec-WebSocket-Protocol: chat", "Preflight-Framing: capsule"), refuse(400, "subprotocol")},
		{"subprotocol-carriers", "M17 M21", "no subprotocol, but Preflight-Carriers", wsOf(version, key, "Preflight-Carriers: websocket"), refuse(400, "subprotocol")},
		{"websocket-protocol", "M52", "another protocol on websocket", ws("Preflight-Protocol: tcps"), speaks(accept("websocket", "tcps"), "tcp", "tcps")},
		{"websocket-protocol-tcp", "M52", "Preflight-Protocol names tcp, which needs no such field", ws("Preflight-Protocol: tcp"), webSocket},
		{"websocket-protocol-case", "M52", "another protocol in another case", ws("Preflight-Protocol: TCPS"), speaks(accept("websocket", "tcps"), "tcp", "tcps")},
		{"websocket-protocol-unknown", "M21 M52", "a protocol that is not served, on websocket", ws("Preflight-Protocol: amqp"), refuse(426, "protocol")},
		{"websocket-not-tcp", "M21 M52", "tcp is not served, and Preflight-Protocol is not there", ws(), speaks(refuse(426, "protocol"), "amqp")},

		{"tls-inside", "M71", "TLS inside the carrier upgrade", tcp("Preflight-Tunnel: tls"), inside(plainTCP)},
		{"tls-inside-framed", "M71", "TLS inside the carrier framed", tcp("Preflight-Framing: capsule", "Preflight-Tunnel: tls"), inside(framedTCP)},
		{"tls-inside-websocket", "M71", "TLS inside the carrier websocket", ws("Preflight-Tunnel: tls"), inside(webSocket)},
		{"tls-inside-unasked", "M71", "TLS inside is served, and not asked for", tcp(), withTLS(plainTCP)},
		{"tls-inside-none", "M71", "TLS inside is not served", tcp("Preflight-Tunnel: tls"), refuse(426, "tunnel-tls")},
		{"tls-inside-none-websocket", "M71", "TLS inside is not served on websocket", ws("Preflight-Tunnel: tls"), refuse(426, "tunnel-tls")},
	}
}

// origins are requests of web pages.
func origins() []row {
	refused := refuse(403, "origin")
	page := "Origin: https://page.example"
	return []row{
		{"origin", "M74", "a page, and none is allowed", ws(page), refused},
		{"origin-upgrade", "M74", "Origin on the carrier upgrade", tcp(page), refused},
		{"origin-framed", "M74", "Origin on the carrier framed", tcp("Preflight-Framing: capsule", page), refused},
		{"origin-empty", "M74", "an empty Origin", ws("Origin:"), refused},
		{"origin-null", "M74", "null, and others are allowed", ws("Origin: null"), allows(refused, "https://page.example")},
		{"origin-host", "M75", "Origin agrees with Host", ws("Origin: http://example.com"), refused},
		{"origin-allowed", "M74", "a page that is allowed", ws(page), allows(webSocket, "https://page.example")},
		{"origin-allowed-upgrade", "M74", "an Origin that is allowed, on the carrier upgrade", tcp(page), allows(plainTCP, "https://page.example")},
		{"origin-allowed-port", "M74", "an origin with a port", ws("Origin: https://page.example:8443"), allows(webSocket, "https://page.example:8443")},
		{"origin-allowed-null", "M74", "null is allowed", ws("Origin: null"), allows(webSocket, "null")},
		{"origin-other", "M74", "another page", ws("Origin: https://evil.example"), allows(refused, "https://page.example")},
		{"origin-scheme", "M74", "another scheme", ws("Origin: http://page.example"), allows(refused, "https://page.example")},
		{"origin-port", "M74", "another port", ws("Origin: https://page.example:8443"), allows(refused, "https://page.example")},
		{"origin-path", "M74", "a URL is no origin", ws("Origin: https://page.example/"), allows(refused, "https://page.example")},
		{"origin-longer", "M74", "a longer name", ws("Origin: https://page.example.evil.example"), allows(refused, "https://page.example")},
		{"origin-twice", "M74", "Origin stands twice", ws(page, page), allows(refused, "https://page.example")},
		{"origin-list", "M74", "Origin is a list", ws("Origin: https://page.example, https://page.example"), allows(refused, "https://page.example")},
		{"origin-pattern", "M76", "one label in front", ws("Origin: https://a.page.example"), allows(webSocket, "https://*.page.example")},
		{"origin-pattern-labels", "M76", "two labels in front", ws("Origin: https://b.a.page.example"), allows(webSocket, "https://*.page.example")},
		{"origin-pattern-host", "M76", "no label in front", ws(page), allows(refused, "https://*.page.example")},
		{"origin-pattern-suffix", "M76", "a name that only ends like it", ws("Origin: https://evilpage.example"), allows(refused, "https://*.page.example")},
		{"origin-pattern-scheme", "M76", "a pattern has a scheme", ws("Origin: http://a.page.example"), allows(refused, "https://*.page.example")},
		{"origin-any-null", "M76", "null is not among every origin", ws("Origin: null"), allows(refused, "*")},
		{"origin-any-null-listed", "M76", "null is listed beside every origin", ws("Origin: null"), allows(webSocket, "*", "null")},
		{"origin-any-path", "M74 M76", "a URL is no origin, where every origin is allowed", ws("Origin: https://page.example/"), allows(refused, "*")},
		{"origin-any-case", "M74 M76", "upper case is no serialised origin", ws("Origin: https://Page.example"), allows(refused, "*")},
		{"origin-pattern-null", "M76", "a pattern does not allow null", ws("Origin: null"), allows(refused, "https://*.page.example")},
		{"origin-any", "M76", "every origin is allowed", ws("Origin: https://evil.example"), allows(webSocket, "*")},
	}
}
