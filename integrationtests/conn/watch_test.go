package conn_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// watchSilent is a client that was delivered as plain because it was silent.
func watchSilent(t *testing.T) (*testkit.Client, *preflight.Conn) {
	t.Helper()
	n := testkit.NewNetwork()
	accepted := testkit.AcceptAll(t, testkit.Listen(t, &preflight.PreflightListener{Listener: n}))
	client := n.Dial(t)
	time.Sleep(time.Minute)
	synctest.Wait()
	c := <-accepted
	require.Nil(t, c.Request())
	t.Cleanup(func() { c.Close() })
	return client, c
}

const watchPost = "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nSHUTDOWN\r\n"

// A proxy may connect, stay silent for a long time, and then send a request.
// Go's reverse proxy does that with a connection that was dialed for a
// cancelled request.
func TestWatchedConnTurnsOutToBeHTTP(t *testing.T) {
	read := func(c *preflight.Conn) ([]byte, error) { return io.ReadAll(struct{ io.Reader }{c}) }
	for name, receive := range map[string]func(*preflight.Conn) ([]byte, error){
		"Read": read,
		"Read of a byte": func(c *preflight.Conn) (got []byte, err error) {
			for b := make([]byte, 1); err == nil; {
				var n int
				n, err = c.Read(b)
				got = append(got, b[:n]...)
			}
			return got, err
		},
		"WriteTo": func(c *preflight.Conn) ([]byte, error) {
			var w bytes.Buffer
			n, err := c.WriteTo(&w)
			require.EqualValues(t, w.Len(), n)
			return w.Bytes(), err
		},
	} {
		const body = "\r\nHost: h\r\n\r\nSHUTDOWN\r\n"
		for _, tt := range []struct{ before, request string }{
			{"", watchPost},
			{"", "POST /a b HTTP/1.1" + body},
			{"", "POST /x HTTP/0.9" + body},
			{"", "POST /x http/1.1" + body},
			{"", "PO(ST /x HTTP/1.1" + body},
			{"PRI * HTTP/2.0\r\n", "Host: h\r\n\r\nSHUTDOWN\r\n"}, // this begins like the preface of HTTP/2
			{"", strings.Repeat("y", 20<<10) + " /x HTTP/1.1" + body},
			{"\r\n\r\n", watchPost},
			// A proxy that reports its client sends a PROXY header first, here
			// after a long silence.
			{"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", watchPost},
			{"PROXY UNKNOWN\r\n", "POST /x HTTP/0.9" + body},
			{string(testkit.ProxyHeader(t, 2, testkit.Source)), watchPost},
			{testkit.ProxyV2Bytes(0x20, 0, 0, "") + "\r\n", watchPost},
		} {
			for _, piece := range []int{len(tt.before) + len(tt.request), 1, 7} {
				t.Run(fmt.Sprintf("%s/%.8s%.8q/%d", name, tt.request, tt.before, piece), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						client, c := watchSilent(t)
						go func() {
							for b := []byte(tt.before + tt.request); len(b) > 0; {
								n, err := client.Write(b[:min(piece, len(b))])
								if err != nil {
									return
								}
								b = b[n:]
							}
						}()
						got, err := receive(c)
						require.ErrorContains(t, err, "an HTTP request on a connection that began as a plain one")
						require.True(t, strings.HasPrefix(tt.before+tt.request, string(got)))
						require.NotContains(t, strings.TrimPrefix(string(got), tt.before), "\n", "no line is whole")
						require.True(t, client.Server.Closed.Load())
						_, err = read(c)
						require.Error(t, err)
					})
				})
			}
		}
	}
}

func TestWatchedConnIsPlain(t *testing.T) {
	for _, sent := range []string{"\x00binary", "hello\n", "PUB /t x\r\nPOST / HTTP/1.1\r\n", "\r\n\r\nquit\r\n", "PROXY UNKNOWN\r\nquit\r\nPOST / HTTP/1.1\r\n", "quit", "GET /", strings.Repeat("z", 64<<10)} {
		for _, piece := range []int{len(sent), 1} {
			t.Run(fmt.Sprintf("%.8q/%d", sent, piece), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					client, c := watchSilent(t)
					go func() {
						for b := []byte(sent); len(b) > 0; {
							n, _ := client.Write(b[:min(piece, len(b))])
							b = b[n:]
						}
					}()
					// No byte is held back. A client may wait for an answer to
					// bytes that are not a whole line yet.
					half := make([]byte, (len(sent)+1)/2)
					_, err := io.ReadFull(c, half)
					require.NoError(t, err)
					var w bytes.Buffer
					done := make(chan error)
					go func() {
						_, err := c.WriteTo(&w)
						done <- err
					}()
					synctest.Wait()
					require.Equal(t, sent, string(half)+w.String())
					client.Close()
					require.NoError(t, <-done)
				})
			})
		}
	}
}

