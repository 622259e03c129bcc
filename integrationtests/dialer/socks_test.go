package dialer_test

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// fwdSOCKS is a SOCKS5 proxy (RFC 1928, with RFC 1929 if there is a login). It
// reports each requested address as "type host port".
type fwdSOCKS struct {
	login string // user:password; "" means none
	reply byte
	to    map[string]string
	asked chan string
}

func (s *fwdSOCKS) serve(c net.Conn) {
	next := func(n int) []byte {
		b := make([]byte, n)
		io.ReadFull(c, b)
		return b
	}
	methods := next(int(next(2)[1]))
	switch {
	case s.login == "":
		c.Write([]byte{5, 0})
	case !strings.Contains(string(methods), "\x02"):
		c.Write([]byte{5, 0xff})
		return
	default:
		c.Write([]byte{5, 2})
		user := next(int(next(2)[1]))
		password := next(int(next(1)[0]))
		if string(user)+":"+string(password) != s.login {
			c.Write([]byte{1, 1})
			return
		}
		c.Write([]byte{1, 0})
	}
	request := next(4)
	host := ""
	switch request[3] {
	case 1:
		host = net.IP(next(4)).String()
	case 3:
		host = string(next(int(next(1)[0])))
	case 4:
		host = net.IP(next(16)).String()
	}
	address := net.JoinHostPort(host, fmt.Sprint(binary.BigEndian.Uint16(next(2))))
	s.asked <- fmt.Sprintf("%d %s", request[3], address)
	const bound = "\x01\x7f\x00\x00\x01\x00\x00"
	if s.reply != 0 {
		io.WriteString(c, "\x05"+string([]byte{s.reply})+"\x00"+bound)
		return
	}
	fwdRelay(c, s.to[address], "\x05\x00\x00"+bound, "\x05\x04\x00"+bound)
}

// TestSOCKS: the proxy receives names as names. Afterwards the TCP connection
// is not wrapped by a layer of SOCKS.
func TestSOCKS(t *testing.T) {
	heads := make(chan string, 12) // room for all, so that no proxy waits for a failed test
	edge := fwdServe(t, fwdUpgrade(heads, fwdEcho))
	for _, scheme := range []string{"socks5", "socks5h"} {
		for _, test := range []struct{ name, userinfo, login, address, asked string }{
			{"no login", "", "", "edge.invalid:80", "3 edge.invalid:80"},
			{"login not wanted", "me:s3cr3t@", "", "edge.invalid:80", "3 edge.invalid:80"},
			{"login", "me:s3cr3t%20%3A@", "me:s3cr3t :", "edge.invalid:80", "3 edge.invalid:80"},
			{"IPv4", "", "", "192.0.2.1:8080", "1 192.0.2.1:8080"},
			{"IPv6", "", "", "[2001:db8::1]:8080", "4 [2001:db8::1]:8080"},
			{"service", "", "", "edge.invalid:https", "3 edge.invalid:443"},
		} {
			t.Run(scheme+"/"+test.name, func(t *testing.T) {
				_, asked, _ := strings.Cut(test.asked, " ")
				host := strings.TrimSuffix(asked, ":80")
				s := &fwdSOCKS{login: test.login, to: map[string]string{asked: edge}, asked: make(chan string, 1)}
				d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: fwdBy(t, scheme+"://"+test.userinfo+fwdServe(t, s.serve))}
				conn, err := d.Dial("tcp", test.address)
				require.NoError(t, err)
				defer conn.Close()
				require.Equal(t, test.asked, fwdNext(t, s.asked))
				require.Contains(t, fwdNext(t, heads), "\r\nHost: "+host+"\r\n")
				require.IsType(t, (*net.TCPConn)(nil), conn.(*preflight.Conn).NetConn())
				fwdEnds(t, conn)
			})
		}
	}
}

