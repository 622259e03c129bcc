package wire_test

import (
	"bytes"
	"testing"

	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
)

// upgradeRequest returns a request for tcp with more field lines.
func upgradeRequest(fields string) string {
	return "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" + fields + "\r\n"
}

// parseRequest parses a head that has arrived completely, as a server does. The
// head is in a separate slice, so reading after its end would panic.
func parseRequest(head string) (wire.Request, *wire.Error) {
	n, err := wire.RequestEnd([]byte(head), 0)
	if err != nil {
		return wire.Request{}, err
	}
	if n == 0 {
		panic("not a whole head: " + head)
	}
	var r wire.Request
	err = r.Parse(bytes.Clone([]byte(head)[:n:n]))
	return r, err
}

// offer returns an Offer of all features, for the protocols.
func offer(protocols ...string) *wire.Offer {
	return &wire.Offer{Protocols: protocols, Upgrade: true, Framed: true, WebSocket: true, TunnelTLS: true}
}

func protocolOf(r *wire.Request, protocols []string) (string, *wire.Error) {
	terms, err := r.Terms(offer(protocols...))
	return terms.Protocol, err
}

func TestRequestEnd(t *testing.T) {
	const payload = "\r\n\r\nGET / HTTP/1.1\r\n\n\x00\x01\x7f\rnot looked at"
	for name, head := range map[string]string{
		"normal":    normalRequest,
		"no fields": "GET / HTTP/1.0\r\n\r\n",
		"obs-text":  upgradeRequest("X: \x80\xff\t\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			n, err := wire.RequestEnd([]byte(head+payload), 0)
			require.Nil(t, err)
			require.Equal(t, len(head), n)
			everySplit(head, func(i int) {
				n, err := wire.RequestEnd([]byte(head)[:i], 0)
				require.Nil(t, err)
				if i < len(head) {
					require.Zero(t, n, "the first %d bytes", i)
				}
				n, err = wire.RequestEnd([]byte(head+payload), min(i, len(head)-1))
				require.Nil(t, err)
				require.Equal(t, len(head), n, "from %d", i)
			})
		})
	}
}

// TestRequestEndFindsEveryControl puts each byte at each place among bytes that
// differ from a control in one bit.
func TestRequestEndFindsEveryControl(t *testing.T) {
	for _, filler := range []byte{' ', '~', 0x80, 0xff} {
		for offset := range 24 {
			for c := range 256 {
				head := bytes.Repeat([]byte{filler}, 40)
				head[offset] = byte(c)
				n, err := wire.RequestEnd(head, 0)
				require.Zero(t, n)
				if c >= ' ' && c != 0x7f || c == '\t' {
					require.Nil(t, err, "%#x between %#x", c, filler)
					continue
				}
				require.NotNil(t, err, "%#x between %#x", c, filler)
				require.Equal(t, offset, err.Offset, "%#x between %#x", c, filler)
			}
		}
	}
}

