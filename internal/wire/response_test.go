package wire_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
)

func parseResponse(head string) (wire.Response, *wire.Error) {
	n := wire.ResponseEnd([]byte(head), 0)
	if n == 0 {
		panic("not a whole head: " + head)
	}
	var r wire.Response
	err := r.Parse(bytes.Clone([]byte(head)[:n:n]))
	return r, err
}

func TestNotHTTP(t *testing.T) {
	const line = "HTTP/1.1 101\r\n"
	everySplit(line, func(i int) {
		require.False(t, wire.NotHTTP([]byte(line)[:i]), "%q", line[:i])
	})
	require.False(t, wire.NotHTTP([]byte("HTTP/1.0 200 OK")))
	for _, b := range []string{"<", "h", "HTTP/2", "HTTP/0.9", "HTTX", " HTTP/1.1", "\r\nHTTP/1.1", "\x15\x03\x01", "SSH-2.0-x", "ICY 200 OK"} {
		require.True(t, wire.NotHTTP([]byte(b)), "%q", b)
	}
}

// TestResponseEnd splits the answer at every byte. It may arrive in any pieces,
// and the bytes after its head belong to the tunnel.
func TestResponseEnd(t *testing.T) {
	const payload = "\n\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\x00"
	for name, head := range map[string]string{
		"CRLF":            normalAnswer,
		"LF":              "HTTP/1.1 101 x\nConnection: Upgrade\nUpgrade: tcp\n\n",
		"CRLF, then LF":   "HTTP/1.1 101 x\r\nUpgrade: tcp\r\n\n",
		"LF, then CRLF":   "HTTP/1.1 101 x\nUpgrade: tcp\n\r\n",
		"no fields":       "HTTP/1.1 101\r\n\r\n",
		"no fields, LF":   "HTTP/1.1 101\n\n",
		"blank fold":      "HTTP/1.1 101 x\r\nA: b\r\n \r\n\t\r\n\r\n",
		"CR before CRLF":  "HTTP/1.1 101 x\r\nA: b\r\r\n\r\r\nB: c\r\n\r\n",
		"bare CR in line": "HTTP/1.1 101 x\r\nA: \r\r\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, len(head), wire.ResponseEnd([]byte(head+payload), 0))
			everySplit(head, func(i int) {
				if i < len(head) {
					require.Zero(t, wire.ResponseEnd([]byte(head)[:i], 0), "the first %d bytes", i)
				}
				require.Equal(t, len(head), wire.ResponseEnd([]byte(head+payload), min(i, len(head)-1)), "from %d", i)
			})
			for i := range len(head) - 1 {
				require.Zero(t, wire.ResponseEnd([]byte(head)[:i+1], i), "byte %d alone", i)
			}
			require.Equal(t, len(head), wire.ResponseEnd([]byte(head), len(head)-1), "the last byte alone")
		})
	}
}

func TestParseResponse(t *testing.T) {
	for head, want := range map[string]struct {
		status, minor int
		reason        string
	}{
		"HTTP/1.1 101 Switching Protocols\r\n\r\n": {101, 1, "Switching Protocols"},
		"HTTP/1.1 101\r\n\r\n":                     {101, 1, ""}, // nginx, Varnish: no reason phrase, and no SP before it
		"HTTP/1.1 101 \r\n\r\n":                    {101, 1, ""}, // HAProxy, Apache
		"HTTP/1.1 101 101\r\n\r\n":                 {101, 1, "101"},
		"HTTP/1.0 101 UPGRADED\n\n":                {101, 0, "UPGRADED"},
		"HTTP/1.1 426 \t Upgrade  Required \r\n\n": {426, 1, "Upgrade  Required"},
		"HTTP/1.1 200 caf\xe9\r\n\r\n":             {200, 1, "caf\xe9"},
		"HTTP/1.9 599 x\r\n\r\n":                   {599, 9, "x"},
		"HTTP/1.1 999\r\n\r\n":                     {999, 1, ""},
	} {
		r, err := parseResponse(head)
		require.Nil(t, err, "%q", head)
		require.Equal(t, want.status, r.Status, "%q", head)
		require.EqualValues(t, want.minor, r.Minor, "%q", head)
		require.Equal(t, want.reason, string(r.Reason), "%q", head)
	}
}

