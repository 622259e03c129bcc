package vectors_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/preflight-go/preflight/spec/vectors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRequests sends the heads of requests to a PreflightListener.
func TestRequests(t *testing.T) {
	identity := testkit.NewIdentity(t).Config
	for _, v := range of(t, vectors.RequestHead) {
		t.Run(v.ID, func(t *testing.T) {
			chunkings(v, func(chunks [][]byte) {
				synctest.Test(t, func(t *testing.T) { serve(t, v, chunks, identity) })
			})
		})
	}
}

// A single is a net.Listener with one connection.
type single struct {
	conns chan net.Conn
	done  chan struct{}
}

func newSingle(c net.Conn) *single {
	l := &single{make(chan net.Conn, 1), make(chan struct{})}
	l.conns <- c
	return l
}

func (l *single) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *single) Close() error   { close(l.done); return nil }
func (l *single) Addr() net.Addr { return &net.TCPAddr{} }

// listener is set up as v says.
func listener(v vectors.Vector, below net.Conn, identity *tls.Config) *preflight.PreflightListener {
	l := &preflight.PreflightListener{
		Listener:        newSingle(below),
		Protocols:       v.Protocols,
		AllowedOrigins:  v.Origins,
		MaxHeaderBytes:  v.MaxHead,
		KeepAlivePeriod: -1,
		// A line that is hardly HTTP may be handed on as plain before it is complete,
		// unless plain connections are refused. M19 is about a server that takes both.
		RequireUpgrade: !slices.Contains(v.Covers, "M19"),
	}
	for _, c := range v.Carriers {
		l.Carriers = append(l.Carriers, preflight.Carrier(c))
	}
	if v.TLS {
		l.TLSConfig = identity
	}
	return l
}

// serve gives a listener one request. It runs in a bubble.
func serve(t *testing.T, v vectors.Vector, chunks [][]byte, identity *tls.Config) {
	below := newTransport(chunks, v.Transport)
	l := listener(v, below, identity)
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	defer func() {
		below.end()
		below.Close()
		l.Close()
		synctest.Wait()
	}()

	synctest.Wait()
	if v.Expect == "refuse" {
		time.Sleep(time.Minute) // longer than a head and the end of a refusal may take
		synctest.Wait()
		select {
		case c := <-accepted:
			require.Failf(t, "the request was to be refused", "%v", c)
		default:
		}
		assert.True(t, below.isClosed())
		checkRefusal(t, v, below.sent())
		return
	}
	head, behind, ok := bytes.Cut(below.sent(), []byte("\r\n\r\n"))
	require.True(t, ok, "there is an answer")
	checkSwitched(t, v, string(head))
	if v.Tunnel {
		return // the TLS handshake waits for the client
	}
	require.Empty(t, behind)
	c := (<-accepted).(*preflight.Conn)
	require.NotNil(t, c)
	defer c.Close()
	assert.EqualValues(t, v.Carrier, c.Carrier())
	r := startReading(c, 4096)
	synctest.Wait()
	r.check(t, v)
}

// checkSwitched compares a 101 with the vector.
func checkSwitched(t *testing.T, v vectors.Vector, head string) {
	t.Helper()
	lines := strings.Split(head, "\r\n")
	require.Equal(t, "HTTP/1.1 101 Switching Protocols", lines[0])
	got := make(http.Header)
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ": ")
		require.True(t, ok, line)
		got.Add(name, value)
	}
	want := http.Header{"Connection": {"Upgrade"}, "Upgrade": {v.Protocol}}
	switch v.Carrier {
	case "framed":
		want.Set("Preflight-Framing", "capsule")
	case "websocket":
		want.Set("Upgrade", "websocket")
		want.Set("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
		want.Set("Sec-WebSocket-Protocol", "preflight.v1")
		if v.Protocol != "tcp" {
			want.Set("Preflight-Protocol", v.Protocol)
		}
	}
	if v.Tunnel {
		want.Set("Preflight-Tunnel", "tls")
	}
	assert.Equal(t, want, got)
}

// checkRefusal compares a refusal with the vector, and with M22 and M23.
func checkRefusal(t *testing.T, v vectors.Vector, sent []byte) {
	t.Helper()
	reader := bufio.NewReader(bytes.NewReader(sent))
	r, err := http.ReadResponse(reader, nil)
	require.NoError(t, err, "%q", sent)
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	rest, err := io.ReadAll(reader)
	require.NoError(t, err)
	assert.Empty(t, string(rest), "nothing follows: M23")

	assert.Equal(t, v.Status, r.StatusCode, "%s", body)
	assert.Equal(t, []string{v.Code}, r.Header["Preflight-Refusal"], "%s", body)
	served := v.Carriers
	if served == nil {
		served = []string{"upgrade", "framed", "websocket"}
	}
	require.Len(t, r.Header["Preflight-Carriers"], 1)
	assert.ElementsMatch(t, served, strings.Split(r.Header.Get("Preflight-Carriers"), ", "))
	assert.True(t, r.Close, "Connection: close")
	assert.EqualValues(t, len(body), r.ContentLength)
	assert.NotEmpty(t, body)
	if r.StatusCode == http.StatusUpgradeRequired {
		assert.NotEmpty(t, r.Header.Get("Upgrade"))
		connection := strings.Split(strings.ToLower(strings.ReplaceAll(string(headField(sent, "Connection")), " ", "")), ",")
		assert.True(t, slices.Contains(connection, "upgrade"), "Connection: %q", connection)
	}
	assert.Equal(t, r.StatusCode == http.StatusMethodNotAllowed, r.Header.Get("Allow") == "GET")
	assert.Equal(t, v.Code == "websocket" && v.Status == 426, r.Header.Get("Sec-WebSocket-Version") == "13")
}

// headField returns the value of a field, which net/http hides.
func headField(head []byte, name string) string {
	for line := range strings.SplitSeq(string(head), "\r\n") {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return value
		}
	}
	return ""
}
