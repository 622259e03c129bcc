package amps

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// count is the number of messages in each direction.
const count = 10_000

// The guarded server accepts only this user, with this token.
const (
	user  = "desk"
	token = "T0ken"
)

// A setup has the servers that all clients use.
type setup struct {
	dir     string // has the certificate and the messages
	open    string // the address of a server that accepts all users
	guarded string // the address of a server that requires the user and the token
	edge    edge   // in front of open
	gate    edge   // in front of guarded
	hasty   edge   // in front of open; it closes tunnels that are silent for 2 seconds
	up      batch
	down    batch
	large   batch
}

// TestAMPS runs each client.
func TestAMPS(t *testing.T) {
	s := startSetup(t)
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			for _, r := range s.routes() {
				if r.preflight || !l.webSocket {
					t.Run("exchange/"+r.name, func(t *testing.T) { s.exchange(t, l, r) })
				}
			}
			for _, r := range []route{s.edge.route(), s.edge.secure()} {
				t.Run("large/"+r.name, func(t *testing.T) { s.exchangeLarge(t, l, r) })
				t.Run("sow/"+r.name, func(t *testing.T) { s.sow(t, l, r) })
			}
			for _, r := range []route{s.gate.route(), s.gate.secure()} {
				t.Run("drops/"+r.name, func(t *testing.T) { s.exchangeWithDrops(t, l, r) })
			}
			t.Run("fields", func(t *testing.T) { s.fields(t, l) })
			t.Run("untrusted", func(t *testing.T) { s.untrusted(t, l) })
			t.Run("refused", func(t *testing.T) { s.refused(t, l) })
			t.Run("refused for ever", func(t *testing.T) { s.refusedForEver(t, l) })
			t.Run("heartbeat", func(t *testing.T) { s.heartbeat(t, l) })
		})
	}
}

func startSetup(t *testing.T) *setup {
	t.Helper()
	dir := t.TempDir()
	lab.WriteCertificate(t, dir)
	server := func(args ...string) []string {
		return append(args, "-tls-cert", filepath.Join(dir, "cert.pem"), "-tls-key", filepath.Join(dir, "key.pem"))
	}
	s := &setup{dir: dir, up: messages(t, dir, 1), down: messages(t, dir, 2), large: largeMessages(t, dir)}
	binary := buildServer(t)
	s.open = startServer(t, binary, server("-sow", "orders:/id")...)
	s.guarded = startServer(t, binary, server("-user", user, "-token", token)...)
	s.edge = startNginx(t, dir, s.open)
	s.gate = startNginx(t, dir, s.guarded)
	s.hasty = startNginx(t, dir, s.open, "proxy_read_timeout 1h;", "proxy_read_timeout 2s;")
	s.publishOrders(t)
	return s
}

// A batch is a list of messages. The file has one in each line.
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

// messages returns a batch of numbered messages with random lengths.
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

// largeMessages returns a batch of messages that are larger than any buffer on the way.
func largeMessages(t *testing.T, dir string) batch {
	t.Helper()
	var all []string
	for i, size := range []int{100 << 10, 1 << 20, 100 << 10} {
		all = append(all, fmt.Sprintf(`{"id":%d,"pad":"%s"}`, i, strings.Repeat("0123456789abcdef", size/16)))
	}
	return newBatch(t, dir, "messages-large", all)
}

// A route is a way from a client to a server.
type route struct {
	name      string
	address   string
	tls       bool
	preflight bool
	edge      bool // it goes through nginx, with the prefix of the path for that
}

func (e edge) route() route  { return route{"nginx", e.plain, false, true, true} }
func (e edge) secure() route { return route{"nginx with TLS", e.tls, true, true, true} }

// routes returns the routes to the open server.
func (s *setup) routes() []route {
	return []route{
		s.edge.route(),
		s.edge.secure(),
		{"straight", s.open, false, true, false},
		{"straight with TLS", s.open, true, true, false},
		{"without preflight", s.open, false, false, false},
		{"without preflight with TLS", s.open, true, false, false},
	}
}

// url returns the URL for a client. userinfo may name a user and a password.
func (r route) url(l language, userinfo string) string {
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

// arguments returns the arguments of a program that uses the route. If a name occurs twice,
// the last one counts.
func (s *setup) arguments(t *testing.T, l language, r route, mode string, more ...string) []string {
	args := []string{"mode=" + mode, "name=" + t.Name(), "url=" + r.url(l, "")}
	if r.tls {
		args = append(args, "ca="+filepath.Join(s.dir, "cert.pem"))
	}
	return append(args, more...)
}
