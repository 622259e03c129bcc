package listener_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/rpc"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// An existing HTTP server and client change one line each. Their HTTP goes
// through the tunnel, and requests without a tunnel are refused.
func TestListenerUnderHTTPServer(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s for %s: %s", r.Method, r.URL, r.RemoteAddr, body)
	})}
	served := make(chan error)
	go func() { served <- server.Serve(l) }()

	transport := &http.Transport{DialContext: (&preflight.PreflightDialer{Path: "/client/http"}).DialContext}
	client := &http.Client{Transport: transport}
	for i := range 3 {
		r, err := client.Post("http://"+l.Addr().String()+"/inner", "text/plain", strings.NewReader(strings.Repeat("x", i*10_000)))
		require.NoError(t, err)
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.NoError(t, r.Body.Close())
		require.Regexp(t, `^POST /inner for 127\.0\.0\.1:\d+: x*$`, string(body))
		require.Equal(t, i*10_000, strings.Count(string(body), "x"))
	}
	r, err := http.Get("http://" + l.Addr().String() + "/inner")
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, http.StatusUpgradeRequired, r.StatusCode)

	transport.CloseIdleConnections()
	require.NoError(t, server.Shutdown(context.Background()))
	require.ErrorIs(t, <-served, http.ErrServerClosed)
}

// A server with a line protocol: existing clients work as before, new ones come
// through a tunnel.
func TestListenerUnderLineServer(t *testing.T) {
	inner := testkit.ListenTCP(t)
	l := testkit.Listen(t, &preflight.PreflightListener{Listener: inner})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintf(c, "%s\n", strings.ToUpper(lines.Text()))
				}
			}()
		}
	}()
	for name, dial := range map[string]func(network, address string) (net.Conn, error){
		"plain":  net.Dial,
		"tunnel": (&preflight.PreflightDialer{Path: "/lines"}).Dial,
	} {
		c, err := dial("tcp", inner.Addr().String())
		require.NoError(t, err, name)
		r := bufio.NewReader(c)
		for _, line := range []string{"get key", "put t {}"} {
			_, err := fmt.Fprintf(c, "%s\n", line)
			require.NoError(t, err)
			answer, err := r.ReadString('\n')
			require.NoError(t, err, name)
			require.Equal(t, strings.ToUpper(line)+"\n", answer)
		}
		require.NoError(t, c.Close())
	}
	require.NoError(t, l.Close())
	<-done
}

// LisArith is a service of net/rpc, which requires an exported type.
type LisArith struct{}

// Add adds two numbers.
func (LisArith) Add(terms [2]int, sum *int) error {
	*sum = terms[0] + terms[1]
	return nil
}

func TestListenerUnderRPC(t *testing.T) {
	testkit.CaptureLog(t) // net/rpc logs that its listener was closed
	l := testkit.Listen(t, &preflight.PreflightListener{RequireUpgrade: true})
	server, done := rpc.NewServer(), make(chan struct{})
	require.NoError(t, server.Register(LisArith{}))
	go func() {
		defer close(done)
		server.Accept(l)
	}()
	c, err := (&preflight.PreflightDialer{Path: "/rpc"}).Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	client := rpc.NewClient(c)
	for i := range 10 {
		var sum int
		require.NoError(t, client.Call("LisArith.Add", [2]int{i, 1}, &sum))
		require.Equal(t, i+1, sum)
	}
	require.NoError(t, client.Close())
	require.NoError(t, l.Close())
	<-done
}
