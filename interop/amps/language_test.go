package amps

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A language has an AMPS client, and a program in clients that uses it.
type language struct {
	name      string
	command   func(t *testing.T) []string // returns the command line of the program
	webSocket bool                        // it uses WebSocket instead of TCP with preflight
	refused   []string                    // its events after an answer that is no 101
	large     []string                    // its arguments for large messages
}

// installed is the folder where test.sh installs what the programs need.
const installed = "../../.build/amps"

var languages = []language{
	{
		name: "python",
		command: func(t *testing.T) []string {
			return []string{findInstalled(t, "Python", "python/bin/python"), "clients/python/client.py"}
		},
		refused: []string{"disconnected", "failed: ConnectionRefusedException: Failed to upgrade connection"},
		large:   []string{"batch=4194304"}, // otherwise it crashes at a frame above 16 KiB
	},
	{
		name: "java",
		command: func(t *testing.T) []string {
			jar := findInstalled(t, "Java", "java/amps-client-*.jar")
			java, javac := lab.FindBinary(t, "java"), lab.FindBinary(t, "javac")
			classes := compile(t, "clients/java/AmpsClient.java", []string{jar}, func(source, out string) []string {
				return []string{javac, "-d", out, "-cp", jar, source}
			})
			// A program runs for a second or two. These options make it start faster.
			return []string{java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", jar + ":" + classes, "AmpsClient"}
		},
		refused: []string{"failed: ConnectionRefusedException: Unable to connect to AMPS at 127.0.0.1"},
	},
	{
		name: "cpp",
		command: func(t *testing.T) []string {
			sources := findInstalled(t, "C++", "cpp/amps*client-*/src/cpp")
			library, err := filepath.Glob(sources + "/src/*.c")
			require.NoError(t, err)
			gcc := lab.FindBinary(t, "gcc")
			return []string{compile(t, "clients/cpp/client.cpp", library, func(source, out string) []string {
				args := []string{gcc, "-o", out, "-isystem", sources + "/include", "-I", sources + "/src", "-x", "c"}
				args = append(args, library...)
				return append(args, "-x", "c++", source, "-lstdc++", "-lpthread", "-ldl")
			})}
		},
		refused: []string{"disconnected", "failed: ConnectionRefusedException: Failed to upgrade connection"},
		large:   []string{"batch=4194304"}, // as in Python, whose client uses this one
	},
	{
		name: "js",
		command: func(t *testing.T) []string {
			findInstalled(t, "JavaScript", "js/node_modules/amps")
			return []string{lab.FindBinary(t, "node"), "clients/js/client.js"}
		},
		webSocket: true,
		refused:   []string{"failed: 1006: connection failed"},
	},
}

// compile runs a compiler and returns its output file. It does nothing if the file exists
// already. The name of the file has a hash of what the file is made from.
func compile(t *testing.T, source string, libraries []string, args func(source, out string) []string) (out string) {
	t.Helper()
	text, err := os.ReadFile(source)
	require.NoError(t, err)
	of := sha256.New()
	of.Write(text)
	for _, part := range slices.Concat(libraries, args("", "")) {
		of.Write([]byte(part + "\n"))
	}
	dir := filepath.Join(installed, "programs")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	name := filepath.Join(dir, filepath.Base(source)+"-")
	out = name + hex.EncodeToString(of.Sum(nil))[:16]
	if _, err := os.Stat(out); err == nil {
		return out
	}
	old, err := filepath.Glob(name + "*")
	require.NoError(t, err)
	temporary, err := os.MkdirTemp(dir, "compiling-")
	require.NoError(t, err)
	defer os.RemoveAll(temporary)
	made := filepath.Join(temporary, "made")
	command := args(source, made)
	output, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.NoError(t, os.Rename(made, out))
	for _, program := range old {
		require.NoError(t, os.RemoveAll(program))
	}
	return out
}

// A conversation is a running program.
type conversation struct {
	t      *testing.T
	events chan event
	end    chan error
	cancel context.CancelFunc
}

// An event is a line that a program prints.
type event struct {
	Event       string
	Error       string // of failed
	Message     string
	Data        string // of message
	Unpersisted int    // of published
	GroupBegin  int    `json:"group_begin"` // of answered
	SOW         int
	GroupEnd    int `json:"group_end"`
}

// converse starts a program. The end of the test ends it.
func converse(t *testing.T, l language, args ...string) *conversation {
	t.Helper()
	command := append(l.command(t), args...)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stderr = t.Output()
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "NODE_PATH="+installed+"/js/node_modules")
	for _, arg := range args {
		if ca, ok := strings.CutPrefix(arg, "ca="); ok {
			cmd.Env = append(cmd.Env, "NODE_EXTRA_CA_CERTS="+ca) // Node.js reads it at its start
		}
	}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := &conversation{t: t, events: make(chan event, 64), end: make(chan error, 1), cancel: cancel}
	go func() {
		defer close(c.end)
		defer close(c.events)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				e = event{Event: "no event", Message: lines.Text()}
			}
			c.events <- e
		}
		c.end <- cmd.Wait()
	}()
	t.Cleanup(func() {
		cancel()
		for range c.events {
		}
		<-c.end
	})
	return c
}

// next returns the next event.
func (c *conversation) next() event {
	c.t.Helper()
	select {
	case e, ok := <-c.events:
		if !ok {
			require.FailNow(c.t, "the client has ended", "%v", <-c.end)
		}
		return e
	case <-time.After(timeout):
		require.FailNow(c.t, "the client prints nothing")
		return event{}
	}
}

// expect requires events with these names, and returns the last one.
func (c *conversation) expect(names ...string) (e event) {
	c.t.Helper()
	for _, name := range names {
		e = c.next()
		require.Equal(c.t, name, e.Event, "%+v", e)
	}
	return e
}

// finish requires that the program ends without another event, and with success.
func (c *conversation) finish() {
	c.t.Helper()
	require.NoError(c.t, c.ended())
}

// ended requires that the program ends without another event, and returns its error.
func (c *conversation) ended() error {
	c.t.Helper()
	select {
	case e, ok := <-c.events:
		require.False(c.t, ok, "another event: %+v", e)
		return <-c.end
	case <-time.After(timeout):
		require.FailNow(c.t, "the client does not end")
		return nil
	}
}
