package interop

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// overNginx runs test in plain text and over TLS. frontOf starts nginx in front
// of a server.
func overNginx(t *testing.T, test func(t *testing.T, frontOf func(backend string) front)) {
	t.Run("plain", func(t *testing.T) {
		test(t, func(backend string) front { return startNginx(t, backend).plain })
	})
	t.Run("tls", func(t *testing.T) {
		test(t, func(backend string) front { return startNginx(t, backend).tls })
	})
}

// Clients that know no preflight use the listener's own port while tunnels run.
func TestPlainBeside(t *testing.T) {
	overNginx(t, func(t *testing.T, frontOf func(backend string) front) {
		var tunnels, plain atomic.Int32
		address := serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) {
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
			conns = append(conns, f.dial(t, "/client/"), dialPlain(t, address))
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
	})
}

// With RequireUpgrade they cannot.
func TestPlainRefused(t *testing.T) {
	address := serve(t, &preflight.PreflightListener{RequireUpgrade: true}, func(c *preflight.Conn) { io.Copy(c, c) })
	require.NoError(t, echo(startNginx(t, address).plain.dial(t, "/client/"), []byte("hello")))

	c := dialPlain(t, address)
	_, err := c.Write([]byte("SHUTDOWN\r\n"))
	require.NoError(t, err)
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Empty(t, got)
}

// A server that takes plain connections, too, would execute the command in the
// body of a request, after some lines that it does not understand, if it got
// one. It gets none: neither with the file of deploy/ nor with a mistake that is
// often made, by which nginx sends what it has decoded, and with it a line that
// is no request line.
func TestOrdinaryHTTPBesidePlain(t *testing.T) {
	const captured = `location ~ ^/captured/(.*)$ {
        proxy_pass http://preflight/$1;
    }
    location / {`
	var server lineServer
	address := serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) { server.serve(c) })
	nginx := startNginx(t, address, "location / {", captured)
	for _, f := range []front{nginx.plain, nginx.tls} {
		for _, path := range []string{"/client/", "/client/%0D%0ASHUTDOWN%0D%0A"} {
			answers := ordinaryHTTP(t, f, path)
			require.Equal(t, "426 405 426 426 400", statuses(answers))
			require.Equal(t, "tcp, tcps, websocket", answers[0].Header.Get("Upgrade"))
			require.Equal(t, "GET", answers[1].Header.Get("Allow"))
		}
		require.Equal(t, "400 400 400 400 400", statuses(ordinaryHTTP(t, f, "/captured/a%20b")))

		// The server is there, and this line is the first that it sees.
		c := f.dial(t, "/client/")
		require.NoError(t, talk(c, bufio.NewReader(c), "hello", "OK hello"))
	}
	require.Equal(t, []string{"hello", "hello"}, server.seen())
}

// ordinaryHTTP sends what is no upgrade request, with a command as its body, and
// returns the answers: to a POST, a POST with an upgrade, a PUT, a GET, and an
// upgrade, which has no body either.
func ordinaryHTTP(t *testing.T, f front, path string) (answers []*http.Response) {
	t.Helper()
	scheme := "http://"
	if f.roots != nil {
		scheme = "https://"
	}
	transport := &http.Transport{TLSClientConfig: f.tlsConfig(), DisableKeepAlives: true}
	if f.forward != nil {
		transport.Proxy = http.ProxyURL(f.forward)
	}
	client := &http.Client{Timeout: patience, Transport: transport}
	for _, request := range []struct {
		method  string
		upgrade bool
	}{{"POST", false}, {"POST", true}, {"PUT", false}, {"GET", false}, {"GET", true}} {
		r, err := http.NewRequestWithContext(t.Context(), request.method, scheme+f.address+path, strings.NewReader("\r\nSHUTDOWN\r\n"))
		require.NoError(t, err)
		if request.upgrade {
			r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}
		}
		answer, err := client.Do(r)
		require.NoError(t, err)
		answer.Body.Close()
		answers = append(answers, answer)
	}
	return answers
}

func statuses(answers []*http.Response) string {
	var codes []string
	for _, answer := range answers {
		codes = append(codes, strconv.Itoa(answer.StatusCode))
	}
	return strings.Join(codes, " ")
}

// A tunnel is there for its client before the application accepts it, and what
// the client writes waits for that.
func TestNotYetAccepted(t *testing.T) {
	overNginx(t, func(t *testing.T, frontOf func(backend string) front) {
		l := &preflight.PreflightListener{Listener: listenTCP(t)}
		t.Cleanup(func() { l.Close() })
		f := frontOf(l.Addr().String())
		// The first call of Accept begins the handshakes, which then go on.
		first := make(chan net.Conn, 1)
		go func() { first <- accept(t, l) }()
		f.dial(t, "/client/")
		require.NotNil(t, <-first)

		c := f.dial(t, "/client/")
		data := greeting(16 << 10)
		_, err := c.Write(data)
		require.NoError(t, err)
		server := accept(t, l)
		require.NotNil(t, server)
		got := make([]byte, len(data))
		_, err = io.ReadFull(server, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
	})
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
