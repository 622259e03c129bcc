package main

import (
	"strings"

	"github.com/preflight-go/preflight/spec/vectors"
)

// switched is a 101 for the token tcp with more field lines.
func switched(more ...string) string {
	return lines(append([]string{"HTTP/1.1 101 Switching Protocols", "Upgrade: tcp", "Connection: Upgrade"}, more...)...)
}

// wsSwitched is a 101 for the carrier websocket with more field lines.
func wsSwitched(more ...string) string {
	return wsSwitchedOf(append([]string{"Sec-WebSocket-Accept: " + sampleAccept, "Sec-WebSocket-Protocol: preflight.v1"}, more...)...)
}

// wsSwitchedOf is a 101 for the token websocket with field lines.
func wsSwitchedOf(more ...string) string {
	return lines(append([]string{"HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"}, more...)...)
}

// status is an answer without a body and with more field lines.
func status(line string, more ...string) string {
	return lines(append([]string{"HTTP/1.1 " + line, "Content-Length: 0", "Connection: close"}, more...)...)
}

func receipt(code string) string { return "Preflight-Refusal: " + code }

// tries sets the carriers of a client: the answer is for the first.
func tries(v vectors.Vector, carriers ...string) vectors.Vector {
	v.Carriers = carriers
	if carriers[0] == "websocket" {
		v.Key = sampleKey
	}
	return v
}

var (
	fail = vectors.Vector{Expect: "fail"}
	fall = vectors.Vector{Expect: "fall"}
)

// answers returns the vectors of answers. Without another set-up, the client tries upgrade
// with websocket behind it, for the protocol tcp.
func answers() (all []vectors.Vector) {
	var rows []row
	rows = append(rows, forms()...)
	rows = append(rows, switches()...)
	rows = append(rows, falls()...)
	for _, r := range rows {
		if r.want.Carriers == nil {
			carriers := []string{"upgrade", "websocket"}
			if r.want.Carrier == "framed" || r.want.Carrier == "websocket" {
				carriers = []string{r.want.Carrier}
			}
			r.want = tries(r.want, carriers...)
		}
		all = append(all, r.vector(vectors.ResponseHead, "client"))
	}
	return all
}

