package dialer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// TestScriptedProxy: other bytes come instead of a 101, and then nothing more.
// The connection stays open, as with a proxy that is misconfigured.
func TestScriptedProxy(t *testing.T) {
	interim := "HTTP/1.1 103 Early Hints\r\nLink: </s3cr3t>\r\n\r\n"
	for _, test := range []struct {
		name, answer string
		says         []string
	}{
		{"HTML without a status line", "<!DOCTYPE html>\n<title>503</title>", []string{"not HTTP", `"<!DOCTYPE html>`}},
		{"garbage", "\x00\xff\x1b[2J\x07", []string{"not HTTP", `"\x00\xff\x1b[2J\a"`, "something else answered"}},
		{"a banner", "SSH-2.0-OpenSSH_9.9\r\n", []string{"not HTTP", `"SSH-2.0-OpenSSH_9.9\r\n"`, "an SSH server answered"}},
		{"another banner", "220 mail.example ESMTP\r\n", []string{"not HTTP", "a mail or FTP server"}},
		{"Redis", "-ERR wrong number of arguments for 'get' command\r\n", []string{"not HTTP", "Redis"}},
		{"HTTP/2 in its name alone", "HTTP/2 200\r\n\r\n", []string{"not HTTP", "another version"}},
		{"garbage behind interim answers", interim + interim + "what?", []string{"not HTTP", "what?", "something else answered"}},
		{"9 interim answers", strings.Repeat(interim, 9), []string{"more than 8 interim"}},
		{"9 answers 100", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 9), []string{"more than 8 interim"}},
		{"malformed", "HTTP/1.1 101 S\r\nX Y: s3cr3t\r\n\r\n", []string{"malformed", "read the answer"}},
		{"control characters", "HTTP/1.1 400 \x1b[2J\r\n\r\n", []string{"malformed"}},
	} {
		for _, tcp := range []bool{false, true} {
			for _, drip := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/tcp=%v/drip=%v", test.name, tcp, drip), func(t *testing.T) {
					_, err := testkit.DialScripted(t, tcp, func(c net.Conn) { testkit.WriteScript(c, test.answer, drip) })
					require.NotErrorAs(t, err, new(*preflight.StatusError))
					op, ok := err.(*net.OpError)
					require.True(t, ok)
					require.Equal(t, "preflight", op.Op)
					require.False(t, op.Timeout())
					require.False(t, op.Temporary())
					if drip { // then the snippet is the whole answer
						test.says = test.says[:1]
					}
					for _, s := range test.says {
						require.ErrorContains(t, err, s)
					}
				})
			}
		}
	}
}

// TestScriptedProxyBadSwitch: a 101 for another protocol than the requested one
// opens no tunnel.
func TestScriptedProxyBadSwitch(t *testing.T) {
	for fields, says := range map[string]string{
		"":                        "no Upgrade field",
		"Connection: Upgrade\r\n": "no Upgrade field",
		"Upgrade: tcp\r\n":        "Connection",
		"Upgrade: tcps\r\nConnection: Upgrade\r\n":                                    "another protocol",
		"Upgrade: tcp, s3cr3t\r\nConnection: Upgrade\r\n":                             "another protocol",
		"Upgrade: tcp\r\nConnection: keep-alive\r\n":                                  "Connection",
		"Transfer-Encoding: chunked\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n": "another protocol",
	} {
		for _, tcp := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q/tcp=%v", fields, tcp), func(t *testing.T) {
				_, err := testkit.DialScripted(t, tcp, func(c net.Conn) {
					io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n"+fields+"\r\nbanner")
				})
				require.Equal(t, 101, testkit.StatusError(t, err).StatusCode)
				require.False(t, testkit.StatusError(t, err).Temporary())
				require.ErrorContains(t, err, says)
			})
		}
	}
}

