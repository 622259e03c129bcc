// Package clients tests the clients in JavaScript (Node) and Python with the listener, through
// real proxies.
//
//	go test -run Clients/python/nginx/framed ./interop/clients
//
// A new language is an entry of languages, and a program in testdata that does a job.
package clients

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// A language is a client under test.
type language struct {
	name    string
	command []string // that does the job of its last argument
	suite   []string // the command that runs the client's own tests, with all vectors
	folder  string   // of the client
}

var languages = []language{
	{"javascript", []string{"node", "testdata/client.mjs"}, []string{"node", "--experimental-websocket", "--test", "--test-reporter=spec", "test/"}, "js"},
	{"python", []string{"python3", "testdata/client.py"}, []string{"python3", "-m", "unittest"}, "python"},
}

// TestSuites runs the clients' own tests.
func TestSuites(t *testing.T) {
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), lab.FindBinary(t, l.suite[0]), l.suite[1:]...)
			cmd.Dir = "../../clients/" + l.folder
			output, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", failures(string(output)))
		})
	}
}

// failures returns the part of a test's output that says what has failed.
func failures(output string) string {
	for _, mark := range []string{"failing tests:", "\n======"} {
		if _, after, ok := strings.Cut(output, mark); ok {
			output = after
		}
	}
	return output[:min(len(output), 8<<10)]
}

// A proxy is a proxy under test.
type proxy struct {
	name     string
	start    lab.StartFunc
	carriers []preflight.Carrier // that it forwards, beginning with the one that a client finds
	edits    []string            // of its file
}

var allCarriers = []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierFramed, preflight.CarrierWebSocket}

var proxies = []proxy{
	{"nginx", lab.StartNginx, allCarriers, nil},
	{"haproxy", lab.StartHAProxy(lab.HAProxyFile), allCarriers, nil},
	{"caddy", lab.StartCaddy, allCarriers, nil},
	// As most cloud load balancers, this one forwards WebSocket alone.
	{"envoy", lab.StartEnvoy, allCarriers[2:], []string{envoyToken("tcp"), "", envoyToken("tcps"), ""}},
}

// envoyToken returns the line of Envoy's file for a token, with the indentation of the next line.
func envoyToken(token string) string { return "- upgrade_type: " + token + "\n                  " }

// A job is what a client does in one run.
type job struct {
	URL      string              `json:"url"`
	Carriers []preflight.Carrier `json:"carriers,omitempty"` // nil: the client's default
	Headers  map[string]string   `json:"headers,omitempty"`
	CA       string              `json:"ca,omitempty"` // a file with the certificate of an https URL
	Size     int                 `json:"size"`         // how many bytes it sends
	Block    int                 `json:"block"`        // in blocks of so many bytes
	Order    string              `json:"order"`        // when it ends its direction, see below
}

// In each order, a client reads until the server has ended its direction.
const (
	echo       = "echo"        // when it has received as many bytes as it has sent
	writeFirst = "write first" // when it has sent everything
	readFirst  = "read first"  // it sends only when the server has ended its direction
)

// An outcome is what a client prints.
type outcome struct {
	Carrier  preflight.Carrier `json:"carrier"`
	End      string            `json:"end"` // clean, or the kind of the error
	Status   int               `json:"status"`
	Code     string            `json:"code"`
	Bytes    int               `json:"bytes"` // received
	Sent     string            `json:"sent"`  // SHA-256
	Received string            `json:"received"`
}

func TestClients(t *testing.T) {
	for _, l := range languages {
		for _, p := range proxies {
			t.Run(l.name+"/"+p.name, func(t *testing.T) {
				s := &scenario{language: l, server: startServer(t)}
				s.edge = p.start(t, s.server.address, p.edits...)
				t.Run("Default", func(t *testing.T) { s.carriers(nil).testDefault(t, p.carriers[0]) })
				for _, c := range p.carriers {
					t.Run(string(c), func(t *testing.T) {
						s := s.carriers([]preflight.Carrier{c})
						t.Run("Echo", s.testEcho)
						t.Run("TLS", s.testTLS)
						t.Run("Transfer", s.testTransfer)
						t.Run("Refusals", s.testRefusals)
						if c != preflight.CarrierUpgrade { // it has no end of its own
							t.Run("HalfClose", s.testHalfClose)
							t.Run("ServerFirst", s.testServerFirst)
							t.Run("Truncated", s.testTruncated)
						}
					})
				}
			})
		}
	}
}

// A scenario is a client with a way to the server.
type scenario struct {
	language
	edge   *lab.Edge
	server *server
	try    []preflight.Carrier
}

