package check

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// startFar runs a far end, and returns its address and what it sees.
func startFar(t *testing.T) (address string, seen <-chan Arrival) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	arrivals := make(chan Arrival, 10)
	f := &FarEnd{Arrivals: Arrivals{Seen: func(a Arrival) { arrivals <- a }}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return l.Addr().String(), arrivals
}

// TestArrivals sends what proxies send.
func TestArrivals(t *testing.T) {
	request := "GET /pg?key=" + secretQuery + " HTTP/1.0\r\nHost: edge\r\nX-Forwarded-For: 10.0.0.1\r\nAuthorization: " + secretField + "\r\nX-Preflight-Check: ID.upgrade\r\n\r\n"
	for name, test := range map[string]struct {
		sent string
		want Arrival
	}{
		"HTTP/1.0": {request, Arrival{Question: "upgrade", Client: "10.0.0.1", ClientFields: []string{"X-Forwarded-For"}, Protocol: "HTTP/1.0",
			Method: "GET", Path: "/pg", Host: "edge", Fields: []string{"Authorization", "Host", "X-Forwarded-For", "X-Preflight-Check"}, HeadSize: len(request), id: "ID"}},
		"PROXY, version 1": {"PROXY TCP4 10.0.0.2 10.0.0.3 1 2\r\nGET / HTTP/1.1\r\n\r\n",
			Arrival{ProxyHeader: "version 1", Client: "10.0.0.2:1", Protocol: "HTTP/1.1", Method: "GET", Path: "/", HeadSize: 18}},
		"PROXY, version 2, LOCAL": {"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00GET / HTTP/1.1\r\n\r\n",
			Arrival{ProxyHeader: "version 2", Protocol: "HTTP/1.1", Method: "GET", Path: "/", HeadSize: 18}},
		"HTTP/2":        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Arrival{Protocol: "HTTP/2"}},
		"a binary one":  {"\x00\x01\x02", Arrival{Protocol: "no HTTP"}},
		"a line":        {"PING\r\n", Arrival{Protocol: "no HTTP"}},
		"half a head":   {"GET / HTTP/1.1\r\nHost: x\r\n", Arrival{Protocol: "no HTTP"}},
		"a large head":  {"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n", Arrival{Protocol: "no HTTP"}},
		"not even TLS":  {"\x16\x03\x01\x00\x00", Arrival{TLS: true, Protocol: "TLS whose handshake failed"}},
		"an odd target": {"GET \x1b[31m HTTP/1.1\r\n\r\n", Arrival{Protocol: "HTTP/1.1", Method: "GET", Path: "?[31m", HeadSize: 22}},
	} {
		t.Run(name, func(t *testing.T) {
			address, seen := startFar(t)
			c, err := net.Dial("tcp", address)
			require.NoError(t, err)
			defer c.Close()
			test.want.Peer = c.LocalAddr().String()
			io.WriteString(c, test.sent)
			c.(*net.TCPConn).CloseWrite()
			got := <-seen
			require.Equal(t, test.want, got)
			require.NotContains(t, got.String(), "s3cr3t")
		})
	}
}

// TestFarTLS ends the TLS of a proxy that verifies nothing.
func TestFarTLS(t *testing.T) {
	address, seen := startFar(t)
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	a := <-seen
	require.True(t, a.TLS)
	require.Equal(t, "GET", a.Method)
	b := make([]byte, 12)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 426", string(b))
}

// TestReport tells a check of its own arrivals alone.
func TestReport(t *testing.T) {
	address, seen := startFar(t)
	send := func(fields string) string {
		c, err := net.Dial("tcp", address)
		require.NoError(t, err)
		defer c.Close()
		io.WriteString(c, "GET /pg HTTP/1.1\r\nHost: x\r\n"+fields+"\r\n")
		b, err := io.ReadAll(c)
		require.NoError(t, err)
		return string(b)
	}
	send("X-Preflight-Check: MINE.get\r\n")
	<-seen
	send("X-Preflight-Check: OTHER.get\r\nHost: other\r\n")
	<-seen
	require.Empty(t, send("X-Preflight-Check: MINE.replay\r\nX-Preflight-Check-Want: silence\r\n"))
	<-seen
	report := send("X-Preflight-Check: MINE.report\r\nX-Preflight-Check-Want: report\r\n")
	require.Contains(t, report, `"preflight_far_end":true`)
	require.Contains(t, report, `"question":"get"`)
	require.Contains(t, report, `"question":"replay"`)
	require.NotContains(t, report, "other")
	require.Contains(t, send("X-Preflight-Check-Want: report\r\n"), `"arrivals":[]`)
}
