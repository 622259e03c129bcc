package dialer_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// dialServe answers one upgrade request and sends it to the channel, which must
// be buffered.
func dialServe(c net.Conn, got chan<- *http.Request) {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		r = nil
	} else {
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: %s\r\nConnection: Upgrade\r\n\r\n", r.Header.Get("Upgrade"))
	}
	got <- r
}

// TestDialer dials a listener of this package and exchanges bytes with it.
func TestDialer(t *testing.T) {
	ln := testkit.Listen(t, &preflight.PreflightListener{Protocols: []string{"tcp", "amps/1"}})
	testkit.ServeEcho(t, ln)
	for name, d := range map[string]*preflight.PreflightDialer{
		"zero":   {},
		"filled": {NetDialer: &net.Dialer{}, Protocol: "amps/1", Host: "edge.example:8080", Path: "/client?x=%20", Header: http.Header{"X-A": {"1", "2"}}, HandshakeTimeout: time.Hour},
		"no end": {HandshakeTimeout: -1},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := d.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			c := conn.(*preflight.Conn)
			require.IsType(t, (*net.TCPConn)(nil), c.NetConn())
			conn.SetDeadline(time.Now().Add(testkit.Patience))
			_, err = io.WriteString(conn, "ping")
			require.NoError(t, err)
			got := make([]byte, 4)
			_, err = io.ReadFull(conn, got)
			require.NoError(t, err)
			require.Equal(t, "ping", string(got))
			require.Equal(t, c.Response().Header.Get("Upgrade"), c.Request().Header.Get("Upgrade"))
			if name == "filled" {
				require.Equal(t, "amps/1", c.Request().Header.Get("Upgrade"))
				require.Equal(t, "edge.example:8080", c.Request().Host)
				require.Equal(t, "/client?x=%20", c.Request().RequestURI)
				require.Equal(t, []string{"1", "2"}, c.Request().Header["X-A"])
			}
		})
	}
}

// TestDialerBadConfiguration: a bad setting is an error before anything is
// dialed. The error names the setting, and it never contains the value of a
// field, because that may be a secret.
func TestDialerBadConfiguration(t *testing.T) {
	type test struct {
		d     preflight.PreflightDialer
		cause string
	}
	tests := make(map[string]test)
	for _, name := range []string{"Host", "Connection", "Upgrade", "Content-Length", "Transfer-Encoding", "Trailer", "Expect", "Proxy-Authorization"} {
		mixed := strings.ToLower(name[:1]) + strings.ToUpper(name[1:])
		for _, as := range []string{name, strings.ToLower(name), strings.ToUpper(name), mixed} {
			tests["reserved "+as] = test{preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Header: http.Header{as: {"s3cr3t"}}}, name}
		}
	}
	for _, name := range []string{"", " ", "X Y", "X:", "X\r\nY", "X\x00", "Ü", "X\t", "X/Y"} {
		tests["name "+name] = test{preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Header: http.Header{name: {"s3cr3t"}}}, fmt.Sprintf("%q", name)}
	}
	for _, value := range []string{"s3cr3t\r\nX: y", "s3cr3t\r", "s3cr3t\n", "\ns3cr3t", "s3cr3t\x00", "s3cr3t\x7f", "s3cr3t\x1b["} {
		tests["value "+value] = test{preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Header: http.Header{"X-Good": {"s3cr3t"}, "X-Token": {"s3cr3t", value}}}, "X-Token"}
	}
	for _, path := range []string{"amps", "http://edge.example/", "*", "?a", "/a#b", "/#", "/a b", "/a\tb", "/%", "/%2", "/%zz", "/a%2", "/ü", "/a\r\nX: y", "/\x00", "/\x7f"} {
		tests["path "+path] = test{preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Path: path}, "path"}
	}
	for _, token := range []string{"tcp, websocket", "tcp websocket", "tcp ", " ", "tcp/", "/1", "tcp/1/2", "tcp\r\nX: y", "ü", "tcp\x00"} {
		tests["token "+token] = test{preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Protocol: token}, "protocol"}
	}
	for _, host := range []string{" ", "a b", "a/b", "user@a", "::1", "[::1", "[fe80::1%25lo]:80", "[1.2.3.4]", "a:http", "a:80:80", "a\r\nX: y", "ü b.example", "\xfc.example", "a,b\x00", "%61"} {
		tests["host "+host] = test{preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Host: host}, "host"}
	}
	tests["ALPN h2 alone"] = test{preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, TLSConfig: &tls.Config{NextProtos: []string{"h2"}}}, "http/1.1"}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.d.NetDialer = testkit.DialNever(t)
			conn, err := test.d.Dial("tcp", "edge.example:80")
			require.Nil(t, conn)
			require.ErrorContains(t, err, "preflight: ")
			require.ErrorContains(t, err, test.cause)
			testkit.RequireNoSecret(t, err)
		})
	}
	t.Run("several fields, of which the first is named", func(t *testing.T) {
		d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialNever(t), Header: http.Header{
			"A": {"s3cr3t"}, "B": {"s3cr3t\x00"}, "C": {"s3cr3t\x00"}, "Expect": {"s3cr3t"}, "X Y": {"s3cr3t"},
		}}
		for range 50 { // the order of a map is random
			_, err := d.Dial("tcp", "edge.example:80")
			require.ErrorContains(t, err, "field B ")
			testkit.RequireNoSecret(t, err)
		}
	})
	t.Run("address that is no host", func(t *testing.T) {
		d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialNever(t)}
		for _, address := range []string{"passthrough:///x", "", "a b:80"} {
			_, err := d.Dial("tcp", address)
			require.ErrorContains(t, err, "host")
		}
	})
	t.Run("TLS without a name", func(t *testing.T) {
		d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialNever(t), TLSConfig: new(tls.Config)}
		_, err := d.Dial("unix", "/run/edge.sock")
		require.ErrorContains(t, err, "ServerName")
	})
}