func TestParseResponseRefuses(t *testing.T) {
	const line = "HTTP/1.1 101 x\r\n" // 16 bytes
	for name, test := range map[string]struct {
		head   string
		offset int
		rule   string
	}{
		"another protocol":            {"HTTP/2 101\r\n\r\n", 0, "status line"},
		"no code":                     {"HTTP/1.1\r\n\r\n", 0, "status line"},
		"no code, but SP":             {"HTTP/1.1 \r\n\r\n", 0, "status line"},
		"two digits":                  {"HTTP/1.1 10\r\n\r\n", 0, "status line"},
		"two digits and reason":       {"HTTP/1.1 10 x\r\n\r\n", 0, "status line"},
		"four digits":                 {"HTTP/1.1 1010\r\n\r\n", 0, "status line"},
		"letters":                     {"HTTP/1.1 1o1 x\r\n\r\n", 0, "status line"},
		"sign":                        {"HTTP/1.1 +11 x\r\n\r\n", 0, "status line"},
		"leading 0":                   {"HTTP/1.1 010 x\r\n\r\n", 0, "status line"},
		"two SP":                      {"HTTP/1.1  101 x\r\n\r\n", 0, "status line"},
		"tab":                         {"HTTP/1.1\t101 x\r\n\r\n", 0, "status line"},
		"tab after the code":          {"HTTP/1.1 101\tx\r\n\r\n", 0, "status line"},
		"minor version of two digits": {"HTTP/1.10 101 x\r\n\r\n", 0, "status line"},
		"minor version of none":       {"HTTP/1. 101 x\r\n\r\n", 0, "status line"},
		"minor version a letter":      {"HTTP/1.x 101 x\r\n\r\n", 0, "status line"},
		"NUL in the reason":           {"HTTP/1.1 101 a\x00b\r\n\r\n", 0, "reason phrase"},
		"CR in the reason":            {"HTTP/1.1 101 a\rb\r\n\r\n", 0, "reason phrase"},

		"fold of the status line":                     {line + " x\r\nA: b\r\n\r\n", 16, "white space"},
		"white space before colon":                    {line + "A : b\r\n\r\n", 17, "before the colon"},
		"tab before colon":                            {line + "A\t: b\r\n\r\n", 17, "before the colon"},
		"no name":                                     {line + ": b\r\n\r\n", 16, "no name"},
		"no colon":                                    {line + "A\r\n\r\n", 17, "no colon"},
		"no colon, LF":                                {line + "A\n\n", 17, "no colon"},
		"name not a token":                            {line + "A\x00: b\r\n\r\n", 17, "not a token"},
		"escape in a value":                           {line + "A: \x1b[2J\r\n\r\n", 16, "field value"},
		"DEL in a value":                              {line + "A: b\x7f\r\n\r\n", 16, "field value"},
		"DEL in the reason":                           {"HTTP/1.1 101 \x7f\r\n\r\n", 0, "reason phrase"},
		"NUL in a value":                              {line + "A: b\x00\r\n\r\n", 16, "field value"},
		"CR in a value":                               {line + "A: b\rc\r\n\r\n", 16, "field value"},
		"CR that hides a field":                       {line + "A: b\rConnection: upgrade\r\n\r\n", 16, "field value"},
		"NUL in a folded value":                       {line + "A: b\r\n \x00c\r\n\r\n", 16, "field value"},
		"second field":                                {line + "A: b\r\nC : d\r\n\r\n", 23, "before the colon"},
		"CR in the second field":                      {line + "A: b\r\nC: d\re\r\n\r\n", 22, "field value"},
		"CR in front of a field":                      {line + "\rA: b\r\n\r\n", 16, ""},
		"CR where the head goes on":                   {line + "A: b\r\n\rC: d\r\n\r\n", 22, ""},
		"CR CR LF where it goes on":                   {line + "A: b\r\n\r\r\nC: d\r\n\r\n", 22, ""},
		"CR in a name":                                {line + "A\rB: b\r\n\r\n", 17, ""},
		"field after a CR that does not end the head": {line + "Upgrade: tcp\r\nConnection: upgrade\r\n\rUpgrade: h2c\r\n\r\n", 51, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseResponse(test.head)
			require.NotNil(t, err)
			require.Equal(t, 400, err.Status)
			require.Equal(t, test.offset, err.Offset)
			require.Contains(t, err.Rule, test.rule)
		})
	}
}

