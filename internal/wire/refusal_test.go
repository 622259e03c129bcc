package wire_test

import (
	"strings"
	"testing"

	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
)

// webSocketRequest is a request for a tunnel by WebSocket with more field lines.
func webSocketRequest(fields string) string {
	return "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Sec-WebSocket-Protocol: preflight.v1\r\n" + fields + "\r\n"
}

// TestTermsInOrder begins with a request that breaks every rule, and fixes one fault after
// the other. The refusal is always that of the first rule that is still broken.
func TestTermsInOrder(t *testing.T) {
	request := "POST / HTTP/1.0\r\nHost: h\r\nUpgrade-Insecure-Requests: 1\r\nContent-Length: 1\r\nExpect: x\r\n" +
		"Preflight-Framing: capsules\r\nPreflight-Protocol: other\r\nPreflight-Tunnel: tls\r\n\r\n"
	for _, step := range []struct {
		code     string
		status   int
		old, new string // the replacement that fixes the fault
	}{
		{wire.CodeHead, 400, "capsules", "capsule"},
		{wire.CodeHTTP10, 426, "HTTP/1.0", "HTTP/1.2"},
		{wire.CodeHTTP2, 505, "HTTP/1.2", "HTTP/1.1"},
		{wire.CodeMethod, 405, "POST", "GET"},
		{wire.CodeBody, 400, "Content-Length: 1", "Content-Length: 0"},
		{wire.CodeExpect, 417, "Expect: x", "Expect: 100-continue"},
		{wire.CodeNoUpgrade, 426, "Upgrade-Insecure-Requests: 1", "Upgrade: websocket"},
		{wire.CodeNoConnection, 426, "Host: h", "Host: h\r\nConnection: upgrade"},
		{wire.CodeWebSocket, 426, "Host: h", "Host: h\r\nSec-WebSocket-Version: 13"},
		{wire.CodeWebSocket, 400, "Host: h", "Host: h\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
		{wire.CodeSubprotocol, 400, "Host: h", "Host: h\r\nSec-WebSocket-Protocol: bearer, preflight.v1"},
		{wire.CodeCarrier, 426, "", ""},
	} {
		r, err := parseRequest(request)
		require.Nil(t, err)
		terms, err := r.Terms(&wire.Offer{Protocols: []string{"tcp"}})
		require.NotNil(t, err, step.code)
		require.Zero(t, terms)
		require.Equal(t, step.code, err.Code, err.Rule)
		require.Equal(t, step.status, err.Status)
		if step.old != "" {
			require.Contains(t, request, step.old)
			request = strings.Replace(request, step.old, step.new, 1)
		}
	}
	r, err := parseRequest(request)
	require.Nil(t, err)
	_, err = r.Terms(&wire.Offer{Protocols: []string{"tcp"}, WebSocket: true})
	require.Equal(t, wire.CodeProtocol, err.Code)
	_, err = r.Terms(&wire.Offer{Protocols: []string{"other"}, WebSocket: true})
	require.Equal(t, wire.CodeTunnelTLS, err.Code)
	terms, err := r.Terms(offer("other"))
	require.Nil(t, err)
	require.Equal(t, wire.Terms{Protocol: "other", WebSocket: true, TunnelTLS: true}, terms)
}

func TestTerms(t *testing.T) {
	tcp := offer("tcp", "tcps")
	only := func(set func(*wire.Offer)) *wire.Offer {
		o := &wire.Offer{Protocols: []string{"tcp", "tcps"}}
		set(o)
		return o
	}
	upgradeOnly := only(func(o *wire.Offer) { o.Upgrade = true })
	framedOnly := only(func(o *wire.Offer) { o.Framed = true })
	webSocketOnly := only(func(o *wire.Offer) { o.WebSocket = true })
	request := func(fields string) string { return "GET / HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n" }
	const both = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: preflight.v1\r\n"
	for name, test := range map[string]struct {
		head  string
		offer *wire.Offer
		want  wire.Terms
		code  string // of the refusal; "" with zero Terms: an ordinary request
	}{
		"upgrade": {upgradeRequest(""), tcp, wire.Terms{Protocol: "tcp"}, ""},
		"framed":  {upgradeRequest("Preflight-Framing: capsule\r\n"), tcp, wire.Terms{Protocol: "tcp", Framed: true}, ""},
		"framed, a list that says it twice": {upgradeRequest("Preflight-Framing: capsule ,\tcapsule\r\npreflight-framing:capsule\r\n"), tcp,
			wire.Terms{Protocol: "tcp", Framed: true}, ""},
		"framed, an empty line beside it": {upgradeRequest("Preflight-Framing:\r\nPreflight-Framing: capsule\r\n"), tcp, wire.Terms{Protocol: "tcp", Framed: true}, ""},
		"WebSocket":                       {webSocketRequest(""), tcp, wire.Terms{Protocol: "tcp", WebSocket: true}, ""},
		"WebSocket, framing beside it":    {webSocketRequest("Preflight-Framing: capsule\r\n"), tcp, wire.Terms{Protocol: "tcp", WebSocket: true}, ""},
		"WebSocket, protocol":             {webSocketRequest("Preflight-Protocol: TCPS\r\n"), tcp, wire.Terms{Protocol: "tcps", WebSocket: true}, ""},
		"WebSocket, extensions offered":   {webSocketRequest("Sec-WebSocket-Extensions: permessage-deflate\r\n"), tcp, wire.Terms{Protocol: "tcp", WebSocket: true}, ""},
		"TLS inside a WebSocket":          {webSocketRequest("Preflight-Tunnel: tls\r\n"), tcp, wire.Terms{Protocol: "tcp", WebSocket: true, TunnelTLS: true}, ""},

		"malformed framing":               {upgradeRequest("Preflight-Framing: Capsule\r\n"), tcp, wire.Terms{}, wire.CodeHead},
		"framing without a value":         {upgradeRequest("Preflight-Framing:\r\n"), tcp, wire.Terms{}, wire.CodeHead},
		"framing with commas alone":       {upgradeRequest("Preflight-Framing: , ,\r\n"), tcp, wire.Terms{}, wire.CodeHead},
		"framing with another beside it":  {upgradeRequest("Preflight-Framing: capsule, x\r\n"), tcp, wire.Terms{}, wire.CodeHead},
		"framing with another line":       {upgradeRequest("Preflight-Framing: capsule\r\nPreflight-Framing: x\r\n"), tcp, wire.Terms{}, wire.CodeHead},
		"framing with a parameter":        {upgradeRequest("Preflight-Framing: capsule;q=1\r\n"), tcp, wire.Terms{}, wire.CodeHead},
		"malformed framing, WebSocket":    {webSocketRequest("Preflight-Framing: x\r\n"), tcp, wire.Terms{}, wire.CodeHead},
		"malformed framing alone":         {request("Preflight-Framing:\r\n"), tcp, wire.Terms{}, wire.CodeHead},
		"protocol twice":                  {webSocketRequest("Preflight-Protocol: tcp\r\nPreflight-Protocol: tcp\r\n"), tcp, wire.Terms{}, wire.CodeHead},
		"protocol without a value":        {webSocketRequest("Preflight-Protocol:\r\n"), tcp, wire.Terms{}, wire.CodeHead},
		"protocols in a list":             {webSocketRequest("Preflight-Protocol: tcp, tcps\r\n"), tcp, wire.Terms{}, wire.CodeHead},
		"malformed protocol beside tcp":   {upgradeRequest("Preflight-Protocol: a, b\r\n"), tcp, wire.Terms{Protocol: "tcp"}, ""},
		"another protocol beside tcp":     {upgradeRequest("Preflight-Protocol: tcps\r\n"), tcp, wire.Terms{Protocol: "tcp"}, ""},
		"another protocol in a WebSocket": {webSocketRequest("Preflight-Protocol: x\r\n"), tcp, wire.Terms{}, wire.CodeProtocol},
		"WebSocket where tcp is unknown":  {webSocketRequest(""), offer("x"), wire.Terms{}, wire.CodeProtocol},

		"carriers alone":                 {request("Preflight-Carriers: upgrade\r\n"), tcp, wire.Terms{}, wire.CodeNoUpgrade},
		"carriers without a value":       {request("Preflight-Carriers:\r\n"), tcp, wire.Terms{}, wire.CodeNoUpgrade},
		"framing alone":                  {request("Preflight-Framing: capsule\r\n"), tcp, wire.Terms{}, wire.CodeNoUpgrade},
		"subprotocol alone":              {request(both), tcp, wire.Terms{}, wire.CodeNoUpgrade},
		"an Upgrade of nothing":          {request("Preflight-Carriers: upgrade\r\nUpgrade: ,\r\nConnection: upgrade\r\n"), tcp, wire.Terms{}, wire.CodeNoUpgrade},
		"carriers, another token":        {request("Preflight-Carriers: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n"), tcp, wire.Terms{}, wire.CodeProtocol},
		"carriers, WebSocket":            {request("Preflight-Carriers: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), tcp, wire.Terms{}, wire.CodeSubprotocol},
		"another version of WebSocket":   {strings.Replace(webSocketRequest(""), ": 13", ": 8", 1), tcp, wire.Terms{}, wire.CodeWebSocket},
		"versions in a list":             {strings.Replace(webSocketRequest(""), ": 13", ": 13, 8", 1), tcp, wire.Terms{}, wire.CodeWebSocket},
		"a version twice":                {webSocketRequest("Sec-WebSocket-Version: 13\r\n"), tcp, wire.Terms{}, wire.CodeWebSocket},
		"a key twice":                    {webSocketRequest("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), tcp, wire.Terms{}, wire.CodeWebSocket},
		"a short key":                    {strings.Replace(webSocketRequest(""), "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ", 1), tcp, wire.Terms{}, wire.CodeWebSocket},
		"a key of 17 bytes":              {strings.Replace(webSocketRequest(""), "jZQ==", "jZWU=", 1), tcp, wire.Terms{}, wire.CodeWebSocket},
		"a subprotocol in other letters": {strings.Replace(webSocketRequest("Preflight-Carriers: x\r\n"), "preflight.v1", "Preflight.V1", 1), tcp, wire.Terms{}, wire.CodeSubprotocol},
		"a subprotocol of a later version": {strings.Replace(webSocketRequest(""), "preflight.v1", "preflight.v2", 1), tcp,
			wire.Terms{}, ""},
		"a subprotocol in a second line": {strings.Replace(webSocketRequest(""), "Sec-WebSocket-Protocol: preflight.v1", "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b ,preflight.v1", 1), tcp,
			wire.Terms{Protocol: "tcp", WebSocket: true}, ""},

		"tcp first":                      {request("Connection: upgrade\r\nUpgrade: websocket, TCP\r\n" + both), tcp, wire.Terms{Protocol: "tcp"}, ""},
		"tcp is not served":              {request("Connection: upgrade\r\nUpgrade: tcp, websocket\r\n" + both), webSocketOnly, wire.Terms{Protocol: "tcp", WebSocket: true}, ""},
		"tcp is not served framed":       {request("Connection: upgrade\r\nUpgrade: tcp\r\nUpgrade: websocket\r\nPreflight-Framing: capsule\r\n" + both), upgradeOnly, wire.Terms{}, wire.CodeCarrier},
		"upgrade is not served":          {upgradeRequest(""), framedOnly, wire.Terms{}, wire.CodeCarrier},
		"framed is not served":           {upgradeRequest("Preflight-Framing: capsule\r\n"), upgradeOnly, wire.Terms{}, wire.CodeCarrier},
		"WebSocket is not served":        {webSocketRequest(""), upgradeOnly, wire.Terms{}, wire.CodeCarrier},
		"framed only":                    {upgradeRequest("Preflight-Framing: capsule\r\n"), framedOnly, wire.Terms{Protocol: "tcp", Framed: true}, ""},
		"carrier before the protocol":    {request("Preflight-Carriers: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n"), webSocketOnly, wire.Terms{}, wire.CodeCarrier},
		"another WebSocket":              {strings.Replace(webSocketRequest(""), "preflight.v1", "mqtt", 1), tcp, wire.Terms{}, ""},
		"another WebSocket, TLS inside":  {strings.Replace(webSocketRequest("Preflight-Tunnel: x\r\n"), "preflight.v1", "mqtt", 1), tcp, wire.Terms{}, ""},
		"nothing is served":              {webSocketRequest("Preflight-Carriers: x\r\nPreflight-Framing: x\r\n"), offer(), wire.Terms{}, ""},
		"Origin of a request is no rule": {webSocketRequest("Origin: x\r\nOrigin: y\r\n"), tcp, wire.Terms{Protocol: "tcp", WebSocket: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parseRequest(test.head)
			require.Nil(t, err)
			got, err := r.Terms(test.offer)
			if test.code == "" {
				require.Nil(t, err)
			} else {
				require.NotNil(t, err)
				require.Equal(t, test.code, err.Code, err.Rule)
			}
			require.Equal(t, test.want, got)
		})
	}
}

// TestOrdinary: the refusals of a request that is not for a tunnel, in their order.
func TestOrdinary(t *testing.T) {
	for head, want := range map[string]string{
		"GET / HTTP/1.0\r\nUpgrade: x\r\n\r\n":             wire.CodeHTTP10,
		"GET / HTTP/2.0\r\n\r\n":                           wire.CodeHTTP2,
		"GET / HTTP/1.2\r\n\r\n":                           wire.CodeHTTP2,
		"GET / HTTP/0.9\r\nUpgrade: x\r\n\r\n":             wire.CodeHTTP2,
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n":                wire.CodeNoUpgrade,
		"GET / HTTP/1.1\r\nHost: h\r\nUpgrade:\r\n\r\n":    wire.CodeNoUpgrade,
		"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\n\r\n":  wire.CodeProtocol,
		"POST / HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n":  wire.CodeNoUpgrade,
		"PUT / HTTP/1.1\r\nHost: h\r\nUpgrade: ws\r\n\r\n": wire.CodeProtocol,
	} {
		r, err := parseRequest(head)
		require.Nil(t, err, head)
		terms, err := r.Terms(offer("tcp"))
		require.Nil(t, err, head)
		require.Zero(t, terms, head)
		require.Equal(t, want, r.Ordinary().Code, head)
	}
}

func TestOrigin(t *testing.T) {
	for fields, want := range map[string]string{
		"Origin: https://a\r\n":      "https://a",
		"origin:\thttps://a \r\n":    "https://a",
		"Origin:\r\n":                "",
		"Origin: a\r\norigin: a\r\n": "",
	} {
		r, err := parseRequest(upgradeRequest(fields))
		require.Nil(t, err)
		value, ok := r.Origin()
		require.True(t, ok)
		require.Equal(t, want, string(value))
	}
	r, err := parseRequest(upgradeRequest("X-Origin: https://a\r\n"))
	require.Nil(t, err)
	_, ok := r.Origin()
	require.False(t, ok)
}

func TestKey(t *testing.T) {
	require.Equal(t, "dGhlIHNhbXBsZSBub25jZQ==", wire.Key([]byte(webSocketRequest(""))))
	require.Empty(t, wire.Key([]byte(upgradeRequest(""))))
}