// TestRequestEndOneByteAtATime finds every broken rule at the same byte, for
// every split of the head.
func TestRequestEndOneByteAtATime(t *testing.T) {
	for name, test := range map[string]struct {
		head   string
		offset int
		rule   string
	}{
		"bare LF":                    {"GET / HTTP/1.1\nHost: h\r\n\r\n", 14, "bare LF"},
		"bare LF in a field":         {"GET / HTTP/1.1\r\nHost: h\n\r\n", 23, "bare LF"},
		"bare LF for the empty line": {"GET / HTTP/1.1\r\nHost: h\r\n\n", 25, "bare LF"},
		"LF first":                   {"\nGET / HTTP/1.1\r\n\r\n", 0, "bare LF"},
		"bare CR":                    {"GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", 23, "bare CR"},
		"bare CR before CRLF":        {"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n", 14, "bare CR"},
		"bare CR for the empty line": {"GET / HTTP/1.1\r\nHost: h\r\n\rX", 25, "bare CR"},
		"bare CR where CRLF was due": {"GET / HTTP/1.1\r\n\r\r\n", 16, "bare CR"},
		"NUL":                        {"GET / HTTP/1.1\r\nHost: \x00\r\n\r\n", 22, "control"},
		"DEL":                        {"GET / HTTP/1.1\r\nHost: h\x7f\r\n\r\n", 23, "control"},
		"vertical tab":               {"GET / HTTP/1.1\r\nX:\v\r\n\r\n", 18, "control"},
		"CR before a control":        {"GET / HTTP/1.1\r\x00\n\r\n\r\n", 14, "bare CR"},
		"unit separator at the end":  {"GET / HTTP/1.1\r\nX: y\r\n\x1f", 22, "control"},
		"escape in the request line": {"GET /\x1b[0m HTTP/1.1\r\n\r\n", 5, "control"},
		"DEL in the method":          {"GE\x7fT / HTTP/1.1\r\n\r\n", 2, "control"},
		"first of two":               {"GET / HTTP/1.1\nX: \x00\r\n\r\n", 14, "bare LF"},
		"nothing after it is read":   {"GET / HTTP/1.1\nHost: h\r\n\r\nGET / HTTP/1.1\r\n\r\n", 14, "bare LF"},
		"LF CR for CR LF":            {"GET / HTTP/1.1\n\rHost: h\n\r\n\r", 14, "bare LF"},
		"next line in ISO 8859-1 is fine, LF is not": {"GET / HTTP/1.1\r\nX: \x85\n\r\n", 20, "bare LF"},
	} {
		t.Run(name, func(t *testing.T) {
			b := []byte(test.head)
			n, whole := wire.RequestEnd(b, 0)
			require.Zero(t, n)
			require.NotNil(t, whole)
			require.Equal(t, 400, whole.Status)
			require.Equal(t, test.offset, whole.Offset)
			require.Contains(t, whole.Rule, test.rule)
			for i := range b {
				// A bare CR is detected at the byte after it.
				n, err := wire.RequestEnd(b[:i+1], i)
				require.Zero(t, n)
				if err != nil {
					require.Equal(t, whole, err)
					require.LessOrEqual(t, i, test.offset+1)
					break
				}
				require.LessOrEqual(t, i, test.offset)
			}
		})
	}
}

func TestParseRequest(t *testing.T) {
	r, err := parseRequest(normalRequest + "payload")
	require.Nil(t, err)
	require.Equal(t, "GET", string(r.Method))
	require.Equal(t, "/client/amps/json", string(r.Target))
	require.Equal(t, "edge.example", string(r.Host))
	require.EqualValues(t, 1, r.Minor)
	require.True(t, r.Upgrade)

	r, err = parseRequest("OPTIONS * HTTP/1.0\r\n\r\n")
	require.Nil(t, err, "HTTP/1.0 has no Host")
	require.Equal(t, "OPTIONS *", string(r.Method)+" "+string(r.Target))
	require.Empty(t, r.Host)
	require.Zero(t, r.Minor)
	require.False(t, r.Upgrade)
}

// TestParseRequestPointsIntoTheHead: the fields point into the head, because a
// copy would cost an allocation.
func TestParseRequestPointsIntoTheHead(t *testing.T) {
	head := []byte(normalRequest)
	var r wire.Request
	err := r.Parse(head)
	require.Nil(t, err)
	require.Same(t, &head[0], &r.Method[0])
	require.Same(t, &head[4], &r.Target[0])
	require.Same(t, &head[bytes.Index(head, []byte("edge"))], &r.Host[0])
}