// TestDialerGoodConfiguration has settings that are unusual and valid, and what
// the connection reports about them afterwards.
func TestDialerGoodConfiguration(t *testing.T) {
	for _, d := range []preflight.PreflightDialer{
		{Path: "//a//b/"}, {Path: "/?"}, {Path: "/a?b=c?d/e"}, {Path: "/%00%fF"}, {Path: "/a[b]|c\"<>{}`^\\"}, {Path: "/:@!$&'()*+,;=~"},
		{Protocol: "TCP"}, {Protocol: "amps/2.0"}, {Protocol: "a!#$%&'*+-.^_`|~1"},
		{Host: "edge"}, {Host: "EDGE.example."}, {Host: "edge:"}, {Host: "[::1]"}, {Host: "[::1]:80"}, {Host: "192.0.2.1:1"}, {Host: "_srv.x"},
		{Header: http.Header{"x-lower": {"v"}}}, {Header: http.Header{"X-Empty": {""}}}, {Header: http.Header{"X": {" spaces\tand tabs "}}}, {Header: http.Header{"X": {"\xff\xfe"}}},
		{Header: http.Header{"User-Agent": {"me"}, "Te": {"trailers"}, "Authorization": {"Bearer x"}}},
	} {
		t.Run(fmt.Sprintf("%q", d.Path+d.Protocol+d.Host), func(t *testing.T) {
			got := make(chan *http.Request, 1)
			d.NetDialer = &testkit.DialPeer{T: t, Peer: func(c net.Conn) { dialServe(c, got) }}
			conn, err := d.Dial("tcp", "edge.example:80")
			require.NoError(t, err)
			sent, kept := <-got, conn.(*preflight.Conn).Request()
			require.NotNil(t, kept)
			require.Equal(t, sent.RequestURI, kept.RequestURI)
			require.Equal(t, sent.Host, kept.Host)
			require.Equal(t, sent.Header, kept.Header)
			for name, values := range d.Header {
				require.Equal(t, strings.Trim(values[0], " "), sent.Header.Get(name))
			}
		})
	}
}

