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

// KndCertificate is a certificate for example.com that signs itself, and a pool
// that trusts it: a server's or a client's.
func KndCertificate(t testing.TB, name string) (tls.Certificate, *x509.CertPool) {
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

// KndTLS is the configuration of a TLS server, and of a client that trusts it.
func KndTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	cert, pool := KndCertificate(t, "server")
	server = &tls.Config{Certificates: []tls.Certificate{cert}}
	// One curve keeps the hello short, and this one is fast.
	client = &tls.Config{RootCAs: pool, ServerName: "example.com", CurvePreferences: []tls.CurveID{tls.CurveP256}}
	return server, client
}

// KndSource and kndSource6 are clients of whom only PROXY headers tell.
var (
	KndSource  = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 56324}
	KndSource6 = &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 56325}
	kndDest    = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 443}
)

// KndHeader is the beginning of a connection.
type KndHeader struct {
	Name   string
	Bytes  []byte
	Source string // of the client; "" is the peer itself
}

// KndFormat is h on the wire.
func KndFormat(t testing.TB, h *proxyproto.Header, tlvs ...proxyproto.TLV) []byte {
	t.Helper()
	require.NoError(t, h.SetTLVs(tlvs))
	b, err := h.Format()
	require.NoError(t, err)
	return b
}

// KndProxy is a PROXY header that names source.
func KndProxy(t testing.TB, version byte, source *net.TCPAddr, tlvs ...proxyproto.TLV) []byte {
	t.Helper()
	return KndFormat(t, proxyproto.HeaderProxyFromAddrs(version, source, kndDest), tlvs...)
}

// KndHeaders are the ways in which a connection may begin.
func KndHeaders(t testing.TB) []KndHeader {
	t.Helper()
	local := *proxyproto.HeaderProxyFromAddrs(2, KndSource, kndDest)
	local.Command = proxyproto.LOCAL
	return []KndHeader{
		{"nothing", nil, ""},
		{"v1 TCP4", KndProxy(t, 1, KndSource), KndSource.String()},
		{"v1 UNKNOWN", KndFormat(t, proxyproto.HeaderProxyFromAddrs(1, nil, nil)), ""},
		{"v2 TCP4", KndProxy(t, 2, KndSource), KndSource.String()},
		{"v2 TCP6", KndProxy(t, 2, KndSource6), KndSource6.String()},
		{"v2 with TLVs", KndProxy(t, 2, KndSource,
			proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("example.com")},
			proxyproto.TLV{Type: proxyproto.PP2_TYPE_NOOP, Value: []byte("GET / HTTP/1.1\r\n\r\n\x16\x03\x01")},
		), KndSource.String()},
		{"v2 LOCAL", KndFormat(t, proxyproto.HeaderProxyFromAddrs(2, nil, nil)), ""},
		{"v2 LOCAL with addresses", KndFormat(t, &local), ""},
	}
}

// KndPieces says how many bytes may come at once where seen have come already;
// 0 is any number.
type KndPieces func(seen int) int

// KndWhole delivers what has come.
func KndWhole(int) int { return 0 }

// KndBytes delivers one byte at a time.
func KndBytes(int) int { return 1 }

// KndInner is a TCP listener whose connections are read in pieces, as if what
// clients send had arrived in such segments.
type KndInner struct {
	net.Listener
	Pieces atomic.Value
	Last   atomic.Pointer[kndConn]
}

func (l *KndInner) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &kndConn{Conn: c, pieces: l.Pieces.Load().(KndPieces)}
	l.Last.Store(conn)
	return conn, nil
}

// kndConn is a connection of kndInner. It keeps what was read.
type kndConn struct {
	net.Conn
	pieces KndPieces
	mu     sync.Mutex
	stream []byte
}

func (c *kndConn) Read(b []byte) (int, error) {
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

func (c *kndConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

func (c *kndConn) Taken() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.stream)
}

// KndGlue is a client's connection that sends together what it can. What is held
// goes with the next write, and with it goes the second write if that is one of
// TLS: the end of the handshake waits for the data behind it.
type KndGlue struct {
	net.Conn
	Held   []byte
	Tls    bool
	writes int
}

func (c *KndGlue) Write(b []byte) (int, error) {
	c.writes++
	c.Held = append(c.Held, b...)
	if c.Tls && c.writes == 2 {
		return len(b), nil
	}
	_, err := c.Conn.Write(c.Held)
	c.Held = nil
	return len(b), err
}

// KndSpeech is a connection that writes in pieces.
type KndSpeech struct {
	net.Conn
	Pieces KndPieces
	Said   int
}

func (c *KndSpeech) Write(b []byte) (int, error) {
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

// KndTunnelled is the client's end of a tunnel whose upgrade request goes with
// the first write, and whose answer is read before the first byte.
type KndTunnelled struct {
	*KndGlue
	Client *LisClient
	Answer LisAnswer
	once   sync.Once
}

func (c *KndTunnelled) Read(b []byte) (int, error) {
	c.once.Do(func() { c.Answer = c.Client.Answer("GET") })
	return c.Client.R.Read(b)
}

// KndOver is a TLS client over a connection; what it holds goes with the hello.
func KndOver(t testing.TB, c net.Conn, held []byte, config *tls.Config) *LisClient {
	t.Helper()
	tc := tls.Client(&KndGlue{Conn: c, Held: held, Tls: true}, config)
	require.NoError(t, tc.Handshake())
	return &LisClient{Conn: tc, R: bufio.NewReader(tc)}
}

// KndServed is the handler of ordinary requests, and shows what it was told.
var KndServed = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Remote", r.RemoteAddr)
	w.Header().Set("Path", r.URL.Path)
	if r.TLS != nil && r.TLS.HandshakeComplete {
		w.Header().Set("Tls", "yes")
	}
	io.Copy(w, r.Body)
})

// KndListen is l over a kndInner.
func KndListen(t testing.TB, l *preflight.PreflightListener) (*KndInner, <-chan *preflight.Conn) {
	t.Helper()
	inner := &KndInner{Listener: ListenTCP(t)}
	inner.Pieces.Store(KndPieces(KndWhole))
	l.Listener = inner
	return inner, LisServe(t, Listen(t, l))
}

// KndHello is what a TLS client says first.
func KndHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := TcpPair(t)
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

// KndPayload is what a client says as soon as it can. A byte of it that is
// dropped, moved or interpreted shows.
const KndPayload = "\r\n\r\nPROXY TCP4 192.0.2.99 192.0.2.98 1 2\r\n\x16\x03\x01\x00\x05\x01GET /payload HTTP/1.1\r\n\r\n\x00\xff"

// KndRequestTLS asks for TLS inside the tunnel.
var KndRequestTLS = LisRequest("Preflight-Tunnel: tls")
