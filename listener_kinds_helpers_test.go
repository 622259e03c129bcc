package preflight_test

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

// kndCertificate is a certificate for example.com that signs itself, and a pool
// that trusts it: a server's or a client's.
func kndCertificate(t testing.TB, name string) (tls.Certificate, *x509.CertPool) {
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

// kndTLS is the configuration of a TLS server, and of a client that trusts it.
func kndTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	cert, pool := kndCertificate(t, "server")
	server = &tls.Config{Certificates: []tls.Certificate{cert}}
	// One curve keeps the hello short, and this one is fast.
	client = &tls.Config{RootCAs: pool, ServerName: "example.com", CurvePreferences: []tls.CurveID{tls.CurveP256}}
	return server, client
}

// kndSource and kndSource6 are clients of whom only PROXY headers tell.
var (
	kndSource  = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 56324}
	kndSource6 = &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 56325}
	kndDest    = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 443}
)

// kndHeader is the beginning of a connection.
type kndHeader struct {
	name   string
	bytes  []byte
	source string // of the client; "" is the peer itself
}

// kndFormat is h on the wire.
func kndFormat(t testing.TB, h *proxyproto.Header, tlvs ...proxyproto.TLV) []byte {
	t.Helper()
	require.NoError(t, h.SetTLVs(tlvs))
	b, err := h.Format()
	require.NoError(t, err)
	return b
}

// kndProxy is a PROXY header that names source.
func kndProxy(t testing.TB, version byte, source *net.TCPAddr, tlvs ...proxyproto.TLV) []byte {
	t.Helper()
	return kndFormat(t, proxyproto.HeaderProxyFromAddrs(version, source, kndDest), tlvs...)
}

// kndHeaders are the ways in which a connection may begin.
func kndHeaders(t testing.TB) []kndHeader {
	t.Helper()
	local := *proxyproto.HeaderProxyFromAddrs(2, kndSource, kndDest)
	local.Command = proxyproto.LOCAL
	return []kndHeader{
		{"nothing", nil, ""},
		{"v1 TCP4", kndProxy(t, 1, kndSource), kndSource.String()},
		{"v1 UNKNOWN", kndFormat(t, proxyproto.HeaderProxyFromAddrs(1, nil, nil)), ""},
		{"v2 TCP4", kndProxy(t, 2, kndSource), kndSource.String()},
		{"v2 TCP6", kndProxy(t, 2, kndSource6), kndSource6.String()},
		{"v2 with TLVs", kndProxy(t, 2, kndSource,
			proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("example.com")},
			proxyproto.TLV{Type: proxyproto.PP2_TYPE_NOOP, Value: []byte("GET / HTTP/1.1\r\n\r\n\x16\x03\x01")},
		), kndSource.String()},
		{"v2 LOCAL", kndFormat(t, proxyproto.HeaderProxyFromAddrs(2, nil, nil)), ""},
		{"v2 LOCAL with addresses", kndFormat(t, &local), ""},
	}
}

// kndPieces says how many bytes may come at once where seen have come already;
// 0 is any number.
type kndPieces func(seen int) int

// kndWhole delivers what has come.
func kndWhole(int) int { return 0 }

// kndBytes delivers one byte at a time.
func kndBytes(int) int { return 1 }

// kndCutAt delivers two parts.
func kndCutAt(k int) kndPieces { return func(seen int) int { return max(k-seen, 0) } }

// kndInner is a TCP listener whose connections are read in pieces, as if what
// clients send had arrived in such segments.
type kndInner struct {
	net.Listener
	pieces atomic.Value
	last   atomic.Pointer[kndConn]
}

func (l *kndInner) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &kndConn{Conn: c, pieces: l.pieces.Load().(kndPieces)}
	l.last.Store(conn)
	return conn, nil
}

// kndConn is a connection of kndInner. It keeps what was read.
type kndConn struct {
	net.Conn
	pieces kndPieces
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

func (c *kndConn) read() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.stream)
}

// kndGlue is a client's connection that sends together what it can. What is held
// goes with the next write, and with it goes the second write if that is one of
// TLS: the end of the handshake waits for the data behind it.
type kndGlue struct {
	net.Conn
	held   []byte
	tls    bool
	writes int
}

func (c *kndGlue) Write(b []byte) (int, error) {
	c.writes++
	c.held = append(c.held, b...)
	if c.tls && c.writes == 2 {
		return len(b), nil
	}
	_, err := c.Conn.Write(c.held)
	c.held = nil
	return len(b), err
}

// kndSpeech is a connection that writes in pieces.
type kndSpeech struct {
	net.Conn
	pieces kndPieces
	said   int
}

func (c *kndSpeech) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := c.pieces(c.said)
		if n == 0 || n > len(rest) {
			n = len(rest)
		}
		if _, err := c.Conn.Write(rest[:n]); err != nil {
			return 0, err
		}
		rest, c.said = rest[n:], c.said+n
	}
	return len(b), nil
}

// kndTunnelled is the client's end of a tunnel whose upgrade request goes with
// the first write, and whose answer is read before the first byte.
type kndTunnelled struct {
	*kndGlue
	client *lisClient
	answer lisAnswer
	once   sync.Once
}

func (c *kndTunnelled) Read(b []byte) (int, error) {
	c.once.Do(func() { c.answer = c.client.answer("GET") })
	return c.client.r.Read(b)
}

// kndOver is a TLS client over a connection; what it holds goes with the hello.
func kndOver(t testing.TB, c net.Conn, held []byte, config *tls.Config) *lisClient {
	t.Helper()
	tc := tls.Client(&kndGlue{Conn: c, held: held, tls: true}, config)
	require.NoError(t, tc.Handshake())
	return &lisClient{Conn: tc, r: bufio.NewReader(tc)}
}

// kndServed is the handler of ordinary requests, and shows what it was told.
var kndServed = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Remote", r.RemoteAddr)
	w.Header().Set("Path", r.URL.Path)
	if r.TLS != nil && r.TLS.HandshakeComplete {
		w.Header().Set("Tls", "yes")
	}
	io.Copy(w, r.Body)
})

// kndListen is l over a kndInner.
func kndListen(t testing.TB, l *preflight.PreflightListener) (*kndInner, <-chan *preflight.Conn) {
	t.Helper()
	inner := &kndInner{Listener: listenTCP(t)}
	inner.pieces.Store(kndPieces(kndWhole))
	l.Listener = inner
	return inner, lisServe(t, listen(t, l))
}

// kndHello is what a TLS client says first.
func kndHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := tcpPair(t)
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
