package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
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
const limit = 30 * time.Second

// A program is the program while it runs.
type program struct {
	address string
	lines   chan string // the lines that it prints
	ctrlC   context.CancelFunc
	ended   chan error // receives the result of run
}

// start runs the program until ctrlC or the end of the test.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	cfg, err := parseFlags(append([]string{"-listen", "127.0.0.1:0"}, args...))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{lines: make(chan string, 10), ctrlC: cancel, ended: make(chan error, 1)}
	r, w := io.Pipe()
	var running sync.WaitGroup
	running.Go(func() {
		p.ended <- run(ctx, cfg, w)
		w.Close()
	})
	running.Go(func() {
		for in := bufio.NewScanner(r); in.Scan(); {
			p.lines <- in.Text()
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	_, err = fmt.Sscanf(receive(t, p.lines), "Listening on %s", &p.address)
	require.NoError(t, err)
	p.address = strings.TrimSuffix(p.address, ",")
	return p
}

// receive returns the next value from c.
func receive[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(limit):
		require.FailNow(t, "nothing came")
	}
	return v
}

// serve runs a server until the end of the test, with handle for each connection. It
// returns the address.
func serve(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(limit))
			serving.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

func echo(c *net.TCPConn) { io.Copy(c, c) }

// A way is a way to the server.
type way struct {
	name   string
	flags  []string
	dialer preflight.ContextDialer
}

// ways returns all ways that the relay offers.
func ways(t *testing.T) []way {
	t.Helper()
	// The certificate of a test server is valid for 127.0.0.1.
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, cert, "CERTIFICATE", server.Certificate().Raw)
	secret, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	require.NoError(t, err)
	writePEM(t, key, "PRIVATE KEY", secret)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())

	flags, config := []string{"-cert", cert, "-key", key}, &tls.Config{RootCAs: roots}
	return []way{
		{"Plain", nil, new(net.Dialer)},
		{"Preflight", nil, new(preflight.PreflightDialer)},
		{"TLS", flags, &tls.Dialer{Config: config}},
		{"PreflightInTLS", flags, &preflight.PreflightDialer{TLSConfig: config}},
		{"TLSInTunnel", flags, &preflight.PreflightDialer{TunnelTLSConfig: config}},
	}
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// A client is a connection that can close one direction.
type client interface {
	net.Conn
	CloseWrite() error
}

func (w way) dial(t *testing.T, p *program) client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c, err := w.dialer.DialContext(ctx, "tcp", p.address)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	return c.(client)
}

// hello sends data to an echo server and reads it back.
func hello(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := io.WriteString(c, "hello\n")
	require.NoError(t, err)
	got := make([]byte, len("hello\n"))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(got))
}

// reset resets the TCP connection under c.
func reset(t *testing.T, c net.Conn) {
	t.Helper()
	for {
		above, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = above.NetConn()
	}
	require.NoError(t, c.(*net.TCPConn).SetLinger(0))
	require.NoError(t, c.Close())
}

// refused returns when nothing listens at address any more.
func refused(t *testing.T, address string) {
	t.Helper()
	retry := time.NewTicker(time.Millisecond)
	defer retry.Stop()
	for timeout := time.After(limit); ; {
		c, err := net.Dial("tcp", address)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if err == nil {
			c.Close()
		}
		select {
		case <-retry.C:
		case <-timeout:
			require.FailNow(t, "the listener is still open")
		}
	}
}
