package proxies

import (
	"bufio"
	"bytes"
	"cmp"
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
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// tunnelBehaviours are the behaviours that a proxy shows without TLS and with TLS.
var tunnelBehaviours = []behaviour{
	{"Tunnel", "a tunnel", "yes", testTunnel},
	{"Fields", "fields of the request and of the 101", "arrive", testFields},
	{"Client", "the client's address", "yes", testClient},
	{"ServerFirst", "the server's first bytes, in one write with the 101 and after it", "arrive", testServerFirst},
	{"ClientFirst", "the client's first bytes, immediately after the 101", "arrive", testClientFirst},
	{"Transfer", "256 MiB each way at once", "intact", testTransfer},
	{"Tunnels", "200 tunnels at once (framed and websocket: 50)", "yes", testTunnels},
	{"Refusals", "refusals 401, 403, 404, 429 and 503, with fields and body", "arrive", testRefusals},
	{"OrdinaryHTTP", "POST, POST with an upgrade, PUT, GET with a body, upgrade with a body", "426 405 426 426 400", testOrdinaryHTTP},
	{"Elsewhere", "a path without a route", "404", testElsewhere},
	{"LargeHead", "a request head of 7 KiB", "arrives", testLargeHead},
	{"HalfClose", "half-close, with 1 MiB under way in each direction", "yes", testHalfClose},
	{"Reset", "the server resets the connection", "an error", testReset},
	{"Killed", "the server is killed during a transfer", "an error", testKilled},
	{"Inside", "TLS inside the tunnel", "yes", testTunnelTLS},
}

// testTunnel opens tunnels by address, by address with the token tcps, and by URL.
func testTunnel(t *testing.T, s scenario) string {
	c := s.dial(t, "/client/amps/json")
	require.NoError(t, lab.Echo(c, []byte("hello")))
	require.NoError(t, lab.Echo(c, []byte("hello once more")))
	require.Equal(t, http.StatusSwitchingProtocols, c.Response().StatusCode)
	require.Equal(t, s.carrier.name, c.Carrier())
	require.Equal(t, "tcp", s.protocolOf(c))

	withTCPS := s.dialer() // AMPS clients use this token if they speak TLS to the proxy
	withTCPS.Protocol = "tcps"
	c = s.frontend.DialWith(t, withTCPS)
	require.Equal(t, "tcps", s.protocolOf(c))
	require.NoError(t, lab.Echo(c, []byte("hello")))

	u := url.URL{Scheme: "tcp", User: url.UserPassword("jane", "secret"), Host: s.frontend.Address, Path: "/client/info", RawQuery: "http_preflight=true"}
	if s.frontend.Roots != nil {
		u.Scheme = "tcps"
	}
	d := s.dialer()
	d.Path = ""
	byURL, err := d.DialURL(t.Context(), u.String())
	require.NoError(t, err)
	_, info := readRequestInfo(t, lab.WithDeadline(t, byURL))
	require.Equal(t, s.backendPath("/client/info"), info.URI)
	require.NotContains(t, info.Header, "Authorization", "the userinfo is for the application")
	return "yes"
}

// protocolOf returns the protocol that a tunnel was opened for.
func (s scenario) protocolOf(c *preflight.Conn) string {
	answer := c.Response().Header
	if s.carrier.name != preflight.CarrierWebSocket {
		return answer.Get("Upgrade")
	}
	return cmp.Or(answer.Get("Preflight-Protocol"), "tcp")
}

// readRequestInfo reads what the server reports about a tunnel to /client/info. Then the
// tunnel is an echo, to be read from r.
func readRequestInfo(t *testing.T, c net.Conn) (r *bufio.Reader, info requestInfo) {
	t.Helper()
	r = bufio.NewReader(c)
	line, err := r.ReadBytes('\n')
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(line, &info))
	return r, info
}

