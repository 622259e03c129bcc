package broken

import (
	"bufio"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// farPaths lead to `preflight check --listen`, which stands in place of the server.
var farPaths = []brokenPath{
	{name: "right", program: "nginx", site: "location / { proxy_pass http://{far}; " + upgrades + "}"},
	{name: "TLS to the server", program: "nginx", site: "location / { proxy_pass https://{far}; " + upgrades + "}"},
	{name: "another path", program: "nginx", site: "location /client/ { proxy_pass http://{far}/; " + upgrades + "proxy_set_header X-Forwarded-For $remote_addr; }"},
	{name: "no Authorization", program: "nginx", site: "location / { proxy_pass http://{far}; proxy_set_header Authorization \"\"; " + upgrades + "}", dial: with("Authorization", "Bearer "+secretHeader)},
	{name: "a PROXY header", program: "HAProxy", site: "server s {far} send-proxy-v2"},
	{name: "no upgrade", program: "nginx", site: "location / { proxy_pass http://{far}; }"},
}

// startFarEnd runs the far end of checks.
func startFarEnd(t *testing.T, program string) (address string) {
	t.Helper()
	return startListening(t, program, "check", "--listen", "127.0.0.1:0")
}

// startListening runs a command that logs its address first.
func startListening(t *testing.T, program string, args ...string) (address string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	log, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(log).ReadString('\n')
	require.NoError(t, err)
	match := regexp.MustCompile(`address=(\S+)`).FindStringSubmatch(line)
	require.NotNil(t, match, line)
	return match[1]
}

// TestFarEnd tells apart by the far end what cannot be told apart from the near one.
func TestFarEnd(t *testing.T) {
	program := lab.BuildCommand(t)
	k := startKit(t, farPaths, map[string]string{"far": startFarEnd(t, program)})
	checks := map[string]func(t *testing.T, d diagnosis){
		"right": func(t *testing.T, d diagnosis) {
			require.True(t, d.Works)
			require.Equal(t, "server-at-fault", d.Verdict.Code)
			require.Empty(t, d.FarEnd.Removed)
			require.Empty(t, d.FarEnd.Rewritten)
		},
		"TLS to the server": func(t *testing.T, d diagnosis) {
			require.True(t, d.FarEnd.Request.TLS)
			require.Equal(t, "far-tls", d.Verdict.Code)
			require.Contains(t, d.Verdict.Change, "proxy_pass http://")
		},
		"another path": func(t *testing.T, d diagnosis) {
			require.Equal(t, path+" arrives as /amps/json", d.FarEnd.Rewritten)
			require.Contains(t, d.FarEnd.Added, "X-Forwarded-For")
			require.Equal(t, "127.0.0.1", d.FarEnd.Request.Client)
		},
		"no Authorization": func(t *testing.T, d diagnosis) { require.Contains(t, d.FarEnd.Removed, "Authorization") },
		"a PROXY header": func(t *testing.T, d diagnosis) {
			require.Equal(t, "far-proxy-header", d.Verdict.Code)
			require.Contains(t, d.FarEnd.Request.Client, "127.0.0.1:")
		},
		"no upgrade": func(t *testing.T, d diagnosis) {
			require.Equal(t, "http10", d.Verdict.Code)
			require.NotNil(t, d.FarEnd)
		},
	}
	for _, p := range farPaths {
		t.Run(p.name, func(t *testing.T) {
			d, text := p.runCheck(t, k, program)
			t.Log(text)
			require.NotNil(t, d.Verdict)
			checks[p.name](t, d)
		})
	}
}

// TestLimits finds what a tunnel bears, through proxies that end a silent one after a second.
func TestLimits(t *testing.T) {
	program := lab.BuildCommand(t)
	paths := append(idlePaths[:len(idlePaths):len(idlePaths)], farPaths[0])
	k := startKit(t, paths, map[string]string{"far": startFarEnd(t, program)})
	for _, p := range idlePaths {
		t.Run(p.name, func(t *testing.T) {
			d, text := p.runCheck(t, k, program, "--idle", lab.Timeout.String())
			t.Log(text)
			idle := d.Findings[len(d.Findings)-1]
			require.Equal(t, "idle", idle.Name)
			require.False(t, idle.OK)
			require.Contains(t, idle.Detail, "a limit for silence")
			product, _, _ := strings.Cut(p.name, " ")
			require.Contains(t, idle.Change, product)
		})
	}
	t.Run("sizes and half-close", func(t *testing.T) {
		d, text := farPaths[0].runCheck(t, k, program, "--sizes", "--half-close")
		t.Log(text)
		ok := map[string]bool{}
		for _, f := range d.Findings {
			ok[f.Name] = f.OK
		}
		// nginx takes the end of one direction for the end of a raw tunnel.
		require.Equal(t, map[string]bool{"header-limit": true, "sizes": true, "half-close": false}, ok)
		require.Contains(t, d.Findings[2].Detail, "passes by framed, websocket")
	})
}

// TestUnsteady checks a path that leads every second request to another web server.
func TestUnsteady(t *testing.T) {
	p := brokenPath{name: "two servers", program: "HAProxy", site: "balance roundrobin\nserver a {good}\nserver b {page}"}
	d, text := p.runCheck(t, startKit(t, []brokenPath{p}), lab.BuildCommand(t))
	t.Log(text)
	require.NotNil(t, d.Verdict)
	require.Equal(t, "unsteady", d.Verdict.Code)
	require.Contains(t, d.Verdict.Hop, "behind HAProxy")
	require.Contains(t, d.Verdict.Change, "`server` lines")
}

// TestPathForm checks a path to "preflight serve" that nginx gives two slashes.
func TestPathForm(t *testing.T) {
	program := lab.BuildCommand(t)
	p := brokenPath{name: "two slashes", program: "nginx", site: "location /client { proxy_pass http://{serve}/; " + upgrades + "}"}
	serve := startListening(t, program, "serve", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--allow-all", "--require-upgrade")
	d, text := p.runCheck(t, startKit(t, []brokenPath{p}, map[string]string{"serve": serve}), program)
	t.Log(text)
	require.Equal(t, "other-route", d.Verdict.Code)
	require.Equal(t, "nginx", d.Verdict.Hop)
	require.Contains(t, d.Verdict.Change, "end with a slash, or neither does")
}
