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

// Network is a listener in memory, for tests with virtual time. Accept returns
// the connections and errors that the test has put into its backlog.
type Network struct {
	Backlog chan any
	Calls   atomic.Int64 // calls of Accept
	Closed  chan struct{}
	once    sync.Once
}

func NewNetwork() *Network {
	return &Network{Backlog: make(chan any, 2048), Closed: make(chan struct{})}
}

func (n *Network) Accept() (net.Conn, error) {
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

func (n *Network) Addr() net.Addr { return NetworkAddr }

func (n *Network) Close() error {
	n.once.Do(func() { close(n.Closed) })
	return nil
}

// Dial puts a connection into the backlog and returns the client's end. It has
// no buffer: a Write returns when all bytes have been read.
func (n *Network) Dial(t testing.TB) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	c := &Client{Conn: ours, R: bufio.NewReader(ours), Server: &NetworkConn{Conn: theirs}}
	n.Backlog <- c.Server
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return c
}

// NetworkAddr is the address of every in-memory connection.
var NetworkAddr net.Addr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4321}

// NetworkConn is the server's end of an in-memory connection. It records
// whether it was closed.
type NetworkConn struct {
	net.Conn
	Closed atomic.Bool
}

func (c *NetworkConn) Close() error {
	c.Closed.Store(true)
	return c.Conn.Close()
}

func (c *NetworkConn) RemoteAddr() net.Addr { return NetworkAddr }

// Client is a client that writes HTTP by hand.
type Client struct {
	net.Conn
	R      *bufio.Reader
	Server *NetworkConn // nil over TCP
}

// DialClient connects over TCP.
func DialClient(t testing.TB, l net.Listener) *Client {
	t.Helper()
	c := DialTCP(t, l.Addr())
	return &Client{Conn: c, R: bufio.NewReader(c)}
}

// Send writes s and waits until all of it is sent.
func (c *Client) Send(t testing.TB, s string) {
	t.Helper()
	_, err := io.WriteString(c, s)
	require.NoError(t, err)
}

// Ended requires that the server closes the connection without another byte.
func (c *Client) Ended(t testing.TB) {
	t.Helper()
	rest, err := io.ReadAll(c.R)
	require.NoError(t, err, "the connection must end without a reset")
	require.Empty(t, string(rest))
}

// An Answer is an HTTP answer with its body.
type Answer struct {
	*http.Response
	Text string
	Raw  string // of a refusal: all its bytes, because net/http hides a part of Connection
	Err  error
}

// Answer reads one answer; method is that of the request.
func (c *Client) Answer(method string) (a Answer) {
	a.Response, a.Err = http.ReadResponse(c.R, &http.Request{Method: method})
	if a.Err != nil {
		a.Response = &http.Response{} // without a status
	} else if a.StatusCode != http.StatusSwitchingProtocols {
		var body []byte
		body, a.Err = io.ReadAll(a.Body)
		a.Text = string(body)
	}
	return a
}

// Ask sends a request and reads the answer in the background. On a connection
// without a buffer, neither completes before the server is ready.
func (c *Client) Ask(request string) <-chan Answer {
	answer := make(chan Answer, 1)
	go func() {
		if _, err := io.WriteString(c, request); err != nil {
			answer <- Answer{Response: &http.Response{}, Err: err}
			return
		}
		method, _, _ := strings.Cut(request, " ")
		answer <- c.Answer(method)
	}()
	return answer
}

// Refused sends a request to l over TCP, and requires one answer that ends the
// connection.
func Refused(t testing.TB, l net.Listener, request string) Answer {
	t.Helper()
	c := DialClient(t, l)
	c.Send(t, request)
	return c.Refused(t, request)
}

// Refused requires one answer to request, and no byte after it, before the
// connection ends.
func (c *Client) Refused(t testing.TB, request string) Answer {
	t.Helper()
	var raw bytes.Buffer
	seen := &Client{R: bufio.NewReader(io.TeeReader(c.R, &raw))}
	method, _, _ := strings.Cut(request, " ")
	a := seen.Answer(method)
	require.NoError(t, a.Err, "%q", raw.String())
	require.NotEqual(t, http.StatusSwitchingProtocols, a.StatusCode)
	require.True(t, a.Close, "a refusal says that the connection ends")
	seen.Ended(t)
	a.Raw = raw.String()
	return a
}

// Upgraded returns a client of l over TCP that has been answered 101.
func Upgraded(t testing.TB, l net.Listener, request string) (*Client, Answer) {
	t.Helper()
	c := DialClient(t, l)
	c.Send(t, request)
	a := c.Answer("GET")
	require.NoError(t, a.Err)
	require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
	return c, a
}

// Request returns an upgrade request with further field lines.
func Request(fields ...string) string {
	head := "GET /t HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
	for _, f := range fields {
		head += f + "\r\n"
	}
	return head + "\r\n"
}

// AcceptAll accepts from l until l is closed. The channel gets the connections.
func AcceptAll(t testing.TB, l net.Listener) <-chan *preflight.Conn {
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

// NextConn returns the next accepted connection.
func NextConn(t testing.TB, accepted <-chan *preflight.Conn) *preflight.Conn {
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

// Talk requires that bytes go through in both directions.
func Talk(t testing.TB, client *Client, conn net.Conn) {
	t.Helper()
	Carry(t, "a question", client, conn)
	Carry(t, "an answer", conn, client.R)
}

// Carry requires that the bytes written to w come out of r.
func Carry(t testing.TB, text string, w io.Writer, r io.Reader) {
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

// TLSConfigs returns the configuration of a TLS server, and that of a client
// that trusts it.
func TLSConfigs(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots, ServerName: "example.com"}
}

// CaptureLog captures the output of the standard logger.
func CaptureLog(t testing.TB) *logBuffer {
	t.Helper()
	b, before := new(logBuffer), log.Writer()
	log.SetOutput(b)
	t.Cleanup(func() { log.SetOutput(before) })
	return b
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TemporaryError is an error that net/http treats as temporary.
type TemporaryError struct{ Err error }

func (e TemporaryError) Error() string { return e.Err.Error() }
func (e TemporaryError) Unwrap() error { return e.Err }

func (TemporaryError) Timeout() bool { return true }

func (TemporaryError) Temporary() bool { return true }

var ErrOther = errors.New("something else")

func AuthorizeAll(*http.Request) (http.Header, error) { return nil, nil }
