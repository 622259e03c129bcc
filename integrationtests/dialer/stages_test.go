package dialer_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

const connectEstablished = "HTTP/1.1 200 Connection established\r\n\r\n"

// serveTLS is a peer's side of TLS. rest runs after the handshake.
func serveTLS(c net.Conn, config *tls.Config, rest func(net.Conn)) {
	if tc := tls.Server(c, config); tc.Handshake() == nil {
		rest(tc)
	}
}

// dripAnswer answers with one byte every 300 ms, as long as the client is
// connected.
func dripAnswer(answer string) func(net.Conn) {
	return func(c net.Conn) {
		testkit.ReadRequest(c)
		_, err := io.WriteString(c, answer)
		for err == nil {
			<-time.After(300 * time.Millisecond)
			_, err = io.WriteString(c, "x")
		}
	}
}

// TestDialerStages: a peer may stall at every step. However the dial then ends,
// its error names the step and the reason, and nothing leaks: the bubble of
// synctest fails if a goroutine remains.
func TestDialerStages(t *testing.T) {
	id := testkit.NewIdentity(t)
	none := func(net.Conn) {}
	inTLS := func(rest func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) { serveTLS(c, id.Config, rest) }
	}
	half := func(c net.Conn) { c.Read(make([]byte, 1<<10)); io.WriteString(c, "\x16\x03\x03\x40\x00\x02") }
	const httpProxy, httpsProxy, socks = "http://me:s3cr3t@proxy.example:3128", "https://me:s3cr3t@edge.example:3128", "socks5://me:s3cr3t@proxy.example"
	for _, stage := range []struct {
		name, proxy string
		tls, inside bool
		peer        func(net.Conn)
		stage       string
	}{
		{"CONNECT is not read", httpProxy, false, false, none, "write CONNECT to the forward proxy"},
		{"CONNECT is not answered", httpProxy, false, false, testkit.Silent, "wait for the forward proxy's answer to CONNECT"},
		{"CONNECT is answered in part", httpProxy, true, false, testkit.Say("HTTP/1.1 200", none), "read the forward proxy's answer to CONNECT"},
		{"CONNECT is answered by drips", httpProxy, true, false, dripAnswer("HTTP/1.1 200 "), "read the forward proxy's answer to CONNECT"},
		{"SOCKS5 is not answered", socks, true, false, none, "SOCKS5 with the forward proxy"},
		{"SOCKS5 stops after the methods", socks, false, false, func(c net.Conn) {
			io.ReadFull(c, make([]byte, 4))
			io.WriteString(c, "\x05\x02")
		}, "SOCKS5 with the forward proxy"},
		{"no TLS with the proxy", httpsProxy, false, false, none, "TLS handshake with the forward proxy"},
		{"half of TLS with the proxy", httpsProxy, true, false, half, "TLS handshake with the forward proxy"},
		{"CONNECT in TLS is not answered", httpsProxy, true, false, inTLS(testkit.Silent), "wait for the forward proxy's answer to CONNECT"},
		{"no TLS", "", true, false, none, "TLS handshake:"},
		{"half of TLS", "", true, false, half, "TLS handshake:"},
		{"no TLS behind CONNECT", httpProxy, true, false, testkit.Say(connectEstablished, none), "TLS handshake:"},
		{"a record is glued to the answer to CONNECT", httpProxy, true, false, testkit.Say(connectEstablished+"\x16\x03\x03\x40", none), "TLS handshake:"},
		{"TLS in TLS", httpsProxy, true, false, inTLS(testkit.Say(connectEstablished, half)), "TLS handshake:"},
		{"the request is not read", "", false, false, none, "write the upgrade request"},
		{"the request behind CONNECT is not read", httpProxy, false, false, testkit.Say(connectEstablished, none), "write the upgrade request"},
		{"the request in TLS is not read", "", true, false, inTLS(none), "write the upgrade request"},
		{"no answer", "", false, false, testkit.Silent, "wait for the 101"},
		{"no answer in TLS in TLS", httpsProxy, true, false, inTLS(testkit.Say(connectEstablished, inTLS(testkit.Silent))), "wait for the 101"},
		{"drips", "", false, true, dripAnswer("HTTP/1.1 101 "), "read the answer"},
		{"drips in TLS behind CONNECT", httpProxy, true, true, testkit.Say(connectEstablished, inTLS(dripAnswer("HTTP/1.1 101 "))), "read the answer"},
		{"no TLS inside", "", false, true, testkit.Say(testkit.AnswerTLS, none), "TLS handshake in the tunnel"},
		{"half of TLS inside", httpProxy, true, true, testkit.Say(connectEstablished, inTLS(testkit.Say(testkit.AnswerTLS, half))), "TLS handshake in the tunnel"},
	} {
		for endName, end := range testkit.ContextEnds {
			for _, noDeadlines := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/noDeadlines=%v", stage.name, endName, noDeadlines), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := end.Ctx(t.Context())
						defer cancel()
						done := make(chan struct{})
						peer := &testkit.DialPeer{T: t, NoDeadlines: noDeadlines, Peer: func(c net.Conn) {
							stage.peer(c)
							close(done)
						}}
						d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer, Path: "/?s3cr3t", Header: testkit.SecretFields}
						if stage.proxy != "" {
							d.Proxy = testkit.Via(stage.proxy)
						}
						if stage.tls || stage.proxy == httpsProxy {
							d.TLSConfig = id.Client()
						}
						if stage.inside {
							d.TunnelTLSConfig = id.Client()
						}
						begun := time.Now()
						conn, err := d.DialContext(ctx, "tcp", "edge.example:443")
						require.Nil(t, conn)
						require.Equal(t, end.After, time.Since(begun))
						require.ErrorContains(t, err, stage.stage)
						op, ok := err.(*net.OpError)
						require.True(t, ok)
						require.Equal(t, "preflight", op.Op)
						for _, is := range []error{os.ErrDeadlineExceeded, context.DeadlineExceeded, context.Canceled, testkit.ErrCause} {
							// The error holds this reason and no other.
							require.Equal(t, is == end.Want || is == end.Of, errors.Is(err, is), "%v: %v", is, err)
						}
						require.Equal(t, endName == "timeout" || endName == "deadline of ctx", op.Timeout())
						require.NotZero(t, peer.Spy.Closes.Load())
						testkit.RequireNoSecret(t, err)
						<-done // the connection was closed for that
					})
				})
			}
		}
	}
}