func TestHostOfTheTarget(t *testing.T) {
	for target, host := range map[string]string{
		"/":                        "field",
		"//other/":                 "field", // a path with an empty segment, not an authority
		"http://target":            "target",
		"http://target/":           "target",
		"HTTP://target:80/a?b":     "target:80",
		"https://target?http://x/": "target",
		"http://[::1]:80/":         "[::1]:80",
	} {
		// RFC 9112 §3.2.2: the target takes precedence over the field, at any
		// position of the field.
		r, err := parseRequest("GET " + target + " HTTP/1.1\r\nX: y\r\nHost: field\r\n\r\n")
		require.Nil(t, err, target)
		require.Equal(t, host, string(r.Host), target)
	}
	r, err := parseRequest("CONNECT target:443 HTTP/1.1\r\nHost: field\r\n\r\n")
	require.Nil(t, err)
	require.Equal(t, "target:443", string(r.Target))
}

// TestParseRequestRefuses has the rules that need the whole head, with the byte
// at which each is broken. The server's test of malformed heads has the others.
func TestParseRequestRefuses(t *testing.T) {
	const line = "GET / HTTP/1.1\r\n" // 16 bytes
	for name, test := range map[string]struct {
		head   string
		status int
		offset int
		rule   string
	}{
		"empty":                     {"\r\n\r\n", 400, 0, "method"},
		"no SP":                     {"GET\r\n\r\n", 400, 0, "method"},
		"no method":                 {" / HTTP/1.1\r\n\r\n", 400, 0, "method"},
		"method not a token":        {"G@T / HTTP/1.1\r\n\r\n", 400, 0, "method"},
		"no target":                 {"GET HTTP/1.1\r\n\r\n", 400, 4, "method SP target SP version"},
		"two SP":                    {"GET  / HTTP/1.1\r\n\r\n", 400, 4, "method SP target SP version"},
		"no version":                {"GET / \r\n\r\n", 400, 6, "HTTP/1.x"},
		"two SP before the version": {"GET /  HTTP/1.1\r\n\r\n", 400, 6, "HTTP/1.x"},
		"version 2":                 {"GET / HTTP/2\r\n\r\n", 400, 6, "HTTP/1.x"},
		"version 1,1":               {"GET / HTTP/1,1\r\n\r\n", 400, 6, "HTTP/1.x"},
		"version x.1":               {"GET / HTTP/x.1\r\n\r\n", 400, 6, "HTTP/1.x"},
		"version in lower case":     {"GET / http/1.1\r\n\r\n", 400, 6, "HTTP/1.x"},
		"byte in the target":        {"GET /a\x80 HTTP/1.1\r\n\r\n", 400, 6, "percent-encoded"},
		"fragment":                  {"GET /a#b HTTP/1.1\r\n\r\n", 400, 6, "percent-encoded"},
		"cut percent-encoding":      {"GET /%4 HTTP/1.1\r\n\r\n", 400, 5, "percent-encoded"},
		"version 1.10":              {"GET / HTTP/1.10\r\n\r\n", 400, 6, "HTTP/1.x"},
		"CONNECT without a port":    {"CONNECT h HTTP/1.1\r\n\r\n", 400, 8, "host:port"},
		"CONNECT of a path":         {"CONNECT / HTTP/1.1\r\n\r\n", 400, 8, "host:port"},
		"GET *":                     {"GET * HTTP/1.1\r\n\r\n", 400, 4, "OPTIONS alone"},
		"userinfo in the target":    {"GET http://u@h/ HTTP/1.1\r\n\r\n", 400, 4, "the target's host"},
		"no host in the target":     {"GET http:///h HTTP/1.1\r\n\r\n", 400, 4, "the target's host"},
		"Host not valid":            {line + "Host: a b\r\n\r\n", 400, 16, "Host is not valid"},
		"Connection not a list":     {line + "Host: h\r\nConnection: a b\r\n\r\n", 400, 25, "Connection is not"},
		"Upgrade not a list":        {line + "Host: h\r\nUpgrade: a, b/\r\n\r\n", 400, 25, "Upgrade is not"},
		"Content-Length twice":      {line + "Host: h\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", 400, 44, "one number"},
		"Content-Length empty":      {line + "Host: h\r\nContent-Length:\r\n\r\n", 400, 25, "one number"},
		"Content-Length signed":     {line + "Host: h\r\nContent-Length: +1\r\n\r\n", 400, 25, "one number"},
		"target of nothing":         {"GET x HTTP/1.1\r\n\r\n", 400, 4, "neither a path nor"},
		"obs-fold":                  {line + "A: b\r\n c\r\n\r\n", 400, 22, "obs-fold"},
		"obs-fold at first":         {line + "\tA: b\r\n\r\n", 400, 16, "obs-fold"},
		"white space before colon":  {line + "A : b\r\n\r\n", 400, 17, "before the colon"},
		"no name":                   {line + ": b\r\n\r\n", 400, 16, "no name"},
		"no colon":                  {line + "Abc\r\n\r\n", 400, 19, "no colon"},
		"name not a token":          {line + "A(b: c\r\n\r\n", 400, 17, "not a token"},
		"Host twice":                {line + "Host: h\r\nHost: h\r\n\r\n", 400, 25, "repeated"},
		"no Host":                   {line + "A: b\r\n\r\n", 400, 22, "Host is missing"},
		"no Host beside a target":   {"GET http://h/ HTTP/1.1\r\n\r\n", 400, 24, "Host is missing"},
		"CL and TE":                 {line + "Host: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", 400, 25, "beside Content-Length"},
		"TE and CL":                 {line + "Host: h\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, 44, "beside Content-Length"},
		"TE in 1.0":                 {"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, 16, "HTTP/1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseRequest(test.head)
			require.NotNil(t, err)
			require.Equal(t, test.status, err.Status)
			require.Equal(t, test.offset, err.Offset)
			require.Contains(t, err.Rule, test.rule)
			require.Contains(t, err.Rule, "RFC ", "where the rule is from")
		})
	}
}

