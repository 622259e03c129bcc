package fall_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// relay starts a proxy that works on raw bytes. change returns the destination of a request
// ("": address) and the head to send there. answer changes the head of the answer, if it is set.
func relay(t testing.TB, address string, change func(head string) (to, changed string), answer func(string) string) string {
	t.Helper()
	ln := testkit.ListenTCP(t)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(testkit.Patience))
			all.Go(func() {
				defer c.Close()
				to, head := change(testkit.ReadRequest(c))
				if to == "" {
					to = address
				}
				next, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer next.Close()
				next.SetDeadline(time.Now().Add(testkit.Patience))
				if head == "" { // a forward proxy
					io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
				}
				io.WriteString(next, head)
				if answer != nil {
					io.WriteString(c, answer(testkit.ReadRequest(next)))
				}
				var both sync.WaitGroup
				both.Go(func() {
					io.Copy(next, c)
					next.(*net.TCPConn).CloseWrite()
				})
				io.Copy(c, next)
				c.(*net.TCPConn).CloseWrite()
				both.Wait()
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return ln.Addr().String()
}

// without removes the fields with these names from a head.
func without(head string, names ...string) string {
	var kept []string
	for line := range strings.SplitSeq(head, "\r\n") {
		name, _, _ := strings.Cut(line, ":")
		removed := false
		for _, n := range names {
			removed = removed || strings.EqualFold(name, n)
		}
		if !removed {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\r\n")
}

// with adds field lines to a head.
func with(head, lines string) string {
	return strings.TrimSuffix(head, "\r\n") + lines + "\r\n"
}

// TestProxies: a proxy removes a field from the request or from the 101, or adds one. The dial
// then fails with a specific error, or uses another carrier. The application never reads the
// bytes of a frame.
func TestProxies(t *testing.T) {
	same := func(head string) string { return head }
	for name, test := range map[string]struct {
		carriers        []preflight.Carrier
		request, answer func(string) string
		text            string            // a part of the error
		reason          string            // the code of the refusal; "" for a 101
		carrier         preflight.Carrier // the carrier that works; "": none
	}{
		"framing stripped from the request": {
			all[1:2], func(h string) string { return without(h, "Preflight-Framing") }, same,
			"does not confirm the framing", "", "",
		},
		"framing stripped from the 101": {
			all[1:2], same, func(h string) string { return without(h, "Preflight-Framing") },
			"does not confirm the framing", "", "",
		},
		"framing injected into the request": {
			all[:1], func(h string) string { return with(h, "Preflight-Framing: capsule\r\n") }, same,
			"announces framing", "", "",
		},
		"framing injected into the 101": {
			all[:1], same, func(h string) string { return with(h, "Preflight-Framing: capsule\r\n") },
			"announces framing", "", "",
		},
		"framing changed in the request": {
			all[1:2], func(h string) string { return strings.Replace(h, ": capsule", ": x", 1) }, same,
			"answered 400", "head", "",
		},
		"framing injected into the 101 of a WebSocket": {
			all[2:], same, func(h string) string { return with(h, "Preflight-Framing: capsule\r\n") },
			"", "", webSocket,
		},
		"own fields stripped from the request of a WebSocket": {
			all[2:], func(h string) string { return without(h, "Preflight-Framing", "Preflight-Carriers") }, same,
			"", "", webSocket,
		},
		"subprotocol stripped from the request": {
			all[2:], func(h string) string { return without(h, "Sec-WebSocket-Protocol") }, same,
			"a proxy on the way removes Sec-WebSocket-Protocol", "subprotocol", "",
		},
		"subprotocol stripped from the 101": {
			all[2:], same, func(h string) string { return without(h, "Sec-WebSocket-Protocol") },
			"no Sec-WebSocket-Protocol", "", "",
		},
		"Accept stripped from the 101": {
			all[2:], same, func(h string) string { return without(h, "Sec-WebSocket-Accept") },
			"no Sec-WebSocket-Accept", "", "",
		},
		"key changed": {
			all[2:], func(h string) string {
				return with(without(h, "Sec-WebSocket-Key"), "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
			}, same,
			"does not answer the key", "", "",
		},
		"an extension injected into the 101": {
			all[2:], same, func(h string) string { return with(h, "Sec-WebSocket-Extensions: permessage-deflate\r\n") },
			"names a WebSocket extension", "", "",
		},
		"an empty extension injected into the 101": {
			all[2:], same, func(h string) string { return with(h, "Sec-WebSocket-Extensions: \r\n") },
			"", "", webSocket,
		},
		"extensions offered by a proxy": {
			all[2:], func(h string) string { return with(h, "Sec-WebSocket-Extensions: permessage-deflate\r\n") }, same,
			"", "", webSocket,
		},
		"Connection stripped, as AWS ALB does": {
			nil, func(h string) string {
				if asksFor(h) == webSocket {
					return h
				}
				return with(without(h, "Connection"), "Connection: keep-alive\r\n")
			}, same,
			"", "", webSocket,
		},
		"Upgrade and Connection stripped": {
			nil, func(h string) string {
				if asksFor(h) == webSocket {
					return h
				}
				return without(h, "Connection", "Upgrade")
			}, same,
			"", "", webSocket,
		},
		"Upgrade stripped, on every carrier": {
			all, func(h string) string { return without(h, "Upgrade") }, same,
			"; and by carrier framed the same; and by carrier websocket the same", "no-upgrade", "",
		},
		"Connection stripped, on every carrier": {
			all, func(h string) string { return without(h, "Connection") }, same,
			"a proxy on the way removes upgrade from Connection", "no-connection", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := &preflight.PreflightListener{Handler: http.NotFoundHandler()}
			serveEcho(t, l)
			address := relay(t, l.Addr().String(), func(head string) (string, string) { return "", test.request(head) }, test.answer)
			c, err := (&preflight.PreflightDialer{Carriers: test.carriers}).Dial("tcp", address)
			if test.carrier != "" {
				ping(t, c, err, test.carrier)
				return
			}
			require.ErrorContains(t, err, test.text)
			require.Equal(t, test.reason, testkit.StatusError(t, err).Reason)
			require.Nil(t, c)
		})
	}
}

// TestFirstStage: one server supports only upgrades to tcp. Another server echoes the fields of
// the request that it does not know.
func TestFirstStage(t *testing.T) {
	plain := func(carrier preflight.Carrier, head string) string {
		if carrier == webSocket {
			return refusal(426, "Upgrade: tcp\r\n")
		}
		return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"
	}
	e := newEdge(t, plain)
	c, err := new(preflight.PreflightDialer).Dial("tcp", e.address())
	ping(t, c, err, upgradeOnly)
	_, err = (&preflight.PreflightDialer{Carriers: []preflight.Carrier{framed, upgradeOnly}}).Dial("tcp", e.address())
	require.ErrorContains(t, err, "does not confirm the framing", "the dialer does not accept a tunnel without framing")
	c, err = (&preflight.PreflightDialer{Carriers: []preflight.Carrier{webSocket, upgradeOnly}}).Dial("tcp", e.address())
	ping(t, c, err, upgradeOnly)

	echoes := newEdge(t, func(carrier preflight.Carrier, head string) string {
		_, fields, _ := strings.Cut(head, "\r\n")
		fields = without(strings.TrimSuffix(fields, "\r\n"), "Host", "Connection", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
		return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + field(head, "Upgrade") + "\r\n" + fields + "\r\n"
	})
	// This server echoes the fields that ask for framing, but does not use framing.
	c, err = (&preflight.PreflightDialer{Carriers: []preflight.Carrier{webSocket}}).Dial("tcp", echoes.address())
	require.ErrorContains(t, err, "no Sec-WebSocket-Accept")
	require.Nil(t, c)
	c, err = new(preflight.PreflightDialer).Dial("tcp", echoes.address())
	ping(t, c, err, upgradeOnly)
}

// TestNotFramed: if a peer confirms framing and does not use it, Read returns a protocol error
// and no data.
func TestNotFramed(t *testing.T) {
	for _, carrier := range all[1:] {
		e := newEdge(t, func(c preflight.Carrier, head string) string { return switched(c, head, "") + "hello, this is raw" })
		c, err := (&preflight.PreflightDialer{Carriers: []preflight.Carrier{carrier}}).Dial("tcp", e.address())
		require.NoError(t, err)
		n, err := c.Read(make([]byte, 64))
		require.Zero(t, n)
		require.ErrorContains(t, err, "protocol error")
		require.NoError(t, c.Close())
	}
}
