package main

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPersistedAckStandsForAllBefore(t *testing.T) {
	p := start(t, nil)
	c := p.dial(t, "tunnel", "pub")
	var all []byte
	for i := range 3000 {
		text := fmt.Sprintf(`{"c":"p","t":"x","a":"persisted","s":"%d"}`, i+1)
		all = append(binary.BigEndian.AppendUint32(all, uint32(len(text))), text...)
	}
	_, err := c.conn.Write(all)
	require.NoError(t, err)
	acks, last := 0, 0.0
	for last < 3000 {
		ack := c.want()
		require.Equal(t, "persisted", ack.str("a"))
		require.Equal(t, "success", ack.str("status"))
		require.Greater(t, ack.header["s"], last)
		last = ack.header["s"].(float64)
		acks++
	}
	require.Less(t, acks, 1000, "publishes that arrive together have one ack")
}

// TestPublisherThatReconnectsMakesNothingTwice has a publish store send messages again that were
// not acknowledged.
func TestPublisherThatReconnectsMakesNothingTwice(t *testing.T) {
	everyWay(t, func(t *testing.T, p *program, way string) {
		sub := p.dial(t, way, "sub")
		sub.ask(`{"c":"subscribe","cid":"1","sub_id":"s","t":"x","a":"processed"}`)
		publish := func(c *client, from, to int) {
			for i := from; i <= to; i++ {
				ack := c.ask(fmt.Sprintf(`{"c":"publish","t":"x","a":"persisted","s":%d}`, i), fmt.Sprint(i))
				require.Equal(t, "persisted", ack.str("a"))
				require.Equal(t, "success", ack.str("status"))
				require.Equal(t, float64(i), ack.header["s"])
			}
		}
		pub := p.dial(t, way, "pub")
		publish(pub, 1, 10)
		pub.close()
		pub = p.dial(t, way, "")
		ack := pub.ask(`{"c":"logon","cid":"l","a":"processed","client_name":"pub"}`)
		require.Equal(t, 10.0, ack.header["s"])
		require.Regexp(t, `^\d+\|10\|$`, ack.str("bm"))
		publish(pub, 5, 15)
		for i := 1; i <= 15; i++ {
			require.Equal(t, fmt.Sprint(i), sub.want().body)
		}
		sub.done()
	})
}

// TestOlderConnectionOfTheSameNameGoes has a client that publishes and disconnects, and connects
// again before the server has read everything. Here the server is blocked, because the client
// does not read the answer of a query.
func TestOlderConnectionOfTheSameNameGoes(t *testing.T) {
	everyWay(t, func(t *testing.T, p *program, way string) {
		sub, older := p.dial(t, way, "sub"), p.dial(t, way, "pub")
		sub.ask(`{"c":"subscribe","cid":"1","sub_id":"s","t":"x","a":"processed"}`)
		fillSOW(older)
		require.Equal(t, "group_begin", older.ask(`{"c":"sow","cid":"q","t":"sow","bs":1}`).str("c"))
		const n = 100
		for i := range n {
			older.send(`{"c":"publish","t":"x"}`, fmt.Sprint(i))
		}
		newer := p.dial(t, way, "pub")
		records := 0
		for {
			f, err := older.receive()
			if err != nil {
				break
			}
			if f.str("c") == "sow" {
				records++
			}
		}
		require.Equal(t, sowRecords, records)
		newer.done()
		for i := range n {
			require.Equal(t, fmt.Sprint(i), sub.want().body)
		}
	})
}

const sowRecords = 6

// fillSOW makes a SOW that is larger than the socket buffers of a client.
func fillSOW(c *client) {
	for i := range sowRecords {
		c.send(`{"c":"publish","t":"sow"}`, fmt.Sprintf(`{"id":%d,"text":"%s"}`, i, strings.Repeat("x", 1<<20)))
	}
	c.done()
}