func TestSwitched(t *testing.T) {
	for name, test := range map[string]struct{ fields, rule string }{
		"normal":             {"Upgrade: tcp\r\nConnection: Upgrade\r\n", ""},
		"lower-cased names":  {"upgrade: tcp\r\nconnection: upgrade\r\n", ""},
		"upper-cased":        {"UPGRADE: TCP\r\nCONNECTION: UPGRADE\r\n", ""},
		"list":               {"Connection: keep-alive , Upgrade\r\nUpgrade: , tcp ,\r\n", ""},
		"two Connections":    {"Connection: close\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n", ""},
		"what means nothing": {"Content-Length: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: y\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n", ""},
		"folded":             {"Connection: close,\r\n Upgrade\r\nUpgrade:\r\n\ttcp\r\n", ""},

		"no Upgrade":            {"Connection: Upgrade\r\n", "no Upgrade"},
		"empty Upgrade":         {"Connection: Upgrade\r\nUpgrade: ,\r\n", "no Upgrade"},
		"another":               {"Connection: Upgrade\r\nUpgrade: websocket\r\n", "another protocol"},
		"another version":       {"Connection: Upgrade\r\nUpgrade: tcp/1\r\n", "another protocol"},
		"two tokens":            {"Connection: Upgrade\r\nUpgrade: tcp, h2c\r\n", "another protocol"},
		"two tokens, ours last": {"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: tcp\r\n", "another protocol"},
		"no Connection":         {"Upgrade: tcp\r\n", "Connection"},
		"Connection close":      {"Upgrade: tcp\r\nConnection: close\r\n", "Connection"},
		"like Connection":       {"Upgrade: tcp\r\nConnection: upgraded\r\n", "Connection"},
		"quoted":                {"Upgrade: tcp\r\nConnection: \"upgrade\"\r\n", "Connection"},
		"Upgrade in the fold":   {"Connection: Upgrade\r\nX: y\r\n Upgrade: tcp\r\n", "no Upgrade"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parseResponse("HTTP/1.1 101 Switching Protocols\r\n" + test.fields + "\r\n")
			require.Nil(t, err)
			err = r.Switched(&wire.Terms{Protocol: "tcp"}, "")
			if test.rule == "" {
				require.Nil(t, err)
				return
			}
			require.NotNil(t, err)
			require.Contains(t, err.Rule, test.rule)
		})
	}
}

// TestSwitchedTunnelTLS: both ends agree on TLS inside the tunnel, or the
// answer is an error.
func TestSwitchedTunnelTLS(t *testing.T) {
	for fields, want := range map[string]struct{ raw, tls string }{ // the broken rule, by whether TLS was asked for
		"":                                  {"", "does not confirm TLS inside the tunnel"},
		"Preflight-Tunnel: tls\r\n":         {"announces TLS inside the tunnel", ""},
		"preflight-tunnel:tls\t\r\n":        {"announces TLS inside the tunnel", ""},
		"Preflight-Tunnel: TLS\r\n":         {"its value is not tls", "its value is not tls"},
		"Preflight-Tunnel:\r\n":             {"its value is not tls", "its value is not tls"},
		"Preflight-Tunnel: tls, tls\r\n":    {"its value is not tls", "its value is not tls"},
		"Preflight-Tunnel: tls\r\n tls\r\n": {"its value is not tls", "its value is not tls"},
		"Preflight-Tunnel: tls\r\nPreflight-Tunnel: tls\r\n": {"repeated", "repeated"},
		"Preflight-Tunnel: raw\r\nPreflight-Tunnel: tls\r\n": {"repeated", "repeated"},
		"Preflight-Tunnels: tls\r\n":                         {"", "does not confirm TLS inside the tunnel"},
		"X: y\r\n Preflight-Tunnel: tls\r\n":                 {"", "does not confirm TLS inside the tunnel"},
	} {
		for asked, rule := range map[bool]string{false: want.raw, true: want.tls} {
			t.Run(fmt.Sprintf("%q, asked %t", fields, asked), func(t *testing.T) {
				r, err := parseResponse("HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n" + fields + "\r\n")
				require.Nil(t, err)
				err = r.Switched(&wire.Terms{Protocol: "tcp", TunnelTLS: asked}, "")
				if rule == "" {
					require.Nil(t, err)
					return
				}
				require.NotNil(t, err)
				require.Contains(t, err.Rule, rule)
			})
		}
	}
	// An error of the upgrade itself is reported first.
	r, err := parseResponse("HTTP/1.1 101 x\r\nConnection: Upgrade\r\n\r\n")
	require.Nil(t, err)
	require.Contains(t, r.Switched(&wire.Terms{Protocol: "tcp", TunnelTLS: true}, "").Rule, "no Upgrade")
}

