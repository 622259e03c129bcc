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

// The two ways to give a client header fields of the user.
var (
	rawField = "field=Authorization: Bearer " + token
	pair     = []string{"key=Authorization", "value=Bearer " + token}
)

// A transfer is what a client and a peer send to each other.
type transfer struct {
	up, down batch
	peer     *peer
	// publish sends the messages down while the client sends the messages up. Nil means
	// that the peer publishes all of them.
	publish func(topic string)
}

// run requires that all messages arrive, and nothing else.
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

// read returns the lines of a file.
func read(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// same requires equal messages. It shows the first difference.
func same(t *testing.T, want, got []string) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.Equal(t, want[i], got[i], "message %d", i)
	}
}

// exchange sends all messages in both directions at once.
func (s *setup) exchange(t *testing.T, l language, r route) {
	transfer{up: s.up, down: s.down, peer: joinServer(t, s.open, nil)}.run(t, l, s.arguments(t, l, r, "exchange"))
}

// exchangeLarge does the same with large messages.
func (s *setup) exchangeLarge(t *testing.T, l language, r route) {
	transfer{up: s.large, down: s.large, peer: joinServer(t, s.open, nil)}.run(t, l, s.arguments(t, l, r, "exchange", l.large...))
}

// exchangeWithDrops cuts the connection of a highly available client twice. Nothing may be
// lost: the client keeps what it publishes in a store until the server has acknowledged it,
// and it resumes what it receives at a bookmark. It must send its header fields each time.
func (s *setup) exchangeWithDrops(t *testing.T, l language, r route) {
	size := 0
	for _, message := range s.up.messages {
		size += len(message)
	}
	relay := startRelay(t, r.address, size/4, size/2)
	r.address = relay.address
	own := []string{"ha=true", rawField, "key=X-Desk", "value=rates"}
	if l.webSocket {
		own = []string{"ha=true", "url=" + r.url(l, user+":"+token+"@")}
	}

	peer := joinServer(t, s.guarded, http.Header{"Authorization": {"Bearer " + token}})
	third := count / 3
	transfer{up: s.up, down: s.down, peer: peer, publish: func(topic string) {
		peer.publish(topic, s.down.messages[:third])
		await(t, "the first cut", relay.cut)
		peer.publish(topic, s.down.messages[third:2*third])
		await(t, "the second cut", relay.cut)
		peer.publish(topic, s.down.messages[2*third:])
	}}.run(t, l, s.arguments(t, l, r, "exchange", own...))

	// If C++ and Python are cut while they send their store again, they sometimes close the
	// next connection themselves.
	requests := relay.requests()
	require.GreaterOrEqual(t, len(requests), 3)
	for _, request := range requests {
		switch {
		case r.tls: // the relay cannot read it; the server has verified the token
		case l.webSocket:
			require.Contains(t, request, "\r\nAuthorization: Basic ")
		default:
			require.Contains(t, request, "\r\nAuthorization: Bearer "+token+"\r\nX-Desk: rates\r\n")
		}
	}
}

// orders is the number of orders.
const orders = 500

// order returns a version of an order.
func order(id, version int) string {
	side := []string{"buy", "sell"}[id%2]
	return fmt.Sprintf(`{"id":%d,"version":%d,"side":"%s","note":"%s"}`, id, version, side, strings.Repeat("é", id))
}

// publishOrders fills the SOW. It publishes each order three times.
func (s *setup) publishOrders(t *testing.T) {
	t.Helper()
	var all []string
	for version := range 3 {
		for id := range orders {
			all = append(all, order(id, version))
		}
	}
	joinServer(t, s.open, nil).publish("orders", all)
}

// sow queries the last versions of the orders that a filter selects.
func (s *setup) sow(t *testing.T, l language, r route) {
	received := filepath.Join(t.TempDir(), "received")
	c := converse(t, l, s.arguments(t, l, r, "sow", "from=orders", "filter=/side = 'buy' AND /version > 1", "receive="+received)...)
	answer := c.expect("connected", "answered")
	c.finish()
	require.Equal(t, event{Event: "answered", GroupBegin: 1, SOW: orders / 2, GroupEnd: 1}, answer)
	var want []string
	for id := 0; id < orders; id += 2 {
		want = append(want, order(id, 2))
	}
	require.ElementsMatch(t, want, read(t, received))
}