// TestDialerHost: the Host field is that of the dialed address, in the form of
// HTTP.
func TestDialerHost(t *testing.T) {
	for _, test := range []struct{ network, address, host string }{
		{"tcp", "edge.example:8080", "edge.example:8080"},
		{"tcp", "edge.example:80", "edge.example"},
		{"tcp", "edge.example:080", "edge.example"},
		{"tcp", "edge.example:http", "edge.example"},
		{"tcp", "edge.example:443", "edge.example:443"},
		{"tcp", "edge.example:https", "edge.example:443"},
		{"tcp", "edge.example:8080", "edge.example:8080"},
		{"tcp4", "192.0.2.1:80", "192.0.2.1"},
		{"tcp6", "[2001:db8::1]:80", "[2001:db8::1]"},
		{"tcp6", "[2001:db8::80]:8080", "[2001:db8::80]:8080"},
		{"tcp", "[fe80::1%eth0]:80", "[fe80::1]"},
		{"tcp", ":80", "localhost"},
		{"tcp", ":8080", "localhost:8080"},
		{"unix", "/run/edge.sock", "localhost"},
		{"unix", "@abstract", "localhost"},
		{"tcp", "bufnet", "bufnet"}, // a custom NetDialer may understand these
	} {
		t.Run(test.network+" "+test.address, func(t *testing.T) {
			for _, host := range []string{"", "other.example"} {
				got := make(chan *http.Request, 1)
				peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) { dialServe(c, got) }}
				d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer, Host: host}
				_, err := d.Dial(test.network, test.address)
				require.NoError(t, err)
				require.Equal(t, test.network, peer.Network)
				require.Equal(t, test.address, peer.Address)
				if host == "" {
					host = test.host
				}
				require.Equal(t, host, (<-got).Host)
			}
		})
	}
}

func TestDialerUnixSocket(t *testing.T) {
	inner, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	ln := testkit.Listen(t, &preflight.PreflightListener{Listener: inner})
	testkit.ServeEcho(t, ln)
	conn, err := new(preflight.PreflightDialer).Dial("unix", inner.Addr().String())
	require.NoError(t, err)
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	_, err = io.WriteString(conn, "ping")
	require.NoError(t, err)
	require.NoError(t, conn.(*preflight.Conn).CloseWrite())
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "ping", string(got))
	require.Equal(t, "localhost", conn.(*preflight.Conn).Request().Host)
	require.NoError(t, conn.Close())
}

// TestDialerThroughDialer: a PreflightDialer is a NetDialer, so a tunnel can
// lead to the next proxy. Bytes that each server sends at once arrive at the
// right place.
func TestDialerThroughDialer(t *testing.T) {
	outer := &preflight.PreflightDialer{Carriers: testkit.UpgradeAlone,
		Path: "/first",
		NetDialer: &testkit.DialPeer{T: t, Peer: func(c net.Conn) {
			got := make(chan *http.Request, 2)
			dialServe(c, got)
			if r := <-got; r == nil || r.RequestURI != "/first" {
				t.Error("the first request must come first")
			}
			dialServe(c, got)
			if r := <-got; r == nil || r.RequestURI != "/second" {
				t.Error("the second request must come second")
			}
			io.WriteString(c, "banner")
		}},
	}
	conn, err := (&preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: outer, Path: "/second"}).Dial("tcp", "edge.example:80")
	require.NoError(t, err)
	got := make([]byte, len("banner"))
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, "banner", string(got))
	below := conn.(*preflight.Conn).NetConn().(*preflight.Conn)
	require.Equal(t, "/first", below.Request().RequestURI)
}