// A first line that fills the buffer before it is sorted is delivered, and the
// watch continues.
func TestWatchContinuesAfterSorting(t *testing.T) {
	const long = 16 << 10
	for sent, http := range map[string]bool{
		strings.Repeat("y", long) + " / HTTP/1.1\r\nSHUTDOWN\r\n":      true,
		strings.Repeat("y", long) + "\nGET / HTTP/1.1\r\nSHUTDOWN\r\n": false,
		"POST /a b" + strings.Repeat("c", long) + " HTTP/1.1\r\n\r\n":  true,
		"POST /a b" + strings.Repeat("c", long) + "\r\n":               false,
	} {
		t.Run(fmt.Sprintf("%.10s/%v", sent, http), func(t *testing.T) {
			l := testkit.Listen(t, &preflight.PreflightListener{})
			accepted := testkit.AcceptAll(t, l)
			client := testkit.DialTCP(t, l.Addr())
			go func() {
				io.WriteString(client, sent)
				client.CloseWrite()
			}()
			c := testkit.NextConn(t, accepted)
			got, err := io.ReadAll(c)
			if !http {
				require.NoError(t, err)
				require.True(t, sent == string(got))
				return
			}
			require.ErrorContains(t, err, "an HTTP request")
			require.NotContains(t, string(got), "\n")
		})
	}
}

// On a watched connection the writer of WriteTo may fail as on any other.
func TestWatchedConnWriteToFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, c := watchSilent(t)
		go io.WriteString(client, "quit")
		broken := errors.New("broken")
		n, err := c.WriteTo(writerFunc(func(b []byte) (int, error) { return 1, broken }))
		require.ErrorIs(t, err, broken)
		require.EqualValues(t, 1, n)
		go io.WriteString(client, "and")
		n, err = c.WriteTo(writerFunc(func(b []byte) (int, error) { return 0, io.EOF }))
		require.ErrorIs(t, err, io.EOF, "the writer's error, not the end of the source")
		require.Zero(t, n)
		go io.WriteString(client, "more")
		n, err = c.WriteTo(writerFunc(func(b []byte) (int, error) { return 1, nil }))
		require.ErrorIs(t, err, io.ErrShortWrite)
		require.EqualValues(t, 1, n)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// watchOverTCP is watchSilent over TCP and l.
func watchOverTCP(t *testing.T, l *preflight.PreflightListener, dial func(net.Addr) net.Conn) (net.Conn, *preflight.Conn) {
	t.Helper()
	l.PlainAfter = time.Millisecond
	accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
	client := dial(l.Addr())
	return client, testkit.NextConn(t, accepted)
}

// A TLS connection still returns decrypted bytes after it has been closed.
func TestWatchedConnOverTLS(t *testing.T) {
	server, config := testkit.TLSConfigs(t)
	client, c := watchOverTCP(t, &preflight.PreflightListener{Listener: tls.NewListener(testkit.ListenTCP(t), server)}, func(a net.Addr) net.Conn {
		c, err := tls.Dial("tcp", a.String(), config)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	})
	_, err := io.WriteString(client, watchPost)
	require.NoError(t, err)
	b := make([]byte, 20)
	for range len(watchPost) {
		n, err := c.Read(b)
		require.Zero(t, n)
		require.ErrorContains(t, err, "an HTTP request")
	}
	var w bytes.Buffer
	_, err = c.WriteTo(&w)
	require.ErrorContains(t, err, "an HTTP request")
	require.Zero(t, w.Len())
}

// Two Reads run at once. While one inspects a line, the other does not return
// the bytes after it.
func TestWatchedConnConcurrentReads(t *testing.T) {
	for range 50 {
		client, c := watchOverTCP(t, &preflight.PreflightListener{}, func(a net.Addr) net.Conn { return testkit.DialTCP(t, a) })
		got := make(chan []byte, 2)
		for range cap(got) {
			go func() {
				b := make([]byte, 16)
				n, err := c.Read(b)
				for ; err == nil; n, err = c.Read(b) {
					got <- bytes.Clone(b[:n])
				}
				got <- nil
			}()
		}
		_, err := io.WriteString(client, "POST /x HTTP/1.1\r\n\r\nSHUTDOWN\r\n")
		require.NoError(t, err)
		for ended := 0; ended < cap(got); {
			b := <-got
			if b == nil {
				ended++
			}
			require.NotContains(t, string(b), "\n")
			require.NotContains(t, string(b), "SHUT")
		}
		c.Close()
	}
}
