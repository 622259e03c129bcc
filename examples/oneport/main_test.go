package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// TestMain fails if a goroutine outlives the tests.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	retry := time.NewTicker(20 * time.Millisecond)
	for range 250 {
		if runtime.NumGoroutine() <= before {
			break
		}
		<-retry.C // goroutines that are about to end have some time
	}
	if left := runtime.NumGoroutine(); code == 0 && left > before {
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%d goroutines before the tests, %d after:\n%s\n", before, left, stacks[:runtime.Stack(stacks, true)])
		code = 1
	}
	os.Exit(code)
}

// limit fails a test that would otherwise hang. No test expects it to pass.
const limit = 30 * time.Second

// A program is the program while it runs.
type program struct {
	address string
	printed string
	roots   *x509.CertPool
	ctrlC   context.CancelFunc
	ended   chan error // receives the result of run
}

// start runs the program until ctrlC or the end of the test.
func start(t *testing.T, grace time.Duration) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{ctrlC: cancel, ended: make(chan error, 1)}
	done, out := make(chan struct{}), make(output, 1)
	go func() {
		defer close(done)
		p.ended <- run(ctx, config{listen: "127.0.0.1:0", grace: grace}, out)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	select {
	case p.printed = <-out:
	case <-time.After(limit):
		require.FailNow(t, "it does not say where it listens")
	}
	_, err := fmt.Sscanf(p.printed, "Listening on %s", &p.address)
	require.NoError(t, err)
	p.address = strings.TrimSuffix(p.address, ".")
	p.roots = certificateOf(t, p.address)
	return p
}

// output returns what the program has printed at its start.
type output chan string

func (o output) Write(b []byte) (int, error) {
	o <- string(b)
	return len(b), nil
}

// certificateOf connects to the server, and returns a pool with its certificate.
func certificateOf(t *testing.T, address string) *x509.CertPool {
	t.Helper()
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	defer c.Close()
	roots := x509.NewCertPool()
	roots.AddCert(c.ConnectionState().PeerCertificates[0])
	return roots
}

// end waits for the result of run.
func (p *program) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(limit):
		require.FailNow(t, "the program does not end")
		return nil
	}
}

func TestEachClient(t *testing.T) {
	p := start(t, limit)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			require.NoError(t, c.use(ctx, p, func() {}))
		})
	}
	p.ctrlC()
	require.NoError(t, p.end(t))
}

// TestAllClientsAtOnce connects several clients of each kind at the same time.
func TestAllClientsAtOnce(t *testing.T) {
	p := start(t, limit)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	const each = 4
	var arrived atomic.Int32
	complete := make(chan struct{})
	meet := func() {
		if int(arrived.Add(1)) == each*len(clients) {
			close(complete)
		}
		select {
		case <-complete:
		case <-ctx.Done():
		}
	}
	errs := make([]error, each*len(clients))
	var running sync.WaitGroup
	for i := range errs {
		c := clients[i%len(clients)]
		running.Go(func() {
			if err := c.use(ctx, p, meet); err != nil {
				errs[i] = fmt.Errorf("%s: %w", c.name, err)
				cancel() // otherwise the others would wait for it
			}
		})
	}
	running.Wait()
	require.NoError(t, errors.Join(errs...))
}

// TestSilentClients has clients that send nothing, or stop before the server can tell their
// protocol. They must block no other client, neither in the listener nor behind it.
func TestSilentClients(t *testing.T) {
	p := start(t, limit)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for _, way := range []string{"plain TCP", "TLS", "preflight /lines", "preflight in TLS /lines", "TLS in a tunnel /lines"} {
		for _, said := range []string{"", "P", "PRI * HT", preface, preface + "\r\nSM\r\n\r\n", "GET / HT", "GET / HTTP/1.1\r\nHo", "\x16\x03\x01\x02"} {
			c, err := dials[way](ctx, p)
			require.NoError(t, err, way)
			defer c.Close()
			_, err = io.WriteString(c, said)
			require.NoError(t, err, way)
		}
	}
	for _, c := range clients {
		require.NoError(t, c.use(ctx, p, func() {}), c.name)
	}
}

