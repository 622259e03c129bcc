package interop

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
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A told is what a server knows of a client: by a request to Handler, or by a
// tunnel.
type told struct {
	remote string // RemoteAddr
	conn   string // the address of the connection's other end
	field  string // X-Forwarded-For
}

const toldFormat = "%s|%s|%s\n"

func parseTold(s string) (told, error) {
	parts := strings.Split(strings.TrimSuffix(s, "\n"), "|")
	if len(parts) != 3 {
		return told{}, fmt.Errorf("the server said %q", s)
	}
	return told{parts[0], parts[1], parts[2]}, nil
}

// serveTold tells each client, by HTTP and by tunnel, what it knows of it.
func serveTold(t *testing.T, trusted ...string) string {
	t.Helper()
	l := &preflight.PreflightListener{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, toldFormat, r.RemoteAddr, r.RemoteAddr, strings.Join(r.Header["X-Forwarded-For"], ", "))
		}),
	}
	for _, prefix := range trusted {
		l.TrustedProxies = append(l.TrustedProxies, netip.MustParsePrefix(prefix))
	}
	return serve(t, l, func(c *preflight.Conn) {
		field := "none: a plain connection"
		if r := c.Request(); r != nil {
			field = strings.Join(r.Header["X-Forwarded-For"], ", ")
		}
		fmt.Fprintf(c, toldFormat, c.RemoteAddr(), c.NetConn().RemoteAddr(), field)
		io.Copy(c, c)
	})
}

// A source is a client with an address of its own, which sends a field that it
// has made up.
type source struct {
	ip    string
	spoof []string
}

func (s source) dialer() *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.ip)}, Timeout: patience}
}

func (s source) header() http.Header { return http.Header{"X-Forwarded-For": s.spoof} }

// get sends an ordinary request.
func (s source) get(ctx context.Context, address string) (told, error) {
	transport := &http.Transport{DialContext: s.dialer().DialContext, DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+address+"/page", nil)
	if err != nil {
		return told{}, err
	}
	r.Header = s.header()
	answer, err := (&http.Client{Transport: transport, Timeout: patience}).Do(r)
	if err != nil {
		return told{}, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return told{}, err
	}
	return parseTold(string(body))
}

// tunnel opens a tunnel, sees that it works, and closes it.
func (s source) tunnel(ctx context.Context, address string) (at told, local string, err error) {
	d := &preflight.PreflightDialer{NetDialer: s.dialer(), Header: s.header(), Path: "/tunnel", HandshakeTimeout: patience}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return told{}, "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return told{}, "", err
	}
	if at, err = parseTold(line); err != nil {
		return told{}, "", err
	}
	return at, c.LocalAddr().String(), talk(c, r, s.ip, s.ip)
}

// One connection of nginx's carries the requests of many clients, and at last a
// tunnel. Each of them has its own client's address, and none has what a client
// says of itself.
func TestNginxKeepsConnections(t *testing.T) {
	address := startNginxKeepalive(t, serveTold(t, "127.0.0.1/32"))
	alice := source{"127.0.0.2", []string{"198.51.100.66"}}
	bob := source{"127.0.0.3", []string{"198.51.100.67, 127.0.0.1", "127.0.0.1"}}

	first, err := alice.get(t.Context(), address)
	require.NoError(t, err)
	second, err := bob.get(t.Context(), address)
	require.NoError(t, err)
	require.Equal(t, first.conn, second.conn, "they share a connection")
	require.Regexp(t, `^127\.0\.0\.1:\d+$`, first.remote, "Handler sees the peer")
	require.Equal(t, first.remote, second.remote)
	require.Equal(t, "198.51.100.66, 127.0.0.2", first.field)
	require.Equal(t, "198.51.100.67, 127.0.0.1, 127.0.0.1, 127.0.0.3", second.field)

	tunnel, _, err := alice.tunnel(t.Context(), address)
	require.NoError(t, err)
	require.Equal(t, first.conn, tunnel.conn, "and so does a tunnel")
	require.Equal(t, "127.0.0.2:0", tunnel.remote)
	third, err := bob.get(t.Context(), address)
	require.NoError(t, err)
	require.NotEqual(t, first.conn, third.conn, "nobody comes behind a tunnel")
	other, _, err := bob.tunnel(t.Context(), address)
	require.NoError(t, err)
	require.Equal(t, third.conn, other.conn)
	require.Equal(t, "127.0.0.3:0", other.remote)
}

// The same with many clients at once.
func TestNginxMixed(t *testing.T) {
	address := startNginxKeepalive(t, serveTold(t, "127.0.0.1/32"))
	const clients, rounds = 8, 20
	errs := make([]error, clients)
	var mu sync.Mutex
	gets, conns := 0, make(map[string]bool)
	var all sync.WaitGroup
	for i := range clients {
		s := source{fmt.Sprintf("127.0.0.%d", 2+i), []string{fmt.Sprintf("198.51.100.%d, 127.0.0.1", i)}}
		all.Go(func() {
			for round := range rounds {
				var got, want told
				var err error
				if (i+round)%4 > 0 {
					got, err = s.get(t.Context(), address)
					want.remote = got.conn
					mu.Lock()
					gets++
					conns[got.conn] = true
					mu.Unlock()
				} else {
					got, _, err = s.tunnel(t.Context(), address)
					want.remote = s.ip + ":0"
				}
				want.conn, want.field = got.conn, s.spoof[0]+", "+s.ip
				if err == nil && (got != want || !strings.HasPrefix(got.conn, "127.0.0.1:")) {
					err = fmt.Errorf("%s: %+v, want %+v", s.ip, got, want)
				}
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Less(t, len(conns), gets, "connections are kept")
}

func startNginxKeepalive(t *testing.T, backend string) string {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	return launch(t, dir, 1, findBinary(t, "nginx"), func(addresses []string) (args []string) {
		render(t, "nginx-keepalive.conf.tmpl", config, map[string]any{
			"Root":    os.Geteuid() == 0,
			"Listen":  addresses[0],
			"Backend": backend,
		})
		return []string{"-p", dir, "-c", config, "-e", "stderr"}
	}, func() bool {
		pid, _ := os.ReadFile(filepath.Join(dir, "nginx.pid"))
		return len(pid) > 0
	}).addresses[0]
}