// TestDialerStagesBeforeTheConnection: the context bounds NetDialer. The dial
// returns the error of NetDialer, which names the failed step. If the context
// has a deadline, HandshakeTimeout does not end NetDialer.
func TestDialerStagesBeforeTheConnection(t *testing.T) {
	for _, proxy := range []string{"", "http://me:s3cr3t@proxy.invalid:3128", "socks5h://me:s3cr3t@proxy.invalid"} {
		for _, how := range []string{"cancel", "deadline"} {
			for _, at := range []string{"resolve", "connect"} {
				t.Run(at+"/"+how+"/"+proxy, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					want := context.Canceled
					if how == "deadline" {
						ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
						want = context.DeadlineExceeded
					}
					defer cancel()
					block := func(ctx context.Context, network, address string) (net.Conn, error) {
						if how == "cancel" {
							cancel()
						}
						<-ctx.Done()
						return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
					}
					d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialFunc(block), Header: testkit.SecretFields}
					if how == "deadline" {
						d.HandshakeTimeout = time.Nanosecond
					}
					if at == "resolve" {
						d.NetDialer = &net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: block}}
					}
					if proxy != "" {
						d.Proxy = testkit.Via(proxy)
					}
					conn, err := d.DialContext(ctx, "tcp", "edge.invalid:80")
					require.Nil(t, conn)
					require.ErrorIs(t, err, want)
					require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
					op, ok := err.(*net.OpError)
					require.True(t, ok)
					require.Equal(t, how == "deadline", op.Timeout())
					require.ErrorContains(t, err, "dial")
					if proxy != "" {
						require.Equal(t, "proxyconnect", op.Op)
					}
					if at == "resolve" {
						require.ErrorContains(t, err, "lookup ")
						require.ErrorAs(t, err, new(*net.DNSError))
					}
					testkit.RequireNoSecret(t, err)
				})
			}
		}
	}
}

// TestDialerStagesContextHasEnded: the context ends before NetDialer returns,
// and NetDialer does not notice. No upgrade request and no request to a forward
// proxy is sent.
func TestDialerStagesContextHasEnded(t *testing.T) {
	for _, proxy := range []string{"", "http://proxy.example", "https://edge.example", "socks5://proxy.example"} {
		for _, secure := range []bool{false, true} {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(testkit.ErrCause)
			peer := &testkit.DialPeer{T: t, Peer: func(net.Conn) {}}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer}
			if proxy != "" {
				d.Proxy = testkit.Via(proxy)
			}
			if secure {
				d.TLSConfig = new(tls.Config)
			}
			conn, err := d.DialContext(ctx, "tcp", "edge.example:80")
			require.Nil(t, conn)
			require.ErrorIs(t, err, testkit.ErrCause)
			if begins := strings.HasPrefix(proxy, "https") || secure && proxy == ""; !begins { // TLS begins, and its hello contains no secret
				require.Zero(t, peer.Spy.Writes.Load())
			}
			require.NotZero(t, peer.Spy.Closes.Load())
		}
	}
}