// forms are the forms that an answer may have, or not.
func forms() []row {
	interim := lines("HTTP/1.1 103 Early Hints", "Link: </x>")
	return []row{
		{"switched", "M26", "the 101", switched(), plainTCP},
		{"switched-data", "M6 M7", "bytes behind the head are the tunnel's", switched() + "hello", holds(plainTCP, "hello")},
		{"switched-data-like-http", "M6", "bytes behind the head are not read as HTTP", switched() + switched(), holds(plainTCP, switched())},
		{"interim", "M24", "an interim answer", interim + switched(), plainTCP},
		{"interim-8", "M24", "eight interim answers", strings.Repeat(lines("HTTP/1.1 102 Processing"), 8) + switched(), plainTCP},
		{"interim-100", "M24", "an answer to an expectation that was not sent", lines("HTTP/1.1 100 Continue") + switched() + "hello", holds(plainTCP, "hello")},
		{"interim-9", "M24", "a ninth interim answer", strings.Repeat(lines("HTTP/1.1 102 Processing"), 9) + switched(), fail},
		{"http12", "M25", "a 101 of HTTP/1.2", strings.Replace(switched(), "HTTP/1.1", "HTTP/1.2", 1), plainTCP},
		{"http19", "M25", "a 101 of HTTP/1.9", strings.Replace(switched(), "HTTP/1.1", "HTTP/1.9", 1), plainTCP},
		{"http10", "M25", "a 101 of HTTP/1.0", strings.Replace(switched(), "HTTP/1.1", "HTTP/1.0", 1), plainTCP},
		{"reason-other", "M25", "another reason phrase", strings.Replace(switched(), "Switching Protocols", "Web Socket Protocol Handshake", 1), plainTCP},
		{"reason-empty", "M25", "an empty reason phrase", strings.Replace(switched(), "Switching Protocols", "", 1), plainTCP},
		{"reason-none", "M25", "no reason phrase, and no space before it", strings.Replace(switched(), " Switching Protocols", "", 1), plainTCP},
		{"folding", "M25", "a folded field", switched("X: a", " b"), plainTCP},
		{"folding-twice", "M25", "a field over three lines, with a tab", switched("Connection: close,", "\tkeep-alive,", " x"), plainTCP},
		{"folding-list", "M25", "a folded list", lines("HTTP/1.1 101 Switching Protocols", "Upgrade: tcp", "Connection: close,", " Upgrade"), plainTCP},
		{"lf-everywhere", "M25", "each line ends with a bare LF", strings.ReplaceAll(switched(), "\r", ""), plainTCP},
		{"lf-data", "M6 M25", "bytes behind a head whose lines end with a bare LF", strings.ReplaceAll(switched(), "\r", "") + "hello", holds(plainTCP, "hello")},
		{"lf-data-like-lines", "M6 M25", "empty lines behind such a head are the tunnel's", strings.ReplaceAll(switched(), "\r", "") + "\r\n\n", holds(plainTCP, "\r\n\n")},
		{"lf-in-first-line", "M25", "the status line alone ends with a bare LF", strings.Replace(switched(), "\r\n", "\n", 1), plainTCP},
		{"lf-at-end", "M25", "the empty line is a bare LF", cut(switched(), 2) + "\n", plainTCP},
		{"lf-before-crlf", "M6 M25", "a bare LF, then an empty line with CRLF", strings.ReplaceAll(cut(switched(), 2), "\r", "") + "\r\nhello", holds(plainTCP, "hello")},
		{"lf-interim", "M24 M25", "an interim answer whose lines end with a bare LF", strings.ReplaceAll(interim, "\r", "") + switched(), plainTCP},
		{"lf-folding", "M25", "a folded field whose lines end with a bare LF", strings.ReplaceAll(switched("X: a", " b"), "\r", ""), plainTCP},
		{"names-case", "M25 M26", "names and tokens in another case", lines("HTTP/1.1 101 Switching Protocols", "UPGRADE: TCP", "connection: upgrade"), plainTCP},
		{"connection-list", "M25", "Connection lists more", lines("HTTP/1.1 101 Switching Protocols", "Upgrade: tcp", "Connection: keep-alive, Upgrade"), plainTCP},
		{"connection-lines", "M25", "Connection over two lines", switched("Connection: close"), plainTCP},
		{"unknown-fields", "M25", "unknown fields", switched("Date: Sat, 28 Nov 2026 12:00:00 GMT", "Server: x", "Preflight-Unknown: ?"), plainTCP},
		{"length", "M25", "a length on the 101 means nothing", switched("Content-Length: 0") + "hello", holds(plainTCP, "hello")},
		{"coding", "M25", "a transfer coding on the 101 means nothing", switched("Transfer-Encoding: chunked") + "hello", holds(plainTCP, "hello")},
		{"receipt-on-101", "M25 M68", "a receipt on the 101 that was asked for means nothing", switched(receipt("origin")), plainTCP},
		{"protocol-on-upgrade", "M25 M52", "Preflight-Protocol means nothing on the carrier upgrade", switched("Preflight-Protocol: tcps"), plainTCP},
		{"protocol-on-framed", "M25 M52", "Preflight-Protocol means nothing on the carrier framed", switched("Preflight-Framing: capsule", "Preflight-Protocol: tcps"), framedTCP},
		{"websocket-fields-on-upgrade", "M25", "the fields of WebSocket mean nothing on the carrier upgrade", switched("Sec-WebSocket-Accept: x", "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: permessage-deflate"), plainTCP},
		{"capsule-protocol", "M25 M28", "Capsule-Protocol on the 101 means nothing", switched("Capsule-Protocol: ?1"), plainTCP},

		{"not-http", "M27", "a server of another protocol", "SSH-2.0-OpenSSH_9.6\r\n", fail},
		{"not-http-tls", "M27", "a TLS alert", "\x15\x03\x01\x00\x02\x02\x46", fail},
		{"not-http-first-byte", "M27", "one wrong byte is enough; nothing follows", "S", open(fail)},
		{"not-http-last-byte", "M27", "the last byte of HTTP/1. is wrong; nothing follows", "HTTP/2", open(fail)},
		{"not-http-line", "M27", "a line of another protocol; nothing follows", "220 mail.example ESMTP\r\n", open(fail)},
		{"not-http-lower-case", "M27", "the version in lower case", "http/1.1 101 Switching Protocols\r\n", open(fail)},
		{"not-http-interim", "M27", "another protocol behind an interim answer; nothing follows", interim + "S", open(fail)},
		{"not-http-html", "M27", "a page without a status line", "<!DOCTYPE html>\n<title>503</title>", fail},
		{"http2", "M27", "HTTP/2", strings.Replace(switched(), "HTTP/1.1", "HTTP/2", 1), fail},
		{"status-two-digits", "M27", "a status of two digits", strings.Replace(switched(), "101", "10", 1), fail},
		{"status-four-digits", "M27", "a status of four digits", strings.Replace(switched(), "101", "1010", 1), fail},
		{"status-0xx", "M27", "a status that begins with 0", strings.Replace(switched(), "101", "001", 1), fail},
		{"status-000", "M27", "the status 000", status("000 x"), fail},
		{"status-letters", "M27", "a status that is no number", strings.Replace(switched(), "101", "1o1", 1), fail},
		{"version-two-digits", "M27", "a version of two digits", strings.Replace(switched(), "HTTP/1.1", "HTTP/1.10", 1), fail},
		{"version-no-digit", "M27", "a version without its last digit", strings.Replace(switched(), "HTTP/1.1", "HTTP/1.", 1), fail},
		{"folding-first", "M27", "white space begins the line behind the status line", strings.Replace(switched(), "Upgrade: tcp", " folded\r\nUpgrade: tcp", 1), fail},
		{"name-empty", "M27", "a field without a name", switched(": y"), fail},
		{"status-none", "M27", "no status", strings.Replace(switched(), "101 ", "", 1), fail},
		{"space-before-colon", "M27", "a space before the colon", switched("X : y"), fail},
		{"colon-missing", "M27", "a field without a colon", switched("Xyz"), fail},
		{"nul-in-value", "M27", "a NUL in a value", switched("X: \x00"), fail},
		{"escape-in-reason", "M27", "an escape in the reason phrase", strings.Replace(switched(), "Switching", "\x1b[2J", 1), fail},
		{"cr-in-value", "M27", "a bare CR in a value", switched("X: y\rz"), fail},
		{"end-at-once", "M27", "an end without an answer", "", fail},
		{"end-in-line", "M27", "an end inside the status line", switched()[:11], fail},
		{"end-in-head", "M27", "an end before the empty line", cut(switched(), 2), fail},
		{"end-behind-interim", "M27", "an end behind an interim answer", interim, fail},
		{"reset-at-once", "M27", "a reset without an answer", "", reset(fail)},
		{"reset-in-head", "M27", "a reset before the empty line", cut(switched(), 2), reset(fail)},
	}
}

