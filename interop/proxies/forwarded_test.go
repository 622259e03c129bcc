package proxies

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A clientInfo is what a server knows about a client, from a request to Handler or from a
// tunnel.
type clientInfo struct {
	remoteAddr   string // RemoteAddr
	peerAddr     string // the remote address of the TCP connection
	forwardedFor string // X-Forwarded-For
}

const clientInfoFormat = "%s|%s|%s\n"

func parseClientInfo(s string) (clientInfo, error) {
	parts := strings.Split(strings.TrimSuffix(s, "\n"), "|")
	if len(parts) != 3 {
		return clientInfo{}, fmt.Errorf("the server answered %q", s)
	}
	return clientInfo{parts[0], parts[1], parts[2]}, nil
}

// serveClientInfo runs a server that sends each client its clientInfo, by HTTP and by
// tunnel.
func serveClientInfo(t *testing.T, trusted ...string) string {
	t.Helper()
	l := &preflight.PreflightListener{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, clientInfoFormat, r.RemoteAddr, r.RemoteAddr, strings.Join(r.Header["X-Forwarded-For"], ", "))
		}),
	}
	for _, prefix := range trusted {
		l.TrustedProxies = append(l.TrustedProxies, netip.MustParsePrefix(prefix))
	}
	return lab.Serve(t, l, func(c *preflight.Conn) {
		field := "none: a plain connection"
		if r := c.Request(); r != nil {
			field = strings.Join(r.Header["X-Forwarded-For"], ", ")
		}
		fmt.Fprintf(c, clientInfoFormat, c.RemoteAddr(), c.NetConn().RemoteAddr(), field)
		io.Copy(c, c)
	})
}

// A spoofingClient is a client that connects from ip and sends an X-Forwarded-For of its
// own.
type spoofingClient struct {
	ip           string
	forwardedFor []string
}

func (s spoofingClient) dialer() *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.ip)}, Timeout: lab.Timeout}
}

func (s spoofingClient) header() http.Header { return http.Header{"X-Forwarded-For": s.forwardedFor} }

// get sends an ordinary request, and returns the answer.
func (s spoofingClient) get(ctx context.Context, address string) (clientInfo, error) {
	transport := &http.Transport{DialContext: s.dialer().DialContext, DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+address+"/page", nil)
	if err != nil {
		return clientInfo{}, err
	}
	r.Header = s.header()
	response, err := (&http.Client{Transport: transport, Timeout: lab.Timeout}).Do(r)
	if err != nil {
		return clientInfo{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return clientInfo{}, err
	}
	return parseClientInfo(string(body))
}

// tunnel opens a tunnel, verifies that it works, and closes it. local is its local
// address.
func (s spoofingClient) tunnel(ctx context.Context, address string) (info clientInfo, local string, err error) {
	d := &preflight.PreflightDialer{NetDialer: s.dialer(), Header: s.header(), Path: "/tunnel", HandshakeTimeout: lab.Timeout}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return clientInfo{}, "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(lab.Timeout))
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return clientInfo{}, "", err
	}
	if info, err = parseClientInfo(line); err != nil {
		return clientInfo{}, "", err
	}
	return info, c.LocalAddr().String(), lab.ExchangeLine(c, r, s.ip, s.ip)
}

// TestNginxKeepsConnections has nginx send the requests of several clients, and then a
// tunnel, on one connection. Each of them must have the address of its own client, and
// not an address that the client has made up.
func TestNginxKeepsConnections(t *testing.T) {
	address := startNginxKeepalive(t, serveClientInfo(t, "127.0.0.1/32"))
	alice := spoofingClient{"127.0.0.2", []string{"198.51.100.66"}}
	bob := spoofingClient{"127.0.0.3", []string{"198.51.100.67, 127.0.0.1", "127.0.0.1"}}

	first, err := alice.get(t.Context(), address)
	require.NoError(t, err)
	second, err := bob.get(t.Context(), address)
	require.NoError(t, err)
	require.Equal(t, first.peerAddr, second.peerAddr, "they share a connection")
	require.Regexp(t, `^127\.0\.0\.1:\d+$`, first.remoteAddr, "Handler sees the peer")
	require.Equal(t, first.remoteAddr, second.remoteAddr)
	require.Equal(t, "198.51.100.66, 127.0.0.2", first.forwardedFor)
	require.Equal(t, "198.51.100.67, 127.0.0.1, 127.0.0.1, 127.0.0.3", second.forwardedFor)

	tunnel, _, err := alice.tunnel(t.Context(), address)
	require.NoError(t, err)
	require.Equal(t, first.peerAddr, tunnel.peerAddr, "a tunnel shares it too")
	require.Equal(t, "127.0.0.2:0", tunnel.remoteAddr)
	third, err := bob.get(t.Context(), address)
	require.NoError(t, err)
	require.NotEqual(t, first.peerAddr, third.peerAddr, "nothing follows a tunnel on its connection")
	other, _, err := bob.tunnel(t.Context(), address)
	require.NoError(t, err)
	require.Equal(t, third.peerAddr, other.peerAddr)
	require.Equal(t, "127.0.0.3:0", other.remoteAddr)
}

// TestNginxMixed does the same with many clients at once.
func TestNginxMixed(t *testing.T) {
	address := startNginxKeepalive(t, serveClientInfo(t, "127.0.0.1/32"))
	const clients, rounds = 8, 20
	errs := make([]error, clients)
	var mu sync.Mutex
	gets, conns := 0, make(map[string]bool)
	var running sync.WaitGroup
	for i := range clients {
		s := spoofingClient{fmt.Sprintf("127.0.0.%d", 2+i), []string{fmt.Sprintf("198.51.100.%d, 127.0.0.1", i)}}
		running.Go(func() {
			for round := range rounds {
				var got, want clientInfo
				var err error
				if (i+round)%4 > 0 {
					got, err = s.get(t.Context(), address)
					want.remoteAddr = got.peerAddr
					mu.Lock()
					gets++
					conns[got.peerAddr] = true
					mu.Unlock()
				} else {
					got, _, err = s.tunnel(t.Context(), address)
					want.remoteAddr = s.ip + ":0"
				}
				want.peerAddr, want.forwardedFor = got.peerAddr, s.forwardedFor[0]+", "+s.ip
				if err == nil && (got != want || !strings.HasPrefix(got.peerAddr, "127.0.0.1:")) {
					err = fmt.Errorf("%s: %+v, want %+v", s.ip, got, want)
				}
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	running.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Less(t, len(conns), gets, "nginx reuses connections")
}

// startNginxKeepalive runs nginx with an upstream that keeps connections open.
func startNginxKeepalive(t *testing.T, backend string) (address string) {
	t.Helper()
	dir := t.TempDir()
	return lab.StartNginxDaemon(t, dir, 1, func(addresses []string) (config string) {
		return lab.Render(t, os.DirFS("testdata"), dir, "nginx-keepalive.conf", map[string]any{
			"Root":    os.Geteuid() == 0,
			"Listen":  addresses[0],
			"Backend": backend,
		})
	}).Addresses[0]
}
