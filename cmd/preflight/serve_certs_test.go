package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/preflight-go/preflight/cmd/preflight/internal/address"
	"github.com/stretchr/testify/require"
)

// TestRemovedAuthority removes the authority of a client's certificate while the connection of the
// client is open. The client must not open a tunnel on it afterwards.
func TestRemovedAuthority(t *testing.T) {
	dir := t.TempDir()
	ca, caKey := loadCA(dir)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	writeCert(dir, "both", &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "both"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca, key, caKey)
	cert, certKey, authorities := filepath.Join(dir, "both.pem"), filepath.Join(dir, "both.key"), filepath.Join(dir, "ca.pem")

	target, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer target.Close()
	to, err := address.Parse(target.Addr().String())
	require.NoError(t, err)
	set, err := newSettings(&serveCommand{
		To: &to, TLSCert: cert, TLSKey: certKey, ClientCA: authorities, AllowCN: []string{"both"}, HandshakeBurst: 1,
	})
	require.NoError(t, err)
	s := &server{log: slog.New(slog.DiscardHandler)}
	s.current.Store(set)
	l, err := s.newListener(set)
	require.NoError(t, err)
	l.Listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go l.Accept()

	pair, err := tls.LoadX509KeyPair(cert, certKey)
	require.NoError(t, err)
	c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true})
	require.NoError(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	answers := bufio.NewReader(c)
	ask := func(request string) (status int) {
		_, err := io.WriteString(c, request)
		require.NoError(t, err)
		answer, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, answer.Body)
		require.NoError(t, err)
		return answer.StatusCode
	}
	require.Equal(t, http.StatusOK, ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))
	require.Equal(t, http.StatusOK, ask("GET /status HTTP/1.1\r\nHost: x\r\n\r\n"))

	other := t.TempDir()
	loadCA(other)
	text, err := os.ReadFile(filepath.Join(other, "ca.pem"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(authorities, text, 0o600))
	require.NoError(t, set.roots.Reload())
	require.Equal(t, http.StatusForbidden, ask("GET /status HTTP/1.1\r\nHost: x\r\n\r\n"))
	require.Equal(t, http.StatusForbidden, ask("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"))
}