// TestDialerConcurrently shares one dialer. Nothing may write to its fields.
func TestDialerConcurrently(t *testing.T) {
	server := testkit.NewIdentity(t)
	inner := testkit.ListenTCP(t)
	testkit.ServeEcho(t, testkit.Listen(t, &preflight.PreflightListener{Listener: tls.NewListener(inner, server.Config)}))
	d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, TLSConfig: server.Client(), Header: http.Header{"X-A": {"1"}}}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for _, url := range []string{"tcps://%s/?http_preflight=1", "tcps://me:pw@%s/?http_preflight=1&tcp_nodelay=0"} {
				conn, err := d.DialURL(t.Context(), fmt.Sprintf(url, inner.Addr()))
				if assert.NoError(t, err) {
					assert.NoError(t, conn.Close())
				}
			}
		})
	}
	all.Wait()
}

func TestDialerReturnsErrorOfNetDialer(t *testing.T) {
	broken := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) { return nil, broken })}
	conn, err := d.Dial("tcp", "edge.example:80")
	require.Nil(t, conn)
	require.Same(t, broken, err)
}

// TestDialerClosesWhatItOpened: the dialer closes its connection after every
// kind of failure.
func TestDialerClosesWhatItOpened(t *testing.T) {
	answers := map[string]string{
		"refusal":      "HTTP/1.1 403 No\r\n\r\n",
		"wrong token":  "HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
		"not HTTP":     "220 mail.example ESMTP\r\n",
		"malformed":    "HTTP/1.1 101 S\r\nX Y: z\r\n\r\n",
		"EOF":          "",
		"half an EOF":  testkit.UpgradeAnswer[:20],
		"interims":     strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 9),
		"endless head": "HTTP/1.1 101 S\r\nX: " + strings.Repeat("x", 70<<10),
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) {
				testkit.ReadRequest(c)
				io.WriteString(c, answer)
				c.Close()
			}}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer, Header: testkit.SecretFields}
			conn, err := d.Dial("tcp", "edge.example:80")
			require.Error(t, err)
			require.Nil(t, conn)
			require.EqualValues(t, 1, peer.Spy.Closes.Load())
			testkit.RequireNoSecret(t, err)
		})
	}
	t.Run("success", func(t *testing.T) {
		peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) { dialServe(c, make(chan *http.Request, 1)) }}
		d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer}
		conn, err := d.Dial("tcp", "edge.example:80")
		require.NoError(t, err)
		require.Zero(t, peer.Spy.Closes.Load())
		require.NoError(t, conn.Close())
		require.EqualValues(t, 1, peer.Spy.Closes.Load())
	})
}

// TestDialerLeaksNothingAfterRefusals: a dialer built on http.Transport leaks a
// connection and three goroutines for each refused upgrade. TestMain counts the
// goroutines.
func TestDialerLeaksNothingAfterRefusals(t *testing.T) {
	ln := testkit.ListenTCP(t)
	const refusals = 50
	left := make(chan error, refusals)
	go func() {
		for range refusals {
			c, err := ln.Accept()
			if err != nil {
				left <- err
				return
			}
			testkit.ReadRequest(c)
			io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\nConnection: keep-alive\r\n\r\nno you")
			_, err = c.Read(make([]byte, 1)) // EOF as soon as the client has closed
			left <- err
			c.Close()
		}
	}()
	for range refusals {
		_, err := (&preflight.PreflightDialer{Carriers: testkit.UpgradeAlone}).Dial("tcp", ln.Addr().String())
		require.Equal(t, 403, testkit.StatusError(t, err).StatusCode)
		require.ErrorIs(t, <-left, io.EOF)
	}
}

