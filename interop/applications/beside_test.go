package applications

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// eachNginxFrontend runs test without TLS and with TLS. frontOf starts nginx in front of a
// server.
func eachNginxFrontend(t *testing.T, test func(t *testing.T, frontOf func(backend string) lab.Frontend)) {
	t.Run("plain", func(t *testing.T) {
		test(t, func(backend string) lab.Frontend { return lab.StartNginx(t, backend).Plain })
	})
	t.Run("tls", func(t *testing.T) {
		test(t, func(backend string) lab.Frontend { return lab.StartNginx(t, backend).TLS })
	})
}

// TestPlainBeside has plain clients and tunnels use one listener at once.
func TestPlainBeside(t *testing.T) {
	eachNginxFrontend(t, func(t *testing.T, frontOf func(backend string) lab.Frontend) {
		var tunnels, plain atomic.Int32
		address := lab.Serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) {
			if c.Request() != nil {
				tunnels.Add(1)
			} else {
				plain.Add(1)
			}
			io.Copy(c, c)
		})
		f := frontOf(address)

		const each, rounds = 10, 20
		var conns []net.Conn
		for range each {
			conns = append(conns, f.Dial(t, "/client/"), lab.DialTCP(t, address))
		}
		errs := make([]error, len(conns))
		var running sync.WaitGroup
		for i, c := range conns {
			running.Go(func() {
				for round := range rounds {
					errs[i] = errors.Join(errs[i], lab.Echo(c, fmt.Appendf(nil, "PUB topic.%d {\"n\": %d}\r\n", i, round)))
				}
			})
		}
		running.Wait()
		require.NoError(t, errors.Join(errs...))
		require.EqualValues(t, each, tunnels.Load())
		require.EqualValues(t, each, plain.Load())
	})
}

// TestPlainRefused has RequireUpgrade refuse plain clients.
func TestPlainRefused(t *testing.T) {
	address := lab.Serve(t, &preflight.PreflightListener{RequireUpgrade: true}, func(c *preflight.Conn) { io.Copy(c, c) })
	require.NoError(t, lab.Echo(lab.StartNginx(t, address).Plain.Dial(t, "/client/"), []byte("hello")))

	c := lab.DialTCP(t, address)
	_, err := c.Write([]byte("SHUTDOWN\r\n"))
	require.NoError(t, err)
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Empty(t, got)
}

// TestOrdinaryHTTPBesidePlain has a server with a line protocol that also accepts plain
// connections. If it received an ordinary request, it would execute the command in the body.
// It must receive none. That holds for the file of deploy/, and for a common mistake, with
// which nginx sends a decoded path, so that the first line is no request line any more.
func TestOrdinaryHTTPBesidePlain(t *testing.T) {
	const captured = `location ~ ^/captured/(.*)$ {
        proxy_pass http://preflight_client/$1;
    }
    location / {`
	var server lineServer
	address := lab.Serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) { server.serve(c) })
	nginx := lab.StartNginx(t, address, "location / {", captured)
	for _, f := range []lab.Frontend{nginx.Plain, nginx.TLS} {
		for _, path := range []string{"/client/", "/client/%0D%0ASHUTDOWN%0D%0A"} {
			responses := f.SendOrdinaryRequests(t, path)
			require.Equal(t, "426 405 426 426 400", lab.StatusCodes(responses))
			require.Equal(t, "tcp, tcps, websocket", responses[0].Header.Get("Upgrade"))
			require.Equal(t, "GET", responses[1].Header.Get("Allow"))
		}
		require.Equal(t, "400 400 400 400 400", lab.StatusCodes(f.SendOrdinaryRequests(t, "/captured/a%20b")))

		// The server works, and this is the first line that it receives.
		c := f.Dial(t, "/client/")
		require.NoError(t, lab.ExchangeLine(c, bufio.NewReader(c), "hello", "OK hello"))
	}
	require.Equal(t, []string{"hello", "hello"}, server.seen())
}

// TestNotYetAccepted shows that a client can use a tunnel before the application accepts it.
// What the client writes is delivered later.
func TestNotYetAccepted(t *testing.T) {
	eachNginxFrontend(t, func(t *testing.T, frontOf func(backend string) lab.Frontend) {
		l := &preflight.PreflightListener{Listener: lab.Listen(t)}
		t.Cleanup(func() { l.Close() })
		f := frontOf(l.Addr().String())
		// The first call of Accept starts the handshakes. They continue without another call.
		first := make(chan net.Conn, 1)
		go func() { first <- acceptOne(t, l) }()
		f.Dial(t, "/client/")
		require.NotNil(t, <-first)

		c := f.Dial(t, "/client/")
		data := lab.RandomBytes(16 << 10)
		_, err := c.Write(data)
		require.NoError(t, err)
		server := acceptOne(t, l)
		require.NotNil(t, server)
		got := make([]byte, len(data))
		_, err = io.ReadFull(server, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
	})
}

// acceptOne returns the next connection, or nil after an error.
func acceptOne(t *testing.T, l *preflight.PreflightListener) net.Conn {
	timeout := time.AfterFunc(lab.Timeout, func() { l.Close() })
	defer timeout.Stop()
	c, err := l.Accept()
	if err != nil {
		return nil
	}
	return lab.WithDeadline(t, c)
}
