package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// ask ADDRESS TEXT sends TEXT, ends its direction, and prints what comes until the end. With
// "-" for TEXT it sends nothing and does not end its direction.
func ask() {
	c := dial(os.Args[1])
	var err error
	if text := os.Args[2]; text != "-" {
		_, err = io.WriteString(c, text)
		fail(err)
		fail(c.(interface{ CloseWrite() error }).CloseWrite())
	}
	_, err = io.Copy(os.Stdout, c)
	fail(err)
}

func dial(address string) net.Conn {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	c, err := net.Dial(network, address)
	fail(err)
	c.SetDeadline(time.Now().Add(timeout))
	return c
}

// relayed ADDRESS GATE connects, and sends when the gate is open: "late", and its end.
func relayed() {
	c := dial(os.Args[1])
	if gate, err := net.Dial("tcp", os.Args[2]); err == nil {
		gate.SetDeadline(time.Now().Add(timeout))
		io.Copy(io.Discard, gate) // until the gate ends the connection
	}
	_, err := io.WriteString(c, "late")
	fail(err)
	fail(c.(interface{ CloseWrite() error }).CloseWrite())
	_, err = io.Copy(os.Stdout, c)
	fail(err)
}

// exitcode CODE PROGRAM ARGS... requires that the program ends with this exit code.
func exitcode() {
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Run()
	if code := fmt.Sprint(cmd.ProcessState.ExitCode()); code != os.Args[1] {
		fail(fmt.Errorf("the exit code is %s", code))
	}
}

// unread ARGS... SIGNAL... runs preflight with ARGS, and does not read its standard output. When
// the pipe is full it sends the signals, and prints the exit code.
func unread() {
	args, signals := os.Args[1:], []os.Signal(nil)
	for names := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": os.Interrupt}; names[args[len(args)-1]] != nil; args = args[:len(args)-1] {
		signals = append(signals, names[args[len(args)-1]])
	}
	r, w, err := os.Pipe()
	fail(err)
	cmd := exec.Command("preflight", args...)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	_, err = cmd.StdinPipe() // stays open
	fail(err)
	fail(cmd.Start())
	kill := time.AfterFunc(timeout, func() { cmd.Process.Kill() })
	defer kill.Stop()
	// From here on nobody reads, and the server goes on sending.
	_, err = io.CopyN(io.Discard, r, 1<<20)
	fail(err)
	for _, s := range signals {
		fail(cmd.Process.Signal(s))
	}
	cmd.Wait()
	fmt.Println(cmd.ProcessState.ExitCode())
}

// unlogged ARGS... runs preflight with ARGS until it listens, and reads none of its records from
// then on. It sends SIGTERM, and prints the exit code.
func unlogged() {
	r, w, err := os.Pipe()
	fail(err)
	cmd := exec.Command("preflight", os.Args[1:]...)
	cmd.Stderr = w
	fail(cmd.Start())
	fail(w.Close())
	kill := time.AfterFunc(timeout, func() { cmd.Process.Kill() })
	defer kill.Stop()
	records := bufio.NewScanner(r)
	for records.Scan() && !strings.Contains(records.Text(), "msg=listening") {
	}
	fail(records.Err())
	fail(r.Close())
	fail(cmd.Process.Signal(syscall.SIGTERM))
	cmd.Wait()
	fmt.Println(cmd.ProcessState.ExitCode())
}

// get URL [FIELD...] sends a GET, and prints the status, some fields and the body. The
// certificate is not verified.
func get() {
	r, err := http.NewRequest("GET", os.Args[1], nil)
	fail(err)
	for _, field := range os.Args[2:] {
		name, value, _ := strings.Cut(field, ": ")
		r.Header.Add(name, value)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	answer, err := (&http.Client{Transport: transport, Timeout: timeout}).Do(r)
	fail(err)
	fmt.Println(answer.StatusCode)
	for _, name := range []string{"Www-Authenticate", "Preflight-Refusal", "Upgrade", "Retry-After"} {
		for _, value := range answer.Header[name] {
			fmt.Printf("%s: %s\n", name, value)
		}
	}
	io.Copy(os.Stdout, answer.Body)
}

// certs DIR NAME [CN [URI]] writes NAME.pem and NAME.key to DIR, signed by ca.pem there, which
// it makes if it is missing.
func certs() {
	dir, name := os.Args[1], os.Args[2]
	fail(os.MkdirAll(dir, 0o700))
	ca, caKey := loadCA(dir)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"edge.test"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if len(os.Args) > 3 {
		template.Subject.CommonName = os.Args[3]
	}
	if len(os.Args) > 4 {
		u, err := url.Parse(os.Args[4])
		fail(err)
		template.URIs, template.DNSNames = []*url.URL{u}, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fail(err)
	writeCert(dir, name, template, ca, key, caKey)
}

func loadCA(dir string) (*x509.Certificate, *ecdsa.PrivateKey) {
	pair, err := tls.LoadX509KeyPair(dir+"/ca.pem", dir+"/ca.key")
	if err == nil {
		return pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fail(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	writeCert(dir, "ca", template, template, key, key)
	return loadCA(dir)
}

func writeCert(dir, name string, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	fail(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	fail(err)
	for file, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		var b bytes.Buffer
		fail(pem.Encode(&b, block))
		fail(os.WriteFile(dir+"/"+name+file, b.Bytes(), 0o600))
	}
}

// hash NAME PASSWORD prints a line of an htpasswd file.
func hash() {
	h, err := bcrypt.GenerateFromPassword([]byte(os.Args[2]), bcrypt.MinCost)
	fail(err)
	fmt.Printf("%s:%s\n", os.Args[1], h)
}
