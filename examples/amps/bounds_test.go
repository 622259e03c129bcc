package main

import (
	"encoding/binary"
	"io"
	"log"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

func TestMalformedFramesEndTheConnection(t *testing.T) {
	length := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	framed := func(text string) string { return length(uint32(len(text))) + text }
	for name, bytes := range map[string]string{
		"longer than allowed":        length(8<<20 + 1),
		"huge":                       length(1<<32 - 1),
		"empty":                      framed(""),
		"no JSON":                    framed("hello"),
		"no object":                  framed(`["c"]`),
		"null":                       framed(`null`),
		"unfinished":                 framed(`{"c":"flush"`),
		"nested values":              framed(`{"c":{"d":1}}`),
		"no command":                 framed(`{"t":"x"}`),
		"control characters":         framed(`{"c":"subscribe","t":"a\u0001b"}`),
		"not UTF-8":                  framed("{\"c\":\"subscribe\",\"t\":\"\xff\"}"),
		"long header":                framed(`{"c":"flush","cid":"` + strings.Repeat("x", headerLimit) + `"}`),
		"sequence that is no number": framed(`{"c":"publish","t":"x","s":"-1"}`),
		"end inside a length":        "\x00\x00",
		"end inside a frame":         length(100) + `{"c":`,
	} {
		for _, way := range []string{"plain", "tunnel"} {
			t.Run(name+", "+way, func(t *testing.T) {
				p := start(t, nil)
				c := p.dial(t, way, "c")
				_, err := c.conn.Write([]byte(bytes))
				require.NoError(t, err)
				if strings.HasPrefix(name, "end inside") {
					require.NoError(t, c.conn.(interface{ CloseWrite() error }).CloseWrite())
				}
				ack := c.want()
				require.Equal(t, "failure", ack.str("status"))
				require.Contains(t, ack.str("reason"), "malformed input")
				_, err = c.receive()
				require.ErrorIs(t, err, io.EOF)
			})
		}
	}
}

// TestMalformedFrameDestroysNothing requires that frames under way to the client arrive, although
// the server closes a connection from which it has not read everything.
func TestMalformedFrameDestroysNothing(t *testing.T) {
	for _, way := range []string{"plain", "TLS", "tunnel"} {
		t.Run(way, func(t *testing.T) {
			p := start(t, nil)
			c := p.dial(t, way, "c")
			fillSOW(c)
			c.send(`{"c":"sow","cid":"q","t":"sow","bs":1}`)
			c.send(`hello`)
			written := make(chan error)
			go func() {
				_, err := c.conn.Write(make([]byte, 1<<20))
				written <- err
			}()
			require.Equal(t, "group_begin", c.want().str("c"))
			for range sowRecords {
				require.Equal(t, "sow", c.want().str("c"))
			}
			require.Equal(t, "group_end", c.want().str("c"))
			require.Contains(t, c.want().str("reason"), "malformed input")
			_, err := c.receive()
			require.ErrorIs(t, err, io.EOF)
			require.NoError(t, <-written)
		})
	}
}

func TestMalformedMessagesEndTheWebSocket(t *testing.T) {
	count := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	type message struct {
		kind websocket.MessageType
		text []byte
	}
	for name, messages := range map[string][]message{
		"no count":           {{websocket.MessageText, []byte(`{"c":"flush"}`)}},
		"count as text":      {{websocket.MessageText, count(1)}},
		"count of 3 bytes":   {{websocket.MessageBinary, count(1)[:3]}},
		"count 0":            {{websocket.MessageBinary, count(0)}},
		"count of too many":  {{websocket.MessageBinary, count(maxParts + 1)}},
		"big-endian count":   {{websocket.MessageBinary, []byte{0, 0, 0, 1}}},
		"header that is not": {{websocket.MessageBinary, count(1)}, {websocket.MessageText, []byte(`hello`)}},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, nil)
			c := p.dial(t, "WebSocket", "c")
			for _, m := range messages {
				require.NoError(t, c.ws.Write(t.Context(), m.kind, m.text))
			}
			require.Contains(t, c.want().str("reason"), "malformed input")
			_, err := c.receive()
			require.Equal(t, websocket.StatusProtocolError, websocket.CloseStatus(err), "%v", err)
		})
	}
	for _, first := range []string{"json", "binary", ""} {
		t.Run("first message "+first, func(t *testing.T) {
			p := start(t, nil)
			ws, _, err := websocket.Dial(t.Context(), "ws://"+p.address+"/amps/json", nil)
			require.NoError(t, err)
			defer ws.CloseNow()
			require.NoError(t, ws.Write(t.Context(), websocket.MessageText, []byte(first)))
			c := &client{t: t, ws: ws}
			require.Contains(t, c.want().str("reason"), "malformed input")
			_, err = c.receive()
			require.Equal(t, websocket.StatusProtocolError, websocket.CloseStatus(err), "%v", err)
		})
	}
	t.Run("too large", func(t *testing.T) {
		p := start(t, func(cfg *config) { cfg.frame = 1000 })
		c := p.dial(t, "WebSocket", "c")
		c.send(`{"c":"publish","t":"x"}`, strings.Repeat("x", 990))
		_, err := c.receive()
		require.Equal(t, websocket.StatusMessageTooBig, websocket.CloseStatus(err), "%v", err)
	})
}

func TestBeforeLogonLittleIsTaken(t *testing.T) {
	p := start(t, nil)
	c := p.dial(t, "plain", "")
	_, err := c.conn.Write(binary.BigEndian.AppendUint32(nil, firstFrameLimit+1))
	require.NoError(t, err)
	require.Contains(t, c.want().str("reason"), "above the limit")
}

