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

// Certificate is a certificate for example.com that signs itself, and a pool
// that trusts it: a server's or a client's.
func Certificate(t testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{"example.com"},
		NotBefore:             time.Unix(0, 0), // the clock of a synctest bubble stands in the year 2000
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

// NamedTLSConfigs is the configuration of a TLS server, and of a client that trusts it.
func NamedTLSConfigs(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	cert, pool := Certificate(t, "server")
	server = &tls.Config{Certificates: []tls.Certificate{cert}}
	// One curve keeps the hello short, and this one is fast.
	client = &tls.Config{RootCAs: pool, ServerName: "example.com", CurvePreferences: []tls.CurveID{tls.CurveP256}}
	return server, client
}

// Source and kndSource6 are clients of whom only PROXY headers tell.
var (
	Source      = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 56324}
	Source6     = &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 56325}
	destination = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 443}
)

// HeaderCase is the beginning of a connection.
type HeaderCase struct {
	Name   string
	Bytes  []byte
	Source string // of the client; "" is the peer itself
}

// FormatProxyHeader is h on the wire.
func FormatProxyHeader(t testing.TB, h *proxyproto.Header, tlvs ...proxyproto.TLV) []byte {
	t.Helper()
	require.NoError(t, h.SetTLVs(tlvs))
	b, err := h.Format()
	require.NoError(t, err)
	return b
}

// ProxyHeader is a PROXY header that names source.
func ProxyHeader(t testing.TB, version byte, source *net.TCPAddr, tlvs ...proxyproto.TLV) []byte {
	t.Helper()
	return FormatProxyHeader(t, proxyproto.HeaderProxyFromAddrs(version, source, destination), tlvs...)
}

// HeaderCases are the ways in which a connection may begin.
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

// Pieces says how many bytes may come at once where seen have come already;
// 0 is any number.
type Pieces func(seen int) int

// InOnePiece delivers what has come.
func InOnePiece(int) int { return 0 }

// ByteByByte delivers one byte at a time.
func ByteByByte(int) int { return 1 }

// InnerListener is a TCP listener whose connections are read in pieces, as if what
// clients send had arrived in such segments.
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

// innerConn is a connection of kndInner. It keeps what was read.
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

// Glue is a client's connection that sends together what it can. What is held
// goes with the next write, and with it goes the second write if that is one of
// TLS: the end of the handshake waits for the data behind it.
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

// Tunnelled is the client's end of a tunnel whose upgrade request goes with
// the first write, and whose answer is read before the first byte.
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

// ClientOver is a TLS client over a connection; what it holds goes with the hello.
func ClientOver(t testing.TB, c net.Conn, held []byte, config *tls.Config) *Client {
	t.Helper()
	tc := tls.Client(&Glue{Conn: c, Held: held, Tls: true}, config)
	require.NoError(t, tc.Handshake())
	return &Client{Conn: tc, R: bufio.NewReader(tc)}
}

// ServedHandler is the handler of ordinary requests, and shows what it was told.
var ServedHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Remote", r.RemoteAddr)
	w.Header().Set("Path", r.URL.Path)
	if r.TLS != nil && r.TLS.HandshakeComplete {
		w.Header().Set("Tls", "yes")
	}
	io.Copy(w, r.Body)
})

// ListenInner is l over a kndInner.
func ListenInner(t testing.TB, l *preflight.PreflightListener) (*InnerListener, <-chan *preflight.Conn) {
	t.Helper()
	inner := &InnerListener{Listener: ListenTCP(t)}
	inner.Pieces.Store(Pieces(InOnePiece))
	l.Listener = inner
	return inner, AcceptAll(t, Listen(t, l))
}

// ClientHello is what a TLS client says first.
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

// Payload is what a client says as soon as it can. A byte of it that is
// dropped, moved or interpreted shows.
const Payload = "\r\n\r\nPROXY TCP4 192.0.2.99 192.0.2.98 1 2\r\n\x16\x03\x01\x00\x05\x01GET /payload HTTP/1.1\r\n\r\n\x00\xff"

// RequestTLS asks for TLS inside the tunnel.
var RequestTLS = Request("Preflight-Tunnel: tls")
