package testkit

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// Certificate returns a self-signed certificate for example.com, of a server or
// of a client, and a pool that trusts it.
func Certificate(t testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{"example.com"},
		NotBefore:             time.Unix(0, 0), // the clock of a synctest bubble begins in the year 2000
		NotAfter:              time.Now().AddDate(100, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// NamedTLSConfigs returns the configuration of a TLS server, and that of a
// client that trusts it.
func NamedTLSConfigs(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	cert, pool := Certificate(t, "server")
	server = &tls.Config{Certificates: []tls.Certificate{cert}}
	// One curve keeps the hello short, and this one is fast.
	client = &tls.Config{RootCAs: pool, ServerName: "example.com", CurvePreferences: []tls.CurveID{tls.CurveP256}}
	return server, client
}

// Source and Source6 are clients that appear only in PROXY headers.
var (
	Source      = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 56324}
	Source6     = &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 56325}
	destination = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 443}
)

// HeaderCase is a possible beginning of a connection.
type HeaderCase struct {
	Name   string
	Bytes  []byte
	Source string // the address of the client; "" is the peer itself
}

// FormatProxyHeader returns the bytes of h.
func FormatProxyHeader(t testing.TB, h *proxyproto.Header, tlvs ...proxyproto.TLV) []byte {
	t.Helper()
	require.NoError(t, h.SetTLVs(tlvs))
	b, err := h.Format()
	require.NoError(t, err)
	return b
}

// ProxyHeader returns a PROXY header that names source.
func ProxyHeader(t testing.TB, version byte, source *net.TCPAddr, tlvs ...proxyproto.TLV) []byte {
	t.Helper()
	return FormatProxyHeader(t, proxyproto.HeaderProxyFromAddrs(version, source, destination), tlvs...)
}

// HeaderCases returns the possible beginnings of a connection.
func HeaderCases(t testing.TB) []HeaderCase {
	t.Helper()
	local := *proxyproto.HeaderProxyFromAddrs(2, Source, destination)
	local.Command = proxyproto.LOCAL
	return []HeaderCase{
		{"nothing", nil, ""},
		{"v1 TCP4", ProxyHeader(t, 1, Source), Source.String()},
		{"v1 UNKNOWN", FormatProxyHeader(t, proxyproto.HeaderProxyFromAddrs(1, nil, nil)), ""},
		{"v2 TCP4", ProxyHeader(t, 2, Source), Source.String()},
		{"v2 TCP6", ProxyHeader(t, 2, Source6), Source6.String()},
		{"v2 with TLVs", ProxyHeader(t, 2, Source,
			proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("example.com")},
			proxyproto.TLV{Type: proxyproto.PP2_TYPE_NOOP, Value: []byte("GET / HTTP/1.1\r\n\r\n\x16\x03\x01")},
		), Source.String()},
		{"v2 LOCAL", FormatProxyHeader(t, proxyproto.HeaderProxyFromAddrs(2, nil, nil)), ""},
		{"v2 LOCAL with addresses", FormatProxyHeader(t, &local), ""},
	}
}

// Pieces returns how many bytes a Read may return after seen bytes. 0 means any
// number.
type Pieces func(seen int) int

// InOnePiece delivers all bytes that have arrived.
func InOnePiece(int) int { return 0 }

// ByteByByte delivers one byte at a time.
func ByteByByte(int) int { return 1 }

// InnerListener is a TCP listener whose connections are read in pieces, as if
// the bytes had arrived in such segments.
type InnerListener struct {
	net.Listener
	Pieces atomic.Value
	Last   atomic.Pointer[innerConn]
}

func (l *InnerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &innerConn{Conn: c, pieces: l.Pieces.Load().(Pieces)}
	l.Last.Store(conn)
	return conn, nil
}

// innerConn is a connection of an InnerListener. It keeps the bytes that were
// read.
type innerConn struct {
	net.Conn
	pieces Pieces
	mu     sync.Mutex
	stream []byte
}

func (c *innerConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	most := c.pieces(len(c.stream))
	c.mu.Unlock()
	if most > 0 && most < len(b) {
		b = b[:most]
	}
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	c.stream = append(c.stream, b[:n]...)
	c.mu.Unlock()
	return n, err
}

func (c *innerConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

func (c *innerConn) Taken() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.stream)
}

// Glue is a client's connection that sends as many bytes together as possible.
// The bytes in Held are sent with the next Write. If Tls is set, the second
// Write is held until the third one: the end of the TLS handshake waits for the
// data after it.
type Glue struct {
	net.Conn
	Held   []byte
	Tls    bool
	writes int
}

func (c *Glue) Write(b []byte) (int, error) {
	c.writes++
	c.Held = append(c.Held, b...)
	if c.Tls && c.writes == 2 {
		return len(b), nil
	}
	_, err := c.Conn.Write(c.Held)
	c.Held = nil
	return len(b), err
}

// Speech is a connection that writes in pieces.
type Speech struct {
	net.Conn
	Pieces Pieces
	Said   int
}

func (c *Speech) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := c.Pieces(c.Said)
		if n == 0 || n > len(rest) {
			n = len(rest)
		}
		if _, err := c.Conn.Write(rest[:n]); err != nil {
			return 0, err
		}
		rest, c.Said = rest[n:], c.Said+n
	}
	return len(b), nil
}

// Tunnelled is the client's end of a tunnel. Its upgrade request is sent with
// the first Write, and its answer is read before the first byte.
type Tunnelled struct {
	*Glue
	Client *Client
	Answer Answer
	once   sync.Once
}

func (c *Tunnelled) Read(b []byte) (int, error) {
	c.once.Do(func() { c.Answer = c.Client.Answer("GET") })
	return c.Client.R.Read(b)
}

// ClientOver returns a TLS client over a connection. The bytes of held are sent
// with the ClientHello.
func ClientOver(t testing.TB, c net.Conn, held []byte, config *tls.Config) *Client {
	t.Helper()
	tc := tls.Client(&Glue{Conn: c, Held: held, Tls: true}, config)
	require.NoError(t, tc.Handshake())
	return &Client{Conn: tc, R: bufio.NewReader(tc)}
}

// ServedHandler handles ordinary requests, and answers with what it was told.
var ServedHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Remote", r.RemoteAddr)
	w.Header().Set("Path", r.URL.Path)
	if r.TLS != nil && r.TLS.HandshakeComplete {
		w.Header().Set("Tls", "yes")
	}
	io.Copy(w, r.Body)
})

// ListenInner starts l over an InnerListener.
func ListenInner(t testing.TB, l *preflight.PreflightListener) (*InnerListener, <-chan *preflight.Conn) {
	t.Helper()
	inner := &InnerListener{Listener: ListenTCP(t)}
	inner.Pieces.Store(Pieces(InOnePiece))
	l.Listener = inner
	return inner, AcceptAll(t, Listen(t, l))
}

// ClientHello returns the first bytes of a TLS client.
func ClientHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := TCPPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tls.Client(client, config).Handshake()
	}()
	b := make([]byte, 1<<16)
	n, err := server.Read(b)
	require.NoError(t, err)
	server.Close()
	<-done
	return b[:n]
}

// Payload holds the first bytes of a client. The test notices if one of them is
// dropped, moved or interpreted.
const Payload = "\r\n\r\nPROXY TCP4 192.0.2.99 192.0.2.98 1 2\r\n\x16\x03\x01\x00\x05\x01GET /payload HTTP/1.1\r\n\r\n\x00\xff"

// RequestTLS is an upgrade request for TLS inside the tunnel.
var RequestTLS = Request("Preflight-Tunnel: tls")
