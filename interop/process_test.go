package interop

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"
)

// deployed is a file of deploy/, the one that a user copies, with the strings
// that a test must have otherwise: old ones, each followed by its new one. That
// each occurs keeps the file and the test together.
func deployed(t *testing.T, file string, edits ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "deploy", file))
	require.NoError(t, err)
	for i := 0; i < len(edits); i += 2 {
		require.Contains(t, string(text), edits[i], file)
	}
	return strings.NewReplacer(edits...).Replace(string(text))
}

// write makes a file of a test's folder.
func write(t *testing.T, dir, file, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
}

// findBinary finds a program: that of test.sh's own before any that is installed,
// for its version. That it is missing must not pass for a success.
func findBinary(t *testing.T, name string) string {
	t.Helper()
	// Debian keeps servers out of the PATH of users, and those of PostgreSQL
	// out of everybody's.
	postgres, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	var path string
	err := exec.ErrNotFound
	for _, in := range append([]string{"../.build/venv/bin", "", "/usr/sbin"}, postgres...) {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(in, name))
		}
	}
	if err != nil {
		t.Fatalf("%v: ./test.sh installs %s", err, name)
	}
	return path
}

// render executes a template of testdata into file.
func render(t *testing.T, name, file string, data any) {
	t.Helper()
	tmpl, err := template.New(name).Option("missingkey=error").ParseFiles(filepath.Join("testdata", name))
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, tmpl.Execute(&text, data))
	require.NoError(t, os.WriteFile(file, text.Bytes(), 0o600))
}

// A daemon is a process that serves its addresses.
type daemon struct {
	addresses []string
	process   *os.Process
	again     func() *os.Process // runs it once more, unless it ends at once
}

// restart ends the process, and runs it at the same addresses once they are free:
// an outgoing connection may have been given one of the ports meanwhile.
func (d *daemon) restart(t *testing.T) {
	t.Helper()
	require.NoError(t, d.process.Signal(syscall.SIGTERM))
	until(t, "the process ends", func() bool { return d.process.Signal(syscall.Signal(0)) == os.ErrProcessDone })
	until(t, "it runs again", func() bool {
		process := d.again()
		if process != nil {
			d.process = process
		}
		return process != nil
	})
}

// launch runs a proxy until the end of the test. configure prepares it for them and returns its arguments;
// ready reports that the addresses are its own. What it writes to stdout and
// stderr is shown if the test fails.
func launch(t *testing.T, dir string, ports int, binary string, configure func(addresses []string) (args []string), ready func() bool) daemon {
	t.Helper()
	const attempts = 5
	for range attempts {
		addresses := freeAddresses(t, ports)
		args := configure(addresses)
		process, log := run(t, dir, binary, args, ready)
		if process != nil {
			return daemon{addresses, process, func() *os.Process {
				process, _ := run(t, dir, binary, args, func() bool {
					return !slices.ContainsFunc(addresses, func(address string) bool { return !accepts("tcp", address) })
				})
				return process
			}}
		}
		// Between our look and its start a port can be lost to another process.
		log = strings.ToLower(log)
		if !strings.Contains(log, "address already in use") && !strings.Contains(log, "could not create listening sockets") {
			t.Fatalf("%s did not start", binary)
		}
	}
	t.Fatalf("%s found its ports taken %d times", binary, attempts)
	return daemon{}
}

// run starts a process in the foreground and waits until it is ready. If it
// ends before, there is none, and the log says why.
func run(t *testing.T, dir, binary string, args []string, ready func() bool) (process *os.Process, log string) {
	t.Helper()
	output, err := os.CreateTemp(dir, "output-*.log")
	require.NoError(t, err)
	defer output.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr = output, output
	// A kill would leave the workers of a master process behind.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // the log says more than its status
	}()
	readLog := func() string {
		text, _ := os.ReadFile(output.Name())
		return fmt.Sprintf("%s %s:\n%s", binary, strings.Join(args, " "), text)
	}
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Log(readLog())
		}
	})
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	timeout := time.After(patience)
	for !ready() {
		select {
		case <-poll.C:
		case <-ended:
			return nil, readLog()
		case <-timeout:
			t.Fatalf("%s is not ready", binary)
		}
	}
	return cmd.Process, ""
}

// accepts reports that somebody listens at address.
func accepts(network, address string) bool {
	c, err := net.Dial(network, address)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// logged reports that a process which runs in dir has written text.
func logged(t *testing.T, dir, text string) bool {
	t.Helper()
	outputs, err := filepath.Glob(filepath.Join(dir, "output-*.log"))
	require.NoError(t, err)
	return slices.ContainsFunc(outputs, func(file string) bool {
		output, err := os.ReadFile(file)
		require.NoError(t, err)
		return strings.Contains(string(output), text)
	})
}

// freeAddresses finds ports that are free at the moment.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	addresses := make([]string, n)
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close() // all of them together, so that they differ
		addresses[i] = l.Addr().String()
	}
	return addresses
}

// writeCertificate writes cert.pem and key.pem for the loopback interface, and
// returns the roots by which they can be verified.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "preflight interop"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:     []string{"localhost"},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
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
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return roots
}
