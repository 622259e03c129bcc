package interop

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// ofTunnels are the behaviours that a proxy shows over each of its fronts.
var ofTunnels = []behaviour{
	{"Tunnel", "a tunnel", "yes", testTunnel},
	{"Fields", "fields of the request and of the 101", "arrive", testFields},
	{"Client", "the client's address", "yes", testClient},
	{"ServerFirst", "server's first bytes, glued to the 101 and behind it", "arrive", testServerFirst},
	{"ClientFirst", "client's first bytes, right behind the 101", "arrive", testClientFirst},
	{"Transfer", "256 MiB each way at once", "intact", testTransfer},
	{"Tunnels", "200 tunnels at once", "yes", testTunnels},
	{"Refusals", "401, 403, 404, 429 and 503, with fields and body", "arrive", testRefusals},
	{"OrdinaryHTTP", "POST, POST with an upgrade, PUT, GET with a body, upgrade with a body", "426 405 426 426 400", testOrdinaryHTTP},
	{"Elsewhere", "a path without a route", "404", testElsewhere},
	{"LargeHead", "a head of 7 KiB", "arrives", testLargeHead},
	{"HalfClose", "half-close", "no", testHalfClose},
	{"Inside", "TLS inside the tunnel", "yes", testInside},
}

// testTunnel opens tunnels by address and by URL.
func testTunnel(t *testing.T, x trial) string {
	c := x.front.dial(t, "/client/amps/json")
	require.NoError(t, echo(c, []byte("hello")))
	require.NoError(t, echo(c, []byte("hello again")))
	require.Equal(t, http.StatusSwitchingProtocols, c.Response().StatusCode)
	require.Equal(t, "tcp", c.Response().Header.Get("Upgrade"))

	amps := x.front.dialer() // AMPS's clients name the same tunnel so, where they speak TLS to the proxy
	amps.Protocol = "tcps"
	named, err := amps.DialContext(t.Context(), "tcp", x.front.address)
	require.NoError(t, err)
	require.Equal(t, "tcps", named.(*preflight.Conn).Response().Header.Get("Upgrade"))
	require.NoError(t, echo(bounded(t, named), []byte("hello")))

	u := url.URL{Scheme: "tcp", User: url.UserPassword("jane", "secret"), Host: x.front.address, Path: "/client/told", RawQuery: "http_preflight=true"}
	if x.front.roots != nil {
		u.Scheme = "tcps"
	}
	d := x.front.dialer()
	d.Path = ""
	byURL, err := d.DialURL(t.Context(), u.String())
	require.NoError(t, err)
	_, at := see(t, bounded(t, byURL))
	require.Equal(t, x.arrives("/client/told"), at.URI)
	require.NotContains(t, at.Header, "Authorization", "the userinfo is the application's")
	return "yes"
}

// see is what the server says of a tunnel to /client/told. What follows is an
// echo, read from r.
func see(t *testing.T, c net.Conn) (r *bufio.Reader, at seen) {
	t.Helper()
	r = bufio.NewReader(c)
	line, err := r.ReadBytes('\n')
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(line, &at))
	return r, at
}

func testFields(t *testing.T, x trial) string {
	d := x.front.dialer()
	d.Path, d.Host = "/client/told?feed=a%20b", "amps.example"
	if d.TLSConfig != nil {
		d.TLSConfig.ServerName, _, _ = net.SplitHostPort(x.front.address) // not Host's
	}
	d.Header = http.Header{
		"Authorization": {"Bearer good"},
		"Cookie":        {"session=17"},
		"X-Feed":        {"prices"},
		"X-Twice":       {"1", "2"},
		"User-Agent":    {"preflight-lab/1"},
	}
	c := x.front.dialWith(t, d)
	_, at := see(t, c)
	require.Equal(t, x.arrives(d.Path), at.URI)
	var lost []string
	if at.Host != d.Host {
		lost = append(lost, "Host")
	}
	for name, sent := range d.Header {
		// Some proxies make one field of two.
		if strings.Join(at.Header[name], ", ") != strings.Join(sent, ", ") {
			lost = append(lost, name)
		}
	}
	if c.Response().Header.Get("X-Session") != "17" {
		lost = append(lost, "X-Session of the 101")
	}
	if len(lost) > 0 {
		slices.Sort(lost)
		return "without " + strings.Join(lost, ", ")
	}
	return "arrive"
}

// testClient is a client with an address of its own, which lies about it.
func testClient(t *testing.T, x trial) string {
	const ip, lie = "127.0.0.5", "198.51.100.66"
	s := source{ip, []string{lie + ", 127.0.0.1"}}
	d := x.front.dialer()
	d.Path, d.NetDialer = "/client/told", s.dialer()
	d.Header = s.header()
	d.Header["Forwarded"] = []string{"for=" + lie}
	d.Header["X-Real-Ip"] = []string{lie}
	c := x.front.dialWith(t, d)
	r, at := see(t, c)
	require.NoError(t, talk(c, r, "hello", "hello"))
	switch host, _, _ := net.SplitHostPort(at.Remote); {
	case at.Remote == c.LocalAddr().String():
		return "yes, with the port"
	case host == ip:
		return "yes"
	default:
		return "it is that of " + host
	}
}