// testFields compares the fields at both ends.
func testFields(t *testing.T, s scenario) string {
	d := s.dialer()
	d.Path, d.Host = "/client/info?feed=a%20b", "amps.example"
	if d.TLSConfig != nil {
		d.TLSConfig.ServerName, _, _ = net.SplitHostPort(s.frontend.Address) // not the name in Host
	}
	d.Header = http.Header{
		"Authorization": {"Bearer good"},
		"Cookie":        {"session=17"},
		"X-Feed":        {"prices"},
		"X-Twice":       {"1", "2"},
		"User-Agent":    {"preflight-lab/1"},
	}
	c := s.frontend.DialWith(t, d)
	_, info := readRequestInfo(t, c)
	require.Equal(t, s.backendPath(d.Path), info.URI)
	var lost []string
	if info.Host != d.Host {
		lost = append(lost, "Host")
	}
	for name, sent := range d.Header {
		// Some proxies join two fields of one name.
		if strings.Join(info.Header[name], ", ") != strings.Join(sent, ", ") {
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

// testClient dials from another address, with fields that name a false address.
func testClient(t *testing.T, s scenario) string {
	const ip, falseAddress = "127.0.0.5", "198.51.100.66"
	client := spoofingClient{ip, []string{falseAddress + ", 127.0.0.1"}}
	d := s.dialer()
	d.Path, d.NetDialer = "/client/info", client.dialer()
	d.Header = client.header()
	d.Header["Forwarded"] = []string{"for=" + falseAddress}
	d.Header["X-Real-Ip"] = []string{falseAddress}
	c := s.frontend.DialWith(t, d)
	r, info := readRequestInfo(t, c)
	require.NoError(t, lab.ExchangeLine(c, r, "hello", "hello"))
	switch host, _, _ := net.SplitHostPort(info.Remote); {
	case info.Remote == c.LocalAddr().String():
		return "yes, with the port"
	case host == ip:
		return "yes"
	default:
		return "no, it is " + host
	}
}

// testServerFirst has the server write first, after the 101 or in one write with it.
func testServerFirst(t *testing.T, s scenario) string {
	for _, how := range []string{"first", "coalesced"} {
		for _, size := range []int{17, 100 << 10} {
			c := s.dial(t, fmt.Sprintf("/client/%s/%d", how, size))
			got := make([]byte, size)
			_, err := io.ReadFull(c, got)
			require.NoError(t, err, "%s %d", how, size)
			require.True(t, bytes.Equal(lab.RandomBytes(size), got), "%s %d", how, size)
			require.NoError(t, lab.Echo(c, []byte("hello")))
		}
	}
	return "arrive"
}

// testClientFirst has the client write immediately after the 101. The server begins to
// read when the client has written everything, which fits into the socket buffers.
func testClientFirst(t *testing.T, s scenario) string {
	c := s.dial(t, "/client/late")
	data := lab.RandomBytes(16 << 10)
	_, err := c.Write(data)
	require.NoError(t, err)
	s.server.readGate <- struct{}{}
	got := make([]byte, len(data))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	return "arrive"
}

// testTransfer sends data each way at once, and compares checksums.
func testTransfer(t *testing.T, s scenario) string {
	size := 256 << 20
	if raceDetector {
		size = 16 << 20 // it is slow; ./test.sh transfer does without it
	}
	c := s.dial(t, fmt.Sprint("/client/transfer/", size))
	atClient := exchange(c, 2, size)
	require.NoError(t, atClient.err)
	// The client closes after the server has received everything. lighttpd, and Envoy
	// without TLS, drop data that they have not forwarded when the client closes.
	atServer := lab.Receive(t, s.server.transfers)
	require.NoError(t, errors.Join(atServer.err, c.Close()))
	require.Equal(t, "0 bytes more", lab.Receive(t, s.server.ends))
	require.Equal(t, atClient.sent, atServer.received, "client to server")
	require.Equal(t, atServer.sent, atClient.received, "server to client")
	require.NotEqual(t, atClient.sent, atServer.sent)
	return "intact"
}

// A transfer has the checksums of what one end sent and received.
type transfer struct {
	sent, received uint32
	err            error
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// exchange sends size bytes, which depend on seed, and receives as many at the same time.
// size is a multiple of a block.
func exchange(c net.Conn, seed byte, size int) (x transfer) {
	const block = 128 << 10
	c.SetDeadline(time.Now().Add(10 * lab.Timeout)) // for a busy machine
	sent := make(chan error, 1)
	go func() {
		data := make([]byte, block)
		rand.NewChaCha8([32]byte{seed}).Read(data)
		for n := range uint64(size / block) {
			// Each block has its number, so that no block can stand in for another.
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
	left := size
	for left > 0 && x.err == nil {
		var n int
		n, x.err = c.Read(data[:min(left, block)])
		x.received = crc32.Update(x.received, castagnoli, data[:n])
		left -= n
	}
	x.err = errors.Join(x.err, <-sent)
	return x
}

// testTunnels opens many tunnels at once, and uses all of them at once.
func testTunnels(t *testing.T, s scenario) string {
	n := 200
	if s.carrier.name != preflight.CarrierUpgrade {
		n = 50 // the proxy does the same for each carrier, and this takes time
	}
	conns, errs := make([]net.Conn, n), make([]error, n)
	var tunnels sync.WaitGroup
	for i := range n {
		tunnels.Go(func() { conns[i], errs[i] = s.dialer().DialContext(t.Context(), "tcp", s.frontend.Address) })
	}
	tunnels.Wait()
	for _, c := range conns {
		if c != nil {
			lab.WithDeadline(t, c)
		}
	}
	require.NoError(t, errors.Join(errs...))
	for i, c := range conns {
		tunnels.Go(func() {
			data := make([]byte, 64<<10)
			rand.NewChaCha8([32]byte{byte(i)}).Read(data)
			errs[i] = lab.Echo(c, data)
		})
	}
	tunnels.Wait()
	require.NoError(t, errors.Join(errs...))
	return "yes"
}

// underWay is what each end sends around its half-close.
var underWay = lab.RandomBytes(1 << 20)

// testHalfClose closes one direction and uses the other one, from each end. Each end sends
// underWay before it closes its direction.
func testHalfClose(t *testing.T, s scenario) string {
	// The client ends first. The server sends what it has received when it reads the end.
	c := s.dial(t, "/client/reply")
	sendAll(c)
	if s.upgradeThroughLighttpd() {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
	}
	byClient := s.receivesAll(t, c)

	// The server ends first.
	c = s.dial(t, "/client/half-close")
	received := s.receivesAll(t, c)
	sendAll(c)
	byServer := lab.Receive(t, s.server.ends) == allReceived && received

	switch {
	case byClient && byServer:
		return "yes"
	case byClient:
		return "only by the client"
	case byServer:
		return "only by the server"
	}
	return "no"
}

// sendAll sends underWay and closes the direction. A proxy may have closed it already.
func sendAll(c *preflight.Conn) {
	c.Write(underWay)
	c.CloseWrite()
}

// receivesAll reports whether underWay and the end after it arrive.
func (s scenario) receivesAll(t *testing.T, c net.Conn) bool {
	t.Helper()
	got, err := io.ReadAll(c)
	require.True(t, bytes.HasPrefix(underWay, got))
	if !s.upgradeThroughLighttpd() {
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	return err == nil && len(got) == len(underWay)
}

// upgradeThroughLighttpd reports whether a half-close has no certain outcome: lighttpd
// sometimes closes the tunnel, and sometimes does nothing.
func (s scenario) upgradeThroughLighttpd() bool {
	return s.proxy.name == lighttpd.name && s.carrier.name == preflight.CarrierUpgrade
}

// testReset has the server reset its connection to the proxy.
func testReset(t *testing.T, s scenario) string {
	return s.cut(t, "/client/reset")
}

// testKilled has the server end as a process that is killed: the kernel closes its
// connection, and the tunnel is in the middle of a transfer.
func testKilled(t *testing.T, s scenario) string {
	return s.cut(t, "/client/killed")
}

// cut opens a tunnel that ends too early, and returns what it looks like to the client.
func (s scenario) cut(t *testing.T, path string) string {
	t.Helper()
	c := s.dial(t, path)
	_, err := io.ReadFull(c, make([]byte, 64<<10))
	require.NoError(t, err)
	_, err = c.Write([]byte("now"))
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, c)
	return endOf(err)
}

// testTunnelTLS opens a tunnel with TLS inside it.
func testTunnelTLS(t *testing.T, s scenario) string {
	d := s.dialer()
	d.TunnelTLSConfig = s.server.tunnelTLSConfig()
	c, err := s.tryDial(t, d)
	if err != nil {
		return outcomeOf(err)
	}
	require.Equal(t, "tls", c.Response().Header.Get("Preflight-Tunnel"))
	require.NoError(t, lab.Echo(c, []byte("hello")))
	return "yes"
}