func TestSwitchedFoldsASCIIOnly(t *testing.T) {
	r, err := parseResponse("HTTP/1.1 101 x\r\nUpgrade: \u212a\r\nConnection: Upgrade\r\n\r\n")
	require.Nil(t, err)
	require.NotNil(t, r.Switched(&wire.Terms{Protocol: "k"}, ""))
}

// TestSwitchedFraming: both ends use framing, or neither does.
func TestSwitchedFraming(t *testing.T) {
	const malformed = "is empty, or has another member than capsule"
	for fields, want := range map[string]struct{ raw, framed string }{ // the rule by what was asked for
		"":                                 {"", "does not confirm the framing"},
		"Preflight-Framing: capsule\r\n":   {"announces framing", ""},
		"preflight-framing:\tcapsule \r\n": {"announces framing", ""},
		"Preflight-Framing: capsule, capsule\r\n":                      {"announces framing", ""},
		"Preflight-Framing: ,capsule\r\n":                              {"announces framing", ""},
		"Preflight-Framing:\r\n capsule\r\n":                           {"announces framing", ""},
		"Preflight-Framing: Capsule\r\n":                               {malformed, malformed},
		"Preflight-Framing: capsule;v=1\r\n":                           {malformed, malformed},
		"Preflight-Framing: \"capsule\"\r\n":                           {malformed, malformed},
		"Preflight-Framing: capsule, x\r\n":                            {malformed, malformed},
		"Preflight-Framing: x, capsule\r\n":                            {malformed, malformed},
		"Preflight-Framing: capsule\r\n capsule\r\n":                   {malformed, malformed},
		"Preflight-Framing:\r\n":                                       {malformed, malformed},
		"Preflight-Framing: ,\r\n":                                     {malformed, malformed},
		"Capsule-Protocol: ?1\r\n":                                     {"", "does not confirm the framing"},
		"Preflight-Protocol: x\r\n":                                    {"", "does not confirm the framing"}, // it has no meaning if the token is not websocket
		"Sec-WebSocket-Protocol: preflight.v1\r\n":                     {"", "does not confirm the framing"},
		"Preflight-Framing: capsule\r\nPreflight-Framing: capsule\r\n": {"announces framing", ""},
		"Preflight-Framing: x\r\nPreflight-Framing: capsule\r\n":       {malformed, malformed},
		"Preflight-Framing: capsule\r\nPreflight-Framing: x\r\n":       {malformed, malformed},
	} {
		for asked, rule := range map[bool]string{false: want.raw, true: want.framed} {
			requireSwitched(t, "Upgrade: tcp\r\n"+fields, &wire.Terms{Protocol: "tcp", Framed: asked}, rule)
		}
	}
}

