package testkit

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

// LisNet is a listener in memory, for time that is virtual. Accept returns what
// the test has put into its backlog: connections and errors.
type LisNet struct {
	Backlog chan any
	Calls   atomic.Int64 // of Accept
	Closed  chan struct{}
	once    sync.Once
}

func LisNewNet() *LisNet {
	return &LisNet{Backlog: make(chan any, 2048), Closed: make(chan struct{})}
}

func (n *LisNet) Accept() (net.Conn, error) {
	n.Calls.Add(1)
	select {
	case r := <-n.Backlog:
		if err, ok := r.(error); ok {
			return nil, err
		}
		return r.(net.Conn), nil
	case <-n.Closed:
		return nil, net.ErrClosed
	}
}

func (n *LisNet) Addr() net.Addr { return LisAddr }

func (n *LisNet) Close() error {
	n.once.Do(func() { close(n.Closed) })
	return nil
}

// Dial puts a connection into the backlog and returns the client's end. It has
// no buffer: a write returns when all of it has been read.
func (n *LisNet) Dial(t testing.TB) *LisClient {
	t.Helper()
	ours, theirs := net.Pipe()
	c := &LisClient{Conn: ours, R: bufio.NewReader(ours), Server: &LisConn{Conn: theirs}}
	n.Backlog <- c.Server
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return c
}

// LisAddr is the address of every end in memory.
var LisAddr net.Addr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4321}

// LisConn is the server's end of a connection in memory. It knows whether it
// was closed.
type LisConn struct {
	net.Conn
	Closed atomic.Bool
}

func (c *LisConn) Close() error {
	c.Closed.Store(true)
	return c.Conn.Close()
}

func (c *LisConn) RemoteAddr() net.Addr { return LisAddr }

// LisClient is a client that writes HTTP by hand.
type LisClient struct {
	net.Conn
	R      *bufio.Reader
	Server *LisConn // nil over TCP
}

// LisDial connects over TCP.
func LisDial(t testing.TB, l net.Listener) *LisClient {
	t.Helper()
	c := DialTCP(t, l.Addr())
	return &LisClient{Conn: c, R: bufio.NewReader(c)}
}

// Send writes s, and waits until it is sent.
func (c *LisClient) Send(t testing.TB, s string) {
	t.Helper()
	_, err := io.WriteString(c, s)
	require.NoError(t, err)
}

// Ended requires that the server closes the connection without another byte.
func (c *LisClient) Ended(t testing.TB) {
	t.Helper()
	rest, err := io.ReadAll(c.R)
	require.NoError(t, err, "the connection must end in order")
	require.Empty(t, string(rest))
}

// A LisAnswer is an HTTP answer with its body.
type LisAnswer struct {
	*http.Response
	Text string
	Raw  string // of a refusal: all of it, because net/http hides Connection
	Err  error
}

// Answer reads one answer; method is that of the request.
func (c *LisClient) Answer(method string) (a LisAnswer) {
	a.Response, a.Err = http.ReadResponse(c.R, &http.Request{Method: method})
	if a.Err != nil {
		a.Response = &http.Response{} // whose status is none
	} else if a.StatusCode != http.StatusSwitchingProtocols {
		var body []byte
		body, a.Err = io.ReadAll(a.Body)
		a.Text = string(body)
	}
	return a
}

// Ask sends a request and reads the answer in the background: over a
// connection without a buffer, neither returns before the server is ready.
func (c *LisClient) Ask(request string) <-chan LisAnswer {
	answer := make(chan LisAnswer, 1)
	go func() {
		if _, err := io.WriteString(c, request); err != nil {
			answer <- LisAnswer{Response: &http.Response{}, Err: err}
			return
		}
		method, _, _ := strings.Cut(request, " ")
		answer <- c.Answer(method)
	}()
	return answer
}

// LisRefused sends a request over TCP to l, and requires one answer with
// which the connection ends.
func LisRefused(t testing.TB, l net.Listener, request string) LisAnswer {
	t.Helper()
	c := LisDial(t, l)
	c.Send(t, request)
	return c.Refused(t, request)
}

// Refused requires that one answer to request, and not a byte more, comes
// before the connection ends.
func (c *LisClient) Refused(t testing.TB, request string) LisAnswer {
	t.Helper()
	var raw bytes.Buffer
	seen := &LisClient{R: bufio.NewReader(io.TeeReader(c.R, &raw))}
	method, _, _ := strings.Cut(request, " ")
	a := seen.Answer(method)
	require.NoError(t, a.Err, "%q", raw.String())
	require.NotEqual(t, http.StatusSwitchingProtocols, a.StatusCode)
	require.True(t, a.Close, "a refusal says that the connection ends")
	seen.Ended(t)
	a.Raw = raw.String()
	return a
}

// LisUpgraded is a client of l over TCP that has been answered 101.
func LisUpgraded(t testing.TB, l net.Listener, request string) (*LisClient, LisAnswer) {
	t.Helper()
	c := LisDial(t, l)
	c.Send(t, request)
	a := c.Answer("GET")
	require.NoError(t, a.Err)
	require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
	return c, a
}

// LisRequest is an upgrade request with further field lines.
func LisRequest(fields ...string) string {
	head := "GET /t HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
	for _, f := range fields {
		head += f + "\r\n"
	}
	return head + "\r\n"
}

// LisServe accepts from l until it is closed. What it has accepted comes out
// of the channel.
func LisServe(t testing.TB, l net.Listener) <-chan *preflight.Conn {
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

// LisNext is the next accepted connection.
func LisNext(t testing.TB, accepted <-chan *preflight.Conn) *preflight.Conn {
	t.Helper()
	select {
	case c := <-accepted:
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(Patience):
		require.FailNow(t, "nothing was accepted")
		return nil
	}
}

// LisTalk requires that bytes go through in both directions.
func LisTalk(t testing.TB, client *LisClient, conn net.Conn) {
	t.Helper()
	LisCarry(t, "a question", client, conn)
	LisCarry(t, "an answer", conn, client.R)
}

// LisCarry requires that what is written to w comes out of r.
func LisCarry(t testing.TB, text string, w io.Writer, r io.Reader) {
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

// LisTLS is the configuration of a TLS server, and of a client that trusts it.
func LisTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots, ServerName: "example.com"}
}

// LisLog catches what the standard logger prints.
func LisLog(t testing.TB) *lisBuffer {
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

// LisTemporary is an error that net/http takes for a passing one.
type LisTemporary struct{ Err error }

func (e LisTemporary) Error() string { return e.Err.Error() }
func (e LisTemporary) Unwrap() error { return e.Err }

func (LisTemporary) Timeout() bool { return true }

func (LisTemporary) Temporary() bool { return true }

var ErrLisOther = errors.New("something else")

func LisYes(*http.Request) (http.Header, error) { return nil, nil }