func TestSlowSubscriberIsCutOff(t *testing.T) {
	for _, way := range []string{"plain", "tunnel", "WebSocket"} {
		t.Run(way, func(t *testing.T) {
			const size, n = 256 << 10, 40
			p := start(t, func(cfg *config) { cfg.outbox = 8 * size })
			slow, good, pub := p.dial(t, way, "slow"), p.dial(t, way, "good"), p.dial(t, way, "pub")
			for _, c := range []*client{slow, good} {
				c.ask(`{"c":"subscribe","cid":"1","sub_id":"s","t":"x","a":"processed"}`)
			}
			body := `"` + strings.Repeat("x", size) + `"`
			for i := range n { // as fast as the good subscriber reads them
				ack := pub.ask(`{"c":"publish","t":"x","cid":"1","a":"persisted"}`, body)
				require.Equal(t, "success", ack.str("status"), i)
				require.Len(t, good.want().body, len(body))
			}
			received := 0
			for {
				if _, err := slow.receive(); err != nil {
					break
				}
				received++
			}
			require.Less(t, received, n)
			require.Contains(t, p.log.String(), `"slow": `+errSlow.Error())
			require.NotContains(t, p.log.String(), `"good"`)
		})
	}
}

func TestClientsAreCounted(t *testing.T) {
	p := start(t, func(cfg *config) { cfg.maxClients = 2 })
	a := p.dial(t, "plain", "a")
	p.dial(t, "WebSocket", "b")
	c := p.dial(t, "tunnel", "")
	_, err := c.receive()
	require.Error(t, err)
	a.close()
	for range 1000 { // until the server has noticed it
		d := p.dial(t, "tunnel", "")
		if d.trySend(`{"c":"logon","cid":"1","a":"processed","client_name":"d"}`) == nil {
			if _, err = d.receive(); err == nil {
				return
			}
		}
		d.close()
	}
	require.NoError(t, err)
}

// pipe runs a session on one end of a pipe, for tests with synctest.
func pipe(t *testing.T) *client {
	near, far := net.Pipe()
	s := newSession(newBroker(defaults()), newTCPWire(far), defaults().limits, "", "pipe", log.New(io.Discard, "", 0))
	go s.run()
	c := &client{t: t, conn: near}
	t.Cleanup(c.close)
	return c
}

func TestLogonHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, began := pipe(t), time.Now()
		_, err := c.receive()
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, logonTimeout, time.Since(began))
	})
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t)
		c.ask(`{"c":"logon","cid":"1","a":"processed","client_name":"c"}`)
		require.Equal(t, "received", c.ask(`{"c":"heartbeat","cid":"1","a":"received","o":"start,4"}`).str("a"))
		began := time.Now()
		for i := range 100 { // the client answers each beat
			require.Equal(t, "heartbeat", c.want().str("c"))
			require.Equal(t, time.Duration(i+1)*2*time.Second, time.Since(began))
			c.send(`{"c":"heartbeat","o":"beat"}`)
		}
		began = time.Now()
		beats := 0
		for ; ; beats++ { // then it is silent
			if _, err := c.receive(); err != nil {
				break
			}
		}
		require.Equal(t, 8*time.Second, time.Since(began))
		require.InDelta(t, 4, beats, 1)
	})
}

func TestHeartbeatStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t)
		c.ask(`{"c":"logon","cid":"1","a":"processed","client_name":"c"}`)
		c.ask(`{"c":"heartbeat","cid":"1","a":"processed","o":"start,4"}`)
		c.ask(`{"c":"heartbeat","cid":"1","a":"processed","o":"stop"}`)
		time.Sleep(time.Hour) // in the time of the bubble
		c.done()
	})
}

// TestClientThatTakesNothing requires that a client which does not read cannot keep its session
// forever.
func TestClientThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t)
		began := time.Now()
		c.send(`{"c":"flush","cid":"1","a":"processed"}`) // refused: logon required
		time.Sleep(writeTimeout + time.Second)
		synctest.Wait()
		_, err := c.conn.Read(make([]byte, 1))
		require.Error(t, err)
		require.Equal(t, writeTimeout+time.Second, time.Since(began))
	})
}

func TestShutdownSendsWhatThereIs(t *testing.T) {
	p := start(t, nil)
	clients := make(map[string]*client)
	for way := range ways {
		clients[way] = p.dial(t, way, way)
		clients[way].ask(`{"c":"subscribe","cid":"1","sub_id":"s","t":"x","a":"processed"}`)
	}
	pub := p.dial(t, "tunnel", "pub")
	for range 100 {
		pub.send(`{"c":"publish","t":"x"}`, `1`)
	}
	pub.done()
	p.ctrlC()
	for way, c := range clients {
		for range 100 {
			require.Equal(t, `1`, c.want().body)
		}
		_, err := c.receive()
		if way == "WebSocket" {
			require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err), "%v", err)
		} else {
			require.ErrorIs(t, err, io.EOF)
			c.close()
		}
	}
	pub.close()
	require.NoError(t, p.end(t))
}

func TestShutdownDoesNotWaitForEver(t *testing.T) {
	p := start(t, func(cfg *config) { cfg.grace = 1 })
	p.dial(t, "tunnel", "who does not close the connection")
	p.ctrlC()
	require.ErrorContains(t, p.end(t), "not every client had left")
}