// TestDialURLByProxy: a URL is dialed through the forward proxy, with an
// upgrade and without one. The proxy's credentials go to the proxy. The
// userinfo of the URL goes to no one.
func TestDialURLByProxy(t *testing.T) {
	id := testkit.NewIdentity(t)
	connects := make(chan *http.Request, 8)
	forward := testkit.ListenTCP(t)
	go forwardAll(forward, connects)
	echo := dialEcho(t, nil)
	secureEcho := dialEcho(t, id.Config)
	requests := make(chan *http.Request, 8)
	vet := func(r *http.Request) (http.Header, error) { requests <- r; return nil, nil }
	upgraded := testkit.Listen(t, &preflight.PreflightListener{Authorize: vet})
	testkit.ServeEcho(t, upgraded)
	secure := testkit.ListenTCP(t)
	testkit.ServeEcho(t, testkit.Listen(t, &preflight.PreflightListener{Listener: tls.NewListener(secure, id.Config), Authorize: vet}))
	for name, test := range map[string]struct {
		scheme, address string
		preflight       bool
	}{
		"tcp":            {"tcp", echo, false},
		"tcps":           {"tcps", secureEcho, false},
		"tcp preflight":  {"tcp", upgraded.Addr().String(), true},
		"tcps preflight": {"tcps", secure.Addr().String(), true},
	} {
		t.Run(name, func(t *testing.T) {
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: testkit.Via("http://out:s3cr3t@" + forward.Addr().String())}
			if test.scheme == "tcps" {
				d.TLSConfig = id.Client()
			}
			conn, err := d.DialURL(t.Context(), fmt.Sprintf("%s://me:pw@%s/amps?http_preflight=%v&tcp_nodelay=0", test.scheme, test.address, test.preflight))
			require.NoError(t, err)
			dialPing(t, conn)
			connect := <-connects
			require.Equal(t, test.address, connect.RequestURI)
			require.Empty(t, connect.Header["Authorization"])
			require.Equal(t, []string{"Basic b3V0OnMzY3IzdA=="}, connect.Header["Proxy-Authorization"])
			if !test.preflight {
				return
			}
			r := <-requests
			require.Equal(t, "/amps", r.RequestURI)
			require.Empty(t, r.Header["Authorization"])
			require.Empty(t, r.Header["Proxy-Authorization"])
		})
	}
}

// forwardAll is a forward proxy that allows every address, until ln is closed.
func forwardAll(ln net.Listener, connects chan<- *http.Request) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r, err := http.ReadRequest(bufio.NewReader(c))
			if err != nil || r.Method != http.MethodConnect {
				return
			}
			connects <- r
			to, err := net.Dial("tcp", r.RequestURI)
			if err != nil {
				return
			}
			defer to.Close()
			io.WriteString(c, connectEstablished)
			go func() {
				io.Copy(to, c)
				to.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(c, to)
		}()
	}
}

// TestDialURLByProxyErrors: if the proxy refuses the dial, the error contains
// neither the password of the URL nor that of the proxy, with an upgrade and
// without one. Bytes that tcps must protect are not sent in clear.
func TestDialURLByProxyErrors(t *testing.T) {
	for _, upgraded := range []string{"0", "1"} {
		for _, scheme := range []string{"tcp", "tcps"} {
			peer := &testkit.DialPeer{T: t, Peer: testkit.Say("HTTP/1.1 407 P\r\nProxy-Authenticate: Basic realm=\"s3cr3t\"\r\nContent-Length: 0\r\n\r\n", func(net.Conn) {})}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer, Proxy: testkit.Via("http://out:s3cr3t@proxy.example:3128")}
			_, err := d.DialURL(t.Context(), scheme+"://me:s3cr3t@edge.example:443/s3cr3t?http_preflight="+upgraded)
			e := testkit.StatusError(t, err)
			require.Equal(t, 407, e.StatusCode)
			require.True(t, e.ForwardProxy)
			require.Equal(t, `Basic realm="s3cr3t"`, e.Header.Get("Proxy-Authenticate"))
			require.EqualValues(t, 1, peer.Spy.Closes.Load())
			require.Equal(t, "proxy.example:3128", peer.Address)
			testkit.RequireNoSecret(t, err)
			require.NotContains(t, err.Error(), "czNjcjN0") // base64 of parts of it
			require.NotContains(t, err.Error(), strings.TrimRight("b3V0OnMzY3IzdA==", "="))
			d = preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialNever(t), Proxy: d.Proxy, TLSConfig: new(tls.Config)}
			if scheme == "tcp" {
				_, err = d.DialURL(t.Context(), "tcp://me:s3cr3t@edge.example:443/?http_preflight="+upgraded)
				require.ErrorContains(t, err, "use tcps")
				testkit.RequireNoSecret(t, err)
			}
		}
	}
}
