package kinds_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// kindCase is one client of one listener.
type kindCase struct {
	*testkit.Client
	accepted  <-chan *preflight.Conn
	tls       *tls.Config // the address of the client
	serverTLS *tls.Config
	remote    string
	overTLS   bool
}

// say sends s in as few segments as possible.
func (c *kindCase) say(t testing.TB, s string) { c.Send(t, s) }

// next returns the next accepted connection, which must be this client's.
func (c *kindCase) next(t testing.TB) *preflight.Conn {
	t.Helper()
	select {
	case conn := <-c.accepted:
		require.Equal(t, c.remote, conn.RemoteAddr().String())
		return conn
	case <-time.After(testkit.Patience):
		require.FailNow(t, "nothing was accepted")
		return nil
	}
}

// onTLS requires that TLS is the layer below conn exactly if the client uses
// TLS.
func (c *kindCase) onTLS(t testing.TB, conn *preflight.Conn) {
	t.Helper()
	tc, ok := conn.NetConn().(*tls.Conn)
	require.Equal(t, c.overTLS, ok)
	require.True(t, !ok || tc.ConnectionState().HandshakeComplete)
}

// aboutTLS requires that the request tells whether it came over TLS.
func (c *kindCase) aboutTLS(t testing.TB, conn *preflight.Conn) {
	t.Helper()
	state := conn.Request().TLS
	require.Equal(t, c.overTLS, state != nil, "the request came by TLS: %t", c.overTLS)
	require.True(t, state == nil || state.HandshakeComplete)
}

// answered requires that conn can answer.
func (c *kindCase) answered(t testing.TB, conn io.Writer, r io.Reader) {
	t.Helper()
	_, err := io.WriteString(conn, "an answer")
	require.NoError(t, err)
	testkit.Skip(t, r, "an answer")
}

// connKind is a kind of connection.
type connKind struct {
	name     string
	raw, tls bool   // whether it occurs without and with TLS
	alpn     string // what the TLS client offers
	handler  bool   // the listener has a Handler
	noTLS    bool   // the listener has no TLSConfig
	most     int    // the number of bytes after which crypto/tls reads the rest; 0: it reads none
	play     func(t testing.TB, c *kindCase)
}

var connKinds = []connKind{
	{name: "tunnel", raw: true, tls: true, play: playTunnel},
	{name: "tunnel of TLS", raw: true, tls: true, most: len(testkit.RequestTLS) + 16, play: playTLS},
	{name: "ordinary HTTP", raw: true, tls: true, alpn: "http/1.1", handler: true, play: playHandler},
	{name: "ordinary HTTP, refused", raw: true, tls: true, alpn: "http/1.1", play: playRefused},
	{name: "lines", raw: true, tls: true, play: playPlain("EHLO client.example\r\nQUIT\r\n" + testkit.Payload)},
	{name: "binary", raw: true, tls: true, play: playPlain("\x00\x01\x02" + testkit.Payload)},
	{name: "HTTP/2 with prior knowledge", raw: true, tls: true, play: playPlain("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00" + testkit.Payload)},
	{name: "HTTP/2 by ALPN", tls: true, alpn: "h2", play: playPlain(testkit.Request() + testkit.Payload)},
	{name: "TLS of the application", raw: true, noTLS: true, most: 8, play: playHello},
}

func playTunnel(t testing.TB, c *kindCase) {
	c.say(t, testkit.Request()+testkit.Payload)
	require.Equal(t, 101, c.Answer("GET").StatusCode)
	conn := c.next(t)
	defer conn.Close()
	c.onTLS(t, conn)
	c.aboutTLS(t, conn)
	require.Equal(t, "/t", conn.Request().URL.Path)
	require.Equal(t, c.remote, conn.Request().RemoteAddr)
	testkit.Skip(t, conn, testkit.Payload)
	c.answered(t, conn, c.R)
}

