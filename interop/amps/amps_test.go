package amps

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// count is how many messages go each way.
const count = 10_000

// token is what the guarded server asks for.
const token = "T0ken"

// A bench is what all clients talk to.
type bench struct {
	dir      string // of the certificate and of the messages
	open     string // the server's address
	guarded  string // that of another, which asks for the token
	edge     edge   // in front of open
	gate     edge   // in front of guarded
	hasty    edge   // in front of open: it ends what is silent for 2 seconds
	up, down []string
	file     string // with the messages up
}

func TestAMPS(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir)
	binary := buildServer(t)
	tls := []string{"-tls-cert", filepath.Join(dir, "cert.pem"), "-tls-key", filepath.Join(dir, "key.pem")}
	b := &bench{dir: dir, up: messages(1), down: messages(2)}
	b.open = startServer(t, binary, append(tls, "-sow", "orders:/id")...)
	b.guarded = startServer(t, binary, append(tls, "-user", "desk", "-token", token)...)
	b.edge = startNginx(t, dir, b.open)
	b.gate = startNginx(t, dir, b.guarded)
	b.hasty = startNginx(t, dir, b.open, "proxy_read_timeout 1h;", "proxy_read_timeout 2s;")
	b.file = b.write(t, "up.jsonl", b.up)
	b.publishOrders(t)
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			for _, r := range b.roads() {
				if r.preflight || !l.webSock {
					t.Run("exchange/"+r.name, func(t *testing.T) { b.exchange(t, l, r) })
				}
			}
			for _, r := range []road{b.edge.road(), b.edge.secure()} {
				t.Run("sow/"+r.name, func(t *testing.T) { b.sow(t, l, r) })
				t.Run("large/"+r.name, func(t *testing.T) { b.large(t, l, r) })
			}
			t.Run("fields", func(t *testing.T) { b.fields(t, l) })
			t.Run("refused", func(t *testing.T) { b.refused(t, l) })
			t.Run("refused for ever", func(t *testing.T) { b.refusedForEver(t, l) })
			for _, r := range []road{b.gate.road(), b.gate.secure()} {
				t.Run("drops/"+r.name, func(t *testing.T) { b.drops(t, l, r) })
			}
			t.Run("heartbeat", func(t *testing.T) { b.heartbeat(t, l) })
		})
	}
}

// messages are numbered, and have a length by chance.
func messages(seed uint64) []string {
	random := rand.New(rand.NewPCG(seed, 0))
	alphabet := []string{"a", "Z", "0", " ", "é", "漢", "😀", `\"`, `\\`, `\n`, "{", "}", ":", "/"}
	var all []string
	for i := range count {
		var padding strings.Builder
		for range random.IntN(1 + random.IntN(1000)) {
			padding.WriteString(alphabet[random.IntN(len(alphabet))])
		}
		all = append(all, fmt.Sprintf(`{"id":%d,"pad":"%s"}`, i, &padding))
	}
	return all
}

func (b *bench) write(t *testing.T, name string, messages []string) (file string) {
	t.Helper()
	file = filepath.Join(b.dir, name)
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(messages, "\n")+"\n"), 0o600))
	return file
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

// A road leads a client to the server.
type road struct {
	name      string
	address   string
	tls       bool
	preflight bool
	edge      bool // the path begins with what leads through nginx
}

func (e edge) road() road   { return road{"nginx", e.plain, false, true, true} }
func (e edge) secure() road { return road{"nginx with TLS", e.tls, true, true, true} }

func (b *bench) roads() []road {
	return []road{
		b.edge.road(),
		b.edge.secure(),
		{"straight", b.open, false, true, false},
		{"straight with TLS", b.open, true, true, false},
		{"without preflight", b.open, false, false, false},
		{"without preflight with TLS", b.open, true, false, false},
	}
}

// arguments are those of a program that takes the road.
func (b *bench) arguments(t *testing.T, l language, r road, mode string, more ...string) []string {
	args := append([]string{"mode=" + mode, "name=" + t.Name(), "url=" + r.url(l, "")}, more...)
	if r.tls {
		args = append(args, "ca="+filepath.Join(b.dir, "cert.pem"))
	}
	return args
}

