package dialer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// fwdCA issues certificates. Several servers with their own names share one
// root.
type fwdCA struct {
	t     testing.TB
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	roots *x509.CertPool
}

func fwdNewCA(t testing.TB) *fwdCA {
	t.Helper()
	ca := &fwdCA{t: t, roots: x509.NewCertPool()}
	issued := ca.issue("the authority")
	ca.cert, ca.key = issued.Leaf, issued.PrivateKey.(*ecdsa.PrivateKey)
	ca.roots.AddCert(ca.cert)
	return ca
}

// issue makes a certificate for a server of that name and for a client. It is
// also valid in the year 2000, where the clock of synctest begins. The first
// certificate is that of the authority.
func (ca *fwdCA) issue(name string) tls.Certificate {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(ca.t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		NotBefore:             time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC),
		DNSNames:              []string{name},
		IsCA:                  ca.cert == nil,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	template.Subject.CommonName = name
	parent, signer := template, key
	if ca.cert != nil {
		parent, signer = ca.cert, ca.key
	} else {
		template.DNSNames = nil
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	require.NoError(ca.t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(ca.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// server returns the TLS configuration of a server of that name.
func (ca *fwdCA) server(name string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{ca.issue(name)}}
}

// client returns a new TLS configuration that trusts the authority.
func (ca *fwdCA) client() *tls.Config { return &tls.Config{RootCAs: ca.roots} }

// fwdServe starts a TCP server, runs serve for each connection, and closes the
// connection afterwards. It returns the address.
func fwdServe(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	ln := testkit.ListenTCP(t)
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(testkit.Patience))
			all.Go(func() {
				defer c.Close()
				// If a test fails and leaves a connection open, the other
				// servers must not wait for it.
				defer context.AfterFunc(ctx, func() { c.Close() })()
				serve(c)
				// If the server closed with unread bytes, the kernel would send
				// a reset, and the client might see that instead of the answer.
				c.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, c)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); cancel(); all.Wait() })
	return ln.Addr().String()
}

// fwdSecure is serve over TLS.
func fwdSecure(config *tls.Config, serve func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		if tc := tls.Server(c, config); tc.Handshake() == nil {
			serve(tc)
			tc.CloseWrite()
		}
	}
}

// fwdEcho echoes, including the half-close.
func fwdEcho(c net.Conn) {
	io.Copy(c, c)
	c.(interface{ CloseWrite() error }).CloseWrite()
}

// fwdUpgrade answers one upgrade request, records its head, and then calls
// then.
func fwdUpgrade(heads chan<- string, then func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		head := testkit.ReadRequest(c)
		heads <- head
		_, token, _ := strings.Cut(head, "\r\nUpgrade: ")
		token, _, _ = strings.Cut(token, "\r\n")
		inside := ""
		if strings.Contains(head, "\r\nPreflight-Tunnel: tls\r\n") {
			inside = "Preflight-Tunnel: tls\r\n"
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "+token+"\r\nConnection: Upgrade\r\n"+inside+"\r\n")
		then(c)
	}
}

// fwdConnect is a forward proxy with CONNECT. It records the head and connects
// to the address that to returns for the authority.
func fwdConnect(heads chan<- string, to map[string]string) func(net.Conn) {
	return func(c net.Conn) {
		head := testkit.ReadRequest(c)
		heads <- head
		_, authority, _ := strings.Cut(head, "CONNECT ")
		authority, _, _ = strings.Cut(authority, " ")
		fwdRelay(c, to[authority], "HTTP/1.1 200 Connection established\r\n\r\n", "HTTP/1.1 502 Bad Gateway\r\n\r\n")
	}
}

// fwdRelay copies between c and address until both directions have ended. It
// first sends good or bad.
func fwdRelay(c net.Conn, address, good, bad string) {
	next, err := net.Dial("tcp", address)
	if err != nil {
		io.WriteString(c, bad)
		return
	}
	defer next.Close()
	next.SetDeadline(time.Now().Add(testkit.Patience))
	io.WriteString(c, good)
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(next, c)
		next.(*net.TCPConn).CloseWrite()
	})
	io.Copy(c, next)
	c.(interface{ CloseWrite() error }).CloseWrite()
	both.Wait()
}

// fwdNet is a NetDialer that looks hosts up in a table and records the dialed
// addresses.
type fwdNet struct {
	hosts  map[string]string
	bare   bool // *net.TCPConn, which cannot be counted
	mu     sync.Mutex
	dialed []string
	spies  []*testkit.SpyConn
}

func (n *fwdNet) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, ok := n.hosts[address]
	if !ok {
		to = address
	}
	c, err := new(net.Dialer).DialContext(ctx, network, to)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dialed = append(n.dialed, network+" "+address)
	if err != nil || n.bare {
		return c, err
	}
	spy := &testkit.SpyConn{Conn: c}
	n.spies = append(n.spies, spy)
	return fwdSpy{spy}, nil
}

// closed requires that there were this many connections and that each has been
// closed.
func (n *fwdNet) closed(t testing.TB, connections int) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	require.Len(t, n.dialed, connections)
	require.Len(t, n.spies, connections)
	for _, spy := range n.spies {
		require.NotZero(t, spy.Closes.Load(), "a connection was left open")
	}
}

// fwdBy always chooses the proxy of rawURL.
func fwdBy(t testing.TB, rawURL string) func(*http.Request) (*url.URL, error) {
	t.Helper()
	u, err := url.Parse(rawURL)
	require.NoError(t, err)
	return http.ProxyURL(u)
}

// fwdEnds sends some bytes, half-closes, and requires that the bytes and the
// end come back. Then it closes.
func fwdEnds(t testing.TB, c net.Conn) {
	t.Helper()
	defer c.Close()
	c.SetDeadline(time.Now().Add(testkit.Patience))
	_, err := io.WriteString(c, "ping")
	require.NoError(t, err)
	require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "ping", string(got))
	require.NoError(t, c.Close())
}

// fwdSpy is a SpyConn over TCP, which can be half-closed.
type fwdSpy struct{ *testkit.SpyConn }

func (s fwdSpy) CloseWrite() error { return s.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// fwdNext returns the next value of the channel.
func fwdNext[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(testkit.Patience):
		require.FailNow(t, "nothing arrived")
		panic("unreachable")
	}
}
