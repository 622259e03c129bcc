package amps

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The two ways in which a client is told its own header fields.
var (
	rawField = "field=Authorization: Bearer " + token
	pair     = []string{"key=Authorization", "value=Bearer " + token}
)

// A transfer is what a client and a peer send each other.
type transfer struct {
	up, down batch
	peer     *peer
	// publish sends the messages down while the client sends those up.
	publish func(topic string)
}

// run returns when all messages have arrived, and nothing else.
func (x transfer) run(t *testing.T, l language, args []string) {
	t.Helper()
	up, down := t.Name()+"/up", t.Name()+"/down"
	x.peer.subscribe(up)
	received := filepath.Join(t.TempDir(), "received")
	c := converse(t, l, append(args, "publish="+x.up.file, "to="+up,
		"from="+down, fmt.Sprintf("count=%d", len(x.down.messages)), "receive="+received)...)
	c.expect("connected", "subscribed")
	if x.publish == nil {
		x.peer.publish(down, x.down.messages)
	} else {
		x.publish(down)
	}
	require.Zero(t, c.expect("published").Unpersisted)
	c.expect("received")
	c.finish()
	same(t, x.up.messages, x.peer.collect(len(x.up.messages)))
	same(t, x.down.messages, read(t, received))
}

func read(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// same compares byte by byte. Of what differs, it shows the first.
func same(t *testing.T, want, got []string) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.Equal(t, want[i], got[i], "message %d", i)
	}
}

// exchange sends all messages both ways at once.
func (b *lab) exchange(t *testing.T, l language, r road) {
	transfer{up: b.up, down: b.down, peer: joinServer(t, b.open, nil)}.run(t, l, b.arguments(t, l, r, "exchange"))
}

func (b *lab) exchangeLarge(t *testing.T, l language, r road) {
	transfer{up: b.large, down: b.large, peer: joinServer(t, b.open, nil)}.run(t, l, b.arguments(t, l, r, "exchange", l.large...))
}

// exchangeWithDrops cuts the connection of a highly available client twice, and
// loses nothing: what it publishes is in its store until the server has
// acknowledged it, and what it receives goes on from a bookmark. It shows its
// header fields each time.
func (b *lab) exchangeWithDrops(t *testing.T, l language, r road) {
	size := 0
	for _, message := range b.up.messages {
		size += len(message)
	}
	relay := startRelay(t, r.address, size/4, size/2)
	r.address = relay.address
	own := []string{"ha=true", rawField, "key=X-Desk", "value=rates"}
	if l.webSocket {
		own = []string{"ha=true", "url=" + r.url(l, user+":"+token+"@")}
	}

	peer := joinServer(t, b.guarded, http.Header{"Authorization": {"Bearer " + token}})
	third := count / 3
	transfer{up: b.up, down: b.down, peer: peer, publish: func(topic string) {
		peer.publish(topic, b.down.messages[:third])
		await(t, "the first cut", relay.cut)
		peer.publish(topic, b.down.messages[third:2*third])
		await(t, "the second cut", relay.cut)
		peer.publish(topic, b.down.messages[2*third:])
	}}.run(t, l, b.arguments(t, l, r, "exchange", own...))

	// C++ and Python, cut while they send their store again, at times end the next
	// connection themselves.
	requests := relay.requests()
	require.GreaterOrEqual(t, len(requests), 3)
	for _, request := range requests {
		switch {
		case r.tls: // that it got through shows the token
		case l.webSocket:
			require.Contains(t, request, "\r\nAuthorization: Basic ")
		default:
			require.Contains(t, request, "\r\nAuthorization: Bearer "+token+"\r\nX-Desk: rates\r\n")
		}
	}
}

const orders = 500

func order(id, version int) string {
	side := []string{"buy", "sell"}[id%2]
	return fmt.Sprintf(`{"id":%d,"version":%d,"side":"%s","note":"%s"}`, id, version, side, strings.Repeat("é", id))
}

// publishOrders fills the SOW: each order is published three times.
func (b *lab) publishOrders(t *testing.T) {
	t.Helper()
	var all []string
	for version := range 3 {
		for id := range orders {
			all = append(all, order(id, version))
		}
	}
	joinServer(t, b.open, nil).publish("orders", all)
}

// sow queries the last version of the orders that a filter selects.
func (b *lab) sow(t *testing.T, l language, r road) {
	received := filepath.Join(t.TempDir(), "received")
	c := converse(t, l, b.arguments(t, l, r, "sow", "from=orders", "filter=/side = 'buy' AND /version > 1", "receive="+received)...)
	answer := c.expect("connected", "answered")
	c.finish()
	require.Equal(t, event{Event: "answered", GroupBegin: 1, SOW: orders / 2, GroupEnd: 1}, answer)
	var want []string
	for id := 0; id < orders; id += 2 {
		want = append(want, order(id, 2))
	}
	require.ElementsMatch(t, want, read(t, received))
}