// TestSwitchedWebSocket: each fault in the 101 of a WebSocket has its own rule.
func TestSwitchedWebSocket(t *testing.T) {
	const (
		upgrade     = "Upgrade: websocket\r\n"
		accept      = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
		subprotocol = "Sec-WebSocket-Protocol: preflight.v1\r\n"
		good        = upgrade + accept + subprotocol
	)
	for fields, rule := range map[string]string{
		good: "",
		"sec-websocket-accept:\ts3pPLMBiTxaQ9kYGzzhZRbK+xOo= \r\nUPGRADE: WebSocket\r\nsec-websocket-protocol:preflight.v1\r\n": "",
		good + "Sec-WebSocket-Extensions:\r\n":                                           "",
		good + "Preflight-Framing: capsule\r\n":                                          "", // it means nothing here
		good + "Preflight-Framing: x\r\n":                                                "",
		good + "Sec-WebSocket-Version: 13\r\n":                                           "",
		accept + subprotocol:                                                             "no Upgrade",
		"Upgrade: tcp\r\n" + accept + subprotocol:                                        "another protocol",
		upgrade + subprotocol:                                                            "no Sec-WebSocket-Accept",
		upgrade + subprotocol + "Sec-WebSocket-Accept:\r\n":                              "does not answer the key",
		upgrade + subprotocol + "Sec-WebSocket-Accept: S3PPLMBITXAQ9KYGZZHZRBK+XOO=\r\n": "does not answer the key",
		good + accept:      "is repeated: RFC 6455 §4.1",
		upgrade + accept:   "no Sec-WebSocket-Protocol",
		good + subprotocol: "is not preflight.v1, or is repeated",
		upgrade + accept + "Sec-WebSocket-Protocol:\r\n":                    "is not preflight.v1",
		upgrade + accept + "Sec-WebSocket-Protocol: Preflight.v1\r\n":       "is not preflight.v1",
		upgrade + accept + "Sec-WebSocket-Protocol: preflight.v1, chat\r\n": "is not preflight.v1",
		upgrade + accept + "Sec-WebSocket-Protocol: preflight.v2\r\n":       "is not preflight.v1",
		good + "Sec-WebSocket-Extensions: permessage-deflate\r\n":           "names a WebSocket extension",
		good + "Sec-WebSocket-Extensions:\r\nSec-WebSocket-Extensions:\r\n": "Sec-WebSocket-Extensions field of the 101 is repeated",
		good + "Preflight-Protocol: tcp\r\n":                                "names a protocol inside the WebSocket",
		good + "Preflight-Tunnel: tls\r\n":                                  "announces TLS inside the tunnel",
	} {
		requireSwitched(t, fields, &wire.Terms{Protocol: "tcp", WebSocket: true}, rule)
	}
	for fields, rule := range map[string]string{
		good + "Preflight-Protocol: nats\r\n": "",
		good + "Preflight-Protocol: NATS\r\n": "", // a token of Upgrade, without regard to case
		good:                                  "does not confirm the protocol inside",
		good + "Preflight-Protocol: tcp\r\n":  "names another protocol than",
		good + "Preflight-Protocol:\r\n":      "names another protocol than",
		good + "Preflight-Protocol: nats\r\nPreflight-Protocol: nats\r\n": "Preflight-Protocol field of the 101 is repeated",
	} {
		requireSwitched(t, fields, &wire.Terms{Protocol: "nats", WebSocket: true}, rule)
	}
	requireSwitched(t, good, &wire.Terms{Protocol: "tcp", WebSocket: true, TunnelTLS: true}, "does not confirm TLS inside the tunnel")
	requireSwitched(t, good+"Preflight-Tunnel: tls\r\n", &wire.Terms{Protocol: "tcp", WebSocket: true, TunnelTLS: true}, "")
}

// requireSwitched requires that a 101 with fields breaks the rule; "" stands for none.
func requireSwitched(t *testing.T, fields string, terms *wire.Terms, rule string) {
	t.Helper()
	r, err := parseResponse("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" + fields + "\r\n")
	require.Nil(t, err, "%q", fields)
	err = r.Switched(terms, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
	if rule == "" {
		require.Nil(t, err, "%q, asked %+v", fields, *terms)
		return
	}
	require.NotNil(t, err, "%q, asked %+v", fields, *terms)
	require.Contains(t, err.Rule, rule, "%q, asked %+v", fields, *terms)
}