func (s scenario) carriers(try []preflight.Carrier) scenario {
	s.try = try
	return s
}

const size = 1 << 20 // bytes that must be complete although a direction has ended

func (s scenario) testDefault(t *testing.T, want preflight.Carrier) {
	got := s.run(t, job{URL: s.url("/client/echo"), Size: size, Order: echo})
	require.Equal(t, want, got.Carrier)
	requireEcho(t, got, size)
}

func (s scenario) testEcho(t *testing.T) {
	requireEcho(t, s.run(t, job{URL: s.url("/client/echo"), Size: size, Order: echo}), size)
}

// testTransfer sends 64 MiB in each direction at once.
func (s scenario) testTransfer(t *testing.T) {
	requireEcho(t, s.run(t, job{URL: s.url("/client/echo"), Size: 64 << 20, Order: echo}), 64<<20)
}

func (s scenario) testTLS(t *testing.T) {
	c, err := tls.Dial("tcp", s.edge.TLS.Address, s.edge.TLS.TLSConfig())
	require.NoError(t, err)
	defer c.Close()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ConnectionState().PeerCertificates[0].Raw})
	ca := lab.WriteFile(t, t.TempDir(), "ca.pem", string(certificate))
	requireEcho(t, s.run(t, job{URL: "https://" + s.edge.TLS.Address + "/client/echo", CA: ca, Size: size, Order: echo}), size)
}

func requireEcho(t *testing.T, got outcome, size int) {
	t.Helper()
	require.Equal(t, "clean", got.End)
	require.Equal(t, size, got.Bytes)
	require.Equal(t, got.Sent, got.Received)
}

// testHalfClose requires that what the server sends arrives although the client has ended its
// direction, and a confirmation at the end.
func (s scenario) testHalfClose(t *testing.T) {
	requireEcho(t, s.run(t, job{URL: s.url("/client/late"), Size: size, Order: writeFirst}), size)
}

// testServerFirst requires that what the client sends arrives although the server has ended
// its direction.
func (s scenario) testServerFirst(t *testing.T) {
	got := s.run(t, job{URL: s.url("/client/first"), Size: size, Order: readFirst})
	require.Equal(t, "clean", got.End)
	require.Equal(t, len(greeting), got.Bytes)
	require.Equal(t, sum([]byte(greeting)), got.Received)
	require.Equal(t, got.Sent, lab.Receive(t, s.server.received))
}

// testTruncated kills the server's end of the connection in the middle of a stream.
func (s scenario) testTruncated(t *testing.T) {
	got := s.run(t, job{URL: s.url("/client/cut"), Order: readFirst})
	require.Contains(t, []string{"truncated", "reset"}, got.End)
}

func (s scenario) testRefusals(t *testing.T) {
	for _, test := range []struct {
		path, header string
		status       int
		code         string
	}{
		{"/client/echo", "Origin: https://evil.example", http.StatusForbidden, "origin"},
		{"/client/forbidden", "", http.StatusForbidden, "authorize"},
		{"/client/busy", "", http.StatusTooManyRequests, "authorize"},
		{"/elsewhere", "", http.StatusNotFound, ""}, // of the proxy, which has no such route
	} {
		j := job{URL: s.url(test.path), Order: echo}
		if name, value, ok := strings.Cut(test.header, ": "); ok {
			j.Headers = map[string]string{name: value}
		}
		got := s.run(t, j)
		require.Equal(t, "refused", got.End, test.path)
		require.Equal(t, test.status, got.Status, test.path)
		require.Equal(t, test.code, got.Code, test.path)
	}
}

func (s scenario) url(path string) string { return "http://" + s.edge.Plain.Address + path }

// run runs the client, and returns what it prints.
func (s scenario) run(t *testing.T, j job) (got outcome) {
	t.Helper()
	j.Carriers, j.Block = s.try, 64<<10
	input, err := json.Marshal(j)
	require.NoError(t, err)
	ctx, cancel := contextWithTimeout(t)
	defer cancel()
	cmd := exec.CommandContext(ctx, lab.FindBinary(t, s.command[0]), append(s.command[1:len(s.command):len(s.command)], string(input))...)
	var errors strings.Builder
	cmd.Stderr = &errors
	output, err := cmd.Output()
	require.NoError(t, err, "%s", &errors)
	require.NoError(t, json.Unmarshal(output, &got), "%s", output)
	if s.try != nil && got.End != "refused" {
		require.Equal(t, s.try[0], got.Carrier)
	}
	return got
}
