package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain fails if a goroutine outlives the tests.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	retry := time.NewTicker(20 * time.Millisecond)
	for range 250 {
		if runtime.NumGoroutine() <= before {
			break
		}
		<-retry.C // goroutines that are about to end have some time
	}
	if left := runtime.NumGoroutine(); code == 0 && left > before {
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%d goroutines before the tests, %d after:\n%s\n", before, left, stacks[:runtime.Stack(stacks, true)])
		code = 1
	}
	os.Exit(code)
}

// limit fails a test that would otherwise hang. No test expects it to pass.
const limit = 2 * time.Minute

// A program is the program while it runs.
type program struct {
	address string
	log     *logged
	roots   *x509.CertPool
	cert    string // files
	key     string
	ctrlC   context.CancelFunc
	ended   chan error // receives the result of run
}

// start runs the program with the default settings, which change may change.
func start(t *testing.T, change func(*config)) *program {
	t.Helper()
	cfg := defaults()
	cfg.listen, cfg.path = "127.0.0.1:0", "/amps/json"
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{ctrlC: cancel, ended: make(chan error, 1), log: &logged{}}
	p.roots, p.cert, p.key = selfSigned(t)
	cfg.cert, cfg.key = p.cert, p.key
	out, in := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.ended <- run(ctx, cfg, in, p.log)
		in.Close()
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	printed, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	_, err = fmt.Sscanf(printed, "listening on %s\n", &p.address)
	require.NoError(t, err)
	return p
}

// end waits for the result of run.
func (p *program) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(limit):
		require.FailNow(t, "the program does not end")
		return nil
	}
}

// logged returns what the program has logged.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// selfSigned writes a certificate for 127.0.0.1.
func selfSigned(t *testing.T) (roots *x509.CertPool, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	write := func(name, kind string, bytes []byte) string {
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600))
		return file
	}
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots = x509.NewCertPool()
	roots.AddCert(certificate)
	return roots, write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", private)
}