// url may name a user, and a password.
func (r road) url(l language, user string) string {
	scheme, prefix := "tcp", "/client"
	if l.webSock {
		scheme, prefix = "ws", "/ws"
	}
	if r.tls {
		scheme += "s"
	}
	if !r.edge {
		prefix = ""
	}
	url := scheme + "://" + user + r.address + prefix + "/amps/json"
	var options []string
	if r.preflight && !l.webSock {
		options = append(options, "http_preflight=true")
	}
	if r.tls && !l.webSock {
		options = append(options, "sni=localhost") // what makes Python look at the name
	}
	if len(options) > 0 {
		url += "?" + strings.Join(options, "&")
	}
	return url
}

// exchange sends all messages both ways at once.
func (b *bench) exchange(t *testing.T, l language, r road) {
	up, down := t.Name()+"/up", t.Name()+"/down"
	peer := joinServer(t, b.open, nil)
	peer.subscribe(up)
	received := filepath.Join(t.TempDir(), "received")
	c := converse(t, l, b.arguments(t, l, r, "exchange", "publish="+b.file, "to="+up,
		"from="+down, fmt.Sprintf("count=%d", count), "receive="+received)...)
	c.expect("connected", "subscribed")
	peer.publish(down, b.down)
	c.expect("published", "received")
	c.finish()
	same(t, b.up, peer.collect(count))
	same(t, b.down, read(t, received))
}

// publishOrders fills the SOW: each order is published three times.
func (b *bench) publishOrders(t *testing.T) {
	peer := joinServer(t, b.open, nil)
	var all []string
	for version := range 3 {
		for id := range orders {
			all = append(all, order(id, version))
		}
	}
	peer.publish("orders", all)
}

const orders = 500

func order(id, version int) string {
	return fmt.Sprintf(`{"id":%d,"version":%d,"side":"%s","note":"%s"}`, id, version, []string{"buy", "sell"}[id%2], strings.Repeat("é", id))
}

// sow queries the last version of each order that a filter selects.
func (b *bench) sow(t *testing.T, l language, r road) {
	received := filepath.Join(t.TempDir(), "received")
	c := converse(t, l, b.arguments(t, l, r, "sow", "from=orders", "filter=/side = 'buy' AND /version > 1", "receive="+received)...)
	e := c.expect("connected", "answered")
	c.finish()
	require.Equal(t, event{Event: "answered", GroupBegin: 1, SOW: orders / 2, GroupEnd: 1}, e)
	var want []string
	for id := 0; id < orders; id += 2 {
		want = append(want, order(id, 2))
	}
	require.ElementsMatch(t, want, read(t, received))
}

// large sends messages that are longer than any buffer on the way.
func (b *bench) large(t *testing.T, l language, r road) {
	var all []string
	for i, size := range []int{100 << 10, 1 << 20, 100 << 10} {
		all = append(all, fmt.Sprintf(`{"id":%d,"pad":"%s"}`, i, strings.Repeat("0123456789abcdef", size/16)))
	}
	up, down := t.Name()+"/up", t.Name()+"/down"
	peer := joinServer(t, b.open, nil)
	peer.subscribe(up)
	received := filepath.Join(t.TempDir(), "received")
	publish := filepath.Join(t.TempDir(), "publish")
	require.NoError(t, os.WriteFile(publish, []byte(strings.Join(all, "\n")+"\n"), 0o600))
	c := converse(t, l, b.arguments(t, l, r, "exchange", slices.Concat(l.large, []string{"publish=" + publish, "to=" + up,
		"from=" + down, fmt.Sprintf("count=%d", len(all)), "receive=" + received})...)...)
	c.expect("connected", "subscribed")
	peer.publish(down, all)
	c.expect("published", "received")
	c.finish()
	same(t, all, peer.collect(len(all)))
	same(t, all, read(t, received))
}

// The two ways in which a client can be told its own header fields.
var (
	rawField = "field=Authorization: Bearer " + token
	pairs    = []string{"key=Authorization", "value=Bearer " + token}
)

// fields shows the token to the guarded server, in each way that there is.
func (b *bench) fields(t *testing.T, l language) {
	ways := [][]string{{rawField}, pairs}
	if l.webSock { // it can make Basic credentials alone
		ways = [][]string{{"url=" + b.gate.road().url(l, "desk:"+token+"@")}}
	}
	for _, way := range ways {
		c := converse(t, l, b.arguments(t, l, b.gate.road(), "connect", way...)...)
		c.expect("connected")
		c.finish()
	}
}