func TestProtocol(t *testing.T) {
	tcp := []string{"tcp"}
	both := []string{"tcps", "tcp"}
	for name, test := range map[string]struct {
		head   string
		served []string
		want   string
	}{
		"normal":                  {normalRequest, tcp, "tcp"},
		"lower-cased names":       {"GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n", tcp, "tcp"},
		"upper-cased everything":  {"GET / HTTP/1.1\r\nHOST: H\r\nCONNECTION: UPGRADE\r\nUPGRADE: TCP\r\n\r\n", tcp, "tcp"},
		"list, with empty places": {"GET / HTTP/1.1\r\nHost: h\r\nConnection: ,\t close ,,upgrade , \r\nUpgrade: , websocket ,,\ttcp\t,\r\n\r\n", tcp, "tcp"},
		"repeated fields":         {"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nUpgrade: websocket\r\nX: y\r\nUpgrade: tcp\r\nConnection: upgrade\r\n\r\n", tcp, "tcp"},
		"server's preference":     {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp, tcps\r\n\r\n", both, "tcps"},
		"second preference":       {normalRequest, both, "tcp"},
		"case of the server":      {normalRequest, []string{"TCP"}, "TCP"},
		"version":                 {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp/1\r\n\r\n", []string{"tcp", "tcp/1"}, "tcp/1"},
		"Content-Length 0":        {upgradeRequest("Content-Length: 000\r\n"), tcp, "tcp"},
		"Expect 100-continue":     {upgradeRequest("Expect: 100-Continue\r\n"), tcp, "tcp"},
		"other nominations":       {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, Host, X-Forwarded-For\r\nUpgrade: tcp\r\n\r\n", tcp, "tcp"},
		"absolute-form":           {"GET http://t/ HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", tcp, "tcp"},

		"no Upgrade":           {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\r\n", tcp, ""},
		"empty Upgrade":        {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: , \r\n\r\n", tcp, ""},
		"another":              {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", tcp, ""},
		"longer":               {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcpx\r\n\r\n", tcp, ""},
		"a version of it":      {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp/1\r\n\r\n", tcp, ""},
		"POST of another":      {"POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n", tcp, ""},
		"in a field like it":   {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nX-Upgrade: tcp\r\n\r\n", tcp, ""},
		"nothing is served":    {normalRequest, nil, ""},
		"body without Upgrade": {"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n", tcp, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parseRequest(test.head)
			require.Nil(t, err)
			got, err := protocolOf(&r, test.served)
			require.Nil(t, err)
			require.Equal(t, test.want, got)
		})
	}
}

func TestProtocolFoldsEveryLetter(t *testing.T) {
	const lower, upper = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for _, tokens := range [][2]string{{lower, upper}, {upper, lower}} {
		r, err := parseRequest("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x^" + tokens[0] + "\r\n\r\n")
		require.Nil(t, err)
		// "~" is "^" with the bit set that distinguishes the cases of a letter.
		got, err := protocolOf(&r, []string{"x~" + tokens[0], "X^" + tokens[1]})
		require.Nil(t, err)
		require.Equal(t, "X^"+tokens[1], got)
	}
}

// TestProtocolFoldsASCIIOnly: Unicode folding would treat the Kelvin sign as a
// k and the long s as an s. Then two hops would read different tokens.
func TestProtocolFoldsASCIIOnly(t *testing.T) {
	r, err := parseRequest("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: ks\r\n\r\n")
	require.Nil(t, err)
	got, err := protocolOf(&r, []string{"\u212as", "k\u017f"})
	require.Nil(t, err)
	require.Empty(t, got)
}

func TestProtocolRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		head   string
		status int
		offset int
		rule   string
	}{
		"1.0":              {"GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 426, 6, "HTTP/1.0"},
		"no Connection":    {"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: tcp\r\n\r\n", 426, 6, "without `Connection: Upgrade`"},
		"Connection close": {"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nUpgrade: tcp\r\n\r\n", 426, 6, "without `Connection: Upgrade`"},
		"like Connection":  {"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrades, no-upgrade\r\nUpgrade: tcp\r\n\r\n", 426, 6, "without `Connection: Upgrade`"},
		"POST":             {"POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405, 0, "GET"},
		"get":              {"get / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405, 0, "GET"},
		"Content-Length":   {upgradeRequest("Content-Length: 10\r\n"), 400, 60, "Content-Length is not 0"},
		"chunked":          {upgradeRequest("Transfer-Encoding: chunked\r\n"), 400, 60, "Transfer-Encoding"},
		"identity":         {upgradeRequest("Transfer-Encoding: identity\r\n"), 400, 60, "Transfer-Encoding"},
		"Trailer":          {upgradeRequest("Trailer: X\r\n"), 400, 60, "Trailer"},
		"Expect":           {upgradeRequest("Expect: 200-ok\r\n"), 417, 60, "Expect"},
		"second Expect":    {upgradeRequest("Expect: 100-continue\r\nExpect: x\r\n"), 417, 82, "Expect"},
		"body over Expect": {upgradeRequest("Expect: x\r\nContent-Length: 1\r\n"), 400, 71, "Content-Length"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parseRequest(test.head)
			require.Nil(t, err)
			got, err := protocolOf(&r, []string{"tcp"})
			require.Empty(t, got)
			require.NotNil(t, err)
			require.Equal(t, test.status, err.Status)
			require.Equal(t, test.offset, err.Offset)
			require.Contains(t, err.Rule, test.rule)
		})
	}
}

// TestTunnelTLS: the field that asks for TLS inside the tunnel has one allowed
// value and may occur once. Otherwise the request is refused, but only if it
// asks for a tunnel.
func TestTunnelTLS(t *testing.T) {
	for fields, want := range map[string]string{ // "" means malformed
		"":                               "raw",
		"Preflight-Tunnel: tls\r\n":      "tls",
		"preflight-tunnel:\ttls \r\n":    "tls",
		"PREFLIGHT-TUNNEL:tls\r\n":       "tls",
		"Preflight-Tunnel: TLS\r\n":      "",
		"Preflight-Tunnel: tls2\r\n":     "",
		"Preflight-Tunnel: raw\r\n":      "",
		"Preflight-Tunnel:\r\n":          "",
		"Preflight-Tunnel: tls, tls\r\n": "",
		"Preflight-Tunnel: tls\r\nPreflight-Tunnel: tls\r\n":       "",
		"Preflight-Tunnel: raw\r\nPreflight-Tunnel: tls\r\n":       "",
		"Preflight-Tunnel: tls\r\nX: y\r\npreflight-tunnel:\r\n":   "",
		"Preflight-Tunnels: x\r\nPreflight-Tunne: y\r\nX: tls\r\n": "raw",
	} {
		t.Run(fields, func(t *testing.T) {
			r, err := parseRequest(upgradeRequest(fields))
			require.Nil(t, err)
			terms, err := r.Terms(offer("tcp"))
			if want == "" {
				require.NotNil(t, err)
				require.Equal(t, 400, err.Status)
				require.Contains(t, err.Rule, "Preflight-Tunnel")
			} else {
				require.Nil(t, err)
				require.Equal(t, wire.Terms{Protocol: "tcp", TunnelTLS: want == "tls"}, terms)
			}
			protocol, err := protocolOf(&r, []string{"other"})
			require.Nil(t, err)
			require.Empty(t, protocol)
		})
	}
}

// TestMayUpgrade: a head in which any parser may find Upgrade is distinguished
// from one without it, however malformed it is.
func TestMayUpgrade(t *testing.T) {
	const line = "GET / HTTP/1.1\r\nHost: h\r\n"
	for _, head := range []string{
		line + "Upgrade: tcp\r\n\r\n",
		line + "UPGRADE:\r\n\r\n",
		line + "A: b\nupgrade: tcp\n\n",
		line + "A: b\rUpgrade: tcp\r\n\r\n",
		line + "A: b\r\n Upgrade: tcp\r\n\r\n",
		line + "\x00\x0b\x7fUpgrade: tcp\r\n\r\n",
		line + "Upgrade \t\x00: tcp\r\n\r\n",
		line + "Upgrade\r\n: tcp\r\n\r\n",
		line + "preflight-framing: capsule\r\n\r\n",
		line + "A: b\nPREFLIGHT-CARRIERS\x00:",
		line + "Sec-WebSocket-Protocol:\r\n",
		line + "Upgrade\r\n\r\nUpgrade:",
		"\nUpgrade:",
	} {
		require.True(t, wire.MayUpgrade([]byte(head)), "%q", head)
	}
	for _, head := range []string{
		"",
		line,
		"Upgrade: tcp",
		line + "Upgrade-Insecure-Requests: 1\r\n\r\n",
		line + "Preflight-Tunnel: tls\r\nPreflight: x\r\nPreflight-Carrier: x\r\n\r\n",
		line + "X-Upgrade: tcp\r\nConnection: Upgrade\r\nUpgrad: e\r\nUpgradee: x\r\n\r\n",
		line + "X: Upgrade: tcp\r\n\r\n",
		line + "Upgrade",
		line + "Upgr",
		"GET /?\nUpgrade HTTP/1.1\r\n\r\n",
	} {
		require.False(t, wire.MayUpgrade([]byte(head)), "%q", head)
	}
	// The time for many line ends is proportional to their number, not to its
	// square.
	for _, unit := range []string{"\r", "\n", "\r\n ", "\nupgrade ", "\nupgrade\r"} {
		require.False(t, wire.MayUpgrade(bytes.Repeat([]byte(unit), 1<<16)), "%q", unit)
	}
}