// TestScriptedProxySwitches: unusual answers that open a tunnel. The bytes that
// came with the answer are the first of the tunnel.
func TestScriptedProxySwitches(t *testing.T) {
	for name, answer := range map[string]string{
		"usual":     testkit.UpgradeAnswer,
		"8 interim": strings.Repeat("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nX: y\r\n\r\n", 4) + testkit.UpgradeAnswer,
		"chunked":   "HTTP/1.1 101 S\r\nTransfer-Encoding: chunked\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
		"length":    "HTTP/1.0 101\r\nContent-Length: 3\r\nUpgrade: TCP\r\nConnection: close, upgrade\r\n\r\n",
	} {
		for _, tcp := range []bool{false, true} {
			for _, drip := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/tcp=%v/drip=%v", name, tcp, drip), func(t *testing.T) {
					peer := &testkit.DialPeer{T: t, Tcp: tcp, Peer: func(c net.Conn) {
						testkit.ReadRequest(c)
						testkit.WriteScript(c, answer+"banner", drip)
						io.Copy(c, c)
					}}
					conn, err := (&preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer}).Dial("tcp", "edge.example:80")
					require.NoError(t, err)
					got := make([]byte, len("banner"))
					_, err = io.ReadFull(conn, got)
					require.NoError(t, err)
					require.Equal(t, "banner", string(got))
					require.Zero(t, peer.Spy.Closes.Load())
					dialPing(t, conn)
				})
			}
		}
	}
}

// TestScriptedProxyEnds: the answer ends at each byte, with an EOF or a reset.
// Both mean that the server is not available, perhaps for a short time.
func TestScriptedProxyEnds(t *testing.T) {
	ends := map[string]struct {
		tcp bool
		end func(net.Conn)
		is  error
	}{
		"pipe":  {false, func(c net.Conn) { c.Close() }, io.ErrUnexpectedEOF},
		"close": {true, func(c net.Conn) { c.Close() }, io.ErrUnexpectedEOF},
		"half":  {true, func(c net.Conn) { c.(*net.TCPConn).CloseWrite() }, io.ErrUnexpectedEOF},
		"reset": {true, func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() }, syscall.ECONNRESET},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			for i := range len(testkit.UpgradeAnswer) {
				_, err := testkit.DialScripted(t, end.tcp, func(c net.Conn) {
					io.WriteString(c, testkit.UpgradeAnswer[:i])
					end.end(c)
				})
				testkit.RequireUnavailable(t, err)
				require.ErrorIs(t, err, end.is, "after %d bytes", i)
			}
		})
	}
}

// TestScriptedProxyBreaks: the same end, seen by a write that came too late.
func TestScriptedProxyBreaks(t *testing.T) {
	client, server := testkit.TCPPair(t)
	require.NoError(t, server.Close())
	spy := &testkit.SpyConn{Conn: client}
	d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Header: testkit.SecretFields, NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) {
		return testkit.BrokenWrite{SpyConn: spy}, nil
	})}
	conn, err := d.Dial("tcp", "edge.example:80")
	require.Nil(t, conn)
	require.ErrorIs(t, err, syscall.EPIPE)
	require.ErrorContains(t, err, "write the upgrade request")
	require.EqualValues(t, 1, spy.Closes.Load())
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.True(t, op.Temporary())
}

