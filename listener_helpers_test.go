package preflight_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// lisNet is a listener in memory, for time that is virtual. Accept returns what
// the test has put into its backlog: connections and errors.
type lisNet struct {
	backlog chan any
	calls   atomic.Int64 // of Accept
	closed  chan struct{}
	once    sync.Once
}

func lisNewNet() *lisNet {
	return &lisNet{backlog: make(chan any, 2048), closed: make(chan struct{})}
}

func (n *lisNet) Accept() (net.Conn, error) {
	n.calls.Add(1)
	select {
	case r := <-n.backlog:
		if err, ok := r.(error); ok {
			return nil, err
		}
		return r.(net.Conn), nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *lisNet) Addr() net.Addr { return lisAddr }

func (n *lisNet) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

// dial puts a connection into the backlog and returns the client's end. It has
// no buffer: a write returns when all of it has been read.
func (n *lisNet) dial(t testing.TB) *lisClient {
	t.Helper()
	ours, theirs := net.Pipe()
	c := &lisClient{Conn: ours, r: bufio.NewReader(ours), server: &lisConn{Conn: theirs}}
	n.backlog <- c.server
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return c
}

// lisAddr is the address of every end in memory.
var lisAddr net.Addr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4321}

// lisConn is the server's end of a connection in memory. It knows whether it
// was closed.
type lisConn struct {
	net.Conn
	closed atomic.Bool
}

func (c *lisConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

func (c *lisConn) RemoteAddr() net.Addr { return lisAddr }

// lisClient is a client that writes HTTP by hand.
type lisClient struct {
	net.Conn
	r      *bufio.Reader
	server *lisConn // nil over TCP
}

// lisDial connects over TCP.
func lisDial(t testing.TB, l net.Listener) *lisClient {
	t.Helper()
	c := dialTCP(t, l.Addr())
	return &lisClient{Conn: c, r: bufio.NewReader(c)}
}

// send writes s, and waits until it is sent.
func (c *lisClient) send(t testing.TB, s string) {
	t.Helper()
	_, err := io.WriteString(c, s)
	require.NoError(t, err)
}

// ended requires that the server closes the connection without another byte.
func (c *lisClient) ended(t testing.TB) {
	t.Helper()
	rest, err := io.ReadAll(c.r)
	require.NoError(t, err, "the connection must end in order")
	require.Empty(t, string(rest))
}

// A lisAnswer is an HTTP answer with its body.
type lisAnswer struct {
	*http.Response
	body string
	raw  string // of a refusal: all of it, because net/http hides Connection
	err  error
}

// answer reads one answer; method is that of the request.
func (c *lisClient) answer(method string) (a lisAnswer) {
	a.Response, a.err = http.ReadResponse(c.r, &http.Request{Method: method})
	if a.err != nil {
		a.Response = &http.Response{} // whose status is none
	} else if a.StatusCode != http.StatusSwitchingProtocols {
		var body []byte
		body, a.err = io.ReadAll(a.Body)
		a.body = string(body)
	}
	return a
}

// ask sends a request and reads the answer in the background: over a
// connection without a buffer, neither returns before the server is ready.
func (c *lisClient) ask(request string) <-chan lisAnswer {
	answer := make(chan lisAnswer, 1)
	go func() {
		if _, err := io.WriteString(c, request); err != nil {
			answer <- lisAnswer{Response: &http.Response{}, err: err}
			return
		}
		method, _, _ := strings.Cut(request, " ")
		answer <- c.answer(method)
	}()
	return answer
}

// lisRefused sends a request over TCP to l, and requires one answer with
// which the connection ends.
func lisRefused(t testing.TB, l net.Listener, request string) lisAnswer {
	t.Helper()
	c := lisDial(t, l)
	c.send(t, request)
	return c.refused(t, request)
}

// refused requires that one answer to request, and not a byte more, comes
// before the connection ends.
func (c *lisClient) refused(t testing.TB, request string) lisAnswer {
	t.Helper()
	var raw bytes.Buffer
	seen := &lisClient{r: bufio.NewReader(io.TeeReader(c.r, &raw))}
	method, _, _ := strings.Cut(request, " ")
	a := seen.answer(method)
	require.NoError(t, a.err, "%q", raw.String())
	require.NotEqual(t, http.StatusSwitchingProtocols, a.StatusCode)
	require.True(t, a.Close, "a refusal says that the connection ends")
	seen.ended(t)
	a.raw = raw.String()
	return a
}

// lisUpgraded is a client of l over TCP that has been answered 101.
func lisUpgraded(t testing.TB, l net.Listener, request string) (*lisClient, lisAnswer) {
	t.Helper()
	c := lisDial(t, l)
	c.send(t, request)
	a := c.answer("GET")
	require.NoError(t, a.err)
	require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
	return c, a
}

// lisRequest is an upgrade request with further field lines.
func lisRequest(fields ...string) string {
	head := "GET /t HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
	for _, f := range fields {
		head += f + "\r\n"
	}
	return head + "\r\n"
}

// lisServe accepts from l until it is closed. What it has accepted comes out
// of the channel.
func lisServe(t testing.TB, l net.Listener) <-chan *preflight.Conn {
	t.Helper()
	accepted, done := make(chan *preflight.Conn, 8192), make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c.(*preflight.Conn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for len(accepted) > 0 {
			(<-accepted).Close()
		}
	})
	return accepted
}

// lisNext is the next accepted connection.
func lisNext(t testing.TB, accepted <-chan *preflight.Conn) *preflight.Conn {
	t.Helper()
	select {
	case c := <-accepted:
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(patience):
		require.FailNow(t, "nothing was accepted")
		return nil
	}
}

// lisTalk requires that bytes go through in both directions.
func lisTalk(t testing.TB, client *lisClient, conn net.Conn) {
	t.Helper()
	lisCarry(t, "a question", client, conn)
	lisCarry(t, "an answer", conn, client.r)
}

// lisCarry requires that what is written to w comes out of r.
func lisCarry(t testing.TB, text string, w io.Writer, r io.Reader) {
	t.Helper()
	wrote := make(chan error, 1)
	go func() {
		_, err := io.WriteString(w, text)
		wrote <- err
	}()
	got := make([]byte, len(text))
	_, err := io.ReadFull(r, got)
	require.NoError(t, err)
	require.Equal(t, text, string(got))
	require.NoError(t, <-wrote)
}

// lisTLS is the configuration of a TLS server, and of a client that trusts it.
func lisTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots, ServerName: "example.com"}
}

// lisLog catches what the standard logger prints.
func lisLog(t testing.TB) *lisBuffer {
	t.Helper()
	b, before := new(lisBuffer), log.Writer()
	log.SetOutput(b)
	t.Cleanup(func() { log.SetOutput(before) })
	return b
}

type lisBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lisBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lisBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// lisTemporary is an error that net/http takes for a passing one.
type lisTemporary struct{ error }

func (lisTemporary) Timeout() bool   { return true }
func (lisTemporary) Temporary() bool { return true }

var errLisOther = errors.New("something else")
