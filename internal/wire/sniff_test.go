package wire_test

import (
	"testing"

	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
)

// TestSniffer has what servers of other protocols hear first, with the index of
// the byte that settles it: not one before, so that nothing is guessed, and not
// one after, because a client that waits for an answer sends no more.
func TestSniffer(t *testing.T) {
	for name, test := range map[string]struct {
		first   string
		index   int
		verdict wire.Verdict
	}{
		"Redis, inline":           {"GET key\r\n", 7, wire.Plain},
		"Redis, LF":               {"GET key\n", 7, wire.Plain},
		"Redis, RESP":             {"*1\r\n$4\r\nPING\r\n", 2, wire.Plain},
		"memcached":               {"set k 0 0 1\r\nx\r\n", 6, wire.Plain},
		"SMTP":                    {"EHLO client.example\r\n", 19, wire.Plain},
		"NATS PUB":                {"PUB t {\"a\": 1}\r\n", 6, wire.Plain},
		"NATS CONNECT":            {"CONNECT {\"verbose\":false}\r\nPING\r\n", 25, wire.Plain},
		"NATS CONNECT, spaces":    {"CONNECT {\"verbose\": false}\r\n", 20, wire.Plain},
		"one word":                {"PING\r\n", 4, wire.Plain},
		"empty line":              {"\r\n", 0, wire.Plain},
		"empty line, then HTTP":   {"\r\nGET / HTTP/1.1\r\n", 0, wire.Plain},
		"SP, then HTTP":           {" GET / HTTP/1.1\r\n", 0, wire.Plain},
		"TLS":                     {"\x16\x03\x01\x02\x00", 0, wire.Plain},
		"PROXY v1":                {"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 11, wire.Plain},
		"PROXY v1, unknown":       {"PROXY UNKNOWN\r\n", 13, wire.Plain},
		"PROXY v2":                {"\r\n\r\n\x00\r\nQUIT\n", 0, wire.Plain},
		"SSH":                     {"SSH-2.0-OpenSSH_9.6\r\n", 19, wire.Plain},
		"SSH with a comment":      {"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", 30, wire.Plain},
		"AMQP":                    {"AMQP\x00\x00\x09\x01", 4, wire.Plain},
		"MQTT":                    {"\x10\x0c\x00\x04MQTT", 0, wire.Plain},
		"PostgreSQL":              {"\x00\x00\x00\x08\x04\xd2\x16\x2f", 0, wire.Plain},
		"JSON":                    {"{\"id\": 1}\n", 0, wire.Plain},
		"XML":                     {"<?xml version=\"1.0\"?>", 0, wire.Plain},
		"an answer":               {"HTTP/1.1 200 OK\r\n", 4, wire.Plain},
		"HTTP/2 preface":          {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 11, wire.Plain},
		"two SP before target":    {"GET  / HTTP/1.1\r\n", 4, wire.Plain},
		"tab for the first SP":    {"GET\t/ HTTP/1.1\r\n", 3, wire.Plain},
		"tab behind the first SP": {"GET \t/ HTTP/1.1\r\n", 4, wire.Plain},
		"HTTP/0.9 with LF":        {"GET /\n", 5, wire.Plain},
		"tab in a word":           {"GET a\tb HTTP/1.1\r\n", 5, wire.Plain},
		"NUL in the target":       {"GET /\x00 HTTP/1.1\r\n", 5, wire.Plain},
		"method not a token":      {"G(T / HTTP/1.1\r\n", 1, wire.Plain},
		"method with a colon":     {"GET: / HTTP/1.1\r\n", 3, wire.Plain},
		"byte >= 0x80 in front":   {"\xefGET / HTTP/1.1\r\n", 0, wire.Plain},

		"GET":                    {"GET / HTTP/1.1\r\n", 12, wire.HTTP},
		"HTTP/1.0":               {"GET / HTTP/1.0\r\n", 12, wire.HTTP},
		"a version to come":      {"GET / HTTP/1.x", 12, wire.HTTP},
		"any method":             {"brew /pot HTTP/1.1\r\n", 16, wire.HTTP},
		"shortest":               {"G * HTTP/1.", 10, wire.HTTP},
		"CONNECT":                {"CONNECT h:443 HTTP/1.1\r\n", 20, wire.HTTP},
		"raw UTF-8 in a target":  {"GET /\xc3\xa9 HTTP/1.1\r\n", 14, wire.HTTP},
		"any byte >= 0x80":       {"GET /\x80\xff HTTP/1.1\r\n", 14, wire.HTTP},
		"DEL in a target":        {"GET /\x7f HTTP/1.1\r\n", 13, wire.HTTP},
		"a target that is none":  {"POST <x> HTTP/1.1\r\n", 15, wire.HTTP},
		"a command that is HTTP": {"PUB t HTTP/1.", 12, wire.HTTP},
	} {
		t.Run(name, func(t *testing.T) {
			b := []byte(test.first)
			var whole wire.Sniffer
			require.Equal(t, test.verdict, whole.Next(b))

			var bytewise wire.Sniffer
			for i := range test.index {
				require.Equal(t, wire.More, bytewise.Next(b[:i+1]), "at byte %d, %q", i, b[:i+1])
			}
			require.Equal(t, test.verdict, bytewise.Next(b[:test.index+1]))

			// What follows the byte that settles it has no say.
			var upTo wire.Sniffer
			require.Equal(t, test.verdict, upTo.Next(b[:test.index+1]))

			everySplit(test.first[:test.index], func(i int) {
				var s wire.Sniffer
				require.Equal(t, wire.More, s.Next(b[:i]), "the first %d bytes", i)
				require.Equal(t, wire.More, s.Next(b[:i]), "nothing new")
				require.Equal(t, test.verdict, s.Next(b), "split at %d", i)
			})
		})
	}
}

// TestSnifferDoubts has lines whose second word is a path and which are no
// request line, with the index of the byte from which that is so: there, a
// connection may be handed on. Its whole decides whether it is watched in vain.
func TestSnifferDoubts(t *testing.T) {
	for first, test := range map[string]struct {
		index int
		end   wire.Verdict
	}{
		"POST /a b HTTP/1.1\r\n":      {8, wire.HTTP}, // nginx made it of /a%20b
		"POST /a b HTTP/1.1\n":        {8, wire.HTTP},
		"POST /a b c HTTP/1.0\r\n":    {8, wire.HTTP},
		"GET /  HTTP/1.1\r\n":         {6, wire.HTTP},
		"GET / HTTP HTTP/1.1\r\n":     {10, wire.HTTP},
		"GET / HTTP/ HTTP/1.1\r\n":    {11, wire.HTTP},
		"GET / a\tb\xc3 HTTP/1.1\r\n": {6, wire.HTTP},
		"GET / HTTP/0.9\r\n":          {11, wire.Plain},
		// So it makes these of /a%09b, /a%01b and /a%0Db.
		"POST /a\tb HTTP/1.1\r\n":      {7, wire.HTTP},
		"POST /a\x01b HTTP/1.1\r\n":    {7, wire.HTTP},
		"POST /a\rb HTTP/1.1\r\n":      {7, wire.HTTP},
		"POST /a b\x1f\v\r HTTP/1.1\n": {8, wire.HTTP},
		"GET /\r HTTP/1.1\r\n":         {5, wire.HTTP},
		"GET /\tHTTP/1.1\r\n":          {5, wire.Plain},
		"GET /\r\n":                    {5, wire.Plain},
		"GET / HTTP/0.9 HTTP/1.1\r\n":  {11, wire.HTTP},
		"GET / HTTP/11\r\n":            {12, wire.Plain},
		"GET / http/1.1\r\n":           {6, wire.Plain},
		"GET / RTSP/1.0\r\n":           {6, wire.Plain},
		"GET / \r\n":                   {6, wire.Plain},
		"GET / HTT\r\n":                {9, wire.Plain},
		"PUB /t {\"a\": 1}\r\n":        {7, wire.Plain},
		"PUB /t x HTTP/1.1 y\r\n":      {7, wire.Plain},
		"PUB /t x HTTP/1.\n":           {7, wire.Plain},
		"PUB /t x HTTP/1.\r\n":         {7, wire.Plain},
		"PUB /t x HTTP/1.1\r\r\n":      {7, wire.Plain},
		"PUB /t xHTTP/1.1\r\n":         {7, wire.Plain},
		"PUB /t x HTTP/1.1\x00":        {7, wire.Plain},
	} {
		t.Run(first, func(t *testing.T) {
			b := []byte(first)
			var whole wire.Sniffer
			require.Equal(t, test.end, whole.Next(b))

			var bytewise wire.Sniffer
			for i := range len(b) - 1 {
				want := wire.More
				if i >= test.index {
					want = wire.Doubt
				}
				require.Equal(t, want, bytewise.Feed(b[i:i+1]), "at byte %d", i)
			}
			require.Equal(t, test.end, bytewise.Feed(b[len(b)-1:]))
		})
	}
}

// TestSnifferRemembers: bytes that it has seen are not looked at again, so that
// a first line which trickles in does not cost the square of its length.
func TestSnifferRemembers(t *testing.T) {
	b := []byte("GET /" + long(100))
	var s wire.Sniffer
	require.Equal(t, wire.More, s.Next(b))
	clear(b)
	require.Equal(t, wire.HTTP, s.Next(append(b, " HTTP/1.1"...)))
}

func TestSnifferAtLimit(t *testing.T) {
	for first, want := range map[string]wire.Verdict{
		// The forms that reverse proxies forward: a long path earns a 414.
		"GET /":                      wire.HTTP,
		"GET /" + long(100):          wire.HTTP,
		"x /":                        wire.HTTP,
		"GET / ":                     wire.HTTP,
		"GET / HTTP/1":               wire.HTTP,
		"GET http://h/":              wire.HTTP,
		"GET HTTPS://h/" + long(100): wire.HTTP,
		"GET //":                     wire.HTTP,

		"":                     wire.Plain,
		long(100):              wire.Plain,
		"GET ":                 wire.Plain,
		"GET h":                wire.Plain,
		"GET *" + long(100):    wire.Plain,
		"CONNECT h:443":        wire.Plain,
		"CONNECT {\"a\":":      wire.Plain,
		"GET http:/":           wire.Plain,
		"GET http:/" + long(9): wire.Plain,
		"GET ftp://h/":         wire.Plain,
		"PUB t HTTP/1":         wire.Plain,
	} {
		var s wire.Sniffer
		require.Equal(t, wire.More, s.Next([]byte(first)), "%q", first)
		require.Equal(t, want, s.AtLimit([]byte(first)), "%q", first)
	}
}