// TestSOCKSFails: each error names the step, and the connection is closed.
func TestSOCKSFails(t *testing.T) {
	raw := func(reads int, answer string) func(net.Conn) {
		return func(c net.Conn) {
			io.ReadFull(c, make([]byte, reads))
			io.WriteString(c, answer)
		}
	}
	refused := func(s *fwdSOCKS) func(net.Conn) {
		s.asked = make(chan string, 1)
		return s.serve
	}
	const incomplete = "connection ended before the answer"
	for name, test := range map[string]struct {
		userinfo, cause, code string
		serve                 func(net.Conn)
	}{
		"wants a login":      {"", "no acceptable authentication methods", "socks-auth-missing", refused(&fwdSOCKS{login: "me:s3cr3t"})},
		"wrong password":     {"me:s3cr3t@", "authentication failed", "socks-auth-refused", refused(&fwdSOCKS{login: "me:other"})},
		"not allowed":        {"", "not allowed", "socks-forbidden", refused(&fwdSOCKS{reply: 2})},
		"host unreachable":   {"", "host unreachable", "socks-unreachable", refused(&fwdSOCKS{reply: 4})},
		"connection refused": {"", "connection refused", "socks-unreachable", refused(&fwdSOCKS{reply: 5})},
		"EOF":                {"", incomplete, "socks-ended", raw(3, "")},
		"half a method":      {"", incomplete, "socks-ended", raw(3, "\x05")},
		"method alone":       {"", incomplete, "socks-ended", raw(3, "\x05\x00")},
		"half a login":       {"me:s3cr3t@", incomplete, "socks-auth-refused", raw(4, "\x05\x02\x01")},
		"half a reply":       {"", incomplete, "socks-ended", raw(3, "\x05\x00\x05\x00\x00\x01")},
		"HTTP":               {"", "unexpected protocol version", "not-socks", raw(3, "HTTP/1.1 400 Bad Request\r\n\r\n")},
	} {
		t.Run(name, func(t *testing.T) {
			network := &fwdNet{hosts: map[string]string{"proxy:1080": fwdServe(t, test.serve)}}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, Proxy: fwdBy(t, "socks5://"+test.userinfo+"proxy")}
			conn, err := d.Dial("tcp", "edge.invalid:80")
			require.Nil(t, conn)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "preflight", op.Op)
			require.ErrorContains(t, err, "SOCKS5 with the forward proxy")
			require.ErrorContains(t, err, test.cause)
			require.ErrorContains(t, err, "["+test.code+"]")
			agreed := name == "half a reply" || name == "method alone"
			require.Equal(t, agreed, strings.Contains(err.Error(), "it is a SOCKS5 proxy, and ended the connection after the request"), err.Error())
			testkit.RequireNoSecret(t, err)
			network.closed(t, 1)
		})
	}
}

// TestForwardProxyChain: forward proxy, TLS to the edge, the upgrade and TLS
// inside the tunnel. Each layer can be reached by its own accessor, and a
// half-close goes through all of them.
func TestForwardProxyChain(t *testing.T) {
	ca := fwdNewCA(t)
	heads, connects := make(chan string, 3), make(chan string, 3)
	inner := ca.server("service.example")
	edge := fwdServe(t, fwdSecure(ca.server("edge.example"), fwdUpgrade(heads, fwdSecure(inner, fwdEcho))))
	to := map[string]string{"edge.example:443": edge}
	for scheme, serve := range map[string]func(net.Conn){
		"http":   fwdConnect(connects, to),
		"https":  fwdSecure(ca.server("proxy.example"), fwdConnect(connects, to)),
		"socks5": (&fwdSOCKS{to: to, asked: connects}).serve,
	} {
		t.Run(scheme, func(t *testing.T) {
			network := &fwdNet{bare: true, hosts: map[string]string{"proxy.example:3128": fwdServe(t, serve)}}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone,
				NetDialer: network, Proxy: fwdBy(t, scheme+"://proxy.example:3128"),
				TLSConfig: ca.client(), TunnelTLSConfig: ca.client(), Host: "service.example:443",
			}
			d.TLSConfig.ServerName = "edge.example"
			conn, err := d.Dial("tcp", "edge.example:443")
			require.NoError(t, err)
			defer conn.Close()
			fwdNext(t, connects)
			require.Contains(t, fwdNext(t, heads), "\r\nHost: service.example:443\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Carriers: upgrade\r\nPreflight-Tunnel: tls\r\n")
			require.Equal(t, "tls", conn.(*preflight.Conn).Response().Header.Get("Preflight-Tunnel"))

			inside := conn.(*preflight.Conn).NetConn().(*tls.Conn)
			require.Equal(t, "service.example", inside.ConnectionState().ServerName)
			outside := testkit.Below[*tls.Conn](t, inside)
			require.Equal(t, "edge.example", outside.ConnectionState().ServerName)
			bottom := outside.NetConn()
			if scheme == "https" {
				toProxy := bottom.(*tls.Conn)
				require.Equal(t, "proxy.example", toProxy.ConnectionState().ServerName)
				bottom = toProxy.NetConn()
			}
			require.IsType(t, (*net.TCPConn)(nil), bottom)
			fwdEnds(t, conn)
		})
	}
}
