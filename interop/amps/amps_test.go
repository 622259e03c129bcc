package amps

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// count is how many messages go each way.
const count = 10_000

// The guarded server lets this user in, who must show this token.
const (
	user  = "desk"
	token = "T0ken"
)

// A lab is what all clients talk to.
type lab struct {
	dir     string // of the certificate and of the messages
	open    string // the address of a server that lets everybody in
	guarded string
	edge    edge // in front of open
	gate    edge // in front of guarded
	hasty   edge // in front of open: it ends what is silent for 2 seconds
	up      batch
	down    batch
	large   batch
}

func TestAMPS(t *testing.T) {
	b := startLab(t)
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			for _, r := range b.roads() {
				if r.preflight || !l.webSocket {
					t.Run("exchange/"+r.name, func(t *testing.T) { b.exchange(t, l, r) })
				}
			}
			for _, r := range []road{b.edge.road(), b.edge.secure()} {
				t.Run("large/"+r.name, func(t *testing.T) { b.exchangeLarge(t, l, r) })
				t.Run("sow/"+r.name, func(t *testing.T) { b.sow(t, l, r) })
			}
			for _, r := range []road{b.gate.road(), b.gate.secure()} {
				t.Run("drops/"+r.name, func(t *testing.T) { b.exchangeWithDrops(t, l, r) })
			}
			t.Run("fields", func(t *testing.T) { b.fields(t, l) })
			t.Run("untrusted", func(t *testing.T) { b.untrusted(t, l) })
			t.Run("refused", func(t *testing.T) { b.refused(t, l) })
			t.Run("refused for ever", func(t *testing.T) { b.refusedForEver(t, l) })
			t.Run("heartbeat", func(t *testing.T) { b.heartbeat(t, l) })
		})
	}
}

func startLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	writeCertificate(t, dir)
	server := func(args ...string) []string {
		return append(args, "-tls-cert", filepath.Join(dir, "cert.pem"), "-tls-key", filepath.Join(dir, "key.pem"))
	}
	b := &lab{dir: dir, up: messages(t, dir, 1), down: messages(t, dir, 2), large: largeMessages(t, dir)}
	binary := buildServer(t)
	b.open = startServer(t, binary, server("-sow", "orders:/id")...)
	b.guarded = startServer(t, binary, server("-user", user, "-token", token)...)
	b.edge = startNginx(t, dir, b.open)
	b.gate = startNginx(t, dir, b.guarded)
	b.hasty = startNginx(t, dir, b.open, "proxy_read_timeout 1h;", "proxy_read_timeout 2s;")
	b.publishOrders(t)
	return b
}

// A batch is a number of messages, which are also the lines of a file.
type batch struct {
	messages []string
	file     string
}

func newBatch(t *testing.T, dir, name string, messages []string) batch {
	t.Helper()
	file := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(messages, "\n")+"\n"), 0o600))
	return batch{messages, file}
}

// messages are numbered, and have a length by chance.
func messages(t *testing.T, dir string, seed uint64) batch {
	t.Helper()
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
	return newBatch(t, dir, fmt.Sprintf("messages-%d", seed), all)
}

// largeMessages are longer than any buffer on the way.
func largeMessages(t *testing.T, dir string) batch {
	t.Helper()
	var all []string
	for i, size := range []int{100 << 10, 1 << 20, 100 << 10} {
		all = append(all, fmt.Sprintf(`{"id":%d,"pad":"%s"}`, i, strings.Repeat("0123456789abcdef", size/16)))
	}
	return newBatch(t, dir, "messages-large", all)
}

// A road leads a client to a server.
type road struct {
	name      string
	address   string
	tls       bool
	preflight bool
	edge      bool // the path begins with what leads through nginx
}

func (e edge) road() road   { return road{"nginx", e.plain, false, true, true} }
func (e edge) secure() road { return road{"nginx with TLS", e.tls, true, true, true} }

// roads are those to the open server.
func (b *lab) roads() []road {
	return []road{
		b.edge.road(),
		b.edge.secure(),
		{"straight", b.open, false, true, false},
		{"straight with TLS", b.open, true, true, false},
		{"without preflight", b.open, false, false, false},
		{"without preflight with TLS", b.open, true, false, false},
	}
}

// url may name a user, and a password.
func (r road) url(l language, userinfo string) string {
	scheme, prefix := "tcp", "/client"
	if l.webSocket {
		scheme, prefix = "ws", "/ws"
	}
	if r.tls {
		scheme += "s"
	}
	if !r.edge {
		prefix = ""
	}
	url := scheme + "://" + userinfo + r.address + prefix + "/amps/json"
	if l.webSocket {
		return url
	}
	var options []string
	if r.preflight {
		options = append(options, "http_preflight=true")
	}
	if r.tls {
		options = append(options, "sni=localhost") // makes Python verify the name
	}
	if len(options) > 0 {
		url += "?" + strings.Join(options, "&")
	}
	return url
}

// arguments are those of a program that takes the road. Of two with one name the
// last one counts.
func (b *lab) arguments(t *testing.T, l language, r road, mode string, more ...string) []string {
	args := []string{"mode=" + mode, "name=" + t.Name(), "url=" + r.url(l, "")}
	if r.tls {
		args = append(args, "ca="+filepath.Join(b.dir, "cert.pem"))
	}
	return append(args, more...)
}
