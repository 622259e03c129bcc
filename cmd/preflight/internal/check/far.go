package check

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight"
)

// A FarEnd stands in place of a server. It accepts whatever a proxy may send, says what
// arrived, and sends the bytes of tunnels back.
type FarEnd struct {
	Arrivals

	certificate tls.Certificate
}

const (
	maxFarConns = 256
	headTimeout = 10 * time.Second
	maxHead     = 128 << 10
)

// Serve accepts connections until ctx ends.
func (f *FarEnd) Serve(ctx context.Context, l net.Listener) (err error) {
	if f.certificate, err = selfSigned(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	places := make(chan struct{}, maxFarConns)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case err != nil && !isTemporary(err):
			return err
		case err != nil:
			time.Sleep(50 * time.Millisecond) // there are no descriptors left
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		running.Go(func() {
			defer func() { <-places }()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			if tunnel := f.handle(ctx, conn); tunnel != nil {
				echo(tunnel)
				return
			}
			conn.Close()
		})
	}
}

func isTemporary(err error) bool {
	var e interface{ Temporary() bool }
	return errors.As(err, &e) && e.Temporary()
}

// echo sends everything back, and then the end. Close leaves the end of a framed tunnel to the
// library, which needs the connection for it.
func echo(tunnel *preflight.Conn) {
	io.Copy(tunnel, tunnel)
	if tunnel.CloseWrite() == nil {
		io.Copy(io.Discard, tunnel)
	}
	tunnel.Close()
}

// handle looks at what comes, layer by layer: a PROXY header, TLS, a request. It returns the
// tunnel that the request opens, or nil.
func (f *FarEnd) handle(ctx context.Context, conn net.Conn) *preflight.Conn {
	a := Arrival{Peer: conn.RemoteAddr().String()}
	conn.SetDeadline(time.Now().Add(headTimeout))
	reader := bufio.NewReaderSize(conn, maxHead)
	if h, err := proxyproto.Read(reader); err == nil {
		a.ProxyHeader = fmt.Sprintf("version %d", h.Version)
		if h.SourceAddr != nil {
			a.Client = h.SourceAddr.String()
		}
	}
	if first, _ := reader.Peek(1); len(first) == 1 && first[0] == 0x16 {
		t := tls.Server(&readAhead{conn, reader}, &tls.Config{Certificates: []tls.Certificate{f.certificate}, NextProtos: []string{"http/1.1"}})
		a.TLS = true
		if err := t.HandshakeContext(ctx); err != nil {
			a.Protocol = "TLS whose handshake failed"
			f.add(a)
			return nil
		}
		conn, reader = t, bufio.NewReaderSize(t, maxHead)
	}
	head, ok := peekHead(reader)
	if !ok {
		a.Protocol = "nothing"
		if len(head) > 0 {
			a.Protocol = "no HTTP"
		}
		if bytes.HasPrefix(head, []byte("PRI * HTTP/2.0")) {
			a.Protocol = "HTTP/2"
		}
		if len(head) > 0 || a.ProxyHeader != "" || a.TLS {
			f.add(a)
		}
		return nil
	}
	a.read(head)
	switch a.wants {
	case wantsReport:
		body := f.report(a.id, false)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		return nil
	case wantsNoWord:
		f.add(a)
		return nil
	}
	f.add(a)
	// Server is as strict as every listener, and refuses as it does.
	tunnel, err := preflight.Server(ctx, &readAhead{conn, reader})
	if err != nil {
		return nil
	}
	conn.SetDeadline(time.Time{})
	return tunnel
}

// peekHead returns the head of a request, or what else comes.
func peekHead(reader *bufio.Reader) (head []byte, ok bool) {
	for n := 1; ; n = reader.Buffered() + 1 {
		_, err := reader.Peek(n) // fails if it is larger than the buffer of reader
		b, _ := reader.Peek(reader.Buffered())
		if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 && bytes.Contains(b[:i], []byte(" HTTP/")) && !bytes.HasPrefix(b, []byte("PRI ")) {
			return b[:i+4], true
		}
		if err != nil || !mayBeHTTP(b) {
			return b, false
		}
	}
}

// mayBeHTTP reports whether b may begin a request.
func mayBeHTTP(b []byte) bool {
	line, _, whole := bytes.Cut(b, []byte("\r\n"))
	if whole {
		return bytes.Contains(line, []byte(" HTTP/1."))
	}
	method, _, _ := bytes.Cut(line, []byte(" "))
	return len(bytes.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")) == 0
}

// selfSigned makes a certificate for proxies that speak TLS. Nobody is to trust it.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "preflight check"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