// TestDialerStalls is TestUpgradeStalls for all steps of a dial, including TLS.
// The connection is closed at the end.
func TestDialerStalls(t *testing.T) {
	server := testkit.NewIdentity(t)
	toTLS := func(c net.Conn) net.Conn {
		tc := tls.Server(c, server.Config)
		if tc.Handshake() != nil {
			return nil
		}
		return tc
	}
	stalls := map[string]struct {
		tls  bool
		peer func(net.Conn)
	}{
		"says nothing":            {false, func(c net.Conn) { testkit.ReadRequest(c) }},
		"reads nothing":           {false, func(net.Conn) {}},
		"in the head":             {false, func(c net.Conn) { testkit.ReadRequest(c); io.WriteString(c, "HTTP/1.1 101 S\r\n") }},
		"before TLS":              {true, func(net.Conn) {}},
		"in TLS":                  {true, func(c net.Conn) { c.Read(make([]byte, 1<<10)) }},
		"in the first TLS record": {true, func(c net.Conn) { c.Read(make([]byte, 1<<10)); io.WriteString(c, "\x16\x03\x03") }},
		"after TLS":               {true, func(c net.Conn) { toTLS(c) }},
		"after the request in TLS": {true, func(c net.Conn) {
			if tc := toTLS(c); tc != nil {
				testkit.ReadRequest(tc)
			}
		}},
	}
	for stallName, stall := range stalls {
		for endName, end := range testkit.ContextEnds {
			for _, noDeadlines := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/noDeadlines=%v", stallName, endName, noDeadlines), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := end.Ctx(t.Context())
						defer cancel()
						peer := &testkit.DialPeer{T: t, Peer: stall.peer, NoDeadlines: noDeadlines}
						d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer, Header: testkit.SecretFields}
						if stall.tls {
							d.TLSConfig = server.Client()
						}
						begun := time.Now()
						conn, err := d.DialContext(ctx, "tcp", "edge.example:443")
						require.Nil(t, conn)
						require.ErrorIs(t, err, end.Want)
						require.Equal(t, end.After, time.Since(begun))
						require.NotZero(t, peer.Spy.Closes.Load())
						var op *net.OpError
						require.ErrorAs(t, err, &op)
						require.Equal(t, "preflight", op.Op)
						require.Equal(t, endName == "timeout" || strings.HasPrefix(endName, "deadline of"), op.Timeout())
						testkit.RequireNoSecret(t, err)
					})
				})
			}
		}
	}
}

// TestDialerTimeout: the timeout begins when NetDialer has returned. One
// timeout applies to TLS and the upgrade together.
func TestDialerTimeout(t *testing.T) {
	server := testkit.NewIdentity(t)
	t.Run("from the end of dialing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) { testkit.ReadRequest(c) }}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, HandshakeTimeout: 2 * time.Second, NetDialer: testkit.DialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
				<-time.After(time.Hour)
				return peer.DialContext(ctx, network, address)
			})}
			begun := time.Now()
			_, err := d.Dial("tcp", "edge.example:80")
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, time.Hour+2*time.Second, time.Since(begun))
		})
	})
	t.Run("slow TLS", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, TLSConfig: server.Client(), NetDialer: &testkit.DialPeer{T: t, Peer: func(c net.Conn) {
				<-time.After(6 * time.Second)
				if tc := tls.Server(c, server.Config); tc.Handshake() == nil {
					testkit.ReadRequest(tc)
				}
			}}}
			begun := time.Now()
			_, err := d.Dial("tcp", "edge.example:443")
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.ErrorContains(t, err, "wait for the 101")
			require.Equal(t, 10*time.Second, time.Since(begun))
		})
	})
	for _, noDeadlines := range []bool{false, true} {
		t.Run(fmt.Sprintf("negative/noDeadlines=%v", noDeadlines), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, HandshakeTimeout: -1, NetDialer: &testkit.DialPeer{T: t, NoDeadlines: noDeadlines, Peer: func(c net.Conn) {
					testkit.ReadRequest(c)
					<-time.After(24 * time.Hour)
					io.WriteString(c, testkit.UpgradeAnswer)
				}}}
				begun := time.Now()
				_, err := d.Dial("tcp", "edge.example:80")
				require.NoError(t, err)
				require.Equal(t, 24*time.Hour, time.Since(begun))
			})
		})
	}
	t.Run("negative, ctx ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, HandshakeTimeout: -1, NetDialer: &testkit.DialPeer{T: t, Peer: func(c net.Conn) { testkit.ReadRequest(c) }}}
			begun := time.Now()
			_, err := d.DialContext(ctx, "tcp", "edge.example:80")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, time.Hour, time.Since(begun))
		})
	})
}
