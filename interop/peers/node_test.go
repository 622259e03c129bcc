package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// modules is the folder in which test.sh installs the package ws.
const modules = "../../.build/peers/node_modules"

// node returns a command that runs a script of testdata. It ends with the test.
func node(t *testing.T, script string, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := os.Stat(filepath.Join(modules, "ws")); err != nil {
		t.Fatalf("%v: ./test.sh installs it", err)
	}
	absolute, err := filepath.Abs(modules)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), lab.Timeout)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, lab.FindBinary(t, "node"), append([]string{filepath.Join("testdata", script)}, args...)...)
	cmd.Env = append(os.Environ(), "NODE_PATH="+absolute)
	cmd.Stderr = t.Output()
	return cmd
}

// A nodePeer is a process that runs peer.js.
type nodePeer struct {
	reports chan report
	port    int // the port of a server
}

func startNode(t *testing.T, gate <-chan struct{}, args ...string) *nodePeer {
	t.Helper()
	cmd := node(t, "peer.js", args...)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &nodePeer{reports: make(chan report, 1)}
	lines := bufio.NewScanner(out)
	server := args[0] == "server"
	if server {
		require.True(t, lines.Scan(), "the server does not start")
		var at struct{ Port int }
		require.NoError(t, json.Unmarshal(lines.Bytes(), &at))
		p.port = at.Port
	}
	ended := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		defer close(ended)
		defer close(p.reports)
		for lines.Scan() {
			var r report
			if json.Unmarshal(lines.Bytes(), &r) != nil {
				t.Errorf("Node printed %q", lines.Text())
			}
			p.reports <- r
		}
		cmd.Wait()
	})
	work.Go(func() {
		select {
		case <-gate:
			io.WriteString(in, "continue\n")
		case <-ended:
		}
	})
	t.Cleanup(func() {
		in.Close() // ends a server
		for range p.reports {
		}
		work.Wait()
	})
	return p
}