func playTLS(t testing.TB, c *kindCase) {
	tunnel := &testkit.Tunnelled{
		Glue:   &testkit.Glue{Conn: c.Conn, Held: []byte(testkit.RequestTLS), Tls: true},
		Client: c.Client,
	}
	inner := tls.Client(tunnel, c.tls)
	require.NoError(t, inner.Handshake())
	require.Equal(t, 101, tunnel.Answer.StatusCode)
	require.Equal(t, http.Header{"Upgrade": {"tcp"}, "Connection": {"Upgrade"}, "Preflight-Tunnel": {"tls"}}, tunnel.Answer.Header)
	_, err := io.WriteString(inner, testkit.Payload)
	require.NoError(t, err)
	conn := c.next(t)
	defer conn.Close()
	require.True(t, conn.NetConn().(*tls.Conn).ConnectionState().HandshakeComplete)
	c.aboutTLS(t, conn)
	require.Equal(t, c.remote, conn.Request().RemoteAddr)
	require.Equal(t, "tls", conn.Response().Header.Get("Preflight-Tunnel"))
	testkit.Skip(t, conn, testkit.Payload)
	c.answered(t, conn, inner)
}

func playHandler(t testing.TB, c *kindCase) {
	c.say(t, "GET /one HTTP/1.1\r\nHost: h\r\n\r\n"+"POST /two HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
	for _, want := range []struct{ path, body string }{{"/one", ""}, {"/two", "hello"}} {
		a := c.Answer("GET")
		require.Equal(t, 200, a.StatusCode)
		require.Equal(t, want.path, a.Header.Get("Path"))
		require.Equal(t, want.body, a.Text)
		require.Equal(t, c.remote, a.Header.Get("Remote"))
		require.Equal(t, c.overTLS, a.Header.Get("Tls") != "")
	}
	require.Empty(t, c.accepted)
}

func playRefused(t testing.TB, c *kindCase) {
	c.say(t, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nDEL all\r\n"+testkit.Request())
	require.Equal(t, 426, c.Refused(t, "POST").StatusCode)
	require.Empty(t, c.accepted)
}

func playPlain(s string) func(t testing.TB, c *kindCase) {
	return func(t testing.TB, c *kindCase) {
		c.say(t, s)
		conn := c.next(t)
		defer conn.Close()
		c.onTLS(t, conn)
		require.Nil(t, conn.Request())
		testkit.Skip(t, conn, s)
		c.answered(t, conn, c.R)
	}
}

func playHello(t testing.TB, c *kindCase) {
	handshake := make(chan error, 1)
	client := tls.Client(c.Conn, c.tls)
	go func() {
		_, err := io.WriteString(client, testkit.Payload)
		handshake <- err
	}()
	conn := c.next(t)
	defer conn.Close()
	c.onTLS(t, conn)
	require.Nil(t, conn.Request())
	server := tls.Server(conn, c.serverTLS)
	testkit.Skip(t, server, testkit.Payload)
	require.NoError(t, <-handshake)
	c.answered(t, server, client)
}

// kindStage holds one listener for each configuration that the kinds need.
type kindStage struct {
	server, client *tls.Config
	inner          map[kindConfig]*testkit.InnerListener
	accepted       map[kindConfig]<-chan *preflight.Conn
}

type kindConfig struct{ handler, noTLS bool }

func newKindStage(t testing.TB) *kindStage {
	s := &kindStage{inner: map[kindConfig]*testkit.InnerListener{}, accepted: map[kindConfig]<-chan *preflight.Conn{}}
	s.server, s.client = testkit.NamedTLSConfigs(t)
	s.server.NextProtos = []string{"h2", "http/1.1"}
	for _, config := range []kindConfig{{}, {handler: true}, {noTLS: true}} {
		l := &preflight.PreflightListener{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
		if config.handler {
			l.Handler = testkit.ServedHandler
		}
		if !config.noTLS {
			l.TLSConfig = s.server
		}
		s.inner[config], s.accepted[config] = testkit.ListenInner(t, l)
	}
	return s
}

// play runs one client of kind behind header. The bytes of the connection
// arrive in pieces of raw, the bytes inside TLS in pieces of plain. It returns
// the bytes that arrived.
func (s *kindStage) play(t testing.TB, header testkit.HeaderCase, overTLS bool, kind connKind, raw, plain testkit.Pieces) (stream []byte, said int) {
	t.Helper()
	config := kindConfig{kind.handler, kind.noTLS}
	inner := s.inner[config]
	inner.Pieces.Store(raw)
	tcp, err := net.Dial("tcp", inner.Addr().String())
	require.NoError(t, err)
	defer tcp.Close()
	tcp.SetDeadline(time.Now().Add(testkit.Patience))

	c := &kindCase{accepted: s.accepted[config], tls: s.client, serverTLS: s.server, remote: header.Source, overTLS: overTLS}
	if c.remote == "" {
		c.remote = tcp.LocalAddr().String()
	}
	if overTLS {
		client := s.client.Clone()
		if kind.alpn != "" {
			client.NextProtos = []string{kind.alpn}
		}
		c.Client = testkit.ClientOver(t, tcp, header.Bytes, client)
	} else {
		c.Client = &testkit.Client{Conn: &testkit.Glue{Conn: tcp, Held: header.Bytes}, R: bufio.NewReader(tcp)}
	}
	speech := &testkit.Speech{Conn: c.Conn, Pieces: plain}
	c.Conn = speech
	kind.play(t, c)
	return inner.Last.Load().Taken(), speech.Said
}

// every calls f for each way to nest a kind of connection.
func (s *kindStage) every(t *testing.T, headers []testkit.HeaderCase, f func(t *testing.T, h testkit.HeaderCase, overTLS bool, k connKind)) {
	for _, header := range headers {
		for _, kind := range connKinds {
			if kind.raw {
				t.Run(fmt.Sprintf("%s/%s", header.Name, kind.name), func(t *testing.T) { f(t, header, false, kind) })
			}
			if kind.tls {
				t.Run(fmt.Sprintf("%s/TLS/%s", header.Name, kind.name), func(t *testing.T) { f(t, header, true, kind) })
			}
		}
	}
}

// Every kind is tested in every layer that can carry it: glued together as far
// as possible, cut at and beside each border of a layer, and one byte at a
// time.
func TestListenerKinds(t *testing.T) {
	s := newKindStage(t)
	s.every(t, testkit.HeaderCases(t), func(t *testing.T, header testkit.HeaderCase, overTLS bool, kind connKind) {
		stream, said := s.play(t, header, overTLS, kind, testkit.InOnePiece, testkit.InOnePiece)
		require.Equal(t, string(header.Bytes), string(stream[:len(header.Bytes)]))
		s.play(t, header, overTLS, kind, testkit.ByteByByte, testkit.InOnePiece)
		for _, border := range layerBorders(stream, len(header.Bytes)) {
			for k := max(border-1, 1); k <= min(border+1, len(stream)-1); k++ {
				s.play(t, header, overTLS, kind, cutAt(k), testkit.InOnePiece)
			}
		}
		if overTLS {
			require.NotZero(t, said)
			s.play(t, header, overTLS, kind, testkit.InOnePiece, testkit.ByteByByte)
		}
	})
}

// layerBorders returns the ends of the header and of the TLS records after it.
func layerBorders(stream []byte, header int) []int {
	borders := []int{header}
	for i := header; i+5 < len(stream) && stream[i] >= 20 && stream[i] <= 23 && stream[i+1] == 3; {
		i += 5 + int(stream[i+3])<<8 + int(stream[i+4])
		borders = append(borders, i)
	}
	return borders
}

// The same, cut at every byte of the connection and of the bytes inside TLS, as
// far as this package reads them.
func TestListenerKindsInTwoParts(t *testing.T) {
	s := newKindStage(t)
	headers := testkit.HeaderCases(t)
	for _, i := range []int{0, 1, 5} { // none, v1, v2 with TLVs
		s.every(t, headers[i:i+1], func(t *testing.T, header testkit.HeaderCase, overTLS bool, kind connKind) {
			stream, said := s.play(t, header, overTLS, kind, testkit.InOnePiece, testkit.InOnePiece)
			raw, plain := len(stream), 0
			switch {
			case overTLS && kind.name == "tunnel" && i != 1:
				raw = layerBorders(stream, len(header.Bytes))[1] + 6 // after the hello
			case overTLS:
				raw = len(header.Bytes) + 6
			case kind.most > 0:
				raw = len(header.Bytes) + kind.most
			}
			if overTLS && i == 0 && (kind.name == "tunnel" || kind.handler) { // inside TLS, everything is as without TLS
				plain = said
			}
			for k := 1; k < raw; k++ {
				s.play(t, header, overTLS, kind, cutAt(k), testkit.InOnePiece)
			}
			for k := 1; k < plain; k++ {
				s.play(t, header, overTLS, kind, testkit.InOnePiece, cutAt(k))
			}
		})
	}
}
