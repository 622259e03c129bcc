package interop

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

func testEcho(t *testing.T, w way) {
	c := w.to(t, serveEcho(t)).dial(t)
	require.NoError(t, echo(c, []byte("hello")))
	require.NoError(t, echo(c, []byte("hello again")))
	require.Equal(t, http.StatusSwitchingProtocols, c.Response().StatusCode)
	require.Equal(t, "tcp", c.Response().Header.Get("Upgrade"))
}

// testTransfer moves 64 MiB in both directions at once.
func testTransfer(t *testing.T, w way) {
	var atServer transfer
	done := make(chan error, 1)
	f := w.to(t, serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) {
		err := atServer.run(c, "server")
		if n, end := io.Copy(io.Discard, c); n > 0 || end != nil {
			err = errors.Join(err, fmt.Errorf("%d bytes too many, then %v", n, end))
		}
		done <- err
	}))
	c := f.dial(t)
	var atClient transfer
	require.NoError(t, atClient.run(c, "client"))
	require.NoError(t, c.Close())
	require.NoError(t, <-done)
	require.Equal(t, atClient.sent, atServer.received, "client to server")
	require.Equal(t, atServer.sent, atClient.received, "server to client")
	require.NotEqual(t, atClient.sent, atServer.sent)
}

// A transfer holds the checksums of what went each way.
type transfer struct {
	sent, received [sha256.Size]byte
}

// run sends 64 MiB that depend on seed while it receives as many.
func (x *transfer) run(c net.Conn, seed string) error {
	const size = 64 << 20
	sent := make(chan error, 1)
	go func() {
		sum := sha256.New()
		data := io.LimitReader(rand.NewChaCha8(sha256.Sum256([]byte(seed))), size)
		_, err := io.Copy(c, io.TeeReader(data, sum))
		sum.Sum(x.sent[:0])
		sent <- err
	}()
	sum := sha256.New()
	_, err := io.CopyN(sum, c, size)
	sum.Sum(x.received[:0])
	return errors.Join(err, <-sent)
}

// testTunnels opens 200 tunnels at once, and uses them when all are open.
func testTunnels(t *testing.T, w way) {
	f := w.to(t, serveEcho(t))
	const n = 200
	conns, errs := make([]net.Conn, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { conns[i], errs[i] = f.dialer().DialContext(t.Context(), "tcp", f.address) })
	}
	all.Wait()
	for _, c := range conns {
		if c != nil {
			bounded(t, c)
		}
	}
	require.NoError(t, errors.Join(errs...))
	for i, c := range conns {
		all.Go(func() {
			data := make([]byte, 64<<10)
			rand.NewChaCha8([32]byte{byte(i)}).Read(data)
			errs[i] = echo(c, data)
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
}

// testServerFirst has the server speak first: right behind the 101, and in one
// write with it.
func testServerFirst(t *testing.T, w way) {
	for _, size := range []int{17, 100 << 10} {
		greeting := make([]byte, size)
		rand.NewChaCha8([32]byte{}).Read(greeting)
		for name, l := range map[string]net.Listener{
			"behind": listenTCP(t),
			"glued":  gluingListener{listenTCP(t)},
		} {
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				c := w.to(t, serve(t, &preflight.PreflightListener{Listener: l}, func(c *preflight.Conn) {
					c.Write(greeting)
					io.Copy(c, c)
				})).dial(t)
				got := make([]byte, size)
				_, err := io.ReadFull(c, got)
				require.NoError(t, err)
				require.True(t, bytes.Equal(greeting, got))
				require.NoError(t, echo(c, []byte("hello")))
			})
		}
	}
}

// A gluingListener makes one write of the first two of each connection: of the
// 101 and of the first bytes of the application.
type gluingListener struct{ net.Listener }

func (l gluingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &gluingConn{Conn: c}, nil
}

type gluingConn struct {
	net.Conn
	first []byte
	glued bool
}

func (c *gluingConn) Write(b []byte) (int, error) {
	if c.glued {
		return c.Conn.Write(b)
	}
	if c.first == nil {
		c.first = bytes.Clone(b)
		return len(b), nil
	}
	c.glued = true
	n, err := c.Conn.Write(append(c.first, b...))
	return max(n-len(c.first), 0), err
}

// testClientFirst has the client write right behind the 101, when the server's
// application has not even accepted the tunnel.
func testClientFirst(t *testing.T, w way) {
	l := &preflight.PreflightListener{Listener: listenTCP(t)}
	t.Cleanup(func() { l.Close() })
	f := w.to(t, l.Addr().String())
	accepted := make(chan net.Conn, 1)
	go func() { accepted <- accept(t, l) }()
	f.dial(t)
	require.NotNil(t, <-accepted)

	// The listener goes on with the handshakes. It fits into the buffers of
	// the sockets on the way.
	c := f.dial(t)
	data := make([]byte, 16<<10)
	rand.NewChaCha8([32]byte{}).Read(data)
	_, err := c.Write(data)
	require.NoError(t, err)
	server := accept(t, l)
	require.NotNil(t, server)
	got := make([]byte, len(data))
	_, err = io.ReadFull(server, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
}

// accept returns the next connection, or nil.
func accept(t *testing.T, l *preflight.PreflightListener) net.Conn {
	timeout := time.AfterFunc(patience, func() { l.Close() })
	defer timeout.Stop()
	c, err := l.Accept()
	if err != nil {
		return nil
	}
	return bounded(t, c)
}

func testDialURL(t *testing.T, w way) {
	requests := make(chan *http.Request, 1)
	f := w.to(t, serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) {
		requests <- c.Request()
		io.Copy(c, c)
	}))
	u := url.URL{Scheme: "tcp", User: url.UserPassword("jane", "secret"), Host: f.address, Path: "/tunnel/amps/json", RawQuery: "http_preflight=true"}
	if w.tls {
		u.Scheme = "tcps"
	}
	d := &preflight.PreflightDialer{TLSConfig: f.tlsConfig()}
	c, err := d.DialURL(t.Context(), u.String())
	require.NoError(t, err)
	require.NoError(t, echo(bounded(t, c), []byte("hello")))

	r := <-requests
	require.Equal(t, "/amps/json", r.RequestURI)
	user, password, _ := r.BasicAuth()
	require.Equal(t, []string{"jane", "secret"}, []string{user, password})
}

// testPlainBeside has clients that know no preflight use the listener's own
// port while tunnels run.
func testPlainBeside(t *testing.T, w way) {
	var tunnels, plain atomic.Int32
	address := serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) {
		if c.Request() != nil {
			tunnels.Add(1)
		} else {
			plain.Add(1)
		}
		io.Copy(c, c)
	})
	f := w.to(t, address)

	const each, rounds = 10, 20
	var conns []net.Conn
	for range each {
		conns = append(conns, f.dial(t), dialPlain(t, address))
	}
	errs := make([]error, len(conns))
	var all sync.WaitGroup
	for i, c := range conns {
		all.Go(func() {
			for round := range rounds {
				errs[i] = errors.Join(errs[i], echo(c, fmt.Appendf(nil, "PUB topic.%d {\"n\": %d}\r\n", i, round)))
			}
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	require.EqualValues(t, each, tunnels.Load())
	require.EqualValues(t, each, plain.Load())
}
