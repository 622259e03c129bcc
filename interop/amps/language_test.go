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

	"github.com/stretchr/testify/require"
)

// A language is one of AMPS's clients, with its program in clients.
type language struct {
	name      string
	command   func(t *testing.T) []string // how the program runs
	webSocket bool                        // instead of TCP and preflight
	refused   []string                    // what it shows of an answer that is no 101
	large     []string                    // what it needs for large messages
}

// installed is where test.sh puts what the programs need.
const installed = "../../.build/amps"

var languages = []language{
	{
		name: "python",
		command: func(t *testing.T) []string {
			return []string{find(t, "AMPS's Python client", installed+"/python/bin/python"), "clients/python/client.py"}
		},
		refused: []string{"disconnected", "failed: ConnectionRefusedException: Failed to upgrade connection"},
		large:   []string{"batch=4194304"}, // else it dies of a frame above 16 KiB
	},
	{
		name: "java",
		command: func(t *testing.T) []string {
			jar := find(t, "AMPS's Java client", installed+"/java/amps-client-*.jar")
			java, javac := find(t, "Java", "java"), find(t, "the compiler of Java", "javac")
			classes := compile(t, "clients/java/AmpsClient.java", []string{jar}, func(source, out string) []string {
				return []string{javac, "-d", out, "-cp", jar, source}
			})
			// They run for a second or two: what makes them start sooner.
			return []string{java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", jar + ":" + classes, "AmpsClient"}
		},
		refused: []string{"failed: ConnectionRefusedException: Unable to connect to AMPS at 127.0.0.1"},
	},
	{
		name: "cpp",
		command: func(t *testing.T) []string {
			sources := find(t, "AMPS's C++ client", installed+"/cpp/amps*client-*/src/cpp")
			library, err := filepath.Glob(sources + "/src/*.c")
			require.NoError(t, err)
			gcc := find(t, "the compiler of C++", "gcc")
			return []string{compile(t, "clients/cpp/client.cpp", library, func(source, out string) []string {
				args := []string{gcc, "-o", out, "-isystem", sources + "/include", "-I", sources + "/src", "-x", "c"}
				args = append(args, library...)
				return append(args, "-x", "c++", source, "-lstdc++", "-lpthread", "-ldl")
			})}
		},
		refused: []string{"disconnected", "failed: ConnectionRefusedException: Failed to upgrade connection"},
		large:   []string{"batch=4194304"}, // as in Python, which builds on it
	},
	{
		name: "js",
		command: func(t *testing.T) []string {
			find(t, "AMPS's JavaScript client", installed+"/js/node_modules/amps")
			return []string{find(t, "Node.js", "node"), "clients/js/client.js"}
		},
		webSocket: true,
		refused:   []string{"failed: 1006: connection failed"},
	},
}

// compile runs a compiler, unless what it makes is there already: its name tells
// what it is made of.
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

// A conversation is a run of a program.
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

// converse starts a program, which ends with the test at the latest.
func converse(t *testing.T, l language, args ...string) *conversation {
	t.Helper()
	command := append(l.command(t), args...)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stderr = t.Output()
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "NODE_PATH="+installed+"/js/node_modules")
	for _, arg := range args {
		if ca, ok := strings.CutPrefix(arg, "ca="); ok {
			cmd.Env = append(cmd.Env, "NODE_EXTRA_CA_CERTS="+ca) // it is read at the start
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
	case <-time.After(patience):
		require.FailNow(c.t, "the client does not go on")
		return event{}
	}
}

// expect takes events with these names, and returns the last one.
func (c *conversation) expect(names ...string) (e event) {
	c.t.Helper()
	for _, name := range names {
		e = c.next()
		require.Equal(c.t, name, e.Event, "%+v", e)
	}
	return e
}

// finish expects that the program ends, without another event, and well.
func (c *conversation) finish() {
	c.t.Helper()
	require.NoError(c.t, c.ended())
}

func (c *conversation) ended() error {
	c.t.Helper()
	select {
	case e, ok := <-c.events:
		require.False(c.t, ok, "another event: %+v", e)
		return <-c.end
	case <-time.After(patience):
		require.FailNow(c.t, "the client does not end")
		return nil
	}
}
