package broken

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A diagnosis is what `preflight check --json` says of a path.
type diagnosis struct {
	Works  bool
	FarEnd *struct {
		Request struct {
			Path, Client string
			TLS          bool
		}
		Added, Removed []string
		Rewritten      string
	} `json:"far_end"`
	Findings []struct {
		Name, Detail, Change string
		OK                   bool
	}
	Verdict *struct {
		Code, Certainty, Hop, Cause, Change, Next string
		Else, Config                              []string
	}
}

// checkTimeout bounds each step of a check. It is longer than every timeout of the paths.
const checkTimeout = 3 * time.Second

// runCheck runs the command on a path, with the flags that do what p.dial does.
func (p brokenPath) runCheck(t *testing.T, k *kit, program string, flags ...string) (d diagnosis, text string) {
	t.Helper()
	address, proxy := k.addresses(t, p)
	dialer := &preflight.PreflightDialer{Header: http.Header{"X-Token": {secretHeader}}, HandshakeTimeout: checkTimeout}
	if p.dial != nil {
		p.dial(k, dialer)
	}
	if p.keep {
		first, err := (&preflight.PreflightDialer{Path: path}).DialContext(t.Context(), "tcp", address)
		require.NoError(t, err)
		defer first.Close()
	}
	if p.again {
		(&preflight.PreflightDialer{Path: path}).DialContext(t.Context(), "tcp", address)
	}
	if p.settle {
		lab.WaitUntil(t, "the health check finds the server down", func() bool {
			_, err := (&preflight.PreflightDialer{Path: path}).DialContext(t.Context(), "tcp", address)
			return err != nil && code(err.Error()) == p.code
		})
	}
	scheme := "http"
	args := append([]string{"check", "--json", "--timeout", dialer.HandshakeTimeout.String()}, flags...)
	if dialer.TLSConfig != nil {
		scheme = "https"
		if dialer.TLSConfig.RootCAs.Equal(k.roots) {
			args = append(args, "--ca", k.file("root.crt"))
		}
		if dialer.TLSConfig.ServerName != "" {
			args = append(args, "--server-name", dialer.TLSConfig.ServerName)
		}
		if get := dialer.TLSConfig.GetClientCertificate; get != nil {
			c, err := get(nil)
			require.NoError(t, err)
			pair, err := os.ReadFile(k.file("self.crt"))
			require.NoError(t, err)
			block, _ := pem.Decode(pair)
			require.Equal(t, block.Bytes, c.Certificate[0])
			args = append(args, "--cert", k.file("self.crt"), "--key", k.file("self.key"))
		}
	}
	for name, values := range dialer.Header {
		args = append(args, "--header", name+": "+values[0])
	}
	for _, carrier := range dialer.Carriers {
		args = append(args, "--carrier", string(carrier))
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "HTTPS_PROXY=", "https_proxy=", "NO_PROXY=")
	host := address
	if proxy != "" {
		u, err := url.Parse(p.forward + proxy)
		require.NoError(t, err)
		cmd.Env = append(cmd.Env, "HTTPS_PROXY="+u.String())
		// Package net/http uses no proxy for a loopback address. The forward proxies know
		// that this name is one.
		_, port, _ := net.SplitHostPort(address)
		host = "127.1:" + port
	}
	args = append(args, scheme+"://"+host+path+"?token="+secretQuery)
	ctx, cancel := context.WithTimeout(t.Context(), 2*lab.Timeout)
	defer cancel()
	run := exec.CommandContext(ctx, program, args...)
	run.Env = cmd.Env
	var out, errors bytes.Buffer
	run.Stdout, run.Stderr = &out, &errors
	err := run.Run()
	text = out.String() + errors.String()
	require.NotContains(t, text, secretHeader)
	require.NotContains(t, text, secretQuery)
	if _, isExit := err.(*exec.ExitError); err != nil && !isExit {
		require.NoError(t, err)
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &d), text)
	return d, text
}

