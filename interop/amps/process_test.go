package amps

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// buildServer builds examples/amps with the race detector, whatever this test is
// built with.
func buildServer(t *testing.T) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "amps")
	cmd := exec.Command("go", "build", "-race", "-o", binary, "./amps")
	cmd.Dir = filepath.Join("..", "..", "examples") // a module of its own
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
	return binary
}

// startServer runs the server until the end of the test, and returns its address.
// It must then end in peace: a data race would be its exit status.
func startServer(t *testing.T, binary string, args ...string) (address string) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"-listen", "127.0.0.1:0"}, args...)...)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(out)
	first, err := lines.ReadString('\n')
	ended := make(chan error, 1)
	go func() {
		io.Copy(io.Discard, lines) // before Wait, which closes the pipe
		ended <- cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			require.NoError(t, err, "the server's end")
		case <-time.After(patience):
			cmd.Process.Kill()
			t.Errorf("the server did not end: %v", <-ended)
		}
	})
	require.NoError(t, err, "the server's first line")
	address, ok := strings.CutPrefix(strings.TrimSpace(first), "listening on ")
	require.True(t, ok, first)
	return address
}

// An edge is nginx in front of the server: its address without and with TLS.
type edge struct{ plain, tls string }

// startNginx runs nginx with the configuration of the example until the end of the
// test, on sockets that are bound for it: no one else can take the ports, and who
// connects is accepted once it is ready. Edits are strings of the configuration,
// each followed by its replacement.
func startNginx(t *testing.T, certificates, backend string, edits ...string) edge {
	t.Helper()
	binary := find(t, "nginx", "nginx", "/usr/sbin/nginx")
	var sockets []*os.File
	var addresses []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		socket, err := l.(*net.TCPListener).File()
		require.NoError(t, err)
		defer socket.Close()
		sockets, addresses = append(sockets, socket), append(addresses, l.Addr().String())
	}
	edits = append(edits,
		"127.0.0.1:8080;", addresses[0]+";",
		"127.0.0.1:8443 ssl;", addresses[1]+" ssl;",
		"127.0.0.1:9007;", backend+";",
		" cert.pem;", " "+certificates+"/cert.pem;",
		" key.pem;", " "+certificates+"/key.pem;",
	)
	if os.Geteuid() == 0 { // else the worker would be nobody, who may not enter the folder
		edits = append(edits, "daemon off;", "daemon off; user root;")
	}
	text, err := os.ReadFile("../../examples/amps/nginx.conf")
	require.NoError(t, err)
	for i := 0; i < len(edits); i += 2 {
		require.Contains(t, string(text), edits[i])
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(config, []byte(strings.NewReplacer(edits...).Replace(string(text))), 0o600))

	cmd := exec.Command(binary, "-p", dir, "-c", config, "-e", "stderr")
	cmd.Env = []string{"NGINX=3;4;"} // as it hands its sockets to its successor
	cmd.ExtraFiles = sockets
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	return edge{addresses[0], addresses[1]}
}

// find returns the first of the places where a program, or a file, is. That it is
// missing must not pass for a success.
func find(t *testing.T, what string, places ...string) string {
	t.Helper()
	for _, place := range places {
		if path, err := exec.LookPath(place); err == nil {
			return path
		}
		if matches, _ := filepath.Glob(place); len(matches) > 0 {
			return matches[0]
		}
	}
	t.Fatalf("%s is missing (looked for %s): ./test.sh installs it", what, strings.Join(places, ", "))
	return ""
}

// writeCertificate writes cert.pem and key.pem for the loopback interface.
func writeCertificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	leaf := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "preflight interop"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true, // Node wants its extra roots to be authorities
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for file, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: secret},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600))
	}
}