func TestBookmarkSubscription(t *testing.T) {
	for name, test := range map[string]struct {
		bookmark func(seen []string) string
		options  string
		first    int // message that is sent again
	}{
		"epoch":                      {func([]string) string { return "0" }, "", 0},
		"now":                        {func([]string) string { return "0|1|" }, "", 10},
		"behind a message":           {func(seen []string) string { return seen[3] }, "live", 4},
		"behind the last":            {func(seen []string) string { return seen[9] }, "", 10},
		"list, the earliest counts":  {func(seen []string) string { return seen[7] + "," + seen[2] }, "", 3},
		"unknown":                    {func([]string) string { return "77|1|" }, "", 0},
		"unknown, now":               {func([]string) string { return "77|1|" }, "bookmark_not_found=now", 10},
		"unknown, epoch, and a list": {func(seen []string) string { return "77|1|," + seen[5] }, "bookmark_not_found=epoch", 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, nil)
			pub, early := p.dial(t, "tunnel", "pub"), p.dial(t, "tunnel", "early")
			early.ask(`{"c":"subscribe","cid":"1","sub_id":"s","t":"x","a":"processed","bm":"0"}`)
			var seen []string
			for i := range 10 {
				pub.send(`{"c":"publish","t":"x"}`, fmt.Sprint(i))
				pub.send(`{"c":"publish","t":"other"}`, fmt.Sprint(i))
				seen = append(seen, early.want().str("bm"))
			}
			pub.done()

			sub := p.dial(t, "WebSocket", "sub")
			ack := sub.ask(`{"c":"subscribe","cid":"1","sub_id":"s","t":"x","a":"processed,persisted,completed","bm":"` +
				test.bookmark(seen) + `","o":"` + test.options + `"}`)
			require.Equal(t, "success", ack.str("status"), ack.header)
			for i := test.first; i < 10; i++ {
				m := sub.want()
				require.Equal(t, fmt.Sprint(i), m.body)
				require.Equal(t, seen[i], m.str("bm"))
			}
			if test.first < 10 {
				requirePersisted(t, sub, seen[9])
			}
			require.Equal(t, "completed", sub.want().str("a"))
			pub.send(`{"c":"publish","t":"x"}`, `"live"`)
			live := sub.want()
			require.Equal(t, `"live"`, live.body)
			requirePersisted(t, sub, live.str("bm"))
		})
	}
}

func requirePersisted(t *testing.T, sub *client, bookmark string) {
	t.Helper()
	ack := sub.want()
	require.Equal(t, []string{"ack", "persisted", "s", bookmark}, []string{ack.str("c"), ack.str("a"), ack.str("sub_id"), ack.str("bm")})
}

func TestJournalIsBounded(t *testing.T) {
	j := journal{limit: 10 * (&message{topic: "x"}).size()}
	for i := range 1000 {
		j.add(&message{topic: "x", publisher: 1, sequence: uint64(i + 1)})
	}
	require.Len(t, j.messages, 10)
	all, ok := j.after("1|1|", "epoch")
	require.True(t, ok)
	require.Len(t, all, 10, "what has gone counts as not found")
	some, ok := j.after("1|995|", "fail")
	require.True(t, ok)
	require.Len(t, some, 5)
	j.add(&message{topic: "x", body: make([]byte, 2*j.limit)})
	require.Empty(t, j.messages)
	require.Zero(t, j.bytes)
}

func TestNamesAreBounded(t *testing.T) {
	b := newBroker(defaults())
	here := &session{}
	b.join(here, "first")
	for i := range maxPublishers + 10 {
		s := &session{}
		s.publisher, _, _ = b.join(s, fmt.Sprint(i))
		b.leave(s)
	}
	require.Len(t, b.publishers, maxPublishers)
	require.Same(t, here, b.publishers["first"].session, "who is connected is not forgotten")
	require.NotContains(t, b.publishers, "0")
}