// TestLinesThatBeginLikeHTTP2 sends lines that begin like HTTP/2, byte by byte.
func TestLinesThatBeginLikeHTTP2(t *testing.T) {
	p := start(t, limit)
	for _, line := range []string{"P", "PR", "PRI", "PRI *", "PRI * HTTP/2", "PRI * HTTP/2.1", "PRIORITY"} {
		c, err := dials["preflight /lines"](t.Context(), p)
		require.NoError(t, err)
		defer c.Close()
		c.SetDeadline(time.Now().Add(limit))
		for _, b := range []byte(line + "\n") {
			_, err := c.Write([]byte{b})
			require.NoError(t, err)
		}
		got, err := bufio.NewReader(c).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "preflight /lines: "+strings.ToUpper(line)+"\n", got)
	}
}

func TestCtrlC(t *testing.T) {
	p := start(t, limit)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	lines := make(map[string]net.Conn)
	for way, dial := range dials {
		c, err := dial(ctx, p)
		require.NoError(t, err, way)
		defer c.Close()
		c.SetDeadline(time.Now().Add(limit))
		require.NoError(t, ask(c, bufio.NewReader(c), way, "hello"))
		lines[way] = c
	}
	silent, err := dials["preflight /lines"](ctx, p)
	require.NoError(t, err)
	lines["preflight, silent"] = silent
	defer silent.Close()
	webSocket, _, err := websocket.Dial(ctx, "ws://"+p.address+"/ws", nil)
	require.NoError(t, err)
	defer webSocket.CloseNow()
	conn, err := grpcClient(p, dials["plain TCP"])
	require.NoError(t, err)
	defer conn.Close()
	stream, leave := context.WithCancel(ctx)
	defer leave()
	watch, err := healthpb.NewHealthClient(conn).Watch(stream, &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	answer, err := watch.Recv()
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, answer.Status)

	p.ctrlC()
	for way, c := range lines {
		rest, err := io.ReadAll(c)
		require.NoError(t, err, "%s must end in order", way)
		require.Empty(t, string(rest), way)
		require.NoError(t, c.Close())
	}
	answer, err = watch.Recv()
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, answer.Status)

	// The program still waits for this stream, and accepts no new connections.
	_, err = net.Dial("tcp", p.address)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Empty(t, p.ended)
	leave()
	for conn.GetState() == connectivity.Ready {
		require.True(t, conn.WaitForStateChange(ctx, connectivity.Ready))
	}

	// It also waits until the WebSocket client has noticed.
	require.Empty(t, p.ended)
	_, _, err = webSocket.Read(ctx)
	require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err), "%v", err)
	require.NoError(t, p.end(t))
}

// TestCtrlCIgnored requires that no client can keep the program from ending.
func TestCtrlCIgnored(t *testing.T) {
	p := start(t, 50*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	half, err := net.Dial("tcp", p.address)
	require.NoError(t, err)
	defer half.Close()
	_, err = io.WriteString(half, "GET / HTTP/1.1\r\nHost:")
	require.NoError(t, err)
	conn, err := grpcClient(p, dials["plain TCP"]) // accepted after half
	require.NoError(t, err)
	defer conn.Close()
	watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	_, err = watch.Recv()
	require.NoError(t, err)

	p.ctrlC()
	err = p.end(t)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "not everybody had finished after 50ms")
	for err = nil; err == nil; {
		_, err = watch.Recv()
	}
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
}

func TestAddressInUse(t *testing.T) {
	p := start(t, limit)
	err := run(t.Context(), config{listen: p.address}, io.Discard)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
}

func TestUsage(t *testing.T) {
	cfg, err := parseFlags(nil)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:9007", cfg.listen)
	_, err = parseFlags([]string{"-listen"})
	require.ErrorContains(t, err, "-listen")
	p := start(t, limit)
	host, port, err := net.SplitHostPort(p.address)
	require.NoError(t, err)
	for _, command := range []string{
		"echo hello | nc -N " + host + " " + port + "\n",
		"openssl s_client -quiet -no_ign_eof -connect " + p.address + "\n",
		"curl -k https://" + p.address + "/healthz\n",
		"grpcurl -plaintext " + p.address + " grpc.health.v1.Health/Check\n",
	} {
		require.Contains(t, p.printed, command)
	}
	require.NotContains(t, p.printed, "ADDRESS")
}