func testServerFirst(t *testing.T, x trial) string {
	for _, how := range []string{"first", "glued"} {
		for _, size := range []int{17, 100 << 10} {
			c := x.front.dial(t, fmt.Sprintf("/client/%s/%d", how, size))
			got := make([]byte, size)
			_, err := io.ReadFull(c, got)
			require.NoError(t, err, "%s %d", how, size)
			require.True(t, bytes.Equal(greeting(size), got), "%s %d", how, size)
			require.NoError(t, echo(c, []byte("hello")))
		}
	}
	return "arrive"
}

// testClientFirst has the client write right behind the 101, and the server read
// when that is done. It fits into the buffers of the sockets on the way.
func testClientFirst(t *testing.T, x trial) string {
	c := x.front.dial(t, "/client/late")
	data := greeting(16 << 10)
	_, err := c.Write(data)
	require.NoError(t, err)
	x.server.gate <- struct{}{}
	got := make([]byte, len(data))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	return "arrive"
}

func testTransfer(t *testing.T, x trial) string {
	c := x.front.dial(t, "/client/transfer")
	atClient := exchange(c, 2)
	require.NoError(t, atClient.err)
	// The client closes when the server has everything: lighttpd, and Envoy without
	// TLS, would drop what they have not handed on by then.
	atServer := awaited(t, x.server.transfers)
	require.NoError(t, errors.Join(atServer.err, c.Close()))
	require.Equal(t, "0 bytes more", awaited(t, x.server.ends))
	require.Equal(t, atClient.sent, atServer.received, "client to server")
	require.Equal(t, atServer.sent, atClient.received, "server to client")
	require.NotEqual(t, atClient.sent, atServer.sent)
	return "intact"
}

// A transfer holds the checksums of what went each way.
type transfer struct {
	sent, received uint32
	err            error
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// exchange sends 256 MiB that depend on seed while it receives as many.
func exchange(c net.Conn, seed byte) (x transfer) {
	const size, block = 256 << 20, 128 << 10
	c.SetDeadline(time.Now().Add(10 * patience)) // for a busy machine
	sent := make(chan error, 1)
	go func() {
		data := make([]byte, block)
		rand.NewChaCha8([32]byte{seed}).Read(data)
		for n := range uint64(size / block) {
			// No block is that of another place.
			binary.BigEndian.PutUint64(data, n)
			x.sent = crc32.Update(x.sent, castagnoli, data)
			if _, err := c.Write(data); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	data := make([]byte, block)
	left := int64(size)
	for left > 0 && x.err == nil {
		var n int
		n, x.err = c.Read(data[:min(left, block)])
		x.received = crc32.Update(x.received, castagnoli, data[:n])
		left -= int64(n)
	}
	x.err = errors.Join(x.err, <-sent)
	return x
}

// testTunnels opens 200 tunnels at once, and uses them when all are open.
func testTunnels(t *testing.T, x trial) string {
	const n = 200
	conns, errs := make([]net.Conn, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { conns[i], errs[i] = x.front.dialer().DialContext(t.Context(), "tcp", x.front.address) })
	}
	all.Wait()
	for _, c := range conns {
		if c != nil {
			bounded(t, c)
		}
	}
	require.NoError(t, errors.Join(errs...))
	for i, c := range conns {
		all.Go(func() {
			data := make([]byte, 64<<10)
			rand.NewChaCha8([32]byte{byte(i)}).Read(data)
			errs[i] = echo(c, data)
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	return "yes"
}

// testHalfClose ends one direction and uses the other.
func testHalfClose(t *testing.T, x trial) string {
	c := x.front.dial(t, "/client/reply")
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	if x.proxy.name == lighttpd.name {
		// It may end the tunnel, or do nothing more.
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
	}
	// What the server has sent when it saw the end, which may come as an error.
	back, err := io.ReadAll(c)
	if x.proxy.name != lighttpd.name {
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	require.Contains(t, []string{"", "hello"}, string(back))

	c = x.front.dial(t, "/client/half-close")
	_, err = c.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	c.Write([]byte("hello"))
	c.CloseWrite()
	there := awaited(t, x.server.ends)
	require.Contains(t, []string{"", "hello"}, there)

	switch {
	case len(back) > 0 && there != "":
		return "yes"
	case len(back) > 0:
		return "the client's alone"
	case there != "":
		return "the server's alone"
	}
	return "no"
}

func testInside(t *testing.T, x trial) string {
	d := x.front.dialer()
	d.TunnelTLSConfig = x.server.inside()
	c, err := d.DialContext(t.Context(), "tcp", x.front.address)
	if err != nil {
		return ending(err)
	}
	require.Equal(t, "tls", c.(*preflight.Conn).Response().Header.Get("Preflight-Tunnel"))
	require.NoError(t, echo(bounded(t, c), []byte("hello")))
	return "yes"
}

// awaited is the next of c.
func awaited[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
	}
	return v
}