// TestScriptedProxyEndless: of heads and bodies of 1 GiB the dialer reads no
// more than its limit, and then closes the connection.
func TestScriptedProxyEndless(t *testing.T) {
	const head, body = 64 << 10, 24 << 10 // the body: 4 KiB, its framing, and the bytes that were read ahead
	refusal := "HTTP/1.1 403 No\r\n"
	for name, test := range map[string]struct {
		first, again string
		limit        int64
		status       int
		bytes        int // the length of Body
	}{
		"fields":           {"HTTP/1.1 101 S\r\n", "X-Filler: filler\r\n", head, 0, 0},
		"fields of a 502":  {"HTTP/1.1 502 Bad Gateway\r\n", "X: \r\n", head, 0, 0},
		"a field":          {"HTTP/1.1 101 S\r\nX: ", "xxxxxxxx", head, 0, 0},
		"folds":            {"HTTP/1.1 101 S\r\nX: y\r\n", " z\r\n", head, 0, 0},
		"reason":           {"HTTP/1.1 101 ", "xxxxxxxx", head, 0, 0},
		"a 103":            {"HTTP/1.1 103 E\r\n", "Link: </x>\r\n", head, 0, 0},
		"103s":             {"", "HTTP/1.1 103 E\r\n\r\n", head, 0, 0},
		"body":             {refusal + "\r\n", "xxxxxxxx", body, 403, 4 << 10},
		"length":           {refusal + "Content-Length: 9999999999\r\n\r\n", "xxxxxxxx", body, 403, 4 << 10},
		"chunks":           {refusal + "Transfer-Encoding: chunked\r\n\r\n", "1000\r\n" + strings.Repeat("x", 4<<10) + "\r\n", body, 403, 4 << 10},
		"a chunk":          {refusal + "Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", "xxxxxxxx", body, 403, 4 << 10},
		"chunks of a byte": {refusal + "Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", 48 << 10, 403, -1},
		"chunk extensions": {refusal + "Transfer-Encoding: chunked\r\n\r\n", "1;" + strings.Repeat("x", 1<<10) + "\r\nx\r\n", 48 << 10, 403, -1},
		"a chunk size":     {refusal + "Transfer-Encoding: chunked\r\n\r\n", "00000000", body, 403, 0},
		"trailer":          {refusal + "Transfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n", body, 403, 0},
	} {
		for _, tcp := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/tcp=%v", name, tcp), func(t *testing.T) {
				var sent atomic.Int64
				spy, err := testkit.DialScripted(t, tcp, func(c net.Conn) {
					block := strings.Repeat(test.again, 1+(16<<10)/len(test.again))
					_, err := io.WriteString(c, test.first)
					for err == nil && sent.Load() < 1<<30 {
						var n int
						n, err = io.WriteString(c, block)
						sent.Add(int64(n))
					}
				})
				require.LessOrEqual(t, spy.Received.Load(), test.limit)
				require.Less(t, sent.Load(), int64(64<<20), "the proxy was not cut off")
				if test.status == 0 {
					require.NotErrorAs(t, err, new(*preflight.StatusError))
					if name != "103s" {
						require.ErrorContains(t, err, "larger than 65536 bytes")
					}
					return
				}
				require.Equal(t, test.status, testkit.StatusError(t, err).StatusCode)
				if test.bytes >= 0 {
					require.Len(t, testkit.StatusError(t, err).Body, test.bytes)
				}
			})
		}
	}
}

// TestScriptedProxyDrips: a proxy that sends a byte from time to time does not
// extend the handshake.
func TestScriptedProxyDrips(t *testing.T) {
	for name, first := range map[string]string{"head": "HTTP/1.1 101 S\r\nX: ", "interim": "HTTP/1.1 103 E\r\n\r\nHTTP/1.1 103 E\r\nX: "} {
		for _, noDeadlines := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/noDeadlines=%v", name, noDeadlines), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					stopped := make(chan error, 1)
					peer := &testkit.DialPeer{T: t, NoDeadlines: noDeadlines, Peer: func(c net.Conn) {
						testkit.ReadRequest(c)
						io.WriteString(c, first)
						for range time.Tick(700 * time.Millisecond) {
							if _, err := io.WriteString(c, "x"); err != nil {
								stopped <- err
								return
							}
						}
					}}
					d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer, HandshakeTimeout: 5 * time.Second}
					begun := time.Now()
					_, err := d.Dial("tcp", "edge.example:80")
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					require.ErrorContains(t, err, "read the answer")
					require.Equal(t, 5*time.Second, time.Since(begun))
					require.True(t, errors.Is(<-stopped, io.ErrClosedPipe))
				})
			})
		}
	}
}