// refused shows what a client makes of 401 and of 404, from the server and from
// nginx: it tells nothing apart.
func (b *bench) refused(t *testing.T, l language) {
	for _, r := range []road{
		b.gate.road(), // 401
		{"straight", b.guarded, false, true, false},   // 401
		{"nowhere", b.edge.plain, false, true, false}, // 404 of nginx
		{"nowhere", b.open, false, true, true},        // 404 of the server
	} {
		c := converse(t, l, b.arguments(t, l, r, "connect")...)
		for _, want := range l.refused {
			e := c.next()
			got := e.Event
			if got == "failed" {
				got += ": " + e.Error + ": " + e.Message
			}
			require.True(t, strings.HasPrefix(got, want), "%s: %s", r.name, got)
		}
		require.Error(t, c.ended())
	}
}

// refusedForEver shows that a highly available client tries again, and again,
// and says nothing.
func (b *bench) refusedForEver(t *testing.T, l language) {
	r := b.gate.road()
	relay := startRelay(t, r.address)
	r.address = relay.address
	c := converse(t, l, b.arguments(t, l, r, "connect", "ha=true")...)
	for range 3 {
		<-relay.dialed
	}
	require.Empty(t, c.events)
}

// drops cuts the connection of a highly available client twice, and loses nothing:
// what it publishes is in its store until the server has acknowledged it, and what
// it receives goes on from a bookmark. Each connection shows its header fields.
func (b *bench) drops(t *testing.T, l language, r road) {
	up, down := t.Name()+"/up", t.Name()+"/down"
	peer := joinServer(t, b.guarded, http.Header{"Authorization": {"Bearer " + token}})
	peer.subscribe(up)
	received := filepath.Join(t.TempDir(), "received")
	size := 0
	for _, message := range b.up {
		size += len(message)
	}
	relay := startRelay(t, r.address, size/4, size/2)
	r.address = relay.address
	args := []string{"ha=true", rawField, "key=X-Desk", "value=rates"}
	if l.webSock {
		args = []string{"ha=true", "url=" + r.url(l, "desk:"+token+"@")}
	}
	c := converse(t, l, b.arguments(t, l, r, "exchange", append(args, "publish="+b.file, "to="+up,
		"from="+down, fmt.Sprintf("count=%d", count), "receive="+received)...)...)
	c.expect("connected", "subscribed")
	third := count / 3
	peer.publish(down, b.down[:third])
	<-relay.cut
	peer.publish(down, b.down[third:2*third])
	<-relay.cut
	peer.publish(down, b.down[2*third:])
	require.Zero(t, c.expect("published").Unpersisted)
	c.expect("received")
	c.finish()
	same(t, b.up, peer.collect(count))
	same(t, b.down, read(t, received))

	// C++ and Python, cut while they send their store again, at times end the next
	// connection themselves.
	requests := relay.requests()
	require.GreaterOrEqual(t, len(requests), 3)
	for _, request := range requests {
		switch {
		case r.tls: // that they got through shows the token
		case l.webSock:
			require.Contains(t, request, "\r\nAuthorization: Basic ")
		default:
			require.Contains(t, request, "\r\nAuthorization: Bearer "+token+"\r\nX-Desk: rates\r\n")
		}
	}
}

// heartbeat keeps a tunnel that is silent otherwise: two others end meanwhile, one
// after the other, because nginx takes them for dead.
func (b *bench) heartbeat(t *testing.T, l language) {
	topic := t.Name()
	peer := joinServer(t, b.open, nil)
	kept := converse(t, l, b.arguments(t, l, b.hasty.road(), "wait", "from="+topic, "heartbeat=1")...)
	kept.expect("connected", "subscribed")
	for i := range 2 {
		silent := converse(t, l, b.arguments(t, l, b.hasty.road(), "wait", "from=nothing", fmt.Sprintf("name=%s/%d", topic, i))...)
		silent.expect("connected", "subscribed", "disconnected")
		silent.finish()
	}
	peer.publish(topic, []string{`{"id":1}`})
	require.Equal(t, `{"id":1}`, kept.expect("message").Data)
	kept.finish()
}
