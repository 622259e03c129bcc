package main

import (
	"fmt"
	"io"
	"log"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// everyWay runs test for each way in which clients connect.
func everyWay(t *testing.T, test func(t *testing.T, p *program, way string)) {
	for way := range ways {
		t.Run(way, func(t *testing.T) { test(t, start(t, nil), way) })
	}
}

func TestLogonTellsVersionAndSequence(t *testing.T) {
	everyWay(t, func(t *testing.T, p *program, way string) {
		c := p.dial(t, way, "")
		c.send(`{"c":"logon","cid":"1","a":"received,processed","client_name":"me","user_id":"ann","mt":"json"}`)
		require.Equal(t, "received", c.want().str("a"))
		ack := c.want()
		require.Equal(t, "processed", ack.str("a"))
		require.Equal(t, "success", ack.str("status"))
		require.Equal(t, "ann", ack.str("user_id"))
		require.Equal(t, version, ack.str("version"))
		require.Equal(t, 0.0, ack.header["s"], "the JavaScript client needs a number here")
		require.Regexp(t, `^\d+\|0\|$`, ack.str("bm"))
	})
}

func TestPublishReachesSubscriber(t *testing.T) {
	everyWay(t, func(t *testing.T, p *program, way string) {
		sub, pub := p.dial(t, way, "sub"), p.dial(t, way, "pub")
		ack := sub.ask(`{"c":"subscribe","cid":"1","sub_id":"s1","t":"orders","a":"processed"}`)
		require.Equal(t, "success", ack.str("status"))
		require.Equal(t, "s1", ack.str("sub_id"), "the JavaScript client finds its handler by this")
		const n = 1000
		for i := range n {
			pub.send(`{"c":"p","t":"orders"}`, fmt.Sprintf(`{"id":%d,"text":"ü \u0000"}`, i))
		}
		pub.send(`{"c":"publish","t":"orders","x":"a \"b\" \\"}`)
		pub.send(`{"c":"publish","t":"others"}`, `{}`)
		for i := range n {
			m := sub.want()
			require.Equal(t, fmt.Sprintf(`{"id":%d,"text":"ü \u0000"}`, i), m.body)
			require.Equal(t, map[string]any{"c": "publish", "t": "orders", "sids": "s1", "l": float64(len(m.body))}, m.header)
		}
		m := sub.want()
		require.Empty(t, m.body)
		require.Equal(t, `a "b" \`, m.str("x"))
		require.Equal(t, "success", sub.ask(`{"c":"unsubscribe","cid":"2","sub_id":"s1","a":"processed"}`).str("status"))
		pub.send(`{"c":"publish","t":"orders"}`, `{}`)
		pub.done()
		sub.done()
	})
}

func TestSOW(t *testing.T) {
	everyWay(t, func(t *testing.T, p *program, way string) {
		c := p.dial(t, way, "c")
		for i := range 5 {
			c.send(`{"c":"publish","t":"sow"}`, fmt.Sprintf(`{"id":%d,"text":"old"}`, i))
		}
		c.send(`{"c":"publish","t":"sow","x":"why"}`, `{"id":1,"text":"new"}`)
		c.send(`{"c":"sow","cid":"q","a":"processed,completed,stats","t":"sow","filter":"/id > 0","bs":"2","top_n":3}`)
		require.Equal(t, "processed", c.want().str("a"))
		begin := c.want()
		require.Equal(t, "group_begin", begin.str("c"))
		require.Equal(t, "q", begin.str("query_id"))
		keys := make(map[string]bool)
		for _, body := range []string{`{"id":2,"text":"old"}`, `{"id":3,"text":"old"}`, `{"id":4,"text":"old"}`} {
			record := c.want()
			require.Equal(t, body, record.body)
			require.Equal(t, "q", record.str("query_id"))
			keys[record.str("k")] = true
			_, err := strconv.ParseInt(record.str("k"), 10, 64) // Java has no unsigned numbers
			require.NoError(t, err)
		}
		require.Len(t, keys, 3)
		require.Equal(t, 2, c.sows, "two records at once")
		require.Equal(t, "group_end", c.want().str("c"))
		for _, kind := range []string{"completed", "stats"} {
			ack := c.want()
			require.Equal(t, kind, ack.str("a"))
			require.Equal(t, 3.0, ack.header["records_returned"])
			require.Equal(t, 4.0, ack.header["matches"])
			require.Equal(t, 5.0, ack.header["topic_matches"])
		}

		for key := range keys {
			stats := c.ask(`{"c":"sow_delete","cid":"d","t":"sow","a":"stats","sow_keys":"` + key + `,77,x"}`)
			require.Equal(t, 1.0, stats.header["records_deleted"])
		}
		require.Equal(t, 1.0, c.ask(`{"c":"sow_delete","cid":"d","t":"sow","a":"stats"}`, `{"id":0}`).header["records_deleted"])
		require.Equal(t, 0.0, c.ask(`{"c":"sow_delete","cid":"d","t":"sow","a":"stats"}`, `{"id":0}`).header["records_deleted"])
		require.Equal(t, 1.0, c.ask(`{"c":"sow_delete","cid":"d","t":"sow","a":"stats","filter":"1=1"}`).header["records_deleted"])
	})
}

func TestSOWAndSubscribe(t *testing.T) {
	everyWay(t, func(t *testing.T, p *program, way string) {
		c := p.dial(t, way, "c")
		c.send(`{"c":"publish","t":"sow"}`, `{"id":1,"price":1}`)
		c.send(`{"c":"sow_and_subscribe","cid":"q","query_id":"q","sub_id":"s","a":"processed","t":"sow","filter":"/price < 10","o":"oof,timestamp,no_sowkey"}`)
		c.send(`{"c":"publish","t":"sow"}`, `{"id":2,"price":2}`)
		c.send(`{"c":"publish","t":"sow"}`, `{"id":3,"price":30}`)
		c.send(`{"c":"publish","t":"sow"}`, `{"id":1,"price":10}`)
		c.send(`{"c":"sow_delete","t":"sow","filter":"/id=2"}`)
		require.Equal(t, "processed", c.want().str("a"))
		require.Equal(t, "group_begin", c.want().str("c"))
		record := c.want()
		require.Equal(t, `{"id":1,"price":1}`, record.body)
		require.NotContains(t, record.header, "k")
		require.Regexp(t, `^\d{8}T\d{6}\.\d{6}Z$`, record.str("ts"))
		require.Equal(t, "group_end", c.want().str("c"))
		m := c.want()
		require.Equal(t, `{"id":2,"price":2}`, m.body)
		require.Equal(t, "s", m.str("sids"))
		out := c.want()
		require.Equal(t, []string{"oof", "match", `{"id":1,"price":10}`}, []string{out.str("c"), out.str("reason"), out.body})
		out = c.want()
		require.Equal(t, []string{"oof", "deleted", `{"id":2,"price":2}`}, []string{out.str("c"), out.str("reason"), out.body})
		c.done()
	})
}

// TestQueryAndWhatFollowsAreInOrder requires no gap between a query and the messages after it,
// and the right order, while another client publishes without pause.
func TestQueryAndWhatFollowsAreInOrder(t *testing.T) {
	p := start(t, func(cfg *config) { cfg.maxJournal = 10 << 10 })
	pub, sub := p.dial(t, "tunnel", "pub"), p.dial(t, "tunnel", "sub")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if pub.trySend(`{"c":"publish","t":"sow"}`, fmt.Sprintf(`{"id":1,"n":%d}`, i)) != nil {
				return
			}
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	number := func(f frame) (n int) {
		_, err := fmt.Sscanf(f.body, `{"id":1,"n":%d}`, &n)
		require.NoError(t, err, f.body)
		return n
	}
	for round := range 5 {
		for _, command := range []string{
			`{"c":"sow_and_subscribe","cid":"q","sub_id":"s","t":"sow"}`,
			`{"c":"subscribe","cid":"q","sub_id":"s","t":"sow","bm":"0"}`,
		} {
			sub.send(command)
			last := 0
			for range 100 + round {
				f := sub.want()
				if f.body == "" { // the begin or the end of the group
					continue
				}
				n := number(f)
				if last > 0 {
					require.Equal(t, last+1, n, command)
				}
				last = n
			}
			sub.send(`{"c":"unsubscribe","sub_id":"s"}`)
			sub.send(`{"c":"flush","cid":"flushed","a":"processed"}`)
			for sub.want().str("cid") != "flushed" {
			}
		}
	}
}

// TestNothingOvertakesAnAnswer requires that the answer of a query goes into the outbox under the
// broker's lock. Therefore no later message can overtake it.
func TestNothingOvertakesAnAnswer(t *testing.T) {
	b := newBroker(defaults())
	s := newSession(b, nil, defaults().limits, "", "", log.New(io.Discard, "", 0))
	s.out.mu.Lock()
	answered := make(chan error)
	go func() { answered <- s.query(&command{name: "sow_and_subscribe", topic: "sow", id: "q"}) }()
	kept := 0
	for range 10_000_000 { // it keeps the broker's lock while the test holds the lock of the outbox
		if kept++; b.mu.TryLock() {
			b.mu.Unlock()
			kept = 0
		}
		if kept == 10_000 {
			break
		}
		runtime.Gosched()
	}
	require.Equal(t, 10_000, kept)
	s.out.mu.Unlock()
	s.out.close()
	close(s.written)
	require.NoError(t, <-answered)
}

func TestDelta(t *testing.T) {
	p := start(t, nil)
	c := p.dial(t, "tunnel", "c")
	c.ask(`{"c":"delta_subscribe","cid":"1","sub_id":"d","t":"sow","a":"processed"}`)
	c.ask(`{"c":"subscribe","cid":"2","sub_id":"f","t":"sow","a":"processed"}`)
	for _, step := range []struct{ command, body, delta, full string }{
		{"publish", `{"id":1, "a":{"x":1,"y":2}, "b":[1]}`, `{"id":1, "a":{"x":1,"y":2}, "b":[1]}`, `{"id":1, "a":{"x":1,"y":2}, "b":[1]}`},
		{"delta_publish", `{"id":1,"a":{"y":3}}`, `{"a":{"y":3},"id":1}`, `{"a":{"x":1,"y":3},"b":[1],"id":1}`},
		{"delta_publish", `{"id":1,"b":[2]}`, `{"b":[2],"id":1}`, `{"a":{"x":1,"y":3},"b":[2],"id":1}`},
		{"publish", `{"id":1,"b":[2]}`, `{"id":1}`, `{"id":1,"b":[2]}`},
		{"publish", `{"id":1,"b":null}`, `{"b":null,"id":1}`, `{"id":1,"b":null}`},
	} {
		c.send(`{"c":"`+step.command+`","t":"sow"}`, step.body)
		require.Equal(t, step.delta, c.want().body)
		require.Equal(t, step.full, c.want().body)
	}
}

func TestDeltaKeepsNestedKey(t *testing.T) {
	require.Equal(t, `{"a":{"id":1},"b":2}`,
		string(difference([]byte(`{"a":{"id":1,"c":1},"b":1}`), []byte(`{"a":{"id":1,"c":1},"b":2}`), []string{"a", "id"})))
}

var askedFor = regexp.MustCompile(`"a":"(\w+)"`)

func TestRefusedCommandsAreAnswered(t *testing.T) {
	p := start(t, func(cfg *config) { cfg.maxSOW = 1000 })
	c := p.dial(t, "tunnel", "")
	require.Equal(t, "logon required", c.ask(`{"c":"subscribe","cid":"1","t":"x","a":"processed"}`).str("reason"))
	require.Equal(t, "no client name", c.ask(`{"c":"logon","cid":"1","a":"processed"}`).str("reason"))
	require.Equal(t, "invalid message type", c.ask(`{"c":"logon","cid":"1","a":"processed","client_name":"c","mt":"fix"}`).str("reason"))
	require.Equal(t, "success", c.ask(`{"c":"logon","cid":"1","a":"processed","client_name":"c"}`).str("status"))
	c.ask(`{"c":"subscribe","cid":"1","sub_id":"there","t":"x","a":"processed"}`)
	for header, reason := range map[string]string{
		`"c":"logon","a":"processed","client_name":"c"`:                                       "duplicate logon attempt",
		`"c":"start_timer"`:                                                                   "not supported",
		`"c":"make_tea","a":"processed"`:                                                      "not supported",
		`"c":"subscribe","a":"processed"`:                                                     "no topic",
		`"c":"subscribe","t":"a.*","a":"processed"`:                                           "regex topic not supported",
		`"c":"subscribe","t":"x","sub_id":"there","a":"processed"`:                            "subid in use",
		`"c":"subscribe","t":"x","sub_id":"all","a":"processed"`:                              "subid in use",
		`"c":"subscribe","t":"x","filter":"/a LIKE 'b'","a":"processed"`:                      "bad filter",
		`"c":"subscribe","t":"x","o":"conflation=1s","a":"processed"`:                         "invalid options",
		`"c":"subscribe","t":"x","bm":"nonsense","a":"processed"`:                             "invalid bookmark",
		`"c":"subscribe","t":"x","bm":"(1|2|:3|4|]","a":"processed"`:                          "invalid bookmark",
		`"c":"subscribe","t":"x","bm":"1|2|","o":"bookmark_not_found=fail","a":"processed"`:   "invalid bookmark",
		`"c":"subscribe","t":"x","bm":"1|2|","o":"bookmark_not_found=other","a":"processed"`:  "invalid options",
		`"c":"sow","t":"nosow","a":"processed"`:                                               "invalid topic",
		`"c":"sow","t":"sow","orderby":"/id","a":"processed"`:                                 "not supported",
		`"c":"sow","t":"sow","bm":"0","a":"processed"`:                                        "not supported",
		`"c":"sow_delete","t":"nosow","filter":"1=1","a":"stats"`:                             "invalid topic",
		`"c":"sow_delete","t":"sow","a":"stats"`:                                              "not supported",
		`"c":"sow_delete","t":"sow","bm":"1|1|","a":"persisted"`:                              "not supported",
		`"c":"heartbeat","o":"start,0","a":"processed"`:                                       "invalid options",
		`"c":"heartbeat","o":"faster","a":"processed"`:                                        "invalid options",
		`"c":"publish","t":"x","e":"30","a":"persisted"`:                                      "not supported",
		`"c":"publish","t":"x","filter":"1=1","a":"processed"`:                                "not supported",
		`"c":"publish","t":"sow","k":"mine","a":"persisted"`:                                  "not supported",
		`"c":"publish","t":"x","o":"cancel","a":"persisted"`:                                  "invalid options",
		`"c":"sow_delete","t":"sow","filter":"1=1","o":"x","a":"stats"`:                       "invalid options",
		`"c":"subscribe","t":"x","sub_id":"` + strings.Repeat("x", 257) + `","a":"processed"`: "subid in use",
		`"c":"publish","a":"persisted"`:                                                       "no topic",
		`"c":"publish","t":"` + strings.Repeat("x", 1025) + `","a":"persisted"`:               "invalid topic",
		`"c":"publish","t":"sow","a":"persisted"`:                                             "bad sow key",
	} {
		t.Run(header, func(t *testing.T) {
			ack := c.ask(`{` + header + `,"cid":"77"}`)
			require.Equal(t, "ack", ack.str("c"))
			require.Equal(t, "failure", ack.str("status"))
			require.Equal(t, reason, ack.str("reason"))
			require.Equal(t, "77", ack.str("cid"))
			asked := "processed"
			if m := askedFor.FindStringSubmatch(header); m != nil {
				asked = m[1]
			}
			require.Equal(t, asked, ack.str("a"))
		})
	}
	t.Run("bodies", func(t *testing.T) {
		for body, reason := range map[string]string{
			"\xff":              "parse error",
			`{"no":"key"}`:      "bad sow key",
			`{"id":[1]}`:        "bad sow key",
			`{"id":1} and more`: "bad sow key",
			`   `:               "bad sow key",
			`{"id":1,"x":"` + strings.Repeat("x", 1000) + `"}`: "sow store failed",
		} {
			ack := c.ask(`{"c":"publish","cid":"77","t":"sow","a":"persisted"}`, body)
			require.Equal(t, reason, ack.str("reason"), "%q", body)
		}
	})
}