// switches are 101 answers for the carriers and for TLS inside.
func switches() []row {
	s := &sender{}
	framed := "Preflight-Framing: capsule"
	acceptance, mine := "Sec-WebSocket-Accept: "+sampleAccept, "Sec-WebSocket-Protocol: preflight.v1"
	failFramed := tries(fail, "framed")
	failWS := tries(fail, "websocket")
	failTLS := withTLS(tries(fail, "upgrade"))
	return []row{
		{"upgrade-two-tokens", "M26", "Upgrade names two tokens", lines("HTTP/1.1 101 Switching Protocols", "Upgrade: tcp, h2c", "Connection: Upgrade"), tries(fail, "upgrade")},
		{"upgrade-two-lines", "M26", "Upgrade stands twice", switched("Upgrade: tcp"), tries(fail, "upgrade")},
		{"upgrade-none", "M26", "Upgrade is missing", lines("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade"), tries(fail, "upgrade")},
		{"upgrade-other", "M26", "Upgrade names another token", strings.Replace(switched(), "tcp", "tcps", 1), tries(fail, "upgrade")},
		{"connection-none", "M26 M69", "Connection is missing", lines("HTTP/1.1 101 Switching Protocols", "Upgrade: tcp"), fail},
		{"connection-other", "M26 M69", "Connection lists others", lines("HTTP/1.1 101 Switching Protocols", "Upgrade: tcp", "Connection: close"), fail},
		{"protocol", "M26", "another protocol, as asked for", strings.Replace(switched(), "tcp", "tcps", 1), speaks(accept("upgrade", "tcps"), "tcps")},
		{"status-200-like-101", "M26", "a 200 that looks like a 101", strings.Replace(switched("Content-Length: 0"), "101 Switching Protocols", "200 OK", 1), tries(fail, "upgrade")},

		{"framed", "M28", "framing is confirmed", switched(framed), framedTCP},
		{"framed-data", "M6 M28", "capsules behind the head", switched(framed) + data("hello") + final(""), holds(framedTCP, "hello")},
		{"framed-list", "M28", "the value stands twice in a list", switched("Preflight-Framing: capsule, capsule"), framedTCP},
		{"framed-lines", "M28", "the field stands twice", switched(framed, framed), framedTCP},
		{"framed-missing", "M28 M69", "framing was asked for, and is not confirmed", switched(), tries(fail, "framed", "websocket")},
		{"framed-missing-data", "M28", "raw bytes behind a 101 that does not confirm framing", switched() + data("hello") + final(""), failFramed},
		{"framed-unasked", "M28 M69", "framing was not asked for", switched(framed), fail},
		{"framed-unasked-malformed", "M28", "a malformed field that was not asked for", switched("Preflight-Framing: raw"), fail},
		{"framed-value", "M28", "another value", switched("Preflight-Framing: raw"), failFramed},
		{"framed-case", "M28", "the value in another case", switched("Preflight-Framing: CAPSULE"), failFramed},
		{"framed-empty", "M28", "an empty value", switched("Preflight-Framing:"), failFramed},
		{"framed-differs", "M28", "two lines that differ", switched(framed, "Preflight-Framing: raw"), failFramed},

		{"websocket", "M51", "the 101 for websocket", wsSwitched(), webSocket},
		{"websocket-data", "M6 M54", "messages behind the head", wsSwitched() + s.messages(data("hello"), final("")), holds(webSocket, "hello")},
		{"websocket-framing", "M28", "Preflight-Framing on websocket means nothing", wsSwitched("Preflight-Framing: raw"), webSocket},
		{"websocket-extensions-empty", "M51", "an empty list of extensions", wsSwitched("Sec-WebSocket-Extensions:"), webSocket},
		{"websocket-extensions", "M51", "an extension that was not asked for", wsSwitched("Sec-WebSocket-Extensions: permessage-deflate"), failWS},
		{"websocket-extensions-comma", "M51", "a list of extensions of a comma alone is not empty", wsSwitched("Sec-WebSocket-Extensions: ,"), failWS},
		{"websocket-extensions-twice", "M51", "two empty lists of extensions", wsSwitched("Sec-WebSocket-Extensions:", "Sec-WebSocket-Extensions:"), failWS},
		{"websocket-accept-none", "M51", "Sec-WebSocket-Accept is missing", wsSwitchedOf(mine), failWS},
		{"websocket-accept-wrong", "M51", "Sec-WebSocket-Accept of another key", wsSwitchedOf("Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=", mine), failWS},
		{"websocket-accept-case", "M51", "Sec-WebSocket-Accept in another case", wsSwitchedOf("Sec-WebSocket-Accept: "+strings.ToLower(sampleAccept), mine), failWS},
		{"websocket-accept-twice", "M51", "Sec-WebSocket-Accept stands twice", wsSwitched(acceptance), failWS},
		{"subprotocol-none", "M51", "the subprotocol is missing", wsSwitchedOf(acceptance), failWS},
		{"subprotocol-other", "M51", "another subprotocol", wsSwitchedOf(acceptance, "Sec-WebSocket-Protocol: chat"), failWS},
		{"subprotocol-case", "M51", "the subprotocol in another case", wsSwitchedOf(acceptance, "Sec-WebSocket-Protocol: Preflight.V1"), failWS},
		{"subprotocol-list", "M51", "more than the subprotocol", wsSwitchedOf(acceptance, "Sec-WebSocket-Protocol: preflight.v1, chat"), failWS},
		{"subprotocol-twice", "M51", "the subprotocol stands twice", wsSwitched(mine), failWS},
		{"websocket-token", "M26", "the token tcp for websocket", switched(acceptance, mine), failWS},
		{"websocket-protocol", "M52", "another protocol is confirmed", wsSwitched("Preflight-Protocol: tcps"), speaks(accept("websocket", "tcps"), "tcps")},
		{"websocket-protocol-missing", "M52", "another protocol is not confirmed", wsSwitched(), speaks(failWS, "tcps")},
		{"websocket-protocol-other", "M52", "a protocol that was not asked for", wsSwitched("Preflight-Protocol: amqp"), speaks(failWS, "tcps")},
		{"websocket-protocol-unasked", "M52", "a protocol, and none was asked for", wsSwitched("Preflight-Protocol: tcps"), failWS},

		{"websocket-protocol-tcp", "M52", "tcp is named, and Preflight-Protocol was not asked for", wsSwitched("Preflight-Protocol: tcp"), failWS},
		{"websocket-protocol-case", "M52", "another protocol is confirmed in another case", wsSwitched("Preflight-Protocol: TCPS"), speaks(accept("websocket", "tcps"), "tcps")},
		{"websocket-protocol-twice", "M52", "another protocol is confirmed twice", wsSwitched("Preflight-Protocol: tcps", "Preflight-Protocol: tcps"), speaks(failWS, "tcps")},

		{"tls-inside", "M71", "TLS inside is confirmed", switched("Preflight-Tunnel: tls"), inside(plainTCP)},
		{"tls-inside-framed", "M71", "TLS inside is confirmed, framed", switched(framed, "Preflight-Tunnel: tls"), inside(framedTCP)},
		{"tls-inside-websocket", "M71", "TLS inside is confirmed on websocket", wsSwitched("Preflight-Tunnel: tls"), inside(webSocket)},
		{"tls-inside-missing", "M72", "TLS inside is not confirmed", switched(), failTLS},
		{"tls-inside-value", "M72", "another value", switched("Preflight-Tunnel: ssl"), failTLS},
		{"tls-inside-twice", "M72", "the field stands twice", switched("Preflight-Tunnel: tls", "Preflight-Tunnel: tls"), failTLS},
		{"tls-inside-list", "M72", "the value stands twice", switched("Preflight-Tunnel: tls, tls"), failTLS},
		{"tls-inside-unasked", "M69 M72", "TLS inside was not asked for", switched("Preflight-Tunnel: tls"), fail},
		{"tls-inside-unasked-websocket", "M72", "TLS inside was not asked for, on websocket", wsSwitched("Preflight-Tunnel: tls"), failWS},
	}
}

