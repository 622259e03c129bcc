package listener_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// randomPieces returns pieces of random size. Many of them are small.
func randomPieces(rng *rand.Rand) testkit.Pieces {
	var mu sync.Mutex
	return func(int) int {
		mu.Lock()
		defer mu.Unlock()
		if rng.IntN(3) == 0 {
			return 1 + rng.IntN(8)
		}
		return 1 + rng.IntN(5000)
	}
}

// answerReader reads HTTP answers up to a 101, and then the bytes after it.
type answerReader struct {
	net.Conn
	c        *testkit.Client
	ordinary int
	once     sync.Once
	err      error
}

func (a *answerReader) Read(b []byte) (int, error) {
	a.once.Do(func() { a.err = readUpTo101(a.c, a.ordinary) })
	if a.err != nil {
		return 0, a.err
	}
	return a.c.R.Read(b)
}

// readUpTo101 reads a number of ordinary answers, and a 101.
func readUpTo101(c *testkit.Client, ordinary int) error {
	for i := range ordinary {
		if a := c.Answer("POST"); a.Err != nil || a.StatusCode != 200 || a.Header.Get("Path") != fmt.Sprintf("/%d", i) {
			return fmt.Errorf("answer %d: %d %w", i, a.StatusCode, a.Err)
		}
	}
	if a := c.Answer("GET"); a.Err != nil || a.StatusCode != 101 {
		return fmt.Errorf("the last answer: %d %w", a.StatusCode, a.Err)
	}
	return nil
}

// The test builds random stacks of layers. Heads, hellos and payloads have
// random sizes, and all bytes are written and read in random pieces. The
// application gets every byte that was sent, and the right address and layers.
func TestListenerRandomStacks(t *testing.T) {
	first := uint64(time.Now().UnixNano())
	t.Logf("the seeds are from %d on", first) // set this to the printed value to repeat the run
	server, client := testkit.NamedTLSConfigs(t)
	server.NextProtos = []string{"http/1.1"}
	large := client.Clone() // a hello that takes several Reads
	for i := range 300 {
		large.NextProtos = append(large.NextProtos, fmt.Sprintf("protocol-%d-%s", i, strings.Repeat("x", 20)))
	}
	large.NextProtos = append(large.NextProtos, "http/1.1")
	inner, accepted := testkit.ListenInner(t, &preflight.PreflightListener{
		TLSConfig: server, Handler: testkit.ServedHandler, TrustedProxies: testkit.Prefixes("127.0.0.0/8"),
	})
	for seed := first; seed < first+400; seed++ {
		rng := rand.New(rand.NewPCG(seed, 0))
		pieces := func() testkit.Pieces {
			if rng.IntN(2) == 0 {
				return testkit.InOnePiece
			}
			return randomPieces(rand.New(rand.NewPCG(rng.Uint64(), 0)))
		}
		inner.Pieces.Store(pieces())
		tcp, err := net.Dial("tcp", inner.Addr().String())
		require.NoError(t, err)
		tcp.SetDeadline(time.Now().Add(testkit.Patience))

		remote, stack := tcp.LocalAddr().String(), fmt.Sprintf("seed %d:", seed)
		var header []byte
		switch rng.IntN(3) {
		case 1:
			header, remote = testkit.ProxyHeader(t, 1, testkit.Source), testkit.Source.String()
		case 2:
			header, remote = testkit.ProxyHeader(t, 2, testkit.Source6, proxyproto.TLV{Type: proxyproto.PP2_TYPE_NOOP, Value: make([]byte, rng.IntN(2000))}), testkit.Source6.String()
		}
		stack += fmt.Sprintf(" PROXY of %d bytes,", len(header))
		var conn net.Conn = &testkit.Glue{Conn: &testkit.Speech{Conn: tcp, Pieces: pieces()}, Held: header}
		overTLS := rng.IntN(2) == 0
		if overTLS {
			config := client
			if rng.IntN(2) == 0 {
				config = large
			}
			tc := tls.Client(conn, config)
			require.NoError(t, tc.Handshake(), stack)
			conn = tc
			stack += " TLS,"
		}
		c := &testkit.Client{Conn: conn, R: bufio.NewReader(conn)}

		payload := make([]byte, 1+rng.IntN(20_000))
		for i := range payload {
			payload[i] = byte(rng.Uint32())
		}
		payload[0] = 0 // neither HTTP nor TLS
		kind, ordinary := []string{"plain", "tcp", "tcps", "TLS inside"}[rng.IntN(4)], 0
		var said strings.Builder
		if kind != "plain" {
			ordinary = rng.IntN(4)
			for i := range ordinary {
				body := rng.IntN(3000)
				fmt.Fprintf(&said, "POST /%d HTTP/1.1\r\nHost: h\r\nX-Fill: %s\r\nContent-Length: %d\r\n\r\n%s",
					i, strings.Repeat("x", rng.IntN(2)*rng.IntN(10_000)), body, strings.Repeat("b", body))
			}
			// The client's field is trusted if the peer is the proxy.
			claim := "203.0.113.66"
			if header == nil {
				remote = claim + ":0"
			}
			asks := kind
			if kind == "TLS inside" {
				asks = "tcp\r\nPreflight-Tunnel: tls"
			}
			fmt.Fprintf(&said, "GET /t HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Forwarded-For: %s\r\nX-Fill: %s\r\n\r\n",
				asks, claim, strings.Repeat("x", rng.IntN(10_000)))
		}
		stack += fmt.Sprintf(" %s behind %d requests, %d bytes", kind, ordinary, len(payload))
		sent := make(chan error, 1)
		if kind == "TLS inside" {
			answers := &answerReader{Conn: &testkit.Glue{Conn: conn, Held: []byte(said.String())}, c: c, ordinary: ordinary}
			over := tls.Client(answers, client)
			require.NoError(t, over.Handshake(), stack)
			c = &testkit.Client{Conn: over, R: bufio.NewReader(over)}
			go func() { _, err := over.Write(payload); sent <- err }()
		} else {
			go func() { _, err := io.WriteString(conn, said.String()+string(payload)); sent <- err }()
			if kind != "plain" {
				require.NoError(t, readUpTo101(c, ordinary), stack)
			}
		}

		got := testkit.NextConn(t, accepted)
		require.Equal(t, remote, got.RemoteAddr().String(), stack)
		got.SetReadDeadline(time.Now().Add(testkit.Patience))
		read := make([]byte, len(payload))
		n, err := io.ReadFull(got, read)
		require.NoError(t, err, "%s, of which came %d", stack, n)
		require.True(t, string(payload) == string(read), stack)
		require.NoError(t, <-sent, stack)
		require.Equal(t, kind == "plain", got.Request() == nil, stack)
		if kind != "plain" {
			require.Equal(t, "/t", got.Request().URL.Path, stack)
			require.Equal(t, remote, got.Request().RemoteAddr, stack)
			require.Equal(t, overTLS, got.Request().TLS != nil, stack)
			require.Equal(t, kind == "tcps", got.Response().Header.Get("Upgrade") == "tcps", stack)
			require.Equal(t, kind == "TLS inside", got.Response().Header.Get("Preflight-Tunnel") == "tls", stack)
		}
		testkit.Talk(t, c, got)
		got.Close()
		tcp.Close()
		require.Empty(t, accepted, stack)
	}
}
