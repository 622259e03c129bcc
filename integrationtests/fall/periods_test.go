package fall_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// pingCapsule is the header of a PING capsule: its type and its length.
const pingCapsule = "\xad\x70\xf1\x04\x08"

// silentPeer returns the client's end of a connection. The peer agrees to framing and then sends
// nothing. It sends the time until the first PING to pings.
func silentPeer(t *testing.T, pings chan<- time.Duration) net.Conn {
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close(); server.Close() })
	go func() {
		head := testkit.ReadRequest(server)
		io.WriteString(server, switched(framed, head, ""))
		start := time.Now()
		b := make([]byte, len(pingCapsule)+8)
		if _, err := io.ReadFull(server, b); err != nil {
			close(pings)
			return
		}
		if string(b[:len(pingCapsule)]) == pingCapsule {
			pings <- time.Since(start)
		}
		close(pings)
		io.Copy(io.Discard, server)
	}()
	return client
}

// TestKeepAlive: the tunnel uses the KeepAlivePeriod of the dialer. Client uses the default.
func TestKeepAlive(t *testing.T) {
	for name, test := range map[string]struct {
		period, want time.Duration // 0: no PING
		client       bool
	}{
		"default":  {0, 20 * time.Second, false},
		"set":      {time.Minute, time.Minute, false},
		"disabled": {-1, 0, false},
		"Client":   {0, 20 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pings := make(chan time.Duration, 1)
				peer := silentPeer(t, pings)
				var conn net.Conn
				var err error
				if test.client {
					conn, err = preflight.Client(t.Context(), peer, &http.Request{
						Host: "h", URL: &url.URL{Path: "/"}, Header: http.Header{"Preflight-Framing": {"capsule"}},
					})
				} else {
					d := preflight.PreflightDialer{
						Carriers: []preflight.Carrier{framed}, KeepAlivePeriod: test.period,
						NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) { return peer, nil }),
					}
					conn, err = d.Dial("tcp", "edge.example:80")
				}
				require.NoError(t, err)
				time.Sleep(time.Hour)
				peer.Close()
				conn.Close()
				after, sent := <-pings
				require.Equal(t, test.want != 0, sent)
				require.LessOrEqual(t, after, test.want)
				require.GreaterOrEqual(t, after, test.want/2)
			})
		})
	}
}

// TestMaxIdle: if nothing arrives while Read waits, the tunnel ends after MaxIdleTimeout.
func TestMaxIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := silentPeer(t, make(chan time.Duration, 1))
		d := preflight.PreflightDialer{
			Carriers: []preflight.Carrier{framed}, MaxIdleTimeout: time.Minute,
			NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) { return peer, nil }),
		}
		conn, err := d.Dial("tcp", "edge.example:80")
		require.NoError(t, err)
		defer conn.Close()
		start := time.Now()
		_, err = conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		require.Equal(t, time.Minute, time.Since(start))
	})
}

// TestWait: after a refusal, a dial waits while another dial tries the other carriers. It waits
// at most for its HandshakeTimeout.
func TestWait(t *testing.T) {
	for name, test := range map[string]struct {
		answers bool // the edge answers the request for framed
		framed  int  // the number of requests for framed
	}{
		"until the result":         {true, 1},
		"at most HandshakeTimeout": {false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := make(chan preflight.Carrier, 16)
				d := preflight.PreflightDialer{
					Carriers: all, KeepAlivePeriod: -1,
					NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) {
						client, server := net.Pipe()
						t.Cleanup(func() { client.Close(); server.Close() })
						go func() {
							head := testkit.ReadRequest(server)
							carrier := asksFor(head)
							asked <- carrier
							switch {
							case carrier == webSocket:
								io.WriteString(server, switched(carrier, head, ""))
							case carrier == upgradeOnly || test.answers:
								time.Sleep(5 * time.Second)
								io.WriteString(server, refusal(403, ""))
							}
							io.Copy(io.Discard, server)
						}()
						return client, nil
					}),
				}
				type result struct {
					net.Conn
					error
				}
				results := make(chan result, 2)
				for range 2 {
					go func() {
						c, err := d.Dial("tcp", "edge.example:80")
						results <- result{c, err}
					}()
				}
				for range 2 {
					r := <-results
					require.Equal(t, test.answers, r.error == nil)
					if r.error == nil {
						require.Equal(t, webSocket, r.Conn.(*preflight.Conn).Carrier())
						require.NoError(t, r.Conn.Close())
					}
				}
				count := 0
				for len(asked) > 0 {
					if <-asked == framed {
						count++
					}
				}
				require.Equal(t, test.framed, count)
			})
		})
	}
}