// beyondFlags are paths that need a setting of a dialer that the command has no flag for.
func beyondFlags(k *kit, p brokenPath) bool {
	d := &preflight.PreflightDialer{Header: make(http.Header)}
	if p.dial != nil {
		p.dial(k, d)
	}
	return d.TunnelTLSConfig != nil || d.TLSConfig != nil && d.TLSConfig.MaxVersion != 0
}

// The least that the doctor must find. See TestDoctor.
const (
	leastRight      = 180 // of all
	leastUsualRight = 20  // of the most usual ones
	mostMisleading  = 0
	mostLost        = 5 // of those in rightFile: a slow machine makes some verdicts less certain
)

// TestDoctor checks each path by the command, and grades its verdict. Without the build tag
// doctor it takes the most usual paths alone, because all of them take minutes.
//
//   - right: it names the hop, the true cause and what to change.
//   - among: the true cause is among the others that it names.
//   - missing: it names no cause, or says that it is only possible.
//   - misleading: it names a wrong cause, and not the true one.
func TestDoctor(t *testing.T) {
	k := startKit(t, paths)
	program := lab.BuildCommand(t)
	count, usualRight, all := make(map[string]int), 0, 0
	var right strings.Builder
	var rows strings.Builder
	for _, p := range paths {
		if beyondFlags(k, p) || !everyPath && !p.usual {
			continue
		}
		all++
		t.Run(p.name, func(t *testing.T) {
			want, ok := expectations[p.name]
			require.True(t, ok, "nobody has said what is right for it")
			d, text := p.runCheck(t, k, program)
			t.Log(text)
			require.NotNil(t, d.Verdict)
			grade := want.grade(d)
			count[grade]++
			if grade == "right" && !p.varies {
				right.WriteString(p.name + "\n")
			}
			if p.usual && grade == "right" {
				usualRight++
			}
			fmt.Fprintf(&rows, "%-10s %-9s %-20s %s\n", grade, d.Verdict.Certainty, d.Verdict.Code, p.name)
		})
	}
	t.Logf("\n%s\n%d paths: %v; of the most usual %d right", rows.String(), all, count, usualRight)
	if count["right"]+count["among"]+count["missing"]+count["misleading"] < all { // one failed, or -run has chosen some
		return
	}
	if everyPath {
		require.GreaterOrEqual(t, count["right"], leastRight)
		if *update {
			require.NoError(t, os.WriteFile(rightFile, []byte(right.String()), 0o644))
		}
		lost := readRight(t)
		for name := range strings.Lines(right.String()) {
			delete(lost, strings.TrimSuffix(name, "\n"))
		}
		require.LessOrEqual(t, len(lost), mostLost, "run with -update, and then TestBroken with -update: %v", lost)
	}
	require.GreaterOrEqual(t, usualRight, leastUsualRight)
	require.LessOrEqual(t, count["misleading"], mostMisleading)
}

// rightFile names the paths of which the doctor finds the cause.
var rightFile = filepath.Join("testdata", "check.txt")

// readRight returns the names in rightFile.
func readRight(t *testing.T) map[string]bool {
	text, err := os.ReadFile(rightFile)
	require.NoError(t, err)
	right := make(map[string]bool)
	for name := range strings.Lines(string(text)) {
		right[strings.TrimSuffix(name, "\n")] = true
	}
	return right
}

func (want expectation) grade(d diagnosis) string {
	v := d.Verdict
	changes := v.Change + strings.Join(v.Config, "\n")
	switch {
	case slices.Contains(strings.Fields(want.codes), v.Code) && strings.Contains(v.Hop, want.hop) && strings.Contains(changes, want.line):
		return "right"
	case want.other != "" && v.Certainty != "certain" && strings.Contains(v.Cause+strings.Join(v.Else, "\n"), want.other):
		return "among"
	case v.Certainty == "possible":
		return "missing"
	}
	return "misleading"
}
