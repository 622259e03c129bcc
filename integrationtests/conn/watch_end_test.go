package conn_test

import (
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A readHookConn is a transport whose Read calls a function after it has bytes and
// before it returns.
type readHookConn struct {
	*testkit.NetworkConn
	meanwhile func()
	reads     atomic.Int32 // counts the Reads that have started
}

func (c *readHookConn) Read(b []byte) (int, error) {
	c.reads.Add(1)
	n, err := c.NetworkConn.Read(b)
	if c.meanwhile != nil && n > 0 {
		then := c.meanwhile
		c.meanwhile = nil
		then()
	}
	return n, err
}

// watchSilentWithHook is watchSilent with such a transport.
func watchSilentWithHook(t *testing.T) (net.Conn, *readHookConn, *preflight.Conn) {
	t.Helper()
	n := testkit.NewNetwork()
	accepted := testkit.AcceptAll(t, testkit.Listen(t, &preflight.PreflightListener{Listener: n}))
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	server := &readHookConn{NetworkConn: &testkit.NetworkConn{Conn: theirs}}
	n.Backlog <- server
	time.Sleep(time.Minute)
	c := <-accepted
	require.Nil(t, c.Request())
	return ours, server, c
}

// One Read has read the end of a request line and has not parsed it yet.
// Another Read waits for it and does not return the bytes that follow.
func TestWatchedConnSerializesReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, c := watchSilentWithHook(t)
		second := make(chan error, 1)
		var got []byte
		before := server.reads.Load()
		server.meanwhile = func() {
			go func() {
				b := make([]byte, 64)
				n, err := c.Read(b)
				got = b[:n]
				second <- err
			}()
			for range 10_000 { // time for the second to read, if it can
				runtime.Gosched()
			}
			require.Equal(t, before+1, server.reads.Load(), "another Read is under way")
		}
		go func() {
			io.WriteString(client, "POST /x HTTP/1.1\r\n")
			io.WriteString(client, "SHUTDOWN\r\n")
		}()
		_, err := c.Read(make([]byte, 64))
		require.ErrorContains(t, err, "an HTTP request")
		require.ErrorContains(t, <-second, "an HTTP request")
		require.Empty(t, got)
	})
}

// If bytes turn out to be the end of a request line, Read clears them from the
// caller's buffer, because the caller may look into the buffer although Read
// returned no bytes.
func TestWatchedConnClearsTheBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _, c := watchSilentWithHook(t)
		go io.WriteString(client, watchPost)
		b := make([]byte, 2*len(watchPost))
		n, err := c.Read(b)
		require.Zero(t, n)
		require.ErrorContains(t, err, "an HTTP request")
		require.Equal(t, make([]byte, len(b)), b)
	})
}

// methodListener returns connections that record which of their methods moves the
// bytes.
type methodListener struct {
	net.Listener
	conns chan *connRecorder
}

func (l methodListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	r := &connRecorder{TCPConn: c.(*net.TCPConn)}
	l.conns <- r
	return r, nil
}

// A first line without an end is inspected for 1 MiB from the beginning of the
// connection, or for MaxHeaderBytes if that is larger. Then the connection
// stays plain, and the kernel may move its bytes.
func TestWatchEnds(t *testing.T) {
	const mebi = 1 << 20
	request := " /x HTTP/1.1\r\nHost: h\r\n\r\nSHUTDOWN\r\n"
	for _, tt := range []struct {
		name      string
		maxHeader int
		silent    bool // sent at first; else the listener has sorted a part of the line
		line      int
		http      bool
	}{
		{name: "a line as long as that", silent: true, line: mebi},
		{name: "a line that is shorter", silent: true, line: mebi - len(request), http: true},
		{name: "the same, sorted in part", line: mebi},
		{name: "a shorter one, sorted in part", line: mebi - len(request), http: true},
		{name: "a larger MaxHeaderBytes", maxHeader: 2 * mebi, silent: true, line: mebi, http: true},
		{name: "a line as long as a larger MaxHeaderBytes", maxHeader: 2 * mebi, silent: true, line: 2 * mebi},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inner := methodListener{testkit.ListenTCP(t), make(chan *connRecorder, 1)}
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: inner, MaxHeaderBytes: tt.maxHeader})
			if tt.silent {
				l.PlainAfter = time.Millisecond
			}
			accepted := testkit.AcceptAll(t, l)
			client := testkit.DialTCP(t, l.Addr())
			transport := <-inner.conns
			line := strings.Repeat("z", tt.line)
			send := func() { io.WriteString(client, line) }
			var c *preflight.Conn
			if tt.silent {
				c = testkit.NextConn(t, accepted)
				go send()
			} else {
				go send()
				c = testkit.NextConn(t, accepted)
			}
			r, w := io.Pipe()
			copied := make(chan error, 1)
			go func() {
				_, err := c.WriteTo(w)
				w.CloseWithError(err)
				copied <- err
			}()
			got := make([]byte, tt.line)
			_, err := io.ReadFull(r, got)
			require.NoError(t, err)
			require.True(t, line == string(got))
			if !tt.http {
				for end := time.Now().Add(testkit.Patience); transport.handedTo() == 0; {
					require.True(t, time.Now().Before(end), "the kernel may move the bytes by now")
					<-time.After(time.Millisecond)
				}
			}
			_, err = io.WriteString(client, request)
			require.NoError(t, err)
			require.NoError(t, client.CloseWrite())
			rest, err := io.ReadAll(r)
			if tt.http {
				require.ErrorContains(t, err, "an HTTP request")
				require.NotContains(t, string(rest), "\n")
				require.Error(t, <-copied)
				require.Zero(t, transport.handedTo())
				return
			}
			require.NoError(t, err)
			require.Equal(t, request, string(rest))
			require.NoError(t, <-copied)
		})
	}
}

// handedTo returns how often WriteTo has been called.
func (c *connRecorder) handedTo() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.to)
}
