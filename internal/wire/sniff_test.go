package wire_test

import (
	"testing"

	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
)

// TestSniffer has the first bytes of clients of many protocols, with the index
// of the byte that decides. An earlier result would be a guess. A later one
// would be too late, because a client that waits for an answer sends no more
// bytes.
func TestSniffer(t *testing.T) {
	for name, test := range map[string]struct {
		first   string
		index   int
		verdict wire.Verdict
	}{
		"Redis, inline":             {"GET key\r\n", 7, wire.Plain},
		"Redis, LF":                 {"GET key\n", 7, wire.Plain},
		"Redis, RESP":               {"*1\r\n$4\r\nPING\r\n", 2, wire.Plain},
		"Redis, a URL":              {"SET key http://h/ x\r\n", 12, wire.Plain},
		"RTSP of a client":          {"SETUP rtsp://h/x RTSP/1.0\r\n", 17, wire.Plain},
		"RTSP OPTIONS":              {"OPTIONS * RTSP/1.0\r\n", 10, wire.Plain},
		"memcached":                 {"set k 0 0 1\r\nx\r\n", 6, wire.Plain},
		"SMTP":                      {"EHLO client.example\r\n", 19, wire.Plain},
		"NATS PUB":                  {"PUB t {\"a\": 1}\r\n", 6, wire.Plain},
		"NATS CONNECT":              {"CONNECT {\"verbose\":false}\r\nPING\r\n", 25, wire.Plain},
		"NATS CONNECT, spaces":      {"CONNECT {\"verbose\": false}\r\n", 20, wire.Plain},
		"one word":                  {"PING\r\n", 4, wire.Plain},
		"three empty lines":         {"\r\n\r\n\r\n", 4, wire.Plain},
		"three empty lines, LF":     {"\n\n\n", 2, wire.Plain},
		"three empty lines, HTTP":   {"\r\n\r\n\r\nGET / HTTP/1.1\r\n", 4, wire.Plain},
		"empty lines, then a word":  {"\r\n\r\nPING\r\n", 8, wire.Plain},
		"an empty line, then SP":    {"\r\n GET / HTTP/1.1\r\n", 2, wire.Plain},
		"a bare CR":                 {"\rGET / HTTP/1.1\r\n", 1, wire.Plain},
		"two CR":                    {"\r\r\n", 1, wire.Plain},
		"LF, CRLF, NUL":             {"\n\r\n\x00", 3, wire.Plain},
		"CRLF, NUL":                 {"\r\n\x00", 2, wire.Plain},
		"SP, then HTTP":             {" GET / HTTP/1.1\r\n", 0, wire.Plain},
		"tab, then HTTP":            {"\tGET / HTTP/1.1\r\n", 0, wire.Plain},
		"TLS":                       {"\x16\x03\x01\x02\x00", 0, wire.Plain},
		"SSH":                       {"SSH-2.0-OpenSSH_9.6\r\n", 19, wire.Plain},
		"SSH with a comment":        {"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", 30, wire.Plain},
		"AMQP":                      {"AMQP\x00\x00\x09\x01", 4, wire.Plain},
		"MQTT":                      {"\x10\x0c\x00\x04MQTT", 0, wire.Plain},
		"PostgreSQL":                {"\x00\x00\x00\x08\x04\xd2\x16\x2f", 0, wire.Plain},
		"RTSP":                      {"DESCRIBE rtsp://h/a RTSP/1.0\r\n", 20, wire.Plain},
		"RTSP for all":              {"OPTIONS * RTSP/1.0\r\n", 10, wire.Plain},
		"SIP":                       {"INVITE sip:a@h SIP/2.0\r\n", 15, wire.Plain},
		"DEL in the method":         {"G\x7fT / HTTP/1.1\r\n", 1, wire.Plain},
		"tab for the first SP":      {"GET\t/ HTTP/1.1\r\n", 3, wire.Plain},
		"tab after the first SP":    {"GET \t/ HTTP/1.1\r\n", 4, wire.Plain},
		"HTTP/0.9 with LF":          {"GET /\n", 5, wire.Plain},
		"tab in a word":             {"GET a\tb HTTP/1.1\r\n", 5, wire.Plain},
		"another name of HTTP":      {"PUB t HTTPS/1.1\r\n", 10, wire.Plain},
		"HTTP after another word":   {"PUB t x HTTP/1.1\r\n", 6, wire.Plain},
		"nearly the HTTP/2 preface": {"PRI t HTTX", 9, wire.Plain},

		"GET":                    {"GET / HTTP/1.1\r\n", 12, wire.HTTP},
		"HTTP/1.0":               {"GET / HTTP/1.0\r\n", 12, wire.HTTP},
		"HTTP/0.9":               {"POST /x HTTP/0.9\r\n", 14, wire.HTTP},
		"HTTP/2.0":               {"POST /x HTTP/2.0\r\n", 14, wire.HTTP},
		"HTTP/2":                 {"POST /x HTTP/2\r\n", 14, wire.HTTP},
		"HTTP/2, LF":             {"POST /x HTTP/2\n", 14, wire.HTTP},
		"HTTP/2, SP":             {"POST /x HTTP/2 \r\n", 14, wire.HTTP},
		"HTTP/11":                {"POST /x HTTP/11\r\n", 15, wire.HTTP},
		"HTTP of no version":     {"POST /x HTTP/\r\n", 13, wire.HTTP},
		"in lower case":          {"POST /x http/1.1\r\n", 14, wire.HTTP},
		"in both cases":          {"POST /x hTtP/1.1\r\n", 14, wire.HTTP},
		"PRI of a path":          {"PRI / HTTP/2.0\r\n", 12, wire.HTTP},
		"PRI in lower case":      {"pri * HTTP/2.0\r\n", 12, wire.HTTP},
		"PRI of HTTP/1.1":        {"PRI * HTTP/1.1\r\n", 12, wire.HTTP},
		"PRI of no version":      {"PRI * HTTP/\r\n", 11, wire.HTTP},
		"an empty line":          {"\r\nGET / HTTP/1.1\r\n", 14, wire.HTTP},
		"two empty lines":        {"\r\n\r\nGET / HTTP/1.1\r\n", 16, wire.HTTP},
		"empty lines, LF":        {"\n\nGET / HTTP/1.1\r\n", 14, wire.HTTP},
		"empty lines of both":    {"\r\n\nGET / HTTP/1.1\r\n", 15, wire.HTTP},
		"a request to PROXY":     {"PROXY / HTTP/1.1\r\n", 14, wire.HTTP},
		"PROXY UNKNOWN":          {"PROXY UNKNOWN HTTP/1.1\r\n", 20, wire.HTTP},
		"PROXY TCP4":             {"PROXY TCP4 http/0.9\r\n", 17, wire.HTTP},
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

			// The bytes after the deciding one do not matter.
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

// TestSnifferDoubts has lines that no HTTP client sends, but that a proxy may
// have made from a request. It has the index of the byte from which that is the
// case: from there on, a connection may be delivered. The last byte decides
// whether the line was a request.
func TestSnifferDoubts(t *testing.T) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	for first, test := range map[string]struct {
		index int
		end   wire.Verdict
	}{
		"POST /a b HTTP/1.1\r\n":       {8, wire.HTTP}, // nginx made it from /a%20b
		"POST /a b HTTP/1.1\n":         {8, wire.HTTP},
		"POST /a b c HTTP/1.0\r\n":     {8, wire.HTTP},
		"POST /a b HTTP/0.9\r\n":       {8, wire.HTTP},
		"POST /a b HTTP/2\r\n":         {8, wire.HTTP},
		"POST /a b http/1.1\r\n":       {8, wire.HTTP},
		"POST http://h/a b HTTP/1.1\n": {16, wire.HTTP},
		"POST HTTPS://h b HTTP/1.1\n":  {15, wire.HTTP},
		"GET /  HTTP/1.1\r\n":          {6, wire.HTTP},
		"GET / HTTP HTTP/1.1\r\n":      {10, wire.HTTP},
		"GET / a\tb\xc3 HTTP/1.1\r\n":  {6, wire.HTTP},
		// nginx makes these from /a%09b, /a%01b and /a%0Db.
		"POST /a\tb HTTP/1.1\r\n":      {7, wire.HTTP},
		"POST /a\x01b HTTP/1.1\r\n":    {7, wire.HTTP},
		"POST /a\rb HTTP/1.1\r\n":      {7, wire.HTTP},
		"POST /a b\x1f\v\r HTTP/1.1\n": {8, wire.HTTP},
		"GET /\x00 HTTP/1.1\r\n":       {5, wire.HTTP}, // as lighttpd forwards it
		"GET / \x00 HTTP/1.1\n":        {6, wire.HTTP},
		// HAProxy makes these from /tunnel, /tunnel?a and /tunnela.
		"POST  RTSP/1.0\r\n":        {5, wire.HTTP},
		"POST ?a RTSP/1.0\r\n":      {8, wire.HTTP},
		"POST a RTSP/1.0\r\n":       {7, wire.HTTP},
		"POST ftp://x RTSP/1.0\r\n": {13, wire.HTTP},
		"POST * RTSP/\r\n":          {7, wire.HTTP},
		"GET x\x00":                 {5, wire.Plain},
		"GET /\r HTTP/1.1\r\n":      {5, wire.HTTP},
		"GET /\tHTTP/1.1\r\n":       {5, wire.Plain},
		"GET /\r\n":                 {5, wire.Plain},
		"GET / \r\n":                {6, wire.Plain},
		"GET / HTT\r\n":             {9, wire.Plain},
		"GET / HTTP\r\n":            {10, wire.Plain},
		"PUB /t {\"a\": 1}\r\n":     {7, wire.Plain},
		"PUB /t 5\r\n":              {7, wire.Plain},
		"PUB /t x HTTP/1.1 y\r\n":   {7, wire.Plain},
		"PUB /t x HTTP/1.\n":        {7, wire.HTTP},
		"PUB /t x HTTP/\r\n":        {7, wire.HTTP},
		"PUB /t x HTTP/1.1x\r\n":    {7, wire.HTTP},
		"PUB /t x HTTP/1.1\r\r\n":   {7, wire.Plain},
		"PUB /t x HTTP/1.1\rx\n":    {7, wire.Plain},
		"PUB /t xHTTP/1.1\r\n":      {7, wire.Plain},
		"PUB /t x HTTP/1.1\x00\n":   {7, wire.Plain},
		"PUB /t x HHTTP/1.1\n":      {7, wire.Plain},

		// HAProxy makes this line if one of its rules removes the path.
		"POST  HTTP/1.":   {5, wire.HTTP},
		"POST  http/0.":   {5, wire.HTTP},
		"G{T  HTTP/1.1\n": {1, wire.HTTP},
		"PRI  HTTP/2.":    {4, wire.HTTP},
		"GET  /":          {4, wire.Plain},
		"GET  x":          {4, wire.Plain},
		"GET   ":          {4, wire.Plain},
		"GET  \r":         {4, wire.Plain},

		// HAProxy forwards these with `option accept-invalid-http-request`.
		"GET / RTSP/1.0\r\n":            {6, wire.HTTP},
		"GET / rtsp/\r\n":               {6, wire.HTTP},
		"GET http://h/ RTSP/1.0\r\n":    {14, wire.HTTP},
		"GET / xRTSP/1.0\r\n":           {6, wire.Plain},
		"GET / HRTSP/1.0\r\n":           {7, wire.Plain},
		"GET / RTSP/1.0 x\r\n":          {6, wire.Plain},
		"GET / SIP/2.0\r\n":             {6, wire.Plain},
		"GET / x rtsp://h/\r\n":         {6, wire.Plain},
		"PUB /t see http://h:1/a.b\r\n": {7, wire.Plain},

		// Varnish forwards any method, with any target.
		"G(T / HTTP/1.1\r\n":           {1, wire.HTTP},
		"G(T x HTTP/1.0\n":             {1, wire.HTTP},
		"G(T x y":                      {1, wire.Plain},
		"GET: / http/1.1\n":            {3, wire.HTTP},
		"\xef\xbb\xbfGET / HTTP/":      {0, wire.Doubt},
		"\r\n{\"a\":1} / HTTP/2\n":     {2, wire.HTTP},
		"{\"a\":\"GET / HTTP/1.1\"}\n": {0, wire.Plain},
		"{\"a\":\"GET x HTTP/1.1\"}\n": {0, wire.Plain},
		"HTTP/1.1 / HTTP/1.1\n":        {4, wire.HTTP},
		"{ /a b HTTP/1.1\n":            {0, wire.HTTP},
		"{ /a RTSP/1.0\n":              {0, wire.HTTP},
		"{ a Rx":                       {0, wire.Plain},
		"HTTP/1.1 200 O":               {4, wire.Plain},
		"{\"id\": 1}\n":                {0, wire.Plain},
		"{\"id\": 1, \"":               {0, wire.Plain},
		"{\"id\":1}\n":                 {0, wire.Plain},
		"<?xml version=\"1.0\"?>":      {0, wire.Doubt},
		"\xff\xfe\x00":                 {0, wire.Plain},
		"\x80\x7f":                     {0, wire.Plain},
		"{\x1f":                        {0, wire.Plain},
		"{\t":                          {0, wire.Plain},
		"{  x":                         {0, wire.Plain},

		// A client that begins in this way speaks HTTP/2.
		preface:                           {11, wire.Plain},
		preface[:23]:                      {11, wire.Doubt},
		"PRI * HTTP/2\r":                  {11, wire.HTTP},
		"PRI * HTTP/20":                   {11, wire.HTTP},
		"PRI * HTTP/2.1":                  {11, wire.HTTP},
		"PRI * HTTP/2.0\n":                {11, wire.HTTP},
		"PRI * HTTP/2.0\r\nH":             {11, wire.HTTP},
		"PRI * HTTP/2.0\r\n\r\nX":         {11, wire.HTTP},
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r ": {11, wire.HTTP},
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

// TestSnifferRemembers: bytes that were inspected are not inspected again.
// Otherwise a first line that arrives slowly would take time in proportion to
// the square of its length.
func TestSnifferRemembers(t *testing.T) {
	b := []byte("GET /" + long(100))
	var s wire.Sniffer
	require.Equal(t, wire.More, s.Next(b))
	clear(b)
	require.Equal(t, wire.HTTP, s.Next(append(b, " HTTP/1.1"...)))
}

func TestSnifferAtLimit(t *testing.T) {
	for first, want := range map[string]wire.Verdict{
		// The forms that reverse proxies forward: a long path gets a 414.
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
		require.Equal(t, want, s.AtLimit(), "%q", first)
	}
}

// A proxy may send a PROXY header that the listener does not expect. A request
// after it is still a request.
func TestSnifferBehindHeader(t *testing.T) {
	addresses := "\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb"
	for header, doubt := range map[string]int{
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n":          11,
		"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n":      11,
		"PROXY UNKNOWN\r\n":                               13,
		"PROXY UNKNOWN\n":                                 13,
		"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n":           14,
		"PROXY UNKNOWN httpx\r\n":                         18,
		proxyHeader2(0):                                   4,
		proxyHeader2(12) + addresses:                      4,
		proxyHeader2(12+300) + addresses + long(300):      4,
		proxyHeader2(0) + "PROXY UNKNOWN\r\n":             4,
		"PROXY UNKNOWN\r\n" + proxyHeader2(2) + "\r\n":    13,
		"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n" + "\r\n\r\n": 11,
	} {
		for line, want := range map[string]wire.Verdict{
			"POST /x HTTP/0.9\r\n":             wire.HTTP,
			"GET / http/1.1\r\n":               wire.HTTP,
			"POST /a b HTTP/1.1\n":             wire.HTTP,
			"G{T / HTTP/1.1\n":                 wire.HTTP,
			"EHLO x\r\n":                       wire.Plain,
			"\x16\x03\x01":                     wire.Plain,
			"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": wire.Plain,
			"":                                 wire.Doubt,
			"GET /":                            wire.Doubt,
		} {
			b := []byte(header + line)
			var whole, bytewise wire.Sniffer
			require.Equal(t, want, whole.Next(b), "%q", b)
			require.Equal(t, want == wire.HTTP, want == wire.HTTP && whole.BehindHeader(), "%q", b)

			v := wire.More
			for i := 0; i < len(b) && v != wire.HTTP && v != wire.Plain; i++ {
				v = bytewise.Feed(b[i : i+1])
				if i < doubt {
					require.Equal(t, wire.More, v, "%q", b[:i+1])
				} else if i < len(header) {
					require.Equal(t, wire.Doubt, v, "%q", b[:i+1])
				}
			}
			require.Equal(t, want, v, "%q", b)
		}
	}
	// Bytes that look like a header and are none are plain as a whole.
	for _, first := range []string{
		"PROXY TCP5 x", "PROXY UNKNOW x", "PROXY  ", "PROXY UNKNOWN " + long(120), "proxy UNKNOWN x",
		"\r\n\r\n\x00\r\nQUIX", "\r\n\r\n\x01", "\n\r\n\x00", "\r\n\r\n\r\n\x00",
	} {
		var s wire.Sniffer
		require.Equal(t, wire.Plain, s.Next([]byte(first+"\r\nGET / HTTP/1.1\r\n")), "%q", first)
	}
}

// TestSnifferEmptyLines: empty lines that end with CRLF may be skipped.
func TestSnifferEmptyLines(t *testing.T) {
	for lines, want := range map[string]int{"": 0, "\r\n": 2, "\r\n\r\n": 4, "\n": 0, "\r\n\n": 0, "\n\r\n": 0, "\n\n": 0} {
		var s wire.Sniffer
		require.Equal(t, wire.HTTP, s.Next([]byte(lines+"GET / HTTP/1.1\r\n")))
		require.Equal(t, want, s.EmptyLines(), "%q", lines)
		require.False(t, s.BehindHeader())
	}
}