// falls are answers after which a client that has another carrier goes on to it, or not.
func falls() []row {
	rows := []row{
		{"fall-101-token", "M68", "a 101 that names another token", strings.Replace(switched(), "tcp", "websocket", 1), fall},
		{"fall-101-no-token", "M68", "a 101 without Upgrade", lines("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade"), fall},
		{"fall-101-two-tokens", "M68", "a 101 that names another token too", lines("HTTP/1.1 101 Switching Protocols", "Upgrade: tcp, h2c", "Connection: Upgrade"), fall},
		{"fall-101-token-twice", "M26 M68", "a 101 that names the token twice", lines("HTTP/1.1 101 Switching Protocols", "Upgrade: tcp, tcp", "Connection: Upgrade"), fall},
		{"fall-101-two-lines", "M26 M68", "a 101 that names the token in two lines", switched("Upgrade: tcp"), fall},
		{"fall-101-empty", "M68", "a 101 whose Upgrade is empty", lines("HTTP/1.1 101 Switching Protocols", "Upgrade:", "Connection: Upgrade"), fall},
		{"fall-101-bare", "M68", "a 101 without Upgrade and Connection: the token comes first", lines("HTTP/1.1 101 Switching Protocols"), fall},
		{"fall-101-version", "M68", "a 101 that names a version of the token", lines("HTTP/1.1 101 Switching Protocols", "Upgrade: tcp/1", "Connection: Upgrade"), fall},
		{"fall-101-fields", "M68", "another token, and framing that was not asked for: the token comes first", strings.Replace(switched("Preflight-Framing: capsule"), "tcp", "h2c", 1), fall},
		{"stay-101-token-receipt", "M69", "a 101 that names another token, with a receipt", strings.Replace(switched(receipt("no-upgrade")), "tcp", "h2c", 1), fail},
		{"stay-101-no-token-receipt", "M69", "a 101 without Upgrade, with a receipt", lines("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", receipt("origin")), fail},
		{"stay-600", "M69", "a status above 599", status("600 x"), fail},
		{"stay-999", "M69", "the greatest status", status("999 x"), fail},
		{"stay-receipt-empty", "M69", "an empty receipt is a receipt", status("403 Forbidden", "Preflight-Refusal:"), fail},
		{"stay-receipt-twice", "M69", "two receipts are no known code", status("426 Upgrade Required", receipt("no-upgrade"), receipt("no-upgrade")), fail},
		{"stay-receipt-list", "M69", "a list of codes is no known code", status("426 Upgrade Required", receipt("no-upgrade, carrier")), fail},
		{"stay-receipt-case", "M69", "a code in another case is not known", status("426 Upgrade Required", receipt("No-Upgrade")), fail},
		{"stay-receipt-bytes", "M69", "a receipt that is no code", status("404 Not Found", receipt("caf\xe9 1")), fail},
		{"stay-receipt-long", "M69", "a long code", status("404 Not Found", receipt(strings.Repeat("a", 100))), fail},
		{"stay-receipt-200", "M69", "a receipt of carrier with a 200", status("200 OK", receipt("carrier")), fail},
		{"fall-receipt-space", "M67", "white space around a code", status("426 Upgrade Required", "Preflight-Refusal: \tcarrier  "), fall},
		{"fall-receipt-http10", "M25 M67", "a receipt in an answer of HTTP/1.0", strings.Replace(status("426 Upgrade Required", receipt("no-upgrade")), "HTTP/1.1", "HTTP/1.0", 1), fall},
		{"fall-interim", "M24 M68", "a 426 behind an interim answer", lines("HTTP/1.1 103 Early Hints") + status("426 Upgrade Required"), fall},
		{"fall-framed", "M68", "from framed to websocket", status("403 Forbidden"), tries(fall, "framed", "websocket")},
		{"fall-from-websocket", "M68", "from websocket to upgrade", status("400 Bad Request"), tries(fall, "websocket", "upgrade")},
		{"fall-nowhere", "M67 M68", "there is no other carrier", status("426 Upgrade Required", receipt("no-upgrade")), tries(fail, "websocket")},
		{"fall-receipt-400", "M67", "a 400 with a receipt of no-upgrade", status("400 Bad Request", receipt("no-upgrade")), fall},
		{"stay-receipt-403", "M69", "a receipt of no-upgrade with another status", status("403 Forbidden", receipt("no-upgrade")), fail},
		{"fall-receipt-405", "M67", "a 405 with a receipt of no-connection", status("405 Method Not Allowed", receipt("no-connection")), fall},
	}
	for _, s := range []string{"200 OK", "301 Moved Permanently", "302 Found", "307 Temporary Redirect", "400 Bad Request", "403 Forbidden",
		"404 Not Found", "405 Method Not Allowed", "426 Upgrade Required", "501 Not Implemented", "505 HTTP Version Not Supported"} {
		rows = append(rows, row{"fall-" + s[:3], "M68", "no receipt: " + s, status(s), fall})
	}
	for _, code := range []string{"no-upgrade", "no-connection", "carrier"} {
		rows = append(rows, row{"fall-" + code, "M67", "a receipt of " + code, status("426 Upgrade Required", "Upgrade: tcp", receipt(code)), fall})
	}
	for _, s := range []string{"401 Unauthorized", "407 Proxy Authentication Required", "429 Too Many Requests", "500 Internal Server Error",
		"502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"} {
		rows = append(rows, row{"stay-" + s[:3], "M69", "no receipt, but an outage or a matter of credentials: " + s, status(s), fail})
	}
	rows = append(rows, row{"stay-406", "M69", "no receipt, and a status that is not in the list of M68", status("406 Not Acceptable"), fail})
	for _, c := range []struct{ code, status string }{
		{"head", "400 Bad Request"}, {"http10", "426 Upgrade Required"}, {"protocol", "426 Upgrade Required"}, {"tunnel-tls", "426 Upgrade Required"},
		{"origin", "403 Forbidden"}, {"authorize", "403 Forbidden"}, {"unavailable", "503 Service Unavailable"}, {"unknown-code", "404 Not Found"},
	} {
		rows = append(rows, row{"stay-" + c.code, "M69", "a receipt of " + c.code, status(c.status, receipt(c.code)), fail})
	}
	return rows
}
